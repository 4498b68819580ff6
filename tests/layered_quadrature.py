"""The kernels of a network of any activation, by quadrature of σ and σ', layer by layer.

No dual is used: E[f(u)f(v)] is computed by a Gauss-Legendre rule in two dimensions, from the
functions that tests/plain.py collects and from their derivatives by complex steps.
"""

import numpy as np
from gauss import mean_of_pair, normal_with_ends


def rule(*kinks):
    """Return nodes and weights of a Gaussian mean, whose panels end at 0 and the kinks."""
    return normal_with_ends(np.linspace(-9, 9, 37), [0, *kinks], 12)


def pairs(f, q1, q2, rho, kinks):
    """Return E[f(u)f(v)] for variances q1 and q2 and correlation rho."""
    kinks = np.array(kinks)
    s = np.sqrt(max(0.0, 1 - rho * rho))
    if s == 0:
        t, weights = rule(*(kinks / np.sqrt(q1)), *(rho * kinks / np.sqrt(q2)))
        return weights @ (f(np.sqrt(q1) * t) * f(np.sqrt(q2) * rho * t))
    if not kinks.size:
        return mean_of_pair(f, q1, q2, rho, rule())
    t, weights = rule(*(kinks / np.sqrt(q1)))
    means = []
    for at in t:  # v is at a kink where y is an end of a panel
        y, inner = rule(*((kinks / np.sqrt(q2) - rho * at) / s))
        means.append(inner @ f(np.sqrt(q2) * (rho * at + s * y)))
    return weights @ (f(np.sqrt(q1) * t) * np.array(means))


def kernels(sigma, x1, x2, w_std, b_std, depth, kinks):
    """Return [(Σ, Θ)] of all layers, eq. 10, 12, 18 and 26.

    w_std, b_std : a number, or one for each layer
    """
    w_std, b_std = np.broadcast_to(w_std, depth), np.broadcast_to(b_std, depth)
    vector = lambda h: sigma(h + 0j).real  # noqa: E731
    slope = lambda h: sigma(h + 1e-30j).imag / 1e-30  # noqa: E731
    a, b, s = (
        w_std[0] ** 2 * p @ q / len(p) + b_std[0] ** 2 for p, q in ((x1, x1), (x2, x2), (x1, x2))
    )
    theta, out = s, [(s, s)]
    for w, beta in zip(w_std[1:], b_std[1:], strict=True):
        rho = np.clip(s / np.sqrt(a * b), -1, 1)
        rate = w**2 * pairs(slope, a, b, rho, kinks)
        s, a, b = (
            w**2 * pairs(vector, *p, kinks) + beta**2
            for p in ((a, b, rho), (a, a, 1.0), (b, b, 1.0))
        )
        theta = rate * theta + s
        out.append((s, theta))
    return out
