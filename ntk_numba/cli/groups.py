"""Options that several commands have, and what they stand for."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

import ntk_numba

if TYPE_CHECKING:
    from ntk_numba.network import MLP

DATA_HELP = (
    "x.npy, x.npz:key, x.h5:dataset, x.csv or x.parquet; :key is optional if there is only one "
    "array, and of tables it chooses columns, :a,b or :!label"
)


def output_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the file to write."""
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=True, help="the HDF5 file to write"
    )


def overwrite_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that lets an output be replaced."""
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")


EXECUTOR_HELP = (
    "the workers that compute the parts: processes:2, loky:2, dask:ADDRESS, dask:SCHEDULER.json or "
    "mpi"
)


def writing_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the commands that write a file: overwriting and progress."""
    overwrite_option(parser)
    noise_options(parser)


def classes_option(parser: Any) -> None:
    """Add the option that takes targets for labels of classes."""
    parser.add_argument(
        "--classes",
        action="store_true",
        help="the targets are labels of classes, although they are numbers",
    )


def dtype_option(parser: Any, *, of: str = "the entries") -> None:
    """Add the option that chooses the type of entries."""
    parser.add_argument(
        "--dtype",
        choices=["float64", "float32"],
        help=f"the type of {of} [float64 unless the data is float32]",
    )


def noise_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose whether progress and notices are shown."""
    noise = parser.add_mutually_exclusive_group()
    noise.add_argument("--quiet", action="store_true", help="show no progress bar and no notices")
    noise.add_argument(
        "--progress", action="store_true", help="show a progress bar even if this is not a terminal"
    )


def network_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add the options that describe a network.

    required : whether there has to be one
    """
    net = parser.add_argument_group(
        "network", "give one value for all layers, or repeat the option"
    )
    net.add_argument(
        "--depth", type=int, required=required, metavar="L", help="number of weight layers"
    )
    net.add_argument(
        "--activation", action="append", metavar="NAME", help="name or name:parameters [relu]"
    )
    net.add_argument(
        "--w-std", action="append", type=float, metavar="σ", help="scale of the weights [1]"
    )
    net.add_argument(
        "--b-std", action="append", type=float, metavar="β", help="scale of the biases [0]"
    )


def network_of(options: argparse.Namespace) -> "MLP":
    """Return the network that the options describe."""

    def one_or_all(values: list[Any] | None, default: Any) -> Any:
        if values is None:
            return default
        return values[0] if len(values) == 1 else values

    return ntk_numba.MLP(
        options.depth,
        one_or_all(options.activation, "relu"),
        one_or_all(options.w_std, 1.0),
        one_or_all(options.b_std, 0.0),
    )


def wants_progress(options: argparse.Namespace) -> bool:
    """Return whether to show a progress bar."""
    return not options.quiet and (options.progress or sys.stderr.isatty())
