"""Regression, evidence and its gradient, in memory, against LAPACK's Cholesky and other packages.

- The limit of regression is the Gram matrix and LAPACK's Cholesky factorisation of it, in place,
  with the triangle that is faster.
- The evidence is compared with that factorisation alone. Its gradient needs the inverse, which is
  two more of them by count of operations.
- neural-tangents and scikit-learn do the same task in turn, as processes (`prediction_peer.py`).
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

import ntk_numba as nk
from bench.peers import PINNED, python, run
from bench.report import ratio, section, spread, table
from bench.timing import PAUSE, refresh_memory, seconds
from ntk_numba.machine import available_threads
from ntk_numba.predict.hyperparameters import BOUNDS
from ntk_numba.predict.search import Objective, Space

N, FEATURES, TARGETS, NEW, DEPTH, B_STD, RIDGE = 10_000, 784, 10, 1_000, 4, 0.1, 1e-6
ROUNDS, PEER_ROUNDS, FEW = 3, 2, 100
MATRICES = 3  # what the evidence's gradient has in memory
NET = nk.MLP(DEPTH, b_std=B_STD)
SCRIPT = str(Path(__file__).with_name("prediction_peer.py"))
# task, peer, and the share of N that it has
PEERS = [
    ("ridge", "neural_tangents", 1.0),
    ("process", "scikit_learn", 0.5),
    ("evidence", "scikit_learn", 0.5),
]

Doubles = NDArray[np.float64]


def factorise(kernel: Doubles, buffer: Doubles, lower: bool) -> float:
    """Return the seconds of LAPACK's Cholesky factorisation of a copy of a matrix."""
    np.copyto(buffer, kernel)
    found: list[int] = []

    def work() -> None:
        # the transpose of a symmetric matrix in C order is the matrix in Fortran's order
        found.append(lapack.dpotrf(buffer.T, lower=lower, clean=0, overwrite_a=1)[1])

    taken = seconds(work)
    if found[0]:
        raise ArithmeticError(f"the kernel is not positive definite, row {found[0] - 1}")
    return taken


def rounds(works: dict[str, Callable[[], float]], fresh: int) -> dict[str, list[float]]:
    """Return the seconds that each work reports, in turn, after one run for warming up.

    fresh : the bytes of memory that are used before each
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(ROUNDS):
        for name, work in works.items():
            time.sleep(PAUSE)
            refresh_memory(fresh)
            times[name].append(work())
    return times


def own(n: int) -> list[list[str]]:
    """Return the rows of ntk_numba and LAPACK."""
    random = np.random.default_rng(0)
    x, y = random.standard_normal((n, FEATURES)), random.standard_normal((n, TARGETS))
    kernel = nk.gram(NET, x, kernels="nngp").nngp
    assert kernel is not None
    kernel[np.diag_indices(n)] += RIDGE * np.trace(kernel) / n
    buffer = np.empty_like(kernel)
    lower = factorise(kernel, buffer, True) < factorise(kernel, buffer, False)
    space = Space(NET, RIDGE, ("w_std", "b_std"), True, BOUNDS)
    objective = Objective(x, y[:, :1], "nngp", "evidence", None)

    def full_gradient() -> None:
        nk.gaussian_process(NET, x, y[:, 0], noise=RIDGE).gradient()

    times = rounds(
        {
            "gram": lambda: seconds(partial(nk.gram, NET, x, kernels="ntk")),
            "gram of Σ": lambda: seconds(partial(nk.gram, NET, x, kernels="nngp")),
            "LAPACK": partial(factorise, kernel, buffer, lower),
            "ridge": lambda: seconds(partial(nk.kernel_ridge, NET, x, y, ridge=RIDGE)),
            "two": lambda: seconds(partial(objective.gradient, space, space.start({}))),
            "all": lambda: seconds(full_gradient),
        },
        MATRICES * kernel.nbytes,
    )
    cholesky = np.array(times["LAPACK"])
    both = np.add(times["gram"], cholesky)
    without = np.subtract(times["two"], times["gram of Σ"])
    return [
        ["gram of Θ", spread(times["gram"]), ""],
        [f"LAPACK's Cholesky, {'lower' if lower else 'upper'} triangle", spread(cholesky), ""],
        ["both", spread(both), ""],
        [
            f"kernel_ridge, {TARGETS} targets",
            spread(times["ridge"]),
            f"{ratio(times['ridge'], both)} of both",
        ],
        [
            "evidence of Σ and its gradient in σ_w and β",
            spread(times["two"]),
            f"{ratio(times['two'], cholesky)} of the Cholesky",
        ],
        [
            "the same without the Gram matrix of Σ",
            "",
            f"{ratio(without, cholesky)} of the Cholesky",
        ],
        [
            f"the evidence and its gradient in the {2 * DEPTH} of all layers and the noise",
            spread(times["all"]),
            f"{ratio(times['all'], cholesky)} of the Cholesky",
        ],
    ]


def measure(interpreter: str, program: str, task: str, n: int) -> dict[str, Any]:
    """Run `prediction_peer.py` and return what it prints."""
    job = {"program": program, "task": task, "n": n, "n0": FEATURES, "targets": TARGETS}
    job["warm"] = n if program == "neural_tangents" else FEW  # it compiles for each shape
    job |= {"new": NEW, "depth": DEPTH, "b_std": B_STD, "ridge": RIDGE, "repeats": PEER_ROUNDS}
    return json.loads(run([interpreter, SCRIPT, json.dumps(job)], program))


def peer(task: str, program: str, n: int) -> list[str]:
    """Return the row of a peer's task."""
    head = [task, program.replace("_", "-"), f"{n:,}"]
    try:
        found = measure(python(), program, task, n)
        ours = measure(sys.executable, "ntk_numba", task, n)
    except OSError as error:
        return [*head, "missing: " + str(error).replace("|", "/"), "", "", ""]
    a, b = (np.array(m["result"]) for m in (ours, found))
    same = program == "neural_tangents"  # the others have another kernel
    return [
        *head,
        spread(found["seconds"]),
        spread(ours["seconds"]),
        f"{min(found['seconds']) / min(ours['seconds']):.1f}",
        f"{np.abs(a - b).max() / np.abs(a).max():.0e}" if same else "",
    ]


def main(n: int = N) -> str:
    """Return the section `prediction`."""
    return section(
        "prediction",
        f"N = {n:,} samples of {FEATURES} features, float64, L = {DEPTH}, ReLU, β = {B_STD}, "
        f"relative ridge {RIDGE:.0e}, {available_threads()} threads; seconds, minimum (median) of "
        f"{ROUNDS} rounds; ratio of the minima (median of the rounds'):",
        table(["work", "seconds", "ratio"], own(n)),
        f"Against other packages, in processes of their own, {PEER_ROUNDS} calls each after one "
        f"for warming up. ridge: fit {TARGETS} targets and predict {NEW:,} samples; the peer is "
        f"neural-tangents' gradient_descent_mse_ensemble on Θ at t = ∞ with its kernel jitted; the "
        f"last column is the largest difference of predictions, relative to the largest of them. "
        f"process: fit {TARGETS} targets, means and standard deviations of {NEW:,} samples; "
        f"evidence: with its gradient in two hyperparameters, for one target; in these the peer is "
        f"scikit-learn's GaussianProcessRegressor with its constant times an RBF, ours has Σ, and "
        f"the gradient in all {2 * DEPTH} σ_w and β and the noise. Installed: "
        + ", ".join(PINNED[:3]),
        table(
            ["task", "peer", "N", "peer's time", "ntk_numba's", "ratio", "difference"],
            [peer(task, program, round(share * n)) for task, program, share in PEERS],
        ),
    )
