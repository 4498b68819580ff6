"""The linear systems (K + ridge·I) x = y for several ridges and columns y, for iterations.

Columns and matrix are scaled by powers of two, so that no square of a number over- or underflows.
"""

import math
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ntk_numba import stopping
from ntk_numba.errors import InvalidValueError, NotConvergedError, NotPositiveDefiniteError
from ntk_numba.operators.operator import GramOperator, OtherOperator
from ntk_numba.solvers.tall import tall

Floats = NDArray[np.float64]

SIGNS = 64  # random vectors from which a trace is estimated
USUAL = 200  # the largest exponent of 2 of a diagonal that is not scaled


class Limits(NamedTuple):
    """When an iteration ends, and what it may take.

    tolerance : the relative residual that each column is to reach
    passes : the largest number of products with the matrix
    memory : bytes that vectors may take
    threads : the largest number of threads
    progress : whether to show a progress bar
    """

    tolerance: float
    passes: int
    memory: int
    threads: int
    progress: bool


class Systems:
    """The systems (K + ridge_r I) x_p = y_p, one for each pair p of a ridge and a column.

    Parameters
    ----------
    operator : K
    ridges : (R,) absolute
    right : (N, K), finite
    name : the name of the matrix, for errors

    Attributes
    ----------
    right : (N, K'), the columns that are not zero, of lengths between 1/2 and 1
    ridges : (R,), divided by what K is divided by
    given_ridges : list of R floats, as they were given
    shift, column : (P,), the ridge and the number of the column of each pair, P = R K'
    passes : the number of products
    """

    def __init__(
        self, operator: GramOperator, ridges: Floats, right: Floats, limits: Limits, name: str
    ) -> None:
        self.operator, self.limits, self.name = operator, limits, name
        self._all, self.given_ridges = right.shape[1], ridges.tolist()
        largest = float(ridges.max())
        self._keeps = isinstance(operator, OtherOperator)
        if not self._keeps:  # else the diagonal takes many passes
            diagonal = operator.diag()
            self._check_diagonal(diagonal, ridges)
            largest = max(largest, float(diagonal.max()))
        exponent = math.frexp(largest)[1]
        self._exponent = exponent if abs(exponent) > USUAL else 0
        self.ridges = np.ldexp(ridges, -self._exponent)
        top = np.abs(right).max(axis=0, initial=0.0)
        self._wanted = np.flatnonzero(top)
        columns = right[:, self._wanted]
        self._sizes = np.frexp(top[self._wanted])[1]
        columns = np.ldexp(columns, -self._sizes)
        with tall(limits.threads) as work:
            more = np.frexp(work.norms(columns))[1]
        self._sizes = self._sizes + more
        self.right: Floats = np.ldexp(columns, -more)
        count = len(self._wanted)
        self.shift = np.repeat(self.ridges, count)
        self.column = np.tile(np.arange(count), len(ridges))
        self.lengths = self.norms(self.right)[self.column]
        self.passes = 0

    def _check_diagonal(self, diagonal: Floats, ridges: Floats) -> None:
        """Raise an error if an entry of the diagonal shows that the matrix is not as it must be."""
        if not np.isfinite(diagonal).all():
            row = int(np.argmin(np.isfinite(diagonal)))
            raise InvalidValueError(
                f"{self.name}: row {row}, column {row} (counted from 0) is {diagonal[row]}; a "
                f"kernel is finite"
            )
        row = int(np.argmin(diagonal))
        if diagonal[row] + ridges.min() < 0:
            error = NotPositiveDefiniteError(
                f"{self.name} is not positive definite: row {row} (counted from 0) has "
                f"{diagonal[row]:.3g} on the diagonal"
            )
            error.row = row
            raise error

    @cached_property
    def trace(self) -> float:
        """The trace of K; of an operator whose diagonal is not known, an estimate by one pass."""
        if not self._keeps:
            return float(np.ldexp(self.operator.diag(), -self._exponent).sum())
        size = len(self.right)
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (size, SIGNS))
        with tall(self.limits.threads) as work:
            found = work.dots(signs, np.array(self.operator.matmat(signs), float)).mean()
        return float(np.ldexp(found, -self._exponent))

    def norms(self, columns: Floats) -> Floats:
        """Return the lengths of the columns of a matrix."""
        with tall(self.limits.threads) as work:
            return work.norms(columns)

    def multiply(self, columns: Floats) -> Floats:
        """Return K @ columns, a new array, and count a pass."""
        stopping.check()
        # the product of an operator of the user's may be an array that it keeps, or `columns`
        found = self.operator.matmat(columns)
        product = np.array(found, float) if self._keeps else np.asarray(found, float)
        self.passes += 1
        if not np.isfinite(product).all():
            raise InvalidValueError(
                f"{self.name}: a product with it is not finite; it {self.operator.describe()}"
            )
        if self._exponent:
            np.ldexp(product, -self._exponent, out=product)
        return product

    def columns(self, indices: NDArray[np.intp]) -> Floats:
        """Return columns of K, (N, m)."""
        columns = np.asarray(self.operator.columns(indices), float)
        return np.ldexp(columns, -self._exponent) if self._exponent else columns

    def remainder(self, solution: Floats) -> tuple[Floats, Floats]:
        """Return Y − A X, (N, P), for X (N, P), and the relative residuals (P,), by one pass."""
        rest = self.multiply(solution)
        rest += self.shift * solution
        np.subtract(self.right[:, self.column], rest, out=rest)
        return rest, self.norms(rest) / self.lengths

    def scaled(self, solution: Floats) -> Floats:
        """Return (K + ridge·I)⁻¹ @ right, (N, P), in terms of the scaled K."""
        return np.ldexp(solution, self._exponent)

    def unscaled(self, solution: Floats, residuals: Floats) -> tuple[Floats, Floats]:
        """Return solutions (R, N, K) and residuals (R, K) of all columns, as they were given."""
        size, count = len(solution), len(self._wanted)
        out = np.zeros((len(self.ridges), size, self._all))
        with np.errstate(over="ignore"):
            found = np.ldexp(solution, self._sizes[self.column] - self._exponent)
        if not np.isfinite(found).all():
            raise InvalidValueError(
                f"the solution of {self.name} is too large for float64; scale the targets down"
            )
        relative = np.zeros((len(self.ridges), self._all))
        for number in range(len(self.ridges)):
            pairs = slice(number * count, (number + 1) * count)
            out[number][:, self._wanted] = found[:, pairs]
            relative[number, self._wanted] = residuals[pairs]
        return out, relative

    def given(self, value: float) -> float:
        """Return an eigenvalue, or a ridge, in the units of the matrix that was given."""
        return math.ldexp(value, self._exponent)

    def negative(self, curvature: float, ridge: float) -> NotPositiveDefiniteError:
        """Return the error for a vector v of length 1 with this vᵀ(K + ridge·I)v < 0."""
        ridge, curvature = self.given(ridge), self.given(curvature)
        with_ridge = f" with a ridge of {ridge:.3g}" if ridge else ""
        return NotPositiveDefiniteError(
            f"{self.name}{with_ridge} is not positive definite: its least eigenvalue is at most "
            f"{curvature:.2g}. Take a ridge (absolute) that is larger by several times "
            f"{-curvature:.1g}; or, of a kernel in float32, compute it in float64"
        )

    def not_converged(self, residual: float, reason: str) -> NotConvergedError:
        """Return the error that the tolerance is not reached."""
        return NotConvergedError.after(
            self.passes,
            residual,
            f"the solution of {self.name} has a relative residual of {residual:.2g} after "
            f"{passes_text(self.passes)}, and {self.limits.tolerance:.2g} is asked for: {reason}",
        )

    def check_passes(self, residual: float) -> None:
        """Raise NotConvergedError if no further pass may be made."""
        if self.passes >= self.limits.passes:
            raise self.not_converged(
                residual,
                f"max_passes={self.limits.passes} is reached; allow more, take a larger ridge, or "
                f"method='cholesky'",
            )

    def diverged(self, residual: float) -> NotConvergedError:
        """Return the error that the residual grows without bounds."""
        return self.not_converged(
            residual,
            "it grows, since the matrix is singular, or not positive definite: take a larger ridge",
        )

    def stalled(self, residual: float, *, exact: bool = True) -> NotConvergedError:
        """Return the error that further passes do not help.

        exact : whether the iteration has ended by itself, so that only rounding is left
        """
        reason = (
            "float64 rounds, and further passes do not make it smaller. The matrix is singular or "
            "ill-conditioned: take a larger ridge, or a larger tolerance"
            if exact
            else "the last passes have hardly made it smaller. Take a larger ridge, a larger "
            "tolerance, or method='cholesky'"
        )
        return self.not_converged(residual, reason)


def passes_text(passes: int) -> str:
    """Return a number of passes for people."""
    return "1 pass" if passes == 1 else f"{passes:,} passes"


class Bar:
    """A progress bar of passes, with the residual and the passes that are expected to be left."""

    def __init__(self, systems: Systems) -> None:
        self._goal, self._seen = systems.limits.tolerance, list[tuple[int, float]]()
        self._bar = tqdm(
            unit="pass",
            initial=systems.passes,
            disable=not systems.limits.progress,
            leave=False,
            mininterval=0,  # a pass takes long
            desc=systems.operator.describe(),
        )

    def show(self, passes: int, residual: float) -> None:
        """Show the number of passes so far and the largest relative residual."""
        self._seen = [*self._seen[-5:], (passes, residual)]
        (first, before), (last, now) = self._seen[0], self._seen[-1]
        if 0 < now < before and last > first:
            rate = math.log(before / now) / (last - first)
            left = math.log(now / self._goal) / rate if now > self._goal else 0.0
            self._bar.total = passes + math.ceil(left) + 1
        self._bar.set_postfix_str(f"residual {residual:.1e}", refresh=False)
        self._bar.update(passes - self._bar.n)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.close()
