"""A script that submits a job to Slurm: an array that computes parts, and a merge after it.

``ntk-numba slurm`` prints it. This module only makes text, and the text contains everything that
determines a run, so that it can be read, changed and kept with the results. The state of a run is
on disk and not in Slurm, so everything may be submitted again at any time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ntk_numba.arguments import whole_number
from ntk_numba.cluster.shell import (
    NamesOfParts,
    check_lines,
    command_text,
    one_line,
    options_of,
    quoted,
)
from ntk_numba.cluster.write import Job
from ntk_numba.compute.estimate import estimate
from ntk_numba.errors import InvalidValueError
from ntk_numba.gramfile.place import check_space
from ntk_numba.grid import Part
from ntk_numba.inputs.source import open_sources
from ntk_numba.machine import INTERPRETER

# Target time of a part: jobs of 15 to 60 minutes start early, and lose little if they are stopped
PART_SECONDS = 1800
LEAST_MINUTES = 15  # of a time limit: allows for a slow node, a busy file system, compiling
MEMORY_STEP = 256 << 20  # the memory of a part is rounded up to a multiple of it
MERGE_RATE = 100_000_000  # bytes per second
MAX_ARRAY = 1001  # Slurm's default of MaxArraySize, one more than the largest index
END = "END_OF_JOB"  # marks the end of a job's script within the script that submits it
DEPENDENCIES = "afterany", "afterok"

SCRIPT = """\
#!/bin/bash
# A Gram matrix in {parts} parts, by an array job of Slurm and a merge that waits for it.
#
#   bash THIS_FILE          submits all parts and the merge
#   bash THIS_FILE 3,17     submits parts 3 and 17 again, and the merge
#
# Complete parts are left as they are, and others continue where they were stopped. Run this in the
# folder that its paths are relative to. "squeue --me" lists the jobs; their output is in {logs}.
set -euo pipefail

# one part: SLURM_ARRAY_TASK_ID says which
part() {{
  cat <<'{end}'
{part}
{end}
}}

merge() {{
  cat <<'{end}'
{merge}
{end}
}}

if ! command -v sbatch >/dev/null; then
  echo "no sbatch here: run this where jobs are submitted to Slurm" >&2
  exit 2
fi
{here}indices=${{1:-1-{parts}}}
indices=${{indices#--array=}}
mkdir -p -- {logs}

# Within a job, such as an interactive one, its memory, cores and restarts would apply to these jobs
for name in ${{!SLURM_@}}; do
  case $name in
    SLURM_CONF | SLURM_CLUSTERS | SLURM_JWT) ;;
    *) unset "$name" ;;
  esac
done

array=$(part | sbatch --parsable \\
{part_options})
array=${{array%%;*}}  # a cluster's name may follow
echo "job $array: parts $indices of {parts}"

merge=$(merge | sbatch --parsable \\
{merge_options})
echo "job ${{merge%%;*}}: merges them after job $array"
"""

# For logs in a relative folder: Slurm would replace patterns in the name of the current folder too
HERE = """\
here=
case $PWD in
  *\\\\*)
    echo "Slurm cannot write logs below ${PWD@Q}, whose name has a backslash; see --logs" >&2
    exit 2
    ;;
  *%*) here=${PWD//%/%%}/ ;;
esac
"""

# Before the limit, SIGUSR1 goes only to the step, which then ends by itself with exit code 3. A
# signal that ends the whole job, as of scancel, ends this shell, so that a cancelled job is not
# requeued.
JOB = """\
#!/bin/bash
{setup}echo "{what} on $(hostname), $(date), restarted ${{SLURM_RESTART_COUNT:-0}} times"
export OMP_NUM_THREADS={cpus}
code=0
srun --ntasks=1 --cpus-per-task={cpus} {command} || code=$?
# 3: stopped before the end; the same command continues
if [ "$code" = 3 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {requeues} ]; then
  echo "stopped before the end, and requeued"
  scontrol requeue "{job_id}"
fi
exit "$code\""""


@dataclass(frozen=True)
class SlurmOptions:
    """The options of the two jobs of Slurm.

    Attributes
    ----------
    parts : int
        The number of parts, which is fixed in the script.
    cpus : int
        The cores of an array element, on one node.
    memory : int
        The memory of an element in bytes.
    minutes : int
        The time limit of an element.
    merge_cpus, merge_memory, merge_minutes : int
        Like cpus, memory and minutes, for the merge.
    name : str
        The name of both jobs.
    partition, account, qos : str or None
    grace : int
        Seconds from SIGUSR1 to the limit, at most half of it. Slurm may be a minute early.
    requeues : int
        The largest number of times that an element that was stopped is started again.
    at_once : int or None
        The largest number of elements that run at the same time.
    logs : str
        The folder for the output of the jobs.
    dependency : {"afterany", "afterok"}
        With "afterany" the merge always runs after the elements, and names missing parts. With
        "afterok" it runs only if all elements succeed, and is cancelled otherwise.
    extra : tuple of str
        More options of sbatch for both jobs, such as ``"--mail-type=END"``; they override others.
    setup : tuple of str
        Lines of shell before the command, such as ``"module load python"``.
    max_array : int
        The cluster's MaxArraySize.

    Raises
    ------
    TypeError, ValueError
        A number is not a whole number or too small, there are more parts than an array may have,
        the grace is more than half of a time limit, or a text has a line break or cannot mean to
        Slurm or to the shell what it says.
    """

    parts: int
    cpus: int
    memory: int
    minutes: int
    merge_cpus: int
    merge_memory: int
    merge_minutes: int
    name: str = "gram"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    grace: int = 180
    requeues: int = 20
    at_once: int | None = None
    logs: str = "logs"
    dependency: str = "afterany"
    extra: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    max_array: int = MAX_ARRAY

    def __post_init__(self) -> None:
        for field in (
            "parts", "cpus", "memory", "minutes", "grace", "merge_cpus", "merge_memory",
            "merge_minutes",
        ):  # fmt: skip
            whole_number(field, getattr(self, field))
        whole_number("requeues", self.requeues, 0)
        whole_number("max_array", self.max_array, 2)
        if self.at_once is not None:
            whole_number("at_once", self.at_once)
        if self.parts >= self.max_array:
            raise InvalidValueError(
                f"{self.parts} parts are more than an array job may have here, "
                f"{self.max_array - 1}; take fewer, or give max_array if the cluster allows more "
                "(scontrol show config | grep MaxArraySize)"
            )
        for field, minutes in (("minutes", self.minutes), ("merge_minutes", self.merge_minutes)):
            if 2 * self.grace > 60 * minutes:
                raise InvalidValueError(
                    f"grace={self.grace} s is more than half of {field}={minutes}; give the job "
                    "more time or a shorter grace"
                )
        if self.dependency not in DEPENDENCIES:
            raise InvalidValueError(
                f"dependency must be {' or '.join(DEPENDENCIES)}, not {self.dependency!r}"
            )
        texts = (self.name, self.partition, self.account, self.qos, self.logs)
        for text in (*texts, *self.extra, *self.setup):
            if text is not None:
                one_line(text)
        if END in self.setup:
            raise InvalidValueError(f"{END!r} would end a job's script")
        if not self.name:
            raise InvalidValueError("the name of the jobs is empty")
        if not self.logs or "\\" in self.logs:
            raise InvalidValueError(
                f"{self.logs!r} cannot be the folder for logs: Slurm puts the number of a job into "
                "the names of logs, except in paths with a backslash"
            )
        for text in self.extra:
            options_of(text)
        check_lines(self.setup)


def slurm_script(
    gram: Sequence[str], merge: Sequence[str | NamesOfParts], options: SlurmOptions
) -> str:
    """Return the text of a bash script that submits both jobs.

    Parameters
    ----------
    gram : words of the command that computes one part, without ``--part`` and ``--threads``
    merge : words of the complete command that merges
        All words are quoted, and `NamesOfParts` becomes a pattern of the shell.

    Raises
    ------
    ValueError
        A word has a line break.

    Notes
    -----
    Options are given to sbatch as words and not as ``#SBATCH`` lines, which have their own rules
    for quotes. Memory is given in MiB, rounded up.
    """
    # the job ID of an array is also that of one of its elements, so both numbers are given
    this = f"--threads {options.cpus} --part $SLURM_ARRAY_TASK_ID/{options.parts}"
    part_job = _job(
        f"part $SLURM_ARRAY_TASK_ID of {options.parts}",
        f"{command_text(gram)} {this}",
        options.cpus,
        "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID",
        options,
    )
    merge_job = _job("merge", command_text(merge), options.merge_cpus, "$SLURM_JOB_ID", options)
    throttle = "" if options.at_once is None else f"%{options.at_once}"
    part_options = [
        f'--array="$indices{throttle}"',
        *_sbatch(options, "%A_%a", options.cpus, options.memory, options.minutes),
    ]
    after = [f"--dependency={options.dependency}:$array"]
    if options.dependency == "afterok":
        after.append("--kill-on-invalid-dep=yes")
    merge_options = after + _sbatch(
        options, "%j_merge", options.merge_cpus, options.merge_memory, options.merge_minutes
    )
    return SCRIPT.format(
        parts=options.parts,
        logs=quoted(options.logs),
        here="" if _absolute(options.logs) else HERE,
        part=part_job,
        merge=merge_job,
        end=END,
        part_options=_lines(part_options),
        merge_options=_lines(merge_options),
    )


class Wanted(NamedTuple):
    """The values that a user has set for an array; those that are None are estimated."""

    parts: int | None
    cpus: int | None
    minutes: int | None
    merge_minutes: int | None
    max_array: int


class Design(NamedTuple):
    """The design of an array that computes a job in parts.

    parts, cpus : the number of elements, and the cores of each
    memory : bytes that the command of a part may take
    reserved : bytes that Slurm reserves for it, a quarter more: a job that takes more is killed
    minutes, merge_minutes : time limits of an element and of the merge
    largest_norm : the largest norm of all rows, for all parts; None if no activation depends on it
    """

    parts: int
    cpus: int
    memory: int
    reserved: int
    minutes: int
    merge_minutes: int
    largest_norm: float | None


def design_array(job: Job, stored: Part | None, folder: Path, wanted: Wanted) -> Design:
    """Choose the number of parts of a job, and the cores, memory and time of each.

    Parameters
    ----------
    stored : the tiles that the result stores, as `storage.parse_layout` returns it
    folder : where the result is written; its speed is measured if the time has to be estimated
    wanted : the values that the user has set

    Raises
    ------
    ValueError, TypeError, OSError
        As `write_gram`, which would raise them later.
    """
    x, z = open_sources(job.x, job.z, job.memory)
    check_space(folder / "the output", job.outline(x, z, stored))  # before all rows are read
    job = job.measured(x, z)
    whole = replace(job, memory=None).plan(x, z, stored)
    cpus = wanted.cpus or whole.threads
    seconds = 0.0
    if wanted.parts is None or wanted.minutes is None:
        estimated = estimate(whole, x, folder)
        seconds = max(estimated.compute * whole.threads / cpus, estimated.write)
    parts = wanted.parts or parts_for(seconds, whole.count, wanted.max_array)
    part = job.plan(x, z, Part(1, parts))
    memory = part.memory
    if not job.memory:
        needed = INTERPRETER + part.working * cpus // part.threads
        memory = -(-needed // MEMORY_STEP) * MEMORY_STEP
    return Design(
        parts=parts,
        cpus=cpus,
        memory=memory,
        reserved=memory + memory // 4,
        minutes=wanted.minutes or minutes_for(seconds, parts),
        merge_minutes=wanted.merge_minutes or merge_minutes_for(whole.output_bytes),
        largest_norm=job.up_to,
    )


def parts_for(seconds: float, tiles: int, max_array: int = MAX_ARRAY) -> int:
    """Return the number of parts of a job for which each takes about half an hour.

    seconds : the estimated time of the whole job on one node
    tiles : the number of tiles of the job; a part has at least one
    """
    return max(1, min(round(seconds / PART_SECONDS), tiles, max_array - 1))


def minutes_for(seconds: float, parts: int) -> int:
    """Return the time limit of an element: twice its estimate, at least a quarter of an hour."""
    return max(LEAST_MINUTES, math.ceil(2 * seconds / parts / 60))


def merge_minutes_for(size: int) -> int:
    """Return the time limit of the merge.

    size : bytes of the result; `MERGE_RATE` is a tenth of the speed of a disk
    """
    return LEAST_MINUTES + size // (60 * MERGE_RATE)


def _job(what: str, command: str, cpus: int, job_id: str, options: SlurmOptions) -> str:
    """Return the script of one job.

    what : the name of the job in its log
    job_id : its number, in terms of the shell
    """
    return JOB.format(
        setup="".join(f"{line}\n" for line in options.setup),
        what=what,
        cpus=cpus,
        command=command,
        requeues=options.requeues,
        job_id=job_id,
    )


def _sbatch(options: SlurmOptions, log: str, cpus: int, memory: int, minutes: int) -> list[str]:
    """Return the options of sbatch for one job, quoted."""
    output = quoted(f"{options.logs.replace('%', '%%')}/{log}.out")
    words = [
        f"--job-name={options.name}",
        "--open-mode=append",
        "--requeue",
        f"--signal=USR1@{options.grace}",
        "--nodes=1",
        "--ntasks=1",
        f"--cpus-per-task={cpus}",
        f"--mem={math.ceil(memory / (1 << 20))}M",
        f"--time={minutes}",
    ]
    for name in ("partition", "account", "qos"):
        if value := getattr(options, name):
            words.append(f"--{name}={value}")
    for text in options.extra:
        words += options_of(text)
    name, *rest = [quoted(word) for word in words]
    here = "" if _absolute(options.logs) else '"$here"'
    return [name, f"--output={here}{output}", *rest]


def _absolute(folder: str) -> bool:
    """Return whether the path of a folder does not depend on the current one."""
    return folder.startswith("/")


def _lines(words: Sequence[str]) -> str:
    """Return words of a command of the shell, one on a line."""
    return " \\\n".join(f"  {word}" for word in words)
