"""The error bounds of functions of Python hold, or the function is refused with what is wrong.

The oracle is a nested quadrature of the function and of its derivative as a formula, with panels of
its own that end at the places where the function is not smooth.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from gauss import normal_with_ends
from marks import marked
from scipy import special

import ntk_numba as nk
from ntk_numba.activations import Numerical
from ntk_numba.engine.dual import pair_dual
from ntk_numba.errors import InvalidValueError

Array = np.ndarray


class Case(NamedTuple):
    """A function as a user writes it, the same without loss, its derivative, and its kinks."""

    fn: Callable[[Array], Array]
    exact: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    kinks: tuple[float, ...] = ()


def bell(x: Array) -> Array:
    return 1 / np.cosh(x) ** 2


CASES = {
    "exp": Case(np.exp, np.exp, np.exp),
    "tanh": Case(np.tanh, np.tanh, bell),
    "x^3": Case(lambda x: x**3, lambda x: x**3, lambda x: 3 * x**2),
    "cosh": Case(np.cosh, np.cosh, np.sinh),
    "exp(x²/10)": Case(*[lambda x: np.exp(x * x / 10)] * 2, lambda x: x / 5 * np.exp(x * x / 10)),
    "exp - 1": Case(lambda x: np.exp(x) - 1, np.expm1, np.exp),
    "1 - cos": Case(lambda x: 1 - np.cos(x), lambda x: 2 * np.sin(x / 2) ** 2, np.sin),
    "bell": Case(*[lambda x: np.exp(-x * x)] * 2, lambda x: -2 * x * np.exp(-x * x)),
    "softplus": Case(
        lambda x: np.log(1 + np.exp(x)), lambda x: np.logaddexp(0, x), special.expit
    ),
    "ripple": Case(
        *[lambda x: np.tanh(x) + 1e-9 * np.sin(300 * x)] * 2,
        lambda x: bell(x) + 3e-7 * np.cos(300 * x),
    ),
    "|x|^1.5": Case(
        *[lambda x: abs(x) ** 1.5] * 2, lambda x: 1.5 * np.sign(x) * np.sqrt(abs(x)), (0.0,)
    ),
    "relu^3": Case(
        *[lambda x: np.maximum(x, 0) ** 3] * 2, lambda x: 3 * np.maximum(x, 0) ** 2, (0.0,)
    ),
}  # fmt: skip
PAIRS = [(1, 1, 0.3), (0.07, 0.5, -0.8), (0.77, 0.4, 1), (1e-7, 1e-7, 0.6)]


def rule(ends: Array, width: float) -> tuple[Array, Array]:
    return normal_with_ends(np.arange(-10.5, 10.5 + width, width), ends, 20)


@cache
def mean(f: Callable, q1: float, q2: float, rho: float, kinks: tuple[float, ...]) -> float:
    """Return E[f(u)f(v)] of Gaussians with variances q1 and q2 and correlation rho."""
    near = np.append(0, 2.0 ** -np.arange(1, 40, 3))
    sharp = np.concatenate([[k + near, k - near] for k in kinks], axis=None) if kinks else near[:0]
    t, weights = rule(sharp / np.sqrt(q1), 0.25)
    if rho == 1:
        t, weights = rule(np.append(sharp / np.sqrt(q1), sharp / np.sqrt(q2)), 0.1)
        return float(weights @ (f(np.sqrt(q1) * t) * f(np.sqrt(q2) * t)))
    rest, total = np.sqrt(1 - rho * rho), 0.0
    for u, weight in zip(t, weights, strict=True):
        s, inner = rule((sharp / np.sqrt(q2) - rho * u) / rest, 0.5)
        total += weight * f(np.sqrt(q1) * u) * (inner @ f(np.sqrt(q2) * (rho * u + rest * s)))
    return total


TOLERANCES = 1e-10, 1e-4, 1e-2
POSSIBLE = [("exp", 1e-10, 2.38), ("exp - 1", 1e-10, 0.9), ("|x|^1.5", 1e-2, 1.0)]
SWEEP = [("exp", 2.38), ("|x|^1.5", 1.0)]
SWEEP += [(n, q) for n in CASES for q in (0.05, 0.9, 2.38) if (n, q) not in SWEEP]


@pytest.mark.parametrize(("name", "limit"), marked(pytest.mark.slow, SWEEP))
def test_the_bounds_hold(name, limit):
    for tolerance in TOLERANCES:  # which share the quadratures
        bounds_hold(name, tolerance, limit)


def bounds_hold(name: str, tolerance: float, limit: float) -> None:
    case = CASES[name]
    own = Numerical(case.fn, "own", tolerance=tolerance, kinks=case.kinks)
    try:
        dual = own.dual(limit)
    except InvalidValueError:
        assert (name, tolerance, limit) not in POSSIBLE
        return
    assert max(dual.bounds) <= tolerance
    for scale1, scale2, rho in PAIRS:
        q = limit * np.array([scale1, scale2])
        squares = [mean(case.exact, v, v, 1, case.kinks) for v in q]
        slopes = [mean(case.slope, v, v, 1, case.kinks) for v in q]
        moments = own.second_moment(q)
        np.testing.assert_allclose(moments, squares, rtol=2e-13 + dual.bounds[0])
        z, _, rate = pair_dual(dual, q[:1], q[1:], np.array([(1 - rho) / 2]))
        root = np.sqrt(moments.prod())
        k = root * (1 - 2 * z[0]), mean(case.exact, *q, rho, case.kinks)
        k_dot = rate[0] * root / np.sqrt(q.prod()), mean(case.slope, *q, rho, case.kinks)
        assert abs(k[0] - k[1]) <= (dual.bounds[0] + 5e-14) * np.sqrt(np.prod(squares))
        assert abs(k_dot[0] - k_dot[1]) <= (dual.bounds[1] + 5e-14) * np.sqrt(np.prod(slopes))


def step(height: float, at: float) -> Callable[[Array], Array]:
    return lambda x: np.tanh(x) + height * (x > at)


def hole(low: float, high: float) -> Callable[[Array], Array]:
    return lambda x: np.where((x >= low) & (x <= high), np.nan, np.tanh(x))


REFUSED: dict[str, tuple[Callable[[Array], Any], dict[str, Any], str]] = {
    "step": (step(1e-3, 0.0), {}, "jumps by 0.001 at x = 0,"),
    "a declared step": (step(1e-3, 0.0), {"kinks": (0,)}, "jumps by 0.001 at x = 0,"),
    "a step at an end": (step(1e-5, 0.5), {}, "jumps by 1e-05 at x = 0.5,"),
    "a step at another": (step(1e-5, 2.0), {}, r"(at|near) x = 2\b"),
    "a small step": (step(1e-8, 1 / 3), {}, "jumps by 1e-08 at x = 0.33333"),
    "a small declared step": (step(1e-8, 0.3), {"kinks": (0.3,)}, "jumps by 1e-08 at x = 0.3,"),
    "kink": (lambda x: np.tanh(x) + abs(x - 0.7), {}, r"kink at x = 0.7 .*give kinks=\(0.7,\)"),
    "float32": (lambda x: np.tanh(x).astype(np.float32), {}, "let it compute in float64"),
    "float32 inside": (lambda x: np.tanh(x.astype("f4")), {}, "let it compute in float64"),
    "rounded": (lambda x: np.round(np.tanh(x), 6), {}, "rounded or noisy"),
    "NaN at 0": (hole(0, 0), {}, "finite, also at 0"),
    "NaN in a hole": (hole(1.23, 1.2301), {}, r"not finite at x = 1\.23"),
    "NaN far out": (lambda x: np.sqrt(9 - x), {}, r"not finite at x = 9"),
    "narrow": (lambda x: np.tanh(x) + (abs(x - 1.21) < 1e-4), {}, r"near x = 1\.2|jumps"),
    "root": (lambda x: np.sqrt(abs(x)), {}, "infinite"),
    "1/x": (lambda x: np.sin(1 / np.where(x == 0, 1, x)), {}, "activation own"),
    "fast": (lambda x: np.sin(50 * x), {"tolerance": 1e-10}, "oscillates"),
    "growth": (lambda x: np.exp(x**3 / 100), {}, "grows too fast"),
    "a factor": (np.tanh, {"derivative": lambda x: 1.001 * bell(x), "tolerance": 1e-10}, "1.00"),
    "a sign": (np.tanh, {"derivative": lambda x: np.sign(x) * bell(x)}, "its derivative is not"),
    "another": (np.tanh, {"derivative": np.cos}, "its derivative is not that of its values"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_bounded_is_refused_by_its_name(name):
    fn, options, text = REFUSED[name]
    with pytest.raises(InvalidValueError, match=text) as refused:
        nk.gram(nk.MLP(2, Numerical(fn, "own", **{"tolerance": 1e-2, **options})), np.eye(2))
    assert str(refused.value).startswith("activation own")


def test_bounds_of_a_network():
    """The sample of `exp` whose table of E[σ²] and slope were once off by 1e-6."""
    x = np.random.default_rng(0).standard_normal((6, 5))
    got = nk.gram(nk.MLP(2, Numerical(np.exp), 1.0, 0.1), x)
    want = nk.gram(nk.MLP(2, "exp", 1.0, 0.1), x)
    for ours, exact, bound in zip(got, want, got.error, strict=True):
        root = np.sqrt(np.diag(exact))
        assert abs((ours - exact) / np.outer(root, root)).max() <= bound + 5e-14 <= 1e-10


def test_a_threshold_far_out_does_no_harm():
    """softplus is often written with a threshold, where it jumps by 2e-9."""
    fn = Numerical(lambda x: np.where(x > 20, x, np.log1p(np.exp(np.minimum(x, 30)))), "plus")
    assert max(fn.dual(1.0).bounds) <= 1e-10
    with pytest.raises(InvalidValueError, match=r"jumps by 2\.1e-09 at x = 20"):
        fn.dual(40.0)
