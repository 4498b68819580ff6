"""Solutions in a block Krylov space that random columns enlarge.

    x = Q (T + ridge·I)⁻¹ Qᵀ y,    T = Qᵀ K Q,    span(Q) = span{[Y, Ω], K [Y, Ω], …}

This is Galerkin's condition: the residual is orthogonal to the space, and x has the least error in
the norm of A = K + ridge·I. The space does not depend on the ridge, so all ridges share it. The
random columns Ω find the eigenvectors of the large eigenvalues within a few passes; the space then
contains what conjugate gradients with the best preconditioner of low rank would find.

Source: T. Chen, R. Huang, C. Musco and others, arXiv:2501.18717, 2025.
"""

from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ntk_numba.blas import blas_threads
from ntk_numba.solvers.checkpoint import Checkpoint
from ntk_numba.solvers.krylov import KrylovSpace
from ntk_numba.solvers.systems import Bar, Systems
from ntk_numba.solvers.tall import working_bytes

Floats = NDArray[np.float64]

COLUMNS = 110  # of a block, with the random ones
SHARE = 15  # N is at least this many times the number of random columns
LARGEST = 4400  # columns of a basis whose projected matrix has all of its eigenvectors computed
MOST = 13_200  # columns of any basis; then a new space is begun from the residual
SLACK = 0.9  # of the tolerance, for the residual that the projected systems have
BLOCKS, VECTORS = 6, 5  # which a pass has at one time, of the block's width and for each system
PROGRESS = 0.5  # how much smaller the residual has to be after a space, to begin another one


def width_of(size: int, columns: int) -> int:
    """Return the number of columns of a block, for N = `size` and this many right-hand sides."""
    return columns + max(0, min(COLUMNS - columns, size // SHARE))


def most_columns(size: int) -> int:
    """Return the most columns of a basis, for N = `size`.

    A space that is begun from the residual lacks what the one before had found of eigenvectors in
    the middle of the spectrum: of 60,000 digits it takes dozens of passes to gain anything.
    """
    return max(LARGEST, min(size // 5, MOST))


def basis_bytes(size: int, columns: int) -> int:
    """Return the bytes of the largest basis."""
    width = width_of(size, columns)
    return 8 * size * min(size, most_columns(size) + 2 * width)


def vector_bytes(size: int, columns: int, pairs: int, threads: int) -> int:
    """Return the bytes that a pass takes beside the basis, and the matrices of the space."""
    width = width_of(size, columns)
    projected, whole = (min(size, n + width) for n in (most_columns(size), LARGEST))
    work = 8 * size * (BLOCKS * width + VECTORS * pairs) + working_bytes(size, width, threads)
    band = 8 * projected * (2 * 2 * width + 2 * pairs)
    return work + max(band, 8 * 3 * whole**2 if size > whole else 0)


class _Stored:
    """The blocks of a basis, as parts of a checkpoint."""

    def __init__(self, checkpoint: Checkpoint, numbers: list[int] | None = None) -> None:
        self._checkpoint, self._numbers = checkpoint, numbers or []

    def append(self, block: Floats, /) -> None:
        self._numbers.append(self._checkpoint.append(block))

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: int, /) -> Floats:
        return self._checkpoint.part(self._numbers[number])


class BlockKrylov:
    """The iteration for some systems; `run` makes passes until all have converged.

    A second space, begun from the residual, is needed if the first becomes too large, or if the
    residual of its solution is larger than the projected systems say, since float64 rounds.

    Parameters
    ----------
    systems : what is solved
    checkpoint : what keeps the space; None: it is in memory
    seed : of the random columns
    """

    def __init__(self, systems: Systems, checkpoint: Checkpoint | None, seed: int) -> None:
        self._systems, self._checkpoint, self._seed = systems, checkpoint, seed
        self._threads = systems.limits.threads
        size, pairs = len(systems.right), len(systems.shift)
        # the sum of the solutions of earlier spaces, its residuals, and their relative lengths
        self._solution = np.zeros((size, pairs))
        self._rest = systems.right
        self._residuals = np.ones(pairs)
        # numbers of parts: of that sum, of the small matrices of each block, which follow the block
        # in the checkpoint, and of the last solution that was exact enough
        self._state: dict[str, Any] = {"base": None, "places": [], "solution": None}

    def run(self) -> tuple[Floats, Floats]:
        """Return the solutions X (N, P), and their relative residuals (P,)."""
        checkpoint, systems = self._checkpoint, self._systems
        if checkpoint is None or checkpoint.state is None:
            random = np.random.default_rng(self._seed).standard_normal(
                (len(systems.right), width_of(*systems.right.shape) - systems.right.shape[1])
            )
            space = self._begin(random)
        elif (answer := self._finished(checkpoint)) is not None:
            return answer
        else:
            space = self._resumed(checkpoint)
        with Bar(systems) as bar:
            while True:
                estimate = 1.0
                if space.diagonal:
                    inner, lengths = self._galerkin(space)
                    estimate = float((lengths / systems.lengths).max(initial=0.0))
                    bar.show(systems.passes, estimate)
                    enough = estimate <= SLACK * systems.limits.tolerance
                    if enough or space.size >= self._most(space) or not space.last.size:
                        if (answer := self._finish(space, inner, enough)) is not None:
                            return answer
                        space = self._begin(self._leading(space))
                        continue
                systems.check_passes(estimate)
                space.extend(systems.multiply(space.last))
                self._keep(space)

    def _most(self, space: KrylovSpace) -> int:
        """Return the most columns of a space.

        With a ridge that is a rounding error, eigenvectors of the projected matrix are needed.
        """
        most = most_columns(len(self._solution))
        rounding = most * float(np.finfo(float).eps) * space.scale
        return most if self._systems.ridges.min(initial=np.inf) > rounding else LARGEST

    def _begin(self, extra: Floats) -> KrylovSpace:
        """Return the space of the residuals and of some extra columns."""
        lengths = self._systems.norms(self._rest)
        lengths[lengths == 0] = 1
        blocks = None if self._checkpoint is None else _Stored(self._checkpoint)
        units = np.sqrt(np.float64(len(extra)))
        start = np.concatenate([self._rest / lengths, extra / units], axis=1)
        space = KrylovSpace(start, blocks, threads=self._threads)
        if self._checkpoint is not None:
            self._state["places"] = [self._checkpoint.append(space.below[0])]
            self._save(space)
        return space

    def _keep(self, space: KrylovSpace) -> None:
        """Save what a pass has added to a space."""
        if self._checkpoint is not None:
            self._state["places"].append(self._checkpoint.append(space.diagonal[-1]))
            self._checkpoint.append(space.below[-1])
            self._save(space)

    def _save(self, space: KrylovSpace) -> None:
        assert self._checkpoint is not None
        passes = self._systems.passes
        self._checkpoint.save({**self._state, "scale": space.scale, "passes": passes})

    def _finished(self, checkpoint: Checkpoint) -> tuple[Floats, Floats] | None:
        """Return the solution that a checkpoint has, if it is as exact as it is to be."""
        assert checkpoint.state is not None
        self._systems.passes = checkpoint.state["passes"]
        number = checkpoint.state["solution"]
        if number is None:
            return None
        residuals = checkpoint.part(number + 1)
        exact = (residuals <= self._systems.limits.tolerance).all()
        return (checkpoint.part(number), residuals) if exact else None

    def _resumed(self, checkpoint: Checkpoint) -> KrylovSpace:
        """Return the space of a checkpoint."""
        state, systems = checkpoint.state, self._systems
        assert state is not None
        self._state = {key: state[key] for key in self._state}
        if (base := state["base"]) is not None:
            self._solution, self._rest = checkpoint.part(base), checkpoint.part(base + 1)
            self._residuals = systems.norms(self._rest) / systems.lengths
        first, *others = state["places"]
        diagonal = [checkpoint.part(place) for place in others]
        below = [checkpoint.part(place) for place in (first, *(place + 1 for place in others))]
        # only the last block may be without columns, and such a block is not kept
        blocks = [
            place - 1 for place, small in zip(state["places"], below, strict=True) if len(small)
        ]
        return KrylovSpace.resumed(
            _Stored(checkpoint, blocks), diagonal, below, state["scale"], threads=self._threads
        )

    def _galerkin(self, space: KrylovSpace) -> tuple[Floats, Floats]:
        """Return coefficients of the solutions, (n, P), and lengths of their residuals, (P,)."""
        systems, first = self._systems, space.below[0]
        lengths = systems.norms(self._rest)
        right = np.zeros((space.size, len(systems.shift)))
        picked = systems.column if self._state["base"] is None else np.arange(len(systems.shift))
        right[: len(first)] = first[:, picked] * lengths[picked]
        out, found = np.empty_like(right), np.empty(len(systems.shift))
        band = space.band()
        for ridge in np.unique(systems.ridges):
            pairs = systems.shift == ridge
            out[:, pairs], inside = self._projected(space, band, float(ridge), right[:, pairs])
            tail = space.below[-1] @ out[-len(space.diagonal[-1]) :, pairs]
            outside = np.linalg.norm(tail, axis=0)
            found[pairs] = np.hypot(inside, outside)
        return out, found

    def _projected(
        self, space: KrylovSpace, band: Floats, ridge: float, right: Floats
    ) -> tuple[Floats, Floats]:
        """Return the solution of (T + ridge·I) c = right, and the lengths of its residuals."""
        shifted = band.copy()
        shifted[0] += ridge
        with blas_threads(1):
            try:
                found = scipy.linalg.solveh_banded(shifted, right, lower=True, check_finite=False)
                if np.isfinite(found).all():
                    return found, np.zeros(right.shape[1])
            except np.linalg.LinAlgError:
                pass
            error = space.size * float(np.finfo(float).eps) * max(space.scale, ridge)
            if space.size > LARGEST:  # with larger ridges than rounding errors, see `_most`
                least = scipy.linalg.eig_banded(
                    shifted, lower=True, eigvals_only=True, select="i", select_range=(0, 0)
                )
                raise self._systems.negative(min(float(least[0]), -error), ridge)
            values, vectors = scipy.linalg.eigh(space.matrix())
        values += ridge
        if values[0] < -error:
            raise self._systems.negative(float(values[0]), ridge)
        # singular: the least solution, in the eigenvectors that are not rounding errors
        kept = vectors[:, values > error]
        inner = kept.T @ right
        lost = np.linalg.norm(right - kept @ inner, axis=0)
        return kept @ (inner / values[values > error, None]), lost

    def _leading(self, space: KrylovSpace) -> Floats:
        """Return the vectors of a space along which K is largest, in place of random ones.

        The first columns of the space have converged to them.
        """
        size, pairs = len(self._solution), len(self._systems.shift)
        first = space.matrix(max(LARGEST, len(space.diagonal[0])))
        count = min(width_of(size, pairs) - pairs, len(first))
        if not count:
            return np.empty((size, 0))
        found = np.zeros((space.size, count))
        top = [len(first) - count, len(first) - 1]
        with blas_threads(1):
            _, found[: len(first)] = scipy.linalg.eigh(first, subset_by_index=top)
        return space.combine(found) * np.sqrt(np.float64(size))

    def _finish(
        self, space: KrylovSpace, inner: Floats, enough: bool
    ) -> tuple[Floats, Floats] | None:
        """Return the solution if its true residual is small; else prepare another space.

        enough : whether the projected systems say that it is small

        Raises
        ------
        NotConvergedError
            The residual is not much smaller than that before this space.
        """
        systems, checkpoint = self._systems, self._checkpoint
        solution = self._solution + space.combine(inner)
        rest, residuals = systems.remainder(solution)
        if (residuals <= systems.limits.tolerance).all():
            if checkpoint is not None:
                number = checkpoint.append(solution)
                checkpoint.append(residuals)
                self._state["solution"] = number
                self._save(space)
            return solution, residuals
        largest = float(residuals.max())
        if largest > PROGRESS * self._residuals.max():
            raise systems.stalled(largest, exact=enough or not space.last.size)
        self._solution, self._rest, self._residuals = solution, rest, residuals
        if checkpoint is not None:
            base = checkpoint.append(solution)
            checkpoint.append(rest)
            self._state = {**self._state, "base": base}
        else:
            self._state = {**self._state, "base": 0}
        return None
