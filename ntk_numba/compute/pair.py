"""The result of `ntk_numba.gram`, which whoever takes one may import without the compiler."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ntk_numba.arguments import KERNELS

Matrix = NDArray[np.floating]


@dataclass(frozen=True, eq=False, repr=False)
class Gram:
    """The two kernels of a data set, as a pair that unpacks as ``nngp, ntk = k``.

    Attributes
    ----------
    nngp : array or None
        Σ⁽ᴸ⁾, the covariance of the Gaussian process (eq. 10-12); None if it was not requested.
    ntk : array or None
        Θ∞⁽ᴸ⁾, the neural tangent kernel (eq. 18 and 27); None if it was not requested.
    error : (float, float)
        Bounds of the errors of Σ and of Θ relative to √(K(x,x)·K(x',x')), in addition to rounding;
        (0, 0) if all activations have closed forms.
    d_nngp, d_ntk : dict or None
        With ``gradients=True``, the derivatives of the kernel: ``"w_std"`` and ``"b_std"`` are
        arrays (L, N, M), of which index l − 1 is ∂K/∂σ_w or ∂K/∂β of layer l. Otherwise None.
    """

    nngp: Matrix | None
    ntk: Matrix | None
    error: tuple[float, float] = (0.0, 0.0)
    d_nngp: dict[str, Matrix] | None = None
    d_ntk: dict[str, Matrix] | None = None

    def __iter__(self) -> Iterator[Matrix | None]:
        return iter((self.nngp, self.ntk))

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Matrix | None:
        return (self.nngp, self.ntk)[index]

    def __repr__(self) -> str:
        shown = [
            f"{name}={'None' if array is None else _shown(array)}"
            for name, array in zip(KERNELS, self, strict=True)
        ]
        return f"Gram({', '.join(shown)}, error={self.error})"


def _shown(array: Matrix) -> str:
    """Return the shape and dtype of an array for people, as ``<1000 × 1000, float64>``."""
    return f"<{' × '.join(map(str, np.shape(array)))}, {np.asarray(array).dtype}>"
