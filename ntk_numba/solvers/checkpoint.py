"""The checkpoint of an iteration: one file from which a killed process continues.

The file begins with a sealed header that names the problem. Behind it are two slots, which are
written in turn: a slot has a number that increases, the state of the iteration, and a seal. Each
slot has an area for arrays that change in every pass. Behind the areas are parts, which are written
once and stay: blocks of a basis. A slot is written only after all that it refers to is durable, so
the newer slot with a right seal describes a state that is there as a whole. A kill at any time
leaves at least one, and costs what was done since it was written.

A process that reads the file compares all checksums first. If the newest state is damaged, it goes
on from the one before.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128, xxh3_128_digest, xxh3_128_hexdigest

from ntk_numba import stopping
from ntk_numba.errors import (
    FileError,
    InvalidValueError,
    NtkNumbaError,
    OutputExistsError,
    StoppedError,
    file_error,
)
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.lease import Lease
from ntk_numba.gramfile.place import NEW, beside, check_folder, keep_mode, output_path
from ntk_numba.gramfile.whole import reserve
from ntk_numba.opening import is_at

Array = NDArray[np.float64]

MAGIC = b"ntk_numba checkpoint 1\n"
PAGE = 4096
SLOT = 4 * PAGE  # bytes of a slot
SEAL = 16  # bytes of a checksum, XXH3 of 128 bits


class _DamageError(Exception):
    """Something in the file is not as it was written."""


class Checkpoint:
    """A file that keeps the state of an iteration; a context manager that closes it.

    Parameters
    ----------
    path : the file, which is created if it does not exist
    problem : what the iteration depends on, by names; another process continues it only if all of
        them are equal
    area : the bytes of the arrays that `save` is given, at most
    overwrite : whether to replace a file that is no checkpoint of this problem

    Attributes
    ----------
    state : dict or None
        The state that was saved last; None in a new file.
    arrays : dict
        The arrays that were saved with it.

    Raises
    ------
    BlockingIOError
        Another process writes the file.
    OSError
        The file cannot be written, is damaged, or is no checkpoint; see also `check_folder`.
    ValueError
        It is the checkpoint of another problem.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        problem: Mapping[str, str],
        *,
        area: int = 0,
        overwrite: bool = False,
    ) -> None:
        self.path = output_path(path)
        check_folder(self.path)
        self.state: dict[str, Any] | None = None
        self.arrays: dict[str, Array] = {}
        self._records: list[dict[str, Any]] = []  # of the parts
        self._number, self._head = 0, dict(problem)
        self._area = _pages(area)
        self._lease = Lease(self.path, mend="wait for it, or choose another path")
        try:
            fd = self._continue(overwrite)
            self._fd = self._begin() if fd is None else fd
        except BaseException:
            self._lease.release()
            raise

    def _continue(self, overwrite: bool) -> int | None:
        """Open the file that exists, read it, and return its descriptor; None to begin a new one.

        With `overwrite`, a file that cannot be continued is replaced.
        """
        if not os.path.lexists(self.path):
            return None
        try:
            fd = disk.open_existing(self.path)
        except OSError as error:
            raise file_error(error, f"{self.path} cannot be opened: {error.strerror}") from None
        try:
            # what an earlier process could not write may still be in the cache
            disk.forget(fd)
            self._check_header(fd)
            self._read(fd)
        except BaseException as error:
            os.close(fd)
            if overwrite and isinstance(error, NtkNumbaError):
                self.state, self.arrays, self._records, self._number = None, {}, [], 0
                return None
            raise
        return fd

    def _check_header(self, fd: int) -> None:
        """Raise an error if the file is not the checkpoint of this problem."""
        page = _read_some(fd, 0, PAGE)
        if not page.startswith(MAGIC):
            raise OutputExistsError(
                f"{self.path} exists and is no checkpoint; choose another path, or overwrite it"
            )
        found = _unsealed(page[len(MAGIC) :])
        if found is None:
            raise self._damaged("its header")
        for name, value in self._head.items():
            if found["problem"].get(name) != value:
                raise InvalidValueError(
                    f"{self.path} is the checkpoint of a solution with {_other(name)}; choose "
                    f"another path, or overwrite it"
                )
        self._area = int(found["area"])

    def _damaged(self, what: str) -> FileError:
        return FileError(
            f"{self.path} is damaged ({what}); delete it, or overwrite it, to begin again"
        )

    def _begin(self) -> int:
        """Create the file under another name, so that one with its own name has a header."""
        new = beside(self.path, NEW)
        head = _sealed({"problem": self._head, "area": self._area})
        with self._stopped("it was not begun", again=False):
            disk.remove(new)
            fd = disk.create(new)
            try:
                keep_mode(fd, self.path)
                reserve(fd, self.path, self._parts_at)
                disk.write_at(fd, (MAGIC + head).ljust(PAGE, b"\0"), 0)
                disk.write_at(fd, bytes(2 * SLOT), PAGE)
                disk.sync(fd)
                self._lease.check()
                disk.rename(new, self.path)
            except BaseException:
                with contextlib.suppress(OSError):
                    if is_at(fd, new):
                        disk.remove(new)
                os.close(fd)
                raise
        return fd

    @property
    def _parts_at(self) -> int:
        """Where the parts begin."""
        return _parts_at(self._area)

    @property
    def _end(self) -> int:
        """Where the next part is written."""
        if not self._records:
            return self._parts_at
        last = self._records[-1]
        return int(last["at"]) + _pages(_size(last))

    def _read(self, fd: int) -> None:
        """Read the newest state that is there as a whole."""
        found = newest(fd, self._area)
        if found.state is not None:
            self.state, self.arrays, self._records = found.state, found.arrays, found.records
            self._number = found.number
        elif found.damaged == 2:  # a state that is empty was never written
            raise self._damaged("both of its states")

    @property
    def parts(self) -> int:
        """The number of parts."""
        return len(self._records)

    def part(self, number: int) -> Array:
        """Read a part, and compare it with its checksum."""
        try:
            return _array(self._fd, self._records[number])
        except _DamageError:
            raise self._damaged("a block has changed since it was written") from None

    def append(self, array: Array) -> int:
        """Write a part and return its number; it counts from the next `save` on."""
        data = np.ascontiguousarray(array, float)
        record = _record(data, self._end + PAGE)
        with self._stopped():
            disk.write_at(self._fd, _sealed(record).ljust(PAGE, b"\0"), self._end)
            if data.size:
                disk.write_at(self._fd, data, record["at"])
        self._records.append(record)
        return len(self._records) - 1

    def save(self, state: dict[str, Any], arrays: Mapping[str, Array] | None = None) -> None:
        """Save a state, with all parts that were appended, durably.

        Raises
        ------
        StoppedError
            It cannot be written, for example since the disk is full. The state that was saved
            before stays.
        """
        number = self._number + 1
        which, records = number % 2, {}
        at = PAGE + 2 * SLOT + which * self._area
        limit = at + self._area
        with self._stopped(), stopping.gently():
            self._lease.check()
            if not is_at(self._fd, self.path):
                raise StoppedError(f"{self.path} was moved or removed while it was written")
            for name, array in (arrays or {}).items():
                data = np.ascontiguousarray(array, float)
                records[name] = _record(data, at)
                if data.size:
                    disk.write_at(self._fd, data, at)
                at += _pages(data.nbytes)
            assert at <= limit
            disk.sync(self._fd)
            chain = xxh3_128()
            for record in self._records:
                chain.update(bytes.fromhex(record["seal"]))
            slot = {
                "number": number,
                "state": state,
                "arrays": records,
                "parts": len(self._records),
                "chain": chain.hexdigest(),
            }
            page = _sealed(slot).ljust(SLOT, b"\0")
            assert len(page) == SLOT  # a state has a few numbers for each pass
            disk.write_at(self._fd, page, PAGE + which * SLOT)
            disk.sync(self._fd)
        self._number, self.state = number, state
        stopping.check()

    @contextlib.contextmanager
    def _stopped(self, kept: str = "", *, again: bool = True) -> Iterator[None]:
        """Turn an error of the system into one that says that the job can be continued."""
        try:
            yield
        except OSError as error:
            if isinstance(error, NtkNumbaError):
                raise
            text = f"{self.path} cannot be written: {error.strerror or error}"
            if not again:
                raise file_error(error, f"{text}; {kept}") from None
            done = "the passes before it are kept; the same call continues"
            raise StoppedError(f"{text}; {kept or done}") from None

    def close(self) -> None:
        """Close the file, which stays."""
        os.close(self._fd)
        self._lease.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Return whether a file begins as checkpoints do, be it damaged or not."""
    return _head_of(path).startswith(MAGIC)


def header_of(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return what the header of a checkpoint says; None if there is none, or it is damaged."""
    page = _head_of(path)
    return _unsealed(page[len(MAGIC) :]) if page.startswith(MAGIC) else None


def problem_of(path: str | os.PathLike[str]) -> dict[str, str] | None:
    """Return the problem that the header of a checkpoint names; None if there is none."""
    found = header_of(path)
    return None if found is None else dict(found["problem"])


def _head_of(path: str | os.PathLike[str]) -> bytes:
    """Return the first bytes of a file; none if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(PAGE)
    except OSError:
        return b""


class Newest(NamedTuple):
    """The newest state of a file that is there as a whole, and how many others are damaged."""

    number: int
    state: dict[str, Any] | None
    arrays: dict[str, Array]
    records: list[dict[str, Any]]
    damaged: int


def newest(fd: int, area: int) -> Newest:
    """Read the newest state whose checksums, and those of all that it refers to, are right."""
    pages = [_read_some(fd, PAGE + which * SLOT, SLOT) for which in (0, 1)]
    found = [slot for page in pages if (slot := _unsealed(page)) is not None]
    damaged = sum(bool(page.strip(b"\0")) for page in pages) - len(found)
    for slot in sorted(found, key=lambda slot: -slot["number"]):
        try:
            records = _records_of(fd, slot, _parts_at(area))
            arrays = {name: _array(fd, record) for name, record in slot["arrays"].items()}
        except _DamageError:
            damaged += 1
            continue
        return Newest(slot["number"], slot["state"], arrays, records, damaged)
    return Newest(0, None, {}, [], damaged)


def _records_of(fd: int, slot: dict[str, Any], at: int) -> list[dict[str, Any]]:
    """Return the records of a slot's parts, of which the first is at `at`.

    A _DamageError says that one is wrong.
    """
    records, chain = list[dict[str, Any]](), xxh3_128()
    for _ in range(slot["parts"]):
        record = _unsealed(_read_some(fd, at, PAGE))
        if record is None or record["at"] != at + PAGE:
            raise _DamageError
        _array(fd, record)
        chain.update(bytes.fromhex(record["seal"]))
        records.append(record)
        at = record["at"] + _pages(_size(record))
    if chain.hexdigest() != slot["chain"]:
        raise _DamageError
    return records


def _parts_at(area: int) -> int:
    """Return where the parts begin."""
    return PAGE + 2 * (SLOT + area)


def _other(name: str) -> str:
    """Return how a problem differs from another one whose value of this name is different."""
    return f"another {name}" if not name.endswith("s") else f"other {name}"


def _pages(size: int) -> int:
    """Return the bytes of the whole pages that hold `size` bytes."""
    return -(-size // PAGE) * PAGE


def _size(record: Mapping[str, Any]) -> int:
    return int(np.prod(record["shape"], dtype=int)) * 8


def _record(data: Array, at: int) -> dict[str, Any]:
    """Return what is noted of an array of float64: its place, shape and checksum."""
    return {"at": at, "shape": list(data.shape), "seal": xxh3_128_hexdigest(data.data)}


def _array(fd: int, record: Mapping[str, Any]) -> Array:
    """Read an array; a _DamageError says that it is not as its record says."""
    data = np.empty(record["shape"])
    try:
        if data.size:
            disk.read_at(fd, data, int(record["at"]))
    except OSError as error:
        disk.raise_exhausted(error)
        raise _DamageError from None
    if xxh3_128_hexdigest(data.data) != record["seal"]:
        raise _DamageError
    return data


def _sealed(facts: dict[str, Any]) -> bytes:
    """Return facts as bytes with their length and a checksum before them."""
    text = json.dumps(facts).encode()
    body = len(text).to_bytes(8, "little") + text
    return xxh3_128_digest(body) + body


def _unsealed(page: bytes) -> dict[str, Any] | None:
    """Return facts from the bytes that `_sealed` has returned; None if they have changed."""
    size = int.from_bytes(page[SEAL : SEAL + 8], "little")
    body = page[SEAL : SEAL + 8 + size]
    if len(body) != 8 + size or size == 0 or xxh3_128_digest(body) != page[:SEAL]:
        return None
    return dict(json.loads(body[8:]))


def _read_some(fd: int, at: int, size: int) -> bytes:
    """Return bytes of a file, filled up with zeros where it ends before."""
    found = bytearray()
    while len(found) < size and (more := os.pread(fd, size - len(found), at + len(found))):
        found += more
    return bytes(found).ljust(size, b"\0")
