"""The options of the commands that use a Gram matrix."""

import argparse
from typing import Any

from ntk_numba.cli.groups import writing_options


def matrix_parsers(parsers: Any) -> None:
    """Add the command ``cholesky``."""
    cholesky = parsers.add_parser(
        "cholesky", help="factorise a Gram matrix of any size and write the factor to a file"
    )
    gram_options(cholesky)
    cholesky.add_argument(
        "-o", "--output", metavar="FACTOR", required=True,
        help="the file to write, such as factor.h5",
    )  # fmt: skip
    cholesky.add_argument(
        "--ridge", type=float, default=0.0, metavar="RIDGE",
        help="a number that is added to the diagonal, with the units of the kernel [0]",
    )  # fmt: skip
    machine_options(cholesky)
    writing_options(cholesky)
    cholesky.set_defaults(run="cholesky")


def gram_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a matrix."""
    parser.add_argument("gram", metavar="GRAM", help="the Gram file")
    parser.add_argument(
        "--kernel", choices=["ntk", "nngp"], help="the kernel to take, if the file has both"
    )


def machine_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that limit the memory and the threads of a command."""
    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--memory",
        metavar="SIZE",
        help="largest memory to use, such as 2GiB [half of the free memory]",
    )
    machine.add_argument(
        "--threads", type=int, metavar="N", help="largest number of threads [all cores]"
    )
