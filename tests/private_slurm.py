"""A private Slurm: real daemons in a temporary folder, on loopback, for the duration of a test.

    with Slurm() as slurm:
        job = slurm.sbatch("--wrap=true")
        assert slurm.wait(job)[None].state == "COMPLETED"

It does not touch a Slurm of the machine, and several can run at once: the folder, the key and the
ports are new each time. The daemons run as root, since they start jobs as the jobs' users.
"""

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

PATIENCE = 60  # seconds after which a step counts as failed
PROGRAMS = "munged", "slurmctld", "slurmd", "sbatch"
# Slurm lets a requeued job wait for as long as the credential of its first start holds, two minutes
# by default, since an older start might still be under way
CREDENTIAL_SECONDS = 5
ENDED = {
    "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "BOOT_FAIL", "DEADLINE",
}  # fmt: skip

# Nothing here needs a control group, which a container may not have, and all daemons listen on
# loopback only. The processes of a job are found by their parents (linuxproc). Found by their
# group, a helper of srun would count until the system's first process has reaped it, which takes
# seconds in a container.
CONF = """\
ClusterName=private
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire={credential}
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2
ReturnToService=2
MinJobAge=300
JobRequeue=1
{more}
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=4000"


class Job(NamedTuple):
    """A job, or an element of an array, as the controller sees it."""

    state: str
    code: int  # exit code
    signal: int  # the signal that ended it, or 0
    restarts: int
    reason: str
    node: str


def free_ports(count: int) -> list[int]:
    """Return free ports of loopback."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Slurm:
    """A context in which a controller and nodes of two cores run, all on this machine.

    nodes : the number of nodes, which are called n1, n2 and so on
    more : further lines of slurm.conf
    environment : the environment of commands that `run` starts: SLURM_CONF is set for this Slurm,
        and the variables of a job that the tests may run in are removed
    conf : the path of slurm.conf
    """

    def __init__(self, nodes: int = 1, more: str = "") -> None:
        missing = [name for name in PROGRAMS if not shutil.which(name, path=_path())]
        if missing:
            pytest.skip(
                f"nothing was run on a real Slurm: no {', '.join(missing)} here; "
                "apt-get install slurm-wlm munge"
            )
        if os.geteuid() != 0:
            pytest.skip("nothing was run on a real Slurm: only root can start its daemons")
        self.names = [f"n{k + 1}" for k in range(nodes)]
        self.more = more

    def __enter__(self) -> "Slurm":
        # a short path, since the names of sockets have at most 107 bytes
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.conf = self.folder / "slurm.conf"
        self.environment = {
            name: value for name, value in os.environ.items()
            if not name.startswith(("SLURM_", "SBATCH_", "SRUN_", "SQUEUE_", "SCANCEL_"))
        } | {"SLURM_CONF": str(self.conf), "PATH": _path()}  # fmt: skip
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self) -> None:
        host = socket.gethostname().split(".")[0]
        controller, *ports = free_ports(1 + len(self.names))
        nodes = [
            NODE.format(name=name, host=host, port=port)
            for name, port in zip(self.names, ports, strict=True)
        ]
        self.conf.write_text(
            CONF.format(
                host=host, port=controller, folder=self.folder, credential=CREDENTIAL_SECONDS,
                more=self.more, nodes="\n".join(nodes),
            )
        )  # fmt: skip
        for name in ("state", "munge", *(f"spool-{name}" for name in self.names)):
            (self.folder / name).mkdir()
        # munged wants a folder that all users can enter for its socket, and a private key
        self.folder.chmod(0o755)
        key = self.folder / "key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        self._daemon(
            "munged", "--foreground", f"--key-file={key}", f"--socket={self.folder}/munge/socket",
            f"--pid-file={self.folder}/munge/pid", f"--log-file={self.folder}/munge/log",
            f"--seed-file={self.folder}/munge/seed",
        )  # fmt: skip
        self.until(lambda: (self.folder / "munge/socket").exists(), "munged answers")
        self._daemon("slurmctld", "-D", "-c")
        for name in self.names:
            self._daemon("slurmd", "-D", "-N", name, name=name)
        self.until(
            lambda: self.nodes() == dict.fromkeys(self.names, "idle"),
            "all nodes are idle",
        )

    def _daemon(self, *command: str, name: str = "") -> None:
        name = name or command[0]
        with (self.folder / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                command, env=self.environment, cwd=self.folder, stdin=subprocess.DEVNULL,
                stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip

    def lose_node(self, name: str) -> None:
        """Kill everything on a node at once, as a power failure does."""
        doomed = []
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("SLURMD_NODENAME") == name:
                    doomed += [process, *process.parents()]
        ours = self._processes()
        daemon = self.daemons.pop(name)
        daemon.kill()
        daemon.wait()
        # older processes first, since they would report the end of those that they have started
        for process in sorted(set(doomed) & set(ours), key=lambda process: process.create_time()):
            with contextlib.suppress(psutil.Error):
                process.kill()

    def _stop(self) -> None:
        if "slurmctld" in self.daemons and self.daemons["slurmctld"].poll() is None:
            # jobs outlive the daemons, so they are ended first
            with contextlib.suppress(AssertionError, subprocess.SubprocessError):
                self.cancel_all(10)
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(5)
            daemon.kill()
            daemon.wait()
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _processes(self) -> list[psutil.Process]:
        """Return the daemons, their helpers, which have no environment, and the jobs."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                known = process.environ().get("SLURM_CONF") == str(self.conf)
                if known or process.cwd() == str(self.folder):
                    found.append(process)
        return found

    def run(self, *command: Any, **options: Any) -> str:
        """Run a command, which has to succeed, and return its output."""
        answer = subprocess.run(
            [str(word) for word in command], env=self.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", timeout=PATIENCE,
            **options,
        )  # fmt: skip
        assert answer.returncode == 0, f"{command}: {answer.stderr}{answer.stdout}"
        return answer.stdout

    def until(self, holds: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
        """Wait until `holds()` is true, and return its value."""
        end = time.monotonic() + seconds
        problem = ""
        while time.monotonic() < end:
            try:
                if value := holds():
                    return value
            except (
                AssertionError,
                OSError,
            ) as error:  # a command fails, or a file does not exist yet
                problem = str(error)
            time.sleep(0.1)
        raise AssertionError(f"not within {seconds} s: {what}\n{problem}\n{self.log}")

    def nodes(self) -> dict[str, str]:
        """Return the state of each node."""
        lines = self.run("sinfo", "-h", "-N", "-o", "%N %T").splitlines()
        return dict(line.split() for line in lines)

    def sbatch(self, *words: Any, **options: Any) -> int:
        """Submit a job, and return its ID."""
        return int(self.run("sbatch", "--parsable", *words, **options).split(";")[0])

    def state(self, job: int | str) -> dict[int | None, Job]:
        """Return the elements of an array by index, pending ones too, or a job under None."""
        found: dict[int | None, Job] = {}
        for line in self.run("scontrol", "show", "job", "--oneliner", job).splitlines():
            facts = dict(re.findall(r"(\S+?)=(\S*)", line))
            code, number = map(int, facts["ExitCode"].split(":"))
            entry = Job(
                facts["JobState"], code, number, int(facts["Restarts"]), facts["Reason"],
                facts.get("NodeList", ""),
            )  # fmt: skip
            for index in _indices(facts.get("ArrayTaskId")):
                found[index] = entry
        return found

    def wait(self, job: int | str, seconds: float = PATIENCE) -> dict[int | None, Job]:
        """Wait until a job and all its elements have ended, and return their states."""

        def ended() -> dict[int | None, Job] | None:
            now = self.state(job)
            return now if all(job.state in ENDED for job in now.values()) else None

        return self.until(ended, f"{job} ends", seconds)

    def requeue(self, job: int | str) -> None:
        """Requeue a running job as an operator would; it starts when its credential has expired."""
        self.run("scontrol", "requeue", job)

    def signal(self, job: int | str, number: int = signal.SIGUSR1) -> None:
        """Send a signal to the job's steps, as Slurm does before a time limit."""
        self.run("scancel", f"--signal={signal.Signals(number).name.removeprefix('SIG')}", job)

    def cancel_all(self, seconds: float = PATIENCE) -> None:
        """Cancel all jobs and wait until they are gone."""
        self.run("scancel", "--user=root")
        self.until(lambda: not self.run("squeue", "-h").strip(), "no job is left", seconds)

    @property
    def log(self) -> str:
        """The last lines of the logs of all daemons."""
        return "\n".join(
            f"{path.name}:\n" + "\n".join(path.read_text(errors="replace").splitlines()[-30:])
            for path in sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")])
        )


def _path() -> str:
    """Return PATH with the folders of daemons, which it may lack."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def _indices(text: str | None) -> list[int | None]:
    """Return the indices of a record: one element, or all that are not started yet, "2-3,7%2"."""
    if text is None:
        return [None]
    found: list[int | None] = []
    for run in text.split("%")[0].split(","):
        first, _, last = run.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
