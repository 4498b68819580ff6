"""Checkpoints: what is saved is there, what is damaged is noticed, and nothing else is touched."""

import errno
import os

import numpy as np
import pytest

from ntk_numba.errors import StoppedError
from ntk_numba.gramfile import disk
from ntk_numba.solvers.checkpoint import PAGE, SLOT, Checkpoint

PROBLEM = {"matrix": "k", "method": "m"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "c"


def arrays(number):
    return {"x": np.full((3, 2), float(number)), "none": np.empty((0, 2))}


def begin(path):
    """Write a checkpoint with three states and two parts."""
    with Checkpoint(path, PROBLEM, area=2 * PAGE) as file:
        assert file.state is None and file.parts == 0
        for number in (1, 2, 3):
            if number < 3:
                assert file.append(np.arange(5.0) * number) == number - 1
            file.save({"number": number}, arrays(number))


def test_states_and_parts(path):
    begin(path)
    with Checkpoint(path, PROBLEM) as file:
        assert file.state == {"number": 3} and file.parts == 2
        assert np.array_equal(file.arrays["x"], arrays(3)["x"])
        assert file.arrays["none"].shape == (0, 2)
        assert np.array_equal(file.part(1), np.arange(5.0) * 2)
        file.append(np.ones(2))  # never saved
    with Checkpoint(path, PROBLEM) as file:
        assert file.parts == 2 and file.append(np.zeros(3)) == 2
        file.save({"number": 4})
    with Checkpoint(path, PROBLEM) as file:
        assert file.state == {"number": 4} and file.parts == 3
        assert not file.part(2).any() and file.arrays == {}


def test_only_one_at_a_time(path):
    with (
        Checkpoint(path, PROBLEM),
        pytest.raises(BlockingIOError, match="is being written by process"),
    ):
        Checkpoint(path, PROBLEM)
    assert [file.name for file in path.parent.iterdir()] == ["c"]


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_damaged_state_leaves_the_one_before(path):
    begin(path)
    flip(path, PAGE + SLOT + 40)  # states 1 and 3 are in the second slot
    with Checkpoint(path, PROBLEM) as file:
        assert file.state == {"number": 2} and file.arrays["x"][0, 0] == 2
        file.save({"number": 3}, arrays(3))
    flip(path, PAGE + 2 * SLOT + 2 * PAGE)  # the arrays of that slot
    with Checkpoint(path, PROBLEM) as file:
        assert file.state == {"number": 2}


def test_damage_of_both_states_is_refused(path):
    begin(path)
    flip(path, PAGE + 2 * SLOT + 4 * PAGE + PAGE)  # of the first part
    with pytest.raises(OSError, match=r"is damaged .both of its states.; delete it, or overwrite"):
        Checkpoint(path, PROBLEM)
    with Checkpoint(path, PROBLEM, overwrite=True) as file:
        assert file.state is None
    flip(path, 40)
    with pytest.raises(OSError, match=r"is damaged .its header."):
        Checkpoint(path, PROBLEM)


def test_a_block_that_changes_meanwhile(path):
    begin(path)
    with Checkpoint(path, PROBLEM) as file:
        flip(path, PAGE + 2 * SLOT + 4 * PAGE + PAGE)
        with pytest.raises(OSError, match="a block has changed since it was written"):
            file.part(0)


def test_a_full_disk_keeps_the_state_before(path, monkeypatch):
    begin(path)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Checkpoint(path, PROBLEM) as file, monkeypatch.context() as patch:
        patch.setattr(disk, "write_at", full)
        with pytest.raises(StoppedError, match="No space left on device; the passes before it"):
            file.append(np.ones(3))
        with pytest.raises(StoppedError, match="the same call continues"):
            file.save({"number": 4}, arrays(4))
    with Checkpoint(path, PROBLEM) as file:
        assert file.state == {"number": 3}


def test_a_file_that_is_removed_or_is_a_link(path):
    begin(path)
    with Checkpoint(path, PROBLEM) as file:
        path.unlink()
        with pytest.raises(StoppedError, match="was moved or removed"):
            file.save({"number": 4})
    folder = path.parent / "folder"
    folder.mkdir()
    with pytest.raises(IsADirectoryError):
        Checkpoint(folder, PROBLEM)
    with pytest.raises(FileNotFoundError, match="does not exist; create it first"):
        Checkpoint(path.parent / "none" / "c", PROBLEM)
    os.mkfifo(path)
    with pytest.raises(ValueError, match="is a device or a pipe"):
        Checkpoint(path, PROBLEM)
