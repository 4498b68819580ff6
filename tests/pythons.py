"""Run the fast tests with several versions of Python and of the dependencies, and compare bits.

    python tests/pythons.py [--only 3.13 …] [--tests "tests/gramfile -k lease"]

`make test-pythons` calls it. uv finds the interpreters, or fetches them where it can, and installs
the newest dependencies in the environments .venv-3.11 and so on, and the oldest that pyproject.toml
allows in .venv-3.11-oldest. An interpreter that uv cannot provide is named in the table and is no
error. The exit code is 0 if everything passed in all environments that there are.

Each environment then begins a Gram file, is killed, and the next one continues the file. All
environments must compute the same bits of all activations; those that differ are printed.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
JOB = ROOT / "tests" / "interrupted.py"
FAST = "not slow and not system and not cluster"
PACKAGES = "numba", "numpy", "scipy", "h5py"
VERSIONS = """
import importlib.metadata, json, platform, sys
packages = {name: importlib.metadata.version(name) for name in sys.argv[1:]}
print(json.dumps({"Python": platform.python_version(), **packages}))
"""
BITS = """
import json, sys
from test_bits import DTYPES, compute
json.dump({dtype: compute(dtype, 2) for dtype in DTYPES}, open(sys.argv[1], "w"))
"""


class Environment(NamedTuple):
    """A version of Python as uv names it, and the end of the environment's name."""

    python: str
    suffix: str = ""

    @property
    def name(self) -> str:
        return self.python + self.suffix

    @property
    def folder(self) -> Path:
        return ROOT / f".venv-{self.name}"

    @property
    def program(self) -> Path:
        return self.folder / "bin" / "python"

    def run(self, *words: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        folders = ROOT, ROOT / "tests", ROOT / "tests" / "engine"
        variables = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
        return subprocess.run([self.program, *words], env=variables, cwd=ROOT, text=True, **options)


# 3.14t is built without the global lock
ENVIRONMENTS = [
    Environment("3.11", "-oldest"),
    *map(Environment, ("3.11", "3.12", "3.13", "3.14", "3.14t")),
]


def uv(*words: Any, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run uv, which also finds the interpreters that pyenv has installed."""
    homes = (Path.home() / ".pyenv" / "versions").glob("*/bin")
    path = os.pathsep.join([os.environ["PATH"], *map(str, sorted(homes))])
    program = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{path}")
    if program is None:
        sys.exit("uv is missing: pip install uv")
    variables = os.environ | {"PATH": path}
    answer = subprocess.run([program, *words], env=variables, text=True, capture_output=True)
    if check and answer.returncode:
        raise OSError(answer.stderr.strip())
    return answer


def build(environment: Environment) -> str:
    """Build an environment; return why that cannot be done, or an empty text."""
    if uv(
        "venv", "--clear", "--python", environment.python, environment.folder, check=False
    ).returncode:
        return "no such interpreter"
    oldest = ["--resolution", "lowest-direct"] if environment.suffix else []
    # a source distribution would need compilers and libraries
    words = ["--python", environment.program, *oldest, "--only-binary", ":all:", "-e", ".[test]"]
    try:
        uv("pip", "install", *words)
    except OSError as error:
        return f"cannot be installed: {str(error).splitlines()[-1].strip()}"
    return ""


def test(environment: Environment, words: list[str]) -> tuple[bool, str]:
    """Run tests; return whether they passed, and the last line of pytest."""
    answer = environment.run(
        "-m", "pytest", "-q", "-n", os.environ.get("WORKERS", "3"), "--dist", "worksteal",
        "-m", FAST, "-p", "no:cacheprovider", *words, stdout=subprocess.PIPE,
    )  # fmt: skip
    if answer.returncode:
        print(answer.stdout)
    counts = re.findall(r"\d+ (?:passed|failed|skipped|errors?)", answer.stdout.splitlines()[-1])
    return answer.returncode == 0, ", ".join(counts) or "none ran"


def bits(environment: Environment, folder: Path) -> dict[str, dict[str, str]]:
    """Return the digests of all activations, by dtype and name."""
    file = folder / f"{environment.name}.json"
    environment.run("-W", "ignore", "-c", BITS, file, check=True)
    return json.loads(file.read_text())


def entries(environment: Environment, path: Path) -> str:
    """Write or continue a Gram file; return the digest of its matrices."""
    answer = environment.run(JOB, path, check=True, stdout=subprocess.PIPE)
    return json.loads(answer.stdout)["sha256"]


def continued(first: Environment, second: Environment, folder: Path) -> bool:
    """Return whether a file that is begun by one and ended by another has the right bytes."""
    path = folder / f"{first.name} {second.name}.h5"
    answer = first.run(JOB, path, "6", stderr=subprocess.DEVNULL)
    assert answer.returncode == -signal.SIGKILL, f"{first.name} was not killed"
    return entries(second, path) == entries(first, folder / f"{first.name}.h5")


def differing(one: dict[str, dict[str, str]], other: dict[str, dict[str, str]]) -> list[str]:
    """Return the names of the activations whose bits differ in some dtype."""
    return sorted({name for d in one for name in one[d] if one[d][name] != other[d].get(name)})


def print_table(rows: Iterable[list[str]]) -> None:
    """Print rows in columns."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def main() -> None:
    """Build, test, compare, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [environment.name for environment in ENVIRONMENTS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME",
                        help=f"some of {', '.join(names)}")  # fmt: skip
    parser.add_argument("--tests", default="", help="arguments of pytest, all fast tests if empty")
    options = parser.parse_args()
    rows, there, fine = {}, [], True
    for environment in (e for e in ENVIRONMENTS if e.name in options.only):
        print(f"{environment.name} …", flush=True)
        if why := build(environment):
            rows[environment.name] = [*["-"] * (1 + len(PACKAGES)), why, "-", "-", "-"]
            continue
        start = time.monotonic()
        answer = environment.run("-c", VERSIONS, *PACKAGES, check=True, stdout=subprocess.PIPE)
        passed, counts = test(environment, shlex.split(options.tests))
        fine = fine and passed
        minutes = f"{(time.monotonic() - start) / 60:.1f}"
        rows[environment.name] = [*json.loads(answer.stdout).values(), counts, minutes]
        there.append(environment)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digests = {e.name: bits(e, folder) for e in there}
        for environment, following in zip(there, there[1:] + there[:1], strict=True):
            differ = differing(digests[there[-1].name], digests[environment.name])
            ended = continued(environment, following, folder)
            fine = fine and not differ and ended
            rows[environment.name] += [
                f"{len(differ)} differ" if differ else "same",
                f"{'same' if ended else 'OTHER'} bytes by {following.name}",
            ]
            if differ:
                which = f"{environment.name} and {there[-1].name}"
                print(f"Bits of {which} differ for: {', '.join(differ)}")
    head = ["environment", "Python", *PACKAGES, "fast tests", "minutes", "bits", "file ended"]
    print_table([head, *([name, *row] for name, row in rows.items())])
    sys.exit(not fine)


if __name__ == "__main__":
    main()
