"""Activations by name."""

import difflib
from collections.abc import Callable

from ntk_numba.activations.base import Activation
from ntk_numba.activations.error_function import ErrorFunction
from ntk_numba.activations.piecewise_linear import PiecewiseLinear


def _spelled(name: str, *parameters: float) -> str:
    return name + (":" + ",".join(repr(p) for p in parameters) if parameters else "")


def identity() -> Activation:
    """σ(x) = x."""
    return PiecewiseLinear("identity", 1.0, 1.0)


def relu() -> Activation:
    """σ(x) = max(x, 0)."""
    return PiecewiseLinear("relu", 0.0, 1.0)


def leaky_relu(alpha: float = 0.01) -> Activation:
    """σ(x) = x for x > 0, alpha·x otherwise."""
    return PiecewiseLinear(_spelled("leaky_relu", alpha), alpha, 1.0)


def ab_relu(a: float, b: float) -> Activation:
    """σ(x) = a·min(x, 0) + b·max(x, 0)."""
    return PiecewiseLinear(_spelled("ab_relu", a, b), a, b)


def abs_() -> Activation:
    """σ(x) = |x|."""
    return PiecewiseLinear("abs", -1.0, 1.0)


def erf(a: float = 1.0, b: float = 1.0, c: float = 0.0) -> Activation:
    """σ(x) = a·erf(bx) + c."""
    return ErrorFunction(_spelled("erf", a, b, c) if (a, b, c) != (1, 1, 0) else "erf", a, b, c)


# name: (constructor, fewest parameters, most parameters)
TABLE: dict[str, tuple[Callable[..., Activation], int, int]] = {
    "identity": (identity, 0, 0),
    "relu": (relu, 0, 0),
    "leaky_relu": (leaky_relu, 0, 1),
    "ab_relu": (ab_relu, 2, 2),
    "abs": (abs_, 0, 0),
    "erf": (erf, 0, 3),
}


def names() -> list[str]:
    """Every name that `get`, `ntk_numba.MLP` and the command line take."""
    return list(TABLE)


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
    constructor, fewest, most = TABLE[name]
    try:
        parameters = [float(text) for text in tail.split(",")] if tail else []
    except ValueError:
        raise ValueError(
            f"activation {spec!r}: {tail!r} is not a list of numbers; write {name}:0.1 or the like"
        ) from None
    if not fewest <= len(parameters) <= most:
        takes = str(fewest) if fewest == most else f"{fewest} to {most}"
        raise ValueError(f"activation {name!r} takes {takes} parameters, not {len(parameters)}")
    if not all(abs(p) < float("inf") for p in parameters):
        raise ValueError(f"activation {spec!r}: parameters must be finite")
    return constructor(*parameters)
