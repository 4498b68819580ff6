"""Short notices on standard error, for people who wait for this process."""

import multiprocessing
import os
import sys

# The variables in which launchers state the rank of a process.
RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")

# Whether to print notices. None, the default of the library, stands for: if a person sees them, on
# a terminal or in an interactive session. The command line sets it.
wanted: bool | None = None


def notice(text: str) -> None:
    """Print a notice of one line to standard error, if it is wanted.

    Workers of a pool and ranks other than 0 print none, since they would all print the same.
    """
    if _of_a_worker() or wanted is False or not sys.stderr:
        return
    if wanted or sys.stderr.isatty() or hasattr(sys, "ps1"):
        print(f"ntk-numba: {text}", file=sys.stderr, flush=True)


def _of_a_worker() -> bool:
    """Return whether this process works for another one, or is not the first of several ranks."""
    ranks = (os.environ.get(name, "0") for name in RANKS)
    named = multiprocessing.current_process().name
    return named != "MainProcess" or any(rank.strip() not in ("", "0") for rank in ranks)
