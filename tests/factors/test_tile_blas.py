"""Division by a tile of the diagonal: its backward error is as small as that of substitution."""

import gc

import numpy as np
import pytest

from ntk_numba.factors.tile_blas import STRIP, Divisor

SIZE = 4 * STRIP


def well(rng):
    return np.tril(rng.standard_normal((SIZE, SIZE))) / SIZE + np.eye(SIZE)


def small_pivots(rng):
    """Return the factor of a matrix with pairs of rows that are nearly equal."""
    x = np.repeat(rng.standard_normal((SIZE // 2, 4 * SIZE)), 2, axis=0)
    return np.linalg.cholesky(x @ x.T + 1e-9 * np.eye(SIZE))


def square(rng):
    """Return the same of as many rows as features, of which no inverse is accurate enough."""
    x = np.repeat(rng.standard_normal((SIZE // 2, SIZE)), 2, axis=0)
    return np.linalg.cholesky(x @ x.T + 1e-9 * np.eye(SIZE))


def ill(rng):
    """Return the factor of a matrix of smooth functions, where no inverse is accurate."""
    x = np.vander(np.sort(rng.random(SIZE)), SIZE, increasing=True)
    return np.linalg.cholesky(x @ x.T + 1e-7 * np.eye(SIZE))


def tiny(rng):
    """Return a factor whose inverse overflows."""
    return well(rng) * np.where(np.arange(SIZE) == STRIP + 3, 1e-45, 1)


# Matrices, and the share of the strips that are multiplied by an inverse
CASES = [(well, 1), (small_pivots, 1), (square, 0), (ill, 0), (tiny, 0.75)]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("case", "share"), CASES)
@pytest.mark.parametrize("rows", [1, 7, SIZE])
def test_the_backward_error(case, share, dtype, rows):
    rng = np.random.default_rng(0)
    factor = case(rng).astype(dtype)
    if case is tiny and dtype == "float64":
        factor[STRIP + 3, STRIP + 3] = 1e-310
    wide = factor.astype(np.longdouble)
    x = rng.standard_normal((rows, SIZE)) / 4
    c = (x.astype(np.longdouble) @ wide.T).astype(dtype)
    found = c.copy()
    divisor = Divisor(factor)
    divisor.divide(found)
    assert np.mean(divisor._accurate) == share
    if case is tiny:  # the columns before it
        found, c, wide = found[:, :STRIP], c[:, :STRIP], wide[:STRIP, :STRIP]
    error = np.abs(found @ wide.T - c)
    bound = SIZE / 8 * np.finfo(dtype).eps * (np.abs(found) @ np.abs(wide.T))
    assert (error <= bound).all()


def test_nothing_keeps_the_tiles():
    """A cycle of references would keep all buffers of a factorisation."""
    gc.collect()
    gc.disable()
    try:
        Divisor(np.eye(SIZE)).divide(np.ones((3, SIZE)))
        assert not [a for a in gc.get_objects() if type(a) is Divisor]
    finally:
        gc.enable()
