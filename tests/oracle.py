"""The kernels in 60-digit arithmetic, straight from the note, sharing no code with the package.

Equation numbers are those of the note. Two misprints there do not matter here: eq. 16 means β² and
not β on the right of its left-hand side; eq. 6 and 20 write R^{n_L} and mean R^{n_{L+1}}.
"""

from collections.abc import Sequence

from mpmath import mp, mpf

mp.dps = 60  # an angle θ = 1e-15 loses 30 of these digits

Pair = tuple[float, float]


def expectations(slopes: Pair, q1: mpf, q2: mpf, s: mpf) -> tuple[mpf, mpf]:
    """Return E[σ(u)σ(v)] and E[σ'(u)σ'(v)] for σ(x) = a·min(x, 0) + b·max(x, 0), (u, v) ~ N(0, Σ).

    By quadrants: with ρ = cosθ, E[uv; u>0, v>0] = P(sinθ + (π − θ)cosθ)/2π, and
    E[uv; u>0, v<0] = −P(sinθ − θcosθ)/2π; P[u>0, v>0] = (π − θ)/2π, P[u>0, v<0] = θ/2π.
    """
    a, b = mpf(slopes[0]), mpf(slopes[1])
    if q1 == 0 or q2 == 0:
        # σ(0) = 0; σ'(0) is not defined, and multiplied by Θ = 0 in all networks
        return mpf(0), mpf(0)
    p = mp.sqrt(q1 * q2)
    # atan2 keeps the digits of θ, half of which acos would lose
    theta = mp.atan2(mp.sqrt(max(p * p - s * s, mpf(0))), s)
    same = p * (mp.sin(theta) + (mp.pi - theta) * mp.cos(theta)) / (2 * mp.pi)
    opposite = -p * (mp.sin(theta) - theta * mp.cos(theta)) / (2 * mp.pi)
    k = (a * a + b * b) * same + 2 * a * b * opposite
    k_dot = ((a * a + b * b) * (mp.pi - theta) + 2 * a * b * theta) / (2 * mp.pi)
    return k, k_dot


def kernels(
    x1: Sequence[float],
    x2: Sequence[float],
    slopes: Sequence[Pair],
    w_std: Sequence[float],
    b_std: Sequence[float],
) -> list[tuple[mpf, mpf]]:
    """Return [(Σ⁽ˡ⁾(x1, x2), Θ⁽ˡ⁾(x1, x2)) for l = 1 … L], L = len(w_std)."""
    n0 = len(x1)
    u, v = [mpf(float(t)) for t in x1], [mpf(float(t)) for t in x2]
    w2, b2 = mpf(w_std[0]) ** 2, mpf(b_std[0]) ** 2
    # eq. 10 and 18
    q1 = w2 * mp.fdot(u, u) / n0 + b2
    q2 = w2 * mp.fdot(v, v) / n0 + b2
    s = w2 * mp.fdot(u, v) / n0 + b2
    theta = s
    out = [(s, theta)]
    for slope, w, b in zip(slopes, w_std[1:], b_std[1:], strict=True):
        w2, b2 = mpf(w) ** 2, mpf(b) ** 2
        k, k_dot = expectations(slope, q1, q2, s)
        s = w2 * k + b2  # eq. 12
        theta = w2 * k_dot * theta + s  # eq. 26
        q1 = w2 * expectations(slope, q1, q1, q1)[0] + b2
        q2 = w2 * expectations(slope, q2, q2, q2)[0] + b2
        out.append((s, theta))
    return out
