"""The benchmarks run with the present code of the package, here with little data."""

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest
from conftest import ROOT

import ntk_numba as nk


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)


@pytest.fixture
def data(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((300, 20)))
    return tmp_path / "x.npy"


def test_every_table_is_in_the_results():
    from bench.__main__ import TABLES

    results = (ROOT / "bench" / "RESULTS.md").read_text()
    assert {line[3:] for line in results.splitlines() if line.startswith("## ")} == set(TABLES)


def test_a_job_without_safety_writes_the_same_entries(data):
    from bench import safety

    safety.without(data, data.with_name("g.h5"))
    with h5py.File(data.with_name("g.h5")) as file:
        assert (file["ntk"][:] == nk.gram(safety.NET, data, kernels="ntk").ntk).all()


def test_a_job_without_its_file(data):
    from bench import disk

    disk.compute(data)
    assert [path.name for path in data.parent.iterdir()] == ["x.npy"]


def test_a_large_job_is_planned_without_data(monkeypatch):
    from bench import cluster

    monkeypatch.setattr(cluster, "LARGE", 20_000)
    monkeypatch.setattr(cluster, "NODES", 3)
    lines = cluster.large(1e-9, 1e9, 1e9).splitlines()
    assert len(lines) == 4 and lines[2].startswith("| 3 | ") and lines[3].startswith("| 30 | ")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_one_tile_is_computed_repeatedly(dtype, monkeypatch):
    from bench import recursion

    monkeypatch.setattr(recursion, "TILES", 1)
    recursion.tiles(nk.MLP(2), dtype, obtuse=True)()


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_this_package_is_timed_like_a_peer():
    job = {"program": "ntk_numba", "n": 200, "n0": 5, "dtype": "float64", "kernels": ["ntk"],
           "b_std": 0.1, "depth": 3, "repeats": 2, "reuse": True}  # fmt: skip
    command = [sys.executable, ROOT / "bench" / "peer.py", json.dumps(job)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    assert len(found["seconds"]) == 2 and len(found["entries"]) == 1
