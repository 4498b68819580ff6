"""Gradient flow in the basis of the eigenvectors of Θ: how far each direction has been learned."""

import numpy as np
from numpy.typing import NDArray

from ntk_numba.arguments import real_number
from ntk_numba.errors import InvalidValueError
from ntk_numba.solvers.eigenbasis import Eigenbasis

Floats = NDArray[np.float64]


class FlowFunctions:
    """Two functions of Θ after gradient flow up to time t with a ridge r, by its eigenvalues λ.

        gain = (1 − e^(−(λ+r)t/N))/(λ+r),   decay = 1 − λ·gain = (r + λe^(−(λ+r)t/N))/(λ+r)

    Outputs on the training samples move from f0 to y + decay(Θ)(f0 − y), and those on other samples
    from f0(x) to f0(x) + Θ_x gain(Θ)(y − f0).

    If λ + r is below ε·N·λ_max, with the ε of the dtype that Θ was computed in, it is a rounding
    error and counts as 0. Such a direction is never learned, and Θ_x has no component along it
    either, since Θ is a kernel.

    Parameters
    ----------
    basis : of Θ
    time : t ≥ 0, which may be infinite
    ridge : r ≥ 0, absolute
    """

    def __init__(self, basis: Eigenbasis, time: float, ridge: float = 0.0) -> None:
        self.basis = basis
        known = basis.values + ridge > basis.rounding
        shifted = np.where(known, basis.values + ridge, 1)
        with np.errstate(over="ignore"):  # an infinite rate is right
            rates = np.where(known, shifted * time, 0) / len(basis.values)
        self.gain = -np.expm1(-rates) / shifted
        left = np.exp(-rates)
        share = np.where(known, ridge / shifted, 0)  # of the targets, which stays unlearned
        self.decay = share + (1 - share) * left

    @property
    def size(self) -> int:
        """N."""
        return len(self.gain)

    def learned(self, columns: Floats) -> Floats:
        """Return gain(Θ) @ columns, of their shape (N,) or (N, K)."""
        return self.basis.apply(self.gain, columns)

    def moved(self, target: Floats, start: Floats) -> tuple[Floats, Floats]:
        """Return the outputs on the training samples, and gain(Θ)(target − start).

        target, start : (N,) or (N, K)
        """
        outputs = target + self.basis.apply(self.decay, start - target)
        return outputs, self.learned(target - start)


def check_time(time: float) -> float:
    """Return a time of training, if it is a number of at least 0."""
    number = real_number("time", time)
    if not number >= 0:
        raise InvalidValueError(f"time must be at least 0, not {time!r}")
    return number
