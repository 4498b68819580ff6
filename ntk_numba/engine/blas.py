"""The BLAS that Numba's np.dot calls (SciPy's)."""

from functools import cache

from threadpoolctl import ThreadpoolController


@cache
def threadpools() -> ThreadpoolController:
    """The process's BLAS libraries; looked up once, which takes longer than limiting them."""
    import scipy.linalg.cython_blas  # noqa: F401  so that SciPy's BLAS is loaded and found

    return ThreadpoolController()
