"""What the README says is run, word for word; its tables are those of the benchmark."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python(folder):
    """All snippets, one after the other, as a reader would."""
    code = "\n".join(blocks("python"))
    assert code.count("nk.") > 6
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_command_line(folder):
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    commands = [line.split() for line in lines if line.startswith("ntk-numba ")]
    assert [c[1] for c in commands] == ["plan", "gram", "info", "verify", "plot", "check"]
    for command in commands:
        subprocess.run([sys.executable, "-m", "ntk_numba", *command[1:]], check=True)
    assert (folder / "digits.png").exists()
    others = [line for line in lines if not line.startswith("ntk-numba ")]
    assert others == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{line.split()[1]}:", makefile, re.MULTILINE) for line in others)


def test_tables_are_the_benchmarks():
    results = (ROOT / "bench" / "RESULTS.md").read_text().splitlines()
    for page in (ROOT / "README.md", ROOT / "docs" / "training.md"):
        tables = [line for line in page.read_text().splitlines() if line.startswith("|")]
        assert len(tables) > 12
        assert [line for line in tables if line not in results] == []


def test_links_lead_somewhere():
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
