"""Of processes that start together, one compiles each function."""

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections import Counter

import numba
import pytest
from programs import ENVIRONMENT, PATIENCE

from ntk_numba import stopping
from ntk_numba.compiled import cache as package_cache
from ntk_numba.compiled import once, trust
from ntk_numba.compiled.loops import compile_by_address
from ntk_numba.compiled.policy import kernel

FUNCTIONS = """
from ntk_numba.compiled.policy import kernel
@kernel()
def f(x):
    return x + 1
@kernel()
def g(x):
    return 2 * x
@kernel()
def both(x):
    return f(x) + g(x)
@kernel()
def both_reversed(x):
    return g(x) + f(x)
"""
# It says each event in a line: that it waits, and which functions it finds and saves. It waits for
# an answer before it saves the functions that `pausing` names.
PROGRAM = """
import sys
from ntk_numba.compiled import once, trust
from ntk_numba.compiled.cache import PackageCache
import module
calls, pausing, once.LONGEST = sys.argv[1].split(), sys.argv[2].split(), float(sys.argv[3])
load, save = PackageCache.load_overload, PackageCache.save_overload

def loaded(cache, *arguments):
    found = load(cache, *arguments)
    if found is not None:
        print("found", cache._py_func.__name__, flush=True)
    return found

def saved(cache, *arguments):
    print("saves", name := cache._py_func.__name__, flush=True)
    if name in pausing:
        input()
    save(cache, *arguments)

PackageCache.load_overload, PackageCache.save_overload = loaded, saved
say = once._say_that_it_waits
once._say_that_it_waits = lambda: say.cache_info().currsize or (print("waits", flush=True), say())
for call in calls:
    getattr(module, call)(3)
"""
FOREVER = 1e6  # seconds: a test in which a process waits for so long fails


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a program which calls functions, with one cold cache for all.

    calls : the functions
    pausing : those that it saves when it is told to
    longest : seconds that it waits for others in vain
    """
    (tmp_path / "module.py").write_text(FUNCTIONS)
    environment = ENVIRONMENT | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    with contextlib.ExitStack() as stack:

        def start(calls, pausing="", longest=FOREVER):
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", PROGRAM, calls, pausing, str(longest)],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path,
                    env=environment,
                )
            )  # fmt: skip
            stack.callback(process.kill)
            return process

        yield start


def said(process):
    """Return the next event of a program."""
    return process.stdout.readline().strip()


def rest(process, answer=""):
    """Return the other events, after an answer that lets it go on."""
    out, _ = process.communicate(answer, timeout=PATIENCE)
    assert process.returncode == 0
    return out.splitlines()


def test_processes_that_start_together_compile_once(start, tmp_path):
    first = start("f", pausing="f")
    assert said(first) == "saves f"
    others = [start("f") for _ in range(3)]
    assert [said(other) for other in others] == ["waits"] * 3
    assert rest(first, "go\n") == []
    assert [rest(other) for other in others] == [["found f"]] * 3
    (kept,) = files(tmp_path / "cache")
    assert kept.suffix == ".nbc"


@pytest.mark.system
def test_a_process_that_is_killed_holds_up_no_other(start, tmp_path):
    first = start("f", pausing="f")
    assert said(first) == "saves f"
    others = [start("f") for _ in range(2)]
    assert [said(other) for other in others] == ["waits"] * 2
    first.kill()
    assert sorted(rest(other) for other in others) == [["found f"], ["saves f"]]
    assert len(files(tmp_path / "cache")) == 1


@pytest.mark.system
def test_a_process_that_is_stopped_is_waited_for_within_limits(start, tmp_path):
    first = start("f g", pausing="f")
    assert said(first) == "saves f"
    first.send_signal(signal.SIGSTOP)
    assert rest(start("f g", longest=0.1)) == ["waits", "saves f", "saves g"]
    first.send_signal(signal.SIGCONT)
    assert rest(first, "go\n") == ["found g"]
    assert len(files(tmp_path / "cache")) == 2


def test_processes_that_compile_in_different_orders_do_not_wait_for_each_other(start, tmp_path):
    one, two = start("f g", pausing="f"), start("g f", pausing="g")
    assert [said(one), said(two)] == ["saves f", "saves g"]
    for process in (one, two):
        process.stdin.write("go\n")
        process.stdin.flush()
    events = [rest(one), rest(two)]
    assert [event[-1] for event in events] == ["found g", "found f"]
    assert len(files(tmp_path / "cache")) == 2


def test_functions_within_others_are_not_waited_for(start, tmp_path):
    """Each process compiles a function that the other one would wait for, had it a claim."""
    one, two = start("both", pausing="f g"), start("both_reversed", pausing="f g")
    assert [said(one), said(two)] == ["saves f", "saves g"]
    assert rest(one, "go\ngo\n") == ["saves g", "saves both"]
    assert rest(two, "go\n") == ["found f", "saves both_reversed"]
    assert len(files(tmp_path / "cache")) == 4


def identity(x):
    return x


def do_nothing(x):
    pass


def wrong(x):
    return x.nothing


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the folder of the compiled code, for a process that has not waited yet."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(once, "_in_vain", 0.0)
    return tmp_path / "cache"


@pytest.fixture
def lock(folder, monkeypatch):
    """Return the file that a process locks before it compiles `identity` for integers."""
    seen = []

    def claim(path, find):
        seen.append(path)

    with monkeypatch.context() as patch:
        patch.setattr(once, "claim", claim)
        assert kernel()(identity)(3) == 3
    for kept in files(folder):
        kept.unlink()
    (path,) = seen
    return path


@contextlib.contextmanager
def locked(path):
    """Lock a file, as another process does: locks belong to an open file, not to a process."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def is_locked(path):
    """Return whether a file is locked."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def compiled():
    """Compile `identity`, and return whether its code was found on disk."""
    function = kernel()(identity)
    assert function(3) == 3
    return sum(function.stats.cache_hits.values()) == 1


def test_a_claim_lasts_as_long_as_the_compilation(lock, folder, monkeypatch):
    save, during = package_cache._Entries.save, []

    def saved(*arguments):
        during.append((is_locked(lock), lock.stat().st_mode & 0o777))
        save(*arguments)

    monkeypatch.setattr(package_cache._Entries, "save", saved)
    assert not compiled() and during == [(True, 0o644)] and len(files(folder)) == 1
    assert compiled() and len(during) == 1 and len(files(folder)) == 1


def test_loops_that_are_called_by_their_address_are_claimed(folder, monkeypatch):
    paths, claim = [], once.claim
    monkeypatch.setattr(once, "claim", lambda *a: (paths.append(a[0]), claim(*a))[1])
    compile_by_address(do_nothing, ((numba.types.intp,), numba.types.void))
    assert len(paths) == 1 and not paths[0].exists() and len(files(folder)) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, numba.TypingError])
def test_a_compilation_that_fails_gives_up_its_claim(error, folder, monkeypatch):
    paths, claim = [], once.claim
    monkeypatch.setattr(once, "claim", lambda *a: (paths.append(a[0]), claim(*a))[1])
    function = kernel()(wrong)
    if error is KeyboardInterrupt:

        def interrupt(*_):
            assert is_locked(paths[0])
            raise KeyboardInterrupt

        monkeypatch.setattr(function._compiler, "compile", interrupt)
    with pytest.raises(error):
        function(3)
    assert len(paths) == 1 and files(folder) == [] and once._thread.claim is None


def test_what_is_waited_for_in_vain_is_limited_for_all_functions_together(lock, monkeypatch):
    monkeypatch.setattr(once, "LONGEST", 0.05)
    looks = []
    with locked(lock):
        assert not compiled()
        assert once._in_vain >= 0.05
        lock.with_suffix("").unlink()
        monkeypatch.setattr(once, "_say_that_it_waits", lambda: looks.append(1))
        assert not compiled() and not looks
        assert lock.exists()  # it is another's


def test_waiting_that_finds_code_does_not_count(lock, monkeypatch):
    codes = iter([None, None, "code"])
    with locked(lock), once.compilation():
        assert once.claim(lock, lambda: next(codes)) == "code"
        assert once._thread.claim is None
    assert once._in_vain == 0


def test_a_process_that_compiles_does_not_wait_for_itself(lock):
    with once.compilation():
        assert once.claim(lock, lambda: None) is None
        for _ in range(2):
            assert once.claim(lock, lambda: pytest.fail("it waits")) is None
            with once.compilation():
                assert once.claim(lock, lambda: pytest.fail("it waits")) is None
            assert is_locked(lock)
    assert not lock.exists()
    assert once.claim(lock, lambda: pytest.fail("it is no compilation")) is None


def test_code_that_is_saved_before_the_claim_is_found(lock):
    """Another process may save code and end its claim between a look and a claim."""
    with once.compilation():
        assert once.claim(lock, lambda: "code") == "code"
    assert not lock.exists()


def test_a_claim_on_a_file_that_was_removed_meanwhile_does_not_count(lock, monkeypatch):
    flock, removed = fcntl.flock, []

    def late(fd, operation):
        if not removed:
            removed.append(lock.unlink())
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with once.compilation():
        assert once.claim(lock, lambda: None) is None
        assert removed and is_locked(lock)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_there_are_no_locks_code_is_compiled(number, lock, folder, monkeypatch):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    assert not compiled() and compiled()
    assert len(files(folder)) == 1


@pytest.mark.parametrize("target", ["a file", "nothing", "itself"])
def test_a_link_in_the_place_of_the_file_is_not_followed(target, lock, tmp_path):
    victim = lock if target == "itself" else tmp_path / "victim"
    if target == "a file":
        victim.write_text("precious")
    lock.symlink_to(victim)
    assert not compiled() and compiled()
    assert lock.is_symlink()
    assert target == "itself" or victim.exists() == (target == "a file")
    assert target != "a file" or victim.read_text() == "precious"


@pytest.mark.parametrize("make", ["mkdir", "mkfifo"])
def test_neither_a_folder_nor_a_pipe_in_its_place_does_harm(make, lock):
    getattr(os, make)(lock)
    assert not compiled() and compiled()


def test_nothing_is_locked_in_a_folder_that_others_may_write(lock):
    lock.parent.chmod(0o777)
    with once.compilation(), pytest.raises(trust.UntrustedError):
        once.claim(lock, lambda: None)
    assert not lock.exists()


def test_a_request_to_stop_ends_the_wait(lock, monkeypatch):
    monkeypatch.setattr(stopping, "_asked", True)
    with locked(lock), pytest.raises(stopping.StopRequested):
        compiled()


def test_a_file_that_a_killed_process_has_left_goes_with_the_code(lock, folder, monkeypatch):
    lock.touch()
    assert not compiled() and not lock.exists()
    lock.touch()
    monkeypatch.setattr(package_cache, "source_digest", lambda: "f" * 64)
    assert not compiled() and len(files(folder)) == 1


EVENTS = """
import sys, numpy as np, ntk_numba as nk
from ntk_numba.compiled.cache import PackageCache
load, save = PackageCache.load_overload, PackageCache.save_overload

def loaded(*arguments):
    found = load(*arguments)
    print("missed" if found is None else "found")
    return found

PackageCache.load_overload = loaded
PackageCache.save_overload = lambda *arguments: (print("saved"), save(*arguments))
x = np.eye(3)
print("ready", flush=True)
input()
nk.gram(nk.MLP(3, "tanh"), x)
"""


@pytest.mark.slow
def test_processes_with_the_same_job_compile_as_much_as_one(tmp_path):
    def run(count, cache):
        environment = ENVIRONMENT | {"NUMBA_CACHE_DIR": str(cache)}
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", EVENTS], env=environment, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )
            for _ in range(count)
        ]  # fmt: skip
        assert [said(process) for process in processes] == ["ready"] * count
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        return Counter(event for process in processes for event in rest(process))

    alone, together = run(1, tmp_path / "one"), run(3, tmp_path / "three")
    assert alone["saved"] == alone["missed"] > 10 and alone["found"] == 0
    assert together == alone | {"found": 2 * alone["saved"]}
    kept = [sorted(p.name for p in files(tmp_path / name)) for name in ("one", "three")]
    assert kept[0] == kept[1] and len(kept[0]) == alone["saved"]
