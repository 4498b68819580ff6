"""Immutable descriptions of networks, for the engine and for networks of finite width alike."""

import hashlib
import json
import numbers
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from ntk_numba import activations
from ntk_numba.activations import Activation
from ntk_numba.activations.table import not_an_activation
from ntk_numba.arguments import not_negative, plain
from ntk_numba.errors import InvalidTypeError, InvalidValueError
from ntk_numba.extended import Extended, extended
from ntk_numba.function import Function


class Variance(NamedTuple):
    """The variance behind a layer, and the part of it that the weights contribute.

    weights : a = σ_w² E[σ²]
    total : a + β²
    """

    weights: Extended
    total: Extended


@dataclass(frozen=True)
class Layer:
    """One layer of weights, with the activation that is applied to its input.

    Attributes
    ----------
    activation : Activation or None
        None for the first layer, whose input is the data.
    w_std, b_std : float
        σ_w and β.
    """

    activation: Activation | None
    w_std: float
    b_std: float

    def variance(self, moment: Extended) -> Variance:
        """Return Σ(x,x) behind this layer (eq. 10 and 12).

        moment : the mean square of the input of the weights: |x|²/n0 for the first layer, else
            E[σ(√q t)²], where q is Σ(x,x) before the layer

        With K of a pair of samples as the moment, the total is Σ(x,x').
        """
        weights = extended(self.w_std) ** 2 * moment
        return Variance(weights, weights + extended(self.b_std) ** 2)


class _PerLayer(tuple[Any, ...]):
    """The values of the layers of a network.

    If they are equal, they stand for a network of any depth, so that a network can be replaced by
    one of another depth (`MLP.replace`).
    """

    __slots__ = ()


@dataclass(frozen=True, init=False, repr=False)
class MLP:
    """A fully connected network in the NTK parametrisation (the note's eq. 1-4).

        α⁽⁰⁾ = x,  α̃⁽ˡ⁺¹⁾ = σ_w/√n_l · W⁽ˡ⁾ α⁽ˡ⁾ + β b⁽ˡ⁾,  α⁽ˡ⁾ = σ(α̃⁽ˡ⁾),  f = α̃⁽ᴸ⁾

    with every weight and bias drawn from N(0, 1). The note has σ_w = 1; there is no hidden √2.

    Parameters
    ----------
    depth : int
        L ≥ 1, the number of weight layers: L − 1 hidden layers. Depth 1 is linear.
    activation : str, Activation or sequence of them
        One for all hidden layers, or one for each of the L − 1. `activations.names` lists the
        names.
    w_std : float or sequence of float
        σ_w ≥ 0, one for all layers or one for each of the L.
    b_std : float or sequence of float
        The note's β ≥ 0, one for all layers or one for each of the L.

    Attributes
    ----------
    layers : tuple of Layer
        The L layers of weights.
    depth : int
        L.
    activation, w_std, b_std : tuple
        The arguments, written out for each layer: L − 1 activations, L standard deviations.
    functions : tuple of Function
        The activations as mere functions, for networks of finite width.

    Raises
    ------
    ValueError, TypeError
        If the depth is not a whole number of at least 1, a w_std or b_std is negative, infinite or
        NaN, an activation is unknown, or a sequence has the wrong length.

    Examples
    --------
    >>> net = ntk_numba.MLP(4, "relu", w_std=2**0.5, b_std=0.1)
    >>> print(net)
    depth 4, activation relu, w_std 1.41421, b_std 0.1
    >>> net.layers[0].activation is None
    True
    """

    depth: int
    activation: tuple[Activation, ...]
    w_std: tuple[float, ...]
    b_std: tuple[float, ...]

    def __init__(
        self,
        depth: int,
        activation: str | Activation | Sequence[str | Activation] = "relu",
        w_std: float | Sequence[float] = 1.0,
        b_std: float | Sequence[float] = 0.0,
    ) -> None:
        depth = plain(depth)
        if isinstance(depth, bool) or not isinstance(depth, numbers.Real) or depth != depth // 1:
            raise InvalidValueError(f"depth must be a whole number of weight layers, not {depth!r}")
        if depth < 1:
            raise InvalidValueError(f"depth must be at least 1 (the output layer), not {depth!r}")
        layers = int(depth)
        activation = _of_any_depth("activation", activation, layers - 1)
        if isinstance(activation, str | Activation):
            specs: Sequence[str | Activation] = [activation] * (layers - 1)
            activations.get(activation)  # raises for a wrong name at depth 1 too
        elif _is_sequence(activation):
            specs = list(activation)
        else:
            raise InvalidTypeError(not_an_activation(activation))
        if len(specs) != layers - 1:
            raise InvalidValueError(
                f"activation: a network of depth {layers} has {layers - 1} hidden layers, "
                f"but {len(specs)} activations are given"
            )
        chosen = _PerLayer(activations.get(s) for s in specs)
        w, b = _per_layer("w_std", w_std, layers), _per_layer("b_std", b_std, layers)
        values = {"depth": layers, "activation": chosen, "w_std": w, "b_std": b}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(map(Layer, (None, *self.activation), self.w_std, self.b_std))

    @property
    def functions(self) -> tuple[Function, ...]:
        return self.activation

    def replace(self, **changes: Any) -> "MLP":
        """Return a network with other arguments, as `dataclasses.replace` does.

        Parameters
        ----------
        **changes : depth, activation, w_std, b_std
            The arguments that change. If the depth changes, the other arguments are kept if they
            are equal for all layers, and have to be given if they are not.

        Raises
        ------
        ValueError, TypeError
            See `MLP`.

        Examples
        --------
        >>> print(ntk_numba.MLP(4, "relu", b_std=0.1).replace(depth=6))
        depth 6, activation relu, w_std 1, b_std 0.1
        """
        return replace(self, **changes)

    def first(self, count: int) -> "MLP":
        """Return the network of the first `count` layers, whose outputs are α̃⁽ˡ⁾, l = count."""
        return MLP(count, self.activation[: count - 1], self.w_std[:count], self.b_std[:count])

    def to_dict(self) -> dict[str, Any]:
        """Return a description of JSON's types only, which `from_dict` reads."""
        return {
            "depth": self.depth,
            "activation": [a.name for a in self.activation],
            "w_std": list(self.w_std),
            "b_std": list(self.b_std),
        }

    @classmethod
    def from_dict(cls, description: dict[str, Any]) -> "MLP":
        """Return the network that `to_dict` described."""
        known = dict(description)
        specs = known.get("activation")
        if isinstance(specs, str):
            known["activation"] = activations.recall(specs)
        elif isinstance(specs, list | tuple):
            known["activation"] = [activations.recall(s) for s in specs]
        return cls(**known)

    @property
    def fingerprint(self) -> str:
        """The hexadecimal SHA-256 of the description, which is equal for equal networks only."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def __repr__(self) -> str:
        facts = (f"{key}={value!r}" for key, value in self.to_dict().items())
        return f"MLP({', '.join(facts)})"

    def __str__(self) -> str:
        def short(values: Sequence[Any]) -> str:
            return ", ".join(dict.fromkeys(str(v) for v in values)) or "none"

        same = len(set(self.activation)) <= 1 and len(set(self.w_std)) == len(set(self.b_std)) == 1
        if same:
            return (
                f"depth {self.depth}, activation {short([a.name for a in self.activation])}, "
                f"w_std {self.w_std[0]:g}, b_std {self.b_std[0]:g}"
            )
        return ", ".join(f"{key} {value}" for key, value in self.to_dict().items())


def _per_layer(name: str, value: Any, layers: int) -> tuple[float, ...]:
    """Return one float per layer, or raise an error if `value` is not made of such numbers."""
    value = _of_any_depth(name, plain(value), layers)
    if not isinstance(value, numbers.Real) and not _is_sequence(value):
        raise InvalidTypeError(f"{name} must be a number or one number per layer, not {value!r}")
    values = [value] * layers if isinstance(value, numbers.Real) else list(value)
    if len(values) != layers:
        raise InvalidValueError(
            f"{name}: depth {layers} takes 1 or {layers} numbers, not {len(values)}"
        )
    return _PerLayer(
        not_negative(f"{name} of layer {layer}", v) for layer, v in enumerate(values, start=1)
    )


def _is_sequence(value: Any) -> bool:
    """Return whether a value is iterable in an order, and no text."""
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping | Set)


def _of_any_depth(name: str, value: Any, layers: int) -> Any:
    """Return the one value of a network's layers, if it is to be that of another number of layers.

    Raises
    ------
    ValueError
        If the layers have several values.
    """
    if not isinstance(value, _PerLayer) or len(value) == layers:
        return value
    if len(set(value)) != 1:
        raise InvalidValueError(
            f"{name} is not the same in all layers, so that it does not say what that of "
            f"{layers} layers is; give {name} too"
        )
    return value[0]


def check_network(net: Any) -> MLP:
    """Return `net`, or raise an error if it is not an `MLP`."""
    if not isinstance(net, MLP):
        raise InvalidTypeError(f"net must be an ntk_numba.MLP, not {type(net).__name__}")
    return net
