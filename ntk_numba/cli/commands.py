"""What the commands do. Each imports what it needs, so that help does not wait for a compiler.

A command returns whether all is well: False where a check failed.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ntk_numba
from ntk_numba.errors import InvalidValueError

if TYPE_CHECKING:
    from ntk_numba.gramfile.reader import GramFile, Report
    from ntk_numba.network import MLP


MEMORY_STEP = 256 << 20  # that the memory of a job is rounded up to


def drop_output() -> None:
    """Have nothing printed any more, if that fails: it would be tried again at Python's end."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


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


def _result(options: argparse.Namespace) -> dict[str, Any]:
    """Return what is computed, as keyword arguments."""
    return {
        "kernels": options.kernel or ["ntk"],
        "layers": options.layers,
        "dtype": options.dtype,
    }


def gram(options: argparse.Namespace) -> bool:
    """Compute kernels into a file."""
    if options.executor is None:
        return _gram(options, None, options.threads)
    if options.parts is None:
        raise InvalidValueError("--executor computes parts: say how many, as --parts 16")
    from ntk_numba.cluster.schedulers import open_executor

    with open_executor(options.executor, options.threads) as (executor, threads):
        # a rank of MPI but the first has served, and is done
        return executor is None or _gram(options, executor, threads)


def _gram(options: argparse.Namespace, executor: Any, threads: int | None) -> bool:
    return _say_what(
        ntk_numba.write_gram(
            _network(options),
            options.data,
            options.output,
            Z=options.against,
            **_result(options),
            memory=options.memory,
            threads=threads,
            part=options.part,
            parts=options.parts,
            executor=executor,
            layout=options.layout,
            overwrite=options.overwrite,
            progress=_progress(options),
            largest_norm=options.largest_norm,
        )
    )


def _progress(options: argparse.Namespace) -> bool:
    return not options.quiet and (options.progress or sys.stderr.isatty())


def _say_what(file: "GramFile") -> bool:
    """What was written; the file is there, whether this is read or not."""
    with file:
        shape = " × ".join(f"{n:,}" for n in file.shape)
        c = file.contents
        what = (
            "" if c.layout == "full" else ", lower" if c.layout == "lower" else f", part {c.part}"
        )
        try:
            print(
                f"{file.path}: {', '.join(file.kernels)}, {shape}, {file.dtype}{what}", flush=True
            )
        except OSError:
            drop_output()
    return True


def merge(options: argparse.Namespace) -> bool:
    """Put parts together."""
    return _say_what(
        ntk_numba.merge(
            options.parts,
            options.output,
            layout=options.layout,
            link=options.link,
            delete_parts=options.delete_parts,
            overwrite=options.overwrite,
            progress=_progress(options),
        )
    )


def slurm(options: argparse.Namespace) -> bool:
    """Print a script for Slurm."""
    from ntk_numba.arguments import parse_bytes, whole_number
    from ntk_numba.cluster.cover import PARTS_OF, check_layout
    from ntk_numba.cluster.slurm import (
        SlurmOptions,
        merge_minutes_for,
        minutes_for,
        parts_for,
        slurm_script,
    )
    from ntk_numba.compute.estimate import estimate
    from ntk_numba.compute.plan import INTERPRETER, make_plan
    from ntk_numba.gramfile.writer import check_folder
    from ntk_numba.grid import Part
    from ntk_numba.inputs.source import open_sources

    for name in ("parts", "cpus", "time", "merge_time"):
        if (value := getattr(options, name)) is not None:
            whole_number(f"--{name.replace('_', '-')}", value)
    net = _network(options)
    x, z = open_sources(options.data, options.against)
    target = Path(options.output)
    check_folder(target)
    layout = check_layout(options.layout, z is None)
    whole = make_plan(net, x, z, **_result(options), part=layout)
    cpus = options.cpus or whole.threads
    seconds = 0.0
    if options.parts is None or options.time is None:
        here = estimate(whole, x, target.parent)
        seconds = max(here.compute * whole.threads / cpus, here.write)
    parts = options.parts or parts_for(seconds, whole.count, options.max_array)
    part = make_plan(
        net, x, z, **_result(options), memory=options.memory, part=Part(1, parts),
        largest_norm=whole.largest_norm,
    )  # fmt: skip
    memory = part.memory
    if not options.memory:
        needed = INTERPRETER + part.working * cpus // part.threads
        memory = -(-needed // MEMORY_STEP) * MEMORY_STEP
    minutes = options.time or minutes_for(seconds, parts)
    merge_minutes = options.merge_time or merge_minutes_for(whole.output_bytes)
    slurm_options = SlurmOptions(
        parts=parts,
        cpus=cpus,
        memory=memory + memory // 4,
        minutes=minutes,
        name=options.name,
        partition=options.partition,
        account=options.account,
        qos=options.qos,
        grace=options.grace,
        requeues=options.requeues,
        at_once=options.at_once,
        logs=options.logs,
        dependency=options.dependency,
        extra=tuple(options.sbatch),
        setup=tuple(options.setup),
        merge_cpus=options.merge_cpus,
        merge_memory=parse_bytes(options.merge_memory, "--merge-memory"),
        merge_minutes=merge_minutes,
        max_array=options.max_array,
    )
    gram = ["ntk-numba", "gram", options.data, "-o", options.output, *_job_words(options)]
    pattern = target.with_name(PARTS_OF.format(target.stem, "*", parts, target.suffix))
    merge = ["ntk-numba", "merge", str(pattern), "-o", options.output]
    merge += ["--layout", "lower"] * (options.layout == "lower")
    merge += ["--link"] * options.link + ["--delete-parts"] * options.delete_parts
    gram += ["--memory", f"{memory >> 20}MiB"]
    if whole.largest_norm is not None:  # measured here, once for all parts
        gram += ["--largest-norm", repr(whole.largest_norm)]
    print(slurm_script(gram, merge, slurm_options), end="")
    return True


def _job_words(options: argparse.Namespace) -> list[str]:
    """The words of a command that say what is computed, but for X and the output."""
    words = ["--depth", str(options.depth)]
    for name in ("activation", "w_std", "b_std", "kernel"):
        for value in getattr(options, name) or []:
            words += [f"--{name.replace('_', '-')}", str(value)]
    for name in ("against", "layers", "dtype"):
        if (value := getattr(options, name)) not in (None, "last"):
            words += [f"--{name}", str(value)]
    return words


def plan(options: argparse.Namespace) -> bool:
    """Say what a job would take."""
    import shutil

    from ntk_numba.arguments import show_bytes
    from ntk_numba.cluster.cover import check_layout
    from ntk_numba.cluster.slurm import MAX_ARRAY, parts_for
    from ntk_numba.compute.estimate import estimate
    from ntk_numba.compute.plan import make_plan
    from ntk_numba.gramfile.writer import check_folder, check_space
    from ntk_numba.inputs.source import open_sources

    net = _network(options)
    x, z = open_sources(options.data, options.against)
    plan = make_plan(
        net,
        x,
        z,
        **_result(options),
        memory=options.memory,
        threads=options.threads,
        part=check_layout(options.layout, z is None),
    )
    target = Path(options.output)
    check_folder(target)
    check_space(target, plan.output_bytes)
    free = shutil.disk_usage(target.parent).free
    seconds = estimate(plan, x, target.parent)
    parts = parts_for(seconds.total, plan.count)
    facts = plan.to_dict() | {
        "parts": parts,
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
            + ("s" if plan.all_layers else ""),
            "network": str(net),
            "samples": f"{plan.features:,} features, {plan.dtype}, {where}",
            "tiles": f"{plan.grid.count:,} of {plan.grid.tile} × {plan.grid.tile}",
            "disk": f"{show_bytes(plan.output_bytes)} of {show_bytes(free)} free",
            "memory": f"{show_bytes(plan.working)} beside Python and its libraries, "
            f"{show_bytes(plan.memory)} allowed",
            "time": f"{_duration(seconds.total)} on {plan.threads} threads "
            f"(computing {_duration(seconds.compute)}, writing {_duration(seconds.write)})",
            "parts": f"{parts:,} of {_duration(seconds.total / parts)} each, on such a machine"
            + (", the most that arrays have by default" if parts == MAX_ARRAY - 1 else "")
            if parts > 1
            else "one: shorter than those worth an array of jobs",
        }.items():
            print(f"{key:8} {value}")
    return True


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.0f} min" if minutes < 100 else f"{hours:.1f} h"


def info(options: argparse.Namespace) -> bool:
    """Say what a file holds."""
    from ntk_numba.arguments import show_bytes

    with ntk_numba.open_gram(options.file, incomplete=True) as file:
        facts = _facts(file)
    if options.json:
        print(json.dumps(facts, indent=2))
        return True
    for key, value in facts.items():
        if key == "net":
            value = str(file.net)
        elif isinstance(value, list):
            value = (" × " if key == "shape" else ", ").join(map(str, value))
        elif key == "bytes":
            value = show_bytes(value)
        print(f"{key:16} {value}")
    return True


def _facts(file: "GramFile") -> dict[str, Any]:
    contents = file.contents
    return {
        "file": str(file.path),
        "complete": file.complete,
        "tiles": contents.count,
        "tiles_done": int(file.done.sum()),
        "layout": contents.layout,
        "part": str(contents.part or "1/1"),
        "linked": [name for name, _ in file.linked],
        "kernels": list(file.kernels),
        "shape": list(file.shape),
        "symmetric": contents.grid.symmetric,
        "layers": contents.layers,
        "dtype": str(file.dtype),
        "error": list(contents.error),
        "tile": contents.grid.tile,
        "bytes": file.path.stat().st_size,
        "net": file.net.to_dict(),
        "fingerprint": file.net.fingerprint,
        "input_digest": contents.x.hex,
        "against_digest": contents.z.hex if contents.z else "",
        "package_version": file.package_version,
    }


def verify(options: argparse.Namespace) -> bool:
    """Read a file whole and check it, and repair it."""
    if options.repair and options.data is None:
        raise InvalidValueError("--repair computes tiles again; give it their data with --data")
    progress = sys.stderr.isatty()
    # an incomplete file is not repaired but gone on with
    with ntk_numba.open_gram(options.file, incomplete=not options.repair) as file:
        report, complete = file.verify(progress=progress), file.complete
    good = _print_report(report)
    if options.repair and report.bad:
        good = _print_report(
            ntk_numba.repair(
                options.file, options.data, options.against, bad=report.bad, progress=progress
            )
        )
    if options.data is not None and complete:
        from ntk_numba.compute.verify import verify_sample

        with ntk_numba.open_gram(options.file) as file:
            good &= _print_report(verify_sample(file, options.data, options.against))
    return good


def _print_report(report: "Report") -> bool:
    for line in report.problems:
        print(f"WRONG  {line}")
    if report:
        for line in report.checks:
            print(f"ok     {line}")
    return bool(report)


def activations(options: argparse.Namespace) -> bool:
    """Print the table of activations, and draw them."""
    from ntk_numba.activations.table import describe, names

    facts = [describe(name) for name in options.names or names()]
    if options.plot:
        from ntk_numba.plots.activations import plot_activations

        plot_activations([f["example"] for f in facts], options.plot, q=options.q)
    if options.json:
        print(json.dumps(facts, indent=2))
        return True
    columns = ("name", "parameters", "σ(x)", "dual", "domain", "Θ")
    rows = [columns, *([str(f[c]) for c in columns] for f in facts)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(columns))]
    for row in rows:
        print("  ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)).rstrip())
    return True


def plot(options: argparse.Namespace) -> bool:
    """Draw a file."""
    from ntk_numba.plots.figure import new_figure
    from ntk_numba.plots.gram import plot_gram

    new_figure(options.output)  # what cannot be saved is refused before the work
    with ntk_numba.open_gram(options.file) as file:
        plot_gram(
            file,
            options.output,
            kernel=options.kernel,
            layer=options.layer,
            labels=options.labels,
        )
    print(options.output)
    return True


def check(options: argparse.Namespace) -> bool:
    """Test the kernels against networks of finite width."""
    from ntk_numba.plots.angle import plot_angle
    from ntk_numba.plots.figure import new_figure

    net = _network(options)
    if options.plot:
        new_figure(options.plot)  # what cannot be saved is refused before the work
    report = ntk_numba.check(
        net,
        options.data,
        width=options.width,
        draws=options.draws,
        samples=options.samples,
        n_out=options.outputs,
        false_alarm=options.false_alarm,
        seed=options.seed,
        threads=options.threads,
    )
    print(json.dumps(report.to_dict(), indent=2) if options.json else report)
    if options.plot:
        plot_angle(
            net,
            options.plot,
            report.widths,
            draws=options.draws,
            seed=options.seed,
            threads=options.threads,
        )
    return bool(report.passed)
