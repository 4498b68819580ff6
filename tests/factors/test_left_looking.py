"""The factorisation by tiles: against NumPy, and bit for bit whatever memory and threads are."""

import threading
import time

import numpy as np
import pytest

from ntk_numba.factors import left_looking
from ntk_numba.factors.left_looking import LeftLooking, PivotError, count_uses
from ntk_numba.factors.panels import factor_tile, panels_for, plan_panels
from ntk_numba.grid import Grid

T = 8
RNG = np.random.default_rng(0)


class MemoryTiles:
    """The tiles of a factor in memory."""

    def __init__(self, grid, dtype):
        self.grid, self.dtype = grid, dtype
        self.done = np.zeros((grid.down, grid.down), bool)
        self._tiles = {}

    def read(self, i, j, out):
        """Copy a tile."""
        out[:] = self._tiles[i, j]

    def write(self, i, j, tile):
        """Keep a copy of a tile."""
        self._tiles[i, j] = tile.copy()
        self.done[i, j] = True

    def commit(self):
        """Do nothing."""


def positive(size, dtype=float):
    x = np.random.default_rng(size).standard_normal((size, size + 5))
    return (x @ x.T).astype(dtype)


def load_from(array):
    def load(i, j, out):
        part = array[i * T : (i + 1) * T, j * T : (j + 1) * T]
        out[:] = 0
        out[: part.shape[0], : part.shape[1]] = part

    return load


def run(array, room, *, store=None, load=None, **options):
    grid = Grid(len(array), len(array), True, T)
    store = store or MemoryTiles(grid, array.dtype)
    panels = plan_panels(np.tril(~store.done), room)
    if panels is None:
        return None
    diagonal = np.diagonal(array).astype(float)
    LeftLooking(load or load_from(array), diagonal, store, panels, **options).run()
    return store


def gathered(store):
    size, tile = store.grid.rows, np.empty((T, T), store.dtype)
    found = np.zeros((store.grid.down * T,) * 2, store.dtype)
    for i, j in zip(*np.nonzero(np.tril(store.done)), strict=True):
        store.read(i, j, tile)
        found[i * T : (i + 1) * T, j * T : (j + 1) * T] = tile
    assert not found[size:].any() and not found[:, size:].any()
    return found[:size, :size]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("size", [1, T - 1, T, T + 1, 60, 8 * T])
def test_the_factor_whatever_memory_and_threads_are(size, dtype):
    array = positive(size, dtype)
    down, first = -(-size // T), None
    for room in (3, 4, 6, down + 2, down + 7, 2 * down + 5, 4 * down, down * down):
        for threads in (1, 4):
            if (store := run(array, room, threads=threads)) is not None:
                found = gathered(store)
                first = found if first is None else first
                assert np.array_equal(found, first)
    error = 1e-13 if dtype == "float64" else 1e-5
    assert first == pytest.approx(np.linalg.cholesky(array), abs=error * float(np.abs(array).max()))
    assert np.array_equal(first, np.tril(first))


def test_what_is_done_is_not_computed_again():
    array = positive(7 * T + 3)
    whole = run(array, 100)
    first, down = gathered(whole), whole.grid.down
    for case in range(30):
        rng = np.random.default_rng(case)
        missing = {tuple(sorted(rng.integers(0, down, 2))[::-1]) for _ in range(rng.integers(1, 9))}
        for place in missing:
            whole.done[place] = False
            del whole._tiles[place]
        written = set()
        write = whole.write
        whole.write = lambda i, j, tile, write=write, w=written: (w.add((i, j)), write(i, j, tile))
        run(array, int(rng.integers(3, 40)), store=whole, threads=2)
        del whole.write
        assert written == missing
        assert np.array_equal(gathered(whole), first)
    run(array, 100, store=whole, load=None)  # nothing is left to do


def test_each_tile_is_loaded_once():
    array, seen = positive(6 * T), []
    load = load_from(array)

    def counted(i, j, out):
        seen.append((i, j))
        load(i, j, out)

    run(array, 12, load=counted, threads=3)
    assert sorted(seen) == [(i, j) for i in range(6) for j in range(i + 1)]


def test_the_order_in_which_operands_come_changes_nothing():
    """Reading is delayed at random, so that tiles wait for other operands in each run."""
    array = positive(6 * T + 1)
    first = gathered(run(array, 100))

    class Slow(MemoryTiles):
        def read(self, i, j, out):
            time.sleep(random.random() * 1e-3)
            super().read(i, j, out)

    for seed in range(8):
        random = np.random.default_rng(seed)
        store = Slow(Grid(len(array), len(array), True, T), array.dtype)
        assert np.array_equal(gathered(run(array, 4 + 3 * seed, store=store, threads=3)), first)


@pytest.mark.parametrize("room", [3, 9, 30])
@pytest.mark.parametrize("row", [0, 3, T, 5 * T + 2, 7 * T + 3])
def test_the_row_of_a_pivot_that_is_not_positive(row, room):
    array = positive(7 * T + 4)
    top = array[:row, :row]
    # the Schur complement of this row is −1
    array[row, row] = array[row, :row] @ np.linalg.solve(top, array[:row, row]) - 1 if row else -1
    grid = Grid(len(array), len(array), True, T)
    store = MemoryTiles(grid, array.dtype)
    with pytest.raises(PivotError) as caught:
        run(array, room, store=store, threads=2)
    assert caught.value.row == row
    tile = row // T
    wanted = np.linalg.cholesky(array[: tile * T, : tile * T])
    for i in range(tile):
        for j in range(i + 1):
            assert store.done[i, j]
    assert gathered(store)[: tile * T, : tile * T] == pytest.approx(wanted, abs=1e-10)


def test_errors_of_all_threads_end_the_job():
    array = positive(6 * T)

    class Broken(MemoryTiles):
        broken = ""

        def read(self, i, j, out):
            if self.broken == "read" and j == 2:
                raise OSError("bad disk")
            super().read(i, j, out)

        def write(self, i, j, tile):
            if self.broken == "write" and j == 2:
                raise OSError("bad disk")
            super().write(i, j, tile)

        def commit(self):
            if self.broken == "commit":
                raise OSError("bad disk")

    load = load_from(array)

    def bad_load(i, j, out):
        if j == 3:
            raise OSError("bad disk")
        load(i, j, out)

    before = threading.active_count()
    for broken in ("read", "write", "commit", "load"):
        store = Broken(Grid(len(array), len(array), True, T), array.dtype)
        store.broken = broken
        with pytest.raises(OSError, match="bad disk"):
            run(array, 10, store=store, load=bad_load if broken == "load" else load, threads=2)
    assert threading.active_count() == before


def test_a_check_ends_the_job(monkeypatch):
    monkeypatch.setattr(left_looking, "LOOK", 0.001)
    array = positive(6 * T)
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 3:
            raise BlockingIOError("taken over")

    slow = load_from(array)

    def load(i, j, out):
        time.sleep(2e-3)
        slow(i, j, out)

    with pytest.raises(BlockingIOError):
        run(array, 10, load=load, check=check)


def test_panels_fit_and_cover_all_tiles():
    for down in (1, 2, 5, 13):
        for room in (1, 2, 3, 4, 5, 7, 10, 20, 40, 200):
            missing = np.tril(np.ones((down, down), bool))
            panels = plan_panels(missing, room)
            if panels is None:
                assert room < min(3, down * (down + 1) / 2)
                continue
            assert panels.buffers <= room
            tiles = np.concatenate(panels.parts)
            assert tiles.tolist() == [[i, j] for j in range(down) for i in range(j, down)]
            for part in panels.parts[1:]:
                assert len(part) + len(np.unique(part[:, 1])) < panels.buffers + 1
    whole = plan_panels(np.tril(np.ones((20, 20), bool)), 1000)
    assert len(whole.parts) == 1 and whole.buffers == 210


def test_tiles_that_are_done_are_left_out():
    missing = np.zeros((10, 10), bool)
    missing[[4, 7, 9], [2, 7, 0]] = True
    panels = plan_panels(missing, 40)
    assert [part.tolist() for part in panels.parts] == [[[9, 0], [4, 2], [7, 7]]]


def test_a_tenth_of_the_matrix_in_memory_reads_less_than_three_triangles():
    for size in (10_000, 16_000, 60_000):
        down, edge = -(-size // factor_tile(size)), factor_tile(size)
        panels = plan_panels(np.tril(np.ones((down, down), bool)), size * size // 10 // edge**2)
        read = 0
        for part in panels.parts:
            own = np.zeros((down, down), bool)
            own[part[:, 0], part[:, 1]] = True
            read += np.count_nonzero((count_uses(own) > 0) & ~own)
        assert read < 2.6 * down * (down + 1) / 2


def test_too_little_memory():
    grid = Grid(1000, 1000, True, 64)
    done = np.zeros((16, 16), bool)
    with pytest.raises(ValueError, match=r"1,000 samples needs at least 128 KiB .*memory is 9\.77"):
        panels_for(grid, np.dtype(float), done, 10_000, "memory")
    panels_for(grid, np.dtype(float), done, 128 << 10, "memory")
    with pytest.raises(ValueError, match="needs at least 128 KiB"):
        panels_for(grid, np.dtype(float), done, (128 << 10) - 1, "memory")


def test_the_edge_of_a_tile_is_a_multiple_of_those_of_gram_files():
    from ntk_numba.grid import tile_size

    for size in (1, 100, 511, 512, 1023, 2048, 4095, 4096, 14_999, 15_000, 10**6):
        edge = factor_tile(size)
        assert edge % tile_size(size, size, 1, 4, 1) == 0
        assert edge & (edge - 1) == 0
