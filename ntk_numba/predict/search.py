"""The search for hyperparameters of one network, in logarithms.

An `Objective` computes the evidence or the leave-one-out density of a network and its gradient,
with one Gram matrix, one factorisation and one inverse; `screen` computes it for one start at all
depths, and `climb` searches from the best starts by L-BFGS-B.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from ntk_numba.arguments import KernelName
from ntk_numba.compute.gradients import contract
from ntk_numba.compute.memory import gram
from ntk_numba.errors import InvalidValueError, UnderflowWarning
from ntk_numba.factors.packed import Packed
from ntk_numba.network import MLP
from ntk_numba.predict.evidence import Objective as Kind
from ntk_numba.predict.evidence import left_out_density, marginal_likelihood, slope_of
from ntk_numba.predict.space import Name, Space

Floats = NDArray[np.float64]

# Changes of the objective, per sample and output, below TOLERANCE nats, and slopes below SLOPE,
# end a search.
TOLERANCE, SLOPE = 1e-8, 1e-5
# What stands for the objective where it cannot be computed, in nats per sample and output below the
# lowest value so far. L-BFGS-B interpolates between values, so that it cannot be infinite.
PENALTY = 1.0


@dataclass(frozen=True)
class Objective:
    """The evidence or the leave-one-out density of targets, as a function of a network.

    Attributes
    ----------
    x : (N, n0) the samples, float64 or float32
    targets : (N, n)
    kernel : the kernel that is the covariance
    kind : which of the two
    threads : the largest number of threads
    """

    x: NDArray[np.floating]
    targets: Floats
    kernel: KernelName
    kind: Kind
    threads: int | None

    @property
    def numbers(self) -> int:
        """The number of targets, N·n."""
        return self.targets.size

    def matrices(self, net: MLP, layers: Sequence[int]) -> Floats:
        """Return K of some layers of a network, counted from 1, (layers, N, N).

        Raises
        ------
        ValueError
            If the kernels overflow.
        """
        with _no_underflow():
            k = gram(
                net,
                self.x,
                kernels=self.kernel,
                layers=layers,
                dtype=float,
                threads=self.threads,
            )
        found = getattr(k, self.kernel)
        assert found is not None
        return found

    def factor(self, matrix: Floats, noise: float) -> Packed:
        """Factorise K + noise·mean(diagonal of K)·I, in place of K.

        Raises
        ------
        ValueError
            If it is not positive definite.
        """
        factor = Packed(matrix, noise * float(np.trace(matrix)) / len(matrix))
        if row := factor.factorise(self.threads):
            raise InvalidValueError(
                f"{self.kernel} with noise {noise:g} is not positive definite: its factorisation "
                f"fails at row {row - 1} (counted from 0)"
            )
        return factor

    def value(self, matrix: Floats, noise: float) -> float:
        """Return the objective of K and noise, in place of K.

        Raises
        ------
        ValueError
            If K + noise is not positive definite, or numbers overflow.
        """
        factor = self.factor(matrix, noise)
        with np.errstate(all="ignore"):
            alpha = factor.substitute(self.targets)
            if self.kind == "evidence":
                return _finite(marginal_likelihood(factor.log_det, self.targets, alpha))
            return _finite(left_out_density(factor.inverse_diagonal(), self.targets, alpha))

    def gradient(self, space: Space, vector: Floats) -> tuple[float, Floats]:
        """Return the objective and its gradient by a vector of logarithms.

        Raises
        ------
        ValueError
            If it cannot be computed there.
        """
        net, noise = space.place(vector)
        (matrix,) = self.matrices(net, [net.depth])
        factor = self.factor(matrix, noise)
        with np.errstate(all="ignore"):
            alpha = factor.substitute(self.targets)
            value = marginal_likelihood(factor.log_det, self.targets, alpha)
            inverse = np.asarray(factor.invert(), float)
            if self.kind == "loo":
                value = left_out_density(np.diagonal(inverse), self.targets, alpha)
            _finite(value)
            slope = slope_of(self.kind, inverse, alpha)
            out = np.empty(len(vector))
            if "noise" in space.fitted:
                out[-1] = factor.shift * _finite(slope.trace)
            directions = space.directions
            if len(directions):
                weights = slope.of_kernel(noise)
                with _no_underflow():
                    out[: len(directions)] = contract(
                        net,
                        self.x,
                        weights,
                        kernel=self.kernel,
                        directions=directions,
                        threads=self.threads,
                    )
        _finite(float(out.sum()))
        return value, out


@contextmanager
def _no_underflow() -> Iterator[None]:
    """Give no warnings of kernels that underflow: a search finds out that they do not fit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnderflowWarning)
        yield


def _finite(value: float) -> float:
    """Return a number, or raise an error if it has overflowed."""
    if not math.isfinite(value):
        raise InvalidValueError(
            "the objective overflows float64; scale the targets or the data down"
        )
    return value


class Ascent(NamedTuple):
    """The end of a search, or its start.

    vector : where the objective is largest
    value : the objective there; −inf if it could be computed nowhere
    evaluations : how often the objective was computed with its gradient
    converged : whether the search ended since neither value nor slope allow more
    failure : why the objective could not be computed at the start, or where the search had to turn
        back and then did not converge; empty if neither happened
    """

    vector: Floats
    value: float
    evaluations: int
    converged: bool
    failure: str = ""


def ascend(objective: Objective, space: Space, start: Floats, iterations: int) -> Ascent:
    """Climb from a vector by L-BFGS-B, within the bounds of the space.

    Where the objective cannot be computed (the kernel overflows, or is not positive definite), it
    counts as lower than any value so far.
    """
    scale, units = 1 / objective.numbers, space.units
    best, lowest, count, failure = (start, -math.inf), math.inf, 0, ""

    def descent(scaled: Floats) -> tuple[float, Floats]:
        nonlocal best, lowest, count, failure
        count, vector = count + 1, scaled / units
        try:
            value, gradient = objective.gradient(space, vector)
        except InvalidValueError as error:
            if count == 1:
                raise
            failure = str(error)
            return PENALTY - lowest * scale, np.zeros(len(vector))
        lowest = min(lowest, value)
        if value > best[1]:
            best = (vector, value)
        return -value * scale, -gradient * scale / units

    try:
        if not len(start):
            descent(start)
            return Ascent(*best, count, converged=True)
        found = minimize(
            descent,
            start * units,
            jac=True,
            method="L-BFGS-B",
            bounds=space.limits * units[:, None],
            options={
                "maxiter": iterations,
                "maxfun": 2 * iterations,
                "ftol": TOLERANCE,
                "gtol": SLOPE,
            },
        )
    except InvalidValueError as error:
        return Ascent(start, -math.inf, count, converged=False, failure=str(error))
    return Ascent(*best, count, bool(found.success), "" if found.success else failure)


def screen(
    objective: Objective, spaces: Sequence[Space], point: Mapping[Name, float], room: int
) -> list[Ascent]:
    """Compute the objective of one start for networks that are the first layers of the last.

    Parameters
    ----------
    spaces : of one network cut at several depths, the least depth first
    point : see `Space.start`
    room : how many N×N matrices fit in memory
    """
    at_once = max(room - 1, 1)
    if len(spaces) > at_once:
        parts = [spaces[k : k + at_once] for k in range(0, len(spaces), at_once)]
        return [found for part in parts for found in screen(objective, part, point, room)]
    vectors = [space.start(point) for space in spaces]
    net, noise = spaces[-1].place(vectors[-1])
    try:
        matrices = objective.matrices(net, [space.net.depth for space in spaces])
    except InvalidValueError as error:  # the shallower networks may not overflow
        if len(spaces) > 1:
            return [found for s in spaces for found in screen(objective, [s], point, room)]
        return [Ascent(vectors[0], -math.inf, 0, converged=False, failure=str(error))]
    out = []
    for vector, matrix in zip(vectors, matrices, strict=True):
        try:
            out.append(Ascent(vector, objective.value(matrix, noise), 0, converged=False))
        except InvalidValueError as error:
            out.append(Ascent(vector, -math.inf, 0, converged=False, failure=str(error)))
    return out


def climb(
    objective: Objective, space: Space, starts: Sequence[Ascent], refine: int, iterations: int
) -> Ascent:
    """Climb from the best `refine` of some starts; return the highest end.

    Its evaluations are those of all searches.
    """
    order = sorted((s for s in starts if s.value > -math.inf), key=lambda s: -s.value)
    ends = [ascend(objective, space, start.vector, iterations) for start in order[:refine]]
    if not ends:
        return starts[0]
    best = max(ends, key=lambda end: end.value)
    return best._replace(evaluations=sum(end.evaluations for end in ends))
