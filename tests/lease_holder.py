"""A program that takes the lease of a file, and then answers one question per line of its input.

    python lease_holder.py FILE HOLDER TIMES

HOLDER and TIMES are JSON objects: fields of the holder, and constants of `gramfile.lease`, to
replace. The questions are ``check`` and ``release``. With LOCKS=none in the environment, the file
system has no locks.
"""

import errno
import fcntl
import json
import os
import sys
from pathlib import Path

from ntk_numba.gramfile import lease
from ntk_numba.gramfile.lease import Holder, Lease


def refuse(fd: int, flags: int) -> None:
    """Fail as `flock` does on a file system without locks."""
    raise OSError(errno.ENOSYS, "no locks")


def main() -> None:
    """Print the answer to each question, or the error."""
    file, fields, times = sys.argv[1:]
    holder = Holder.me()._replace(**json.loads(fields))
    Holder.me = classmethod(lambda cls: holder)
    vars(lease).update(json.loads(times))
    if os.environ.get("LOCKS") == "none":
        fcntl.flock = refuse
    held = None
    try:
        held = Lease(Path(file))
        print("held", flush=True)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    for line in sys.stdin:
        try:
            if line == "check\n":
                print(held.check(), flush=True)
            elif line == "release\n":
                held.release()
                print("released", flush=True)
        except Exception as error:
            print(type(error).__name__, error, flush=True)


if __name__ == "__main__":
    main()
