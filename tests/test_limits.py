"""The command line at the limits of a real machine: signals, kills, full disks, resource limits.

Nothing is simulated. The disks are real file systems of a few megabytes, mounted in a name space of
their own, which needs no privileges.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from marks import marked

import ntk_numba as nk
from ntk_numba.gramfile.holder import Holder

GRAM = [sys.executable, "-m", "ntk_numba", "gram"]
NET = ["--depth", "900", "--b-std", "0.1", "--memory", "150MiB"]
N = 2500  # 55 tiles of 256 × 256, some seconds on two cores, in several batches


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "x.npy"
    np.save(path, np.random.default_rng(0).standard_normal((N, 20)))
    return path


@pytest.fixture(scope="module")
def right(data):
    """The bytes of an undisturbed run."""
    path = data.with_name("right.h5")
    subprocess.run([*GRAM, data, "-o", path, *NET], check=True)
    return path.read_bytes()


class Command:
    """A command that computes a job in `folder`, in a process of its own."""

    def __init__(self, folder, data, *options, prefix=(), environment=None):
        self.folder, self.output = folder, folder / "g.h5"
        command = [*prefix, *GRAM, data, "-o", self.output, *NET, *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)

    def wait_for_tiles(self, count=1):
        """Wait until `count` tiles are done."""
        partial = self.output.with_name("g.h5.partial")
        while self.process.poll() is None:
            with contextlib.suppress(OSError, ValueError):
                if nk.open_gram(partial, incomplete=True).done.sum() >= count:
                    return
            time.sleep(0.01)
        raise AssertionError(f"it ended too soon: {self.process.communicate()}")

    def end(self, code):
        """Wait until the command ends with this exit code, and return its standard error."""
        _, said = self.process.communicate(timeout=60)
        assert self.process.returncode == code, said
        assert "Traceback" not in said
        return said

    def left(self):
        return sorted(p.name for p in self.folder.iterdir())


def finish(folder, data, right, *options):
    """Run the command again, and check that it completes the file."""
    command = Command(folder, data, *options)
    assert command.end(0) == ""
    assert command.output.read_bytes() == right
    assert command.left() == ["g.h5"]


@pytest.mark.parametrize(
    "number", marked(pytest.mark.system, [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
)
def test_a_signal_stops_soon_and_the_same_command_resumes(tmp_path, data, right, number):
    command = Command(tmp_path, data)
    command.wait_for_tiles()
    start = time.monotonic()
    command.process.send_signal(number)
    said = command.end(3)
    assert time.monotonic() - start < 10
    text = r"ntk-numba: stopped; (\d+) of 55 tiles are done, in \S+g.h5.partial; run the same again"
    assert int(re.match(text, said)[1]) >= 1
    assert command.left() == ["g.h5.partial"]
    for name, code, words in (
        ("info", 0, r"complete +False\ntiles +55\ntiles_done +\d+"),
        ("verify", 4, r"WRONG  incomplete: \d+ of 55 tiles are done"),
        ("plot", 2, ""),
    ):
        arguments = [name, tmp_path / "g.h5.partial", *(["-o", "p.png"] if name == "plot" else [])]
        answer = subprocess.run([*GRAM[:-1], *arguments], capture_output=True, text=True)
        assert answer.returncode == code and re.search(words, answer.stdout), answer
        assert "Traceback" not in answer.stderr
    finish(tmp_path, data, right, "--threads", "1", "--memory", "200MiB")


@pytest.mark.system
def test_a_second_signal_ends_the_command_at_once(tmp_path, data, right):
    command = Command(tmp_path, data)
    command.wait_for_tiles()
    command.process.send_signal(signal.SIGINT)
    time.sleep(0.01)
    command.process.send_signal(signal.SIGINT)
    command.end(3)
    finish(tmp_path, data, right)


@pytest.mark.system
@pytest.mark.parametrize("after", [0.7, 3, 8])
def test_a_signal_while_compiling(tmp_path, data, after):
    """The compiler swallows exceptions that a signal handler raises in its callbacks."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    folder = tmp_path / "out"
    folder.mkdir()
    command = Command(folder, data, environment=environment)
    time.sleep(after)
    start = time.monotonic()
    command.process.send_signal(signal.SIGUSR1)
    assert "run the same" in command.end(3)
    assert time.monotonic() - start < 10
    assert command.left() == []


@pytest.mark.system
def test_a_job_whose_tiles_take_long_stops_soon(tmp_path, data, right):
    command = Command(tmp_path, data, "--depth", "20000", "--memory", "3GiB", "--threads", "1")
    time.sleep(4)
    start = time.monotonic()
    command.process.send_signal(signal.SIGINT)
    assert "run the same" in command.end(3)
    assert time.monotonic() - start < 10
    Command(tmp_path, data, "--overwrite").end(0)
    assert command.output.read_bytes() == right and command.left() == ["g.h5"]


@pytest.mark.system
@pytest.mark.parametrize("where", ["2>/dev/full", "2>&-", ">/dev/full", ">&-"])
def test_output_that_cannot_be_written_does_not_stop_a_job(tmp_path, data, right, where):
    """Standard output or standard error is closed, or on a full disk."""
    for more, code in (["--progress", 0], ["--activation nothing", 2]):
        shell = words(*GRAM, data, "-o", tmp_path / "g.h5", *NET, more, where)
        answer = subprocess.run(["sh", "-c", shell], capture_output=True, text=True)
        assert answer.returncode == code and "Traceback" not in answer.stderr
    assert (tmp_path / "g.h5").read_bytes() == right


def words(*parts):
    return " ".join(map(str, parts))


@pytest.mark.parametrize("kills", marked(pytest.mark.system, [2, 5]))
def test_kills_of_the_command(tmp_path, data, right, kills):
    rng = np.random.default_rng(0)
    for _ in range(kills):
        command = Command(tmp_path, data)
        command.wait_for_tiles()
        time.sleep(rng.uniform(0, 0.3))
        command.process.kill()
        command.end(-signal.SIGKILL)
        assert command.left() == ["g.h5.partial", "g.h5.partial.lock"]
    finish(tmp_path, data, right)


@pytest.mark.system
def test_two_at_once(tmp_path, data, right):
    first = Command(tmp_path, data)
    first.wait_for_tiles()
    first.process.send_signal(signal.SIGSTOP)  # so that it does not end before the second begins
    said = Command(tmp_path, data).end(2)
    first.process.send_signal(signal.SIGCONT)
    pid = first.process.pid
    assert re.search(rf"g.h5 is being written by process {pid} on \S+ since 20\d\d-.*; wait", said)
    first.end(0)
    assert first.output.read_bytes() == right and first.left() == ["g.h5"]
    assert Command(tmp_path, data).end(0) == ""  # nothing is left to do


@pytest.mark.system
def test_started_at_the_same_moment(tmp_path, data, right):
    commands = [Command(tmp_path, data) for _ in range(4)]
    said = [c.process.communicate(timeout=120)[1] for c in commands]
    codes = sorted(c.process.returncode for c in commands)
    assert codes[0] == 0 and set(codes) <= {0, 2}, said
    assert commands[0].output.read_bytes() == right and commands[0].left() == ["g.h5"]


@pytest.mark.system
def test_a_job_is_not_resumed_with_changed_data(tmp_path, data, right):
    copy = tmp_path / "x.npy"
    shutil.copy(data, copy)
    folder = tmp_path / "out"
    folder.mkdir()
    command = Command(folder, copy)
    command.wait_for_tiles()
    command.process.send_signal(signal.SIGTERM)
    command.end(3)
    np.save(copy, np.load(data) + 1)
    said = Command(folder, copy).end(2)
    assert "is the beginning of another job: the data (X) is" in said
    assert "Choose another output, delete it, or overwrite it" in said
    finish(folder, data, right)


# A shell command: mount a disk of size $1 at the folder $2, and run the script $3 there
SMALL_DISK = 'mount -t tmpfs -o size=$1 small "$2" && cd "$2" && eval "$3"'


def on_a_small_disk(size, folder, script):
    """Run a script in a folder that is a file system of `size`; return exit code and output."""
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    probe = [*unshare, "mount", "-t", "tmpfs", "probe", folder]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here, not even in a name space")
    command = [*unshare, "sh", "-c", SMALL_DISK, "sh", size, folder, script]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in answer.stderr
    return answer.returncode, answer.stdout, answer.stderr


def test_a_disk_that_is_too_small_is_refused_at_the_start(tmp_path, data):
    code, out, said = on_a_small_disk(
        "20m", tmp_path, words(*GRAM, data, "-o g.h5", *NET, "; code=$?; ls -A; exit $code")
    )
    assert code == 2 and out == ""
    assert re.search(r"g.h5 takes 50 MiB, and its disk has 20 MiB free \(No space left", said)


@pytest.mark.system
def test_a_disk_that_others_fill_meanwhile(tmp_path, data):
    """The job allocates its space at the start, so it completes."""
    script = words(
        "(until [ -e g.h5.partial ]; do sleep 0.01; done; dd if=/dev/zero of=full) 2>$2.txt &",
        *GRAM, data, "-o g.h5 --quiet", *NET, "&& wait && cat $2.txt &&",
        sys.executable, "-m ntk_numba verify g.h5",
    )  # fmt: skip
    code, out, said = on_a_small_disk("60m", tmp_path, script)
    assert code == 0, said
    assert "No space left" in out and "every tile matches" in out


@pytest.mark.system
def test_a_model_on_a_disk_that_is_too_small(tmp_path):
    """The model has a copy of the samples, for which there is no space."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((200, 100)))
    np.save(tmp_path / "y.npy", np.arange(200))
    fit = [sys.executable, "-m ntk_numba fit ../x.npy --targets ../y.npy --depth 2 -o m.h5"]
    folder = tmp_path / "disk"
    folder.mkdir()
    code, out, said = on_a_small_disk("64k", folder, words(*fit, "; code=$?; ls -A; exit $code"))
    assert code == 2 and out == ""
    assert re.search(r"m.h5 takes \S+ KiB, and its disk has \S+ KiB free \(No space left", said)


@pytest.mark.system
def test_a_folder_that_cannot_be_written(tmp_path, data):
    script = words("mount -o remount,ro . ;", *GRAM, data, "-o g.h5", *NET)
    code, _, said = on_a_small_disk("60m", tmp_path, script)
    assert code == 2 and re.search(r"cannot be written", said)
    script = words(
        *GRAM, data, "-o g.h5 --quiet", *NET, "&& mount -o remount,ro . &&",
        *GRAM, data, "-o g.h5", *NET, "&&", sys.executable, "-m ntk_numba verify g.h5",
    )  # fmt: skip
    code, _, said = on_a_small_disk("60m", tmp_path, script)
    assert code == 0, said  # a complete file is left alone, and can be read


@pytest.mark.system
def test_a_limit_on_file_sizes(tmp_path, data, right):
    limit = ["prlimit", f"--fsize={25 << 20}"]
    command = Command(tmp_path, data, prefix=limit)
    assert re.search(r"takes 50 MiB, and its disk has .* free \(File too large\)", command.end(2))
    assert command.left() == []
    finish(tmp_path, data, right)


@pytest.mark.system
@pytest.mark.parametrize("limit", [1000, 1200, 1400, 1600, 2000, 3000])
def test_a_limit_on_memory(tmp_path, data, right, limit):
    """With any limit, in MiB, the job completes, or a line says that memory is too little."""
    prefix = ["prlimit", f"--as={limit << 20}"]
    command = Command(tmp_path, data, "--threads", "1", prefix=prefix)
    _, said = command.process.communicate(timeout=60)
    if command.process.returncode != 0:
        assert command.process.returncode in (2, 3), said
        assert re.search("memory", said) and "Traceback" not in said
    else:
        assert command.output.read_bytes() == right
    finish(tmp_path, data, right)


@pytest.mark.system
def test_repeated_signals_stop_a_job_once(tmp_path, data, right):
    """Several daemons of a scheduler send SIGTERM to a job within milliseconds."""
    command = Command(tmp_path, data)
    command.wait_for_tiles()
    for _ in range(3):
        command.process.send_signal(signal.SIGTERM)
        time.sleep(0.005)
    assert "tiles are done" in command.end(3)
    finish(tmp_path, data, right)


@pytest.mark.system
def test_a_suspended_command_that_is_taken_over_stops(tmp_path, data, right):
    """Another machine, which shares no locks, heard nothing of this one for a minute."""
    command = Command(tmp_path, data)
    command.wait_for_tiles()
    command.process.send_signal(signal.SIGSTOP)
    lock = tmp_path / "g.h5.partial.lock"
    other = Holder.me()._replace(host="elsewhere", boot="other-boot")
    (tmp_path / "new").write_text(json.dumps(other))
    (tmp_path / "new").replace(lock)
    command.process.send_signal(signal.SIGCONT)
    start = time.monotonic()
    assert re.search(r"g.h5 was taken over by process \d+ on elsewhere", command.end(3))
    assert time.monotonic() - start < 10
    assert json.loads(lock.read_text()) == list(other)
    assert command.left() == ["g.h5.partial", lock.name]
    lock.unlink()
    finish(tmp_path, data, right)
