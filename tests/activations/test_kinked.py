"""Continuous piecewise-linear functions by the bivariate normal, against quadrature of K̇'s form."""

from itertools import pairwise

import numpy as np
from duals import checks
from mpmath import mp, mpf

X, W = (v.astype(np.longdouble) for v in np.polynomial.legendre.leggauss(20))
for _ in range(2):  # to the digits of longdouble
    P = np.zeros(21, np.longdouble)
    P[20] = 1
    slope = np.polynomial.legendre.legval(X, np.polynomial.legendre.legder(P))
    X = X - np.polynomial.legendre.legval(X, P) / slope
W = 2 / ((1 - X * X) * np.polynomial.legendre.legval(X, np.polynomial.legendre.legder(P)) ** 2)


def quadrant(h, k, theta):
    """P(X > h, Y > k), ρ = cosθ ≥ 0, by Plackett's ∂P/∂ρ, the density at (h, k), from θ = 0 on."""
    apart, product, top = (np.longdouble(mp.nstr(v, 25)) for v in (abs(h - k), h * k, theta))
    if top > 0:
        # below apart/40 nothing is left of exp(−apart²/2t²); without it, the density is smooth
        powers = top * np.longdouble(2) ** np.arange(-60, 1)
        ends = np.append(
            np.longdouble(0), powers[powers > max(apart / 40, top / 64 if apart == 0 else 0)]
        )
        half, middle = np.diff(ends)[:, None] / 2, (ends[1:] + ends[:-1])[:, None] / 2
        t = middle + half * X
        square = np.sin(t) ** 2
        with np.errstate(over="ignore", under="ignore"):
            density = np.exp(-(apart**2 + 4 * product * np.sin(t / 2) ** 2) / (2 * square))
        integral = mpf(str((half * W * density).sum())) / (2 * mp.pi)
    else:
        integral = mpf(0)
    return mp.ncdf(-max(h, k)) - integral


def kinked(value, slopes, kinks):
    """(K, K̇) from the expectations of ramps."""
    g = [(b - a) / 2 for a, b in pairwise(slopes)]
    line = (slopes[0] + slopes[-1]) / 2
    lift = value - sum(a * abs(t) for a, t in zip(g, kinks, strict=True))

    def dual(q1, q2, s):
        p = mp.sqrt(q1 * q2)
        acute = s >= 0
        theta = 2 * mp.asin(mp.sqrt(max(p - abs(s), mpf(0)) / (2 * p)))
        rho = mp.cos(theta) if acute else -mp.cos(theta)
        mean = [lift] * 2
        slope = [line] * 2
        for n, q in enumerate((q1, q2)):
            for a, t in zip(g, kinks, strict=True):
                h = t / mp.sqrt(q)
                mean[n] += a * mp.sqrt(q) * (2 * phi(h) + h * mp.erf(h / mp.sqrt(2)))
                slope[n] -= a * mp.erf(h / mp.sqrt(2))
        k = mean[0] * mean[1] + p * rho * slope[0] * slope[1]
        k_dot = slope[0] * slope[1]
        for a, t in zip(g, kinks, strict=True):
            for b, u in zip(g, kinks, strict=True):
                h, j = t / mp.sqrt(q1), u / mp.sqrt(q2)
                signs, product = pair(h, j, theta, acute)
                gh, gj = (mp.erf(v / mp.sqrt(2)) / 2 for v in (h, j))
                m = (2 * phi(h) + 2 * h * gh) * (2 * phi(j) + 2 * j * gj)
                k += p * a * b * (product - m - 4 * rho * gh * gj)
                k_dot += a * b * (signs - 4 * gh * gj)
        return k, k_dot

    return dual


def pair(h, k, theta, acute):
    """E sgn(X − h) sgn(Y − k) and E|X − h||Y − k|; θ or, if it is not acute, π − θ."""
    if not acute:  # of −Y
        signs, product = pair(h, -k, theta, True)
        return -signs, product
    signs = 1 - 2 * mp.ncdf(-h) - 2 * mp.ncdf(-k) + 4 * quadrant(h, k, theta)
    rho, s = mp.cos(theta), mp.sin(theta)
    if s == 0:
        dh = mp.inf * (k - h) if h != k else mpf(0)
        dk = -dh
    else:
        dh, dk = (k - rho * h) / s, (h - rho * k) / s
    product = (rho + h * k) * signs + 2 * k * phi(h) * mp.erf(dh / mp.sqrt(2))
    product += 2 * h * phi(k) * mp.erf(dk / mp.sqrt(2))
    return signs, product + 2 * s / mp.pi * mp.exp(-(h * h + dh * dh) / 2)


def phi(x):
    return mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi)


DUALS = {
    "hard_tanh": kinked(0, (0, 1, 0), (-1, 1)),
    "relu6": kinked(0, (0, 1, 0), (0, 6)),
    "piecewise_linear:0.5,0.25,-1,-0.75,0,2,0.5,1": kinked(
        mpf(0.5), (mpf(0.25), mpf(-0.75), mpf(2), mpf(1)), (-1, 0, mpf(0.5))
    ),
}

SATURATING = {spec: DUALS.pop(spec) for spec in ("hard_tanh", "relu6")}

TestDuals = checks(DUALS, pair=5e-15, behind=2e-12)
# of variances so large that little is left of their shape: up to 100 times the condition
TestSaturating = checks(
    SATURATING, pair=1e-13, double=2e-14, scales=(1e-3, 1), behind=1e-9, moment=2e-14
)
