"""The command line. Each command imports what it needs, so that help does not wait for a compiler.

Exit codes: 0 done; 2 wrong usage or bad input, nothing written; 3 stopped before the end; 4 a check
failed. Results go to standard output, progress and errors to standard error.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import ntk_numba
from ntk_numba import stopping

if TYPE_CHECKING:
    from ntk_numba.files.gram_file import GramFile, Report
    from ntk_numba.network import MLP

DONE, BAD_INPUT, STOPPED, CHECK_FAILED = 0, 2, 3, 4
PATIENCE = 8  # seconds from a signal to the end, at most
STOPS = signal.SIGINT, signal.SIGTERM, signal.SIGUSR1

DATA_HELP = "x.npy, x.npz:key, x.h5:dataset or x.csv; :key may be left out where there is one array"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    sys.stderr = _Forgiving(sys.stderr)
    sys.unraisablehook = _unraisable
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # as where it knows no ×
    options = _parser().parse_args(arguments)
    for number in STOPS:
        signal.signal(number, _stop)
    try:
        code = options.run(options)
        if sys.stdout:
            sys.stdout.flush()
    except stopping.Stopped as stop:
        _say("; ".join(["stopped", *getattr(stop, "__notes__", ["run the same command again"])]))
        code = STOPPED
    except (ValueError, TypeError, OSError, ArithmeticError, RuntimeError) as error:
        if isinstance(error, OSError):
            _drop_output()
        if isinstance(error, BrokenPipeError):
            sys.exit(DONE)  # the reader of our output has seen enough
        _say("; ".join([str(error), *getattr(error, "__notes__", [])]))
        code = STOPPED if _can_go_on(error) else BAD_INPUT
    except MemoryError as error:
        _say(f"out of memory ({error}); give a smaller --memory")
        code = BAD_INPUT
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)  # all is done but for Python's own end
    sys.exit(code)


class _Forgiving:
    """Standard error that may be closed or full: what is said there is not worth a job."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stream.flush()

    def isatty(self) -> bool:
        with contextlib.suppress(ValueError, AttributeError):
            return bool(self._stream.isatty())
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _unraisable(error: Any) -> None:
    """What a signal raises in a callback of the compiler is lost there; it was asked for too."""
    if error.exc_type is not stopping.Stopped:
        sys.__unraisablehook__(error)


def _drop_output() -> None:
    """Have nothing printed any more, if that fails: it would be tried again at Python's end."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _stop(signum: int, frame: Any) -> None:
    for number in STOPS:
        signal.signal(number, _leave)
    # should what is raised be lost, or the job be long in reaching a place to stop
    timer = threading.Timer(PATIENCE, _leave)
    timer.daemon = True
    with contextlib.suppress(RuntimeError):  # no threads left
        timer.start()
    stopping.ask()


def _leave(*_: Any) -> NoReturn:
    """At once, as a kill would; nothing is lost by that but tiles in flight."""
    with contextlib.suppress(OSError):
        os.write(2, b"ntk-numba: stopped at once; run the same command again\n")
    os._exit(STOPPED)


def _can_go_on(error: Exception) -> bool:
    from ntk_numba.files.store import StoppedError

    return isinstance(error, StoppedError)


def _say(text: str) -> None:
    print(f"ntk-numba: {text}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ntk-numba",
        description="Exact infinite-width kernels (NTK and NNGP) of fully connected networks, as "
        "Gram matrices in HDF5 files.",
        epilog="Exit codes: 0 done; 2 wrong usage or bad input; 3 stopped before the end; "
        "4 a check failed.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {ntk_numba.__version__}")
    commands = parser.add_subparsers(metavar="command", required=True)

    gram = commands.add_parser("gram", help="compute kernels into a file")
    _job_options(gram)
    gram.add_argument("--overwrite", action="store_true", help="replace an existing output")
    noise = gram.add_mutually_exclusive_group()
    noise.add_argument("--quiet", action="store_true", help="no progress bar")
    noise.add_argument(
        "--progress", action="store_true", help="a progress bar even if this is no terminal"
    )
    gram.set_defaults(run=_gram)

    plan = commands.add_parser("plan", help="what a job would take; computes nothing")
    _job_options(plan)
    plan.add_argument("--json", action="store_true", help="for scripts, sizes in bytes")
    plan.set_defaults(run=_plan)

    info = commands.add_parser("info", help="what a file holds")
    info.add_argument("file", metavar="FILE")
    info.add_argument("--json", action="store_true", help="for scripts")
    info.set_defaults(run=_info)

    verify = commands.add_parser("verify", help="read a file whole and check it")
    verify.add_argument("file", metavar="FILE")
    verify.add_argument("--data", metavar="X", help=f"compute a sample anew from it: {DATA_HELP}")
    verify.add_argument("--against", metavar="Z", help="the second data set, if there was one")
    verify.add_argument(
        "--repair", action="store_true", help="with --data: compute the bad tiles again, in place"
    )
    verify.set_defaults(run=_verify)

    plot = commands.add_parser("plot", help="draw a file: the matrix and its eigenvalues")
    plot.add_argument("file", metavar="FILE")
    plot.add_argument("-o", "--output", required=True, metavar="PICTURE", help=".png, .pdf, .svg")
    plot.add_argument("--kernel", choices=["ntk", "nngp"])
    plot.add_argument("--layer", type=int, help="in a file of all layers; by default the last")
    plot.add_argument("--labels", metavar="Y", help="sort rows by these labels, a file as for gram")
    plot.set_defaults(run=_plot)

    check = commands.add_parser("check", help="test the kernels against networks of finite width")
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
    check.set_defaults(run=_check)
    return parser


def _job_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="X", help=f"the samples, one a row: {DATA_HELP}")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the HDF5 file")
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
    machine = parser.add_argument_group("machine")
    machine.add_argument("--memory", metavar="SIZE", help="at most, as 2GiB [a quarter of it]")
    machine.add_argument("--threads", type=int, metavar="N", help="at most [all cores]")


def _network_options(parser: argparse.ArgumentParser) -> None:
    net = parser.add_argument_group("network", "one value for all layers, or the option repeated")
    net.add_argument("--depth", type=int, required=True, metavar="L", help="weight layers")
    net.add_argument(
        "--activation", action="append", metavar="NAME", help="name or name:parameters [relu]"
    )
    net.add_argument("--w-std", action="append", type=float, metavar="σ", help="of weights [1]")
    net.add_argument("--b-std", action="append", type=float, metavar="β", help="of biases [0]")


def _network(options: argparse.Namespace) -> "MLP":
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


def _gram(options: argparse.Namespace) -> int:
    with ntk_numba.write_gram(
        _network(options),
        options.data,
        options.output,
        Z=options.against,
        kernels=options.kernel or ["ntk"],
        layers=options.layers,
        dtype=options.dtype,
        memory=options.memory,
        threads=options.threads,
        overwrite=options.overwrite,
        progress=not options.quiet and (options.progress or sys.stderr.isatty()),
    ) as file:
        shape = " × ".join(f"{n:,}" for n in file.shape)
        try:
            print(f"{options.output}: {', '.join(file.kernels)}, {shape}, {file.dtype}", flush=True)
        except OSError:  # the file is there, whether this is read or not
            _drop_output()
    return DONE


def _plan(options: argparse.Namespace) -> int:
    import shutil

    from ntk_numba.files.source import open_source
    from ntk_numba.files.store import check_folder, check_space
    from ntk_numba.grid import show_bytes
    from ntk_numba.jobs.estimate import estimate
    from ntk_numba.jobs.plan import make_plan

    net = _network(options)
    x = open_source(options.data, "X")
    z = None if options.against is None else open_source(options.against, "Z")
    plan = make_plan(
        net, x, z, options.kernel or ["ntk"], options.layers, options.dtype,
        options.memory, options.threads,
    )  # fmt: skip
    target = Path(options.output)
    check_folder(target)
    check_space(target, plan.output_bytes)
    free = shutil.disk_usage(target.parent).free
    seconds = estimate(plan, x, target.parent)
    facts = plan.to_dict() | {
        "disk_free_bytes": free,
        "seconds_compute": seconds.compute,
        "seconds_write": seconds.write,
        "seconds": seconds.total,
    }
    if options.json:
        print(json.dumps(facts, indent=2))
    else:
        band = facts["band_rows"]
        whole = band >= max(plan.grid.rows, plan.grid.columns)
        where = "all at once" if whole else f"two bands of {band:,}"
        for key, value in {
            "matrix": f"{plan.grid.rows:,} × {plan.grid.columns:,}"
            + (" symmetric" if plan.grid.symmetric else "")
            + f", {', '.join(plan.kernels)}, {facts['layers']} layer"
            + ("s" if plan.every else ""),
            "network": str(net),
            "samples": f"{plan.features:,} features, {plan.dtype}, {where}",
            "tiles": f"{plan.grid.count:,} of {plan.grid.tile} × {plan.grid.tile}",
            "disk": f"{show_bytes(plan.output_bytes)} of {show_bytes(free)} free",
            "memory": f"{show_bytes(plan.working)} beside Python and its libraries, "
            f"{show_bytes(plan.memory)} allowed",
            "time": f"{_duration(seconds.total)} on {plan.threads} threads "
            f"(computing {_duration(seconds.compute)}, writing {_duration(seconds.write)})",
        }.items():
            print(f"{key:8} {value}")
    return DONE


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.0f} min" if minutes < 100 else f"{hours:.1f} h"


def _info(options: argparse.Namespace) -> int:
    from ntk_numba.grid import show_bytes

    with ntk_numba.open_gram(options.file, incomplete=True) as file:
        facts = _facts(file)
    if options.json:
        print(json.dumps(facts, indent=2))
        return DONE
    for key, value in facts.items():
        if key == "net":
            value = str(file.net)
        elif isinstance(value, list):
            value = (" × " if key == "shape" else ", ").join(map(str, value))
        elif key == "bytes":
            value = show_bytes(value)
        print(f"{key:16} {value}")
    return DONE


def _facts(file: "GramFile") -> dict[str, Any]:
    contents = file.contents
    return {
        "file": str(file.path),
        "complete": file.complete,
        "tiles": contents.grid.count,
        "tiles_done": int(file.done.sum()),
        "kernels": list(file.kernels),
        "shape": list(file.shape),
        "symmetric": contents.grid.symmetric,
        "layers": "all" if contents.every else "last",
        "dtype": str(file.dtype),
        "tile": contents.grid.tile,
        "bytes": file.path.stat().st_size,
        "net": file.net.to_dict(),
        "fingerprint": file.net.fingerprint,
        "input_digest": contents.input_digest,
        "against_digest": contents.against_digest,
        "package_version": file.package_version,
    }


def _verify(options: argparse.Namespace) -> int:
    if options.repair and options.data is None:
        raise ValueError("--repair computes tiles again; give it their data with --data")
    progress = sys.stderr.isatty()
    # an incomplete file is not repaired but gone on with
    with ntk_numba.open_gram(options.file, incomplete=not options.repair) as file:
        report, complete = file.verify(progress), file.complete
    good = _print_report(report)
    if options.repair and report.bad:
        good = _print_report(
            ntk_numba.repair(
                options.file, options.data, options.against, report.bad, progress=progress
            )
        )
    if options.data is not None and complete:
        from ntk_numba.jobs.verify import verify_sample

        with ntk_numba.open_gram(options.file) as file:
            good &= _print_report(verify_sample(file, options.data, options.against))
    return DONE if good else CHECK_FAILED


def _print_report(report: "Report") -> bool:
    for line in report.problems:
        print(f"WRONG  {line}")
    if report:
        for line in report.checks:
            print(f"ok     {line}")
    return bool(report)


def _plot(options: argparse.Namespace) -> int:
    from ntk_numba.jobs.picture import new_figure
    from ntk_numba.jobs.plot import plot_gram

    new_figure(options.output)  # what cannot be saved is refused before the work
    with ntk_numba.open_gram(options.file) as file:
        plot_gram(file, options.output, options.kernel, options.layer, options.labels)
    print(options.output)
    return DONE


def _check(options: argparse.Namespace) -> int:
    from ntk_numba.jobs.angle_plot import plot_angle
    from ntk_numba.jobs.picture import new_figure

    net = _network(options)
    if options.plot:
        new_figure(options.plot)  # what cannot be saved is refused before the work
    report = ntk_numba.check(
        net, options.data, options.width, options.draws, options.samples, options.outputs,
        options.false_alarm, options.seed, options.threads,
    )  # fmt: skip
    print(json.dumps(report.to_dict(), indent=2) if options.json else report)
    if options.plot:
        plot_angle(
            net, options.plot, report.widths, options.draws, seed=options.seed,
            threads=options.threads,
        )  # fmt: skip
    return DONE if report.passed else CHECK_FAILED
