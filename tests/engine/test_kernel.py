import hashlib
import platform

import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba.engine.kernel import NUMERICS

# Of the digits' first 300 rows: the bits that version 1 of the arithmetic gives, with AVX2 as with
# AVX-512. If they change, NUMERICS goes up, and these are made anew.
BITS = {
    1: {
        "float64": "66f6d8df425b79fe",
        "float32": "c2ce1db896a00023",
    }
}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="extended precision is another one here")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_bits_are_those_of_the_numerical_version(digits, dtype):
    digest = hashlib.sha256()
    for net in (nk.MLP(4, b_std=0.1), nk.MLP(3, ["abs", "leaky_relu:0.2"], [1, 1.2, 0.7])):
        k = nk.gram(net, np.asarray(digits[:300], float), dtype=dtype, layers="all")
        for array in k:
            digest.update(np.ascontiguousarray(array).tobytes())
    assert digest.hexdigest()[:16] == BITS[NUMERICS][dtype]
