"""Any Python function as an activation, by a series computed from its values.

`activations.interpolant` fits polynomials to the values. They give the derivative, unless it is
given, and they show what the nodes of a quadrature do not see. The error bounds contain, at every
variance at which the series is checked (`Numerical.unseen`),

- the differences of the coefficients by the values from those by the derivative, which are two
  independent quadratures, a_k = E[σ(√q t) h_k(t)] = √(q/k) E[σ'(√q t) h_{k−1}(t)];
- the errors of values and derivative that the polynomials leave, weighted by the Gaussian;
- the error of the table of E[σ²].

What cannot be bounded is refused with the reason and its x. `Recorded` stands for a function that a
file names and that is not registered in this process.
"""

import copy
import hashlib
import math
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ntk_numba.activations.interpolant import Interpolant, PythonFunction
from ntk_numba.activations.moments import table_moment
from ntk_numba.duals.base import Activation, Dual, Facts
from ntk_numba.duals.panels import panel_of
from ntk_numba.duals.quadrature import REACH, nodes
from ntk_numba.duals.series import (
    CONSTANT,
    PEAK,
    TOLERANCE,
    Series,
    checked_tolerance,
    halved,
    rounded,
)
from ntk_numba.errors import InvalidTypeError, InvalidValueError
from ntk_numba.extended import Extended, dot, extended, length
from ntk_numba.function import typed

Array = NDArray[np.float64]

WORD = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
FAR, NEAR = 8 * np.cumprod(np.full(39, 1.086)), 0.01 * np.cumprod(np.full(20, 0.62))
POINTS = np.concatenate([np.linspace(-8, 8, 1001), FAR, -FAR, NEAR])
SCALES = (8.0, 32.0, 128.0, 512.0)  # candidates for `smooth_beyond`
# the largest fraction of E[σ²] and of E[σ'²] from the outer fifth of the quadrature's range
EDGE = 1e-13
ROUGH = 1e-9  # values that are known to less, relative to √E[σ²], are refused
NEGLIGIBLE = 1e-25  # a fault whose share of E[σ²] is smaller is too far out to matter
# points of N(0, 1) that are nodes of no rule
IRREGULAR = special.ndtri((np.arange(1, 2**14) * (np.sqrt(5) - 1) / 2) % 1)


class Numerical(Series):
    """σ(x) = fn(x) for any Python function that is smooth except at given kinks.

    Parameters
    ----------
    fn : callable
        σ, which takes and returns an array of float64 and acts on each number by itself.
    name : str, optional
        A word of letters, digits and _; by default ``fn.__name__``, or "numerical".
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
    _accepted: set[float]  # the variances for which the function has been checked
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
            "_given": derivative, "_accepted": set(),
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

    def __call__(self, x: Any) -> Any:
        points = np.asarray(x, float)
        with np.errstate(all="ignore"):
            values = np.asarray(self._fn(points))
        centre = self._interpolant.centre
        if centre is not None and centre.lossy:
            values = np.where(abs(points) < centre.width / 2, centre(points), values)
        return typed(values, x)

    def derivative(self, x: Any) -> Any:
        flat = np.asarray(x, float).ravel()
        if self._given is not None:
            with np.errstate(all="ignore"):
                return typed(np.asarray(self._given(flat.reshape(x.shape))), x)
        reach = float(abs(flat).max(initial=0.0))
        pieces, _ = self._interpolant.up_to(reach)
        return typed(pieces.slope(flat).reshape(x.shape), x)

    def moment(self, q: Extended) -> Extended:
        """Return E[σ(z)²] with a relative error that `unseen` includes in the error bounds."""
        return table_moment(self, q)

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
                with np.errstate(all="ignore"):  # `dual` raises if the q in use overflow
                    s = np.asarray(self._fn(np.sqrt(q) * t), float)
                    tilted = s * np.exp(extended(-t)).astype(float)
                    means.append([dot(weights, np.asarray(v)) for v in (s**2, tilted, s * s * t)])
            if not np.isfinite(means).all():
                return True
            top = max(abs(means[1][0]), 1e-300)
            if not np.allclose(means[0], means[1], rtol=0, atol=1e-12 * max(top, top**0.5)):
                return False
        return True

    @cached_property
    def _interpolant(self) -> Interpolant:
        return Interpolant(self._fn, self._kinks)

    @property
    def finest(self) -> float:
        return self._interpolant.finest

    def ends(self, q: float) -> tuple[float, ...]:
        """Return the ends of the polynomials' pieces, whose panels see all that they do."""
        pieces, _ = self._interpolant.up_to(REACH * np.sqrt(q))
        return tuple(pieces.ends[1:-1])

    def unseen(self, q: float, degree: int) -> tuple[float, float]:
        """Return bounds of the relative errors of coefficients and of their rate, as the file says.

        For the rate they are those of the coefficients up to the degree, by two quadratures or by
        the polynomials, whichever are smaller; beyond it, an error e of the derivative changes a
        tail t₁ to at most (√t₁ + e)².
        """
        t, weights = nodes(q, halved(q, self), 4 * self.smooth_beyond)
        x = np.sqrt(q) * t
        values, slopes = np.asarray(self(x)), np.asarray(self.derivative(x))
        with np.errstate(over="ignore"):
            moment, square = dot(weights, values**2), dot(weights, slopes**2)
        if not np.isfinite([moment, square, q * square]).all():
            return np.inf, np.inf
        if moment == 0:
            return 0.0, 0.0
        pieces, _ = self._interpolant.up_to(REACH * np.sqrt(q))
        error, error_of_slope = pieces.errors(q)
        error /= np.sqrt(moment)
        error += abs(float(self.second_moment(np.array([q]))[0]) / moment - 1)
        difference, before, h = np.zeros(degree + 1), np.zeros_like(t), np.ones_like(t)
        k = np.arange(degree + 1)
        for i in range(1, degree + 1):
            by_slopes = np.sqrt(q / i) * dot(weights * slopes, h)
            before, h = h, (t * h - np.sqrt(i - 1) * before) / np.sqrt(i)
            difference[i] = dot(weights * values, h) - by_slopes
        difference /= np.sqrt(moment)
        ratio = q * square / moment
        if ratio < CONSTANT:
            return float(error + length(difference)), 0.0
        by_pieces = (error_of_slope + self._gap(q)) / np.sqrt(square)
        by_values = length(np.sqrt(k) * difference) / np.sqrt(ratio)
        of_rate = min(by_pieces, by_values) + math.sqrt(self._tolerance) * by_pieces + by_pieces**2
        return float(error + length(difference)), float(error + of_rate)

    def _gap(self, q: float) -> float:
        """Return √E[(g − p')²], where g is the derivative that is given and p' the polynomials'."""
        if self._given is None:
            return 0.0
        _, (given, fitted) = self._slopes_at(q)
        return float(np.sqrt(np.mean((given - fitted) ** 2)))

    def _slopes_at(self, q: float) -> tuple[Array, tuple[Array, Array]]:
        """Return irregular points x ~ N(0, q), and the two derivatives there."""
        x = np.sqrt(q) * IRREGULAR
        return x, (
            np.asarray(self.derivative(x)),
            self._interpolant.up_to(abs(x).max())[0].slope(x),
        )

    def dual(self, q_max: float) -> Dual:
        """Return the series of least degree that is within the tolerance for variances up to q_max.

        Raises
        ------
        ValueError
            If no series is; if σ is not finite there, jumps or has a kink that is not named, is
            only known to fewer digits than the tolerance needs, or grows too fast for E[σ²] or
            E[σ'²]; or if the derivative does not belong to it.
        """
        limit = rounded(q_max)
        if limit not in self._accepted:
            self._check_values(limit)
            self._check_derivative(limit)
            self._accepted.add(limit)
        return super().dual(q_max)

    def _refused(self, reason: str) -> InvalidValueError:
        return InvalidValueError(f"activation {self.name}: {reason}")

    def _check_values(self, limit: float) -> None:
        """Raise an error if the function has faults that matter, or grows too fast."""
        reach = REACH * np.sqrt(limit)
        _, faults = self._interpolant.up_to(reach)
        for fault in faults:
            if not np.isfinite(fault.size):
                raise self._refused(fault.reason)
        if not self._within_edge(limit):
            raise self._grows(limit)
        moment = float(self.second_moment(np.array([limit]))[0])
        shares = [f.size**2 * np.exp(-(f.nearest**2) / (2 * limit)) for f in faults]
        if faults and max(shares) > NEGLIGIBLE * moment:
            raise self._refused(faults[int(np.argmax(shares))].reason)
        # beyond the reach, the logarithm of σ² times the density must fall
        for side in (-1, 1):
            far = np.geomspace(REACH, 70 * REACH, 200)
            values = abs(self._interpolant.call(side * np.sqrt(limit) * far))
            overflow = np.isinf(values)
            with np.errstate(divide="ignore", invalid="ignore"):
                log = 2 * np.log(values) - far**2 / 2
            end = int(np.argmax(overflow)) if overflow.any() else len(far)
            finite = log[:end][np.isfinite(log[:end])]
            if (finite > np.log(max(EDGE * moment, 1e-300))).any() or (
                overflow.any() and (end < 2 or log[end - 1] > log[end - 2])
            ):
                raise self._grows(limit)

    def _within_edge(self, q: float) -> bool:
        """Return whether the outer fifth of the quadrature's range hardly adds to the means."""
        t, weights = nodes(q, self._kinks, self._smooth_beyond)
        x = np.sqrt(q) * t
        with np.errstate(all="ignore"):
            squares = [weights * np.asarray(f(x), float) ** 2 for f in (self, self.derivative)]
            return all(s[abs(t) > 0.8 * REACH].sum() <= EDGE * s.sum() for s in squares)

    def _grows(self, limit: float) -> InvalidValueError:
        return self._refused(
            f"it grows too fast for E[σ²] or E[σ'²] at the variance {limit:.3g}; scale the data or "
            "w_std down"
        )

    def _check_derivative(self, limit: float) -> None:
        """Raise an error if values or derivative are not known well enough for the tolerance."""
        for q in limit / np.array([1.0, 16.0, 256.0]):
            error = 2 * PEAK * max(self.unseen(q, 64))
            pieces, _ = self._interpolant.up_to(REACH * np.sqrt(q))
            known = pieces.errors(q)[0] / np.sqrt(self.second_moment(np.array([q])))[0]
            if known > ROUGH:
                raise self._refused(
                    f"its values are known only to about {known:.0e}: they are rounded or noisy, "
                    "or oscillate too fast; let it compute in float64"
                )
            if error <= self._tolerance:
                continue
            if self._given is not None:
                x, (given, fitted) = self._slopes_at(q)
                pieces, _ = self._interpolant.up_to(abs(x).max())
                gap = abs(given - fitted)
                if not np.sqrt(np.mean(gap**2)) <= 3 * pieces.errors(q)[1]:
                    at = int(np.argmax(np.nan_to_num(gap, nan=np.inf)))
                    raise self._refused(
                        "its derivative is not that of its values: at x = "
                        f"{x[at]:.6g} it is {given[at]:.10g}, and the slope of the values is "
                        f"{fitted[at]:.10g}; leave it out, or mend it"
                    )
            if not np.isfinite(error) or not self._within_edge(
                4.0 ** (panel_of(np.array([q]))[0] + 1)
            ):
                raise self._grows(limit)
            raise self._refused(
                f"it oscillates or changes too fast at the variance {q:.3g} for the tolerance "
                f"{self._tolerance:g}; scale the data or w_std down, or name its kinks"
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
    moment: Any = _refuse
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
    with np.errstate(all="ignore"):
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
        at = x[(abs(x) <= 8) & ~np.isfinite(values)][0]
        raise InvalidValueError(
            f"activation {label}: the function must be finite, also at {at:.6g}"
        )
    return values
