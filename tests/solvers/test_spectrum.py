"""Leading eigenpairs, and estimates from the whole spectrum, against dense eigendecompositions."""

import math

import numpy as np
import pytest
from marks import marked
from scipy.sparse.linalg import aslinearoperator

import ntk_numba as nk
from ntk_numba.errors import InvalidValueError
from ntk_numba.operators.operator import as_operator
from ntk_numba.solvers import spectrum as module

RNG = np.random.default_rng(12)
N = 200


def of_values(values):
    q, _ = np.linalg.qr(RNG.standard_normal((len(values), len(values))))
    return (q * values) @ q.T


K = of_values(100 / np.arange(1.0, N + 1) ** 1.2 + 0.05)
K = (K + K.T) / 2
VALUES, VECTORS = (a[..., ::-1] for a in np.linalg.eigh(K))


@pytest.fixture
def iterated(monkeypatch):
    """Let matrices be large from 30 rows on."""
    monkeypatch.setattr(module, "DENSE", 30)


def dimension(values, ridge):
    return float((values / (values + ridge)).sum())


def test_all_eigenvalues_of_small_matrices():
    found = nk.spectrum(K, 5)
    assert found.exact and found.passes == 1
    assert found.all_values == pytest.approx(VALUES, rel=1e-12)
    assert found.values == pytest.approx(VALUES[:5], rel=1e-13)
    assert np.abs(found.vectors.T @ VECTORS[:, :5]) == pytest.approx(np.eye(5), abs=1e-11)
    assert found.trace == pytest.approx(np.trace(K), rel=1e-14)
    for ridge in (0.01, 3.0):
        assert found.effective_dimension(ridge) == pytest.approx((dimension(VALUES, ridge), 0))
        exact = np.linalg.slogdet(K + ridge * np.eye(N))[1]
        assert found.log_det(ridge) == pytest.approx((exact, 0), rel=1e-12)
        kappa = (VALUES[0] + ridge) / (VALUES[-1] + ridge)
        assert found.condition(ridge) == pytest.approx((kappa, kappa), rel=1e-10)
    assert found.condition().least == pytest.approx(VALUES[0] / VALUES[-1], rel=1e-10)
    assert len(nk.spectrum(np.eye(3), 9).values) == 3
    one = nk.spectrum([[4.0]])
    assert one.values.tolist() == [4] and one.log_det(0).value == pytest.approx(math.log(4))


def test_the_leading_ones_of_large_matrices(iterated):
    found = nk.spectrum(K, 5, tolerance=1e-6)
    assert not found.exact and 4 <= found.passes <= 8
    assert found.values == pytest.approx(VALUES[:5], rel=1e-11)
    assert np.abs(found.vectors.T @ VECTORS[:, :5]) == pytest.approx(np.eye(5), abs=1e-5)
    off = np.linalg.norm(K @ found.vectors - found.vectors * found.values, axis=0)
    assert found.residuals == pytest.approx(off, rel=1e-6, abs=1e-11)
    assert (found.residuals <= 1.01e-6 * found.values).all()
    assert found.trace == pytest.approx(np.trace(K), rel=1e-14)
    assert repr(found).startswith("<Spectrum: 5 of 200 eigenvalues, ")


@pytest.mark.parametrize("seeds", marked(pytest.mark.slow, [1, 20]))
def test_estimates_are_within_their_errors(iterated, seeds):
    off = []
    for seed in range(seeds):
        found = nk.spectrum(K, 10, seed=seed)
        for ridge in (0.05, 1.0, 20.0):
            value, error = found.effective_dimension(ridge)
            off.append((value - dimension(VALUES, ridge)) / error)
            assert error < 0.02 * value
            value, error = found.log_det(ridge)
            off.append((value - np.linalg.slogdet(K + ridge * np.eye(N))[1]) / error)
            kappa, condition = (VALUES[0] + ridge) / (VALUES[-1] + ridge), found.condition(ridge)
            assert 0.5 * kappa < condition.least <= kappa * (1 + 1e-9) <= condition.largest
    assert np.abs(off).max() < 4 and np.sqrt(np.mean(np.square(off))) < 1.5
    assert found.condition(0).largest == np.inf


@pytest.mark.slow
@pytest.mark.parametrize("decay", [1.5, 3.0])
def test_ridges_below_all_that_is_known(iterated, decay):
    """Eigenvalues that are nearer to 0 than a space sees are within the errors too."""
    values = np.arange(1.0, 2 * N + 1) ** -decay
    matrix = of_values(values)
    matrix = (matrix + matrix.T) / 2
    off = []
    for seed in range(5):
        found = nk.spectrum(matrix, 10, seed=seed)
        for ridge in values.mean() * np.geomspace(1e-11, 1, 12):
            value, error = found.effective_dimension(ridge)
            off.append((value - dimension(values, ridge)) / error)
            value, error = found.log_det(ridge)
            off.append((value - np.log(values + ridge).sum()) / error)
    assert np.abs(off).max() < 4 and np.sqrt(np.mean(np.square(off))) < 1.5


def test_targets_along_eigenvectors(iterated):
    y = np.column_stack([VECTORS[:, 0], 3 * VECTORS[:, 1] + 4 * VECTORS[:, 150], np.zeros(N)])
    for scale in (1.0, 1e200, 1e-200):
        found = nk.spectrum(K, 3, tolerance=1e-7).alignment(scale * y)
        assert found.share[:, 0] == pytest.approx([1, 0, 0], abs=1e-9)
        assert found.share[:, 1] == pytest.approx([0, 9 / 25, 0], abs=1e-9)
        assert found.cumulative[:, 1] == pytest.approx([0, 9 / 25, 9 / 25], abs=1e-9)
        assert found.share[:, 2].tolist() == [0, 0, 0]
        assert found.total == pytest.approx([1 / 26, 10 / 26, 10 / 26], abs=1e-9)
    assert nk.spectrum(K, 3).alignment(y[:, 0]).share.shape == (3,)


@pytest.mark.parametrize("power", [830, -830])
def test_matrices_near_the_limits_of_float64(iterated, power):
    scaled, plain = nk.spectrum(np.ldexp(K, power), 4), nk.spectrum(K, 4)
    assert np.ldexp(scaled.values, -power) == pytest.approx(plain.values, rel=1e-12)
    assert np.ldexp(scaled.trace, -power) == pytest.approx(plain.trace, rel=1e-14)
    wanted = plain.log_det(0.1).value + N * power * math.log(2)
    assert scaled.log_det(math.ldexp(0.1, power)).value == pytest.approx(wanted, rel=1e-9)


def test_equal_eigenvalues_and_singular_matrices(iterated):
    """Eigenspaces of more dimensions than there are random columns are not taken out of sums."""
    for values in (np.ones(N), np.repeat([5.0, 1.0], [120, 80]), np.repeat([5.0, 0.0], [3, 197])):
        matrix = np.diag(values)
        found = nk.spectrum(matrix, 4)
        assert found.values == pytest.approx(values[:4], abs=1e-12)
        value, error = found.effective_dimension(0.5)
        assert value == pytest.approx(dimension(values, 0.5), abs=4 * error + 1e-9)
        value, error = found.log_det(0.5)
        assert value == pytest.approx(np.log(values + 0.5).sum(), abs=4 * error + 1e-9)
    found = nk.spectrum(np.zeros((N, N)), 2)
    assert found.values.tolist() == [0, 0] and found.trace == 0
    assert found.condition() == (np.inf, np.inf)


def test_less_memory_restarts_the_space(iterated):
    found = nk.spectrum(K, 5, probes=15, memory=8 * N * 15 * 10, tolerance=1e-6)
    assert found.values == pytest.approx(VALUES[:5], rel=1e-10)
    value, error = found.effective_dimension(1.0)
    assert value == pytest.approx(dimension(VALUES, 1.0), abs=4 * error)
    with pytest.raises(InvalidValueError, match=r"memory=.* is too little: 15 columns of 200 rows"):
        nk.spectrum(K, 5, probes=15, memory=8 * N * 15 * 8)


@pytest.mark.slow
def test_bits_do_not_depend_on_threads_and_all_kinds_of_matrices_serve(iterated, tmp_path):
    net, x = nk.MLP(3, "relu", b_std=0.1), RNG.standard_normal((150, 5))
    path = tmp_path / "gram.h5"
    nk.write_gram(net, x, path, layout="lower").close()
    stored = [nk.spectrum(path, 3, threads=threads) for threads in (1, 2)]
    assert (stored[0].vectors == stored[1].vectors).all()
    matrix = nk.gram(net, x).ntk
    values = np.linalg.eigvalsh(matrix)[::-1]
    kinds = matrix, matrix.astype("float32"), nk.kernel_operator(net, x), aslinearoperator(matrix)
    for given in (*kinds, path):
        rel = 1e-6 if getattr(given, "dtype", None) == np.float32 else 1e-8
        assert nk.spectrum(given, 3).values == pytest.approx(values[:3], rel=rel)


def test_the_largest_eigenvalue(iterated):
    assert module.largest_eigenvalue_of(as_operator(K)) == pytest.approx(VALUES[0], rel=1e-10)
    assert module.largest_eigenvalue_of(as_operator(np.zeros((40, 40)))) == 0


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: nk.spectrum(np.ones((2, 3))), "square"),
        (lambda: nk.spectrum(K, 0), "k must be at least 1"),
        (lambda: nk.spectrum(K, 20, probes=19), "probes must be at least 20"),
        (lambda: nk.spectrum(K, tolerance=0), "tolerance must be more than 0"),
        (lambda: nk.spectrum(K, seed=-1), "seed must be at least 0"),
        (lambda: nk.spectrum(K, max_passes=2), "after 2 passes, more than tolerance=0.0001"),
        (lambda: nk.spectrum(K).effective_dimension(0), "ridge must be more than 0"),
        (lambda: nk.spectrum(K).log_det(-1), "ridge must be finite and not negative"),
        (lambda: nk.spectrum(K - 2 * np.eye(N)).log_det(0.1), "is not positive definite"),
        (lambda: nk.spectrum(K).alignment(np.ones(3)), r"Y must have 200 rows"),
        (lambda: nk.spectrum(K).alignment(np.zeros(N)), "Y is 0"),
        (lambda: nk.spectrum(K).alignment(np.full(N, np.nan)), r"Y: row 0 \(counted from 0\)"),
        (
            lambda: nk.spectrum(nk.kernel_operator(nk.MLP(2), np.eye(3), np.eye(3))),
            "kernel of one data set with itself",
        ),
    ],
)
def test_bad_arguments(iterated, call, text):
    with pytest.raises(ValueError, match=text):
        call()


@pytest.mark.slow
def test_the_digits(digits):
    """More than 2,048 rows, so that nothing is set for the test."""
    x = np.concatenate([digits, digits[:600] + 0.5 * digits[600:1200]]) / 16
    matrix = nk.gram(nk.MLP(4, "relu", 2**0.5, 0.1), x).ntk
    values = np.linalg.eigvalsh(matrix)[::-1]
    found = nk.spectrum(matrix)
    assert not found.exact and found.passes < 10
    assert found.values == pytest.approx(values[:20], rel=1e-8)
    for ridge in (1e-3, 1.0):
        value, error = found.effective_dimension(ridge)
        assert abs(value - dimension(values, ridge)) < 4 * error
        value, error = found.log_det(ridge)
        assert abs(value - np.log(values + ridge).sum()) < 4 * error
