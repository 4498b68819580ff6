"""The hyperparameters of a network that are fitted, as a vector of their logarithms."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ntk_numba.errors import InvalidValueError
from ntk_numba.network import MLP

Floats = NDArray[np.float64]
Name: TypeAlias = Literal["w_std", "b_std", "noise"]

NAMES: tuple[Name, ...] = ("w_std", "b_std", "noise")
B_STD = 0.1  # where a search for b_std starts in a layer of b_std 0
AT_BOUND = 1e-6  # a logarithm this near to a bound is at it


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
