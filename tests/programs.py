"""Programs that tests start, as a user does, and watch."""

import atexit
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ntk_numba import notices

TESTS = Path(__file__).parent
# Dask gives up a task when it has killed one worker, not four
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
}
PATIENCE = 100  # seconds
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
needs_mpi = pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec: MPI was not tested at all")


@contextlib.contextmanager
def own_process_kept() -> Iterator[None]:
    """Undo the changes that the command line makes to its process, which here runs the tests."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    handlers = [signal.getsignal(number) for number in numbers]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", sys.stderr)
        patch.setattr(sys, "stdout", sys.stdout)
        patch.setattr(sys, "unraisablehook", sys.unraisablehook)
        patch.setattr(notices, "wanted", notices.wanted)
        try:
            yield
        finally:
            for number, handler in zip(numbers, handlers, strict=True):
                signal.signal(number, handler)


def ranks(kind: str) -> list[Any]:
    """Return the words that start a program on the ranks of ``mpi 3``; none for other executors."""
    return [MPIEXEC, "-n", kind.split(" ")[1]] if kind.startswith("mpi") else []


def stand_ins(kind: str, folder: Path, count: int, plan: dict[int, str] | str) -> list[Any]:
    """Return the command that runs stand-ins for parts on an executor."""
    return [
        *ranks(kind), sys.executable, TESTS / "stand_ins.py",
        "mpi" if kind.startswith("mpi") else kind,
        folder, str(count), plan if isinstance(plan, str) else json.dumps(plan),
    ]  # fmt: skip


def run(
    kind: str, folder: Path, count: int, plan: dict[int, str] | str
) -> subprocess.CompletedProcess[str]:
    """Run stand-ins for parts on an executor until they end."""
    return subprocess.run(
        stand_ins(kind, folder, count, plan), env=ENVIRONMENT, capture_output=True, text=True,
        timeout=PATIENCE,
    )  # fmt: skip


def start(command: list[Any]) -> subprocess.Popen[str]:
    """Start a program in a process group of its own, which does not outlive the tests."""
    process = subprocess.Popen(
        command, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    atexit.register(_end, process)
    return process


def _end(process: subprocess.Popen[str]) -> None:
    """End a program whose test has failed."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    """Return whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(happens: Callable[[], Any]) -> Any:
    """Wait until `happens()` is true, and return its value."""
    end = time.monotonic() + PATIENCE
    while not (value := happens()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return value
