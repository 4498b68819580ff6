"""The process that holds a lease, as its lock file names it."""

import datetime
import os
import platform
from pathlib import Path
from typing import NamedTuple

import psutil

BOOT = Path("/proc/sys/kernel/random/boot_id")  # the same in all containers of a machine
SPACE = Path("/proc/self/ns/pid")  # the namespace in which a PID is valid


class Holder(NamedTuple):
    """The holder of a lease.

    host, boot, space : its machine, the machine's boot ID, and its PID namespace
    pid : its process ID
    since : when it took the lease, by the clock of its machine
    started : when the process was started
    """

    host: str
    boot: str
    space: str
    pid: int
    since: str
    started: float

    @classmethod
    def me(cls) -> "Holder":
        """Return the current process as a holder from now on."""
        boot = BOOT.read_text().strip() if BOOT.exists() else ""
        space = str(SPACE.readlink()) if SPACE.exists() else ""
        now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        started = psutil.Process().create_time()
        return cls(
            host=platform.node(),
            boot=boot,
            space=space,
            pid=os.getpid(),
            since=now,
            started=started,
        )

    def is_here(self) -> bool:
        """Return whether the holder is, or was, a process of this machine."""
        me = Holder.me()
        return self.host == me.host or (self.boot == me.boot != "")

    def is_alive(self) -> bool | None:
        """Return whether the holder's process is alive, by its PID.

        None if that cannot be checked from here: the PID is of another namespace, or hidden.
        """
        me = Holder.me()
        if (self.boot or self.host, self.space) != (me.boot or me.host, me.space):
            return None
        if not psutil.pid_exists(self.pid):
            return False
        try:
            process = psutil.Process(self.pid)
            # compared to the second: the time is relative to the boot, by the machine's clock
            same = abs(process.create_time() - self.started) < 2
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:  # hidden, since it is another user's
            return None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"
