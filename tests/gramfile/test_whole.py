"""A file that is written as a whole is there completely or not at all."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from marks import marked
from programs import ENVIRONMENT

from ntk_numba.errors import BusyFileError
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.whole import check_output, written_whole

OLD, DATA = b"what was there before", b"x" * 100_000


def write(path, data=DATA, **options):
    with written_whole(path, len(data), **options) as fd:
        disk.write_at(fd, data, 0)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out.bin"


def names(target):
    return sorted(path.name for path in target.parent.iterdir())


def test_written_and_replaced(target):
    write(target)
    assert target.read_bytes() == DATA and names(target) == ["out.bin"]
    target.chmod(0o600)
    with pytest.raises(FileExistsError, match="exists already; choose another output, delete it"):
        write(target, b"other")
    write(target, b"other", overwrite=True)
    assert target.read_bytes() == b"other" and target.stat().st_mode & 0o777 == 0o600
    assert names(target) == ["out.bin"]


def test_a_missing_folder_and_an_unfinished_gram_file(target):
    with pytest.raises(FileNotFoundError, match="create it first"):
        check_output(target.parent / "none" / "out.bin")
    with pytest.raises(OSError, match="is a folder"):
        check_output(target.parent)
    begun = target.with_name("out.bin.partial")
    begun.write_bytes(OLD)
    with pytest.raises(FileExistsError, match="is an unfinished file"):
        write(target)
    write(target, overwrite=True)
    assert names(target) == ["out.bin"]


def test_an_error_inside_leaves_nothing(target):
    target.write_bytes(OLD)
    with pytest.raises(ZeroDivisionError), written_whole(target, 10, overwrite=True):
        raise ZeroDivisionError
    assert target.read_bytes() == OLD and names(target) == ["out.bin"]


@pytest.mark.parametrize("name", ["create", "allocate", "write_at", "sync", "rename"])
def test_a_disk_that_fails_leaves_the_old_file(target, monkeypatch, name):
    target.write_bytes(OLD)
    original = getattr(disk, name)

    def fail(*arguments):
        path = arguments[0] if isinstance(arguments[0], os.PathLike) else None
        if path is not None and "lock" in path.name:  # that of the lease
            return original(*arguments)
        if name == "write_at" and arguments[1] != DATA:
            return original(*arguments)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(disk, name, fail)
    with pytest.raises(OSError, match="No space left on device"):
        write(target, overwrite=True)
    assert target.read_bytes() == OLD and names(target) == ["out.bin"]


def test_two_at_once(target):
    with written_whole(target), pytest.raises(BusyFileError, match="is being written by process"):
        write(target)
    assert names(target) == ["out.bin"]


KILLED = """
import os, signal, sys
from pathlib import Path
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.whole import written_whole
count = int(sys.argv[2])
for name in ("create", "allocate", "write_at", "sync", "rename"):
    def last(*arguments, original=getattr(disk, name)):
        global count
        count -= 1
        if count == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)
    setattr(disk, name, last)
with written_whole(Path(sys.argv[1]), 100_000, overwrite=True) as fd:
    disk.write_at(fd, b"x" * 100_000, 0)
"""


@pytest.mark.parametrize("number", marked(pytest.mark.system, [5, *range(1, 5), 6, 7]))
def test_a_kill_leaves_the_old_file_or_the_new_one(target, number):
    target.write_bytes(OLD)
    command = [sys.executable, "-c", KILLED, str(target), str(number)]
    code = subprocess.run(command, env=ENVIRONMENT).returncode
    assert code == -signal.SIGKILL
    assert target.read_bytes() == OLD
    write(target, overwrite=True)
    assert target.read_bytes() == DATA and names(target) == ["out.bin"]
