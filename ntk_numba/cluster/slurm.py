"""A script that submits a job to Slurm: an array that computes parts, and a merge after it.

Only text is made here, and all of what decides about a run stands in that text: it can be read,
changed and kept with the results. What is right about a run is on the disk and not in Slurm, so
that everything may be submitted again at any time.
"""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ntk_numba.arguments import whole_number
from ntk_numba.cluster.write import Job
from ntk_numba.compute.estimate import estimate
from ntk_numba.compute.plan import INTERPRETER
from ntk_numba.errors import InvalidValueError
from ntk_numba.grid import Part
from ntk_numba.inputs.source import open_sources

PART_SECONDS = 1800  # of an element: 15 to 60 minutes get through queues and lose little
LEAST_MINUTES = 15  # a slow node, a busy file system, compiling
MEMORY_STEP = 256 << 20  # that the memory of a part is rounded up to
MERGE_RATE = 100_000_000  # bytes a second
MAX_ARRAY = 1001  # Slurm's default of MaxArraySize, one more than the largest index
END = "END_OF_JOB"  # of a job's own script within ours
DEPENDENCIES = "afterany", "afterok"
GROWS_BY = ".part-*"  # what stays a pattern of the shell

SCRIPT = """\
#!/bin/bash
# A Gram matrix in {parts} parts, by an array job of Slurm and a merge that waits for it.
#
#   bash THIS_FILE          submits all parts and the merge
#   bash THIS_FILE 3,17     submits parts 3 and 17 again, and the merge
#
# Parts that are complete are left alone, and others go on where they were stopped. Run it in the
# folder that its paths start from. "squeue --me" shows the jobs, {logs} has what they say.
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
indices=${{1:-1-{parts}}}
indices=${{indices#--array=}}
mkdir -p {logs}

# Within a job, as an interactive one, its memory, cores and restarts would be taken for ours
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

# Before the limit, SIGUSR1 goes to the step alone, which then ends by itself with 3. What ends the
# job itself, as scancel does, ends this shell, so that what is cancelled is not requeued.
JOB = """\
#!/bin/bash
{setup}echo "{what} on $(hostname), $(date), restarted ${{SLURM_RESTART_COUNT:-0}} times"
export OMP_NUM_THREADS={cpus}
code=0
srun --ntasks=1 --cpus-per-task={cpus} {command} || code=$?
# 3: stopped before the end, the same command goes on
if [ "$code" = 3 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {requeues} ]; then
  echo "stopped before the end, and requeued"
  scontrol requeue "{me}"
fi
exit "$code\""""


@dataclass(frozen=True)
class SlurmOptions:
    """What is asked of Slurm.

    Attributes
    ----------
    parts : int
        How many there are. It is frozen in the script.
    cpus : int
        Of an element, on one node.
    memory : int
        Bytes of an element.
    minutes : int
        An element's limit; a quarter of an hour and more, see `minutes_for`.
    name : str
    partition, account, qos : str or None
    grace : int
        Seconds from SIGUSR1 to the limit, at most half of it. Slurm may be a minute early.
    requeues : int
        How often an element that was stopped before its end starts again.
    at_once : int or None
        Elements that run at the same time, at most.
    logs : str
        The folder for what jobs say.
    dependency : {"afterany", "afterok"}
        Whether the merge runs whatever became of the elements, and says which are missing, or only
        if all of them went well, and is cancelled otherwise.
    extra : tuple of str
        More options of sbatch, for both jobs, such as ``"--mail-type=END"``, with the last word.
    setup : tuple of str
        Lines of shell before the command, such as ``"module load python"``.
    merge_cpus, merge_memory, merge_minutes : int
    max_array : int
        The cluster's MaxArraySize.

    Raises
    ------
    TypeError, ValueError
        A number is none or too small, more parts than an array may have, or a line break in a text.
    """  # fmt: skip

    parts: int
    cpus: int
    memory: int
    minutes: int
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
    merge_cpus: int = 1
    merge_memory: int = 4 << 30
    merge_minutes: int = 60
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
        for text in (self.name, self.partition, self.account, self.qos, self.logs):
            if text is not None:
                _one_line(text)
        for text in (*self.extra, *self.setup):
            _one_line(text)


def slurm_script(gram: Sequence[str], merge: Sequence[str], options: SlurmOptions) -> str:
    """The text of a script for bash that submits both jobs.

    Parameters
    ----------
    gram : words of the command that computes one part, without ``--part`` and ``--threads``
    merge : words of the command that merges, complete
        In a word with ``.part-*`` the star stays a pattern of the shell; all else is quoted.

    Notes
    -----
    Options are given to sbatch as words and not as ``#SBATCH`` lines, which have rules of their own
    for quotes. They say what the cluster has to know of memory, in MiB, rounded up.
    """
    # an array's own number is also that of one of its elements, so that both are named
    part_job = _job(
        f"part $SLURM_ARRAY_TASK_ID of {options.parts}",
        f"{_words(gram)} --threads {options.cpus} --part $SLURM_ARRAY_TASK_ID/{options.parts}",
        options.cpus,
        "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID",
        options,
    )
    merge_job = _job("merge", _words(merge), options.merge_cpus, "$SLURM_JOB_ID", options)
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
        logs=shlex.quote(options.logs),
        part=part_job,
        merge=merge_job,
        end=END,
        part_options=_lines(part_options),
        merge_options=_lines(merge_options),
    )


class Wanted(NamedTuple):
    """What a user asks of an array; None stands for what is to be estimated."""

    parts: int | None = None
    cpus: int | None = None
    minutes: int | None = None
    merge_minutes: int | None = None
    max_array: int = MAX_ARRAY


class Design(NamedTuple):
    """An array that computes a job in parts.

    parts, cpus : elements, and cores of each
    memory : bytes that the command of a part may take
    reserved : bytes that Slurm reserves for it: a quarter more, since what is over is killed
    minutes, merge_minutes : limits of an element and of the merge
    largest_norm : of all rows, for every part; None where no activation depends on it
    """

    parts: int
    cpus: int
    memory: int
    reserved: int
    minutes: int
    merge_minutes: int
    largest_norm: float | None


def design_array(job: Job, stored: Part | None, folder: Path, wanted: Wanted) -> Design:
    """Decide how many parts a job has, and what each of them is given.

    Parameters
    ----------
    stored : the tiles that the result stores, as `storage.parse_layout` says
    folder : where the result is written; its speed is measured if the time has to be estimated

    Raises
    ------
    ValueError, TypeError, OSError
        As `write_gram`: what would be refused later is refused now.
    """
    x, z = open_sources(job.x, job.z)
    whole = replace(job, memory=None).plan(x, z, stored)
    cpus = wanted.cpus or whole.threads
    seconds = 0.0
    if wanted.parts is None or wanted.minutes is None:
        here = estimate(whole, x, folder)
        seconds = max(here.compute * whole.threads / cpus, here.write)
    parts = wanted.parts or parts_for(seconds, whole.count, wanted.max_array)
    part = replace(job, largest_norm=whole.largest_norm).plan(x, z, Part(1, parts))
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
        largest_norm=whole.largest_norm,
    )


def parts_for(seconds: float, tiles: int, max_array: int = MAX_ARRAY) -> int:
    """How many parts a job should have, so that each takes about half an hour.

    seconds : of the whole job on one node, as estimated
    tiles : of the job; a part has at least one
    """
    return max(1, min(round(seconds / PART_SECONDS), tiles, max_array - 1))


def minutes_for(seconds: float, parts: int) -> int:
    """The limit of an element's time: twice what it should take, and a quarter of an hour."""
    return max(LEAST_MINUTES, math.ceil(2 * seconds / parts / 60))


def merge_minutes_for(size: int) -> int:
    """The limit of the merge's time.

    size : bytes of the result, to be read in parts and written at a tenth of what a disk does
    """
    return LEAST_MINUTES + size // (60 * MERGE_RATE)


def _job(what: str, command: str, cpus: int, me: str, options: SlurmOptions) -> str:
    return JOB.format(
        setup="".join(f"{line}\n" for line in options.setup),
        what=what,
        cpus=cpus,
        command=command,
        requeues=options.requeues,
        me=me,
    )


def _sbatch(options: SlurmOptions, log: str, cpus: int, memory: int, minutes: int) -> list[str]:
    """The options that both jobs have, quoted."""
    folder = options.logs.replace("%", "%%")
    words = [
        f"--job-name={options.name}",
        f"--output={folder}/{log}.out",
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
        words += shlex.split(text)
    return [shlex.quote(word) for word in words]


def _lines(words: Sequence[str]) -> str:
    return " \\\n".join(f"  {word}" for word in words)


def _words(command: Sequence[str]) -> str:
    quoted = []
    for word in command:
        before, star, after = _one_line(word).rpartition(GROWS_BY)
        quoted.append(
            shlex.quote(before) + star + shlex.quote(after) if star else shlex.quote(word)
        )
    return " ".join(quoted)


def _one_line(text: str) -> str:
    if "\n" in text or "\r" in text or "\0" in text:
        raise InvalidValueError(f"{text!r} has a line break, which a job's script cannot have")
    if text == END:
        raise InvalidValueError(f"{text!r} would end a job's script")
    return text
