"""Tables in Markdown, a description of the machine, and RESULTS.md."""

import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

import ntk_numba

PACKAGES = ("numba", "numpy", "h5py")
RESULTS = Path(__file__).with_name("RESULTS.md")


def machine() -> str:
    """Describe processor, cores, versions, and a setting of BLAS's kernels in one line."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(":")[1].strip() if models else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = ", ".join(f"{p} {version(p)}" for p in PACKAGES)
    kernels = os.environ.get("OPENBLAS_CORETYPE")
    return (
        f"{name}, {cores} cores; Python {platform.python_version()}, {versions}, "
        f"ntk_numba {ntk_numba.__version__}" + (f", OPENBLAS_CORETYPE={kernels}" if kernels else "")
    )


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table whose first column is left-aligned, the others right-aligned."""
    lines = [" | ".join(head), " | ".join(["---"] + ["---:"] * (len(head) - 1))]
    lines += [" | ".join(str(cell) for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def spread(seconds: Sequence[float]) -> str:
    """Format the minimum and the median."""
    return f"{min(seconds):.3f} ({np.median(seconds):.3f})"


def ratio(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> str:
    """Format the ratio of the minima, and the median of the rounds' ratios."""
    return f"{min(a) / min(b):.2f} ({np.median(np.divide(a, b)):.2f})"


def section(name: str, what: str, *parts: str) -> str:
    """Return the text that `save` takes: command, machine, description, and tables.

    what : the description
    parts : tables, and paragraphs between them
    """
    return "\n\n".join([f"`python -m bench {name}` on {machine()}", what, *parts])


def save(name: str, text: str) -> None:
    """Write a section to RESULTS.md, in place of the section of the same name."""
    section = f"## {name}\n\n{text.strip()}\n"
    old = RESULTS.read_text() if RESULTS.exists() else "# Results\n"
    sections = re.split(r"\n(?=## )", old.rstrip() + "\n")
    for k, existing in enumerate(sections):
        if existing.startswith(f"## {name}\n"):
            sections[k] = section
            break
    else:
        sections.append(section)
    RESULTS.write_text("\n".join(s.rstrip() + "\n" for s in sections))
