"""The options of the command line, and the words that repeat them in another command."""

import argparse
from collections.abc import Iterator
from typing import Any

import ntk_numba

DATA_HELP = "x.npy, x.npz:key, x.h5:dataset or x.csv; :key may be left out where there is one array"


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; `run` is the name of a command's function."""
    whole = argparse.ArgumentParser(
        prog="ntk-numba",
        description="Exact infinite-width kernels (NTK and NNGP) of fully connected networks, as "
        "Gram matrices in HDF5 files.",
        epilog="Exit codes: 0 done; 2 wrong usage or bad input; 3 stopped before the end; "
        "4 a check failed.",
    )
    whole.add_argument("--version", action="version", version=f"%(prog)s {ntk_numba.__version__}")
    parsers = whole.add_subparsers(metavar="command", required=True)

    table = parsers.add_parser("activations", help="list the activations, or draw some")
    table.add_argument("names", nargs="*", metavar="NAME", help="name or name:parameters [all]")
    table.add_argument("--plot", metavar="OUT.png", help="K and K̇ over ρ, correlations over depth")
    table.add_argument("--q", type=float, default=1.0, help="variance of the samples drawn [1]")
    table.add_argument("--json", action="store_true")
    table.set_defaults(run="activations")

    gram = parsers.add_parser("gram", help="compute kernels into a file")
    _job_options(gram)
    some = gram.add_argument_group(
        "cluster",
        "--threads are those of all processes or loky workers together, of dask and mpi of a part",
    )
    some.add_argument(
        "--part", metavar="i/n", help="compute the i-th of n parts, into a file of its own"
    )
    some.add_argument("--parts", type=int, metavar="n", help="compute n parts and merge them")
    some.add_argument(
        "--executor", metavar="NAME",
        help="what computes the parts: processes:2, loky:2, dask:ADDRESS, or mpi",
    )  # fmt: skip
    _writing_options(gram)
    gram.set_defaults(run="gram")

    merge = parsers.add_parser("merge", help="put the parts of a job together")
    merge.add_argument("parts", metavar="PART", nargs="+", help="the files, in any order")
    _output_option(merge)
    _layout_option(merge)
    _merge_options(merge)
    _writing_options(merge)
    merge.set_defaults(run="merge")

    plan = parsers.add_parser("plan", help="what a job would take; computes nothing")
    _job_options(plan)
    plan.add_argument("--json", action="store_true", help="for scripts, sizes in bytes")
    plan.set_defaults(run="plan")

    slurm = parsers.add_parser(
        "slurm", help="print a script for Slurm: an array of parts, and a merge after it"
    )
    _job_options(slurm, threads=False)  # --cpus says it
    _slurm_options(slurm)
    slurm.set_defaults(run="slurm")

    info = parsers.add_parser("info", help="what a file holds")
    info.add_argument("file", metavar="FILE")
    info.add_argument("--json", action="store_true", help="for scripts")
    info.set_defaults(run="info")

    verify = parsers.add_parser("verify", help="read a file whole and check it")
    verify.add_argument("file", metavar="FILE")
    verify.add_argument("--data", metavar="X", help=f"compute a sample anew from it: {DATA_HELP}")
    verify.add_argument("--against", metavar="Z", help="the second data set, if there was one")
    verify.add_argument(
        "--repair", action="store_true", help="with --data: compute the bad tiles again, in place"
    )
    verify.set_defaults(run="verify")

    plot = parsers.add_parser("plot", help="draw a file: the matrix and its eigenvalues")
    plot.add_argument("file", metavar="FILE")
    plot.add_argument("-o", "--output", required=True, metavar="PICTURE", help=".png, .pdf, .svg")
    plot.add_argument("--kernel", choices=["ntk", "nngp"])
    plot.add_argument("--layer", type=int, help="in a file of all layers; by default the last")
    plot.add_argument("--labels", metavar="Y", help="sort rows by these labels, a file as for gram")
    plot.set_defaults(run="plot")

    check = parsers.add_parser("check", help="test the kernels against networks of finite width")
    check.add_argument("data", metavar="X", help=f"the samples, one a row: {DATA_HELP}")
    _network_options(check)
    test = check.add_argument_group("test")
    test.add_argument("--width", type=int, default=1024, metavar="n", help="[%(default)s]")
    test.add_argument(
        "--draws", type=int, default=64, help="networks of each width n, n/2, n/4 [%(default)s]"
    )
    test.add_argument("--samples", type=int, default=32, help="rows of X used [%(default)s]")
    test.add_argument("--outputs", type=int, default=4, help="of a network [%(default)s]")
    test.add_argument(
        "--false-alarm", type=float, default=1e-3, metavar="P",
        help="probability of failing although all is right [%(default)s]",
    )  # fmt: skip
    test.add_argument("--seed", type=int, default=0, help="[%(default)s]")
    test.add_argument("--threads", type=int, metavar="N", help="at most [all cores]")
    check.add_argument("--json", action="store_true", help="for scripts")
    check.add_argument(
        "--plot", metavar="PICTURE", help="also draw Θ against the angle: .png, .pdf, .svg"
    )
    check.set_defaults(run="check")
    return whole


def _job_options(parser: argparse.ArgumentParser, threads: bool = True) -> None:
    parser.add_argument("data", metavar="X", help=f"the samples, one a row: {DATA_HELP}")
    _output_option(parser)
    parser.add_argument("--against", metavar="Z", help="K(X, Z) instead of K(X, X)")
    _network_options(parser)
    result = parser.add_argument_group("result")
    result.add_argument(
        "--kernel", action="append", choices=["ntk", "nngp"], help="repeat it for both [ntk]"
    )
    result.add_argument("--layers", choices=["last", "all"], default="last")
    result.add_argument(
        "--dtype", choices=["float64", "float32"], help="[float64 unless the data is float32]"
    )
    result.add_argument(
        "--largest-norm", type=float, metavar="NORM",
        help="the largest of all rows of X and Z: with it, a part whose activations are fitted to "
        "the data (tanh, elu, …) reads its own rows only [measured]",
    )  # fmt: skip
    _layout_option(result)
    machine = parser.add_argument_group("machine")
    machine.add_argument("--memory", metavar="SIZE", help="at most, as 2GiB [a quarter of it]")
    if threads:
        machine.add_argument("--threads", type=int, metavar="N", help="at most [all cores]")


def _output_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the HDF5 file")


def _merge_options(parser: Any) -> None:
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument(
        "--link", action="store_true", help="refer to the parts, which stay, and copy nothing"
    )
    ways.add_argument(
        "--delete-parts", action="store_true", help="each as soon as its tiles are safe"
    )


def _slurm_options(parser: argparse.ArgumentParser) -> None:
    array = parser.add_argument_group("array", "what is left out is estimated on this machine")
    array.add_argument("--parts", type=int, metavar="n", help="[of half an hour each]")
    array.add_argument("--cpus", type=int, metavar="N", help="of an element [as many as here]")
    array.add_argument("--time", type=int, metavar="MINUTES", help="limit of an element")
    array.add_argument("--name", default="gram", help="of both jobs [%(default)s]")
    for name in ("partition", "account", "qos"):
        array.add_argument(f"--{name}")
    array.add_argument(
        "--grace", type=int, default=180, metavar="SECONDS",
        help="before the limit, for an element to stop and be requeued [%(default)s]",
    )  # fmt: skip
    array.add_argument(
        "--requeues", type=int, default=20, metavar="N", help="of an element [%(default)s]"
    )
    array.add_argument("--at-once", type=int, metavar="N", help="elements that run at a time")
    array.add_argument("--logs", default="logs", metavar="FOLDER", help="[%(default)s]")
    array.add_argument(
        "--max-array", type=int, default=1001, metavar="N",
        help="the cluster's MaxArraySize [%(default)s]",
    )  # fmt: skip
    array.add_argument(
        "--sbatch", action="append", default=[], metavar="OPTION", help="more, for both jobs"
    )
    array.add_argument(
        "--setup", action="append", default=[], metavar="LINE",
        help="of shell before the command, as 'module load python'",
    )  # fmt: skip
    merge = parser.add_argument_group("merge")
    _merge_options(merge)
    merge.add_argument(
        "--dependency", choices=["afterany", "afterok"], default="afterany",
        help="afterany: it runs whatever became of the parts, and names those to submit again",
    )  # fmt: skip
    merge.add_argument("--merge-cpus", type=int, default=2, metavar="N", help="[%(default)s]")
    merge.add_argument("--merge-memory", default="2GiB", metavar="SIZE", help="[%(default)s]")
    merge.add_argument(
        "--merge-time", type=int, metavar="MINUTES", help="[from the size of the file]"
    )


def _layout_option(parser: Any) -> None:
    parser.add_argument(
        "--layout", choices=["full", "lower"], default="full",
        help="lower: the triangle only, half of the bytes [%(default)s]",
    )  # fmt: skip


def _writing_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    noise = parser.add_mutually_exclusive_group()
    noise.add_argument("--quiet", action="store_true", help="no progress bar")
    noise.add_argument(
        "--progress", action="store_true", help="a progress bar even if this is no terminal"
    )


def _network_options(parser: argparse.ArgumentParser) -> None:
    net = parser.add_argument_group("network", "one value for all layers, or the option repeated")
    net.add_argument("--depth", type=int, required=True, metavar="L", help="weight layers")
    net.add_argument(
        "--activation", action="append", metavar="NAME", help="name or name:parameters [relu]"
    )
    net.add_argument("--w-std", action="append", type=float, metavar="σ", help="of weights [1]")
    net.add_argument("--b-std", action="append", type=float, metavar="β", help="of biases [0]")


def gram_words(options: argparse.Namespace, **changed: Any) -> list[str]:
    """Return the command that computes a job of these options, some of them changed."""
    parser = argparse.ArgumentParser(add_help=False)
    _job_options(parser, threads=False)
    return ["ntk-numba", "gram", *_words(parser, vars(options) | changed)]


def merge_words(options: argparse.Namespace, parts: str) -> list[str]:
    """Return the command that merges the parts of a job of these options."""
    parser = argparse.ArgumentParser(add_help=False)
    for add in (_output_option, _layout_option, _merge_options):
        add(parser)
    return ["ntk-numba", "merge", parts, *_words(parser, vars(options))]


def _words(parser: argparse.ArgumentParser, values: dict[str, Any]) -> Iterator[str]:
    """Yield the words from which a parser makes these values again, defaults left out."""
    for action in parser._actions:
        value = values[action.dest]
        if value == action.default:
            continue
        if not action.option_strings:
            yield str(value)
        elif action.nargs == 0:
            yield action.option_strings[0]
        else:
            for one in value if isinstance(value, list) else [value]:
                # a value like -1 would be taken for an option
                option, text = action.option_strings[0], str(one)
                yield from [f"{option}={text}"] if text.startswith("-") else [option, text]
