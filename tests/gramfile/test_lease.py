import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from ntk_numba import stopping
from ntk_numba.errors import TakenOverError, file_error
from ntk_numba.gramfile import lease, place
from ntk_numba.gramfile.lease import Holder, Lease

ELSEWHERE = {"host": "elsewhere", "boot": "other-boot"}
TIMES = {"BEAT": 0.2, "WATCH": 4.0, "SETTLE": 0.3, "GLANCE": 0.02}

# A program that tries to take the lease, and answers questions about it
HOLDER = Path(__file__).parent.parent / "lease_holder.py"


@pytest.fixture
def target(tmp_path):
    return tmp_path / "g.h5"


@pytest.fixture
def start(target):
    """Start other processes that try to take the lease."""
    processes = []

    def start(**different):
        command = [sys.executable, HOLDER, target, json.dumps(different), json.dumps(TIMES)]
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def answer(process, question=""):
    if question:
        process.stdin.write(question + "\n")
        process.stdin.flush()
    return process.stdout.readline().rstrip("\n")


@pytest.fixture
def holder(start):
    """Start another process that holds the lease."""
    process = start()
    assert answer(process) == "held"
    return process


@pytest.fixture(autouse=True)
def short(monkeypatch):
    for name, seconds in TIMES.items():
        monkeypatch.setattr(lease, name, seconds)


class Clock:
    """A clock that advances whenever a lease waits, with events at given times."""

    def __init__(self):
        self.now, self.events = 0.0, []

    def after(self, seconds, event):
        self.events.append((self.now + seconds, event))

    def sleep(self, seconds):
        self.now += seconds
        for due in [e for e in self.events if e[0] <= self.now]:
            self.events.remove(due)
            due[1]()


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(lease, "_clock", lambda: clock.now)
    monkeypatch.setattr(lease, "_sleep", clock.sleep)
    return clock


@pytest.fixture
def no_locks(monkeypatch):
    """Simulate a file system without locks, here and in processes that are started."""

    def refuse(fd, flags):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(lease.fcntl, "flock", refuse)
    monkeypatch.setenv("LOCKS", "none")


def holder_in(target):
    return lease._read(lease.lock_of(target))


def names(target):
    return sorted(path.name for path in target.parent.iterdir())


def test_a_second_process_is_told_who_holds_the_lease(target, holder):
    text = rf"g.h5 is being written by process {holder.pid} on \S+ since 20\d\d-\d\d-\d\d \d\d:"
    with pytest.raises(BlockingIOError, match=text):
        Lease(target)


def test_the_lease_of_a_dead_holder_is_taken_over(target, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert lease.lock_of(target).exists()
    begin = time.monotonic()
    own = Lease(target)
    assert time.monotonic() - begin < TIMES["WATCH"]  # the lock of the system shows it at once
    assert holder_in(target).pid == os.getpid()
    own.release()
    assert not own.path.exists()


def test_a_second_lease_in_the_same_process_is_refused(target):
    first = Lease(target)
    with pytest.raises(BlockingIOError, match=f"process {os.getpid()} on"):
        Lease(target)
    first.release()
    Lease(target).release()


def test_the_same_machine_has_other_names(target):
    """A machine has another name in a container, and another boot ID after a restart."""
    path = lease.lock_of(target)
    for other in ({"host": "box"}, {"boot": "before"}):
        path.write_text(json.dumps(Holder.me()._replace(**other)))
        begin = time.monotonic()
        Lease(target).release()
        assert time.monotonic() - begin < TIMES["WATCH"]


def test_a_live_holder_on_another_machine_is_detected(target, start):
    process = start(**ELSEWHERE)
    assert answer(process) == "held"
    text = rf"g.h5 is being written by process {process.pid} on elsewhere since 20.*; wait for it"
    for _ in range(3):
        with pytest.raises(BlockingIOError, match=text):
            Lease(target)
    assert answer(process, "check") == "None"
    assert answer(process, "release") == "released"
    assert names(target) == []


def test_a_lease_of_a_vanished_machine_is_taken_over(target, clock):
    path = lease.lock_of(target)
    path.write_text(json.dumps(Holder.me()._replace(**ELSEWHERE)))
    os.utime(path, (2**33, 2**33))  # the clock of the other machine does not matter
    own = Lease(target)
    assert clock.now >= TIMES["WATCH"]
    assert holder_in(target).pid == os.getpid() and names(target) == [path.name]
    with pytest.raises(BlockingIOError, match=f"by process {os.getpid()} on"):
        Lease(target)
    own.release()
    assert names(target) == []


def test_a_lease_of_a_killed_holder_elsewhere_is_taken_over(target, start, clock):
    process = start(**ELSEWHERE)
    assert answer(process) == "held"
    process.kill()
    process.wait()
    Lease(target).release()
    assert names(target) == []


def test_a_holder_elsewhere_that_hangs_is_replaced_and_notices_it_later(target, start, clock):
    """The lock is still held, as a server may hold it for a machine that has died."""
    process = start(**ELSEWHERE)
    assert answer(process) == "held"
    process.send_signal(signal.SIGSTOP)
    own = Lease(target)
    assert holder_in(target).pid == os.getpid()
    process.send_signal(signal.SIGCONT)
    time.sleep(2 * TIMES["BEAT"])
    taken = f"TakenOverError {target} was taken over by process {os.getpid()} on"
    assert answer(process, "check").startswith(taken)
    assert answer(process, "release") == "released"
    assert holder_in(target).pid == os.getpid()
    own.check()
    own.release()
    assert names(target) == []


def test_a_lease_that_is_released_while_we_watch_is_taken(target, start, clock):
    process = start(**ELSEWHERE, since="then")
    assert answer(process) == "held"
    process.send_signal(signal.SIGSTOP)
    clock.after(TIMES["WATCH"] / 3, lease.lock_of(target).unlink)  # as the holder's release does
    own = Lease(target)
    assert not clock.events and clock.now < 2 * TIMES["WATCH"] / 3
    assert holder_in(target).pid == os.getpid()
    own.release()


def test_a_signal_ends_the_watch(target, monkeypatch):
    path = lease.lock_of(target)
    path.write_text(json.dumps(Holder.me()._replace(**ELSEWHERE)))
    monkeypatch.setattr(stopping, "_asked", True)
    for name in ("WATCH", "SETTLE"):
        with pytest.raises(stopping.StopRequested):
            Lease(target)
        assert path.exists() == (name == "WATCH")
        monkeypatch.setattr(lease, "_is_touched", lambda *_: False)
    assert names(target) == []


def test_a_watch_is_announced_on_a_terminal_and_in_a_log(target, monkeypatch, capsys, clock):
    path = lease.lock_of(target)
    for terminal in (False, True):
        path.write_text(json.dumps(Holder.me()._replace(**ELSEWHERE, pid=7)))
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        Lease(target).release()
        text = capsys.readouterr().err
        assert text.count("by process 7 on elsewhere since") == 1 == text.count("\n")


@pytest.mark.system
def test_of_many_machines_one_takes_the_lease_over(target, start, no_locks):
    path = lease.lock_of(target)
    path.write_text(json.dumps(Holder.me()._replace(**ELSEWHERE)))
    machines = [start(host=f"node{k}", boot=f"boot{k}") for k in range(6)]
    answers = [answer(machine) for machine in machines]
    assert answers.count("held") == 1
    winner = answers.index("held")
    text = rf"BusyFileError .* is being written by process {machines[winner].pid} on node{winner}"
    assert len([a for a in answers if re.match(text, a)]) == 5
    assert answer(machines[winner], "check") == "None"
    assert answer(machines[winner], "release") == "released"
    assert names(target) == []


def test_the_beats_stop_with_the_lease(target):
    before = threading.active_count()
    own = Lease(target)
    first = own.path.stat().st_mtime_ns
    time.sleep(3 * TIMES["BEAT"])
    assert own.path.stat().st_mtime_ns > first
    assert threading.active_count() == before + 1
    own.release()
    assert threading.active_count() == before


def test_the_beats_do_not_keep_a_process_alive(target):
    code = (
        "from pathlib import Path; import sys; from ntk_numba.gramfile.lease import Lease;"
        "Lease(Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, target], check=True, timeout=10)


def test_without_a_thread_for_the_beats_there_is_no_lease(target, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(OSError, match=r"g.h5.partial.lock cannot be kept: can't start new thread"):
        Lease(target)
    assert names(target) == []


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\0" * 40])
def test_an_unreadable_lock_file_belongs_to_nobody(target, text):
    lease.lock_of(target).write_text(text)
    Lease(target).release()


def test_a_lock_file_removed_while_it_is_locked_is_created_again(target, monkeypatch):
    """The holder ends after we have opened the file and before we lock it."""
    path = lease.lock_of(target)
    flock, inodes = fcntl.flock, []

    def late(fd, flags):
        if not inodes:
            path.unlink()
        inodes.append(os.fstat(fd).st_ino)
        flock(fd, flags)

    monkeypatch.setattr(lease.fcntl, "flock", late)
    own = Lease(target)
    assert len(inodes) == 2 and path.stat().st_ino == inodes[1]
    own.release()


def test_without_locks_a_process_here_is_known_by_its_number(target, start, no_locks):
    process = start()
    assert answer(process) == "held"
    process.send_signal(signal.SIGSTOP)
    begin = time.monotonic()
    with pytest.raises(BlockingIOError, match=f"by process {process.pid} on"):
        Lease(target)
    process.kill()
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)  # nobody waits for it
    own = Lease(target)
    assert time.monotonic() - begin < TIMES["WATCH"]
    assert holder_in(target).pid == os.getpid() and names(target) == ["g.h5.partial.lock"]
    with pytest.raises(BlockingIOError, match=f"by process {os.getpid()} on"):
        Lease(target)
    own.release()
    assert names(target) == []


@pytest.mark.parametrize("other", [{"started": 1.0}, {"pid": 2**22 + 1}])
def test_without_locks_a_number_is_not_believed_alone(target, other, no_locks):
    """The PID belongs to another process by now, or to none."""
    lease.lock_of(target).write_text(json.dumps(Holder.me()._replace(**other)))
    begin = time.monotonic()
    Lease(target).release()
    assert time.monotonic() - begin < TIMES["WATCH"]


@pytest.mark.parametrize("other", [ELSEWHERE, {"boot": "before"}, {"space": "pid:[1]"}])
def test_without_locks_others_are_known_by_their_beats(target, start, other, no_locks, request):
    """The holder is on another machine, of another boot, or of another PID namespace."""
    process = start(**other)
    assert answer(process) == "held"
    with pytest.raises(BlockingIOError, match=f"by process {process.pid} on"):
        Lease(target)
    process.kill()
    process.wait()
    # not earlier, since the holder's beats are in real time
    clock = request.getfixturevalue("clock")
    begin = clock.now
    Lease(target).release()
    assert clock.now - begin >= TIMES["WATCH"]


def test_without_locks_an_empty_lock_file_may_be_filled_soon(target, no_locks, clock):
    path = lease.lock_of(target)
    path.touch()
    clock.after(TIMES["WATCH"] / 3, lambda: path.write_text(json.dumps(Holder.me())))
    with pytest.raises(BlockingIOError, match=f"by process {os.getpid()} on"):
        Lease(target)
    assert not clock.events
    path.write_text("")
    Lease(target).release()
    assert names(target) == []


def test_without_locks_one_of_many_has_it(target, no_locks):
    for dead in (None, Holder.me()._replace(started=1.0)):
        if dead:
            lease.lock_of(target).write_text(json.dumps(dead))

        def take(_):
            try:
                return Lease(target)
            except BlockingIOError:
                return None

        with ThreadPoolExecutor(8) as pool:
            held = [one for one in pool.map(take, range(8)) if one]
        assert len(held) == 1
        held[0].release()
        assert names(target) == []


@pytest.mark.parametrize("moment", ["before", "after"])
def test_two_processes_that_take_over_at_the_same_moment(moment, target, monkeypatch, no_locks):
    """The other process renames its file just before our last check, or just after our rename."""
    path = lease.lock_of(target)
    path.write_text(json.dumps(Holder.me()._replace(started=1.0)))
    other = Holder.me()._replace(since="this moment")

    def take_over():
        path.with_name("other").write_text(json.dumps(other))
        path.with_name("other").replace(path)

    write, rename = Lease._write, lease.disk.rename
    if moment == "before":
        monkeypatch.setattr(Lease, "_write", lambda *a: (write(*a), take_over()))
    else:
        monkeypatch.setattr(lease.disk, "rename", lambda *a: (rename(*a), take_over()))
    with pytest.raises(BlockingIOError, match="since this moment"):
        Lease(target)
    assert holder_in(target) == other and names(target) == [path.name]


def test_a_replaced_holder_leaves_the_same_lock_file_alone(target):
    """A machine that does not share our locks has taken it over at the same moment."""
    own = Lease(target)
    own.check()
    lease.lock_of(target).write_text(json.dumps(Holder.me()._replace(**ELSEWHERE)))
    time.sleep(2 * TIMES["BEAT"])
    touched = own.path.stat().st_mtime_ns
    with pytest.raises(BlockingIOError, match=r"was taken over by process \d+ on elsewhere since"):
        own.check()
    time.sleep(2 * TIMES["BEAT"])
    assert own.path.stat().st_mtime_ns == touched
    own.release()
    assert holder_in(target).host == "elsewhere"


def test_which_errors_say_that_there_are_no_locks(target, monkeypatch):
    none = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
    for number in (*none, errno.EIO):

        def fail(fd, flags, number=number):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(lease.fcntl, "flock", fail)
        if number != errno.EIO:
            Lease(target).release()
            continue
        with pytest.raises(
            OSError, match=r"g.h5.partial.lock cannot be locked: Input/output error"
        ):
            Lease(target)


def test_a_full_disk_leaves_no_lease(target, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(lease.disk, "write_at", full)
    with pytest.raises(OSError, match=r"g.h5.partial.lock cannot be written: No space left"):
        Lease(target)
    assert list(target.parent.iterdir()) == []


def test_a_lock_file_that_was_to_replace_one_is_left_over(target, clock):
    """Its process was killed between its creation and its renaming."""
    left = place.beside(target, place.NEXT)
    for make in (left.touch, lambda: left.symlink_to("elsewhere")):
        lease.lock_of(target).write_text(json.dumps(Holder.me()._replace(**ELSEWHERE)))
        make()
        own = Lease(target)
        assert holder_in(target).pid == os.getpid() and names(target) == [own.path.name]
        own.release()
        assert names(target) == []


def test_our_lock_file_is_taken_for_left_over(target, monkeypatch, no_locks):
    """We were suspended before we renamed it; another process removes it, and makes its own.

    If we then rename that one, the other process has the lease. If it has renamed ours, we have it.
    """
    path, left = lease.lock_of(target), place.beside(target, place.NEXT)
    dead = json.dumps(Holder.me()._replace(started=1.0))
    path.write_text(dead)
    write, other = Lease._write, Holder.me()._replace(since="this moment")

    def suspended(*arguments):
        write(*arguments)
        left.unlink()
        left.write_text(json.dumps(other))

    monkeypatch.setattr(Lease, "_write", suspended)
    with pytest.raises(BlockingIOError, match="since this moment"):
        Lease(target)
    assert holder_in(target) == other and names(target) == [path.name]

    path.write_text(dead)
    monkeypatch.setattr(Lease, "_write", lambda *a: (write(*a), left.replace(path)))
    own = Lease(target)
    assert holder_in(target).pid == os.getpid() and names(target) == [path.name]
    own.release()


def test_a_lease_is_lost_with_its_lock_file(target):
    """The process that has taken the file over has completed it by now."""
    own = Lease(target)
    own.path.unlink()
    with pytest.raises(TakenOverError, match=r"g.h5.partial.lock was removed while this process"):
        own.check()
    own.release()
    own = Lease(target)
    own.path.unlink()
    own.path.touch()  # another process is about to write its name
    with pytest.raises(TakenOverError, match="removed"):
        own.check()
    own.release()
    assert names(target) == [own.path.name]


def test_an_error_of_the_disk_does_not_end_a_lease(target, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    own = Lease(target)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "lstat", fail)
        patch.setattr(lease.os, "open", fail)
        own.check()
    own.release()


def test_lock_files_are_not_followed(target):
    victim = target.with_name("victim")
    victim.write_text("precious")
    for name in (place.LOCK, place.NEXT):
        place.beside(target, name).symlink_to(victim)
    with pytest.raises(OSError, match=r"g.h5.partial.lock cannot be written: Too many levels"):
        Lease(target)
    assert victim.read_text() == "precious"


class TestHeld:
    """A file that is only read."""

    def test_a_file_that_is_being_written_is_refused(self, target, holder):
        with pytest.raises(BlockingIOError, match=rf"process {holder.pid} on .*; wait until"):
            self.use(target)
        answer(holder, "release")
        self.use(target)
        assert names(target) == []

    @staticmethod
    def use(target):
        with lease.held(target):
            pass

    @pytest.fixture(params=[errno.EROFS, errno.EACCES, errno.ENOSPC])
    def unwritable(self, request, monkeypatch):
        def refuse(path):
            raise OSError(request.param, os.strerror(request.param))

        monkeypatch.setattr(lease.disk, "create", refuse)

    def test_it_is_read_where_no_lock_file_can_be_made(self, target, unwritable):
        self.use(target)

    def test_nor_is_one_needed_to_see_a_writer(self, target, holder, unwritable, monkeypatch):
        opened = os.open

        def read_only(path, flags, *mode):
            if flags & os.O_RDWR:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            return opened(path, flags, *mode)

        monkeypatch.setattr(lease.os, "open", read_only)
        with pytest.raises(BlockingIOError, match=rf"by process {holder.pid} on .*; wait until"):
            self.use(target)
        holder.kill()
        holder.wait()
        self.use(target)

    @pytest.mark.parametrize("alive", [False, True])
    def test_nor_one_elsewhere(self, target, unwritable, monkeypatch, clock, alive):
        path = lease.lock_of(target)
        path.write_text(json.dumps(Holder.me()._replace(**ELSEWHERE)))
        path.chmod(0o444)

        def refuse(self):
            raise file_error(OSError(errno.EROFS, "no"), "the folder cannot be written")

        monkeypatch.setattr(Lease, "_take", refuse)
        if alive:
            clock.after(TIMES["WATCH"] / 3, lambda: os.utime(path, (1, 1)))
            with pytest.raises(BlockingIOError, match="on elsewhere since"):
                self.use(target)
        else:
            self.use(target)
            assert clock.now >= TIMES["WATCH"]

    def test_another_error_of_the_disk_is_raised(self, target, monkeypatch):
        def fail(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(lease.disk, "create", fail)
        with pytest.raises(OSError, match=r"g.h5.partial.lock cannot be written: Input/output"):
            self.use(target)
