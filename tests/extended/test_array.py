"""Tests of arithmetic and functions of extended numbers against mpmath, at all magnitudes."""

import math
import operator
import sys
from fractions import Fraction

import numpy as np
import pytest
from mpmath import mp, mpf
from scipy import special

from ntk_numba.extended import Extended, extended, stack, values_of, where, whole

PRECISION = 1200  # bits, more than cancellation takes from any oracle here
EXACT = 2.0**-100


def numbers(low, high, count=60, positive=False):
    """Return numbers of 106 bits whose magnitudes are spread over a range of powers of two."""
    rng = np.random.default_rng(round(1000 + low + 7 * high))
    size = np.ldexp(rng.uniform(1, 2, count), rng.integers(low, high, count))
    x = size if positive else size * rng.choice([-1, 1], count)
    return extended(x) + x * rng.uniform(-1, 1, count) * 2.0**-54


def exact(x):
    """Return extended numbers as mpf."""
    with mp.workprec(PRECISION):
        parts = x.parts.reshape(3, -1)
        return [
            (mpf(h) + mpf(low)) * mpf(2) ** (512 * int(k)) for h, low, k in zip(*parts, strict=True)
        ]


def worst(found, wanted):
    """Return the largest relative error."""
    with mp.workprec(PRECISION):
        return max(
            float(abs(a / b - 1)) if b else float(abs(a))
            for a, b in zip(found, wanted, strict=True)
        )


@pytest.mark.parametrize("span", [1, 40, 900], ids="near {0} bits".format)
@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv"])
def test_arithmetic(name, span):
    a, b = numbers(-span, span), numbers(-span, span + 1)
    operate = getattr(operator, name)
    with mp.workprec(PRECISION):
        wanted = [operate(x, y) for x, y in zip(exact(a), exact(b), strict=True)]
        sizes = [max(abs(x), abs(y)) for x, y in zip(exact(a), exact(b), strict=True)]
    found = exact(operate(a, b))
    if name in ("add", "sub"):  # what is left of a difference has the error of its terms
        errors = [abs(f - w) / s for f, w, s in zip(found, wanted, sizes, strict=True)]
        assert max(errors) < EXACT
    else:
        assert worst(found, wanted) < EXACT


def test_roots_and_powers():
    x = numbers(-1000, 1000, positive=True)
    with mp.workprec(PRECISION):
        assert worst(exact(np.sqrt(x)), [mp.sqrt(v) for v in exact(x)]) < EXACT
        for n in (0, 1, 2, 3, 7, 20, -3):
            assert worst(exact(x**n), [v**n for v in exact(x)]) < 40 * EXACT
        n = np.arange(60) % 9 - 4
        assert (
            worst(exact(x**n), [v ** int(k) for v, k in zip(exact(x), n, strict=True)]) < 40 * EXACT
        )


FUNCTIONS = {
    "exp": (np.exp, mp.exp, (-80, 12), {}),
    "expm1": (np.expm1, mp.expm1, (-900, 9), {}),
    "log": (np.log, mp.log, (-1000, 1000), {"positive": True}),
    "log near 1": (lambda x: np.log(1 + x), lambda x: mp.log(1 + x), (-30, -2), {}),
    "log1p": (np.log1p, mp.log1p, (-900, 0), {"positive": True}),
    "log1p of negative": (
        lambda x: np.log1p(-x), lambda x: mp.log(1 - x), (-90, -1), {"positive": True},
    ),
    "sin": (np.sin, mp.sin, (-900, 12), {}),
    "cos": (np.cos, mp.cos, (-900, 12), {}),
    "arctan": (np.arctan, mp.atan, (-900, 900), {}),
    "arcsin": (np.arcsin, mp.asin, (-900, -1), {}),
    "sinh": (np.sinh, mp.sinh, (-900, 9), {}),
    "cosh": (np.cosh, mp.cosh, (-900, 9), {}),
    "tanh": (np.tanh, mp.tanh, (-900, 9), {}),
    "expit": (special.expit, lambda x: 1 / (1 + mp.exp(-x)), (-80, 9), {}),
    "erf": (special.erf, mp.erf, (-900, 5), {}),
    "erfc": (special.erfc, mp.erfc, (-80, 5), {}),
    "erfcx": (special.erfcx, lambda x: mp.exp(x * x) * mp.erfc(x), (-80, 5), {"positive": True}),
    "erfcx of negative": (
        lambda x: special.erfcx(-x), lambda x: mp.exp(x * x) * mp.erfc(-x), (-80, 4),
        {"positive": True},
    ),
    "ndtr": (special.ndtr, mp.ncdf, (-80, 5), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    ours, oracle, span, options = FUNCTIONS[name]
    x = numbers(*span, **options)
    with mp.workprec(PRECISION):
        wanted = [oracle(v) for v in exact(x)]
    assert worst(exact(ours(x)), wanted) < 1e-20
    if name not in ("cos", "sin"):  # those have no accuracy near their zeros in any arithmetic
        rounded = values_of(ours, x.astype(float))
        with mp.workprec(PRECISION):
            nearest = [float(oracle(mpf(v))) for v in x.astype(float)]
        np.testing.assert_allclose(rounded, nearest, rtol=1.2 * sys.float_info.epsilon, atol=1e-320)


def test_special_arguments():
    x = extended(np.array([0.0, np.inf, -np.inf, np.nan]))
    for ufunc in (np.exp, np.expm1, np.log1p, np.arctan, np.tanh, np.sqrt, np.log, special.erf):
        with np.errstate(all="ignore"):
            wanted = ufunc(np.array([0.0, np.inf, -np.inf, np.nan]))
        np.testing.assert_array_equal(ufunc(x).astype(float), wanted, err_msg=ufunc.__name__)
    one, zero = np.ones(1), extended(np.zeros(1))
    assert (one / zero).astype(float) == np.inf and np.isnan(zero / zero)
    assert (one / (one / zero)).astype(float) == 0 and np.isnan(x[1:2] - x[1:2])
    assert (x[1:2] * 2 - 5).astype(float) == np.inf
    assert np.exp(extended(1e6)).astype(float) == np.inf  # which is finite until it is rounded
    assert float(np.log(np.exp(extended(1e6)))) == 1e6
    assert float(np.exp(extended(1e300))) == np.inf and float(np.exp(extended(-1e300))) == 0


def test_every_float_comes_back():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2**64, 20000, np.uint64).view(float)
    x = np.concatenate([x, [0.0, -0.0, 5e-324, -5e-324, 1.7e308, 2.0**-1022]])
    np.testing.assert_array_equal(extended(x).astype(float), x)
    parts = extended(x[np.isfinite(x) & (x != 0)]).parts
    assert ((abs(parts[0]) >= 2.0**-256) & (abs(parts[0]) < 2.0**256)).all()


def test_comparisons_and_choices():
    x = np.array([-1e300, -2.0, -1e-300, 0, 1e-300, 2, 1e300])
    a, b = x[:, None], x[None, :]
    for compare in (np.less, np.less_equal, np.greater, np.greater_equal, np.equal, np.not_equal):
        np.testing.assert_array_equal(compare(extended(a), extended(b)), compare(a, b))
    for choose in (np.maximum, np.minimum):
        np.testing.assert_array_equal(choose(extended(a), b).astype(float), choose(a, b))
    np.testing.assert_array_equal(abs(extended(x)).astype(float), abs(x))
    chosen = where(a < b, extended(a), 7.0)
    np.testing.assert_array_equal(chosen.astype(float), np.where(a < b, a, 7.0))
    np.testing.assert_array_equal(np.clip(extended(x), -1, 1).astype(float), np.clip(x, -1, 1))


def test_shapes():
    x = np.arange(24.0).reshape(2, 3, 4) + 1
    e = extended(x)
    assert e.shape == (2, 3, 4) and e.T.shape == (4, 3, 2) and e.size == 24 and len(e) == 2
    np.testing.assert_array_equal((e * x[0]).astype(float), x * x[0])
    np.testing.assert_array_equal((e[:, 1:2] - e).astype(float), x[:, 1:2] - x)
    for axis in (0, 1, 2, None):
        np.testing.assert_array_equal(e.sum(axis=axis).astype(float), x.sum(axis=axis))
    np.testing.assert_array_equal(stack([e, x], axis=-1).astype(float), np.stack([x, x], axis=-1))
    empty = extended(np.zeros((0, 3)))
    assert (empty * 2 + np.ones(3)).shape == (0, 3) and float(empty.sum()) == 0
    e[0] = 5
    e += 1
    assert (e[0].astype(float) == 6).all() and float(e[1, 2, 3]) == 25


def test_whole_numbers_and_bits():
    n = math.factorial(25)  # of 84 bits
    high, low, _ = whole(n).parts
    assert Fraction(float(high)) + Fraction(float(low)) == n
    third = extended(np.array([1.0, 1e-200])) / 3
    lead = third.leading(24)
    assert (lead.astype(float) == third.astype(np.float32).astype(float))[0]
    assert ((third - lead).astype(float) < 2.0**-24 * third.astype(float)).all()
    assert extended(np.array([0, 0.5, 1, 3.9, 1e300])).exponents()[1:].tolist() == [0, 1, 2, 997]


def test_what_is_not_defined_raises():
    with pytest.raises(TypeError):
        np.arctanh(extended(1.0))
    with pytest.raises(TypeError):
        np.median(extended(np.ones(3)))
    with pytest.raises(TypeError):
        extended(2.0) ** 0.5
    with pytest.raises(TypeError):
        hash(extended(1.0))
    assert isinstance(2 * extended(1.0), Extended) and "Extended" in repr(extended(1.0))
