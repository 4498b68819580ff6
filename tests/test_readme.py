"""The code in the README runs word for word, and its tables are those of the benchmarks."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from marks import marked
from private_slurm import Slurm

import ntk_numba as nk

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = ("training", "safety", "prediction", "larger")  # with tables of benchmarks
PREDICTION = (ROOT / "docs" / "prediction.md").read_text()
LARGER = (ROOT / "docs" / "larger.md").read_text()
DISTRIBUTED = (ROOT / "docs" / "distributed.md").read_text()


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("count", marked(pytest.mark.slow, [1, None]))
def test_python(folder, count):
    """Run the first snippet, or all of them one after the other, as a reader would."""
    code = "\n".join(blocks("python")[:count])
    assert code.count("nk.") > (6 if count is None else 0)
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.slow
def test_command_line(folder):
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    commands = [line.split() for line in lines if line.startswith("ntk-numba ")]
    names = ["activations", "plan", "gram", "info", "verify", "plot", "check", "gram", "gram",
             "merge", "gram"]  # fmt: skip
    assert [c[1] for c in commands] == names
    for command in commands:
        subprocess.run([sys.executable, "-m", "ntk_numba", *command[1:]], check=True)
    assert (folder / "digits.png").exists() and (folder / "activations.png").exists()
    assert len({(folder / name).stat().st_size for name in ("digits.h5", "parts.h5")}) == 2
    others = [line for line in lines if not line.startswith("ntk-numba ")]
    assert others == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{line.split()[1]}:", makefile, re.MULTILINE) for line in others)


@pytest.mark.slow
def test_prediction(folder):
    """Run all snippets of the page on prediction, and its commands."""
    code = "\n".join(blocks("python", PREDICTION))
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    (commands,) = blocks("sh", PREDICTION)
    assert commands.count("ntk-numba ") == 4
    in_a_shell(folder, commands)
    assert len((folder / "labels.csv").read_text().splitlines()) == 1798


@pytest.mark.slow
def test_larger(folder):
    """Run all snippets of the page on large matrices, and its commands."""
    code = "\n".join(blocks("python", LARGER))
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    (commands,) = blocks("sh", LARGER)
    assert commands.count("ntk-numba ") == 8
    said = in_a_shell(folder, commands)
    assert "reading" in said and (folder / "spectrum.png").exists()
    weights = np.load(folder / "weights.npy")
    product = nk.gram(nk.MLP(4, w_std=2**0.5, b_std=0.1), "data/digits.npz:x").ntk @ weights
    targets, _ = nk.one_hot(np.load("data/digits.npz")["y"])
    assert abs(product + 1e-3 * weights - targets).max() < 1e-6


@pytest.mark.cluster
def test_distributed(folder):
    """The example for Dask gives the solution that the package finds."""
    (code,) = blocks("python", DISTRIBUTED)
    code += "\nassert abs(weights - found.x).max() < 1e-9 * abs(weights).max()"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def in_a_shell(folder, script, **more):
    """Run a script with the commands of this environment first on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | more | {"PATH": path}
    command = ["bash", "-e", "-o", "pipefail", "-c", script]
    return subprocess.run(
        command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


@pytest.mark.cluster
def test_cluster(folder):
    """Run the snippet word for word on a private Slurm, and wait for the merge as a reader does."""
    lines = blocks("bash")[0].splitlines()
    assert lines[1] == "bash theta.sh" and len(lines) == 5
    with Slurm() as slurm:
        said = in_a_shell(folder, "\n".join(lines[:3]), **slurm.environment)
        (merge,) = re.findall(r"job (\d+): merges", said)
        assert "gram" in said
        slurm.wait(merge)
        said = in_a_shell(folder, "\n".join(lines[3:]), **slurm.environment)
    assert "theta.h5: ntk, 1,797 × 1,797" in said and "complete         True" in said
    net = nk.MLP(4, b_std=0.1)
    with nk.open_gram(folder / "theta.h5") as f:
        assert (f.ntk[:] == nk.gram(net, folder / "data/digits.npz:x").ntk).all()


@pytest.mark.cluster
def test_other_schedulers(folder):
    (script,) = blocks("bash")[1:]
    if not shutil.which("mpiexec", path=Path(sys.executable).parent):
        pytest.skip("the README's lines for MPI and Dask were not run: pip install mpich")
    said = in_a_shell(folder, f"trap 'kill $(jobs -p)' EXIT\n{script}")
    assert said.count("ntk, 1,797 × 1,797, float64") == 2
    assert (folder / "mpi.h5").read_bytes() == (folder / "dask.h5").read_bytes()


def test_tables_are_the_benchmarks():
    results = (ROOT / "bench" / "RESULTS.md").read_text().splitlines()
    pages = [ROOT / "README.md", *(ROOT / "docs" / f"{p}.md" for p in PAGES)]
    for page in pages:
        # in the tables of benchmarks all columns of numbers are aligned to the right
        tables = re.findall(r"(?:^\|.*\n)+", page.read_text(), re.MULTILINE)
        tables = [line for table in tables if "---:" in table for line in table.splitlines()]
        assert len(tables) > 12
        assert [line for line in tables if line not in results] == []


def test_links_lead_somewhere():
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
