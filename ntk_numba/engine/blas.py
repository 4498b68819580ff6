"""What the tiles need to know of the BLAS that Numba calls (SciPy's)."""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from ntk_numba.jit import kernel

Floats = NDArray[np.floating]


@cache
def threadpools() -> ThreadpoolController:
    """The process's BLAS libraries; looked up once, which takes longer than limiting them."""
    import scipy.linalg.cython_blas  # noqa: F401  so that SciPy's BLAS is loaded and found

    return ThreadpoolController()


@kernel()
def _products(a: Floats, b: Floats, out: Floats) -> None:
    np.dot(a, b.T, out)


@cache
def product_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype in which the inner products of a result of `dtype` are taken.

    Equal samples must give equal rows, so an inner product must not depend on where in a tile it
    stands. BLAS does not promise that: OpenBLAS keeps it in float64 everywhere and in float32 with
    AVX-512, not with AVX2. So it is tried out, and where it fails in float32 the products are taken
    in float64, at twice the cost.
    """
    if dtype == np.float64:
        return np.dtype(np.float64)
    size, n0 = 128, 384
    a, b = np.sin(np.arange(n0, dtype=dtype)), np.cos(np.arange(n0, dtype=dtype))
    out = np.empty((size, size), dtype)
    with threadpools().limit(limits=1):
        _products(np.tile(a, (size, 1)), np.tile(b, (size, 1)), out)
    return np.dtype(dtype if np.ptp(out) == 0 else np.float64)
