"""Networks of finite width against neural-tangents: the time of draws, and Θ of one network."""

import json
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

import ntk_numba as nk
from bench.peers import PINNED, python, run
from bench.report import section, spread, table
from bench.timing import in_turn
from ntk_numba import finite_width as fw
from ntk_numba.finite_width.networks import Parameters

DEPTH, N, FEATURES, DRAWS, REPEATS, B_STD = 4, 64, 64, 16, 5, 0.1
WIDTHS = (512, 1024)
SCRIPT = str(Path(__file__).with_name("finite_peer.py"))
NETS = [  # σ, widths and outputs, for the comparison of entries
    ("relu", (50, 30, 40), 3),
    ("abs", (64,), 1),
    ("leaky_relu:0.2", (20, 20, 20, 20, 20), 2),
]


def draws() -> list[list[str]]:
    """Return a row for each width: the seconds of NNGP and NTK of DRAWS networks."""
    x = np.random.default_rng(0).standard_normal((N, FEATURES))
    net = nk.MLP(DEPTH, "relu", 1.0, B_STD)
    lines = []
    for width in WIDTHS:
        job = {"width": width, "draws": DRAWS, "n": N, "n0": FEATURES, "depth": DEPTH,
               "b_std": B_STD}  # fmt: skip
        work = partial(fw.monte_carlo, net, x, width=width, draws=DRAWS)
        seconds = in_turn({"": work}, REPEATS)[""]
        try:
            peer = json.loads(run([python(), SCRIPT, "draws", json.dumps(job)], "the peer"))
        except OSError as error:
            lines.append([f"{width:,}", "missing: " + str(error).replace("|", "/"), "", ""])
            continue
        # also after the peer, since the speed of the machine drifts
        seconds += in_turn({"": work}, REPEATS)[""]
        ratio = f"{min(peer) / min(seconds):.0f}"
        lines.append([f"{width:,}", spread(peer), spread(seconds), ratio])
    return lines


def entries() -> list[list[str]]:
    """Return a row for each network: the largest differences, relative to the largest entry."""
    x = np.random.default_rng(1).standard_normal((10, 6))
    lines = []
    for name, widths, outputs in NETS:
        depth = len(widths) + 1
        head = [name, ", ".join(map(str, (6, *widths, outputs)))]
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder, "peer.npz"))
            job = {"x": x.tolist(), "name": name, "widths": [*widths, outputs], "b_std": 0.3,
                   "w_std": 1.3, "path": path}  # fmt: skip
            try:
                run([python(), SCRIPT, "entries", json.dumps(job)], "the peer")
            except OSError as error:
                lines.append([*head, "missing: " + str(error).replace("|", "/"), ""])
                continue
            with np.load(path) as peer:
                params = Parameters(
                    nk.MLP(depth, name, 1.3, 0.3),
                    tuple(np.ascontiguousarray(peer[f"w{k}"].T) for k in range(depth)),
                    tuple(peer[f"b{k}"].ravel() for k in range(depth)),
                )
                ntk, outputs_there = peer["ntk"], peer["f"]
        off = np.abs(fw.empirical_ntk(params, x) - ntk).max() / np.abs(ntk).max()
        off_f = np.abs(fw.forward(params, x) - outputs_there).max() / np.abs(outputs_there).max()
        lines.append([*head, f"{off:.0e}", f"{off_f:.0e}"])
    return lines


def main() -> str:
    """Return the section `finite`."""
    return section(
        "finite",
        f"Σ and Θ of {DRAWS} networks of each width, L = {DEPTH}, ReLU, {N} points of {FEATURES} "
        f"features, float64: `finite_width.monte_carlo` against neural-tangents' "
        f"`monte_carlo_kernel_fn` with vmap_axes=0 and its default implementation (the one by "
        f"structured derivatives fails with this version of jax); seconds, minimum (median) of "
        f"{2 * REPEATS} calls of ntk_numba and 2 of neural-tangents, ratio of the minima. In the "
        f"second table, both compute the same networks, whose parameters neural-tangents has "
        f"drawn: the largest differences of Θ_kk' and of f, relative to the largest entry. "
        f"Installed: " + ", ".join(PINNED[:3]),
        table(["width", "neural-tangents", "ntk_numba", "ratio"], draws()),
        table(["σ", "n_0 … n_L", "Θ differs by", "f differs by"], entries()),
    )
