"""The table of activations by name, which `ntk_numba.MLP` and the command line use.

It imports all files of this folder, which enter their constructors in `registry`.
"""

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

import ntk_numba.activations as families
from ntk_numba.activations.numerical import Numerical, Recorded
from ntk_numba.activations.registry import CONSTRUCTORS
from ntk_numba.activations.scaled import scaled
from ntk_numba.duals.base import Activation
from ntk_numba.errors import InvalidTypeError, InvalidValueError

for _family in pkgutil.iter_modules(families.__path__):
    if _family.name != "table":
        importlib.import_module(f"{families.__name__}.{_family.name}")

# The constructors of all families by name
TABLE: dict[str, Callable[..., Activation]] = dict(sorted(CONSTRUCTORS.items()))

EXAMPLE = "2", "1", "3", "0.5"  # valid parameters for all activations that require some

_registered: dict[str, Numerical] = {}  # by label and by full name


def names() -> list[str]:
    """Return all names that `get`, `ntk_numba.MLP` and the command line accept."""
    return [*TABLE, *(name for name in _registered if "@" not in name)]


def register(activation: Numerical) -> Numerical:
    """Let `get` find a Python function by its label and by its full name, and return it.

    Raises
    ------
    ValueError
        If the label is the name of a built-in activation.
    TypeError
        If the activation is not a `Numerical`.
    """
    if not isinstance(activation, Numerical):
        raise InvalidTypeError(f"only a Numerical is registered, not {type(activation).__name__}")
    if activation.label in TABLE:
        raise InvalidValueError(f"{activation.label!r} is a built-in activation; give another name")
    _registered[activation.label] = _registered[activation.name] = activation
    return activation


def recall(name: str | Activation) -> Activation:
    """Return the activation that a file names, even if its Python function is not registered.

    For such a function it is a `Recorded`, with which a file can be read but nothing computed. For
    all other names it is that of `get`, with the same errors.
    """
    if isinstance(name, str) and "@" in name and name.partition("*")[2] not in _registered:
        return _registered.get(name) or Recorded(name)
    return get(name)


def arity(constructor: Callable[..., Activation]) -> tuple[int, float]:
    """Return the least and the largest number of parameters of an activation."""
    parameters = inspect.signature(constructor).parameters.values()
    fewest = sum(p.default is p.empty and p.kind is not p.VAR_POSITIONAL for p in parameters)
    any_number = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return fewest, float("inf") if any_number else len(parameters)


def example(name: str) -> str:
    """Return a name with valid parameters, if it requires any."""
    if name not in TABLE:
        return name
    fewest, largest = arity(TABLE[name])
    count = fewest if largest < float("inf") else len(EXAMPLE)
    return name + (":" + ",".join(EXAMPLE[:count]) if count else "")


def describe(spec: str) -> dict[str, Any]:
    """Return the columns of `ntk-numba activations` for a name, with or without parameters."""
    name = spec.partition("*")[2] or spec
    name = name.partition(":")[0].strip()
    constructor = TABLE.get(name)
    shown = get(example(spec) if name == spec else spec)
    formula = (inspect.getdoc(constructor) or "").partition("\n")[0] if constructor else ""
    parameters = inspect.signature(constructor).parameters.values() if constructor else ()
    return {
        "name": spec,
        "example": shown.name,
        "parameters": ", ".join(str(p).replace(": float", "").replace(" ", "") for p in parameters),
        "σ(x)": formula.removeprefix("σ(x) = ").rstrip("."),
        "dual": shown.facts.method,
        "domain": shown.facts.domain,
        "Θ": shown.facts.ntk,
    }


def get(spec: str | Activation) -> Activation:
    """Return the activation of ``"name"``, ``"name:parameter,parameter"`` or ``"factor*name"``.

    Raises
    ------
    ValueError
        If the name is unknown (the message suggests the nearest known one), or the parameters are
        not as many finite numbers as the activation takes.
    TypeError
        If `spec` is neither a string nor an `Activation`.
    """
    if isinstance(spec, Activation):
        return spec
    if not isinstance(spec, str):
        raise InvalidTypeError(
            f"activation must be a name or an Activation, not {type(spec).__name__}"
        )
    factor, star, name = spec.partition("*")
    if star:
        try:
            number = float(factor)
        except ValueError:
            raise InvalidValueError(f"activation {spec!r}: {factor!r} is no number") from None
        return scaled(number, get(name.strip()))
    if spec in _registered:
        return _registered[spec]
    if "@" in spec:
        raise InvalidValueError(
            f"activation {spec!r} is a Python function; it must be registered first, by "
            f"activations.register(Numerical(fn, …))"
        )
    name, _, tail = spec.partition(":")
    if name not in TABLE:
        near = difflib.get_close_matches(name.lower(), TABLE, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(TABLE)}"
        raise InvalidValueError(f"activation {name!r} is unknown; {hint}")
    constructor = TABLE[name]
    try:
        parameters = [float(text) for text in tail.split(",")] if tail else []
    except ValueError:
        raise InvalidValueError(
            f"activation {spec!r}: {tail!r} is not a list of numbers; write {name}:0.1 or the like"
        ) from None
    fewest, largest = arity(constructor)
    if not fewest <= len(parameters) <= largest:
        takes = f"{fewest}" if fewest == largest else f"{fewest} to {largest}"
        takes = takes if largest < float("inf") else f"at least {fewest}"
        raise InvalidValueError(
            f"activation {name!r} takes {takes} parameters, not {len(parameters)}"
        )
    if not all(abs(p) < float("inf") for p in parameters):
        raise InvalidValueError(f"activation {spec!r}: parameters must be finite")
    return constructor(*parameters)
