"""The dual of ELU from a table of the integrals of `elu_integral`, for variances of a few τ².

For a, b up to √`LARGEST`, D(a, b)/ab is a polynomial in u(a), u(b) and Ω, u = a/(a + c), to
rounding, and so are the terms that belong to one sample. A row of a tile contracts the table with
its a once; what is left for a pair is a polynomial in Ω for each power of u(b), and no integral.
"""

from functools import cache

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from ntk_numba.activations.elu_integral import SCALE, A
from ntk_numba.compiled.intrinsics import (
    fma,
    sample_polynomial,
    stack_array,
    wide_vectors,
)
from ntk_numba.compiled.loops import Angles, DualLoop
from ntk_numba.duals.panels import points, to_coefficients
from ntk_numba.duals.quadrature import gauss_legendre
from ntk_numba.duals.special import supplement
from ntk_numba.function import Floats

Exact = NDArray[np.longdouble]

LARGEST = 2.25  # of a²
CENTRE = 5.0  # c
POWERS = 26  # of Ω
BASIS = 12  # Chebyshev polynomials of u
WIDTH = 16  # of a row of the table, for the sake of vectors
SIZE = POWERS * WIDTH
REACH, NODES = 9, 20  # of the integral over the radius, and of that over the angle

# The rows of a sample's coefficients after those of `elu_integral`: the polynomials of u, and
# powers of Ω in the terms that belong to one sample
UPON, VALUE, SLOPE = 3, 3 + BASIS, 3 + BASIS + POWERS

BLOCK = 128  # columns at a time
OMEGA, SINE, PLACE, TOGETHER = range(4)
_working, _contracted = stack_array(4, BLOCK), stack_array(POWERS, WIDTH)
_of_angle = sample_polynomial(POWERS, POWERS, 2)


def _row(angles: Angles, row: Floats, columns: Floats, parameters: Floats) -> None:
    wide_vectors()
    z, w, zk, wk, rate = angles
    real = z.dtype.type
    one, half, none = real(1), real(0.5), real(0)
    two_over_pi, turn = real(2) / real(np.pi), real(0.5 / np.pi)
    working, contracted = _working(one), _contracted(one)
    omega, sines, place, together = working[OMEGA], working[SINE], working[PLACE], working[TOGETHER]
    share, line = parameters[0], parameters[1]
    flat = contracted.reshape(SIZE)
    flat[:] = none
    for m in range(BASIS):
        upon = share * row[UPON + m, 0]
        table = parameters[2 + m * SIZE : 2 + (m + 1) * SIZE]
        for k in range(SIZE):
            flat[k] = fma(upon, table[k], flat[k])
    a, scale = row[A, 0], row[SCALE, 0]
    for begin in range(0, z.size, BLOCK):
        end = min(begin + BLOCK, z.size)
        count = end - begin
        z_n, w_n = z[begin:end], w[begin:end]
        bs, scales = columns[A, begin:end], columns[SCALE, begin:end]
        for j in range(count):
            omega[j], sines[j] = supplement(z_n[j], w_n[j])
            place[j] = fma(two_over_pi, omega[j], -one)
            together[j] = none
        for n in range(BASIS):
            upons = columns[UPON + n, begin:end]
            for j in range(count):
                together[j] = fma(upons[j], _of_angle(place[j], contracted, 0, n), together[j])
        z_out, w_out, rate_out = zk[begin:end], wk[begin:end], rate[begin:end]
        for j in range(count):
            omega[j] *= turn
            sines[j] = fma(turn, sines[j], omega[j] * (w_n[j] - z_n[j])) + together[j]
            together[j] = fma(a * bs[j], together[j], line * omega[j])
            sines[j] += _of_angle(place[j], row, VALUE, 0)
            together[j] += _of_angle(place[j], row, SLOPE, 0)
        for j in range(count):
            sines[j] += _of_angle(place[j], columns, VALUE, begin + j)
            together[j] += _of_angle(place[j], columns, SLOPE, begin + j)
        for j in range(count):
            size = scale * scales[j]
            k = size * sines[j]
            z_out[j], w_out[j] = fma(-half, k, half), fma(half, k, half)
            rate_out[j] = size * together[j]


loop = DualLoop(_row)
"""Its parameters are those of `parameters`; a sample's coefficients are those of
`elu_integral` and those of `coefficients`."""


def parameters(share: float) -> tuple[float, ...]:
    """Return λ², 1 − λ² and the table."""
    return (share**2, 1 - share**2, *_flat_table())


def coefficients(share: float, a: Floats, axis: Floats) -> Floats:
    """Return what samples have besides a, e(a)/√(2π) and their scale, see `UPON`, `VALUE`, `SLOPE`.

    a, axis : (N,) the first two of these
    """
    u = _variable(a)
    alone = chebyshev.chebval(u, _tables()[1])  # N and H, in powers
    value, line = share * alone[1], (share**2 - share) * alone[0]
    line[0] += share * axis
    return np.concatenate([chebyshev.chebvander(u, BASIS - 1).T, value, line])


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
