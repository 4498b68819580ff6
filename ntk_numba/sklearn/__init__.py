"""The kernels for scikit-learn: a kernel, a regressor and a classifier.

Only this wing imports scikit-learn: ``pip install 'ntk_numba[sklearn]'``.
"""

try:
    from ntk_numba.sklearn.estimators import NTKClassifier, NTKRegressor
    from ntk_numba.sklearn.kernel import NTKKernel
except ImportError as error:
    if not (error.name or "").startswith("sklearn"):
        raise
    raise ModuleNotFoundError(
        "ntk_numba.sklearn needs scikit-learn 1.6 or newer: pip install 'ntk_numba[sklearn]'"
    ) from error

__all__ = ["NTKClassifier", "NTKKernel", "NTKRegressor"]
