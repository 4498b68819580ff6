"""Jobs that several kinds of processors compute, in fresh processes: Numba has one kind in each."""

import json
import platform
import signal
import subprocess
import sys

import h5py
import llvmlite.binding as llvm
import numpy as np
import pytest
from interrupted import ALL, MIDDLE
from parts import parts_of
from programs import ENVIRONMENT, TESTS

import ntk_numba as nk
from ntk_numba.cluster import write
from ntk_numba.compiled.processor import processor

# Without features, LLVM takes those of the name
KINDS = {
    name: {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": ""} for name in ("generic", "haswell")
}
OPTIONS = [
    "--depth", "4", "--activation", "tanh", "--activation", "relu", "--activation", "tanh",
    "--b-std", "0.1", "--kernel", "ntk", "--kernel", "nngp", "--up-to", "10",
]  # fmt: skip

here = pytest.mark.skipif(
    platform.machine() != "x86_64" or not llvm.get_host_cpu_features().get("avx2"),
    reason="this processor cannot run code for haswell",
)


def run(kind, *words):
    """Run a program with code for a kind of processor, or for this one."""
    return subprocess.run(
        [sys.executable, *words], env=ENVIRONMENT | KINDS.get(kind, {}), capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip


def datasets(path):
    """Return the bytes of all datasets of a file, by name."""
    found = {}

    def add(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item[()].tobytes()

    with h5py.File(path) as file:
        file.visititems(add)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a whole file of this processor, and three parts, each of another kind."""
    folder = tmp_path_factory.mktemp("kinds")
    np.save(folder / "x.npy", np.random.default_rng(0).standard_normal((300, 7)))
    jobs = [("native", "whole.h5", ())]
    jobs += [(kind, "g.h5", ("--part", f"{n}/3")) for n, kind in enumerate(["native", *KINDS], 1)]
    for kind, name, part in jobs:
        command = ["-m", "ntk_numba", "gram", folder / "x.npy", "-o", folder / name]
        answer = run(kind, *command, *OPTIONS, *part)
        assert answer.returncode == 0, answer.stderr
    return folder


@pytest.mark.slow
@here
@pytest.mark.parametrize("options", [{}, {"layout": "lower"}, {"link": True}])
def test_parts_of_several_kinds_are_the_whole_bit_for_bit(folder, options, tmp_path):
    parts = sorted(folder.glob("g.part-*"))
    names = []
    for part in parts:
        with nk.open_gram(part) as f:
            assert f.done.sum() > 1
            names.append(f.processor)
    assert names == [processor(), *KINDS]
    with (
        nk.open_gram(folder / "whole.h5") as whole,
        nk.merge(parts, tmp_path / "g.h5", **options) as f,
    ):
        assert f.processor == ", ".join(sorted({*names})) and f.verify()
        assert whole.processor == processor()
        assert f.ntk[:].tobytes() == whole.ntk[:].tobytes()
        assert f.nngp[:].tobytes() == whole.nngp[:].tobytes()
    if not options:
        assert datasets(tmp_path / "g.h5") == datasets(folder / "whole.h5")


@pytest.mark.slow
@here
@pytest.mark.parametrize(("first", "second"), [("haswell", "generic"), ("generic", "native")])
def test_a_file_begun_on_one_kind_is_ended_on_another(first, second, tmp_path):
    job = TESTS / "interrupted.py"
    killed = run(first, job, tmp_path / "g.h5", str(MIDDLE))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    ended = run(second, job, tmp_path / "g.h5")
    assert ended.returncode == 0, ended.stderr
    assert 0 < json.loads(ended.stdout)["tiles"] < ALL
    whole = run(first, job, tmp_path / "whole.h5")
    assert whole.returncode == 0, whole.stderr
    # the name of the first stays, so even the bytes of the files are equal
    assert (tmp_path / "g.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    with nk.open_gram(tmp_path / "g.h5") as f:
        assert f.processor == first


@pytest.mark.parametrize("options", [{}, {"link": True}])
def test_names_are_sorted_and_stand_once(points, tmp_path, monkeypatch, options):
    names = ["znver5", "haswell", "znver5", "", "generic"]
    monkeypatch.setattr(write, "processor", lambda: names.pop(0))
    parts = parts_of(points, tmp_path)
    assert not names
    with h5py.File(parts[3]) as file:
        assert "processor" not in file.attrs
    with nk.merge(parts, tmp_path / "g.h5", **options) as f:
        assert f.processor == "generic, haswell, znver5"


@pytest.mark.parametrize("options", [{}, {"link": True}])
def test_parts_of_older_versions_have_no_names(points, tmp_path, monkeypatch, options):
    monkeypatch.setattr(write, "processor", lambda: "")
    with nk.merge(parts_of(points, tmp_path), tmp_path / "g.h5", **options) as f:
        assert f.processor == ""
    with h5py.File(tmp_path / "g.h5") as file:
        assert "processor" not in file.attrs
