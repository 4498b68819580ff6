import errno
import fcntl
import json
import os
import signal
import subprocess
import sys

import pytest

from ntk_numba.files import lease
from ntk_numba.files.lease import Holder, Lease

HOLD = """
import sys, time
from pathlib import Path
from ntk_numba.files.lease import Lease
Lease(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def target(tmp_path):
    return tmp_path / "g.h5"


@pytest.fixture
def holder(target):
    """Another process that has the lease."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, target], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_is_told_who_has_it(target, holder):
    text = rf"g.h5 is being written by process {holder.pid} on \S+ since 20\d\d-\d\d-\d\d \d\d:"
    with pytest.raises(BlockingIOError, match=text):
        Lease(target)


def test_a_dead_holder_is_followed(target, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert lease.lock_of(target).exists()
    mine = Lease(target)
    assert json.loads(mine.path.read_text())[2] == os.getpid()
    mine.release()
    assert not mine.path.exists()


def test_within_a_process_too(target):
    first = Lease(target)
    with pytest.raises(BlockingIOError, match=f"process {os.getpid()} on"):
        Lease(target)
    first.release()
    Lease(target).release()


def test_another_machine_is_believed(target):
    """Whether its process lives cannot be known from here."""
    path = lease.lock_of(target)
    path.write_text(json.dumps(Holder("elsewhere", "other-boot", 7, "2026-01-01 00:00:00+00:00")))
    text = rf"by process 7 on elsewhere since 2026-01-01 .*; if that is over, delete {path}"
    with pytest.raises(BlockingIOError, match=text):
        Lease(target)
    assert path.exists()
    # the same machine under another name, as in a container, or after a restart
    for holder in (Holder.me()._replace(host="box"), Holder.me()._replace(boot="before")):
        path.write_text(json.dumps(holder))
        Lease(target).release()


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\0" * 40])
def test_a_lease_that_says_nothing_is_nobodys(target, text):
    lease.lock_of(target).write_text(text)
    Lease(target).release()


def test_the_clock_does_not_matter(target):
    path = lease.lock_of(target)
    path.write_text(json.dumps(Holder.me()._replace(since="2999-01-01 00:00:00+00:00")))
    os.utime(path, (2**33, 2**33))
    Lease(target).release()


def test_a_lease_removed_while_it_is_taken_is_taken_anew(target, monkeypatch):
    """Its holder ends between our opening of the file and our locking it."""
    path = lease.lock_of(target)
    flock, inodes = fcntl.flock, []

    def late(fd, flags):
        if not inodes:
            path.unlink()
        inodes.append(os.fstat(fd).st_ino)
        flock(fd, flags)

    monkeypatch.setattr(lease.fcntl, "flock", late)
    mine = Lease(target)
    assert len(inodes) == 2 and path.stat().st_ino == inodes[1]
    mine.release()


def test_file_systems_without_locks_are_refused(target, monkeypatch):
    def refuse(fd, flags):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lease.fcntl, "flock", refuse)
    with pytest.raises(OSError, match=r"cannot be locked \(No locks available\); this file system"):
        Lease(target)


def test_a_full_disk_leaves_no_lease(target, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(lease.disk, "write_at", full)
    with pytest.raises(OSError, match=r"g.h5.lock cannot be written: No space left"):
        Lease(target)
    assert list(target.parent.iterdir()) == []
