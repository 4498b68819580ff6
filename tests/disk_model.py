"""A model of a disk whose power may fail, in place of the functions of `gramfile.disk`."""

import errno
import itertools
import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ntk_numba.gramfile import disk

SECTOR = 512  # bytes that a disk writes wholly or not at all
CALLS = ("write_at", "allocate", "sync", "rename", "remove")  # the functions that change a file


def file_of(fd: int) -> Path:
    return Path(f"/proc/self/fd/{fd}")


class Disk:
    """A model of a disk: the bytes that were synced, and those that a crash may keep or lose.

    It replaces the functions of `disk`, and calls them as well. Files are known by their numbers,
    so that they keep their contents when they are renamed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.numbers: dict[int, int] = {}  # by inode, which a new file may take from a removed one
        self.durable: dict[int, bytearray] = {}
        self.pending: dict[int, list[tuple[int, bytes]]] = {}
        self.names: dict[str, int] = {}
        self.moves: list[Callable[[dict[str, int]], None]] = []
        self.before: Callable[[], None] = lambda: None
        self.loses: Callable[[], bool] = lambda: False  # whether a sync loses what it should keep
        real = {name: getattr(disk, name) for name in (*CALLS, "forget")}

        def write_at(fd: int, block: Any, at: int) -> None:
            self.before()
            real["write_at"](fd, block, at)
            self.pending.setdefault(self.number(fd), []).append((at, bytes(disk._bytes(block))))

        def allocate(fd: int, size: int) -> None:
            self.before()
            real["allocate"](fd, size)
            self.number(fd)

        def sync(fd: int) -> None:
            self.before()
            node = self.number(fd)
            if self.loses():  # as Linux: one call is told, and the cache keeps what the disk lacks
                self.pending.pop(node, None)
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            real["sync"](fd)
            size = os.fstat(fd).st_size
            if len(self.durable[node]) != size:  # HDF5 has written it
                self.durable[node] = bytearray(file_of(fd).read_bytes())
            for at, data in self.pending.pop(node, []):
                self.durable[node][at : at + len(data)] = data

        def rename(old: Path, new: Path) -> None:
            self.before()
            old.replace(new)
            self.moves.append(lambda names: names.update({new.name: names.pop(old.name)}))
            self.before()
            self.settle()

        def forget(fd: int) -> None:
            node = self.number(fd)
            if self.durable[node] and not self.pending.get(node):
                real["write_at"](fd, self.durable[node], 0)
            real["forget"](fd)

        def remove(path: Path) -> None:
            self.before()
            if path.exists():
                self.numbers.pop(path.stat().st_ino, None)
            real["remove"](path)
            self.moves.append(lambda names: names.pop(path.name, None) and None)

        lock = threading.RLock()  # the disk does one thing at a time

        def in_turn(call: Callable[..., None]) -> Callable[..., None]:
            def locked(*arguments: Any) -> None:
                with lock:
                    call(*arguments)

            return locked

        for call in (write_at, allocate, sync, rename, remove, forget):
            setattr(disk, call.__name__, in_turn(call))

    def number(self, fd: int) -> int:
        """Return the number of an open file, and add a new file to the model."""
        inode = os.fstat(fd).st_ino
        if inode not in self.numbers:
            node = self.numbers[inode] = len(self.durable)
            self.durable[node] = bytearray()
            name = file_of(fd).readlink().name
            self.moves.append(lambda names: names.update({name: node}))
        return self.numbers[inode]

    def settle(self) -> None:
        """Make all names durable."""
        for move in self.moves:
            move(self.names)
        self.moves = []

    def crash(self, rng: random.Random, into: Path, keep: float | None = None) -> None:
        """Write one of the states that the disk may be in if the power fails now.

        keep : the share of bytes not synced that the disk has; at random by default
        """
        if keep is None:
            keep = rng.choice([0.0, 0.2, 0.5, 0.8, 1.0])
        names = dict(self.names)
        for move in self.moves[: rng.randint(0, len(self.moves))]:  # a journal keeps their order
            move(names)
        for name, node in names.items():
            data = bytearray(self.durable[node])
            writes = list(self.pending.get(node, []))
            rng.shuffle(writes)
            for at, written in writes:
                if rng.random() < keep:
                    first, last = at // SECTOR, (at + len(written) - 1) // SECTOR
                    torn = rng.random() < 0.3 and last > first
                    cut = rng.randint(first + 1, last) * SECTOR - at if torn else len(written)
                    if len(data) < at + cut:
                        data.extend(bytes(at + cut - len(data)))
                    data[at : at + cut] = written[:cut]
            (into / name).write_bytes(data)


def lose_power(
    job: Callable[[], Any], rng: random.Random, folder: Path, after: Path, steps: int
) -> None:
    """Run a job, and let the power fail before one of its first `steps` calls, or at its end.

    after : the folder that has the files that the disk then keeps
    """
    model = Disk(folder)
    remaining = itertools.count(rng.randint(0, steps), -1)

    def before() -> None:
        if next(remaining) == 0:
            model.crash(rng, after)
            os.kill(os.getpid(), signal.SIGKILL)

    model.before = before
    job()
    model.crash(rng, after)
