"""The package on systems other than Linux, which are simulated in processes of their own."""

import errno
import json
import subprocess
import sys

import pytest
from other_systems import F_FULLFSYNC
from programs import ENVIRONMENT, TESTS

from ntk_numba import opening
from ntk_numba.gramfile import disk

MACOS = "macos", "macos without F_FULLFSYNC"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Return, by system, the files that a job has left, and how often it made each kind of call."""
    found = {}
    for system in ("linux", *MACOS):
        folder = tmp_path_factory.mktemp("job")
        command = [sys.executable, TESTS / "other_systems.py", system, folder]
        run = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        found[system] = files, json.loads(run.stdout)
    return found


def test_the_files_are_the_same_on_macos(done):
    files, counts = done["linux"]
    assert len(files) == 8 and counts == {"stopped": 1}
    for system in MACOS:
        assert done[system][0].keys() == files.keys()
        assert [name for name in files if files[name] != done[system][0][name]] == []


def test_the_calls_of_macos_are_those_that_are_made(done):
    counts = done["macos"][1]
    assert counts["F_FULLFSYNC"] > 10 and "fsync" not in counts
    assert counts["F_NOCACHE"] > 0
    # a repair writes to a file that was opened for reading
    assert counts["F_GETPATH"] == counts["refused for writing"] == 1


def test_a_disk_without_a_full_sync_is_synced_as_it_can_be(done):
    counts = done["macos without F_FULLFSYNC"][1]
    assert counts["fsync"] == counts["F_FULLFSYNC"] == done["macos"][1]["F_FULLFSYNC"]


def test_an_error_of_a_full_sync_is_raised_and_no_second_sync_hides_it(monkeypatch, tmp_path):
    def control(fd, command):
        assert command == F_FULLFSYNC
        raise OSError(errno.EIO, "bad disk")

    monkeypatch.setattr(disk.fcntl, "F_FULLFSYNC", F_FULLFSYNC, raising=False)
    monkeypatch.setattr(disk.fcntl, "fcntl", control)
    monkeypatch.setattr(disk.os, "fsync", lambda fd: pytest.fail("synced again"))
    with pytest.raises(OSError, match="bad disk"):
        disk.sync(0)


@pytest.mark.parametrize("name", ["same", "other", None])
def test_a_file_is_opened_for_writing_only_by_its_own_name(name, monkeypatch, tmp_path):
    """On macOS a descriptor for reading has to be exchanged for one for writing by a name."""
    for file in ("same", "other"):
        (tmp_path / file).write_bytes(b"x")
    opened = disk.os.open
    fd = opened(tmp_path / "same", disk.os.O_RDONLY)

    def refuse(path, *arguments):
        if str(path).startswith("/dev/fd/"):
            raise PermissionError(errno.EACCES, "no")
        return opened(path, *arguments)

    monkeypatch.setattr(disk.os, "open", refuse)
    with pytest.raises(PermissionError):  # as on Linux, of a file that may not be written
        disk.reopen(fd, disk.os.O_RDWR)
    place = bytes(tmp_path / str(name)) + bytes(100)
    monkeypatch.setattr(disk.fcntl, "F_GETPATH", 50, raising=False)
    monkeypatch.setattr(disk.fcntl, "fcntl", lambda *_: place)
    if name == "same":
        again = disk.reopen(fd, disk.os.O_RDWR)
        disk.write_at(again, b"y", 0)
        disk.os.close(again)
        assert (tmp_path / "same").read_bytes() == b"y"
    else:
        with pytest.raises(OSError, match="No such file" if name is None else "Stale"):
            disk.reopen(fd, disk.os.O_RDWR)
    disk.os.close(fd)


def test_no_call_transfers_more_than_macos_takes(monkeypatch, tmp_path):
    most, content = 1000, bytes(range(250)) * 17

    def limited(call, size):
        def transfer(fd, data, at):
            if size(data) > most:
                raise OSError(errno.EINVAL, "Invalid argument")
            return call(fd, data, at)

        return transfer

    assert opening.AT_ONCE < 2**31
    for module in (opening, disk):
        monkeypatch.setattr(module, "AT_ONCE", most)
    monkeypatch.setattr(disk.os, "pwrite", limited(disk.os.pwrite, len))
    monkeypatch.setattr(disk.os, "pread", limited(disk.os.pread, int))
    monkeypatch.delattr(disk.os, "preadv")
    back = bytearray(len(content))
    with (tmp_path / "f").open("w+b") as file:
        disk.write_at(file.fileno(), content, 3)
        disk.read_at(file.fileno(), back, 3)
    assert back == content
