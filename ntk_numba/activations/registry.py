"""The constructors of activations by name, which each family enters by the decorator `named`."""

from collections.abc import Callable
from typing import TypeVar

from ntk_numba.duals.base import Activation
from ntk_numba.errors import InvalidValueError

Constructor = TypeVar("Constructor", bound=Callable[..., Activation])

CONSTRUCTORS: dict[str, Callable[..., Activation]] = {}

# The range of the sizes of parameters, whose powers then stay within the range of float64
SMALLEST, LARGEST = 1e-30, 1e30


def check_size(what: str, number: float) -> None:
    """Raise an error if a parameter is so large or small that formulas would leave their range."""
    if number != 0 and not SMALLEST <= abs(number) <= LARGEST:
        raise InvalidValueError(
            f"activation: {what} must be 0 or from {SMALLEST:g} to {LARGEST:g} in size, "
            f"not {number!r}; scale w_std or the data instead"
        )


def named(*others: str) -> Callable[[Constructor], Constructor]:
    """Return a decorator that enters a constructor under its own name and under others.

    The constructor takes the numbers after the colon of ``"name:number,number"``, and the first
    line of its docstring is the formula of σ, such as ``σ(x) = max(x, 0).``
    """

    def enter(constructor: Constructor) -> Constructor:
        for name in (constructor.__name__.rstrip("_"), *others):
            if name in CONSTRUCTORS:
                raise RuntimeError(f"two activations are named {name}")
            CONSTRUCTORS[name] = constructor
        return constructor

    return enter
