"""Tables in Markdown, and the machine they were made on."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

import ntk_numba

PACKAGES = ("numba", "numpy", "h5py")


def machine() -> str:
    """Processor, cores and versions, in a line."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(":")[1].strip() if models else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = ", ".join(f"{p} {version(p)}" for p in PACKAGES)
    return (
        f"{name}, {cores} cores; Python {platform.python_version()}, {versions}, "
        f"ntk_numba {ntk_numba.__version__}"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, the first column to the left and the others to the right."""
    lines = [" | ".join(head), " | ".join(["---"] + ["---:"] * (len(head) - 1))]
    lines += [" | ".join(str(cell) for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def spread(seconds: Sequence[float]) -> str:
    """Minimum and median."""
    return f"{min(seconds):.3f} ({np.median(seconds):.3f})"
