"""The table of activations by name, which `ntk_numba.MLP` and the command line use.

It imports all files of this folder, which enter their constructors in `registry`.
"""

import difflib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from typing import Any

import numpy as np

import ntk_numba.activations as families
from ntk_numba.activations.numerical import Numerical, Recorded
from ntk_numba.activations.registry import CONSTRUCTORS, check_size
from ntk_numba.activations.scaled import scaled
from ntk_numba.duals.base import Activation
from ntk_numba.errors import InvalidTypeError, InvalidValueError

for _family in pkgutil.iter_modules(families.__path__):
    if _family.name != "table":
        importlib.import_module(f"{families.__name__}.{_family.name}")

# The constructors of all families by name
TABLE: dict[str, Callable[..., Activation]] = dict(sorted(CONSTRUCTORS.items()))

EXAMPLE = "2", "1", "3", "0.5"  # valid parameters for all activations that require some

TRIED = -1.7, -0.3, 0.0, 0.4, 2.3  # some x; a function that is 0 at all of them may be 0

# The names of other libraries and books, without case and underscores
SYNONYMS = {
    "linear": "identity", "id": "identity", "none": "identity", "logistic": "sigmoid",
    "sigm": "sigmoid", "expit": "sigmoid", "hyperbolictangent": "tanh", "tanhyp": "tanh",
    "htanh": "hard_tanh", "clip": "hard_tanh", "rectifier": "relu", "rectifiedlinear": "relu",
    "rectifiedlinearunit": "relu", "ramp": "relu", "lrelu": "leaky_relu", "prelu": "leaky_relu",
    "softrelu": "softplus", "smoothrelu": "softplus", "requ": "rectified_monomial:2",
    "relu2": "rectified_monomial:2", "squaredrelu": "rectified_monomial:2",
    "repu": "rectified_monomial:3", "absolute": "abs", "absolutevalue": "abs", "modulus": "abs",
    "sine": "sin", "cosine": "cos", "step": "heaviside", "binarystep": "heaviside",
    "threshold": "heaviside", "unitstep": "heaviside", "signum": "sign", "square": "monomial:2",
    "quadratic": "monomial:2", "cube": "monomial:3", "cubic": "monomial:3", "poly": "polynomial",
    "atan": "arctan", "exponential": "exp", "gauss": "gaussian", "errorfunction": "erf",
    "phi": "normal_cdf", "cdf": "normal_cdf", "probit": "normal_cdf", "geluapprox": "gelu_tanh",
    "gelunew": "gelu_tanh", "gelufast": "gelu_tanh", "fourier": "rbf", "randomfourier": "rbf",
}  # fmt: skip

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
        raise InvalidTypeError(not_an_activation(spec))
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
    name, colon, tail = spec.partition(":")
    if name not in TABLE:
        raise InvalidValueError(_several(spec) or f"activation {name!r} is unknown; {_hint(name)}")
    constructor = TABLE[name]
    try:
        parameters = [float(text) for text in tail.split(",")] if colon else []
    except ValueError:
        if several := _several(spec):
            raise InvalidValueError(several) from None
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
    if "tolerance" not in inspect.signature(constructor).parameters:  # it has a range of its own
        for p in parameters:
            check_size(f"a parameter of {spec!r}", p)
    activation = constructor(*parameters)
    with np.errstate(all="ignore"):
        zero = not activation(np.array(TRIED)).any() and not activation.second_moment(np.ones(1))
    if zero:
        raise InvalidValueError(f"activation {spec!r} is 0 for all x; give another parameter")
    return activation


def not_an_activation(value: Any) -> str:
    """Return the text of an error that a value is not an activation, and what to write instead."""
    text = f"activation must be a name, an Activation or a sequence of them, not {value!r:.60}"
    if callable(value):
        shown = getattr(value, "__name__", type(value).__name__)
        return f"{text}; wrap a function of Python: activations.Numerical({shown})"
    return f"{text}; functions of Python are given as activations.Numerical(function)"


def _several(spec: str) -> str:
    """Return the text of an error if a string lists several activations, else an empty text."""
    words = re.findall(r"[^\W\d]\w*", spec.lower())
    if len(words) < 2 or not all(word in TABLE or _plain(word) in SYNONYMS for word in words):
        return ""
    return (
        f"activation {spec!r} names several; give one for each hidden layer, on the command line "
        f"by repeating the option, as --activation {words[0]} --activation {words[1]}, and in "
        f"Python as a sequence, ({words[0]!r}, {words[1]!r})"
    )


def _plain(name: str) -> str:
    """Return a name without what spellings differ in."""
    return re.sub(r"[\W_]", "", name.lower())


def _hint(name: str) -> str:
    """Return a question or a list that helps with a name that is unknown."""
    plain = _plain(name)
    spellings = {_plain(known): known for known in TABLE} | SYNONYMS
    near = [plain] if plain in spellings else []
    for known in ({_plain(known) for known in TABLE}, spellings):
        near = near or difflib.get_close_matches(plain, known, n=1, cutoff=0.5)
    return f"did you mean {spellings[near[0]]!r}?" if near else f"known are {', '.join(TABLE)}"
