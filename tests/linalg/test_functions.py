"""Functions of a matrix that gradient flow needs, against matrix exponentials."""

import numpy as np
import pytest
import scipy.linalg
from marks import marked

from ntk_numba.errors import InvalidValueError
from ntk_numba.linalg import functions

RNG = np.random.default_rng(5)
N = 120
Q, _ = np.linalg.qr(RNG.standard_normal((N, N)))
K = (Q * (50 / np.arange(1.0, N + 1) ** 1.5)) @ Q.T
Y = RNG.standard_normal((N, 3))


def exact(matrix, time, columns):
    """Return u(τ) of u′ = V − A u by the exponential of [[−A, I], [0, 0]]."""
    size = len(matrix)
    whole = np.zeros((2 * size, 2 * size))
    whole[:size, :size], whole[:size, size:] = -matrix, np.eye(size)
    return scipy.linalg.expm(whole * time)[:size, size:] @ columns


def off(matrix, found, wanted, columns):
    return (np.linalg.norm(matrix @ (found - wanted), axis=0)
            / np.linalg.norm(columns, axis=0)).max()  # fmt: skip


@pytest.mark.parametrize(
    ("time", "shift"),
    marked(
        pytest.mark.slow,
        [(1.0, 0.3), (1.0, 0.0), (0.01, 0.0), (0.01, 0.3), (100.0, 0.3), (100.0, 0.0)],
    ),
)
def test_products_and_solutions(shift, time):
    matrix = K + shift * np.eye(N)
    wanted = exact(matrix, time, Y)
    bend = functions.BEND * time
    factor = scipy.linalg.cho_factor(matrix + np.eye(N) / bend)
    for tolerance in (1e-4, 1e-8):
        ways = (
            functions.by_products(K, shift, time, Y, tolerance=tolerance, memory=1 << 30),
            functions.by_solutions(
                lambda v: scipy.linalg.cho_solve(factor, v), bend, time, Y, tolerance=tolerance
            ),
        )
        for found in ways:
            assert off(matrix, found.columns, wanted, Y) <= tolerance
            assert found.error <= tolerance and 0 < found.passes < 25


@pytest.mark.slow
def test_little_memory_takes_several_steps():
    wanted = exact(K, 20.0, Y)
    large = functions.by_products(K, 0.0, 20.0, Y, tolerance=1e-6, memory=1 << 30)
    small = functions.by_products(K, 0.0, 20.0, Y, tolerance=1e-6, memory=8 * N * 11 * 14)
    assert small.passes > large.passes
    assert off(K, small.columns, wanted, Y) <= 1e-6
    with pytest.raises(InvalidValueError, match=r"memory=.* is too little for 3 columns"):
        functions.by_products(K, 0.0, 20.0, Y, tolerance=1e-6, memory=8 * N * 11 * 7)


@pytest.mark.slow
def test_columns_of_any_scale_and_of_zeros():
    columns = Y * [1e200, 0.0, 1e-200]
    for call in (
        lambda c: functions.by_products(K, 0.1, 2.0, c, tolerance=1e-9, memory=1 << 30),
        lambda c: functions.by_solutions(
            lambda v: np.linalg.solve(K + 5.1 * np.eye(N), v), 0.2, 2.0, c, tolerance=1e-9
        ),
    ):
        found = call(columns).columns
        wanted = exact(K + 0.1 * np.eye(N), 2.0, Y)
        assert found[:, 0] / 1e200 == pytest.approx(wanted[:, 0], rel=1e-7)
        assert not found[:, 1].any()
        assert found[:, 2] * 1e200 == pytest.approx(wanted[:, 2], rel=1e-7)
        assert call(0 * Y) == (pytest.approx(np.zeros((N, 3))), 0, 0)
    assert not functions.by_products(K, 0.1, 0.0, Y, tolerance=0.1, memory=1 << 30).columns.any()


def test_the_zero_matrix_and_its_gain():
    found = functions.by_products(np.zeros((N, N)), 0.0, 2.0, Y, tolerance=1e-9, memory=1 << 30)
    assert found.columns == pytest.approx(2 * Y, rel=1e-14)
    assert functions.gain(np.array([0.0, 1e-300, 2.0]), 3.0) == pytest.approx(
        [3, 3, -np.expm1(-6) / 2], rel=1e-15
    )
