"""ELU, SELU and CELU against their definition, integrated in polar coordinates."""

from dataclasses import replace

import numpy as np
import pytest
from dual_checks import checks, polar
from marks import marked
from mpmath import acos, chebyfit, erfc, exp, mp, mpf, ncdf, npdf, pi, quad, sin, sqrt
from piecewise import cases

from ntk_numba import activations
from ntk_numba.activations import elu, elu_integral, elu_table
from ntk_numba.engine.dual import dual, pair_dual

# Functions of this family for tests/plain.py and tests/engine/test_all_activations.py
SIGMA = {
    "elu:0.7": lambda x: cases(x, 0.7 * (np.exp(x) - 1), 0, x),
    "selu": lambda x: 1.0507009873554805 * cases(x, 1.6732632423543772 * (np.exp(x) - 1), 0, x),
    "celu:1.5": lambda x: cases(x, 1.5 * (np.exp(x / 1.5) - 1), 0, x),
}
KINKS = dict.fromkeys(SIGMA, (0.0,))


def elu_dual(p, lam, tau):
    """Return the dual of σ(x) = p x for x > 0, p·lam·tau·(exp(x/tau) − 1) for x ≤ 0."""
    return polar(
        lambda x: p * x,
        lambda x: p * lam * tau * np.expm1(-x / tau),
        lambda x: p + 0 * x,
        lambda x: p * lam * np.exp(-x / tau),
    )


SELU = (np.longdouble(1.0507009873554804934), np.longdouble(1.6732632423543772848))
DUALS = {
    "elu": elu_dual(1, 1, 1),
    "elu:0.5": elu_dual(1, np.longdouble(0.5), 1),
    "selu": elu_dual(np.longdouble(float(SELU[0])), np.longdouble(float(SELU[1])), 1),
    "celu:2": elu_dual(1, 1, np.longdouble(2)),
}

TestDuals = checks(DUALS, pair=5e-15, scales=(1,), behind=2e-10, golden=True, resolved=1e-10)


def differences(dual, reference, q):
    """Return the largest differences of cosθ_K/2 and of the rate, for random variances up to q."""
    rng = np.random.default_rng(0)
    q1, q2 = q * rng.random((2, 500)) ** 4
    q1[:100], q2[:50], q1[100:110] = q, q, 1e-12
    z = np.sin(np.pi / 2 * rng.random(500)) ** 2
    z[:10], z[110:120], z[120:130] = 0, 0, 1
    pairs = zip(pair_dual(dual, q1, q2, z), pair_dual(reference, q1, q2, z), strict=True)
    return [abs(found - expected).max() for found, expected in pairs]


@pytest.mark.parametrize("q", [0.1, 0.5, 2.25, 4, 16, 100, 1000])
def test_every_rule_is_exact_up_to_its_limit(q):
    """Compare each rule with the one that has the most nodes."""
    function = elu.Elu("", 1.0, 1.0, 1.0)
    rule, longest_rule = (
        replace(function.dual(np.inf), parameters=elu_integral.parameters(1.0, largest))
        for largest in (q, 1e4)
    )
    assert rule.parameters[0] < longest_rule.parameters[0]
    assert max(differences(rule, longest_rule, q)) < 3e-15


@pytest.mark.parametrize("spec", marked(pytest.mark.slow, ["elu:-0.3", *DUALS]))
def test_the_table_agrees_with_the_integral(spec):
    activation = activations.get(spec)
    q = elu_table.LARGEST * activation.tau**2
    within, beyond, exact = (activation.dual(limit) for limit in (q, q * 1.01, np.inf))
    assert within.loop is elu_table.loop
    assert max(differences(within, exact, q)) < 5e-15
    assert beyond.loop is elu_integral.loop
    assert max(differences(beyond, exact, q)) < 5e-15


def test_coefficients():
    def tail(u):
        y = 2 * mpf(elu_integral.CENTRE) / (u + 1) - elu_integral.CENTRE if u > -1 else mp.inf
        if y > 60:
            # the product of y e(y) and 1/(y (1 + u))
            series = sum((-1) ** k * mp.fac2(2 * k - 1) / y ** (2 * k) for k in range(12))
            return series * (1 + elu_integral.CENTRE / y) / (2 * elu_integral.CENTRE)
        return sqrt(pi / 2) * exp(y * y / 2) * erfc(y / sqrt(2)) / (u + 1)

    def sine(v):
        return sin(sqrt(v)) / sqrt(v) if v > 0 else mpf(1)

    for coefficients, function, ends in (
        (elu_integral.TAIL_DOUBLE, tail, [-1, 1]), (elu_integral.TAIL_SINGLE, tail, [-1, 1]),
        (elu_integral.SINE_DOUBLE, sine, [0, pi**2]), (elu_integral.SINE_SINGLE, sine, [0, pi**2]),
    ):  # fmt: skip
        with mp.workdps(40):
            fitted = chebyfit(function, ends, len(coefficients), asc=True)[::-1]
            assert tuple(float(c) for c in fitted) == coefficients


def exact_slopes(lam, a, b, rho):
    """Return K̇/p² by integrals over one variable, given the other one."""
    s = sqrt(1 - rho * rho)
    ends = sorted({mpf(-9), mpf(0), *(-1 / mpf(v) ** k for v in (a, b, a * b + 2) for k in (1, 2))})

    def alone(a):  # E[exp(aX); X < 0 < Y]
        return quad(lambda x: npdf(x) * exp(a * x) * ncdf(rho * x / s), ends)

    def below(x):  # E[exp(bY); Y < 0 | X = x]
        # erfc's argument is large, and so is the exponential before it
        t = (rho * x + b * s * s) / s / sqrt(2)
        return exp(b * rho * x + (b * s) ** 2 / 2) * erfc(t) / 2

    both = quad(lambda x: npdf(x) * exp(a * x) * below(x), ends)
    return (pi - acos(rho)) / (2 * pi) + lam**2 * both + lam * (alone(a) + alone(b))


@pytest.mark.parametrize(("lam", "q1", "q2"), [(3, 3700, 3700), (3, 3700, 20), (10, 1e4, 1e4)])
def test_slopes_of_large_variances(lam, q1, q2):
    """Where y e(y) is near 1, its distance from 1 has the accuracy of the result."""
    activation = activations.get(f"elu:{lam}")
    for rho in (0.9, 0.3, -0.6):
        with mp.workdps(30):
            a, b = sqrt(mpf(q1)), sqrt(mpf(q2))
            exact = float(exact_slopes(lam, a, b, mpf(rho)))
        _, found = dual(activation, q1, q2, rho)
        assert abs(found / exact - 1) < 4e-15
