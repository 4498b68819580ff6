"""The options of the commands that use a Gram matrix."""

import argparse
from typing import Any

from ntk_numba.cli.groups import (
    EXECUTOR_HELP,
    classes_option,
    dtype_option,
    network_options,
    noise_options,
    writing_options,
)


def matrix_parsers(parsers: Any) -> None:
    """Add the commands ``cholesky``, ``solve`` and ``spectrum``."""
    cholesky = parsers.add_parser(
        "cholesky", help="factorise a Gram matrix of any size, stored or not, into a file"
    )
    _matrix_options(cholesky)
    cholesky.add_argument(
        "-o", "--output", metavar="FACTOR", required=True,
        help="the file to write, such as factor.h5",
    )  # fmt: skip
    cholesky.add_argument(
        "--ridge", type=float, default=0.0, metavar="RIDGE",
        help="a number that is added to the diagonal, with the units of the kernel [0]",
    )  # fmt: skip
    _computed_options(cholesky)
    machine_options(cholesky)
    writing_options(cholesky)
    cholesky.set_defaults(run="cholesky")
    solve = parsers.add_parser(
        "solve", help="solve a linear system with a Gram matrix of any size, stored or not"
    )
    _solve_options(solve)
    solve.set_defaults(run="solve")
    spectrum = parsers.add_parser(
        "spectrum", help="find the leading eigenvalues of a Gram matrix of any size, stored or not"
    )
    _spectrum_options(spectrum)
    spectrum.set_defaults(run="spectrum")


def _solve_options(solve: argparse.ArgumentParser) -> None:
    """Add the options of ``solve``."""
    _matrix_options(solve)
    solve.add_argument(
        "--targets", metavar="Y", required=True,
        help="the right-hand sides, one row per sample, in a file of the same kinds as samples; "
        "labels of classes, as text or with --classes, become one column for each class",
    )  # fmt: skip
    classes_option(solve)
    solve.add_argument(
        "-o", "--output", metavar="FILE", required=True,
        help="the file of the solution: .npy, .npz (with the ridge) or .csv",
    )  # fmt: skip
    solve.add_argument(
        "--ridge", type=float, action="append", required=True, metavar="RIDGE",
        help="a number that is added to the diagonal, with the units of the kernel; repeat the "
        "option for several solutions",
    )  # fmt: skip
    solve.add_argument(
        "--method", choices=["auto", "cholesky", "block_krylov", "nystrom_pcg"], default="auto",
        help="how the system is solved [%(default)s: by the expected time]",
    )  # fmt: skip
    solve.add_argument(
        "--tolerance", type=float, default=1e-6, metavar="T",
        help="the relative residual that each column is to reach [%(default)s]",
    )  # fmt: skip
    solve.add_argument(
        "--checkpoint", metavar="FILE",
        help="keep the state in this file after each pass, so that the same command continues "
        "after a stop; with --method cholesky, the file of the factor",
    )  # fmt: skip
    solve.add_argument(
        "--max-passes", type=int, metavar="N", help="the largest number of passes [1000]"
    )
    solve.add_argument("--seed", type=int, default=0, help="seed of random columns [%(default)s]")
    _computed_options(solve)
    machine_options(solve, "all free")
    cluster = solve.add_argument_group(
        "cluster", "passes over the matrix by workers; --threads is as for gram"
    )
    cluster.add_argument(
        "--parts", type=int, metavar="n", help="compute each pass in n parts, one or a few a worker"
    )
    cluster.add_argument("--executor", metavar="NAME", help=EXECUTOR_HELP)
    cluster.add_argument(
        "--scratch", metavar="FOLDER",
        help="the folder for what is multiplied and partial products, which all workers can read "
        "and write [a folder beside the output]",
    )  # fmt: skip
    solve.add_argument("--json", action="store_true", help="print JSON")
    writing_options(solve)


def _spectrum_options(spectrum: argparse.ArgumentParser) -> None:
    """Add the options of ``spectrum``."""
    _matrix_options(spectrum)
    spectrum.add_argument(
        "-k", type=int, default=20, metavar="K", help="the number of eigenvalues [%(default)s]"
    )
    spectrum.add_argument(
        "--ridge", type=float, action="append", default=[], metavar="RIDGE",
        help="also estimate the effective dimension, log determinant and condition number with "
        "this ridge, which has the units of the kernel; repeat the option for several",
    )  # fmt: skip
    spectrum.add_argument(
        "--targets", metavar="Y",
        help="also print the shares of these targets along the eigenvectors; a file as for fit",
    )  # fmt: skip
    classes_option(spectrum)
    spectrum.add_argument(
        "--tolerance", type=float, default=1e-4, metavar="T",
        help="the largest residual of an eigenpair, relative to its eigenvalue [%(default)s]",
    )  # fmt: skip
    spectrum.add_argument(
        "--probes", type=int, metavar="N",
        help="the number of random columns: more of them take fewer passes and more memory, and "
        "make estimates more precise [K + 20]",
    )  # fmt: skip
    spectrum.add_argument(
        "--max-passes", type=int, default=100, metavar="N",
        help="the largest number of passes [%(default)s]",
    )  # fmt: skip
    spectrum.add_argument(
        "--seed", type=int, default=0, help="seed of random columns [%(default)s]"
    )
    _computed_options(spectrum)
    machine_options(spectrum)
    spectrum.add_argument("--json", action="store_true", help="print JSON")
    spectrum.add_argument(
        "--plot", metavar="PICTURE", help="also draw what was found, to .png, .pdf or .svg"
    )
    noise_options(spectrum)


def _matrix_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a matrix, which may be computed from samples."""
    parser.add_argument(
        "gram", metavar="GRAM",
        help="the Gram file; or, with --depth, the samples, of which the kernel is computed "
        "when it is used and never stored",
    )  # fmt: skip
    parser.add_argument(
        "--kernel", choices=["ntk", "nngp"],
        help="the kernel to take, if the file has both, or to compute [ntk]",
    )  # fmt: skip


def _computed_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe a kernel that is computed from samples."""
    network_options(parser, required=False)
    result = parser.add_argument_group("kernel", "of samples, with --depth")
    dtype_option(result)
    result.add_argument(
        "--up-to", type=float, metavar="NORM",
        help="the largest norm of all samples, see gram [measured]",
    )  # fmt: skip


def machine_options(parser: argparse.ArgumentParser, memory: str = "half of the free") -> None:
    """Add the options that limit the memory and the threads of a command.

    memory : how much it takes by default
    """
    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--memory",
        metavar="SIZE",
        help=f"largest memory to use, such as 2GiB [{memory} memory]",
    )
    machine.add_argument(
        "--threads", type=int, metavar="N", help="largest number of threads [all cores]"
    )
