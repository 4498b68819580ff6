"""The systems that the package runs on."""

import sys
from pathlib import Path
from typing import NoReturn

from ntk_numba import notices
from ntk_numba.errors import ProcessError

WRONG_USAGE = 2  # the exit code of the command line


def refuse() -> NoReturn:
    """Raise the error for a system without the calls by which files are opened, locked and synced.

    If the command line is being started, the error is printed in one line and the process ends.
    """
    error = ProcessError(
        f"ntk_numba runs on Linux and macOS, not on {sys.platform}; on Windows install and run it "
        f"in the Windows Subsystem for Linux (WSL)"
    )
    command = Path(*sys.argv[:1]).name  # "-m" while Python looks for a module that is to be run
    if command == "-m" or command.startswith("ntk-numba"):
        notices.wanted = True
        notices.notice(str(error))
        sys.exit(WRONG_USAGE)
    raise error
