"""Samples in all relations to each other in which a formula for kernels may lose accuracy."""

import numpy as np
from numpy.typing import NDArray

DISTANCES = (0, 1e-15, 1e-12, 1e-9, 1e-6, 1e-3, 0.1, 0.3, 0.5, 1)


def awkward_rows(n0: int, dtype: type, positive: bool, seed: int = 0) -> NDArray[np.floating]:
    """Return samples exact in dtype, (32, n0), most of them related to the first.

    Their relative distances from it are 0 to 1; others are parallel with other norms, opposite,
    nearly opposite or unrelated. Some are repeated with norms of 1e±100 (1e±15 in float32).
    """
    rng = np.random.default_rng(seed)

    def draw() -> NDArray[np.float64]:
        row = rng.standard_normal(n0)
        return np.abs(row) if positive else row

    def near(x: NDArray[np.float64], distance: float) -> NDArray[np.float64]:
        step = rng.standard_normal(n0)
        return x + step * (distance * np.linalg.norm(x) / np.linalg.norm(step))

    x = draw()
    rows = [x, *(near(x, d) for d in DISTANCES)]
    rows += [2 * x, 3 * x, 1e-3 * x, 1.1 * x]
    rows += [-x, -3 * x, -x * (1 + 1e-3), -near(x, 1e-9), -near(x, 1e-6), -near(x, 1e-3)]
    rows += [draw(), 7 * draw()]
    extreme = 1e15 if dtype == np.float32 else 1e100
    unit = [rows[k] / np.linalg.norm(x) for k in (0, 3, 5, 15)]
    rows += [u * extreme for u in unit] + [u / extreme for u in unit]
    rows.append(unit[3] * extreme**-0.5)
    return np.array(rows).astype(dtype)
