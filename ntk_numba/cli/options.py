"""The options of the command line, and the words that repeat them in another command.

`program.main` parses with them; `commands.slurm` repeats the options of a job in its script.
"""

import argparse
from collections.abc import Iterator
from typing import Any, NoReturn, TypeVar

import ntk_numba
from ntk_numba.cli.groups import (
    DATA_HELP,
    EXECUTOR_HELP,
    dtype_option,
    network_options,
    output_option,
    writing_options,
)
from ntk_numba.cli.learning_options import learning_parsers
from ntk_numba.cli.matrix_options import matrix_parsers
from ntk_numba.terminal import escaped

Word = TypeVar("Word")


class _Parser(argparse.ArgumentParser):
    """A parser whose errors, which repeat words such as names of files, are safe to print."""

    def error(self, message: str) -> NoReturn:
        super().error(escaped(message))

    def _get_values(self, action: argparse.Action, words: list[str]) -> Any:
        """Return the value of an option, also if it is "--", which argparse removes before 3.13."""
        if action.option_strings and words == ["--"]:
            value = self._get_value(action, "--")
            self._check_value(action, value)
            return value
        return super()._get_values(action, words)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; it sets `run` to the name of a command's function."""
    whole = _Parser(
        prog="ntk-numba",
        description="Exact infinite-width kernels (NTK and NNGP) of fully connected networks, as "
        "Gram matrices in HDF5 files.",
        epilog="Exit codes: 0 done; 2 wrong usage or bad input; 3 stopped before the end; "
        "4 a check failed.",
    )
    whole.add_argument("--version", action="version", version=f"%(prog)s {ntk_numba.__version__}")
    parsers = whole.add_subparsers(metavar="command", required=True)

    table = parsers.add_parser("activations", help="list the activations, or draw them")
    table.add_argument("names", nargs="*", metavar="NAME", help="name or name:parameters [all]")
    table.add_argument(
        "--plot", metavar="OUT.png", help="draw K and K̇ against ρ, and correlations against depth"
    )
    table.add_argument(
        "--q", type=float, default=1.0, help="variance of the samples in the plot [1]"
    )
    table.add_argument("--json", action="store_true", help="print JSON")
    table.set_defaults(run="activations")

    gram = parsers.add_parser("gram", help="compute kernels and write them to a file")
    _job_options(gram)
    cluster = gram.add_argument_group(
        "cluster",
        "--threads is the total over all workers for processes and loky, and per part for dask and "
        "mpi",
    )
    cluster.add_argument(
        "--part", metavar="i/n", help="compute only the i-th of n parts, into a file of its own"
    )
    cluster.add_argument("--parts", type=int, metavar="n", help="compute n parts and merge them")
    cluster.add_argument("--executor", metavar="NAME", help=EXECUTOR_HELP)
    writing_options(gram)
    gram.set_defaults(run="gram")

    merge = parsers.add_parser("merge", help="merge the parts of a job into one file")
    merge.add_argument(
        "parts", metavar="PART", nargs="+", help="the files of all parts, in any order"
    )
    output_option(merge)
    _layout_option(merge)
    _merge_options(merge)
    writing_options(merge)
    merge.set_defaults(run="merge")

    plan = parsers.add_parser(
        "plan", help="show the disk space, memory and time of a job, without computing it"
    )
    _job_options(plan)
    plan.add_argument("--json", action="store_true", help="print JSON, with sizes in bytes")
    plan.set_defaults(run="plan")

    slurm = parsers.add_parser(
        "slurm", help="print a script for Slurm: an array of parts, and a merge after it"
    )
    _job_options(slurm, threads=False)  # --cpus says how many
    _slurm_options(slurm)
    slurm.set_defaults(run="slurm")

    matrix_parsers(parsers)
    learning_parsers(parsers)

    info = parsers.add_parser("info", help="show the contents of a file")
    info.add_argument("file", metavar="FILE", help="the Gram file, factor, checkpoint or model")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run="info")

    verify = parsers.add_parser("verify", help="read a whole file and check it")
    verify.add_argument("file", metavar="FILE", help="the Gram file, factor, checkpoint or model")
    verify.add_argument(
        "--data",
        metavar="X",
        help=f"also compute a sample of the entries again from X: {DATA_HELP}; of a factor, "
        "compare it with the Gram file X",
    )
    verify.add_argument("--against", metavar="Z", help="the second data set, for K(X, Z)")
    verify.add_argument(
        "--repair", action="store_true", help="with --data, compute bad tiles again, in place"
    )
    verify.set_defaults(run="verify")

    plot = parsers.add_parser("plot", help="draw the matrix of a file and its eigenvalues")
    plot.add_argument(
        "file", metavar="FILE", help="the Gram file, or a matrix: .npy, .npz:key, .h5:dataset"
    )
    plot.add_argument(
        "-o", "--output", required=True, metavar="PICTURE",
        help="the picture to write: .png, .pdf or .svg",
    )  # fmt: skip
    plot.add_argument(
        "--kernel", choices=["ntk", "nngp"], help="the kernel to draw [ntk, if the file has it]"
    )
    plot.add_argument("--layer", type=int, help="the layer, in a file of all layers [the last]")
    plot.add_argument(
        "--scale", choices=["linear", "normalized", "log", "clipped"], default="linear",
        help="colours of the entries, of cosines K/√(KK′), of logarithms, or of entries between "
        "the 1st and 99th percentile [%(default)s]",
    )  # fmt: skip
    plot.add_argument(
        "--labels", metavar="Y", help="sort rows by labels from a file; formats as for gram"
    )
    plot.set_defaults(run="plot")

    check = parsers.add_parser("check", help="test the kernels against networks of finite width")
    check.add_argument("data", metavar="X", help=f"the samples, one per row: {DATA_HELP}")
    network_options(check)
    test = check.add_argument_group("test")
    test.add_argument(
        "--width", type=int, default=1024, metavar="n", help="largest width [%(default)s]"
    )
    test.add_argument(
        "--draws", type=int, default=64,
        help="networks of each width n, n/2 and n/4 [%(default)s]",
    )  # fmt: skip
    test.add_argument(
        "--samples", type=int, default=32, help="number of rows of X that are used [%(default)s]"
    )
    test.add_argument(
        "--outputs", type=int, default=4, help="number of outputs of a network [%(default)s]"
    )
    test.add_argument(
        "--false-alarm", type=float, default=1e-3, metavar="P",
        help="probability that the check fails although the kernels are right [%(default)s]",
    )  # fmt: skip
    test.add_argument("--seed", type=int, default=0, help="seed of the networks [%(default)s]")
    test.add_argument(
        "--threads", type=int, metavar="N", help="largest number of threads [all cores]"
    )
    check.add_argument("--json", action="store_true", help="print JSON")
    check.add_argument(
        "--plot", metavar="PICTURE", help="also draw Θ against the angle, to .png, .pdf or .svg"
    )
    check.set_defaults(run="check")
    return whole


def _job_options(parser: argparse.ArgumentParser, *, threads: bool = True) -> None:
    """Add the options that describe a job.

    threads : whether the job runs on this machine, so that its threads are an option
    """
    default_memory = "a quarter of the free memory" if threads else "estimated"
    parser.add_argument("data", metavar="X", help=f"the samples, one per row: {DATA_HELP}")
    output_option(parser)
    parser.add_argument("--against", metavar="Z", help="compute K(X, Z) instead of K(X, X)")
    network_options(parser)
    result = parser.add_argument_group("result")
    result.add_argument(
        "--kernel",
        action="append",
        choices=["ntk", "nngp"],
        help="the kernel; repeat the option for both [ntk]",
    )
    result.add_argument(
        "--layers", choices=["last", "all"], default="last",
        help="the layers whose kernels are stored [%(default)s]",
    )  # fmt: skip
    dtype_option(result)
    result.add_argument(
        "--up-to", type=float, metavar="NORM",
        help="the largest norm that a row of X or Z may have, to which some activations are "
        "fitted (tanh, elu, …); files with the same one fit together, and a part reads only its "
        "own rows [measured]",
    )  # fmt: skip
    _layout_option(result)
    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--memory",
        metavar="SIZE",
        help=f"largest memory to use, such as 2GiB [{default_memory}]",
    )
    if threads:
        machine.add_argument(
            "--threads", type=int, metavar="N", help="largest number of threads [all cores]"
        )


def _merge_options(parser: Any) -> None:
    """Add the options of a merge that concern its parts."""
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument(
        "--link",
        action="store_true",
        help="write a small file that refers to the parts, which have to stay",
    )
    ways.add_argument(
        "--delete-parts", action="store_true", help="delete each part as soon as it is merged"
    )


def _slurm_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the two jobs of Slurm."""
    array = parser.add_argument_group(
        "array", "options that are left out are estimated on this machine"
    )
    array.add_argument(
        "--parts", type=int, metavar="n", help="number of parts [parts of half an hour each]"
    )
    array.add_argument(
        "--cpus", type=int, metavar="N", help="cores of an element [as many as this machine]"
    )
    array.add_argument(
        "--time", type=int, metavar="MINUTES", help="time limit of an element [estimated]"
    )
    array.add_argument("--name", default="gram", help="name of both jobs [%(default)s]")
    for name in ("partition", "account", "QOS"):
        array.add_argument(f"--{name.lower()}", help=f"the {name} of both jobs")
    array.add_argument(
        "--grace", type=int, default=180, metavar="SECONDS",
        help="time before its limit at which an element stops, to be requeued [%(default)s]",
    )  # fmt: skip
    array.add_argument(
        "--requeues",
        type=int,
        default=20,
        metavar="N",
        help="largest number of times that a stopped element is requeued [%(default)s]",
    )
    array.add_argument(
        "--at-once",
        type=int,
        metavar="N",
        help="largest number of elements that run at a time [all]",
    )
    array.add_argument(
        "--logs",
        default="logs",
        metavar="FOLDER",
        help="folder for the logs of the jobs [%(default)s]",
    )
    array.add_argument(
        "--max-array", type=int, default=1001, metavar="N",
        help="the cluster's MaxArraySize [%(default)s]",
    )  # fmt: skip
    array.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="OPTION",
        help="another option of sbatch, for both jobs; may be repeated",
    )
    array.add_argument(
        "--setup", action="append", default=[], metavar="LINE",
        help="a shell line before the command, such as 'module load python'; may be repeated",
    )  # fmt: skip
    merge = parser.add_argument_group("merge")
    _merge_options(merge)
    merge.add_argument(
        "--dependency", choices=["afterany", "afterok"], default="afterany",
        help="afterany: run even if parts fail, and name those to submit again; afterok: run only "
        "if all parts succeed [%(default)s]",
    )  # fmt: skip
    merge.add_argument(
        "--merge-cpus", type=int, default=2, metavar="N", help="cores of the merge [%(default)s]"
    )
    merge.add_argument(
        "--merge-memory", default="2GiB", metavar="SIZE", help="memory of the merge [%(default)s]"
    )
    merge.add_argument(
        "--merge-time", type=int, metavar="MINUTES",
        help="time limit of the merge [estimated from the size of the file]",
    )  # fmt: skip


def _layout_option(parser: Any) -> None:
    """Add the option that says which tiles the result stores."""
    parser.add_argument(
        "--layout", choices=["full", "lower"], default="full",
        help="lower stores only the tiles on and below the diagonal, half of the bytes "
        "[%(default)s]",
    )  # fmt: skip


def gram_words(options: argparse.Namespace, **changed: Any) -> list[str]:
    """Return the words of the command that computes a job.

    changed : values that replace those of the options
    """
    parser = argparse.ArgumentParser(add_help=False)
    _job_options(parser, threads=False)
    return ["ntk-numba", "gram", *_words(parser, vars(options) | changed)]


def merge_words(options: argparse.Namespace, parts: Word) -> list[str | Word]:
    """Return the words of the command that merges the parts of a job.

    parts : the word that stands for all parts
    """
    parser = argparse.ArgumentParser(add_help=False)
    for add in (output_option, _layout_option, _merge_options):
        add(parser)
    return ["ntk-numba", "merge", parts, *_words(parser, vars(options))]


def _words(parser: argparse.ArgumentParser, values: dict[str, Any]) -> Iterator[str]:
    """Yield the words that a parser turns into these values; defaults are left out."""
    for action in parser._actions:
        value = values[action.dest]
        if value == action.default:
            continue
        if not action.option_strings:
            # a path that begins with a dash would be taken for an option
            yield f"./{value}" if str(value).startswith("-") else str(value)
        elif action.nargs == 0:
            yield action.option_strings[0]
        else:
            for item in value if isinstance(value, list) else [value]:
                # so would a value like -1
                text, names = str(item), action.option_strings
                yield from [f"{names[-1]}={text}"] if text.startswith("-") else [names[0], text]
