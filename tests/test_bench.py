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


def test_ranks_of_methods():
    from bench import protocol

    # equal scores share a rank; each row in an order of its own
    scores = np.array([[0.9, 0.8, 0.7], [0.5, 0.5, 0.4], [0.1, 0.2, 0.3], [0.9, 0.6, 0.5]])
    found = protocol.ranks(scores)
    assert (found.mean == [6.5 / 4, 7.5 / 4, 10 / 4]).all()
    # 12/(nk(k + 1)) Σ_j (Σ_i r_ij)² − 3n(k + 1), over 1 − Σ (t³ − t)/(nk(k² − 1)) for the tie
    statistic = (12 / 48 * (6.5**2 + 7.5**2 + 10**2) - 48) / (1 - 6 / 96)
    np.testing.assert_allclose(found.statistic, statistic, rtol=1e-12)
    np.testing.assert_allclose(found.p, np.exp(-statistic / 2), rtol=1e-12)  # χ², 2 degrees
    np.testing.assert_array_equal(protocol.share_of_best(scores)[2], scores[2] / 0.3)


def test_a_setting_is_chosen_on_a_half_and_scored_on_folds():
    pytest.importorskip("sklearn")
    from bench.datasets import Samples
    from bench.protocol import FOLDS, accuracy

    x = np.column_stack([np.arange(24.0), np.ones(24)])
    y = np.repeat([0, 1], 12)
    seen = []

    def method(split, settings):
        seen.append((split, list(settings)))
        return [setting[0] for setting in settings]

    assert accuracy(method, [(0.1,), (0.7,), (0.7, 2)], Samples(x, y), 0) == pytest.approx(0.7)
    assert [s for _, s in seen] == [[(0.1,), (0.7,), (0.7, 2)], *[[(0.7,)]] * FOLDS]
    (half, *_), folds = seen[0], [split for split, _ in seen[1:]]
    assert len(half.x) == len(half.x_test) == 12 and half.y.sum() == half.y_test.sum() == 6
    for split in folds:
        np.testing.assert_allclose(split.x.mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(split.x.std(axis=0), [1, 0], atol=1e-12)
        assert len(split.x_test) == 6 and split.y_test.sum() == 3 and not split.x_test[:, 1].any()


def test_predictions_are_scored_in_the_units_of_the_targets():
    from bench.regression import Prediction, scores

    y, mean, std = np.array([1.0, 2.0, -1.0]), np.array([1.5, 2.0, 2.0]), np.array([1.0, 0.5, 1.0])
    error, covered, loss = scores(Prediction(mean, std), y, 10.0)
    densities = np.exp(-0.5 * ((y - mean) / std) ** 2) / (10 * std * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(error, 10 * np.sqrt((0.25 + 9) / 3), rtol=1e-12)
    np.testing.assert_allclose([covered, loss], [2 / 3, -np.log(densities).mean()], rtol=1e-12)
    assert np.isnan(scores(Prediction(mean), y, 10.0)[1:]).all()


def test_the_network_methods_separate_classes():
    pytest.importorskip("sklearn")
    from bench import classification
    from bench.protocol import Split

    x = np.random.default_rng(0).standard_normal((40, 3))
    x[:, 0] += np.repeat([-5, 5], 20)
    y = np.repeat([4, 7], 20)
    split = Split(x[::2], y[::2], x[1::2], y[1::2])
    for name, (method, settings) in classification.METHODS.items():
        if name != "random forest":
            assert len(settings) == 35
            assert min(method(split, settings[8:10])) > 0.9, name


@pytest.mark.slow
def test_products_without_storing_are_compared_with_gram(monkeypatch):
    from bench import passes

    monkeypatch.setattr(passes, "REPEATS", 1)
    rows = passes.computed_rows(200, 3, "float32")
    assert [row[:3] for row in rows] == [["3", "float32", f"{k}"] for k in passes.COLUMNS]
