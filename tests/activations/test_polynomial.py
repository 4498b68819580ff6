"""Polynomials: their kernels are checked in tests/engine/test_all_activations.py."""

import numpy as np
import pytest

from ntk_numba import activations

# Functions of this family for tests/plain.py and tests/engine/test_all_activations.py
SIGMA = {
    "monomial:3": lambda x: x**3,
    "polynomial:0.5,-1,0,0.25": lambda x: 0.5 - x + 0.25 * x**3,
    "hermite:2": lambda x: (x * x - 1) / np.sqrt(2),
}


@pytest.mark.parametrize("spec", [*SIGMA, "hermite:5", "polynomial:1"])
def test_sigma_derivative_and_second_moment(spec):
    activation = activations.get(spec)
    x = np.linspace(-2, 2, 41)
    if spec in SIGMA:
        np.testing.assert_allclose(activation(x), SIGMA[spec](x), rtol=1e-14, atol=1e-15)
    difference = (activation(x + 1e-6) - activation(x - 1e-6)) / 2e-6
    np.testing.assert_allclose(activation.derivative(x), difference, rtol=1e-8, atol=1e-8)
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)  # exact up to degree 23
    q = np.array([0.3, 1.0, 5.0])
    direct = [weights @ activation(np.sqrt(v) * nodes) ** 2 for v in q]
    exact = np.array(direct) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(activation.second_moment(q), exact, rtol=1e-12)


@pytest.mark.parametrize("n", range(21))
def test_hermite_polynomials_are_normalised(n):
    second_moment = activations.get(f"hermite:{n}").second_moment(np.ones(1))
    np.testing.assert_allclose(second_moment, 1, rtol=1e-14)


@pytest.mark.parametrize(
    ("spec", "parity"),
    [("monomial:3", -1), ("monomial:4", 1), ("hermite:2", 1), ("polynomial:1,1", 0)],
)
def test_parity(spec, parity):
    assert activations.get(spec).dual(1.0).parity == parity


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("monomial:0", "monomial: the degree must be a whole number from 1 to 20, not 0"),
        ("monomial:2.5", "the degree must be"),
        ("hermite:21", "hermite: the degree must be a whole number from 0 to 20, not 21"),
        ("polynomial:" + ",".join(["1"] * 22), "takes 1 to 21 coefficients"),
    ],
)
def test_bad_parameters(spec, message):
    with pytest.raises(ValueError, match=message):
        activations.get(spec)
