import itertools

import numba
import numpy as np
import oracle
import pytest
from mpmath import mp, mpf
from numpy.polynomial.hermite_e import hermegauss
from piecewise import cases

from ntk_numba import activations
from ntk_numba.activations.one_kink import dual

# Functions of this family for tests/plain.py and tests/engine/test_all_activations.py
SIGMA = {
    "identity": lambda x: x,
    "relu": lambda x: cases(x, 0 * x, 0, x),
    "abs": lambda x: cases(x, -x, 0, x),
    "leaky_relu:0.2": lambda x: cases(x, 0.2 * x, 0, x),
    "ab_relu:-0.5,1.5": lambda x: cases(x, -0.5 * x, 0, 1.5 * x),
}
KINKS = {spec: (0.0,) for spec in SIGMA if spec != "identity"}

SPECS = ["identity", "relu", "leaky_relu", "leaky_relu:0.3", "ab_relu:-0.5,2", "abs"]


def expectation(f, q1, q2, s):
    """Return the mean of f(u)f(v) over the angle of a Gaussian pair of radius 1.

    Panels end at the kinks; callers multiply by the mean over the radius, which is exact.
    """
    root = np.linalg.cholesky([[q1, s], [s, q2]])
    # u and v change sign where a row of the root is orthogonal to the direction
    kinks = sorted(np.arctan2(-row[0], row[1]) % np.pi for row in root)
    edges = np.unique([0, *kinks, np.pi, *(k + np.pi for k in kinks), 2 * np.pi])
    nodes, weights = np.polynomial.legendre.leggauss(60)
    total = 0.0
    for a, b in itertools.pairwise(edges):
        t = (a + b) / 2 + (b - a) / 2 * nodes
        u, v = root @ np.array([np.cos(t), np.sin(t)])
        total += (b - a) / 2 * np.sum(weights * f(u) * f(v))
    return total / (2 * np.pi)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(
    ("q1", "q2", "s"), [(1, 1, 0.3), (2, 0.5, -0.9), (0.1, 3, 0.54), (1, 2, 0)]
)
def test_the_oracle_agrees_with_quadrature_of_sigma_itself(spec, q1, q2, s):
    activation = activations.get(spec)
    k, k_dot = oracle.expectations((activation.a, activation.b), mpf(q1), mpf(q2), mpf(s))
    # σ is homogeneous, so the mean over the radius is E[r²] = 2 for K and 1 for K̇
    assert 2 * expectation(activation, q1, q2, s) == pytest.approx(float(k), abs=1e-12)
    assert expectation(activation.derivative, q1, q2, s) == pytest.approx(float(k_dot), abs=1e-12)


@pytest.mark.parametrize("spec", SPECS)
def test_second_moment(spec):
    activation = activations.get(spec)
    nodes, weights = hermegauss(80)
    q = np.array([0.3, 5.0])
    direct = [np.sum(weights * activation(np.sqrt(v) * nodes) ** 2) for v in q]
    np.testing.assert_allclose(activation.second_moment(q), direct / np.sqrt(2 * np.pi), rtol=1e-12)


@numba.njit
def call_dual(z, w, odd, even):
    return dual(z, w, odd, even)


@pytest.mark.parametrize("real", [np.float64, np.float32])
@pytest.mark.parametrize("spec", SPECS)
def test_dual_is_accurate_at_every_angle(spec, real):
    """Errors are relative to each of the values, at all angles from parallel to opposite."""
    activation = activations.get(spec)
    odd, even = (real(p) for p in activation.dual(np.inf).parameters)
    assert odd + even == pytest.approx(1)
    eps = float(np.finfo(real).eps)
    small = np.logspace(-30, np.log10(0.5), 40).astype(real)
    for m in small:
        for z, w in ((m, real(1) - m), (real(1) - m, m)):
            got = call_dual(z, w, odd, even)
            assert [np.dtype(type(v)) for v in got] in ([np.dtype(real)] * 3, [np.dtype(float)] * 3)
            half = mp.asin(mp.sqrt(mpf(float(m))))
            theta = 2 * half if z <= w else mp.pi - 2 * half
            exact_z = mpf(float(m)) if z <= w else 1 - mpf(float(m))
            h = (mp.sin(theta) - theta * mp.cos(theta)) / mp.pi
            zk, wk = exact_z - float(even) * h, 1 - exact_z + float(even) * h
            rate = 1 - 2 * float(even) * theta / mp.pi
            assert abs(got[0] - zk) <= 6 * eps * (zk if z <= w or spec == "abs" else 1)
            assert abs(got[1] - wk) <= 6 * eps * (wk if z > w else 1)
            assert abs(got[2] - rate) <= 6 * eps * (rate if spec == "relu" and z > w else 1)
    assert call_dual(real(0), real(1), odd, even) == (0, 1, 1)


def test_derivative_is_that_of_the_function():
    x = np.linspace(-2, 2, 41) + 0.013
    for spec in SPECS:
        activation = activations.get(spec)
        difference = (activation(x + 1e-7) - activation(x - 1e-7)) / 2e-7
        np.testing.assert_allclose(activation.derivative(x), difference, atol=1e-6)
