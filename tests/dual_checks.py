"""Checks that all activations with a closed form must pass, against formulas in 60 digits.

A dual here is (q1, q2, s) → (K, K̇) in mpmath, written in a test from the definition.
`agrees_with_quadrature` compares it with a quadrature of σ and σ', which uses no formula.
"""

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import oracle
import pytest
import recorded
from gauss import normal_with_ends
from gauss import panels as gauss_panels
from marks import marked
from mpmath import mp, mpf
from numpy.typing import NDArray

import ntk_numba as nk
from ntk_numba import activations
from ntk_numba.engine.dual import pair_dual
from ntk_numba.extended import extended

Dual = Callable[[mpf, mpf, mpf], tuple[mpf, mpf]]


def relu(q1: mpf, q2: mpf, s: mpf) -> tuple[mpf, mpf]:
    return oracle.expectations((0, 1), q1, q2, s)


def mean(f: Callable, q1: float, q2: float, s: float, kinks: Sequence[float] = ()) -> float:
    """Return E[f(u)f(v)] by quadrature.

    Without kinks it is the trapezoidal rule, which is exact to rounding for entire functions; with
    kinks, Gauss-Legendre panels end at them.
    """
    root = np.linalg.cholesky([[q1, s], [s, q2]])
    t = np.linspace(-13, 13, 1041)
    density = np.exp(-t * t / 2) * (t[1] - t[0]) / np.sqrt(2 * np.pi)
    if kinks:
        t, density = _panels(np.array(kinks) / root[0, 0])
    total = 0.0
    for at, weight in zip(t, density, strict=True):
        y, inner = t, density
        if kinks:
            y, inner = _panels((np.array(kinks) - root[1, 0] * at) / root[1, 1])
        outer = f(np.array([root[0, 0] * at]))[0]
        total += weight * outer * (inner @ f(root[1, 0] * at + root[1, 1] * y))
    return float(total)


def _panels(ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a rule for N(0, 1) whose panels end at the given points too."""
    return normal_with_ends(np.linspace(-9.5, 9.5, 20), ends, 16)


def panels(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights between edges, in extended precision."""
    return gauss_panels(edges, 14, np.longdouble)


def polar(right: Callable, left: Callable, slope_right: Callable, slope_left: Callable) -> Dual:
    """Return the dual of a function that is smooth on either side of 0, from its definition.

    The integral is in polar coordinates, one sector for each pair of signs of u and v, in extended
    precision. Its 19 digits do not resolve angles behind the layer below 1e-9.

    right, left : σ(x) and σ(−x) for x ≥ 0; slope_right, slope_left : their derivatives
    """

    @cache
    def dual(q1: mpf, q2: mpf, s: mpf) -> tuple[mpf, mpf]:
        a, b = (np.longdouble(mp.nstr(mp.sqrt(q), 25)) for q in (q1, q2))
        p = mp.sqrt(q1 * q2)
        smaller_angle = 2 * mp.asin(mp.sqrt(max(p - abs(s), mpf(0)) / (2 * p)))
        small = np.longdouble(mp.nstr(smaller_angle, 25))
        large = np.longdouble(mp.nstr(mp.pi - smaller_angle, 25))
        theta, supplement = (small, large) if s >= 0 else (large, small)
        finest = 1 / (8 * max(a, b, np.longdouble(1)))
        grades = finest * 2.0 ** np.arange(40)
        r, r_weights = panels([0, *grades[grades < 0.4], *np.arange(0.5, 11)])
        r_weights = r_weights * r * np.exp(-r * r / 2)
        total = [np.longdouble(0)] * 2
        # |u|/r and |v|/r at an angle χ from the edge v = 0 of a sector of width ω: sinχ' and sinχ
        for width, sides in ((supplement, (0, 1)), (theta, (2, 3))):
            if width == 0:
                continue
            ends = grades[grades < width / 2] if finest < width / 2 else []
            chi, weights = panels([0, *ends, width / 2])
            for angle, other in ((chi, width - chi), (width - chi, chi)):
                u = a * np.sin(other)[:, None] * r
                v = b * np.sin(angle)[:, None] * r
                for side in sides:
                    x, y = side in (0, 2), side in (0, 3)
                    for n, of in enumerate(((right, left), (slope_right, slope_left))):
                        f, g = of[0] if x else of[1], of[0] if y else of[1]
                        total[n] += weights @ (f(u) * g(v)) @ r_weights
        return tuple(mpf(str(t)) / (2 * mp.pi) for t in total)

    return dual


def angles(smaller_halves: Iterable[float]) -> Iterator[tuple[float, float, mpf]]:
    """Yield (z, w, θ in 60 digits) with min(z, w) as given, near θ = 0 and near θ = π."""
    for m in smaller_halves:
        half = mp.asin(mp.sqrt(mpf(float(m))))
        yield m, 1 - m, 2 * half
        yield 1 - m, m, mp.pi - 2 * half


def agrees_with_quadrature(spec: str, dual: Dual, moment: float) -> None:
    """Check the oracle, σ' and E[σ²] of an activation against quadratures of σ."""
    activation = activations.get(spec)
    kinks = activation.kinks
    for q1, q2, s in [(1, 1, 0.3), (0.9, 0.5, -0.6), (0.1, 1.2, 0.3), (0.6, 1.1, 0)]:
        k, k_dot = dual(mpf(q1), mpf(q2), mpf(s))
        scale = float(mp.sqrt(dual(mpf(q1), mpf(q1), mpf(q1))[0] * dual(*[mpf(q2)] * 3)[0]))
        assert abs(mean(activation, q1, q2, s, kinks) - float(k)) < 1e-12 * scale
        scale = float(mp.sqrt(dual(mpf(q1), mpf(q1), mpf(q1))[1] * dual(*[mpf(q2)] * 3)[1]))
        assert abs(mean(activation.derivative, q1, q2, s, kinks) - float(k_dot)) < 1e-12 * scale
    x = np.linspace(-3, 3, 61) + 0.013  # not a kink
    h = 1e-5
    slope = (activation(x + h) - activation(x - h)) / (2 * h)
    limit = 1e-8 * (1 + abs(activation.derivative(x)).max())
    assert abs(activation.derivative(x) - slope).max() < limit
    for real in (np.float32, np.float64):
        assert (
            activation(x.astype(real)).dtype == activation.derivative(x.astype(real)).dtype == real
        )
    q = np.array([1e-6, 1e-3, 0.3, 1, 7, 1e2])
    found = activation.moment(extended(q))
    for v, high, low, k in zip(q, *found.parts, strict=True):
        exact = dual(*[mpf(float(v))] * 3)[0]
        assert abs((mpf(high) + mpf(low)) * mpf(2) ** (512 * int(k)) / exact - 1) < moment
    rounded = activation.second_moment(q)
    np.testing.assert_array_equal(rounded, found.astype(float))
    assert activation.second_moment(q[:3].astype(np.float32)).dtype == np.float32


def single_pairs() -> NDArray:
    """Return q1, q2, z and w of pairs at all angles, (4, pairs)."""
    q = (1e-6, 1e-3, 0.2, 1.0, 3.0, 50.0, 1e4)
    angles = (0.0, 1e-12, 1e-6, 1e-3, 0.25, 0.5)
    halves = [(z, 1 - z) for z in angles] + [(1 - z, z) for z in angles[:-1]]
    return np.array([(q1, q2, z, w) for q1 in q for q2 in q for z, w in halves]).T


def exact_pairs(dual: Dual, pairs: NDArray) -> NDArray[np.longdouble]:
    """Return the exact results for the pairs, (3, pairs).

    The rows are cosθ_K; the factor that turns a rate into K̇ relative to √(K̇(x,x)K̇(x',x')); and K̇
    relative to the same.
    """
    alone = {v: dual(*[mpf(v)] * 3) for v in set(pairs[:2].ravel())}
    out = []
    for a, b, z, w in pairs.T:
        p = mp.sqrt(mpf(a) * mpf(b))
        k, k_dot = dual(mpf(a), mpf(b), p * (1 - 2 * mpf(z) if z < w else 2 * mpf(w) - 1))
        norm, slope_norm = (mp.sqrt(x * y) for x, y in zip(alone[a], alone[b], strict=True))
        out.append((k / norm, norm / p / slope_norm, k_dot / slope_norm))
    return recorded.digits(out).T


def pair_error(spec: str, pairs: NDArray, exact: NDArray[np.longdouble]) -> tuple[float, float]:
    """Return the largest errors of cosθ_K and of the rate, relative to their values at ρ = 1."""
    values = pair_dual(activations.get(spec).dual(np.inf), *pairs)
    z_k, w_k, rate = (v.astype(np.longdouble) for v in values)
    cosine, scale, slope = exact
    return float(abs(w_k - z_k - cosine).max()), float(abs(rate * scale - slope).max())


Layers = list[tuple[mpf, mpf]]


def _kernels(x: np.ndarray, y: np.ndarray, duals: Sequence[Dual], beta: float,
             own: tuple[Layers, Layers] | None = None) -> Layers:  # fmt: skip
    """Return (Σ, Θ) of all layers.

    own : the same of x and of y with themselves; None if x is y
    """
    u, v = ([mpf(float(t)) for t in row] for row in (x, y))
    b2 = mpf(beta) ** 2
    q1, q2, s = (mp.fdot(*p) / len(u) + b2 for p in ((u, u), (v, v), (u, v)))
    theta = s
    out = []
    for layer, dual in enumerate(duals):
        k, k_dot = dual(q1, q2, s)
        s = k + b2
        q1, q2 = (own[0][layer][0], own[1][layer][0]) if own else (s, s)
        theta = k_dot * theta + s
        out.append((s, theta))
    return out


def network_rows(dtype: type, scales: Sequence[float]) -> NDArray:
    """Return rows of the given scales: near and far, equal, opposite and parallel."""
    rng = np.random.default_rng(1)
    rows = []
    for scale in scales:
        x = rng.standard_normal(4) * scale
        step = rng.standard_normal(4) * scale
        rows += [x, *(x + 10.0**-k * step for k in (1, 2, 3, 4, 6, 9, 12))]
        rows += [x, -x, -x * (1 + 1e-7), 2 * x, 1.01 * x]
    return np.array(rows).astype(dtype)


def exact_network(dual: Dual, x: NDArray, beta: float) -> tuple[NDArray, NDArray]:
    """Return the kernels behind the activation and behind a ReLU.

    They are √K(x,x) of each row, (rows, layer, kernel), and K(x,x')/√(K(x,x)K(x',x')) of each pair,
    (pairs, layer, kernel).
    """
    own = [_kernels(row, row, [dual, relu], beta) for row in x]
    alone = [[[mp.sqrt(k) for k in layer] for layer in layers] for layers in own]
    cosines = []
    for i, j in pairs_of(len(x)):
        both = _kernels(x[i], x[j], [dual, relu], beta, (own[i], own[j])) if i != j else own[i]
        cosines.append(
            [[both[m][k] / (alone[i][m][k] * alone[j][m][k]) for k in (0, 1)] for m in (0, 1)]
        )
    return recorded.digits(alone), recorded.digits(cosines)


def pairs_of(rows: int) -> list[tuple[int, int]]:
    """Return each pair of rows once."""
    return [(i, j) for i in range(rows) for j in range(i + 1)]


def network_error(
    spec: str, x: NDArray, beta: float, exact: tuple[NDArray, NDArray]
) -> tuple[float, float]:
    """Return the largest errors of Σ and Θ behind the activation and behind a ReLU after it.

    They are relative to √(K(x,x)K(x',x')). The ReLU shows whether small angles are right.
    """
    got = nk.gram(nk.MLP(3, [spec, "relu"], 1.0, beta), x, layers="all", dtype=x.dtype)
    alone, cosines = exact
    worst = [0.0, 0.0]
    for (i, j), cosine in zip(pairs_of(len(x)), cosines, strict=True):
        for layer in (0, 1):
            for kernel in (0, 1):
                scale = alone[i, layer, kernel] * alone[j, layer, kernel]
                error = np.longdouble(got[kernel][layer + 1, i, j]) / scale - cosine[layer, kernel]
                worst[layer] = max(worst[layer], float(abs(error)))
                if np.array_equal(x[i], x[j]):
                    assert got[kernel][layer + 1, i, j] == got[kernel][layer + 1, i, i]
    return worst[0], worst[1]


BETAS, DTYPES = (0.0, 0.1), (np.float64, np.float32)


def golden_points(scales: Sequence[float]) -> dict[str, NDArray]:
    """Return the points of the recorded answers."""
    rows = {np.dtype(dtype).name: network_rows(dtype, scales) for dtype in DTYPES}
    return {"pairs": single_pairs(), "betas": np.array(BETAS)} | rows


def golden_answers(dual: Dual, scales: Sequence[float]) -> recorded.Answers:
    """Return the answers of the oracle."""
    answers = {"pairs": exact_pairs(dual, single_pairs())}
    for beta, dtype in itertools.product(BETAS, DTYPES):
        alone, cosines = exact_network(dual, network_rows(dtype, scales), beta)
        key = f"{np.dtype(dtype).name}_{beta}"
        answers |= {f"alone_{key}": alone, f"cosines_{key}": cosines}
    return answers


def is_finite_everywhere(spec: str, largest: float = 1e30) -> None:
    """Check that nothing is NaN or infinite, for all variances, angles and dtypes."""
    fitted = activations.get(spec).dual(np.inf)
    q = np.array([v for v in (0, 1e-300, 1e-30, 1e-6, 1, 1e4, 1e30) if v <= largest])
    halves = np.array([0, 1e-30, 1e-6, 0.25, 0.5])
    z = np.concatenate([halves, 1 - halves[:-1]])
    w = np.concatenate([1 - halves, halves[:-1]])
    with np.errstate(over="ignore"):
        assert not np.isnan(fitted.of_samples(extended(q))).any()
    q1, q2, k = (v.ravel() for v in np.meshgrid(q, q, np.arange(z.size), indexing="ij"))
    k = k.astype(int)
    for values in pair_dual(fitted, q1, q2, z[k], w[k]):
        assert np.isfinite(values).all()
    z_k, w_k, _ = pair_dual(fitted, q1, q2, z[k], w[k])
    assert (z_k >= -1e-15).all() and (w_k >= -1e-15).all()
    np.testing.assert_allclose(z_k + w_k, 1, atol=1e-15)
    if fitted.never_obtuse:
        assert (z_k <= 0.5 + 1e-15).all()
    x = np.sqrt(q[q <= min(largest, 1e4)])[:, None] * np.array([[1.0], [-1.0]])[:, None]
    for dtype in (np.float32, np.float64):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            both = nk.gram(nk.MLP(3, spec, 1.0, 0.0), x.reshape(-1, 1), layers="all", dtype=dtype)
        assert np.isfinite(both.nngp[:2]).all() and np.isfinite(both.ntk[:2]).all()
        # Variances of samples other than 0 are not 0, but they may be below the normal numbers.
        variances = np.diagonal(both.nngp, axis1=1, axis2=2)[:, x.ravel() != 0]
        underflows = (variances < np.finfo(dtype).tiny).any()
        assert [w.category for w in caught] == [nk.UnderflowWarning] * int(underflows)


def parity_and_signs_are_true(spec: str, dual: Dual) -> None:
    """Check the parity and `never_obtuse` of a dual against σ and K."""
    activation = activations.get(spec)
    x = np.linspace(0.01, 5, 50)
    mirrored = activation(-x)
    scale = abs(activation(x)).max()
    even, odd = (abs(mirrored - sign * activation(x)).max() < 1e-14 * scale for sign in (1, -1))
    fitted = activation.dual(np.inf)
    assert fitted.parity == (1 if even else -1 if odd else 0)
    least = min(
        dual(mpf(q), mpf(p), -mp.sqrt(mpf(q) * mpf(p)))[0]
        for q in (0.01, 1, 30) for p in (0.01, 1, 30)
    )  # fmt: skip
    assert fitted.never_obtuse == (least >= -1e-17)  # the digits of some oracles


def checks(
    duals: dict[str, Dual],
    pair: float = 3e-15,
    double: float = 1e-14,
    single: float = 3e-6,
    scales: Sequence[float] = (1e-3, 1, 100),
    largest: dict[str, float] | None = None,
    behind: float | None = None,
    moment: float = 1e-15,
    golden: bool = False,
    resolved: float = 1e-17,
) -> Any:
    """Return a class with the tests of the given activations. Test files name it Test….

    pair, double, single : the largest errors of single pairs, and of networks in either dtype
    behind : the largest error of a ReLU behind the activation in float64; by default 50·double
    moment : the largest relative error of E[σ²], up to q = 100
    scales : the scales of the networks' data
    largest : the largest variance of an activation that does not support all of them
    golden : whether the oracle is so slow that its answers are kept, see recorded.py
    resolved : the largest error of the oracle's Θ behind a ReLU; an oracle of 19 digits does not
        resolve small angles there, and its last digits depend on the processor
    """
    ends = largest or {}

    @pytest.mark.parametrize("spec", duals)
    class Checks:
        def test_the_oracle_agrees_with_quadrature_of_sigma_itself(self, spec):
            agrees_with_quadrature(spec, duals[spec], moment)

        def test_parity_and_signs(self, spec):
            parity_and_signs_are_true(spec, duals[spec])

        def test_single_pairs_are_exact(self, spec):
            pairs = single_pairs()
            if golden:
                exact = recorded.load(spec, golden_points(scales))["pairs"]
            else:
                exact = exact_pairs(duals[spec], pairs)
            value, rate = pair_error(spec, pairs, exact)
            assert value < pair
            assert rate < pair

        @pytest.mark.parametrize("beta", marked(pytest.mark.slow, BETAS, [0.1]))
        @pytest.mark.parametrize(("dtype", "bound"), [(np.float64, double), (np.float32, single)])
        def test_near_duplicates_stay_apart(self, spec, dtype, bound, beta):
            """K̇ of the ReLU behind the layer shows errors of angles, about 1e-13 (see `NEAR`)."""
            x = network_rows(dtype, scales)
            if golden:
                answers = recorded.load(spec, golden_points(scales))
                key = f"{np.dtype(dtype).name}_{beta}"
                exact = answers[f"alone_{key}"], answers[f"cosines_{key}"]
            else:
                exact = exact_network(duals[spec], x, beta)
            own, after = network_error(spec, x, beta, exact)
            assert own < bound
            assert after < (50 * bound if behind is None or dtype == np.float32 else behind)

        def test_extremes(self, spec):
            is_finite_everywhere(spec, ends.get(spec, 1e30))

    class Recorded(Checks):
        @pytest.mark.slow
        def test_recorded_answers_are_derived_again(self, spec, write_golden):
            points, derived = golden_points(scales), golden_answers(duals[spec], scales)
            if write_golden:
                recorded.save(spec, points, derived)
            for key, answer in recorded.load(spec, points).items():
                limit = 1e-17 * np.maximum(abs(derived[key]), 1)
                if key.startswith("cosines"):
                    limit[:, 1, 1] = np.maximum(limit[:, 1, 1], resolved)
                assert (abs(answer - derived[key]) <= limit).all(), key

    return Recorded if golden else Checks
