import numpy as np
from dual_checks import checks
from mpmath import mp

# Functions of this family for tests/plain.py and tests/engine/test_all_activations.py
SIGMA = {"gabor": lambda x: np.exp(-x * x) * np.sin(x)}


def gabor(q1, q2, s):
    """Return K = E[exp(−u² − v²) sin u sin v] and K̇.

    Under the tilted Gaussian the covariance is M = (Σ⁻¹ + 2)⁻¹.
    """

    def k(s):
        det = (1 + 2 * q1) * (1 + 2 * q2) - 4 * s * s  # of 1 + 2Σ
        d = q1 * q2 - s * s
        m11, m22, m12 = (q1 + 2 * d) / det, (q2 + 2 * d) / det, s / det
        # sin u sin v = [cos(u − v) − cos(u + v)]/2
        return mp.exp(-(m11 + m22) / 2) * mp.sinh(m12) / mp.sqrt(det)

    det = (1 + 2 * q1) * (1 + 2 * q2) - 4 * s * s
    d = q1 * q2 - s * s
    both = q1 + q2 + 4 * d
    # K̇ = ∂K/∂s, by the chain rule
    of_det, of_both = -8 * s, -8 * s
    exponent = -both / (2 * det)
    of_exponent = -of_both / (2 * det) + both * of_det / (2 * det**2)
    of_m12 = 1 / det - s * of_det / det**2
    slope = mp.sinh(s / det) * (of_exponent - of_det / (2 * det)) + mp.cosh(s / det) * of_m12
    return k(s), mp.exp(exponent) / mp.sqrt(det) * slope


DUALS = {"gabor": gabor}


TestDuals = checks(DUALS)
