"""The command line: its options, its commands, its signals and exit codes."""

from ntk_numba.cli.program import main as main
