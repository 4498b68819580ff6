"""Arrays that begin at a page of memory."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

PAGE = 4096  # bytes; direct writes to common disks need no larger alignment


def aligned(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return a new array that begins at a page, as whole cache lines and direct writes require."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + PAGE, np.uint8)
    start = -raw.ctypes.data % PAGE
    return raw[start : start + size].view(dtype).reshape(shape)
