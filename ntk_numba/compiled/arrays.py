"""Arrays that begin at a page of memory."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

PAGE = 4096  # bytes; enough for every disk in use


def aligned(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """A new array that begins at a page: a cache line for loads, what direct writes ask for."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + PAGE, np.uint8)
    start = -raw.ctypes.data % PAGE
    return raw[start : start + size].view(dtype).reshape(shape)
