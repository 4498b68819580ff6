"""Activations by name."""

import difflib
import inspect
from collections.abc import Callable

from ntk_numba.activations.base import Activation
from ntk_numba.activations.error_function import erf, normal_cdf, sigmoid_like
from ntk_numba.activations.exponential import exp, gaussian
from ntk_numba.activations.gabor import gabor
from ntk_numba.activations.gelu import gelu
from ntk_numba.activations.piecewise_linear import ab_relu, abs_, identity, leaky_relu, relu
from ntk_numba.activations.trigonometric import cos, rbf, sin

# name: constructor, which takes the numbers after the colon and whose docstring begins with σ
TABLE: dict[str, Callable[..., Activation]] = {
    "identity": identity,
    "relu": relu,
    "leaky_relu": leaky_relu,
    "ab_relu": ab_relu,
    "abs": abs_,
    "erf": erf,
    "normal_cdf": normal_cdf,
    "sigmoid_like": sigmoid_like,
    "gelu": gelu,
    "sin": sin,
    "cos": cos,
    "rbf": rbf,
    "exp": exp,
    "gaussian": gaussian,
    "gabor": gabor,
}


def names() -> list[str]:
    """Every name that `get`, `ntk_numba.MLP` and the command line take."""
    return list(TABLE)


def arity(constructor: Callable[..., Activation]) -> tuple[int, float]:
    """The fewest and the most parameters of an activation."""
    parameters = inspect.signature(constructor).parameters.values()
    fewest = sum(p.default is p.empty and p.kind is not p.VAR_POSITIONAL for p in parameters)
    endless = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return fewest, float("inf") if endless else len(parameters)


def get(spec: str | Activation) -> Activation:
    """The activation that ``"name"`` or ``"name:parameter,parameter"`` stands for.

    Raises
    ------
    ValueError
        An unknown name (the nearest known one is suggested), or parameters that are not the finite
        numbers the activation takes.
    TypeError
        `spec` is neither a string nor an `Activation`.
    """
    if isinstance(spec, Activation):
        return spec
    if not isinstance(spec, str):
        raise TypeError(f"activation must be a name or an Activation, not {type(spec).__name__}")
    name, _, tail = spec.partition(":")
    if name not in TABLE:
        near = difflib.get_close_matches(name.lower(), TABLE, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(TABLE)}"
        raise ValueError(f"activation {name!r} is unknown; {hint}")
    constructor = TABLE[name]
    try:
        parameters = [float(text) for text in tail.split(",")] if tail else []
    except ValueError:
        raise ValueError(
            f"activation {spec!r}: {tail!r} is not a list of numbers; write {name}:0.1 or the like"
        ) from None
    fewest, most = arity(constructor)
    if not fewest <= len(parameters) <= most:
        takes = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        takes = takes if most < float("inf") else f"at least {fewest}"
        raise ValueError(f"activation {name!r} takes {takes} parameters, not {len(parameters)}")
    if not all(abs(p) < float("inf") for p in parameters):
        raise ValueError(f"activation {spec!r}: parameters must be finite")
    return constructor(*parameters)
