"""Short notices on standard error, for people who wait for this process."""

import multiprocessing
import os
import sys

from ntk_numba.terminal import escaped

# The variables in which launchers state the rank of a process.
RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")

# Whether to print notices. None, the default of the library, stands for: if a person sees them, on
# a terminal or in an interactive session. The command line sets it.
wanted: bool | None = None


def notice(text: str, *, waits: bool = False) -> None:
    """Print a notice of one line to standard error, if it is wanted.

    Workers of a pool and ranks other than 0 print none, since they would all print the same.

    waits : whether this process now waits for long; every process then says so, also in a log
    """
    if wanted is False or not sys.stderr or (_of_a_worker() and not waits):
        return
    if wanted or waits or sys.stderr.isatty() or hasattr(sys, "ps1"):
        print(f"ntk-numba: {escaped(text)}", file=sys.stderr, flush=True)


def _of_a_worker() -> bool:
    """Return whether this process works for another one, or is not the first of several ranks."""
    ranks = (os.environ.get(name, "0") for name in RANKS)
    named = multiprocessing.current_process().name
    return named != "MainProcess" or any(rank.strip() not in ("", "0") for rank in ranks)
