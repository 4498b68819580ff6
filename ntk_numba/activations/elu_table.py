"""ELU and its kin for variances of a few τ²: the integrals of `elu` from a table.

For a, b up to √`LARGEST`, D(a, b)/ab is a polynomial in u(a), u(b) and Ω, u = a/(a + c), to
rounding, and so is what a sample adds on its own. A row of a tile contracts the table with its a
once; what is left for a pair is a polynomial in Ω for each power of u(b), and no integral.
"""

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from ntk_numba.activations import elu
from ntk_numba.compiled.intrinsics import (
    fma,
    sample_polynomial,
    stack_array,
    wide_vectors,
)
from ntk_numba.compiled.loops import Row
from ntk_numba.duals.base import Activation, Floats, spelled
from ntk_numba.duals.panels import points, to_coefficients
from ntk_numba.duals.quadrature import gauss_legendre
from ntk_numba.duals.special import supplement
from ntk_numba.errors import InvalidValueError

Exact = NDArray[np.longdouble]

LARGEST = 2.25  # of a²
CENTRE = 5.0  # c
POWERS = 26  # of Ω
BASIS = 12  # Chebyshev polynomials of u
WIDTH = 16  # of a row of the table, for the sake of vectors
SIZE = POWERS * WIDTH
REACH, NODES = 9, 20  # of the integral over the radius, and of that over the angle

# The traits: those of `elu`, the polynomials of u, and powers of Ω in what a sample adds
UPON, VALUE, SLOPE = 5, 5 + BASIS, 5 + BASIS + POWERS

BLOCK = 128  # columns at a time
OMEGA, SINE, PLACE, TOGETHER = range(4)
_working, _contracted = stack_array(4, BLOCK), stack_array(POWERS, WIDTH)
_of_angle = sample_polynomial(POWERS, POWERS, 2)


def _row(
    z: Floats, w: Floats, zk: Floats, wk: Floats, rate: Floats,
    mine: Floats, theirs: Floats, parameters: Floats,
) -> None:  # fmt: skip
    wide_vectors()
    real = z.dtype.type
    one, half, none = real(1), real(0.5), real(0)
    two_over_pi, turn = real(2) / real(np.pi), real(0.5 / np.pi)
    working, contracted = _working(one), _contracted(one)
    omega, sines, place, together = working[OMEGA], working[SINE], working[PLACE], working[TOGETHER]
    share, line = parameters[0], parameters[1]
    flat = contracted.reshape(SIZE)
    flat[:] = none
    for m in range(BASIS):
        upon = share * mine[UPON + m, 0]
        table = parameters[2 + m * SIZE : 2 + (m + 1) * SIZE]
        for k in range(SIZE):
            flat[k] = fma(upon, table[k], flat[k])
    a, scale = mine[elu.A, 0], mine[elu.SCALE, 0]
    for begin in range(0, z.size, BLOCK):
        end = min(begin + BLOCK, z.size)
        count = end - begin
        z_n, w_n = z[begin:end], w[begin:end]
        bs, scales = theirs[elu.A, begin:end], theirs[elu.SCALE, begin:end]
        for j in range(count):
            omega[j], sines[j] = supplement(z_n[j], w_n[j])
            place[j] = fma(two_over_pi, omega[j], -one)
            together[j] = none
        for n in range(BASIS):
            upons = theirs[UPON + n, begin:end]
            for j in range(count):
                together[j] = fma(upons[j], _of_angle(place[j], contracted, 0, n), together[j])
        z_out, w_out, rate_out = zk[begin:end], wk[begin:end], rate[begin:end]
        for j in range(count):
            omega[j] *= turn
            sines[j] = fma(turn, sines[j], omega[j] * (w_n[j] - z_n[j])) + together[j]
            together[j] = fma(a * bs[j], together[j], line * omega[j])
            sines[j] += _of_angle(place[j], mine, VALUE, 0)
            together[j] += _of_angle(place[j], mine, SLOPE, 0)
        for j in range(count):
            sines[j] += _of_angle(place[j], theirs, VALUE, begin + j)
            together[j] += _of_angle(place[j], theirs, SLOPE, begin + j)
        for j in range(count):
            size = scale * scales[j]
            k = size * sines[j]
            z_out[j], w_out[j] = fma(-half, k, half), fma(half, k, half)
            rate_out[j] = size * together[j]


@dataclass(frozen=True)
class AnyElu(elu.Elu):
    """`Elu`, to be made ready by a table where that reaches."""

    def up_to(self, q: float) -> Activation:
        kind = SmallElu if q <= LARGEST * self.tau**2 else elu.Elu
        return kind(self.name, self.p, self.share, self.tau, q)


@dataclass(frozen=True)
class SmallElu(AnyElu):
    """Ready for variances up to `LARGEST`·τ²."""

    row: ClassVar[Row] = Row(_row)

    @property
    def parameters(self) -> tuple[float, ...]:
        """λ², 1 − λ² and the table."""
        return (self.share**2, 1 - self.share**2, *_flat_table())

    def traits(self, q: Floats) -> Floats:
        own = super().traits(q)
        u = _variable(own[0])
        alone = chebyshev.chebval(u, _tables()[1])  # N and H, in powers
        value, line = self.share * alone[1], (self.share**2 - self.share) * alone[0]
        line[0] += self.share * own[1]
        return np.concatenate([own, chebyshev.chebvander(u, BASIS - 1).T, value, line])


def _variable(a: Floats) -> Floats:
    """2u(a)/u(√LARGEST) − 1."""
    top = np.sqrt(a.dtype.type(LARGEST))
    return np.asarray(2 * (a / (a + CENTRE)) * ((top + CENTRE) / top) - 1)


@cache
def _tables() -> tuple[Exact, Exact]:
    """D/ab, (BASIS, BASIS, POWERS), and of one sample N(a, 0) and

        H(a) = cosθ g(a) − (sinθ/2π) ε(a sinθ),

    (BASIS, 2, POWERS): Chebyshev coefficients in u, powers of 2Ω/π − 1.
    """
    real = np.longdouble
    pi = 4 * np.arctan(real(1))
    top = np.sqrt(real(LARGEST))
    u = (points(BASIS, real) + 1) / 2 * (top / (top + CENTRE))
    a = CENTRE * u / (1 - u)
    omega = (points(POWERS, real) + 1) / 2 * pi
    x, weights = gauss_legendre()
    r = (np.arange(REACH)[:, None] + (1 + x) / 2).ravel()
    density = np.tile(weights / 2, REACH) * np.exp(-r * r / 2)
    x, weights = gauss_legendre(NODES)
    chi, weights = (1 + x) / 2, weights / 2
    pairs, alone = np.empty((BASIS, BASIS, POWERS), real), np.empty((BASIS, 2, POWERS), real)
    for k, angle in enumerate(omega):
        # 1 − exp(−α r), α = a sinχ; turned round it is that of β
        less = -np.expm1(-np.sin(angle * chi)[:, None] * a[:, None, None] * r)
        weighted = (less * (weights[:, None] * density * r)).reshape(BASIS, -1)
        pairs[:, :, k] = weighted @ less[:, ::-1].reshape(BASIS, -1).T / np.outer(a, a)
        pairs[:, :, k] *= angle / (2 * pi)
        alone[:, 0, k] = angle / (2 * pi) * (1 - weighted.sum(axis=1))
        s = np.sin(angle)
        axis = np.exp(-a[:, None] * r) @ density / np.sqrt(2 * pi)
        bulge = -np.expm1(-s * a[:, None] * r) @ density / (s * a)
        alone[:, 1, k] = -np.cos(angle) * (axis - alone[:, 0, k]) - s / (2 * pi) * bulge
    to_powers = np.zeros((POWERS, POWERS), real)
    for k in range(POWERS):
        to_powers[: k + 1, k] = chebyshev.cheb2poly(np.eye(POWERS)[k])[: k + 1]
    # one after the other: the product of the two matrices would have lost digits
    in_angle, in_u = to_coefficients(POWERS, real), to_coefficients(BASIS, real)
    pairs = np.einsum("im,jn,kl,mnl->ijk", in_u, in_u, in_angle, pairs, optimize=True)
    alone = np.einsum("im,kl,mnl->ink", in_u, in_angle, alone, optimize=True)
    return pairs @ to_powers.T, alone @ to_powers.T


@cache
def _flat_table() -> tuple[float, ...]:
    """In the order in which a row reads it, rows of WIDTH."""
    table = np.zeros((BASIS, POWERS, WIDTH))
    table[:, :, :BASIS] = _tables()[0].transpose(0, 2, 1)
    return tuple(table.ravel().tolist())


def elu_(alpha: float = 1.0) -> Activation:
    """σ(x) = x for x > 0, alpha·(exp(x) − 1) else."""
    return AnyElu("elu" if alpha == 1 else spelled("elu", alpha), 1.0, alpha, 1.0)


def selu() -> Activation:
    """σ(x) = 1.0507·x for x > 0, 1.7581·(exp(x) − 1) else."""
    # Klambauer, Unterthiner, Mayr & Hochreiter 2017, *Self-normalizing neural networks*
    return AnyElu("selu", 1.0507009873554804934193349852946, 1.6732632423543772848170429916717, 1.0)


def celu(alpha: float = 1.0) -> Activation:
    """σ(x) = x for x > 0, alpha·(exp(x/alpha) − 1) else; alpha > 0."""
    if not alpha > 0:
        raise InvalidValueError(f"activation celu: alpha must be positive, not {alpha}")
    return AnyElu("celu" if alpha == 1 else spelled("celu", alpha), 1.0, 1.0, alpha)
