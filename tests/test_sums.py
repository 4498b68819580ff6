"""Order-free sums against exact sums of Python's."""

import math
from fractions import Fraction

import numpy as np
import pytest

from ntk_numba.sums import Sums, balanced


def terms(rng, count, shape, spread):
    """Return `count` blocks whose entries have magnitudes over `spread` powers of two."""
    sizes = np.exp2(rng.uniform(-spread, 0, (count, *shape)))
    return rng.choice([-1.0, 1.0], (count, *shape)) * sizes


def added(blocks, rows, columns):
    sums = Sums(rows, columns)
    for block in blocks:
        sums.add(0, block)
    return sums


def repeat(add):
    for _ in range(20):
        add()


@pytest.mark.parametrize("scale", [0, -1000, 950, -1060, 1010])
def test_sums_are_exact_to_quanta_and_free_of_order(scale):
    rng = np.random.default_rng(0)
    blocks = np.ldexp(terms(rng, 50, (6, 3), 40), scale)
    blocks[:, 2] = 0
    rows = np.ldexp(np.sum(np.abs(np.ldexp(blocks, -scale)), axis=0).max(axis=1), scale // 2)
    columns = np.full(3, math.ldexp(1.0, scale - scale // 2))
    sums = added(blocks, rows, columns)
    found = sums.result()
    assert sums.totals.dtype == np.int64 and (found[2] == 0).all()
    for i, k in np.ndindex(6, 3):
        exact = sum(map(Fraction, blocks[:, i, k].tolist()))
        bound = Fraction(rows[i]) * Fraction(columns[k])
        rounding = abs(exact) * Fraction(2) ** -53 + Fraction(2) ** -1074
        assert abs(Fraction(found[i, k]) - exact) <= 50 * bound / 2**96 + rounding
        if scale == 0:
            assert found[i, k] == pytest.approx(math.fsum(blocks[:, i, k]), rel=4e-16, abs=1e-24)
    for order in (slice(None, None, -1), rng.permutation(50), np.argsort(blocks[:, 0, 0])):
        again = added(blocks[order], rows, columns)
        assert (again.totals == sums.totals).all() and (again.rests == sums.rests).all()
        assert again.result().tobytes() == found.tobytes()


def test_parts_of_a_sum_are_merged():
    rng = np.random.default_rng(1)
    blocks, rows, columns = terms(rng, 30, (4, 2), 5), np.full(4, 30.0), np.ones(2)
    whole = added(blocks, rows, columns)
    merged = Sums(rows, columns)
    for part in (blocks[7:19], blocks[19:], blocks[:7]):
        other = added(part, rows, columns)
        assert all((a == b).all() for a, b in zip(other.exponents, whole.exponents, strict=True))
        merged.merge(other.totals[2:], other.rests[2:], 2)
        merged.merge(np.ascontiguousarray(other.totals[:2]), other.rests[:2])
    assert (merged.totals == whole.totals).all() and (merged.rests == whole.rests).all()


def test_blocks_go_to_their_rows():
    sums = Sums(np.full(5, 10.0), np.full(2, 1.0))
    sums.add(1, np.array([[1.0, 2.0], [3.0, 4.0]]))
    sums.add(3, np.asfortranarray([[5.0, 6.0], [7.0, 8.0]]))
    sums.add(2, np.zeros((0, 2)))
    assert sums.result().tolist() == [[0, 0], [1, 2], [3, 4], [5, 6], [7, 8]]
    assert Sums(np.ones(3), np.ones(0)).result().shape == (3, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**70, -(2.0**62), 1e308])
def test_an_entry_beyond_its_bound_is_refused(bad):
    for bounds in (1.0, 2.0**450):
        sums = Sums(np.full(3, bounds), np.ones(2))
        block = np.zeros((2, 2))
        with np.errstate(over="ignore"):
            block[1, 0] = bad * bounds
        with pytest.raises(ValueError, match=r"the sum of row 2, column 0 \(counted from 0\) is"):
            sums.add(1, block)


def test_a_sum_beyond_its_bound_is_refused_and_never_wraps():
    for sign in (1.0, -1.0):
        sums = Sums(np.array([0.75]), np.array([0.75]))
        with pytest.raises(ValueError, match="larger than its bound"):
            repeat(lambda sums=sums, sign=sign: sums.add(0, np.array([[sign * 0.75]])))
        sums = Sums(np.ones(1), np.ones(1))
        with pytest.raises(ValueError, match="larger than its bound"):
            repeat(lambda sums=sums, sign=sign: sums.merge(*np.array([[[int(sign) << 61]], [[0]]])))
    for extreme in (np.iinfo(np.int64).min, np.iinfo(np.int64).max):
        with pytest.raises(ValueError, match="row 3, column 0"):
            Sums(np.ones(4), np.ones(1)).merge(np.array([[extreme]]), np.zeros((1, 1), int), 3)


def test_sums_far_below_their_bounds_have_all_digits():
    """As of entries that are much smaller than their diagonal allows."""
    rng = np.random.default_rng(2)
    blocks = rng.uniform(1e-12, 3e-12, (1000, 3, 1))
    sums = added(blocks, np.full(3, 1.0), np.ones(1))
    exact = [math.fsum(blocks[:, i, 0]) for i in range(3)]
    assert np.allclose(sums.result()[:, 0], exact, rtol=2e-16, atol=0)
    large = added([*blocks, np.full((3, 1), 0.7), *-blocks[::-1]], np.full(3, 1.0), np.ones(1))
    assert (large.result() == 0.7).all()


def test_a_bound_of_zero_takes_zeros_only():
    sums = Sums(np.array([0.0, 5e-324]), np.array([1.0]))
    sums.add(0, np.array([[0.0], [5e-324]]))
    assert sums.result().tolist() == [[0.0], [5e-324]]
    with pytest.raises(ValueError, match="row 0"):
        sums.add(0, np.array([[1e-200]]))
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="bounds of rows must be finite and not negative"):
            Sums(np.array([bad]), np.ones(1))


def test_a_sum_that_float64_does_not_hold_is_infinite():
    sums = Sums(np.array([1e308]), np.array([1e10]))
    sums.add(0, np.array([[1.5e308]]))
    assert sums.result()[0, 0] == pytest.approx(1.5e308, rel=1e-7)
    sums = Sums(np.array([1e308]), np.array([4.0]))
    for _ in range(3):
        sums.add(0, np.array([[1.7e308]]))
    assert sums.result()[0, 0] == np.inf


@pytest.mark.parametrize("size", [1e-320, 1e-200, 1.0, 1e200, 1.7e308])
@pytest.mark.parametrize("weight", [0.0, 1e-160, 1.0, 1e150, 1e300])
def test_balanced_columns_neither_overflow_nor_exceed_the_bound(size, weight):
    rng = np.random.default_rng(0)
    columns = size * rng.uniform(-1, 1, (40, 3))
    columns[:, 1] *= rng.random(40) < 0.1
    columns[:, 2] = 0
    weights = weight * rng.random(40)
    weights[:3] = 0
    scaled, exponents = balanced(columns, weights)
    assert np.isfinite(scaled).all() and (scaled[:, 2] == 0).all() and scaled.flags.f_contiguous
    assert (np.ldexp(scaled, exponents) == columns).all()
    for k in range(3):
        total = sum(
            Fraction(w) * abs(Fraction(v)) for w, v in zip(weights, scaled[:, k], strict=True)
        )
        assert total < 1
        assert total >= Fraction(1, 2) or weight < 1e-150 or k == 2
    assert balanced(columns[:, :0], weights)[0].shape == (40, 0)
    assert balanced(columns[:0], weights[:0])[0].shape == (0, 3)
