"""The commands of the command line, which `program.main` calls.

Each command imports what it needs, so that --help does not wait for the compiler. A command returns
True, or False if a check failed.
"""

import argparse
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ntk_numba
from ntk_numba.cli.groups import network_of, wants_progress
from ntk_numba.cli.output import flush, show, show_json, show_report, show_script, typed
from ntk_numba.errors import InvalidValueError, UnderflowWarning

if TYPE_CHECKING:
    from ntk_numba.cluster.write import Job
    from ntk_numba.compute.estimate import Estimate, Uses
    from ntk_numba.compute.plan import Plan
    from ntk_numba.gramfile.reader import GramFile


def _job(options: argparse.Namespace) -> "Job":
    """Return the job that the options describe."""
    from ntk_numba.cluster.write import Job

    return Job(
        net=network_of(options),
        x=options.data,
        z=options.against,
        kernels=options.kernel or ["ntk"],
        layers=options.layers,
        dtype=options.dtype,
        memory=options.memory,
        threads=getattr(options, "threads", None),
        up_to=options.up_to,
    )


def gram(options: argparse.Namespace) -> bool:
    """Compute kernels into a file."""
    if options.executor is None:
        return _gram(options, None, options.threads)
    if options.parts is None:
        raise InvalidValueError("--executor computes parts: say how many, as --parts 16")
    from ntk_numba.cluster.schedulers import open_executor

    with open_executor(options.executor, options.threads) as (executor, threads):
        # ranks of MPI other than 0 have computed their parts and are done
        return executor is None or _gram(options, executor, threads)


def _gram(options: argparse.Namespace, executor: Any, threads: int | None) -> bool:
    """Compute kernels into a file, on an executor if there is one."""
    job = _job(options)
    return _print_result(
        ntk_numba.write_gram(
            job.net,
            options.data,
            options.output,
            Z=options.against,
            kernels=job.kernels,
            layers=job.layers,
            dtype=job.dtype,
            memory=job.memory,
            threads=threads,
            part=options.part,
            parts=options.parts,
            executor=executor,
            layout=options.layout,
            overwrite=options.overwrite,
            progress=wants_progress(options),
            up_to=job.up_to,
        ),
        options.output,
    )


def _print_result(file: "GramFile", output: str) -> bool:
    """Print the name and contents of a written file; return True.

    output : the name that the user has typed
    """
    path = typed(file.path, output)
    with file:
        shape = " × ".join(f"{n:,}" for n in file.shape)
        facts = [", ".join(file.kernels), shape, str(file.dtype)]
        if label := file.contents.storage.label:
            facts.append(label)
        show(f"{path}: {', '.join(facts)}")
        flush()
    return True


def merge(options: argparse.Namespace) -> bool:
    """Merge the parts of a job."""
    return _print_result(
        ntk_numba.merge(
            options.parts,
            options.output,
            layout=options.layout,
            link=options.link,
            delete_parts=options.delete_parts,
            overwrite=options.overwrite,
            progress=wants_progress(options),
        ),
        options.output,
    )


def slurm(options: argparse.Namespace) -> bool:
    """Print a script for Slurm."""
    from ntk_numba.arguments import parse_bytes, whole_number
    from ntk_numba.cli.options import gram_words, merge_words
    from ntk_numba.cluster.cover import part_path
    from ntk_numba.cluster.shell import NamesOfParts
    from ntk_numba.cluster.slurm import SlurmOptions, Wanted, design_array, slurm_script
    from ntk_numba.gramfile.place import check_folder
    from ntk_numba.gramfile.storage import parse_layout
    from ntk_numba.grid import Part

    for name in ("parts", "cpus", "time", "merge_time"):
        if (value := getattr(options, name)) is not None:
            whole_number(f"--{name.replace('_', '-')}", value)
    job = _job(options)
    target, logs = Path(options.output), Path(options.logs)
    check_folder(target)
    if logs.exists() and not logs.is_dir():
        raise InvalidValueError(f"{logs} is not a folder; choose another one with --logs")
    if "\\" in str(Path.cwd()) and not logs.is_absolute():
        raise InvalidValueError(
            f"Slurm cannot write logs below {Path.cwd()}, whose name has a backslash; give --logs "
            "a path that begins with /"
        )
    stored = parse_layout(options.layout, options.against is None)
    array = design_array(
        job,
        stored,
        target.parent,
        Wanted(
            parts=options.parts,
            cpus=options.cpus,
            minutes=options.time,
            merge_minutes=options.merge_time,
            max_array=options.max_array,
        ),
    )
    check_folder(part_path(target, Part(array.parts, array.parts)))  # the longest of their names
    slurm_options = SlurmOptions(
        parts=array.parts,
        cpus=array.cpus,
        memory=array.reserved,
        minutes=array.minutes,
        merge_cpus=options.merge_cpus,
        merge_memory=parse_bytes(options.merge_memory, "--merge-memory"),
        merge_minutes=array.merge_minutes,
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
        max_array=options.max_array,
    )
    # the layout is that of the merge, since parts have none; the norm is measured once for all
    command = gram_words(
        options,
        layout="full",
        memory=f"{array.memory >> 20}MiB",
        up_to=array.largest_norm,
    )
    before = str(target).removesuffix(target.suffix)
    # a name that begins with a dash would be taken for an option
    parts = NamesOfParts("./" * before.startswith("-") + before, array.parts, target.suffix)
    show_script(slurm_script(command, merge_words(options, parts), slurm_options))
    return True


def plan(options: argparse.Namespace) -> bool:
    """Print the disk space, memory and time that a job would take."""
    import shutil

    from ntk_numba.cluster.slurm import parts_for
    from ntk_numba.compute.estimate import estimate, estimate_uses
    from ntk_numba.compute.plan import refuse_larger
    from ntk_numba.gramfile.place import check_folder, check_space
    from ntk_numba.gramfile.storage import parse_layout
    from ntk_numba.inputs.source import open_sources

    job = _job(options)
    x, z = open_sources(options.data, options.against, options.memory)
    plan = job.measured(x, z).plan(x, z, parse_layout(options.layout, z is None))
    target = Path(options.output)
    check_folder(target)
    free = shutil.disk_usage(target.parent).free
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnderflowWarning)  # it is said below, once
        estimated = estimate(plan, x, target.parent)
        uses = estimate_uses(plan, x, target.parent)
    parts = parts_for(estimated.total, plan.count)
    if options.json:
        facts = plan.to_dict() | {
            "parts": parts,
            "disk_free_bytes": free,
            "seconds_compute": estimated.compute,
            "seconds_write": estimated.write,
            "seconds": estimated.total,
            "product_columns": uses.columns,
            "product_seconds_computing": uses.computing,
            "product_seconds_reading": uses.reading,
            "disk_bytes_per_second": uses.speed,
            "cholesky_seconds": uses.cholesky,
        }
        show_json(facts)
    else:
        _print_plan(plan, free, estimated, parts, uses)
    flush()
    check_space(target, plan)
    sources = [source for source in (x, z) if source]
    if plan.largest_norm is not None:
        for source in sources:
            refuse_larger(source, source.survey(), plan.largest_norm)
    plan.warn_of_underflow(*sources)
    return True


def _print_plan(plan: "Plan", free: int, estimated: "Estimate", parts: int, uses: "Uses") -> None:
    """Print a plan as text.

    free : the free bytes of the disk
    """
    from ntk_numba.arguments import show_bytes
    from ntk_numba.cluster.slurm import MAX_ARRAY

    lines = plan.describe()
    memory = lines.pop("memory")
    lines |= {
        "disk": f"{show_bytes(plan.output_bytes)} of {show_bytes(free)} free",
        "memory": memory,
        "time": f"{_duration(estimated.total)} on {plan.threads} threads "
        f"(computing {_duration(estimated.compute)}, writing {_duration(estimated.write)})",
        "parts": "one: the job is too short for an array of jobs",
    }
    if parts > 1:
        limit = ", the largest number that arrays have by default" if parts == MAX_ARRAY - 1 else ""
        each = _duration(estimated.total / parts)
        lines["parts"] = f"{parts:,} of {each} each, on machines like this one{limit}"
    lines["product"] = (
        f"of {plan.kernels[-1]} with {uses.columns} columns: {_duration(uses.computing)} by "
        f"computing, {_duration(uses.reading)} by reading a file at "
        f"{uses.speed / 1e9:.2g} GB/s; {uses.choice}"
    )
    if uses.cholesky is not None:
        lines["cholesky"] = f"{_duration(uses.cholesky)}, at the speed of matrix products"
    for key, value in lines.items():
        show(f"{key:8} {value}")


def _duration(seconds: float) -> str:
    """Return a time as text, in seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.2g} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.0f} min" if minutes < 100 else f"{hours:.1f} h"


def info(options: argparse.Namespace) -> bool:
    """Print the contents of a file."""
    from ntk_numba.cli import inspection

    facts = inspection.facts_of(Path(options.file))
    if options.json:
        show_json(facts)
    else:
        inspection.show_facts(facts)
    return True


def verify(options: argparse.Namespace) -> bool:
    """Read a whole file, check it and, if asked, repair it."""
    if options.repair and options.data is None:
        raise InvalidValueError("--repair computes tiles again; give it their data with --data")
    if options.against is not None and options.data is None:
        raise InvalidValueError("--against is the second data set; give the first with --data")
    from ntk_numba.cli import inspection

    if inspection.is_model(Path(options.file)):
        return inspection.verify_model(options)
    if inspection.is_checkpoint(Path(options.file)):
        return inspection.verify_checkpoint(options)
    if inspection.is_factor(Path(options.file)):
        return inspection.verify_factor(options)
    progress = sys.stderr.isatty()
    # an incomplete file is not repaired: its job can be continued
    with ntk_numba.open_gram(options.file, incomplete=not options.repair) as file:
        if options.data is not None:
            from ntk_numba.compute.verify import wrong_data_sets

            if text := wrong_data_sets(file.contents, options.against is not None):
                raise InvalidValueError(f"{options.file}: {text} (--against)")
        report, complete = file.verify(progress=progress), file.complete
    good = show_report(report)
    if options.repair and report.bad:
        good = show_report(
            ntk_numba.repair(
                options.file, options.data, options.against, bad=report.bad, progress=progress
            )
        )
    if options.data is not None and complete:
        from ntk_numba.compute.verify import verify_sample

        with ntk_numba.open_gram(options.file) as file:
            good &= show_report(verify_sample(file, options.data, options.against))
    return good


def activations(options: argparse.Namespace) -> bool:
    """Print the table of activations, and draw them with --plot."""
    from ntk_numba.activations.table import describe, names

    facts = [describe(name) for name in options.names or names()]
    if options.plot:
        from ntk_numba.plots.duals import activations as draw

        draw([f["example"] for f in facts], options.plot, q=options.q)
    if options.json:
        show_json(facts)
        return True
    columns = ("name", "parameters", "σ(x)", "dual", "domain", "Θ")
    rows = [columns, *([str(f[c]) for c in columns] for f in facts)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(columns))]
    for row in rows:
        show("  ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)).rstrip())
    return True


def plot(options: argparse.Namespace) -> bool:
    """Draw the matrix of a file and its eigenvalues."""
    from ntk_numba.plots.matrices import gram as draw

    draw(
        options.file,
        options.output,
        scale=options.scale,
        kernel=options.kernel,
        layer=options.layer,
        labels=options.labels,
    )
    show(options.output)
    return True


def check(options: argparse.Namespace) -> bool:
    """Test the kernels against networks of finite width."""
    from ntk_numba.plots.angles import angle
    from ntk_numba.plots.figure import check_picture

    net = network_of(options)
    if options.plot:
        check_picture(options.plot)  # an error at once if the picture cannot be saved
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
    if options.json:
        show_json(report.to_dict())
    else:
        for line in str(report).split("\n"):
            show(line)
    if options.plot:
        angle(
            net,
            report.widths,
            options.plot,
            draws=options.draws,
            seed=options.seed,
            threads=options.threads,
        )
    return bool(report.passed)
