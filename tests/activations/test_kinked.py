"""Continuous piecewise-linear functions against Plackett's form of the bivariate normal."""

from contextlib import nullcontext
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from dual_checks import checks, panels
from mpmath import chebyfit, mp, mpf
from piecewise import cases

import ntk_numba as nk
from ntk_numba import activations
from ntk_numba.duals import owen
from ntk_numba.extended import extended

# Functions of this family for tests/plain.py and tests/engine/test_all_activations.py
SIGMA = {
    "hard_tanh": lambda x: cases(x, 0 * x - 1, -1, x, 1, 0 * x + 1),
    "relu6": lambda x: cases(x, 0 * x, 0, x, 6, 0 * x + 6),
    "piecewise_linear:0.5,0.2,-1,1,0.5,-0.3": lambda x: (
        0.5 + cases(x, 0.2 * x - 0.8, -1, x, 0.5, 0.65 - 0.3 * x)
    ),
}
KINKS = {
    "hard_tanh": (-1.0, 1.0),
    "relu6": (0.0, 6.0),
    "piecewise_linear:0.5,0.2,-1,1,0.5,-0.3": (-1.0, 0.5),
}

# It is 0 around 0.
VANISHES = "piecewise_linear:0,1,-1,0,1,1"


def quadrant(h, k, theta):
    """Return P(X > h, Y > k) for ρ = cosθ ≥ 0.

    It is the integral, from θ = 0 on, of Plackett's ∂P/∂ρ, the density at (h, k).
    """
    difference, product, top = (np.longdouble(mp.nstr(v, 25)) for v in (abs(h - k), h * k, theta))
    if top > 0:
        # for t < difference/40, exp(−difference²/2t²) is negligible; without this factor, the
        # density is smooth
        powers = top * np.longdouble(2) ** (np.arange(-120, 1) / np.longdouble(2))
        t, weights = panels([0, *powers[powers > (difference / 40 if difference else top / 64)]])
        square = np.sin(t) ** 2
        with np.errstate(over="ignore", under="ignore"):
            density = np.exp(-(difference**2 + 4 * product * np.sin(t / 2) ** 2) / (2 * square))
        integral = mpf(str(weights @ density)) / (2 * mp.pi)
    else:
        integral = mpf(0)
    return mp.ncdf(-max(h, k)) - integral


def kinked(value, slopes, kinks):
    """Return the dual of a continuous piecewise-linear function, from expectations of ramps."""
    g = [(b - a) / 2 for a, b in pairwise(slopes)]
    line = (slopes[0] + slopes[-1]) / 2
    lift = value - sum(a * abs(t) for a, t in zip(g, kinks, strict=True))

    def dual(q1, q2, s):
        p = mp.sqrt(q1 * q2)
        acute = s >= 0
        theta = 2 * mp.asin(mp.sqrt(max(p - abs(s), mpf(0)) / (2 * p)))
        rho = mp.cos(theta) if acute else -mp.cos(theta)
        mean = [lift] * 2
        slope = [line] * 2
        for n, q in enumerate((q1, q2)):
            for a, t in zip(g, kinks, strict=True):
                h = t / mp.sqrt(q)
                mean[n] += a * mp.sqrt(q) * (2 * phi(h) + h * mp.erf(h / mp.sqrt(2)))
                slope[n] -= a * mp.erf(h / mp.sqrt(2))
        k = mean[0] * mean[1] + p * rho * slope[0] * slope[1]
        k_dot = slope[0] * slope[1]
        for a, t in zip(g, kinks, strict=True):
            for b, u in zip(g, kinks, strict=True):
                h, j = t / mp.sqrt(q1), u / mp.sqrt(q2)
                signs, product = pair(h, j, theta, acute)
                gh, gj = (mp.erf(v / mp.sqrt(2)) / 2 for v in (h, j))
                m = (2 * phi(h) + 2 * h * gh) * (2 * phi(j) + 2 * j * gj)
                k += p * a * b * (product - m - 4 * rho * gh * gj)
                k_dot += a * b * (signs - 4 * gh * gj)
        return k, k_dot

    return dual


def pair(h, k, theta, acute):
    """Return E[sgn(X − h) sgn(Y − k)] and E[|X − h| |Y − k|].

    theta : θ if acute, else π − θ
    """
    if not acute:  # by the pair (X, −Y), whose angle is acute
        signs, product = pair(h, -k, theta, True)
        return -signs, product
    signs = 1 - 2 * mp.ncdf(-h) - 2 * mp.ncdf(-k) + 4 * quadrant(h, k, theta)
    rho, s = mp.cos(theta), mp.sin(theta)
    if s == 0:
        dh = mp.inf * (k - h) if h != k else mpf(0)
        dk = -dh
    else:
        dh, dk = (k - rho * h) / s, (h - rho * k) / s
    product = (rho + h * k) * signs + 2 * k * phi(h) * mp.erf(dh / mp.sqrt(2))
    product += 2 * h * phi(k) * mp.erf(dk / mp.sqrt(2))
    return signs, product + 2 * s / mp.pi * mp.exp(-(h * h + dh * dh) / 2)


def phi(x):
    return mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi)


DUALS = {
    "hard_tanh": kinked(0, (0, 1, 0), (-1, 1)),
    "relu6": kinked(0, (0, 1, 0), (0, 6)),
    "piecewise_linear:0.5,0.25,-1,-0.75,0,2,0.5,1": kinked(
        mpf(0.5), (mpf(0.25), mpf(-0.75), mpf(2), mpf(1)), (-1, 0, mpf(0.5))
    ),
}

SATURATING = {spec: DUALS.pop(spec) for spec in ("hard_tanh", "relu6")}

TestDuals = checks(DUALS, pair=5e-15, behind=2e-12, golden=True)
# Variances go up to 1e4, where these functions are nearly steps and the condition number is 100
TestSaturating = checks(
    SATURATING, pair=1e-13, double=2e-14, scales=(1e-3, 1), behind=1e-9, moment=2e-14, golden=True
)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("piecewise_linear:1,2,3", "after each kink a slope must follow"),
        ("piecewise_linear:0,1,2,3,1,2", "kinks must be increasing, not"),
        ("piecewise_linear:1", "at least 2 parameters"),
    ],
)
def test_arguments(spec, message):
    with pytest.raises(ValueError, match=message):
        activations.get(spec)


def test_simpler_forms_are_recognised():
    assert activations.get("piecewise_linear:0,0.1,0,1").dual(1.0).loop is None
    assert activations.get("piecewise_linear:0,2,1,2").name == "ab_relu:2.0,2.0"
    assert activations.get("piecewise_linear:0,1,1,2,1.5,2").at == (1.0,)


@pytest.mark.parametrize("spec", ["piecewise_linear:1,0.5", "piecewise_linear:3,0"])
def test_without_a_kink(spec):
    """For σ(x) = a + bx, K = a² + b²s and K̇ = b²."""
    a, b = activations.get(spec).value, activations.get(spec).slopes[0]
    q1, q2, rho = np.array([1e-6, 0.3, 1e4]), np.array([2, 0.5, 1e3]), np.array([0.3, -1, 1])
    k, k_dot = nk.dual(spec, q1, q2, rho)
    np.testing.assert_allclose(k, a**2 + b**2 * rho * np.sqrt(q1 * q2), rtol=1e-14)
    np.testing.assert_allclose(k_dot, b**2, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("scale", [1e-3, 0.1, 1, 100, 1e6])
@pytest.mark.parametrize("spec", [*DUALS, *SATURATING, VANISHES])
def test_kernels_are_semidefinite_whatever_the_scale(spec, scale, beta):
    """The scales include those where the function, and so K, vanishes around 0."""
    x = np.random.default_rng(0).standard_normal((20, 5))
    x[3], x[4], x[6] = 0, -x[5], x[7] * (1 + 1e-6)
    vanishes = spec == VANISHES and beta == 0 and scale <= 1  # K is like exp(−1/2q)
    with pytest.warns(nk.UnderflowWarning) if vanishes else nullcontext():
        kernels = nk.gram(nk.MLP(3, spec, 1.0, beta), x * scale, layers="all")
    for kernel in kernels:
        for layer in kernel:
            assert np.linalg.eigvalsh(layer)[0] >= -1e-13 * abs(layer).max()


def test_coefficients_and_the_table():
    """Compare the fits with G(d)/d, and the table with the integral F(h, d)."""

    def gauss(u):
        fraction = (u + 1) / mpf(owen.SLOPE)
        d = mp.sqrt(owen.CENTRE * fraction / (1 - fraction))
        return mp.erf(d / mp.sqrt(2)) / 2 / d if d > 0 else 1 / mp.sqrt(2 * mp.pi)

    for got in (owen.GAUSS_DOUBLE, owen.GAUSS_SINGLE):
        with mp.workdps(40):
            fitted = chebyfit(gauss, [-1, 1], len(got), asc=True)[::-1]
        np.testing.assert_allclose([float(c) for c in fitted], got, rtol=0, atol=1e-15)
    for h in (0.01, 1.0, 4.0, 8.0):
        powers = owen.coefficients(extended(np.array([h])))[:, 0].astype(float)
        for d in (0.01, 0.7, 3.0, 8.0):
            exact = (
                2
                * mpf(h)
                / mp.pi
                * mp.quad(
                    lambda y, h=h: (1 - mp.exp(-(h * h + y * y) / 2)) / (h * h + y * y),
                    [0, d / 2, d],
                )
            )
            u = Fraction(float(owen.variable(d)))
            found = sum(Fraction(p) * u**k for k, p in enumerate(powers.tolist()))
            assert abs(float(found) * d - float(exact)) < 2e-16
