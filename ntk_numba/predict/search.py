"""The search for hyperparameters of one network, in logarithms.

A `Space` says which hyperparameters are fitted, as a vector of their logarithms; an `Objective`
computes the evidence or the leave-one-out density of a network and its gradient, with one Gram
matrix, one factorisation and one inverse; `screen` computes it for one start at all depths, and
`climb` searches from the best starts by L-BFGS-B.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from ntk_numba.arguments import KernelName
from ntk_numba.compute.gradients import contract
from ntk_numba.compute.memory import gram
from ntk_numba.errors import InvalidValueError, UnderflowWarning
from ntk_numba.linalg.packed import Packed
from ntk_numba.network import MLP
from ntk_numba.predict.evidence import Objective as Kind
from ntk_numba.predict.evidence import slope_of, value_of

Floats = NDArray[np.float64]
Name: TypeAlias = Literal["w_std", "b_std", "noise"]

NAMES: tuple[Name, ...] = ("w_std", "b_std", "noise")
# Changes of the objective, per sample and output, below TOLERANCE nats, and slopes below SLOPE,
# end a search.
TOLERANCE, SLOPE = 1e-8, 1e-5
# What stands for the objective where it cannot be computed, in nats per sample and output below the
# lowest value so far. L-BFGS-B interpolates between values, so that it cannot be infinite.
PENALTY = 1.0
AT_BOUND = 1e-6  # a logarithm this near to a bound is at it
B_STD = 0.1  # where a search for b_std starts in a layer of b_std 0


@dataclass(frozen=True)
class Space:
    """The hyperparameters of a network that are fitted, as a vector of their logarithms.

    The vector has the logarithm of w_std, then that of b_std, then that of the noise, those that
    are fitted: one number for all layers if they are shared, else one for each layer.

    Attributes
    ----------
    net : the network, with the values of what is not fitted
    noise : the noise, if it is not fitted
    fitted : the names of what is fitted, in the order of `NAMES`
    shared : whether all layers have the same w_std and the same b_std
    bounds : the least and the largest value by name
    """

    net: MLP
    noise: float
    fitted: tuple[Name, ...]
    shared: bool
    bounds: dict[Name, tuple[float, float]]

    @property
    def names(self) -> list[Name]:
        """The name of each number of the vector."""
        return [n for n in self.fitted for _ in range(self._length(n))]

    @property
    def limits(self) -> Floats:
        """The bounds of the vector, (numbers, 2)."""
        return np.log([self.bounds[name] for name in self.names]).reshape(-1, 2)

    @property
    def directions(self) -> Floats:
        """The derivative by each number of w_std and b_std, for `contract`, (numbers, 2, L)."""
        depth = self.net.depth
        kinds = [k for k, name in enumerate(NAMES[:2]) if name in self.fitted]
        parts = np.ones((1, depth)) if self.shared else np.eye(depth)
        out = np.zeros((len(kinds), len(parts), 2, depth))
        for at, kind in enumerate(kinds):
            out[at, :, kind] = parts
        return out.reshape(-1, 2, depth)

    def check(self) -> None:
        """Raise an error if a search cannot start from the values of the network."""
        values = {"w_std": self.net.w_std, "b_std": self.net.b_std}
        for name in [n for n in NAMES[:2] if n in self.fitted]:
            if self.shared and len(set(values[name])) > 1:
                raise InvalidValueError(
                    f"{name} of net is not the same in all layers; give shared=False to fit that "
                    f"of each layer, or leave {name!r} out of fit"
                )
        if "w_std" in self.fitted and 0 in self.net.w_std:
            layer = self.net.w_std.index(0) + 1
            raise InvalidValueError(
                f"w_std of layer {layer} is 0, which has no logarithm; give a net with another "
                f"w_std, or leave 'w_std' out of fit"
            )

    def start(self, point: Mapping[Name, float]) -> Floats:
        """Return the vector of some values, moved into the bounds.

        point : values by name, the same for all layers; those of the network where there is none
        """
        b_std = [b or B_STD for b in self.net.b_std]
        own = {"w_std": list(self.net.w_std), "b_std": b_std, "noise": [self.noise]}
        parts = []
        for name in self.fitted:
            length = self._length(name)
            parts.append([point[name]] * length if name in point else own[name][:length])
        low, high = self.limits.T
        return np.clip(np.log([value for part in parts for value in part]), low, high)

    def place(self, vector: Floats) -> tuple[MLP, float]:
        """Return the network and the noise of a vector."""
        changes: dict[str, list[float]] = {}
        noise, at = self.noise, 0
        for name in self.fitted:
            length = self._length(name)
            low, high = self.bounds[name]
            part = np.clip(np.exp(vector[at : at + length]), low, high)
            at += length
            if name == "noise":
                noise = float(part[0])
            else:
                changes[name] = np.broadcast_to(part, self.net.depth).tolist()
        return self.net.replace(**changes), noise

    def at_bounds(self, vector: Floats) -> tuple[Name, ...]:
        """Return the names of the hyperparameters that are at a bound."""
        near = np.abs(self.limits - vector[:, None]).min(axis=1) < AT_BOUND
        return tuple(dict.fromkeys(n for n, close in zip(self.names, near, strict=True) if close))

    def _length(self, name: Name) -> int:
        return 1 if self.shared or name == "noise" else self.net.depth


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
        with warnings.catch_warnings():  # a kernel that is 0 has no factorisation, which is said
            warnings.simplefilter("ignore", UnderflowWarning)
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
        if row := factor.factorise():
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
            return _finite(value_of(self.kind, factor, self.targets, alpha))

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
            value = _finite(value_of(self.kind, factor, self.targets, alpha))
            inverse, shift = factor.inverse(), factor.shift
            del factor, matrix  # so that no more matrices are in memory than are needed
            slope = slope_of(self.kind, inverse, alpha)
            out = np.empty(len(vector))
            if "noise" in space.fitted:
                out[-1] = shift * _finite(slope.trace)
            directions = space.directions
            if len(directions):
                out[: len(directions)] = contract(
                    net,
                    self.x,
                    slope.of_kernel(noise),
                    kernel=self.kernel,
                    directions=directions,
                    threads=self.threads,
                )
        _finite(float(out.sum()))
        return value, out


def _finite(value: float) -> float:
    """Return a number, or raise an error if it has overflowed."""
    if not math.isfinite(value):
        raise InvalidValueError("the objective overflows")
    return value


class Ascent(NamedTuple):
    """The end of a search, or its start.

    vector : where the objective is largest
    value : the objective there; −inf if it could be computed nowhere
    evaluations : how often the objective was computed with its gradient
    converged : whether the search ended since neither value nor slope allow more
    failure : why the objective could not be computed at the start; empty if it could
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
    scale = 1 / objective.numbers
    best, lowest, count = (start, -math.inf), math.inf, 0

    def descent(vector: Floats) -> tuple[float, Floats]:
        nonlocal best, lowest, count
        count += 1
        try:
            value, gradient = objective.gradient(space, vector)
        except InvalidValueError:
            if count == 1:
                raise
            return PENALTY - lowest * scale, np.zeros(len(vector))
        lowest = min(lowest, value)
        if value > best[1]:
            best = (vector.copy(), value)
        return -value * scale, -gradient * scale

    try:
        if not len(start):
            descent(start)
            return Ascent(*best, count, converged=True)
        found = minimize(
            descent,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=space.limits,
            options={"maxiter": iterations, "ftol": TOLERANCE, "gtol": SLOPE},
        )
    except InvalidValueError as error:
        return Ascent(start, -math.inf, count, converged=False, failure=str(error))
    return Ascent(*best, count, converged=bool(found.success))


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
