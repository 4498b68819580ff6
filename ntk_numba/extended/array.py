"""Arrays of extended numbers, which NumPy's operators and functions take.

``np.exp(x)``, ``x * y`` or ``np.where(x > 0, x, y)`` of an `Extended` array are computed by the
compiled loops of this wing, so a formula that is written for arrays of float64 serves both.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from ntk_numba.compiled.policy import kernel, njit
from ntk_numba.extended.arithmetic import (
    add_numbers,
    divide_numbers,
    multiply_numbers,
    normal,
    square_root,
)
from ntk_numba.extended.constants import LN2_EXACT, pair
from ntk_numba.extended.constants import PI as PI_PAIR
from ntk_numba.extended.constants import ROOT_TWO as ROOT_TWO_PAIR
from ntk_numba.extended.elementary import BY_UFUNC

Parts = NDArray[np.float64]

ADD, SUBTRACT, MULTIPLY, DIVIDE = range(4)
WIDE = 512  # the exponent of the radix, see `arithmetic`


class Extended(NDArrayOperatorsMixin):
    """An array of numbers with 106 bits, see `arithmetic`.

    Parameters
    ----------
    parts : (3, …) float64
        high, low and k of each number. `extended` makes an array from other numbers.
    """

    __slots__ = ("parts",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    @property
    def shape(self) -> tuple[int, ...]:
        return self.parts.shape[1:]

    @property
    def size(self) -> int:
        return self.parts[0].size

    @property
    def ndim(self) -> int:
        return self.parts.ndim - 1

    @property
    def T(self) -> "Extended":
        return Extended(self.parts.transpose(0, *range(self.ndim, 0, -1)))

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Extended({self.astype(float)!r})"

    def __getitem__(self, at: Any) -> "Extended":
        return Extended(self.parts[(slice(None), *(at if isinstance(at, tuple) else (at,)))])

    def __setitem__(self, at: Any, value: Any) -> None:
        places = (slice(None), *(at if isinstance(at, tuple) else (at,)))
        parts = extended(value).parts
        missing = self.parts[places].ndim - parts.ndim
        self.parts[places] = parts.reshape(3, *(1,) * missing, *parts.shape[1:])

    def reshape(self, *shape: int) -> "Extended":
        """Return the same numbers in another shape."""
        return Extended(self.parts.reshape(3, *shape))

    def astype(self, dtype: Any) -> NDArray[Any]:
        """Return the numbers rounded to float64, and then to a dtype."""
        high, _, k = self.parts
        if k.any():
            with np.errstate(over="ignore", under="ignore"):
                high = np.ldexp(high, np.clip(WIDE * k, -5000, 5000).astype(int))
        return high.astype(dtype)

    def exponents(self) -> NDArray[np.int64]:
        """Return the n with 2^(n − 1) ≤ |x| < 2^n; −2^40 for 0 and NaN, 2^40 for infinity."""
        exponent = np.frexp(self.parts[0])[1] + WIDE * self.parts[2].astype(np.int64)
        exponent[~(np.abs(self.parts[0]) > 0)] = -(1 << 40)
        exponent[np.isinf(self.parts[0])] = 1 << 40
        return exponent

    def leading(self, bits: int) -> "Extended":
        """Return the numbers rounded to a number of bits, at most 53."""
        mantissa, exponent = np.frexp(self.parts[0])
        parts = np.zeros(self.parts.shape)
        parts[0] = np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits)
        parts[2] = self.parts[2]
        return Extended(parts)

    if not TYPE_CHECKING:  # NumPy's functions of it return no arrays of NumPy's

        def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
            return self.astype(dtype or float)

    def __float__(self) -> float:
        return float(self.astype(float))

    def sum(self, axis: int | None = None) -> "Extended":
        """Return the sum along an axis, or of all numbers, in order."""
        if axis is None:
            return self.reshape(self.size).sum(axis=0)
        terms = np.moveaxis(self.parts, axis + 1 if axis >= 0 else axis, 1)
        out = np.zeros((3, *terms.shape[2:]))
        flat = np.ascontiguousarray(terms).reshape(3, terms.shape[1], out[0].size)
        _add_up(flat, out.reshape(3, -1))
        return Extended(out)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        function = FUNCTIONS.get(ufunc)
        (place,) = options.pop("out", (None,))
        if method != "__call__" or function is None or options:
            return NotImplemented
        result = function(*inputs)
        if place is None:
            return result
        if not isinstance(place, Extended):
            return NotImplemented
        place.parts[...] = result.parts  # as in place += x
        return place

    def __array_function__(self, function: Any, _: Any, args: Any, options: Any) -> Any:
        own = FUNCTIONS.get(function)
        return NotImplemented if own is None else own(*args, **options)


# made without compiled code, so that nothing is compiled when a module is imported
PI, LN4, ROOT_TWO = (
    Extended(np.array([high, low, 0.0]))
    for high, low in (PI_PAIR, pair(2 * LN2_EXACT), ROOT_TWO_PAIR)
)


def extended(value: Any) -> Extended:
    """Return numbers as an extended array, exactly."""
    if isinstance(value, Extended):
        return value
    number = np.asarray(value, float)
    parts = np.zeros((3, *number.shape))
    _take(np.ascontiguousarray(number).reshape(-1), parts.reshape(3, -1))
    return Extended(parts)


def exponential(x: float) -> float:
    """Return e^x, rounded to float64."""
    return float(np.exp(extended(x)))


def logarithm(x: float) -> float:
    """Return ln x, rounded to float64."""
    return float(np.log(extended(x)))


def whole(n: int) -> Extended:
    """Return a whole number of at most 106 bits exactly."""
    high = float(n)
    return extended(high) + float(n - int(high))


def values_of(function: Callable[[Any], Any], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a function's values at x, rounded to float64 once, at the end."""
    return np.asarray(extended(function(extended(x))).astype(float))


@kernel()
def _take(numbers: NDArray[np.float64], out: Parts) -> None:
    """Fill out with numbers of float64."""
    high, low, k = out[0], out[1], out[2]
    for i in range(numbers.size):
        x, rest, power = normal(numbers[i], 0.0, 0.0)
        high[i], low[i], k[i] = normal(x, rest, power)


@njit(_nrt=True)
def _repeated(a: Parts, count: int) -> Parts:
    """Return a single number as often as wanted."""
    parts = np.empty((3, count))
    for i in range(3):
        parts[i, :] = a[i, 0]
    return parts


@kernel()
def _combine(operation: int, a: Parts, b: Parts, out: Parts) -> None:
    """Fill out, (3, n), with sums, differences, products or quotients.

    a and b are of the same shape, or a single number, (3, 1).
    """
    if a.shape[1] != out.shape[1]:
        a = _repeated(a, out.shape[1])
    if b.shape[1] != out.shape[1]:
        b = _repeated(b, out.shape[1])
    high, low, k = out[0], out[1], out[2]
    x, x_low, x_k = a[0], a[1], a[2]
    y, y_low, y_k = b[0], b[1], b[2]
    if operation in (ADD, SUBTRACT):
        sign = 1.0 if operation == ADD else -1.0
        for i in range(high.size):
            high[i], low[i], k[i] = add_numbers(
                (x[i], x_low[i], x_k[i]), (sign * y[i], sign * y_low[i], y_k[i])
            )
    elif operation == MULTIPLY:
        for i in range(high.size):
            high[i], low[i], k[i] = multiply_numbers(
                (x[i], x_low[i], x_k[i]), (y[i], y_low[i], y_k[i])
            )
    else:
        for i in range(high.size):
            high[i], low[i], k[i] = divide_numbers(
                (x[i], x_low[i], x_k[i]), (y[i], y_low[i], y_k[i])
            )


@kernel()
def _add_up(terms: Parts, out: Parts) -> None:
    """Add terms, (3, terms, n), to out, (3, n), in order."""
    high, low, k = out[0], out[1], out[2]
    for m in range(terms.shape[1]):
        x, x_low, x_k = terms[0, m], terms[1, m], terms[2, m]
        for i in range(high.size):
            high[i], low[i], k[i] = add_numbers((high[i], low[i], k[i]), (x[i], x_low[i], x_k[i]))


def _flat(parts: Parts, shape: tuple[int, ...]) -> Parts:
    """Return the parts of numbers that are broadcast to a shape, (3, n)."""
    if (parts.shape[1:] == shape and parts.flags.c_contiguous) or parts.size == 3:
        return parts.reshape(3, -1)
    if parts.shape[1:] != shape:
        missing = len(shape) + 1 - parts.ndim
        parts = np.broadcast_to(parts.reshape(3, *(1,) * missing, *parts.shape[1:]), (3, *shape))
    return np.ascontiguousarray(parts).reshape(3, -1)


def _operation(which: int) -> Callable[[Any, Any], Extended]:
    """Make an operation of two arrays, which are broadcast against each other."""

    def combined(a: Any, b: Any) -> Extended:
        first, second = extended(a).parts, extended(b).parts
        shape = first.shape[1:]
        if second.shape[1:] != shape:
            shape = np.broadcast_shapes(shape, second.shape[1:])
        out = np.empty((3, *shape))
        _combine(which, _flat(first, shape), _flat(second, shape), out.reshape(3, -1))
        return Extended(out)

    return combined


def _elementwise(scalar: Any) -> Callable[[Any], Extended]:
    """Make a function of an array from one of a single number."""

    @kernel()
    def loop(a: Parts, out: Parts) -> None:
        x, x_low, x_k = a[0], a[1], a[2]
        high, low, k = out[0], out[1], out[2]
        for i in range(high.size):
            high[i], low[i], k[i] = scalar((x[i], x_low[i], x_k[i]))

    def function(a: Any) -> Extended:
        parts = extended(a).parts
        out = np.empty(parts.shape)
        loop(_flat(parts, parts.shape[1:]), out.reshape(3, -1))
        return Extended(out)

    return function


add, subtract = _operation(ADD), _operation(SUBTRACT)
multiply, divide = _operation(MULTIPLY), _operation(DIVIDE)


def _negative(a: Extended) -> Extended:
    return Extended(a.parts * np.array([-1.0, -1.0, 1.0]).reshape(3, *(1,) * a.ndim))


def _absolute(a: Extended) -> Extended:
    return where(a.parts[0] < 0, _negative(a), a)


def _difference(a: Any, b: Any) -> Parts:
    """Return a − b rounded to float64, of which the sign is exact."""
    return subtract(a, b).parts[0]


def where(condition: Any, a: Any, b: Any) -> Extended:
    """Return a where a condition holds, and b elsewhere."""
    first, second = extended(a), extended(b)
    shape = np.broadcast_shapes(np.shape(condition), first.shape, second.shape)
    chosen = np.broadcast_to(condition, shape).reshape(-1)
    parts = np.where(chosen, _flat(first.parts, shape), _flat(second.parts, shape))
    return Extended(parts.reshape(3, *shape))


def maximum(a: Any, b: Any) -> Extended:
    """Return the larger of two numbers, elementwise."""
    return where(_difference(a, b) < 0, b, a)


def minimum(a: Any, b: Any) -> Extended:
    """Return the smaller of two numbers, elementwise."""
    return where(_difference(a, b) > 0, b, a)


def _clip(a: Any, low: Any, high: Any) -> Extended:
    return minimum(maximum(a, low), high)


def _power(a: Any, exponent: Any) -> Extended:
    """Return a to the power of whole numbers, by squaring."""
    base, n = extended(a), np.asarray(exponent)
    if n.ndim == 0 and n == 2:
        return multiply(base, base)
    whole = np.abs(n.astype(int))
    if (whole != np.abs(n)).any():
        return NotImplemented
    shape = np.broadcast_shapes(base.shape, n.shape)
    out = extended(np.ones(shape))
    rest = np.broadcast_to(whole, shape)
    while rest.any():
        out = where(rest % 2 == 1, out * base, out) if (rest % 2 == 1).any() else out
        rest = rest // 2
        base = base * base if rest.any() else base
    return where(n < 0, divide(1.0, out), out) if (n < 0).any() else out


def _joined(function: Any) -> Callable[..., Extended]:
    """Make ``np.stack`` or ``np.concatenate`` of extended arrays."""

    def join(arrays: Sequence[Any], axis: int = 0) -> Extended:
        at = axis + 1 if axis >= 0 else axis
        return Extended(function([extended(a).parts for a in arrays], axis=at))

    return join


stack, concatenate = _joined(np.stack), _joined(np.concatenate)


def _filled(value: float | None) -> Callable[..., Extended]:
    """Make ``np.zeros_like``, ``np.ones_like`` or ``np.full_like`` of an extended array."""

    def fill(like: Extended, given: float | None = None) -> Extended:
        return extended(np.full(like.shape, value if given is None else given))

    return fill


def _equal(a: Any, b: Any) -> Any:
    return _difference(a, b) == 0


FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.add: add,
    np.subtract: subtract,
    np.multiply: multiply,
    np.true_divide: divide,
    np.sqrt: _elementwise(square_root),
    np.negative: _negative,
    np.positive: lambda a: a,
    np.absolute: _absolute,
    np.square: lambda a: multiply(a, a),
    np.power: _power,
    np.maximum: maximum,
    np.minimum: minimum,
    np.clip: _clip,
    np.less: lambda a, b: _difference(a, b) < 0,
    np.less_equal: lambda a, b: _difference(a, b) <= 0,
    np.greater: lambda a, b: _difference(a, b) > 0,
    np.greater_equal: lambda a, b: _difference(a, b) >= 0,
    np.equal: _equal,
    np.not_equal: lambda a, b: ~_equal(a, b),
    np.isfinite: lambda a: np.isfinite(a.parts[0]),
    np.isnan: lambda a: np.isnan(a.parts[0]),
    np.sign: lambda a: np.sign(a.parts[0]),
    np.where: where,
    np.sum: Extended.sum,
    np.stack: stack,
    np.concatenate: concatenate,
    np.zeros_like: _filled(0.0),
    np.ones_like: _filled(1.0),
    np.full_like: _filled(None),
    **{ufunc: _elementwise(scalar) for ufunc, scalar in BY_UFUNC.items()},
}
"""NumPy's functions of extended arrays, and SciPy's, which `error_function` adds."""
