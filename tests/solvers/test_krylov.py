"""The block Krylov space, and the products of tall matrices that it is made of."""

import numpy as np
import pytest

from ntk_numba.solvers import tall as tall_module
from ntk_numba.solvers.krylov import KrylovSpace
from ntk_numba.solvers.tall import tall


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def symmetric(rng, size):
    matrix = rng.standard_normal((size, size))
    return matrix + matrix.T


def whole(space, matrix):
    """Extend a space until it is invariant; return its basis."""
    while space.last.shape[1]:
        space.extend(matrix @ space.last)
    return np.concatenate([space.blocks[k] for k in range(len(space.blocks))], axis=1)


@pytest.mark.parametrize("runs", [16, 4096])
def test_tall_matrices(rng, runs, monkeypatch):
    monkeypatch.setattr(tall_module, "ROWS", runs)
    a, b = rng.standard_normal((100, 7)), rng.standard_normal((100, 5))
    with tall(1) as work, tall(2) as other:
        assert np.abs(work.inner(a, b) - a.T @ b).max() < 1e-13
        assert np.array_equal(work.inner(a, b), other.inner(a, b))
        assert np.abs(work.norms(a) - np.linalg.norm(a, axis=0)).max() < 1e-14
        assert np.abs(work.product(a, a.T @ b) - a @ (a.T @ b)).max() < 1e-12
        q, r = work.orthonormal(a, 1.0)
        assert np.array_equal(q, other.orthonormal(a, 1.0)[0])
    assert np.abs(q @ r - a).max() < 1e-14 and np.abs(q.T @ q - np.eye(7)).max() < 1e-14


def test_columns_that_depend_on_others_are_dropped(rng):
    a = rng.standard_normal((50, 3)) @ rng.standard_normal((3, 8))
    a[:, 4] = 0
    with tall(1) as work:
        q, r = work.orthonormal(a, 1.0)
    assert q.shape == (50, 3) and np.abs(q @ r - a).max() < 1e-13


def test_a_basis_of_everything(rng):
    matrix = symmetric(rng, 40)
    space = KrylovSpace(rng.standard_normal((40, 3)))
    q = whole(space, matrix)
    assert q.shape == (40, 40) and np.abs(q.T @ q - np.eye(40)).max() < 1e-14
    assert np.abs(q.T @ matrix @ q - space.matrix()).max() < 1e-12
    band = space.band()
    for distance in range(len(band)):
        stored = np.diagonal(space.matrix(), -distance)
        assert np.array_equal(band[distance, : 40 - distance], stored)
    assert not np.tril(space.matrix(), -len(band)).any()


def test_an_invariant_space(rng):
    """Of a matrix of rank 5, K and a vector span 6 dimensions; the basis stays orthonormal."""
    factor = rng.standard_normal((60, 5))
    matrix = factor @ factor.T
    start = rng.standard_normal((60, 1))
    space = KrylovSpace(start)
    q = whole(space, matrix)
    size = q.shape[1]  # rounding errors may add a direction
    assert 6 <= size <= 8 and np.abs(q.T @ q - np.eye(size)).max() < 1e-14
    assert np.abs(q @ (q.T @ matrix @ q) - matrix @ q).max() < 1e-12
    assert np.abs(q @ (q.T @ start) - start).max() < 1e-14


def test_nearly_dependent_columns_stay_orthogonal(rng):
    values = np.logspace(0, -15, 80)
    basis = np.linalg.qr(rng.standard_normal((80, 80)))[0]
    matrix = (basis * values) @ basis.T
    q = whole(KrylovSpace(rng.standard_normal((80, 4))), (matrix + matrix.T) / 2)
    assert np.abs(q.T @ q - np.eye(q.shape[1])).max() < 1e-13


def test_a_combination(rng):
    matrix = symmetric(rng, 30)
    space = KrylovSpace(rng.standard_normal((30, 2)), threads=1)
    for _ in range(3):
        space.extend(matrix @ space.last)
    inner = rng.standard_normal((space.size, 4))
    basis = np.concatenate([space.blocks[k] for k in range(3)], axis=1)
    assert space.size == 6 and np.abs(space.combine(inner) - basis @ inner).max() < 1e-14
