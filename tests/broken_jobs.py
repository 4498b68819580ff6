"""Small jobs in processes of their own, which are killed, suspended or made to fail at a call.

`breaking` has the experiments. Each job runs in a process forked from this one, so that it starts
at once, and is killed by a real SIGKILL. Files are compared with the file of an undisturbed run.
"""

import contextlib
import errno
import itertools
import os
import signal
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Settings that survive a fork: BLAS without threads, Numba with threads that a child creates again
os.environ |= {"OPENBLAS_NUM_THREADS": "1", "NUMBA_THREADING_LAYER": "workqueue"}

import h5py
import numpy as np
from disk_model import CALLS
from numba.np.ufunc import parallel
from tqdm import tqdm

import ntk_numba as nk
from ntk_numba.compute import plan
from ntk_numba.engine.kernel import Kernel
from ntk_numba.gramfile import disk

PATIENCE = 60  # seconds after which a process is said to hang

# How a job ended: a STOPPED one can be continued, and a SPARED one did without the call that failed
DONE, BUG, REFUSED, STOPPED, SPARED = range(5)


class Job:
    """A small job, and the bytes that its file must have.

    names : the datasets of its file
    middle : the number of a call in the middle of a job of 200 samples
    """

    names: tuple[str, ...] = ("nngp", "ntk")
    middle = 60

    def __init__(self, folder: Path, samples: int, features: int = 7, depth: int = 3) -> None:
        self.x = np.random.default_rng(0).standard_normal((samples, features))
        self.net = nk.MLP(depth, ["relu", *["abs"] * (depth - 2)], b_std=0.1)
        self.right = folder / "right.h5"
        self(self.right)
        self.bytes = self.right.read_bytes()

    def __call__(self, path: Path, X: Any = None, **options: Any) -> None:
        x = self.x if X is None else X
        nk.write_gram(self.net, x, path, kernels=("nngp", "ntk"), **options).close()

    def words(self, path: Path) -> list[str]:
        """Return the words of the command that does the job."""
        data = self.right.with_name("x.npy")
        if not data.exists():
            np.save(data, self.x)
        words = ["gram", data, "-o", path, "--depth", "3", "--b-std", "0.1", "--threads", "1"]
        words += ["--activation", "relu", "--activation", "abs"]
        return [*map(str, words), "--kernel", "nngp", "--kernel", "ntk"]

    def repair(self, path: Path) -> None:
        nk.repair(path, self.x)

    def open(self, path: Path, **options: Any) -> Any:
        return nk.open_gram(path, **options)

    def values(self, path: Path) -> list[bytes]:
        """Return the entries of its file as HDF5 reads them, without the package."""
        with h5py.File(path, locking=False) as file:
            return [file[name][:].tobytes() for name in self.names]

    def log_tiles(self, log: Path) -> None:
        """Append a byte to a file for each tile that is computed from now on."""
        compute = Kernel.compute

        def logged(self: Kernel, table: Any, *arguments: Any) -> None:
            compute(self, table, *arguments)
            with log.open("ab") as file:
                file.write(b"." * len(table))

        Kernel.compute = logged  # type: ignore[method-assign]


def start_process(work: Callable[[], int | None]) -> int:
    """Start the work in a forked process, and return its PID."""
    pid = os.fork()
    if pid == 0:
        code = BUG
        try:
            code = work() or DONE
        except nk.StoppedError:
            code = STOPPED
        except (OSError, ValueError):
            code = REFUSED
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def ended(pid: int) -> int:
    """Return the exit code of a process, or minus its signal; minus SIGALRM if it hangs."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        number, status = os.waitpid(pid, os.WNOHANG)
        if number:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -signal.SIGALRM


def run(work: Callable[[], int | None]) -> int:
    """Do the work in a forked process, and return its exit code as `ended` does."""
    return ended(start_process(work))


class Count:
    """Counts of outcomes by name, with the first examples."""

    def __init__(self) -> None:
        self.numbers: Counter[str] = Counter()
        self.examples: list[str] = []

    def add(self, name: str, example: object = None) -> None:
        self.numbers[name] += 1
        if example is not None and len(self.examples) < 20:
            self.examples.append(f"{name}: {example}")

    def check(self, job: Job, folder: Path, code: int, what: object) -> None:
        """Check a run that had to complete: there is one file, with the right bytes."""
        if code != DONE:
            self.add("files that cannot be continued", (what, code))
        elif (folder / "g.h5").read_bytes() != job.bytes:
            self.add("wrong files", what)
        elif (names := sorted(p.name for p in folder.iterdir())) != ["g.h5"]:
            self.add("files left over", (what, names))
        else:
            self.add("right")

    def result(self, **more: Any) -> dict[str, Any]:
        return {**self.numbers, **more, "examples": self.examples}


@contextlib.contextmanager
def empty_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


# Locks that all forked processes would share: a process killed while holding one would keep it
parallel._backend_init_process_lock = threading.RLock()
tqdm.set_lock(threading.RLock())
tqdm.monitor_interval = 0  # no thread that might hold a lock at a fork
plan.BATCH_BYTES = 1 << 18  # few tiles are in flight, as in a larger job


def break_at(number: int, how: str, log: Path | None = None) -> list[str]:
    """Make the `number`-th call that changes a file fail or be killed, in this process.

    Return a list that gets the name of that call.

    log : a file that is created when that happens
    """
    counter, broken_call = itertools.count(1), list[str]()

    def broken(name: str, original: Callable[..., None], *arguments: Any) -> None:
        if next(counter) != number:
            original(*arguments)
            return
        broken_call.append(name)
        if log:
            log.touch()
        if how == "suspend":
            os.kill(os.getpid(), signal.SIGSTOP)
            original(*arguments)
        elif how == "interrupt":
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.02)  # until the main thread has run the handler
            original(*arguments)
        elif how in ("ENOSPC", "EIO", "EDQUOT"):
            raise OSError(getattr(errno, how), os.strerror(getattr(errno, how)))
        else:
            if how == "kill after":
                original(*arguments)
            elif how == "kill within" and name == "write_at":
                fd, block, at = arguments
                view = disk._bytes(block)
                original(fd, bytes(view[: len(view) // 2]), at)
            os.kill(os.getpid(), signal.SIGKILL)

    for name in CALLS:
        original = getattr(disk, name)
        setattr(disk, name, lambda *a, n=name, o=original: broken(n, o, *a))
    return broken_call
