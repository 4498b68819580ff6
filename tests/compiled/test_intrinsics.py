import numba
import numpy as np

from ntk_numba.compiled.intrinsics import fma


@numba.njit
def fused(a, b, c):
    return fma(a, b, c)


def test_fma_rounds_once():
    a = 1 + 2.0**-52
    assert fused(a, a, -(1 + 2.0**-51)) == 2.0**-104
    a32 = np.float32(1 + 2.0**-23)
    assert fused(a32, a32, -np.float32(1 + 2.0**-22)) == np.float32(2.0**-46)
