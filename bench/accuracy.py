"""The errors of the kernels against 60-digit arithmetic, on data chosen to be difficult.

The data has all relations of two samples that are difficult for formulas (tests/awkward.py):
relative distances from 0 to 1, parallel, opposite and nearly opposite samples, norms of 1e±100
(1e±15 in float32), with 1 to 400 features. The error of an entry is relative to √(K(x,x)K(x',x')).
The table has the largest error over Σ and Θ, all drawn pairs and all layers up to the depth, and
beside it that of the usual formula in NumPy: inner products, ρ = Σ/√(ΣΣ) clipped to [−1, 1],
arccos(ρ).
"""

import sys
from pathlib import Path

import numpy as np
from mpmath import mp, mpf

import ntk_numba as nk
from bench.report import section, table
from ntk_numba.accuracy import promise

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import oracle
from awkward import awkward_rows

DEPTHS = (1, 2, 4, 8, 16, 32)
PAIRS = 80  # for each network and number of features
FEATURES = (1, 2, 17, 64, 400)
NETWORKS = [(2**0.5, 0.0), (1.0, 0.1), (1.7, 2.0)]


def usual(x: np.ndarray, w_std: float, b_std: float, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute Σ and Θ of all layers of a ReLU network as most programs do."""
    real = x.dtype.type
    w2, b2, pi = real(w_std**2), real(b_std**2), real(np.pi)
    s = w2 * (x @ x.T) / real(x.shape[1]) + b2
    theta = s.copy()
    layers = [(s, theta)]
    for _ in range(depth - 1):
        root = np.sqrt(np.diag(s))
        p = np.outer(root, root)
        rho = np.clip(s / p, -1, 1)
        angle = np.arccos(rho)
        k = p * (np.sqrt(1 - rho * rho) + (pi - angle) * rho) / (2 * pi)
        s_dot = w2 * (pi - angle) / (2 * pi)
        s = w2 * k + b2
        theta = s_dot * theta + s
        layers.append((s, theta))
    return np.array([k[0] for k in layers]), np.array([k[1] for k in layers])


def errors(dtype: type, w_std: float, b_std: float, n0: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest error in each layer of this package, and of the usual formula."""
    depth = DEPTHS[-1]
    x = awkward_rows(n0, dtype, positive=n0 % 2 == 0, seed=n0)
    ordinary = 23  # rows before those with extreme norms, where the usual formula overflows
    if dtype == np.float32 and w_std > 1.5:
        x = x[:ordinary]  # 32 layers take extreme norms out of float32's range
    kernels = nk.gram(nk.MLP(depth, "relu", w_std, b_std), x, layers="all")
    naive = usual(x[:ordinary], w_std, b_std, depth)
    pairs = [(i, j) for i in range(len(x)) for j in range(i + 1)]
    chosen = np.random.default_rng(n0).choice(len(pairs), PAIRS, replace=False)
    net = ([(0.0, 1.0)] * (depth - 1), [w_std] * depth, [b_std] * depth)
    exact: dict[tuple[int, int], list[tuple[mpf, mpf]]] = {}
    worst, worst_usual = np.zeros(depth), np.zeros(depth)
    for i, j in (pairs[k] for k in chosen):
        for a, b in ((i, i), (j, j), (i, j)):
            exact.setdefault((a, b), oracle.kernels(x[a], x[b], *net))
        for layer in range(depth):
            for kernel in (0, 1):
                truth = exact[i, j][layer][kernel]
                scale = mp.sqrt(exact[i, i][layer][kernel] * exact[j, j][layer][kernel])
                if scale < float(np.finfo(dtype).tiny) / float(np.finfo(dtype).eps):
                    continue  # no digits left in the dtype
                error = abs(mpf(float(kernels[kernel][layer, i, j])) - truth) / scale
                worst[layer] = max(worst[layer], error)
                if max(i, j) < ordinary:
                    error = abs(mpf(float(naive[kernel][layer, i, j])) - truth) / scale
                    worst_usual[layer] = max(worst_usual[layer], error)
    return worst, worst_usual


def main() -> str:
    """Return the section `accuracy`."""
    rows: list[list[str]] = [[str(depth)] for depth in DEPTHS]
    for dtype in (np.float64, np.float32):
        found = [errors(dtype, w, b, n0) for w, b in NETWORKS for n0 in FEATURES]
        for row, depth in zip(rows, DEPTHS, strict=True):
            bound = promise(depth, np.dtype(dtype))
            row += [f"{max(f[k][:depth].max() for f in found):.1e}" for k in (0, 1)]
            row.insert(-1, f"{bound:.0e}")
    pairs = PAIRS * len(NETWORKS) * len(FEATURES)
    return section(
        "accuracy",
        f"Largest error relative to √(K(x,x)·K(x',x')) over {pairs:,} difficult pairs per dtype, "
        "ReLU, all layers up to L",
        table(
            ["L", "float64", "promised", "usual formula", "float32", "promised", "usual formula"],
            rows,
        ),
    )
