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
    assert counts["fsync"] == counts["F_FULLFSYNC"] > 10


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


# What Python lacks on Windows, in a file that each process reads first. Modules of Python that are
# other ones there are imported before, and os.name stays, since paths depend on it.
LIKE_WINDOWS = """
import importlib.metadata, multiprocessing, os, pathlib, signal, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "resource", "pwd", "grp", "termios", "posix_ipc"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules.pop(name, None)
for name in ("SIGUSR1", "SIGUSR2", "SIGKILL", "SIGHUP"):
    delattr(signal, name)
for name in ("geteuid", "fchown", "pread", "preadv", "pwrite", "O_NOFOLLOW", "O_NONBLOCK",
             "O_DIRECTORY", "sched_getaffinity", "fork", "register_at_fork", "posix_fallocate"):
    delattr(os, name)
sys.platform = "win32"
"""
# As pip and others write them
SCRIPT = "import sys\nfrom ntk_numba.cli import main\nsys.exit(main())\n"
SENTENCE = (
    "ntk_numba runs on Linux and macOS, not on win32; on Windows install and run it in the Windows "
    "Subsystem for Linux (WSL)"
)


@pytest.fixture
def on_windows(tmp_path):
    """Return a function that runs Python as on Windows."""
    (tmp_path / "sitecustomize.py").write_text(LIKE_WINDOWS)
    paths = f"{tmp_path}:{ENVIRONMENT['PYTHONPATH']}"

    def run(*words):
        return subprocess.run(
            [sys.executable, *words], env=ENVIRONMENT | {"PYTHONPATH": paths},
            capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip

    return run


@pytest.mark.parametrize(
    "code",
    [
        "import ntk_numba",
        "from ntk_numba import MLP",
        "from ntk_numba.network import MLP",
        "import ntk_numba.sklearn",
        "from ntk_numba.cli import main",
    ],
)
def test_windows_is_refused_in_one_sentence(code, on_windows):
    answer = on_windows("-c", "import sys; assert sys.platform == 'win32'\n" + code)
    assert answer.returncode == 1
    assert answer.stderr.splitlines()[-1] == f"ntk_numba.errors.ProcessError: {SENTENCE}"
    assert answer.stderr.count("Traceback") == 1
    caught = f"try:\n    {code}\nexcept RuntimeError as error:\n    print(error)"
    answer = on_windows("-c", caught)
    assert (answer.stdout, answer.stderr) == (f"{SENTENCE}\n", "")


@pytest.mark.parametrize("name", ["-m", "ntk-numba", "ntk-numba.exe", "ntk-numba-script.py"])
def test_commands_on_windows_have_no_traceback(name, on_windows, tmp_path):
    words = ["-m", "ntk_numba", "--help"]
    if name != "-m":
        words = [str(tmp_path / name), "gram", "x.npy"]
        (tmp_path / name).write_text(SCRIPT)
    answer = on_windows(*words)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr == f"ntk-numba: {SENTENCE}\n"
