"""Passes of an operator in parts, on real processes that are really killed."""

import errno
import os
import signal
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from marks import marked

from ntk_numba import StoppedError
from ntk_numba.cluster import executors
from ntk_numba.cluster.workers import LocalPool
from ntk_numba.gramfile import disk
from ntk_numba.grid import Grid, Part
from ntk_numba.operators import distributed
from ntk_numba.operators import passes as pass_module
from ntk_numba.operators.distributed import Passes
from ntk_numba.operators.passes import rows_of
from ntk_numba.operators.sections import SectionsFile

SIZE, TILE, K = 300, 64, 3


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(executors, "PAUSE", 0.05)


class Matrix:
    """A matrix in memory that is multiplied tile by tile, and notes what it multiplies."""

    def __init__(self, entries, symmetric, folder=None, plan=None):
        self.entries = entries
        self.grid = Grid(*entries.shape, symmetric, TILE)
        self.folder, self.plan = folder, plan or {}

    @property
    def bounds(self):
        row = np.abs(self.entries).max(axis=1)
        return row, np.ones(self.entries.shape[1])

    def add_part(self, columns, part, sums, transpose=False):
        if self.folder:
            with (self.folder / f"starts-{part.number}").open("a") as file:
                file.write(f"{os.getpid()}\n")
            starts = len((self.folder / f"starts-{part.number}").read_text().split())
            action, times = self.plan.get(part.number, ("", 0))
            if starts <= times:
                if action == "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError("the disk is bad")
        for i, j in np.argwhere(self.grid.mask(part)):
            a, b = i * TILE, j * TILE
            block = self.entries[a : a + TILE, b : b + TILE]
            if transpose:
                sums.add(b, block.T @ columns[a : a + TILE])
            else:
                sums.add(a, block @ columns[b : b + TILE])
            if self.grid.symmetric and i != j:
                sums.add(b, block.T @ columns[a : a + TILE])


@dataclass(frozen=True)
class Origin:
    """The matrix of a seed."""

    symmetric: bool = True
    folder: Path | None = None
    plan: tuple = ()
    memory = threads = None

    def elsewhere(self):
        return self

    def difference(self, matrix, part):
        return ""

    def open(self, memory=None, threads=None):
        rng = np.random.default_rng(0)
        if self.symmetric:
            half = rng.standard_normal((SIZE, SIZE))
            entries = half + half.T
        else:
            entries = rng.standard_normal((SIZE, SIZE - 100))
        return Matrix(entries, self.symmetric, self.folder, dict(self.plan))


@dataclass(frozen=True)
class Other(Origin):
    """A matrix that is not the same for workers."""

    def difference(self, matrix, part):
        return "row 3"


def columns_of(count=SIZE):
    return np.random.default_rng(1).standard_normal((count, K)) * [1e-200, 1, 1e200]


def passes(folder, origin=None, *, parts=7, executor=None):
    origin = origin or Origin()
    work = folder / "work"
    work.mkdir(exist_ok=True)
    return Passes(origin.open(), "a", origin, work, parts=parts, executor=executor)


def left(folder):
    return sorted(path.name for path in (folder / "work").iterdir())


@pytest.mark.parametrize("symmetric", marked(pytest.mark.slow, [True, False]))
def test_products_are_right_and_have_the_same_bits_for_any_parts(tmp_path, symmetric):
    origin = Origin(symmetric)
    entries = origin.open().entries
    for transpose in (False, True)[: 1 if symmetric else 2]:
        matrix = entries.T if transpose else entries
        columns = columns_of(matrix.shape[1])
        found = [
            passes(tmp_path, origin, parts=n).multiply(columns, transpose=transpose)
            for n in (1, 3, 7, 15)
        ]
        wanted = matrix @ columns
        assert np.abs((found[0] - wanted) / [1e-200, 1, 1e200]).max() < 1e-12
        for other in found[1:]:
            np.testing.assert_array_equal(found[0], other)
    assert left(tmp_path) == []


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("of", [1, 3, 7, 15])
def test_a_part_needs_only_the_rows_that_it_names(symmetric, of):
    matrix = Origin(symmetric).open()
    for number in range(1, of + 1):
        reads, writes = rows_of(matrix.grid, Part(number, of))
        mask = np.kron(matrix.grid.mask(Part(number, of)), np.ones((TILE, TILE), bool))
        mask = mask[: matrix.entries.shape[0], : matrix.entries.shape[1]]
        down, across = mask.any(axis=1), mask.any(axis=0)
        wanted = (down | across, down | across) if symmetric else (across, down)
        for runs, used in zip((reads, writes), wanted, strict=True):
            named = np.zeros(used.size, bool)
            for run in runs:
                assert not named[run.start : run.stop].any()
                named[run.start : run.stop] = True
            assert (named >= used).all() and (named.sum() <= used.sum() + 2 * TILE)


def starts(folder):
    return {
        int(path.name.removeprefix("starts-")): len(path.read_text().split())
        for path in folder.glob("starts-*")
    }


@pytest.mark.cluster
def test_workers_that_die_are_replaced_and_keep_what_they_prepared(tmp_path):
    wanted = passes(tmp_path).multiply(columns_of())
    origin = Origin(folder=tmp_path, plan=((2, ("die", 1)), (5, ("fail", 2))))
    pool = passes(tmp_path, origin, executor=partial(LocalPool, 2))
    np.testing.assert_array_equal(pool.multiply(columns_of()), wanted)
    assert left(tmp_path) == []
    counts = starts(tmp_path)
    assert counts[2] == 2 and counts[5] == 3 and set(counts) == set(range(1, 8))
    workers = set((tmp_path / "starts-1").read_text().split()[-1:])
    for _ in range(2):  # the same processes serve the next passes
        np.testing.assert_array_equal(pool.multiply(columns_of()), wanted)
    after = {path.read_text().split()[-1] for path in tmp_path.glob("starts-*")}
    assert len(after) <= 2 and workers
    pool.close()


def test_a_part_that_always_fails_is_named_and_the_others_are_kept(tmp_path):
    wanted = passes(tmp_path).multiply(columns_of())
    bad = Origin(folder=tmp_path, plan=((4, ("fail", 3)),))
    with ThreadPoolExecutor(2) as executor:
        pool = passes(tmp_path, bad, executor=executor)
        with pytest.raises(StoppedError, match=r"1 of 7 parts could not be done: 4 \(4: the disk"):
            pool.multiply(columns_of())
        kept = left(tmp_path)
        assert len(kept) == 7 and not any("product-4-of" in name for name in kept)
        before = starts(tmp_path)
        # another driver goes on, as after a kill
        found = passes(tmp_path, bad, executor=executor).multiply(columns_of())
    np.testing.assert_array_equal(found, wanted)
    assert starts(tmp_path) == before | {4: 4} and left(tmp_path) == []


def test_a_damaged_file_is_computed_again(tmp_path):
    wanted = passes(tmp_path).multiply(columns_of())
    bad = Origin(folder=tmp_path, plan=((4, ("fail", 1)),))
    with pytest.raises(OSError, match="the disk is bad"):
        passes(tmp_path, bad).multiply(columns_of())
    assert starts(tmp_path) == {1: 1, 2: 1, 3: 1, 4: 1}
    for name in left(tmp_path):
        if "product-2" in name or "columns" in name:
            path = tmp_path / "work" / name
            with SectionsFile(path) as file:
                at = file._base + file.sections[0].at
            content = bytearray(path.read_bytes())
            content[at] ^= 1
            path.write_bytes(content)
    np.testing.assert_array_equal(passes(tmp_path, bad).multiply(columns_of()), wanted)
    assert starts(tmp_path) == {1: 1, 2: 2, 3: 1, 4: 2, 5: 1, 6: 1, 7: 1}


def test_files_of_another_pass_are_removed_and_no_others(tmp_path):
    bad = Origin(folder=tmp_path, plan=((4, ("fail", 1)),))
    with pytest.raises(OSError, match="the disk is bad"):
        passes(tmp_path, bad).multiply(columns_of())
    (tmp_path / "work" / "pass-of-mine").touch()
    other = columns_of() + 1
    wanted = bad.open().entries @ other
    found = passes(tmp_path, bad).multiply(other)
    assert np.abs((found - wanted) / [1, 1, 1e200]).max() < 1e-12
    assert left(tmp_path) == ["pass-of-mine"]


@pytest.mark.parametrize("kind", ["columns", "product-3"])
def test_a_full_disk_stops_the_pass_which_goes_on(tmp_path, monkeypatch, kind):
    wanted = passes(tmp_path).multiply(columns_of())
    origin, allocate = Origin(folder=tmp_path), disk.allocate

    def full(fd, size):
        if kind in str(Path(f"/proc/self/fd/{fd}").readlink()):
            raise OSError(errno.ENOSPC, "No space left on device")
        allocate(fd, size)

    with ThreadPoolExecutor(2) as executor:
        for each in (None, executor):
            pool = passes(tmp_path, origin, executor=each)
            with monkeypatch.context() as patch:
                patch.setattr(disk, "allocate", full)
                with pytest.raises(StoppedError, match="run the same again to go on"):
                    pool.multiply(columns_of())
            assert not any("partial" in name for name in left(tmp_path))
            np.testing.assert_array_equal(pool.multiply(columns_of()), wanted)


def test_a_worker_with_other_data_is_refused(tmp_path):
    origin = Origin()
    work = tmp_path / "work"
    work.mkdir()
    other = Other()
    pool = Passes(origin.open(), "a", other, work, parts=3, executor=ThreadPoolExecutor)
    with pytest.raises(
        ValueError, match=r"Other.* is not the same for a worker.*: row 3; all have"
    ):
        pool.multiply(columns_of())


def test_two_drivers_do_not_share_a_folder(tmp_path):
    from ntk_numba.gramfile.lease import Lease

    pool = passes(tmp_path)
    with Lease(tmp_path / "work" / "pass"), pytest.raises(BlockingIOError, match="another folder"):
        pool.multiply(columns_of())


@pytest.mark.cluster
@pytest.mark.parametrize("count", [1, 3])
def test_a_standard_pool(tmp_path, count):
    wanted = passes(tmp_path).multiply(columns_of())
    with ProcessPoolExecutor(2, get_context("spawn")) as executor:
        found = passes(tmp_path, parts=count, executor=executor).multiply(columns_of())
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("symmetric", marked(pytest.mark.slow, [True, False]))
def test_workers_add_large_products(tmp_path, monkeypatch, symmetric):
    origin = Origin(symmetric)
    columns = columns_of(origin.open().entries.shape[1])
    wanted = passes(tmp_path, origin).multiply(columns)
    monkeypatch.setattr(distributed, "ALONE", 0)
    for block in (96, 1 << 13):
        monkeypatch.setattr(pass_module, "BLOCK", block)
        for parts in (1, 7):
            with ThreadPoolExecutor(2) as executor:
                pool = passes(tmp_path, origin, parts=parts, executor=executor)
                np.testing.assert_array_equal(pool.multiply(columns), wanted)
    assert left(tmp_path) == []
