"""Other programs that compute the same kernels, in an environment of their own, against this one.

The environment is .venv-peers, made here when it is first needed. Each measurement is a process of
its own (`peer.py`), ours and the peer's in turn.
"""

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np

from bench.report import section, spread, table

ENVIRONMENT = Path(__file__).parent.parent / ".venv-peers"
PINNED = ("jax==0.4.30", "jaxlib==0.4.30", "neural-tangents==0.6.5", "scikit-ntk==1.2.1")
DEPTH, ROUNDS, REPEATS = 4, 2, 2
JOBS = [
    ("neural_tangents", 10_000, n0, dtype, ("nngp", "ntk"), 0.1)
    for n0 in (64, 784)
    for dtype in ("float64", "float32")
] + [
    # without a bias: its own is in Θ alone, which is another network
    ("scikit_ntk", 5_000, n0, "float64", ("ntk",), 0.0)
    for n0 in (64, 784)
]


def run(command: list[str], what: str) -> str:
    """What a command prints last.

    Raises
    ------
    OSError
        It failed.
    """
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().splitlines() or [f"ended by signal {-done.returncode}"]
        raise OSError(f"{what}: {reason[-1]}")
    return (done.stdout.splitlines() or [""])[-1]


def python() -> str:
    """The peers' Python."""
    program = str(ENVIRONMENT / "bin" / "python")
    ready = ENVIRONMENT / "ready"
    if not ready.exists() or ready.read_text() != repr(PINNED):
        venv.create(ENVIRONMENT, clear=True, with_pip=True)
        run([program, "-m", "pip", "install", "--quiet", *PINNED], "installing the peers")
        ready.write_text(repr(PINNED))
    return program


def measure(interpreter: str, **job: Any) -> dict[str, Any]:
    """What `peer.py` prints."""
    script = str(Path(__file__).with_name("peer.py"))
    return json.loads(run([interpreter, script, json.dumps(job)], job["program"]))


def row(
    program: str, n: int, n0: int, dtype: str, kernels: tuple[str, ...], b_std: float
) -> list[str]:
    """One job by both, a round each in turn."""
    job = {"n": n, "n0": n0, "dtype": dtype, "kernels": kernels, "b_std": b_std, "depth": DEPTH}
    name = program.replace("_", "-")
    head = [name, f"{n:,}", f"{n0}", dtype]
    ours, again, theirs = [], [], []
    we = {"interpreter": sys.executable, "program": "ntk_numba", "repeats": 2 * REPEATS}
    try:
        for _ in range(ROUNDS):
            ours.append(measure(**we, reuse=False, **job))
            again.append(measure(**we, reuse=True, **job))
            theirs.append(measure(python(), program=program, repeats=REPEATS, **job))
    except OSError as error:
        return [*head, "missing: " + str(error).replace("|", "/"), *[""] * 7]
    new, reused, b = ([t for m in by for t in m["seconds"]] for by in (ours, again, theirs))
    x, y = (np.array(by[0]["entries"]) for by in (ours, theirs))
    beyond = [f"{max(m['beyond'] for m in by) / 1e6:,.0f} MB" for by in (ours, theirs)]
    return [
        *head,
        spread(b),
        spread(new),
        f"{min(b) / min(new):.1f}",
        spread(reused),
        f"{min(b) / min(reused):.1f}",
        *beyond[::-1],
        f"{(abs(x - y) / abs(x)).max():.0e}",
    ]


def main() -> str:
    """The table."""
    return section(
        "peers",
        f"L = {DEPTH}, ReLU; warm, {ROUNDS} processes each in turn, {REPEATS} calls a process of "
        f"the peer and {2 * REPEATS} of ntk_numba; seconds, minimum (median); ratio of the minima. "
        f"The result in new memory, which the system clears first, or in that of an earlier call. "
        f"neural-tangents jitted, Σ and Θ, β = 0.1; scikit-ntk Θ, β = 0. Memory beyond the result "
        f"at the peak; the last column is the largest relative difference of some entries. "
        f"Installed: {', '.join(PINNED)}",
        table(
            ["peer", "N", "n0", "dtype", "peer's time", "ntk_numba's, new arrays", "ratio",
             "ntk_numba's, out=", "ratio", "peer's memory", "ntk_numba's", "difference"],
            [row(*job) for job in JOBS],
        ),
    )  # fmt: skip
