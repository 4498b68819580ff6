"""The time of a hidden layer of each activation, also with another program's numerical dual.

As in the table `recursion`, one tile is computed repeatedly, and the time of a layer is the
difference of networks of depth 2 and 1. Variances of the samples are from 1/2 to 2.
neural-tangents' `ElementwiseNumerical` takes a two-dimensional Gauss-Hermite rule for each pair.
Its degree is raised until its error, measured against a series of the smallest tolerance, is at
most the tolerance of the series that it is compared with.
"""

import json
from pathlib import Path

import numpy as np

import ntk_numba as nk
from bench.peers import PINNED, python, run
from bench.recursion import FEATURES, PAIRS, T, tiles_of
from bench.report import section, table
from bench.timing import in_turn
from ntk_numba import activations
from ntk_numba.activations.table import TABLE, example

REPEATS = 7
SMALL = 100  # samples of the peer, which takes degree² numbers a pair
LARGE = 3000  # samples of this package
PEERED = ("tanh", "silu", "arctan")
TOLERANCES = (1e-4, 1e-6, 1e-8)


def samples(count: int) -> np.ndarray:
    """Return rows with |x|²/n0 from 1/2 to 2."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((count, FEATURES))
    norms = np.sqrt(FEATURES * rng.uniform(0.5, 2, count))
    norms[0] = np.sqrt(FEATURES * 2)
    return np.asarray(x / np.linalg.norm(x, axis=1)[:, None] * norms[:, None])


def costs(names: list[str], dtype: str) -> dict[str, tuple[float, float]]:
    """Return the nanoseconds a pair of one hidden layer: minimum and median of the rounds."""
    x = samples(2 * T).astype(dtype)
    works = {"none": tiles_of(nk.MLP(1), x)}
    works |= {name: tiles_of(nk.MLP(2, name), x) for name in names}
    times = {name: np.array(t) / PAIRS * 1e9 for name, t in in_turn(works, REPEATS).items()}
    return {
        name: (min(t) - min(times["none"]), float(np.median(t - times["none"])))
        for name, t in times.items()
        if name != "none"
    }


def examples() -> list[str]:
    """Return all names of activations, with parameters where they are needed."""
    return [example(name) for name in TABLE if name != "swish"]  # swish is silu


def cost_rows() -> list[list[str]]:
    """Return a row of the first table for each activation."""
    names = examples()
    by = {dtype: costs(names, dtype) for dtype in ("float64", "float32")}
    rows = []
    for name in names:
        activation = activations.get(name)
        cells = [name, activation.facts.method]
        for found in by.values():
            least, median = found[name]
            cells += [f"{least:.2f} ({median:.2f})", f"{least / found['relu'][0]:.1f}"]
        rows.append(cells)
    return rows


def peer_rows() -> list[list[str]]:
    """Return the rows of the second table: series against the peer at the same true error."""
    rows = []
    for name in PEERED:
        exact = nk.gram(nk.MLP(2, f"{name}:1e-13"), samples(SMALL))
        for tolerance in TOLERANCES:
            net = nk.MLP(2, f"{name}:{tolerance}")
            x = samples(LARGE)
            out = nk.gram(net, x, threads=1)
            times = in_turn(
                {"": lambda net=net, x=x, out=out: nk.gram(net, x, out=out, threads=1)}, 5
            )
            seconds = min(times[""]) / (LARGE * (LARGE + 1) / 2)
            error = _error(nk.gram(net, samples(SMALL)), exact)
            job = {"name": name, "error": tolerance, "x": samples(SMALL).tolist()}
            job["exact"] = [k.tolist() for k in exact if k is not None]
            script = str(Path(__file__).with_name("activations_peer.py"))
            path = Path(__file__).with_name("activations_peer.json")
            path.write_text(json.dumps(job))
            try:
                peer = json.loads(run([python(), script, str(path)], "neural-tangents"))
            finally:
                path.unlink()
            peer_seconds = min(peer["seconds"]) / SMALL**2
            rows.append(
                [name, f"{tolerance:g}", f"{error:.0e}", f"{seconds * 1e9:.1f}",
                 f"{peer['degree']}", f"{peer['error']:.0e}", f"{peer_seconds * 1e9:,.0f}",
                 f"{peer_seconds / seconds:,.0f}"]
            )  # fmt: skip
    return rows


def _error(result: nk.Gram, exact: nk.Gram) -> float:
    """Return the largest error of both kernels, relative to √(K(x,x)·K(x',x'))."""
    worst = 0.0
    for k, e in zip(result, exact, strict=True):
        assert k is not None and e is not None
        root = np.sqrt(np.diag(e))
        worst = max(worst, float(np.abs((k - e) / np.outer(root, root)).max()))
    return worst


def main() -> str:
    """Return the section `activations`."""
    head = ["σ", "dual", "float64, ns", "× ReLU", "float32, ns", "× ReLU"]
    peer_head = ["σ", "tolerance", "true error", "ns a pair", "degree of the peer", "its error",
                 "its ns a pair", "ratio"]  # fmt: skip
    return section(
        "activations",
        f"Nanoseconds a pair and hidden layer on one core, minimum (median) of {REPEATS} rounds, "
        f"Θ, no bias, q from ½ to 2; series at their default tolerances",
        table(head, cost_rows()),
        f"Σ and Θ of one hidden layer on one thread, without the time to read the data, at the "
        f"smallest degree whose error is at most the tolerance; N = {LARGE:,} for ntk_numba and "
        f"{SMALL} for neural-tangents, jitted, which computes both triangles. Errors are relative "
        f"to √(K(x,x)·K(x',x')) and measured against the series at 1e-13. "
        f"Installed: {', '.join(PINNED)}",
        table(peer_head, peer_rows()),
    )
