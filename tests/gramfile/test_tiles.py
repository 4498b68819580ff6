import contextlib
import itertools
import threading

import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba.gramfile import disk

NET = nk.MLP(3, "relu", b_std=0.1)


@pytest.fixture
def tiles(tmp_path, points):
    with nk.write_gram(NET, points, tmp_path / "g.h5", kernels=("nngp", "ntk")) as f:
        file = f.tiles(write=True)
    yield file
    file.close()


def test_tiles_are_read_as_they_are(tiles, points):
    k = nk.gram(NET, points)
    places = [("ntk", 0, 1, 0), ("nngp", 0, 2, 2)]
    (block, mirror), (corner, none) = tiles.scan(
        places, lambda t: (t.block.copy(), None if t.mirror is None else t.mirror.copy())
    )
    assert (block == k.ntk[64:128, :64]).all() and (mirror == block).all()
    assert (corner[:22, :22] == k.nngp[128:, 128:]).all() and none is None
    assert (corner[22:] == 0).all() and (corner[:, 22:] == 0).all()


def test_a_tile_is_done_after_the_commit_that_follows_it(tiles):
    place = ("ntk", 0, 1, 0)
    tiles.clear_checksum(place)
    done = tiles.done()
    assert not done[1, 0] and done.sum() == 5
    block = np.ones((64, 64))
    tiles.write(*place, block, block)
    assert not tiles.done()[1, 0]
    tiles.commit()
    assert tiles.done()[1, 0]
    assert list(tiles.scan([place], lambda tile: tile.wrong)) == [{}]


def test_a_tile_written_during_a_commit_waits_for_the_next(tiles, monkeypatch):
    """Its bytes may not have been durable when the checksums of that commit were written."""
    for i in (1, 2):
        tiles.clear_checksum(("ntk", 0, i, 0))
    block = np.ones((64, 64))
    tiles.write("ntk", 0, 1, 0, block, block)
    sync = disk.sync

    def late(fd):
        sync(fd)
        tiles.write("ntk", 0, 2, 0, block, block)

    monkeypatch.setattr(disk, "sync", late)
    tiles.commit()
    assert tiles.done()[1, 0] and not tiles.done()[2, 0]
    monkeypatch.setattr(disk, "sync", sync)
    tiles.commit()
    assert tiles.done()[2, 0]


def test_a_sync_that_failed_is_not_tried_again(tiles, monkeypatch):
    """No tile is done afterwards: a second sync might succeed although data was lost."""
    for i in (1, 2):
        tiles.clear_checksum(("ntk", 0, i, 0))
    block, sync = np.ones((64, 64)), disk.sync

    def fail(fd):
        raise OSError(5, "Input/output error")

    tiles.write("ntk", 0, 1, 0, block, block)
    monkeypatch.setattr(disk, "sync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        tiles.commit()
    monkeypatch.setattr(disk, "sync", sync)
    tiles.write("ntk", 0, 2, 0, block, block)
    with pytest.raises(OSError, match="Input/output error"):
        tiles.commit()
    assert not tiles.done()[1:, 0].any()


def test_a_failed_sync_is_seen_by_all_commits(tiles, monkeypatch):
    """Linux tells one of several syncs at the same time that data was lost."""
    for i in (1, 2):
        tiles.clear_checksum(("ntk", 0, i, 0))
    block = np.ones((64, 64))
    calls, other = itertools.count(), threading.Event()

    def lose(fd):
        if next(calls) == 0:
            tiles.write("ntk", 0, 2, 0, block, block)
            second.start()
            other.wait(0.3)
            raise OSError(5, "Input/output error")
        other.set()

    def commit():
        with contextlib.suppress(OSError):
            tiles.commit()

    second = threading.Thread(target=commit)
    monkeypatch.setattr(disk, "sync", lose)
    tiles.write("ntk", 0, 1, 0, block, block)
    with pytest.raises(OSError, match="Input/output error"):
        tiles.commit()
    second.join()
    assert not tiles.done()[1:, 0].any()


def test_each_of_a_tile_and_its_mirror_is_named(tiles, tmp_path):
    where = tiles.tile_map
    good = (tmp_path / "g.h5").read_bytes()

    def wrong_after(*changed):
        data = bytearray(good)
        for i, j in changed:
            data[where.tile_at("ntk", 0, i, j) + 8 * (64 * 3 + 5)] ^= 1
        (tmp_path / "g.h5").write_bytes(data)
        (wrong,) = tiles.scan([("ntk", 0, 1, 0)], lambda tile: tile.wrong)
        return wrong

    checksum = "does not match its checksum"
    assert wrong_after() == {}
    assert wrong_after((1, 0)) == {(1, 0): checksum}
    assert wrong_after((0, 1)) == {(0, 1): "is not the mirror of (1, 0)"}
    assert wrong_after((1, 0), (0, 1)) == {(1, 0): checksum, (0, 1): checksum}


def test_a_tile_that_cannot_be_read_is_wrong(tiles, tmp_path):
    with (tmp_path / "g.h5").open("r+b") as file:
        file.truncate(tiles.tile_map.tile_at("ntk", 0, 2, 2) + 100)
    (wrong,) = tiles.scan([("ntk", 0, 2, 2)], lambda tile: tile.wrong)
    assert wrong == {(2, 2): "cannot be read: the file is too short"}


def test_many_tiles_come_in_their_order(tiles, monkeypatch):
    monkeypatch.setattr("ntk_numba.gramfile.tiles.BATCH", 2)
    places = [("ntk", 0, i, j) for i in range(3) for j in range(i + 1)]
    assert list(tiles.scan(places, lambda tile: tile.place)) == places
