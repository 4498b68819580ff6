"""Fixtures and hooks for all tests.

The fixtures are the digits and a small data set with all awkward relations of samples. The hooks
compile once for all workers of pytest, and print how many tests were left out.
"""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).parent.parent


# Threads that wait for others sleep. Most tests compute little, and several run at once, so that
# spinning threads would take most of the time of the processors. OpenMP reads this when it is
# loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

MARKS = ("slow", "system", "cluster")
# Each family of activations compiles a loop of its own over pairs.
WARM = """
import sys, numpy as np, ntk_numba as nk
from ntk_numba.activations.table import example
x = np.eye(3, dtype=sys.argv[1])
nk.gram(nk.MLP(2, "erf"), x)
nk.kernel_operator(nk.MLP(2, "erf"), x) @ x
if x.dtype == float:
    nk.gaussian_process(nk.MLP(2, "erf"), x, x[0], noise=1).gradient()
nk.dual("erf", 0.5, 0.5, 0.5)
families = {type(a): a for a in map(nk.activations.get, map(example, nk.activations.names()))}
for activation in families.values():
    largest = [1.0, np.inf] if activation.facts.method == "closed form" else [1.0]
    for loop in {activation.dual(q).loop for q in largest} - {None}:
        loop.address(x.dtype)
"""
left_out: Counter[str] = Counter()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-golden", action="store_true", help="rewrite the files in tests/golden/"
    )


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile into the cache before workers start; otherwise each would compile the same code."""
    if getattr(session.config.option, "tx", None):  # this process distributes tests
        commands = [[sys.executable, "-c", WARM, dtype] for dtype in ("float64", "float32")]
        compilers = [subprocess.Popen(command, cwd=ROOT) for command in commands]
        if max(compiler.wait() for compiler in compilers):
            raise pytest.UsageError("the kernels cannot be compiled, see above")


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        left_out.update(next(([name] for name in MARKS if name in marks), []))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take the counts of the first worker; all workers collect the same tests."""
    left_out.update(getattr(node, "workeroutput", {}).get("left_out", {}) if not left_out else {})


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if left_out:
        counts = ", ".join(f"{left_out[name]} {name}" for name in MARKS if left_out[name])
        terminalreporter.write_line(
            f"Left out: {counts}. "
            "`make test-all` runs all tests, `python -m pytest -m slow` those of one mark."
        )


@pytest.fixture
def write_golden(request: pytest.FixtureRequest) -> bool:
    """Return whether to write the answers of slow oracles, see recorded.py."""
    return request.config.getoption("write_golden")


@pytest.fixture(scope="session")
def digits() -> NDArray[np.uint8]:
    """Return the images of digits in data/, one per row."""
    with np.load(ROOT / "data" / "digits.npz") as archive:
        return archive["x"]


@pytest.fixture
def points() -> NDArray[np.float64]:
    """Return random, duplicate, nearly equal, parallel, opposite and zero rows, (150, 7)."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal((150, 7))
    x[10] = x[140] = x[71]
    x[20] = x[21] * (1 + 1e-12)
    x[30] = x[31] + 1e-9
    x[40] = 3 * x[41]
    x[50] = -x[51]
    x[60] = 0
    x[70:90] *= np.logspace(-8, 8, 20)[:, None]
    return x
