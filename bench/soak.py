"""Experiments that break files, as in the tests but with more rounds (``make soak``)."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.report import section, table

BREAKING = Path(__file__).parent.parent / "tests" / "breaking.py"

RESUMES = "the same command completes it, to the same bytes"
CONTINUES = "the same call continues after the last whole pass, to the same bits"
NO_LIES = "no tile is called done that is not"

# By experiment: the number of rounds, the event, the promise
EXPERIMENTS = {
    "faults": (
        1000,
        "each write, sync, rename, allocation and removal in turn fails (full disk, quota, bad "
        "disk), or is the last, whole or half done, before a kill",
        RESUMES,
    ),
    "kills": (500, "kill -9 at a random time", f"{RESUMES}; {NO_LIES}"),
    "crashes": (
        600,
        "the power fails: the disk keeps, loses or tears any data that was not synced",
        f"{RESUMES}; {NO_LIES}",
    ),
    "writebacks": (
        100,
        "each sync in turn loses what was written before it, and the page cache keeps the lost "
        "bytes (a disk's errors as Linux reports them)",
        RESUMES,
    ),
    "takeovers": (
        1000,
        "a job is suspended before each call, taken over by another machine that completes it or "
        "is killed, and wakes",
        RESUMES,
    ),
    "merges": (
        1000,
        "the same as in the first row for merges that delete their parts, or do not, or replace a "
        "damaged file",
        RESUMES,
    ),
    "repairs": (
        1000,
        "the file of another job replaces one that is being repaired, before each call",
        "the other file keeps all of its bytes",
    ),
    "changes": (
        1000,
        "data is rewritten, replaced or cut before each call of a job, and its times are set back",
        f"the job stops, or its file is that of the old data; with the old data {RESUMES}",
    ),
    "links": (
        300,
        "parts of a link are replaced or removed, or parts of another job have their names",
        "entries are right, or refused",
    ),
    "streams": (
        1000,
        "standard streams are closed, and the program is ended at each call by Ctrl-C, twice",
        f"{RESUMES}; {NO_LIES}",
    ),
    "flips": (
        5000,
        "bits, bytes or runs of bytes of a finished file change, or it is cut",
        "`verify` says so, or no value has changed",
    ),
    "unfinished": (500, "the same happens to an unfinished file", f"it is refused, or {RESUMES}"),
    "factor_faults": (
        1000,
        "the same as in the first row for the factorisation of a Gram file",
        RESUMES,
    ),
    "factor_kills": (
        200,
        "a factorisation is killed by -9 at a random time",
        f"{RESUMES}; {NO_LIES}",
    ),
    "factor_crashes": (
        200,
        "the power fails in a factorisation, as above",
        f"{RESUMES}; {NO_LIES}",
    ),
    "factor_takeovers": (
        1000,
        "a factorisation is suspended before each call, taken over by another machine, and wakes",
        RESUMES,
    ),
    "factor_repairs": (
        1000,
        "the file of another factor replaces one that is being repaired, before each call",
        "the other file keeps all of its bytes",
    ),
    "factor_changes": (
        1000,
        "the Gram file is rewritten, replaced, removed, cut or damaged before each call of its "
        "factorisation",
        f"it stops, or its factor is that of the old file; with the old file {RESUMES}",
    ),
    "factor_flips": (
        2000,
        "bits, bytes or runs of bytes of a finished factor change, or it is cut",
        "`verify` says so, or no value has changed",
    ),
    "factor_unfinished": (
        200,
        "the same happens to an unfinished factor",
        f"it is refused, or {RESUMES}",
    ),
    "solutions": (
        20,
        "calls of an iteration with a checkpoint fail, or are the last, as in the first row",
        CONTINUES,
    ),
    "killed_solutions": (100, "an iteration is killed by -9 at a random time", CONTINUES),
    "crashed_solutions": (200, "the power fails in an iteration, as above", CONTINUES),
    "damaged_solutions": (
        200,
        "a byte of the checkpoint of an unfinished iteration changes",
        f"it is refused, or {CONTINUES}",
    ),
}
COUNTED = ("kills", "right", "reported", "untouched", "refused")


def run(name: str, rounds: int) -> dict[str, Any]:
    """Run one experiment in a process of its own."""
    answer = subprocess.run(
        [sys.executable, BREAKING, name, str(rounds)], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(answer.stdout)


def main() -> str:
    """Return the section `soak`, or raise an error if an experiment broke a promise."""
    rows = []
    for name, (rounds, event, promise) in EXPERIMENTS.items():
        start = time.perf_counter()
        result = run(name, rounds)
        minutes = (time.perf_counter() - start) / 60
        if result.pop("examples"):
            raise RuntimeError(f"{name}: {result}")
        counts = {key: n for key, n in result.items() if isinstance(n, int)}
        times = counts.pop("kills", sum(counts.get(key, 0) for key in COUNTED))
        outcome = ", ".join(f"{n:,} {key}" for key, n in counts.items())
        rows.append([event, promise, f"{times:,}", outcome, "0", f"{minutes:.0f} min"])
    return section(
        "soak",
        "Each row is an experiment: the event, the promise, the number of tries, their "
        "outcomes, the number of broken promises, and the time",
        table(["event", "promise", "tried", "outcome", "broken", "time"], rows),
    )
