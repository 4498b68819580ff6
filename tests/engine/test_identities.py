"""What is bit-identical for every activation: transposition, equal samples, multiples, and how.

ARCHITECTURE.md, "Determinism", has the list. Files, parts and restarts compute the same tiles as
results in memory; tests/cluster and tests/compute compare them.
"""

import numpy as np
import pytest
from marks import marked
from plain import SIGMA

import ntk_numba as nk

# One activation for each loop
EXAMPLES = ("relu", "relu6", "elu:0.7", "rectified_monomial:3", "sign", "erf:1.5,0.7,0.2", "gelu",
         "sin:2,1.5,0.3", "gaussian:2,-0.4", "gabor", "monomial:3", "tanh:1e-3", "rbf", "hard_tanh",
         "exp")  # fmt: skip
ALL = {*SIGMA, *EXAMPLES, "piecewise_linear:0.5,1,-1,0.5,1,0.25,2,-1"}
TYPES = [np.float64, np.float32]


def awkward_samples(dtype):
    """Return samples with copies, opposites, multiples, near duplicates and zeros among them."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((140, 5)) * rng.choice([0.3, 1.0], (140, 1))
    x = (np.round(x * 64) / 64).astype(dtype)  # so that multiples by small integers are exact
    x[1], x[2], x[3], x[4], x[5] = x[0], -x[0], 3 * x[0], -0.75 * x[0], 0
    x[6] = x[7] * dtype(1 + 1e-6)
    x[70], x[139], x[138] = x[0], -x[0], 0
    return x


def same(first, second):
    return all((a == b).all() for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", marked(pytest.mark.slow, sorted(ALL), EXAMPLES))
@pytest.mark.parametrize("dtype", marked(pytest.mark.slow, TYPES))
def test_the_samples_of_a_pair_may_change_places(name, dtype):
    x = awkward_samples(dtype)
    for b_std in (0.0, 0.2):
        # Of larger variances, exp(exp(2q)) is too large for float32.
        net = nk.MLP(3, name, 0.5 if name == "exp" else 0.8, b_std)
        k = nk.gram(net, x, layers="all")
        assert same(nk.gram(net, x, x, layers="all"), k)
        z = x[60:] * dtype(0.5)
        z[3] = x[0]
        across, back = nk.gram(net, x, z, layers="all"), nk.gram(net, z, x, layers="all")
        assert same(across, [b.transpose(0, 2, 1) for b in back])
        alone = nk.diagonal(net, x, layers="all")
        for matrix, diagonal in zip(k, alone, strict=True):
            assert (matrix == matrix.transpose(0, 2, 1)).all()
            assert (np.diagonal(matrix, axis1=1, axis2=2) == diagonal).all()
            for equals in ((0, 1, 70), (2, 139), (5, 138)):
                for i in equals:
                    assert (matrix[:, i] == matrix[:, equals[0]]).all()
        assert (across.ntk[:, 0] == across.ntk[:, 1]).all()
        assert same(nk.gram(net, x), [matrix[-1] for matrix in k])
        assert same(nk.gram(net, x, layers="all", threads=1), k)


@pytest.mark.parametrize("dtype", TYPES)
def test_multiples_have_equal_or_opposite_directions(dtype):
    """The angle is exactly 0 or π, so that sign sees no difference."""
    rng = np.random.default_rng(0)
    x = (rng.integers(-40, 40, (30, 9)) / 64).astype(dtype)
    x[0] = 0
    factors = np.array([2, 3, 0.5, 5, 1.125, 1000, 2.0**-100], dtype)
    rows = np.concatenate([x, *(f * x for f in factors), *(-f * x for f in factors)])
    for depth in (2, 3):
        k = nk.gram(nk.MLP(depth, "sign", 1.0, 0.0), rows)
        one = k.nngp[1, 1]
        for values in k:
            blocks = values.reshape(15, 30, 15, 30)
            for i in range(1, 30):
                signs = blocks[:, i, :, i] / one
                assert (abs(signs) == 1).all()
                assert (signs[:8, :8] == 1).all() and (signs[8:, 8:] == 1).all()
                assert (signs[:8, 8:] == -1).all() and (signs[8:, :8] == -1).all()
        assert (k.nngp[::30] == 0).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_inexact_multiples_are_within_rounding(dtype):
    x = np.random.default_rng(0).standard_normal((50, 7)).astype(dtype)
    eps = np.finfo(dtype).eps
    for factor in (0.1, 1e-3, -7.3):
        k = nk.gram(nk.MLP(2, "sign", 1.0, 0.0), x, dtype(factor) * x).nngp
        assert (abs(abs(np.diag(k)) - 1) <= 4 * np.sqrt(eps)).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_rows_of_tiny_numbers_have_directions(dtype):
    """Multiples are exact as long as no digit is below the smallest number of the dtype."""
    x = np.random.default_rng(0).integers(-40, 40, (20, 6)).astype(dtype)
    tiny = np.finfo(dtype).smallest_subnormal
    rows = np.concatenate([x, x * tiny, -3 * x * tiny])
    network = nk.MLP(2, "sign", 1.0, 0.0)
    signs = nk.gram(network, np.concatenate([x, 5 * x, -2 * x])).nngp
    if dtype == np.float32:  # the variances of float64 rows that small are 0
        assert (nk.gram(network, rows, dtype=np.float64).nngp != 0).any()
    blocks = signs.reshape(3, 20, 3, 20)
    assert all((abs(blocks[:, i, :, i]) == signs[i, i]).all() for i in range(20))


def test_near_opposites_keep_their_angle():
    """Only what cannot be told from an angle of π counts as π."""
    x = np.random.default_rng(0).standard_normal((1, 6))
    u = x / np.linalg.norm(x)
    across = np.array([[-u[0, 1], u[0, 0], 0, 0, 0, 0]])
    across /= np.linalg.norm(across)
    for angle in 10.0 ** -np.arange(2, 15):
        k = nk.gram(nk.MLP(2, "sign", 1.0, 0.0), u, -u + np.tan(angle) * across).nngp[0, 0]
        assert abs((1 + k) * np.pi / 2 / angle - 1) < 1e-15 / angle + 1e-9


@pytest.mark.parametrize("dtype", TYPES)
def test_subsets_and_orders_differ_by_rounding(dtype):
    """The centre of the unit vectors depends on the rows that it is computed from."""
    x = awkward_samples(dtype)
    net = nk.MLP(3, "relu", 1.0, 0.1)
    whole = nk.gram(net, x).ntk
    order = np.random.default_rng(1).permutation(len(x))
    scale = np.sqrt(np.outer(np.diag(whole), np.diag(whole)).astype(float))
    for rows in (order, np.arange(60), np.arange(0, 140, 3)):
        part = nk.gram(net, x[rows]).ntk
        assert (abs(part - whole[np.ix_(rows, rows)]) <= 100 * np.finfo(dtype).eps
                * scale[np.ix_(rows, rows)]).all()  # fmt: skip
        assert (np.diag(part) == np.diag(whole)[rows]).all()
