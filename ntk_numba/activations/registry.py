"""The constructors of activations by name, which each family enters by the decorator `named`."""

from collections.abc import Callable
from typing import TypeVar

from ntk_numba.duals.base import Activation

Constructor = TypeVar("Constructor", bound=Callable[..., Activation])

CONSTRUCTORS: dict[str, Callable[..., Activation]] = {}


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
