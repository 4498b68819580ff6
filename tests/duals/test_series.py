"""The certified series: what it refuses, and the kernels of awkward rows."""

import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba import activations


def test_what_cannot_be_had_says_what_can():
    with pytest.raises(ValueError, match=r"activation tanh: at variances up to 32 .* tanh:"):
        activations.get("tanh").dual(30)
    with pytest.raises(ValueError, match=r"scale the data or w_std down$"):
        activations.get("tanh").dual(1e4)
    with pytest.raises(ValueError, match="ask for softsign:"):
        activations.get("softsign:1e-10").dual(1.0)
    assert activations.get("softsign").dual(4.0).bounds[1] <= 3e-3
    with pytest.raises(ValueError, match="tolerance must be"):
        activations.get("tanh:1e-14")


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_gram_of_awkward_rows(dtype):
    x = np.random.default_rng(0).standard_normal((40, 3)).astype(dtype)
    x[1], x[2], x[3], x[4] = x[0], -x[0], 0, x[0] * (1 + 1e-6)
    k = nk.gram(nk.MLP(3, "tanh", 0.7), x, dtype=dtype)
    for matrix in k:
        assert np.isfinite(matrix).all() and (matrix == matrix.T).all()
        assert (matrix[0] == matrix[1]).all() and (matrix[3] == 0).all()
        np.testing.assert_allclose(matrix[2], -matrix[0], atol=1e-6 * abs(matrix[0, 0]))
