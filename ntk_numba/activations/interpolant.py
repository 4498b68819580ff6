"""Piecewise polynomials through the values of a Python function, and how far they can be trusted.

On each piece between two kinks a polynomial of degree 24 interpolates the function; a piece is
halved until its last Chebyshev coefficients are as small as the rounding of its values. Then the
function is compared with its polynomials at many points that are no nodes of any rule. Wherever
halving does not help, the reason is found by bisection: a jump, a kink that is not named, values
that are noisy or rounded, values that are not finite. These faults are kept; `Numerical` refuses
the function if they are in the range in use.

The error of a piece's derivative is that of its coefficients c_k, which are known to the size ν of
the last of them: that of Σ c_k T_k' is at most about 2/width · 2ν √(Σ k²).
"""

import math
from collections.abc import Callable
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from scipy import special

from ntk_numba.activations.centre import (
    DEGREE,
    Centre,
    least_squares,
    nodes,
    of_values,
    power,
)
from ntk_numba.extended import dot, dots, extended, product

Array = NDArray[np.float64]
PythonFunction = Callable[[Array], Any]

LAST = 4  # the coefficients of a piece that must be small
SHORTEST = 2.0**-12  # a piece that is shorter, and not at a kink, is not halved again
DEEPEST = 2.0**-60  # the shortest piece at 0
ROUNDED = 2.3e-16  # the rounding of a value, and of its argument
MOST_PIECES = 4000  # in one run, such as [4, 8]
SEEN = 2**16  # points in each run at which the function is compared with its polynomials
GOLDEN = (np.sqrt(5) - 1) / 2  # the step, modulo 1, between these points
UNSEEN = 30.0  # a difference there that is larger, in units of a piece's error, is a fault

_SLOPE_NOISE = 4 * np.sqrt(np.sum(np.arange(DEGREE + 1.0) ** 2))


class Fault(NamedTuple):
    """An interval on which a function cannot be used, and why.

    low, high : the interval
    size : how much the values differ from any polynomial there; infinite if they are not finite
    reason : a clause of which the function is the subject
    """

    low: float
    high: float
    size: float
    reason: str

    @property
    def nearest(self) -> float:
        """The least |x| of the interval."""
        return 0.0 if self.low <= 0 <= self.high else min(abs(self.low), abs(self.high))


class Pieces(NamedTuple):
    """The polynomials of one run of the line.

    ends : (n + 1,)
    values, slopes : (25, n), (24, n), the Chebyshev coefficients of the function and its derivative
    value_error, slope_error : (n,), bounds of the errors of the two on each piece
    power : (n,), m − 1 for the centre piece [−w, w], whose derivative is that of `Centre`, else 0
    """

    ends: Array
    values: Array
    slopes: Array
    value_error: Array
    slope_error: Array
    power: Array

    def errors(self, q: float) -> tuple[float, float]:
        """Return √E[error²] of values and derivative at N(0, q).

        On the centre piece the errors are those of factors of |x/w|^m and of |x/w|^(m−1).
        """
        share = np.diff(special.ndtr(extended(self.ends / np.sqrt(q))).astype(float))
        near = np.minimum(1, 4 * np.sqrt(q) / self.ends[1:].clip(1e-30))
        value = self.value_error * np.where(self.power < 0, 1, power(near, self.power + 1))
        slope = self.slope_error * power(near, np.maximum(self.power, 0))
        return math.sqrt(dot(share, value**2)), math.sqrt(dot(share, slope**2))

    def where(self, x: Array) -> tuple[NDArray[np.intp], Array]:
        """Return the piece of each x, at an end the one on the left, and the position in it."""
        piece = np.clip(np.searchsorted(self.ends, x, side="left") - 1, 0, len(self.ends) - 2)
        low, high = self.ends[piece], self.ends[piece + 1]
        return piece, (2 * x - low - high) / (high - low)

    def slope(self, x: Array) -> Array:
        """Return the derivative of the polynomials at x, (len(x),)."""
        piece, u = self.where(x)
        slope = chebyshev.chebval(u, self.slopes[:, piece], tensor=False)
        return np.asarray(slope * power(u, np.maximum(self.power[piece], 0)))


class Interpolant:
    """The polynomials of a function, for |x| up to any power of 2; they are made when needed."""

    def __init__(self, fn: PythonFunction, kinks: tuple[float, ...]) -> None:
        self._fn = fn
        self._kinks = kinks
        self._runs: dict[tuple[int, int], tuple[Pieces, list[Fault]]] = {}
        self._joined: dict[int, Pieces] = {}

    def call(self, x: Array) -> Array:
        """Return the function's values as float64, whatever happens in it."""
        with np.errstate(all="ignore"):
            return np.asarray(self._fn(x.copy()), float)

    def up_to(self, reach: float) -> tuple[Pieces, list[Fault]]:
        """Return the pieces that cover |x| ≤ reach, and the faults in that interval."""
        n = octave(reach)
        runs = [self._run(k, -1) for k in range(n, 0, -1)] + [self._run(k, 1) for k in range(n + 1)]
        if n not in self._joined:
            self._joined[n] = Pieces(
                np.concatenate([runs[0][0].ends[:1], *(pieces.ends[1:] for pieces, _ in runs)]),
                *(
                    np.concatenate([getattr(pieces, field) for pieces, _ in runs], axis=-1)
                    for field in Pieces._fields[1:]
                ),
            )
        faults = [fault for _, some in runs for fault in some if fault.nearest <= reach]
        # a jump at an end of a piece is on neither side of it
        pieces, signs = self._joined[n], (-1.0) ** np.arange(DEGREE + 1)
        step = abs(pieces.values.sum(axis=0)[:-1] - (signs @ pieces.values)[1:])
        known = pieces.value_error + ROUNDED * abs(pieces.values).max(axis=0)
        for at in np.flatnonzero(step > UNSEEN * (known[:-1] + known[1:])):
            x, size = float(pieces.ends[at + 1]), float(step[at])
            faults += [Fault(x, x, size, _jumps(size, x))] if abs(x) <= reach else []
        return pieces, [*self._breaks, *faults]

    @cached_property
    def _breaks(self) -> list[Fault]:
        """The jumps at 0 and at the kinks that are named."""
        return [fault for x in {0.0, *self._kinks} if (fault := self._jump(x)) is not None]

    def _jump(self, x: float) -> Fault | None:
        """Return the fault of a jump at x, if the sides differ by more the nearer they are."""
        near = max(4 * np.spacing(abs(x)), 1e-200)
        far = max(2.0**24 * np.spacing(abs(x)), 2.0**-36)
        at = self.call(np.array([x - far, x - near, x, x + near, x + far]))
        if not np.isfinite(at).all():
            return (
                None
                if np.isfinite(at[2])
                else Fault(x, x, np.inf, f"it is not finite at x = {x:g}")
            )
        left, right = abs(at[1] - at[2]), abs(at[3] - at[2])
        step, rounding = max(left, right), 32 * ROUNDED * max(abs(at))
        wide = max(abs(at[0] - at[2]), abs(at[4] - at[2]))
        if step <= rounding or step < 0.3 * wide:
            return None
        return Fault(x, x, float(step), _jumps(step, x))

    @cached_property
    def centre(self) -> Centre | None:
        """The function near 0; None if it is not smooth there."""
        if 0.0 in self._kinks:
            return None
        at_zero = float(self.call(np.zeros(1))[0])
        for width in 2.0 ** -np.arange(7):
            if any(abs(k) < width for k in self._kinks):
                continue
            c, tail, unit = self._fitted(np.array([-width]), np.array([width]))
            if tail[0] <= max(2 * unit[0], 4 * ROUNDED * abs(at_zero)):
                break
        else:
            return None
        values = self.call(width * nodes()) - at_zero
        noise = max(float(tail[0]), 0.1 * ROUNDED * float(abs(c).max()))
        order, top, size = 1, float(abs(values).max()), 1.0
        while True:
            factor = dots(least_squares(order), values)
            size *= DEGREE / order
            # a coefficient of x^m as small as its rounding error is 0
            if abs(chebyshev.chebval(0.0, factor)) > min(4 * noise * size, 1e-6 * top) or top == 0:
                break
            if order == 12:
                return None
            order += 1
        u = np.concatenate([_FEW, -_FEW])
        own = self.call(width * u)
        if (own == self.call(-width * u)).all():
            factor[1 - order % 2 :: 2] = 0
        elif (own == -self.call(-width * u)).all():
            factor[order % 2 :: 2] = 0
        centre = Centre(float(width), order, at_zero, factor, False)
        ours = centre(width * u)
        lossy = (abs(own - ours) > 1e-12 * abs(ours))[abs(u) < 1e-3].any() and at_zero == 0
        return centre._replace(lossy=bool(lossy))

    @cached_property
    def finest(self) -> float:
        """An |x| below which the function has no features but a power law on either side."""
        pieces, _ = self.up_to(1.0)
        low, high = pieces.ends[:-1], pieces.ends[1:]
        far = np.maximum(abs(low), abs(high))
        fine = (high - low < 0.4 * far) & (pieces.power < 0)
        return float(far[fine].min(initial=1.0)) / 4

    def _run(self, n: int, side: int) -> tuple[Pieces, list[Fault]]:
        """Return the pieces and the faults of side·[2^(n−1), 2^n], or of [−1, 1] for n = 0."""
        if (n, side) not in self._runs:
            ends = sorted((side * 2.0 ** (n - 1), side * 2.0**n)) if n else (-1.0, 1.0)
            self._runs[n, side] = self._made(*ends)
        return self._runs[n, side]

    def _made(self, low: float, high: float) -> tuple[Pieces, list[Fault]]:
        edges = [low, *(k for k in self._kinks if low < k < high), high]
        centre = self.centre if low < 0 < high else None
        if centre is not None:
            edges = sorted({*edges, -centre.width, centre.width})
        elif low < 0 < high:
            edges = sorted({*edges, 0.0})
        sharp = np.array(sorted({0.0, *self._kinks}))
        nearer = self._size_up_to(0.0 if low < 0 < high else min(abs(low), abs(high)))
        todo, done, open_ = np.array(list(pairwise(edges))), [], []
        count = 0
        while len(todo):
            a, b = todo.T
            c, tail, unit = self._fitted(a, b)
            limit = np.maximum(2 * unit, 4 * ROUNDED * nearer)
            good = tail <= limit
            good[good] = ~self._finer_at_zero(todo[good], tail[good])
            rest = np.flatnonzero(~good)
            noisy = rest[self._noisy(a[rest], b[rest], tail[rest])]
            good[noisy] = True
            done += [(todo[i], c[i], tail[i], limit[i]) for i in np.flatnonzero(good)]
            count += int(good.sum())
            width = b - a
            far = np.maximum(*(np.abs(e[:, None] - sharp).min(axis=1) for e in (a, b)))
            at_zero = (a == 0) | (b == 0)
            stuck = ~good & (
                ((width < SHORTEST) & (width < 2.0**-6 * far))
                | (width < np.where(at_zero, DEEPEST, 64 * np.spacing(np.maximum(abs(a), abs(b)))))
            )
            if count + len(todo) > MOST_PIECES:
                stuck = ~good
            # on a piece that is given up, all but the mean is in doubt
            doubt = abs(c[:, 1:]).sum(axis=1)
            open_ += [(todo[i], c[i], doubt[i], limit[i]) for i in np.flatnonzero(stuck)]
            split = todo[~good & ~stuck]
            middle = split.mean(axis=1)
            todo = np.concatenate(
                [np.stack([split[:, 0], middle], 1), np.stack([middle, split[:, 1]], 1)]
            )
        faults = self._stuck([piece for piece, *_ in open_], sharp)
        done = sorted(done + open_, key=lambda piece: float(piece[0][0]))
        ends = np.array([piece[0][0] for piece in done] + [high])
        c = np.nan_to_num(np.array([piece[1] for piece in done]).T, nan=0.0, posinf=0, neginf=0)
        tail, limit = np.nan_to_num(np.array([piece[2:] for piece in done]).T, posinf=0)
        slopes = chebyshev.chebder(c) * 2 / np.diff(ends)
        power = np.full(len(tail), -1.0)
        if centre is not None:
            at = int(np.searchsorted(ends, 0.0)) - 1
            power[at] = centre.order - 1
            slopes[:, at] = np.pad(centre.slope, (0, DEGREE - len(centre.slope)))
            c[:, at] = dots(of_values(), centre(centre.width * nodes()))
        pieces = Pieces(ends, c, slopes, tail, tail, power)
        difference, unseen = self._unseen(pieces, np.maximum(tail, limit))
        error = np.maximum(tail, difference)
        noise = np.maximum(tail, 0.1 * ROUNDED * abs(c).max(axis=0)) * _SLOPE_NOISE
        noise = np.maximum(noise, 4 * difference)
        return pieces._replace(value_error=error, slope_error=noise * 2 / np.diff(ends)), [
            *faults, *unseen
        ]  # fmt: skip

    def _size_up_to(self, reach: float) -> float:
        """Return the largest |value| for |x| ≤ reach, found at a few points."""
        values = abs(self.call(np.concatenate([reach * _FEW, -reach * _FEW])))
        return float(values[np.isfinite(values)].max(initial=0.0))

    def _fitted(self, a: Array, b: Array) -> tuple[Array, Array, Array]:
        """Return the coefficients of pieces, (n, 25), their last ones' size and their rounding."""
        x = (a + b)[:, None] / 2 + (b - a)[:, None] / 2 * nodes()
        values = self.call(x.ravel()).reshape(x.shape)
        with np.errstate(all="ignore"):
            c = product(values, of_values().T)
            tail = abs(c[:, -LAST:]).max(axis=1)
            steep = abs(np.diff(values) / np.diff(x)).max(axis=1)
            top = abs(values).max(axis=1)
            unit = ROUNDED * (2 * top + np.maximum(abs(a), abs(b)) * steep)
        finite = np.isfinite(values).all(axis=1)
        return c, np.where(finite, tail, np.inf), np.where(finite, unit, 0.0)

    def _finer_at_zero(self, ab: Array, tail: Array) -> NDArray[np.bool_]:
        """Return whether pieces end at 0 and smaller ones there have smaller errors of the slope.

        So the derivative of x³ is relatively accurate near 0, as far as the values are.
        """
        out = np.zeros(len(ab), bool)
        for i, (a, b) in enumerate(ab):
            if a * b == 0 and b - a > DEEPEST and tail[i] > 0:
                _, near, _ = self._fitted(np.array([a / 8]), np.array([b / 8]))
                out[i] = 8 * near[0] < 0.35 * tail[i]
        return out

    def _noisy(self, a: Array, b: Array, tail: Array) -> NDArray[np.bool_]:
        """Return whether values in two much smaller intervals are as rough as in whole pieces."""
        out = np.isfinite(tail)
        for place in (0.29, 0.71):
            width = (b - a) * 2.0**-10
            low = a + place * (b - a)
            _, small, unit = self._fitted(low, low + width)
            out &= (
                (small > tail / 8) & (small > 2 * unit) & (width > 1e-12 * np.maximum(1, abs(low)))
            )
        return out

    def _unseen(self, pieces: Pieces, known: Array) -> tuple[Array, list[Fault]]:
        """Compare the function with its polynomials at irregular points and at simple numbers.

        Returns the largest difference on each piece, and the faults.
        """
        low, high = pieces.ends[0], pieces.ends[-1]
        simple = np.arange(-1024.0, 1025.0) / 4
        simple = simple[(simple >= low) & (simple <= high)]
        count = SEEN if high - low < 300 else SEEN // 16
        x = np.concatenate([low + (high - low) * (np.arange(1, count) * GOLDEN % 1), simple])
        x = np.sort(x)
        with np.errstate(all="ignore"):
            piece, u = pieces.where(x)
            values = chebyshev.chebval(u, pieces.values[:, piece], tensor=False)
            difference = abs(self.call(x) - values)
        finite = np.isfinite(difference)
        largest = np.zeros(len(known))
        np.maximum.at(largest, piece[finite], difference[finite])
        if not finite.all():
            at = float(x[~finite][np.argmin(abs(x[~finite]))])
            return largest, [Fault(at, at, np.inf, f"it is not finite at x = {at:.10g}")]
        with np.errstate(all="ignore"):
            excess = difference / (UNSEEN * np.maximum(known, 1e-300))[piece]
        worst = int(np.argmax(excess))
        if not excess[worst] > 1:
            return largest, []
        around = float(x[max(worst - 1, 0)]), float(x[min(worst + 1, len(x) - 1)])
        return largest, [self._blamed(*around)]

    def _stuck(self, intervals: list[Array], sharp: Array) -> list[Fault]:
        """Return the faults of the intervals on which no polynomial fits."""
        faults = []
        for k, (a, b) in enumerate(sorted(intervals, key=lambda ab: min(abs(ab)))):
            if (np.abs(sharp - a) == 0).any() or (np.abs(sharp - b) == 0).any():
                fault = self._singular(a, b, sharp)
                faults += [] if fault is None else [fault]
                continue
            if k < 3 or k == len(intervals) - 1:
                faults.append(self._blamed(a, b))
            else:
                faults.append(faults[-1]._replace(low=a, high=b))
        if len(faults) > 8:
            kept = [f for f in faults if np.isfinite(f.size)]
            size = max((f.size for f in kept), default=0.0)
            reason = (
                f"its values are smooth only to about {size:.0e}: they are rounded or noisy, or "
                "oscillate too fast; let it compute in float64"
            )
            faults = [f._replace(reason=reason) if np.isfinite(f.size) else f for f in faults]
        return faults

    def _singular(self, a: float, b: float, sharp: Array) -> Fault | None:
        """Return the fault of the last piece at a kink, unless E[σ'²] is finite there."""
        x, d = (a, b - a) if (sharp == a).any() else (b, a - b)
        at = self.call(x + d * np.array([0.5, 1.0, 2.0, 2.0**10, 2.0**11]))
        if not np.isfinite(at).all():
            return Fault(a, b, np.inf, f"it is not finite near x = {x:.10g}")
        # the integral of σ'² over [d, 2d], against that over an interval 1024 times as far away
        near, far = (at[2] - at[1]) ** 2, (at[4] - at[3]) ** 2 / 2**10
        if near <= 0.5 * far:
            return None
        return Fault(
            a, b, float(abs(at[2] - at[1])), f"E[σ'²] is infinite, by its slope near x = {x:.10g}"
        )

    def _blamed(self, a: float, b: float) -> Fault:
        """Return the fault of [a, b], found by bisection."""
        low, high = a, b
        _, tails, _ = self._fitted(np.array([a]), np.array([b]))
        size = float(tails[0])
        while b - a > 16 * np.spacing(max(abs(a), abs(b), SHORTEST)):
            middle = (a + b) / 2
            _, tails, units = self._fitted(np.array([a, middle]), np.array([middle, b]))
            if (tails <= 2 * units).all():
                break
            a, b = (a, middle) if tails[0] >= tails[1] else (middle, b)
        ends = self.call(np.array([a, b]))
        x = (a + b) / 2
        # simple numbers are named as such
        x = float(next((r for d in range(1, 17) if a <= (r := round(x, d)) <= b), x))
        if not np.isfinite(ends).all() or not np.isfinite(tails).all():
            return Fault(low, high, np.inf, f"it is not finite at x = {x:.10g}")
        step = float(abs(ends[1] - ends[0]))
        if b - a > 1e-8 * max(abs(x), 1.0):
            reason = f"it changes too fast near x = {x:.6g} to be resolved"
        elif step > 0.1 * size > 0:
            reason = _jumps(step, x)
            if step < 1e-6 * abs(ends).max():
                reason += "; if its values are rounded, let it compute in float64"
        else:
            reason = f"it has a kink at x = {x:.10g} that is not named; give kinks=({x!r},)"
        return Fault(low, high, max(size, step), reason)


_FEW = np.concatenate([np.linspace(0, 1, 64), np.cumprod(np.full(64, 0.72))])


def _jumps(step: float, x: float) -> str:
    return (
        f"it jumps by {step:.2g} at x = {x:.10g}, so that the mean E[σ'²] of its derivative is "
        "infinite"
    )


def octave(reach: float) -> int:
    """Return the least n ≥ 0 with reach < 2^n."""
    return max(0, math.frexp(max(reach, 0.5))[1])
