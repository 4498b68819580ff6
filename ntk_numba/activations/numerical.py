"""Any Python function as an activation, by a series computed from its values.

If no derivative is given, it is that of Chebyshev interpolants on pieces between the kinks, which
are halved until the last coefficients vanish. `Recorded` stands for a function that a file names
and that is not registered in this process.
"""

import copy
import hashlib
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from ntk_numba.duals.base import Activation, Dual, Facts
from ntk_numba.duals.quadrature import REACH, nodes
from ntk_numba.duals.series import (
    TOLERANCE,
    Series,
    checked_tolerance,
    rounded,
)
from ntk_numba.errors import InvalidTypeError, InvalidValueError
from ntk_numba.function import Floats

Array = NDArray[np.float64]
PythonFunction = Callable[[Array], Any]

WORD = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
POINTS = np.concatenate([np.linspace(-8, 8, 1001), np.geomspace(8, 200, 40)[1:],
                         -np.geomspace(8, 200, 40)[1:], np.geomspace(1e-6, 0.01, 20)])  # fmt: skip
DEGREE = 24  # the degree of a piece
SHORTEST = 2.0**-12  # a piece that is shorter is not halved again
SCALES = (8.0, 32.0, 128.0, 512.0)  # candidates for `smooth_beyond`
# the largest fraction of E[σ²] and of E[σ'²] from the outer fifth of the quadrature's range
EDGE = 1e-13


class Numerical(Series):
    """σ(x) = fn(x) for any Python function that is smooth except at given kinks.

    Parameters
    ----------
    fn : callable
        σ, which takes and returns an array of float64 and acts on each number by itself.
    name : str, optional
        A word of letters, digits and _; by default ``fn.__name__`` if that is one, else
        "numerical".
    tolerance : float
        The largest error of the series, 1e-13 to 1e-2, see `duals.series`.
    derivative : callable, optional
        σ'; by default that of an interpolant.
    kinks : sequence of float
        The x at which fn is not smooth. It must be continuous there.

    Attributes
    ----------
    label : str
        The name that was given. `activations.get` finds a registered function by it.
    name : str
        ``label@digest``, or ``label@digest:tolerance`` if the tolerance is not the default. The
        digest is the first 12 hexadecimal digits of the SHA-256 of fn's values at fixed points and
        of the kinks. Activations with equal names are equal.

    Raises
    ------
    ValueError, TypeError
        If fn is not elementwise, real and finite for |x| ≤ 8, or another argument cannot be used.

    Notes
    -----
    If fn(0) = 0, values near 0 should be relatively accurate: ``np.expm1(x)``, not
    ``np.exp(x) - 1``.

    Examples
    --------
    >>> square = activations.Numerical(np.square, name="my_square")
    >>> activations.register(square).name
    'my_square@ab39af1ffa56'
    >>> net = ntk_numba.MLP(3, "my_square")
    """

    name: str
    label: str
    _fn: PythonFunction
    _kinks: tuple[float, ...]
    _tolerance: float
    _given: PythonFunction | None  # the derivative
    _pieces: dict[int, tuple[Array, Array]]  # the interpolants, see `_interpolated`
    _smooth_beyond: float

    def __init__(
        self,
        fn: PythonFunction,
        name: str | None = None,
        tolerance: float = TOLERANCE,
        derivative: PythonFunction | None = None,
        kinks: Sequence[float] = (),
    ) -> None:
        if not callable(fn):
            raise InvalidTypeError(f"fn must be a function, not {type(fn).__name__}")
        own = getattr(fn, "__name__", "")
        label = name if name is not None else (own if WORD.fullmatch(own) else "numerical")
        if not isinstance(label, str) or not WORD.fullmatch(label):
            raise InvalidValueError(f"name must be a word of letters, digits and _, not {label!r}")
        try:
            ordered = tuple(sorted({float(k) for k in kinks}))
        except (TypeError, ValueError):
            raise InvalidTypeError(f"kinks must be a sequence of numbers, not {kinks!r}") from None
        if not all(np.isfinite(ordered)):
            raise InvalidValueError("kinks must be finite")
        checked = checked_tolerance(label, tolerance)
        values = _checked(fn, label, POINTS)
        one_by_one = [_checked(fn, label, POINTS[k : k + 1])[0] for k in range(0, len(POINTS), 97)]
        if not np.allclose(one_by_one, values[::97], rtol=1e-13, atol=1e-300):
            raise InvalidValueError(
                f"activation {label}: the function must act on each number by itself"
            )
        digest = hashlib.sha256(values.tobytes() + repr(ordered).encode()).hexdigest()[:12]
        full = f"{label}@{digest}" + (f":{checked!r}" if checked != TOLERANCE else "")
        fields: dict[str, Any] = {
            "name": full, "label": label, "_fn": fn, "_kinks": ordered, "_tolerance": checked,
            "_given": derivative, "_pieces": {},
        }  # fmt: skip
        for key, value in fields.items():
            object.__setattr__(self, key, value)
        if derivative is not None:
            _checked(derivative, label, POINTS)
        object.__setattr__(self, "_smooth_beyond", self._scale())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Numerical) and (other.name, other._tolerance) == (
            self.name,
            self._tolerance,
        )

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def tolerance(self) -> float:
        return self._tolerance

    def finer(self, tolerance: float) -> "Numerical":
        other = copy.copy(self)
        object.__setattr__(other, "_tolerance", tolerance)
        return other

    @property
    def tolerance_format(self) -> str:
        return "tolerance={:.0e}"

    @property
    def kinks(self) -> tuple[float, ...]:
        return self._kinks

    @property
    def smooth_beyond(self) -> float:
        return self._smooth_beyond

    @property
    def facts(self) -> Facts:
        return super().facts._replace(method="Hermite series of a function's values")

    @property
    def parity(self) -> int:
        right, left = self(np.abs(POINTS)), self(-np.abs(POINTS))
        if set(self._kinks) != {-k for k in self._kinks}:
            return 0
        return 1 if (right == left).all() else -1 if (right == -left).all() else 0

    @property
    def never_negative(self) -> bool:
        return False  # only values are known

    def __call__(self, x: Floats) -> Floats:
        return np.asarray(np.asarray(self._fn(np.asarray(x, float))), x.dtype)

    def derivative(self, x: Floats) -> Floats:
        if self._given is not None:
            return np.asarray(np.asarray(self._given(np.asarray(x, float))), x.dtype)
        flat = np.asarray(x, float).ravel()
        out = np.empty(flat.shape)
        # for each n, one table of pieces of [−2^n, 2^n], which end at the kinks
        reach = np.maximum(np.ceil(np.log2(np.maximum(abs(flat), 1))), 0).astype(int)
        for n in np.unique(reach):
            here = reach == n
            out[here] = self._interpolated(int(n), flat[here])
        return np.asarray(out.reshape(x.shape), x.dtype)

    def _interpolated(self, n: int, x: Array) -> Array:
        """Return the derivative of the interpolants on [−2^n, 2^n] at x."""
        if n not in self._pieces:
            self._pieces[n] = _pieces(self._fn, -(2.0**n), 2.0**n, self._kinks, self.label)
        ends, slopes = self._pieces[n]
        # at an end, the piece on the left
        piece = np.clip(np.searchsorted(ends, x, side="left") - 1, 0, len(ends) - 2)
        low, high = ends[piece], ends[piece + 1]
        u = (2 * x - low - high) / (high - low)
        return np.asarray(chebyshev.chebval(u, slopes[:, piece], tensor=False))

    def _scale(self) -> float:
        """Return the least of `SCALES` for which coarse panels agree with finer ones."""
        for scale in SCALES:
            if self._agrees(scale, 4 * scale):
                return scale
        return SCALES[-1]

    def _agrees(self, scale: float, beyond: float) -> bool:
        """Return whether panels that grow beyond `scale` are fine enough for |x| up to `beyond`."""
        for q in ((beyond / 6) ** 2, (beyond / 2) ** 2):
            means = []
            for smooth_beyond in (scale, np.inf if beyond < 100 else 8 * scale):
                t, weights = nodes(q, self._kinks, min(smooth_beyond, REACH * np.sqrt(q)))
                s = np.asarray(self._fn(np.sqrt(q) * t), float)
                # `dual` raises if the q in use overflow
                with np.errstate(over="ignore", invalid="ignore"):
                    mean = weights @ s**2, weights @ (s * np.exp(-t)), weights @ (s * s * t)
                means.append(mean)
            if not np.isfinite(means).all():
                return True
            top = max(abs(means[1][0]), 1e-300)
            if not np.allclose(means[0], means[1], rtol=0, atol=1e-12 * max(top, top**0.5)):
                return False
        return True

    def dual(self, q_max: float) -> Dual:
        """Return the series of least degree that is within the tolerance for variances up to q_max.

        Raises
        ------
        ValueError
            If no series is; if σ is not finite there, or grows too fast for E[σ²] or E[σ'²]; or if
            the derivative does not belong to it.
        """
        limit = rounded(q_max)
        t, weights = nodes(limit, self._kinks, self._smooth_beyond)
        with np.errstate(over="ignore", invalid="ignore"):
            x = np.sqrt(limit) * t
            values = np.asarray(self._fn(x), float)
            if not np.isfinite(values).all():
                raise InvalidValueError(
                    f"activation {self.name}: it is not finite at some |x| ≤ {abs(x).max():.3g}, "
                    f"{REACH:g} standard deviations of the variance {limit:.3g}"
                )
            for square in (weights * values**2, weights * self.derivative(x) ** 2):
                if not square[abs(t) > 0.8 * REACH].sum() <= EDGE * square.sum():
                    raise InvalidValueError(
                        f"activation {self.name}: it grows too fast for E[σ²] or E[σ'²] at the "
                        f"variance {limit:.3g}; scale the data or w_std down"
                    )
        self._check_derivative(limit)
        return super().dual(q_max)

    def _check_derivative(self, q: float) -> None:
        """Raise an error unless E[σ(√q t) h_k(t)] = √(q/k) E[σ'(√q t) h_{k−1}(t)] for k ≤ 40."""
        t, weights = nodes(q, self._kinks, self._smooth_beyond)
        x = np.sqrt(q) * t
        values, slopes = np.asarray(self(x)), np.asarray(self.derivative(x))
        size = np.sqrt(weights @ values**2) + np.sqrt(q * (weights @ slopes**2))
        before, h = np.zeros_like(t), np.ones_like(t)
        for k in range(1, 41):
            by_slope = np.sqrt(q / k) * ((weights * slopes) @ h)
            before, h = h, (t * h - np.sqrt(k - 1) * before) / np.sqrt(k)
            if abs((weights * values) @ h - by_slope) > max(1e-11, self._tolerance / 10) * size:
                raise InvalidValueError(
                    f"activation {self.name}: its derivative is not that of its values; it jumps, "
                    "has a kink that is not named, or oscillates too fast"
                )


class Recorded(Activation):
    """A `Numerical` that is not registered in this process: it has a name and computes nothing."""

    name: str

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "name", name)

    def _refuse(self, *arguments: Any) -> NoReturn:
        label = self.name.partition("@")[0].rpartition("*")[2]
        raise InvalidValueError(
            f"activation {self.name!r} is a Python function that is not registered here; create it "
            f"by Numerical(fn, name={label!r}, …) and register it by activations.register first"
        )

    __call__: Any = _refuse
    derivative: Any = _refuse
    second_moment: Any = _refuse
    dual: Any = _refuse

    @property
    def facts(self) -> Facts:
        return Facts(method="not registered here", needs_largest=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recorded) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


def _checked(fn: PythonFunction, label: str, x: Array) -> Array:
    """Return fn(x), or raise an error if it is no array of x's shape of finite real numbers."""
    returned = np.asarray(fn(x.copy()))
    if returned.shape != x.shape:
        raise InvalidValueError(
            f"activation {label}: the function must return an array of its argument's shape "
            f"{x.shape}, not {returned.shape}"
        )
    if not (
        np.issubdtype(returned.dtype, np.floating) or np.issubdtype(returned.dtype, np.integer)
    ):
        raise InvalidValueError(f"activation {label}: the function must return real numbers")
    values = returned.astype(float)
    if not np.isfinite(values[abs(x) <= 8]).all():
        raise InvalidValueError(f"activation {label}: the function must be finite")
    return values


def _pieces(
    fn: PythonFunction, low: float, high: float, kinks: Sequence[float], label: str
) -> tuple[Array, Array]:
    """Return the ends of the interpolants' pieces, and the coefficients of their derivatives."""
    points = np.cos(np.pi * (np.arange(DEGREE + 1) + 0.5) / (DEGREE + 1))
    inverse = np.linalg.inv(chebyshev.chebvander(points, DEGREE))
    known = np.abs(np.asarray(fn(POINTS.copy()), float))
    edges = [low, *(k for k in kinks if low < k < high), high]
    todo, done = list(pairwise(edges)), []
    while todo:
        a, b = todo.pop()
        values = np.asarray(fn((a + b) / 2 + (b - a) / 2 * points), float)
        c = inverse @ values
        # the derivative's last terms are compared with its size and with the rounding of the
        # values, or of larger values nearer to 0, which weigh more in all means
        slope = chebyshev.chebder(c) * 2 / (b - a)
        nearer = known[abs(POINTS) <= max(abs(a), abs(b))].max(initial=0.0)
        rounding = 1e-14 * max(abs(values).max(), nearer) * 2 / (b - a)
        last = abs(slope[-4:]).max()
        if last <= max(1e-12 * abs(slope).max(), rounding) or b - a < SHORTEST:
            done.append((a, b, slope))
        else:
            todo += [(a, (a + b) / 2), ((a + b) / 2, b)]
        if len(done) + len(todo) > 20000:
            raise InvalidValueError(
                f"activation {label}: it oscillates too fast to be differentiated"
            )
    done.sort(key=lambda piece: piece[0])
    ends = np.array([piece[0] for piece in done] + [high])
    return ends, np.array([piece[2] for piece in done]).T
