"""Conjugate gradients, preconditioned by a Nyström approximation of the matrix.

    K ≈ C W⁺ Cᵀ = U S Uᵀ,    P = U S Uᵀ + (ridge + δ) I

C is m columns of K and W their rows among themselves. δ is the mean of the diagonal that the
approximation leaves out: without it P would be as small as the ridge wherever U is not, although K
is not, so small ridges would be preconditioned wrongly.

All columns and ridges go through a pass together. Each has its own scalars, and is left alone when
it has converged.

Source: Z. Frangella, J. Tropp, M. Udell, Randomized Nyström preconditioning, SIAM J. Matrix Anal.
Appl. 44, 2023 (arXiv:2110.02820).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ntk_numba.solvers.checkpoint import PAGE, Checkpoint
from ntk_numba.solvers.systems import Bar, Systems
from ntk_numba.solvers.tall import Tall, tall, working_bytes

Floats = NDArray[np.float64]

COLUMNS = 500  # of the matrix, from which it is approximated
SHARE = 8  # N is at least this many times their number
SLACK = 0.9  # of the tolerance, for the residual that the recurrence has
PROGRESS = 0.5  # how much smaller the residual has to be after each restart
PATIENCE = 200  # passes, at least, after which it has to be so much smaller too
VECTORS = 10  # for each system, which a pass has at one time
DIVERGED = 1e6  # a relative residual that a matrix without negative eigenvalues does not lead to
EPS = float(np.finfo(float).eps)
NUMBERS = "before", "best", "since"  # of `_Vectors`; the others are arrays


def rank_of(size: int) -> int:
    """Return the number of columns from which a matrix of N = `size` is approximated."""
    return max(1, min(COLUMNS, size // SHARE))


def vector_bytes(size: int, pairs: int, threads: int) -> int:
    """Return the bytes that the iteration takes for N = `size` and this many systems."""
    rank = rank_of(size)
    beginning = 3 * rank + 4 * pairs  # the columns, their factor and the parts of its basis
    passes = rank + VECTORS * pairs
    return 8 * size * max(beginning, passes) + working_bytes(size, max(rank, pairs), threads)


class Nystrom:
    """The preconditioner of some systems.

    Attributes
    ----------
    vectors : (N, m) orthonormal, U
    values : (m,), S
    left : δ
    """

    def __init__(self, systems: Systems, seed: int, work: Tall) -> None:
        size = len(systems.right)
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.choice(size, rank_of(size), replace=False))
        columns = systems.columns(chosen)
        inner = columns[chosen]
        weights, vectors = scipy.linalg.eigh((inner + inner.T) / 2)
        # W⁺ without eigenvalues that are rounding errors, or negative
        kept = weights > len(chosen) * EPS * max(float(weights[-1]), 0.0)
        factor = work.product(columns, vectors[:, kept] / np.sqrt(weights[kept]))
        del columns  # each of these takes as much memory as all vectors of the iteration, or more
        scale = float(work.norms(factor).max(initial=0.0))
        basis, triangle = work.orthonormal(factor, scale)
        del factor
        values, turned = scipy.linalg.eigh(triangle @ triangle.T)
        self.vectors, self.values = work.product(basis, turned), np.maximum(values, 0.0)
        # of a matrix that is not positive semidefinite, δ could be negative
        self.left = max((systems.trace - float(self.values.sum())) / size, 0.0)

    def solve(self, rest: Floats, shift: Floats, work: Tall) -> Floats:
        """Return P⁻¹ @ rest, (N, P), where the ridge of each column is `shift`, (P,)."""
        least = EPS * max(float(self.values.max(initial=0.0)), self.left)
        bottom = np.maximum(shift + self.left, least)
        bottom[bottom == 0] = 1
        inner = work.inner(self.vectors, rest)
        inner *= bottom / (self.values[:, None] + bottom) - 1
        out = rest.copy()
        work.add(out, self.vectors, inner)
        return out / bottom


@dataclass
class _Vectors:
    """What a pass changes.

    Attributes
    ----------
    solution, rest, direction : (N, P)
    rho : (P,)
        restᵀ P⁻¹ rest; 0 of a column that is given up.
    before : float
        The largest relative residual at the last restart.
    best, since : float, int
        The largest relative residual when it was last halved, and the passes until then.
    residuals : (P,)
        The relative residuals of the solution if they are true ones, else ∞.
    """

    solution: Floats
    rest: Floats
    direction: Floats
    rho: Floats
    before: float
    best: float
    since: int
    residuals: Floats


class NystromPCG:
    """The iteration for some systems; `run` makes passes until all have converged.

    Parameters
    ----------
    systems : what is solved
    checkpoint : what keeps the vectors; None: they are in memory only
    seed : of the choice of columns
    """

    def __init__(self, systems: Systems, checkpoint: Checkpoint | None, seed: int) -> None:
        self._systems, self._checkpoint, self._seed = systems, checkpoint, seed

    def run(self) -> tuple[Floats, Floats]:
        """Return the solutions X (N, P), and their relative residuals (P,)."""
        systems, tolerance = self._systems, self._systems.limits.tolerance
        vectors = self._resumed()
        if vectors is not None and (vectors.residuals <= tolerance).all():
            return vectors.solution, vectors.residuals
        with tall(systems.limits.threads) as work:
            nystrom = Nystrom(systems, self._seed, work)
        if vectors is None:
            rest = systems.right[:, systems.column]
            nothing = np.full(len(systems.shift), np.inf)
            vectors = _Vectors(np.zeros_like(rest), rest, rest, nothing, 1.0, 1.0, 0, nothing)
            self._restart(nystrom, vectors)
        goal = SLACK * tolerance * systems.lengths
        with Bar(systems) as bar:
            while True:
                lengths = systems.norms(vectors.rest)
                residual = float((lengths / systems.lengths).max())
                bar.show(systems.passes, residual)
                if not residual < DIVERGED:
                    raise systems.diverged(residual)
                active = np.flatnonzero((lengths > goal) & (vectors.rho > 0))
                if active.size:
                    self._check_progress(vectors, residual)
                    systems.check_passes(residual)
                    self._step(nystrom, vectors, active)
                    vectors.residuals = np.full_like(vectors.rho, np.inf)
                else:
                    vectors.rest, vectors.residuals = systems.remainder(vectors.solution)
                    largest = float(vectors.residuals.max())
                    if largest <= tolerance:
                        self._save(vectors)
                        return vectors.solution, vectors.residuals
                    if largest > PROGRESS * vectors.before:
                        raise systems.stalled(largest)
                    vectors.before = largest
                    self._restart(nystrom, vectors)
                self._save(vectors)

    def _resumed(self) -> _Vectors | None:
        """Return the vectors of the checkpoint."""
        checkpoint = self._checkpoint
        if checkpoint is None or checkpoint.state is None:
            return None
        self._systems.passes = checkpoint.state["passes"]
        given: dict[str, Any] = {name: checkpoint.state[name] for name in NUMBERS}
        return _Vectors(**given | checkpoint.arrays)

    def _save(self, vectors: _Vectors) -> None:
        if self._checkpoint is not None:
            arrays = dict(vars(vectors))
            state = {name: arrays.pop(name) for name in NUMBERS}
            self._checkpoint.save({**state, "passes": self._systems.passes}, arrays)

    def _check_progress(self, vectors: _Vectors, residual: float) -> None:
        """Raise an error if the residual has hardly become smaller for many passes.

        Rounding errors keep the method from converging in N passes, as it does in exact arithmetic.
        If its preconditioned matrix is too ill-conditioned, the residual does not fall at all.
        """
        systems = self._systems
        if residual <= PROGRESS * vectors.best:
            vectors.best, vectors.since = residual, systems.passes
        elif systems.passes - vectors.since >= max(PATIENCE, systems.limits.passes // 5):
            raise systems.stalled(residual, exact=False)

    def _restart(self, nystrom: Nystrom, vectors: _Vectors) -> None:
        """Begin again from the residuals of the solution."""
        with tall(self._systems.limits.threads) as work:
            vectors.direction = nystrom.solve(vectors.rest, self._systems.shift, work)
            vectors.rho = work.dots(vectors.rest, vectors.direction)

    def _step(self, nystrom: Nystrom, vectors: _Vectors, active: NDArray[np.intp]) -> None:
        """Make a step of conjugate gradients with the columns of these numbers."""
        systems = self._systems
        along, shift = vectors.direction[:, active], systems.shift[active]
        product = systems.multiply(along)
        product += shift * along
        with tall(systems.limits.threads) as work:
            curvature, size = work.dots(along, product), work.dots(along, along)
            error = 4 * EPS * (systems.trace + shift) * size
            if (curvature < -error).any():
                worst = int(np.argmin(curvature / size))
                raise systems.negative(float(curvature[worst] / size[worst]), shift[worst])
            flat = curvature <= 0  # of a singular matrix
            step = np.where(flat, 0.0, vectors.rho[active] / np.where(flat, 1.0, curvature))
            vectors.solution[:, active] += step * along
            rest = vectors.rest[:, active] - step * product
            vectors.rest[:, active] = rest
            better = nystrom.solve(rest, shift, work)
            rho = np.where(flat, 0.0, work.dots(rest, better))
            vectors.direction[:, active] = better + rho / vectors.rho[active] * along
            vectors.rho[active] = rho


def area_of(size: int, pairs: int) -> int:
    """Return the bytes of the vectors that a checkpoint keeps, for N = `size`."""
    return 8 * pairs * (3 * size + 2) + 5 * PAGE
