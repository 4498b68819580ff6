"""Gradient flow of kernels that are not in memory, against that of the same kernels in memory."""

import numpy as np
import pytest
from marks import marked

import ntk_numba as nk
from ntk_numba.errors import InvalidValueError
from ntk_numba.predict import large_flow

NET = nk.MLP(3, "relu", 2**0.5, 0.1)
N = 150
TINY = 8 * N * N - 1  # bytes: less than the matrix


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    rng = np.random.default_rng(3)
    both = nk.gram(NET, rng.standard_normal((N + 6, 5)))
    x = np.random.default_rng(3).standard_normal((N + 6, 5))
    path = tmp_path_factory.mktemp("flow") / "gram.h5"
    nk.write_gram(NET, x[:N], path, kernels=("nngp", "ntk"), layout="lower").close()
    y, f0, f0_test = (rng.standard_normal((n, 2)) for n in (N, N, 6))
    return {"x": x[:N], "both": both, "path": path, "y": y, "f0": f0, "f0_test": f0_test}


def theta(job):
    return job["both"].ntk[:N, :N].copy(), job["both"].ntk[N:, :N].copy()


ROOM = {"memory": 400_000}  # for vectors, and not for 32 N² bytes


@pytest.mark.parametrize(
    ("time", "ridge"), marked(pytest.mark.slow, [(1e4, 0.0), (np.inf, 1e-3), (5.0, 0.1), (0, 0)])
)
def test_all_ways_agree(job, time, ridge, tmp_path):
    ntk, cross = theta(job)
    rest = {"ntk_test": cross, "f0_test": job["f0_test"], "ridge": ridge, "tolerance": 1e-8}
    wanted = nk.gradient_flow(ntk, job["y"], job["f0"], time, **rest)
    ways = (
        (job["path"], ROOM),  # a factor in memory
        (nk.kernel_operator(NET, job["x"]), {}),  # products
        (job["path"], {"memory": 4_000_000, "scratch": tmp_path}),
        (nk.kernel_operator(NET, job["x"]), {"scratch": tmp_path}),
    )
    for given, limits in ways:
        found = nk.gradient_flow(given, job["y"], job["f0"], time, **rest, **limits)
        assert found.outputs == pytest.approx(wanted.outputs, abs=3e-7)
        assert found.test_outputs == pytest.approx(wanted.test_outputs, abs=3e-7)
    assert list(tmp_path.iterdir()) == []
    one = nk.gradient_flow(job["path"], job["y"][:, 0], job["f0"][:, 0], time, ridge=ridge, **ROOM)
    assert one.outputs == pytest.approx(wanted.outputs[:, 0], abs=1e-4)


@pytest.mark.slow
def test_what_is_done_depends_on_what_fits(job, tmp_path):
    """A factor in a file is written in a folder for scratch, and removed in the end."""
    flow = large_flow.LargeFlow(job["path"], 1e4, 0.0, large_flow.Means(scratch=tmp_path))
    with flow:
        flow.learned(job["y"])
        (file,) = tmp_path.iterdir()
        assert file.name.endswith(".factor.h5") and 0 < flow.error <= 1e-6
    assert not file.exists()
    with large_flow.LargeFlow(job["path"], 1e-3, 0.0, large_flow.Means(scratch=tmp_path)) as flow:
        flow.learned(job["y"])
        assert not list(tmp_path.iterdir())  # products are enough for a short time
    with large_flow.open_flow(job["path"], 1e4, 0.0, large_flow.Means()) as small:
        assert isinstance(small, large_flow.FlowFunctions)


@pytest.mark.slow
def test_many_columns_go_in_runs(job, monkeypatch):
    with large_flow.LargeFlow(
        nk.kernel_operator(NET, job["x"]), 1e3, 0.0, large_flow.Means(tolerance=1e-9)
    ) as flow:
        whole = flow.learned(job["y"])
        monkeypatch.setattr(large_flow, "BLOCKS", 10**12)
        assert flow.learned(job["y"]) == pytest.approx(whole, rel=1e-5, abs=1e-9)


@pytest.mark.slow
def test_the_distribution(job):
    k, common = job["both"], {"y": job["y"], "time": 1e3, "ridge": 1e-3}
    common |= {"ntk_test": k.ntk[N:, :N], "nngp_test": k.nngp[N:, :N]}
    common["nngp_test_test"] = k.nngp[N:, N:]
    mean, covariance = nk.flow_distribution(ntk=k.ntk[:N, :N], nngp=k.nngp[:N, :N], **common)
    operators = {name: nk.kernel_operator(NET, job["x"], kernel=name) for name in ("ntk", "nngp")}
    for given in (operators, {"ntk": job["path"], "nngp": job["path"]}):
        found = nk.flow_distribution(
            **given, **common, tolerance=1e-9, **({} if given is operators else ROOM)
        )
        assert found[0] == pytest.approx(mean, abs=1e-7)
        assert found[1] == pytest.approx(covariance, abs=1e-7)
        assert (found[1] == found[1].T).all()


def test_the_largest_learning_rate(job):
    ntk, _ = theta(job)
    rate = 2 * N / np.linalg.eigvalsh(ntk)[-1]
    operator = nk.kernel_operator(NET, job["x"])
    for given in (ntk, job["path"], operator):
        assert nk.max_learning_rate(given) == pytest.approx(rate, rel=1e-9)
    assert nk.max_learning_rate(job["path"], memory=TINY) == pytest.approx(rate, rel=1e-9)
    ridge = nk.max_learning_rate(operator, ridge=0.5)
    mean = np.trace(ntk) / N
    assert ridge == pytest.approx(2 * N / (2 * N / rate + 0.5 * mean), rel=1e-9)


@pytest.mark.slow
def test_ensembles_at_a_finite_time(job):
    small = nk.gaussian_process(NET, job["x"], job["y"], kernel="ensemble", noise=1e-3, time=1e3)
    large = nk.gaussian_process(
        NET, job["x"], job["y"], kernel="ensemble", noise=1e-3, time=1e3,
        method="block_krylov", tolerance=1e-9,
    )  # fmt: skip
    new = job["x"][:5] + 0.1
    for one, other in zip(
        large.predict(new, return_cov=True), small.predict(new, return_cov=True), strict=True
    ):
        assert one == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"tolerance": 0}, "tolerance must be more than 0"),
        ({"scratch": "/nowhere"}, "scratch='/nowhere' is not a folder that exists"),
        ({"ridge": 1e308}, r"ridge=1e\+308 is too large"),
        ({"y": np.ones(3)}, r"y must be of shape \(150, ...\)"),
        ({"ntk_test": np.ones((1, 3)), "f0_test": np.ones(1)}, r"ntk_test must be of shape"),
        ({"time": np.inf, "memory": 1000}, "or give scratch, a folder for the file of a factor"),
    ],
)
def test_bad_arguments(job, change, text):
    call = {"ntk": nk.kernel_operator(NET, 10 * job["x"]), "y": job["y"], "f0": job["f0"]}
    with pytest.raises(InvalidValueError, match=text):
        nk.gradient_flow(**(call | {"time": 1.0} | change))
    operator = nk.kernel_operator(NET, job["x"], job["x"][:3])
    with pytest.raises(InvalidValueError, match="ntk must be a square matrix"):
        nk.gradient_flow(operator, job["y"], job["f0"], 1.0)
