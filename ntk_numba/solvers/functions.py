"""What gradient flow makes of columns, of a matrix that no eigendecomposition can hold.

With A = K + ρI, the solution of u′ = V − A u, u(0) = 0, at the time τ is

    u(τ) = g(A) V,   g(a) = (1 − e^(−aτ))/a,

which goes to A⁻¹ V, of `ntk_numba.solve`. It is approximated in a block Krylov space with the
orthonormal basis Q, in which A is the small matrix H: u = Q g(H) QᵀV. Two spaces serve:

- that of K, from products with K alone. The residual V − A u − u′ at a time s is the coupling B of
  the last block times the last entries of the small solution. The error of A u is at most the
  variation of the residual until τ, about twice its largest value. If the space grows too large
  before that is small, the solution goes on from the latest time s at which it is:
  u(s + s′) = u(s) + g_s′(A)(V − A u(s)).
- that of S = (I + γA)⁻¹, with γ = τ/10, from solutions with a Cholesky factor of
  K + (ρ + 1/γ)I. Its eigenvalues are those of A, bent into (0, 1], which takes a few solutions
  whatever the condition of K. The error is estimated by ten times what the last block changes in
  A u.

Sources: M. Hochbruck, C. Lubich, *On Krylov subspace approximations to the matrix exponential
operator*, SIAM J. Numer. Anal. 34, 1997; J. van den Eshof, M. Hochbruck, *Preconditioning Lanczos
approximations to the matrix exponential*, SIAM J. Sci. Comput. 27, 2006; M. Botchev, V. Grimm,
M. Hochbruck, *Residual, restarting and Richardson iteration for the matrix exponential*, SIAM J.
Sci. Comput. 35, 2013.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba import stopping
from ntk_numba.arguments import show_bytes
from ntk_numba.blas import blas_threads
from ntk_numba.errors import InvalidValueError, NotConvergedError
from ntk_numba.machine import threads_to_use
from ntk_numba.solvers.krylov import KrylovSpace
from ntk_numba.solvers.leading import eigenpairs

Doubles = NDArray[np.float64]

BEND = 0.1  # γ/τ
EXTRA = 60  # random columns beside those of V: they find the large eigenvalues sooner
SHARE = 15  # N is at least this many times their number
WIDEST = 2000  # columns of a space
STEP = 6  # arrays of the size of a block, at most, that a step makes beside the basis
TIMES = 40  # times, at geometric distances, at which the residual is computed
EARLIEST = 1e-6  # of these times, in units of τ
PASSES = 1000  # at most, of all spaces
PORTION = 0.05  # of the error that is still allowed, for a step that does not reach τ
SAFETY = 10  # the error, at most, in units of what the last block of solutions changes


def gain(values: Doubles, time: float) -> Doubles:
    """Return (1 − e^(−aτ))/a for eigenvalues a, which is τ at a = 0."""
    rates = values * time
    small = rates == 0
    return np.where(small, time, -np.expm1(-rates) / np.where(small, 1.0, values))


class Applied(NamedTuple):
    """The solution u(τ), and what is known of its error.

    columns : (N, K)
    error : the largest error of a column of A u, in units of that of V; an estimate
    passes : the number of products, or of solutions
    """

    columns: Doubles
    error: float
    passes: int


def by_products(
    operator: Any,
    shift: float,
    time: float,
    columns: Doubles,
    *,
    tolerance: float,
    memory: int,
    threads: int | None = None,
) -> Applied:
    """Return g(A) @ columns from products with K alone.

    Parameters
    ----------
    operator : K, with `operator @ columns`
    shift : ρ ≥ 0
    time : τ, finite
    columns : (N, K), finite
    tolerance : of A u, in units of each column
    memory : bytes that all vectors may take

    Raises
    ------
    ValueError
        If the memory is too little.
    NotConvergedError
        The error is not small enough after 1,000 products.
    """
    size, count = columns.shape
    lengths = _lengths(columns)
    found = np.zeros_like(columns)
    if not lengths.any() or time == 0:
        return Applied(found, 0.0, 0)
    lengths[lengths == 0] = 1
    extra = min(EXTRA, size // SHARE)
    noise = np.random.default_rng(0).standard_normal((size, extra)) / np.sqrt(size)
    room = min(memory // (8 * size) - STEP * (count + extra), WIDEST + 2 * (count + extra))
    if room < 3 * (count + extra):
        raise InvalidValueError(
            f"memory={show_bytes(memory)} is too little for {count} columns of {size:,} rows"
        )
    left, budget, passes, rest = time, tolerance, 0, columns / lengths
    with blas_threads(threads_to_use(threads)):  # which searches for BLAS when it is opened
        while True:
            space = KrylovSpace(np.concatenate([rest, noise], axis=1), threads=threads)
            while True:
                stopping.check()
                space.extend(np.array(operator @ space.last, float))
                passes += 1
                projected = Projected(space, count, shift)
                errors = projected.errors(times := _times(left))
                full = space.size + space.last.shape[1] > room or not space.last.size
                if errors[-1] <= budget / 2 or full or passes >= PASSES:
                    break
            allowed = np.full(len(errors), budget * PORTION)
            allowed[-1] = budget / 2
            good = np.flatnonzero(errors <= allowed)
            if not len(good) or passes >= PASSES:
                raise NotConvergedError.after(
                    passes,
                    float(errors[-1]),
                    f"the outputs at this time have a relative error of {errors[-1]:.1e} after "
                    f"{passes} products, more than tolerance={tolerance:g}; give a larger "
                    f"tolerance or ridge, or a folder for a factor (scratch)",
                )
            step = float(times[good[-1]])
            found += space.combine(projected.solution(step))
            budget -= float(errors[good[-1]])
            if step == left:
                return Applied(found * lengths, tolerance - budget, passes)
            left -= step
            rest = columns / lengths - np.asarray(operator @ found) - shift * found
            passes += 1


class Projected:
    """The small system of a space of K, for the first `count` columns of its start."""

    def __init__(self, space: KrylovSpace, count: int, shift: float) -> None:
        values, self._vectors = eigenpairs(space.matrix())
        # rounding may have made them negative: K has no negative eigenvalues
        self._values = np.maximum(values, 0.0) + shift
        start = space.below[0][:, :count]
        with blas_threads(1):
            self._right = self._vectors[: len(start)].T @ start
            self._last = space.below[-1] @ self._vectors[len(values) - len(space.diagonal[-1]) :]

    def solution(self, time: float) -> Doubles:
        """Return the coefficients of u(τ) in the basis."""
        with blas_threads(1):
            return np.asarray(self._vectors @ (gain(self._values, time)[:, None] * self._right))

    def errors(self, times: Doubles) -> Doubles:
        """Return bounds of the errors of A u at times, the largest of all columns."""
        bounds, largest = [], 0.0
        with blas_threads(1):
            for time in times:
                residual = self._last @ (gain(self._values, float(time))[:, None] * self._right)
                largest = max(largest, float(np.linalg.norm(residual, axis=0).max(initial=0.0)))
                bounds.append(2 * largest)
        return np.array(bounds)


def by_solutions(
    solve: Callable[[Doubles], Doubles],
    bend: float,
    time: float,
    columns: Doubles,
    *,
    tolerance: float,
    threads: int | None = None,
) -> Applied:
    """Return g(A) @ columns from solutions with a factor.

    Parameters
    ----------
    solve : columns ↦ (A + I/γ)⁻¹ columns
    bend : γ
    time : τ, finite
    columns : (N, K), finite
    tolerance : of A u, in units of each column

    Raises
    ------
    NotConvergedError
        The error is not small enough when it no longer falls.
    """
    lengths = _lengths(columns)
    if not lengths.any() or time == 0:
        return Applied(np.zeros_like(columns), 0.0, 0)
    lengths[lengths == 0] = 1
    space = KrylovSpace(columns / lengths, threads=threads)
    before, best = np.zeros((0, columns.shape[1])), np.inf
    with blas_threads(threads_to_use(threads)):  # as above
        for passes in range(1, PASSES):
            stopping.check()
            space.extend(np.array(solve(space.last), float) / bend)
            values, vectors = eigenpairs(space.matrix())
            # within (0, 1], but for rounding
            original = (1 / np.clip(values, np.finfo(float).tiny, 1.0) - 1) / bend
            start = space.below[0]
            with blas_threads(1):
                right = vectors[: len(start)].T @ start
                inner = vectors @ (gain(original, time)[:, None] * right)
                change = inner.copy()
                change[: len(before)] -= before
                effect = original[:, None] * (vectors.T @ change)
            error = SAFETY * float(np.linalg.norm(effect, axis=0).max())
            before = inner
            if error <= tolerance or not space.last.size:
                return Applied(space.combine(inner) * lengths, error, passes)
            if passes > 20 and error > best / 2:
                break
            best = min(best, error)
    raise NotConvergedError.after(
        passes,
        error,
        f"the outputs at this time have a relative error of {error:.1e}, which no longer falls, "
        f"more than tolerance={tolerance:g}; give a larger tolerance or ridge",
    )


def _lengths(columns: Doubles) -> Doubles:
    """Return the lengths of columns, without over- or underflow."""
    largest = np.abs(columns).max(axis=0, initial=0.0)
    unit = np.where(largest > 0, largest, 1.0)
    return np.asarray(unit * np.linalg.norm(columns / unit, axis=0))


def _times(last: float) -> Doubles:
    """Return times until the last one."""
    return np.append(last * np.geomspace(EARLIEST, 1, TIMES)[:-1], last)
