"""The command line: its options, what its commands do, its signals and exit codes."""

from ntk_numba.cli.program import main as main
