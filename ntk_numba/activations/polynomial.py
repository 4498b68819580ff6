"""Polynomials: monomial, polynomial and hermite. Their series in ρ is finite.

For σ(x) = Σ_n c_n x^n, with orthonormal Hermite polynomials h_l of t ~ N(0, 1),

    σ(√q t) = Σ_l r_l(q) h_l(t),   r_l(q) = Σ_i c_{l+2i} (l+2i)!/(2^i i! √l!) q^(l/2+i)

and K = Σ_l r_l(q) r_l(q') ρ^l. Source: Mehler 1866; the expansion of x^n is that of
Abramowitz & Stegun 22.3.11 inverted. For the normalised Hermite polynomial He_n/√n! itself the
sum over i, which cancels near q = 1, is

    r_l(q) = √(n!/l!) (q − 1)^i q^(l/2)/(2^i i!),   l = n − 2i

Condition: that of the sum over i where signs of the c_n alternate; 1 for the other two.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntk_numba.activations.registry import named
from ntk_numba.duals.base import Activation, Doubles, Dual, Facts
from ntk_numba.duals.curve import curve_of
from ntk_numba.duals.hermite import Chain, series_loop
from ntk_numba.errors import InvalidValueError
from ntk_numba.extended import Extended, extended, maximum, minimum, where, whole
from ntk_numba.function import spelled, typed

HIGHEST = 20  # the largest degree


@dataclass(frozen=True)
class Polynomial(Activation):
    """σ(x) = Σ_n coefficients[n] x^n."""

    coefficients: tuple[float, ...]

    @property
    def facts(self) -> Facts:
        return Facts(
            method="finite series",
            domain="any q for which qⁿ, n the degree, is in the range of the dtype",
        )

    @property
    def _powers(self) -> list[int]:
        return [n for n, c in enumerate(self.coefficients) if c != 0] or [0]

    @property
    def _parity(self) -> int:
        parities = {n % 2 for n in self._powers}
        return 0 if len(parities) > 1 else 1 - 2 * parities.pop()

    @property
    def _chain(self) -> Chain:
        return Chain(1 if self._parity < 0 else 0, 2 if self._parity else 1)

    def dual(self, q_max: float) -> Dual:
        return Dual(
            series_loop,
            # σ ≥ 0 if there are only even powers, with coefficients that are not negative
            never_obtuse=self._parity == 1 and min(self.coefficients) >= 0,
            parameters=self._chain.parameters(len(self.coefficients)),
            coefficients=self._of_samples,
            curve=self._curve,
            parity=self._parity,
        )

    def __call__(self, x: Any) -> Any:
        return _evaluated(self.coefficients, x)

    def derivative(self, x: Any) -> Any:
        return _evaluated([n * c for n, c in enumerate(self.coefficients)][1:] or [0.0], x)

    def _scaled(self, q: Extended) -> Extended:
        """Return the r_l divided by q^(n/2), (degree + 1, N).

        n is the lowest power of x where q ≤ 1, and the highest elsewhere.
        """
        scale = np.where(q <= 1, self._powers[0], self._powers[-1])
        out = extended(np.zeros((len(self.coefficients), q.size)))
        for n in self._powers:
            c = self.coefficients[n]
            power = _power(q, n - scale)
            for i in range(n // 2 + 1):
                degree = n - 2 * i
                # n!/(2^i i! √l!), the integers exactly
                factor = whole(math.factorial(n) // (2**i * math.factorial(i)))
                out[degree] += c * power * factor / np.sqrt(whole(math.factorial(degree)))
        return out

    def moment(self, q: Extended) -> Extended:
        """Return Σ_l r_l²."""
        scale = np.where(q <= 1, self._powers[0], self._powers[-1])
        return (self._scaled(q) ** 2).sum(axis=0) * _power(q, 2 * scale)

    def _of_samples(self, q: Extended) -> Doubles:
        r = self._scaled(q)
        norm = np.sqrt((r**2).sum(axis=0))
        return self._chain.coefficients((r / where(norm > 0, norm, 1)).astype(float))

    def _curve(self, q: Extended) -> Doubles:
        # the range of q in which squares of σ and of its terms neither overflow nor vanish; outside
        # of it, one power dominates
        low, high = max(self._powers[0], 1), max(self._powers[-1], 1)
        within = minimum(maximum(q, 2.0 ** (-830 // low)), 2.0 ** (830 // high - 13))
        return curve_of(self)(within)


class Hermite(Polynomial):
    """σ(x) = He_n(x)/√n!; its r_l have one term each, unlike those of a `Polynomial`."""

    def _scaled(self, q: Extended) -> Extended:
        n = len(self.coefficients) - 1
        scale = np.where(q <= 1, self._powers[0], self._powers[-1])
        out = extended(np.zeros((n + 1, q.size)))
        for i in range(n // 2 + 1):
            degree = n - 2 * i
            factor = np.sqrt(whole(math.factorial(n) // math.factorial(degree)))
            factor /= whole(2**i * math.factorial(i))
            # (q − 1)^i q^((l − scale)/2), which is a power of 1 − 1/q if the scale is n
            small = (q - 1) ** i * _power(minimum(q, 1), degree - self._powers[0])
            large = (1 - 1 / maximum(q, 1)) ** i
            out[degree] = (
                factor * where(scale == self._powers[0], small, large) if n > 1 else factor
            )
        return out


def _power(q: Extended, exponent: Any) -> Extended:
    """Return q^(exponent/2), with 0^0 = 1."""
    return np.sqrt(q) ** np.asarray(exponent)


def _evaluated(coefficients: Sequence[float], x: Any) -> Any:
    """Return Σ_n coefficients[n] x^n, by Horner's rule."""
    value = np.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        value = value * x + c
    return typed(value, x)


def whole_degree(name: str, n: float, lowest: int) -> int:
    """Return n as an int, or raise an error if it is no whole number from `lowest` to `HIGHEST`."""
    if n != int(n) or not lowest <= n <= HIGHEST:
        raise InvalidValueError(
            f"activation {name}: the degree must be a whole number from {lowest} to {HIGHEST}, "
            f"not {n:g}"
        )
    return int(n)


@named()
def monomial(n: float = 2) -> Activation:
    """σ(x) = xⁿ, n = 1 to 20."""
    degree = whole_degree("monomial", n, 1)
    return Polynomial(spelled("monomial", n), (0.0,) * degree + (1.0,))


@named()
def polynomial(*coefficients: float) -> Activation:
    """σ(x) = c0 + c1·x + c2·x² + …, up to the power 20."""
    while len(coefficients) > 1 and coefficients[-1] == 0:
        coefficients = coefficients[:-1]
    if not 1 <= len(coefficients) <= HIGHEST + 1:
        raise InvalidValueError(f"activation polynomial takes 1 to {HIGHEST + 1} coefficients")
    return Polynomial(spelled("polynomial", *coefficients), coefficients)


@named()
def hermite(n: float = 2) -> Activation:
    """σ(x) = Heₙ(x)/√n!, the probabilists' Hermite polynomial with E[σ²] = 1 at q = 1, n ≤ 20."""
    degree = whole_degree("hermite", n, 0)
    exact = [[1], [0, 1]]
    for k in range(1, degree):
        # He_{k+1} = x He_k − k He_{k−1}
        times_x, before = [0, *exact[k]], [*exact[k - 1], 0, 0]
        exact.append([a - k * b for a, b in zip(times_x, before, strict=True)])
    root = math.sqrt(math.factorial(degree))
    return Hermite(spelled("hermite", n), tuple(c / root for c in exact[degree]))
