"""Parsers of arguments that are numbers, sizes or names; errors name the argument."""

import math
import numbers
import os
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from numpy.typing import ArrayLike

from ntk_numba.errors import InvalidTypeError, InvalidValueError

KernelName: TypeAlias = Literal["nngp", "ntk"]
Kernels: TypeAlias = KernelName | Sequence[KernelName]
Layers: TypeAlias = Literal["last", "all"] | Sequence[int]
Layout: TypeAlias = Literal["full", "lower"]

Known = TypeVar("Known", bound=str)

KERNELS: tuple[KernelName, ...] = ("nngp", "ntk")
"""The kernels of a network: Σ, its covariance as a Gaussian process, and Θ, its tangent kernel."""


class Rows(Protocol):
    """A matrix whose rows are read by slices, such as an HDF5 dataset."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, key: Any, /) -> Any: ...


Data: TypeAlias = ArrayLike | Rows | os.PathLike[str]
"""The types that are accepted for samples, X or Z. A string is the path of a file too."""


@dataclass(frozen=True)
class Policy:
    """How a job treats existing output and whether it reports its progress.

    overwrite : whether to replace an existing output and an unfinished file of another job
    progress : whether to show progress bars on standard error
    """

    overwrite: bool = False
    progress: bool = False


def plain(value: Any) -> Any:
    """Return the number that an array of no dimensions holds, and any other value as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """Return the argument `name` as an int, if it is a whole number of at least `least`.

    Raises
    ------
    TypeError, ValueError
        If it is not.
    """
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise InvalidTypeError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise InvalidValueError(f"{name} must be at least {least}, not {value}")
    return int(value)


def one_of(name: str, value: Any, known: Sequence[Known]) -> Known:
    """Return the argument `name`, if it is one of the known names.

    Raises
    ------
    ValueError
        If it is not.
    """
    if isinstance(value, str):
        for candidate in known:
            if value == candidate:
                return candidate
    *others, last = map(repr, known)
    raise InvalidValueError(f"{name} must be {', '.join(others)} or {last}, not {value!r}")


def listed(name: str, value: Any) -> list[Any]:
    """Return the elements of the argument `name`; a text is one element.

    Raises
    ------
    TypeError
        If it has none.
    """
    if isinstance(value, str):
        return [value]
    try:
        return list(value)
    except TypeError:
        raise InvalidTypeError(f"{name} must be a sequence, not {value!r}") from None


def parse_kernels(kernels: str | Sequence[str]) -> tuple[KernelName, ...]:
    """Return the wanted kernels in the order nngp, ntk.

    Raises
    ------
    ValueError, TypeError
        If no kernel is wanted, or one that does not exist.
    """
    wanted = listed("kernels", kernels)
    for name in wanted:
        if not isinstance(name, str) or name not in KERNELS:
            raise InvalidValueError(f"kernels: {name!r} is none of {', '.join(KERNELS)}")
    if not wanted:
        raise InvalidValueError(f"kernels is empty; name one or both of {', '.join(KERNELS)}")
    return tuple(name for name in KERNELS if name in wanted)


def parse_layers(layers: Any) -> Layers:
    """Return "last", "all" or the numbers of layers as a tuple; `kept_layers` knows the depth.

    Raises
    ------
    ValueError, TypeError
        If it is none of these, or the numbers are not increasing whole numbers of at least 1.
    """
    if isinstance(layers, str):
        if layers == "last":
            return "last"
        if layers == "all":
            return "all"
    elif isinstance(layers, Iterable) and not isinstance(layers, bytes | Mapping | Set):
        numbers = tuple(whole_number("layers", layer) for layer in layers)
        if not numbers:
            raise InvalidValueError("layers is empty; name at least one layer, as layers=[3]")
        if any(b <= a for a, b in pairwise(numbers)):
            raise InvalidValueError(
                f"layers must be in increasing order, each once, not {list(numbers)}; "
                f"give {sorted(set(numbers))}"
            )
        return numbers
    raise InvalidValueError(
        f"layers must be 'last', 'all' or a list of layers such as [3, 5], not {layers!r}"
    )


def kept_layers(layers: Layers, depth: int) -> tuple[int, ...]:
    """Return the numbers of the layers of which kernels are wanted, counted from 1.

    layers : what `parse_layers` returned
    depth : L

    Raises
    ------
    ValueError
        If there is no such layer.
    """
    if layers == "last":
        return (depth,)
    if layers == "all":
        return tuple(range(1, depth + 1))
    numbers = tuple(int(layer) for layer in layers)
    if numbers[-1] > depth:
        raise InvalidValueError(
            f"layers: there is no layer {numbers[-1]}; the network has layers 1 to {depth}"
        )
    return numbers


def real_number(name: str, value: Any) -> float:
    """Return the argument `name` as a float, if it is a real number.

    Raises
    ------
    TypeError
        If it is not.
    """
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InvalidTypeError(f"{name} must be a number, not {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise InvalidValueError(f"{name} is too large for a number of float64") from None


def not_negative(name: str, value: Any) -> float:
    """Return the argument `name` as a float, if it is finite and not negative.

    Raises
    ------
    TypeError, ValueError
        If it is not.
    """
    number = real_number(name, value)
    if not 0 <= number < math.inf:
        raise InvalidValueError(f"{name} must be finite and not negative, not {value!r}")
    return number


def number_between(name: str, value: Any, low: float, high: float) -> float:
    """Return the argument `name` as a float, if it is more than `low` and less than `high`.

    Raises
    ------
    TypeError, ValueError
        If it is not.
    """
    number = real_number(name, value)
    if not low < number < high:
        below = f"less than {high:g}" if high < math.inf else "finite"
        raise InvalidValueError(f"{name} must be more than {low:g} and {below}, not {value!r}")
    return number


UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12} | {
    f"{prefix}i": 1 << (10 * power) for power, prefix in enumerate("kmgt", start=1)
}


def parse_bytes(size: int | str, name: str) -> int:
    """Return the number of bytes of a size such as ``2147483648``, ``"2GiB"`` or ``"500 MB"``.

    name : the name of the argument in errors

    Raises
    ------
    ValueError
        If it is not a positive number of bytes.
    """
    if isinstance(size, int) and not isinstance(size, bool):
        value = size
    else:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", str(size).lower())
        if match is None or match[2] not in UNITS:
            raise InvalidValueError(
                f"{name} must be a number of bytes such as 2GiB or 500MB, not {size!r}"
            )
        number = float(match[1]) * UNITS[match[2]]
        if not match[2] and not number.is_integer():
            raise InvalidValueError(
                f"{name} must be a whole number of bytes, or have a unit such as GiB, not {size!r}"
            )
        value = int(number)
    if value <= 0:
        raise InvalidValueError(f"{name} must be more than 0 bytes, not {size!r}")
    return value


def show_bytes(size: float) -> str:
    """Format bytes as ``1.5 GiB``, with three significant digits and a binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1000 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.3g} {unit}" if size < 1000 else f"{size:.0f} {unit}"
