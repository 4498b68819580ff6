"""The evidence, the leave-one-out density and their gradients, against mpmath and plain NumPy."""

import numpy as np
import oracle
import plain
import pytest
from marks import marked
from mpmath import mp, mpf

import ntk_numba as nk
from ntk_numba.predict.evidence import OBJECTIVES, evidence_gradient, slope_of

W_STD, B_STD = [1.3, 0.9, 1.4], [0.3, 0.1, 0.2]
NET = nk.MLP(3, "relu", W_STD, B_STD)


def samples(near):
    """Four samples; the first two are `near` to each other."""
    x = np.random.default_rng(1).standard_normal((4, 3))
    x[1] = x[0] + near * x[2]
    return x, np.random.default_rng(2).standard_normal((4, 2))


def exact(objective, x, y, logs, kernel):
    """The objective in 60 digits, straight from the definitions, at logarithms of its parameters.

    The leave-one-out density leaves out one sample after the other.
    """
    w_std, b_std, noise = [mp.exp(t) for t in logs[:3]], [mp.exp(t) for t in logs[3:6]], logs[6]
    size = len(x)
    a = mp.matrix(size)
    for i in range(size):
        for j in range(i + 1):
            both = oracle.kernels(x[i], x[j], [(0, 1)] * 2, w_std, b_std)[-1]
            a[i, j] = a[j, i] = both[kernel == "ntk"]
    mean = sum(a[i, i] for i in range(size)) / size
    for i in range(size):
        a[i, i] += mp.exp(noise) * mean

    def density(matrix, targets):
        targets = mp.matrix(targets.tolist())
        log_det = mp.log(mp.det(matrix))
        solved = mp.inverse(matrix) * targets
        square = sum(targets[k] * solved[k] for k in range(len(targets)))
        return -(square + log_det + len(targets) * mp.log(2 * mp.pi)) / 2

    def without(i):
        kept = [k for k in range(size) if k != i]
        return mp.matrix([[a[k, m] for m in kept] for k in kept]), kept

    total = mpf(0)
    for column in y.T:
        if objective == "evidence":
            total += density(a, column)
        else:  # log p(y_i | y_others) = log p(y) − log p(y_others)
            total += size * density(a, column)
            total -= sum(density(m, column[kept]) for m, kept in map(without, range(size)))
    return total


CASES = [(o, k, near) for near in (0.5, 1e-9) for k in ("nngp", "ntk") for o in OBJECTIVES]


@pytest.mark.parametrize(
    ("objective", "kernel", "near"), marked(pytest.mark.slow, CASES, [("loo", "ntk", 1e-9)])
)
def test_against_the_definitions(objective, kernel, near):
    x, y = samples(near)
    process = nk.gaussian_process(NET, x, y, kernel=kernel, noise=1e-3)
    logs = [mp.log(v) for v in (*W_STD, *B_STD, 1e-3)]
    step = mpf(10) ** -15

    def at(k, sign):
        moved = [value + sign * step * (k == m) for m, value in enumerate(logs)]
        return exact(objective, x, y, moved, kernel)

    wanted = [float((at(k, 1) - at(k, -1)) / (2 * step)) for k in range(7)]
    found = process.gradient(objective)
    assert found["w_std"].shape == found["b_std"].shape == (3,)
    gradient = [*found["w_std"], *found["b_std"], found["noise"]]
    assert gradient == pytest.approx(wanted, rel=1e-9, abs=1e-10 * max(map(abs, wanted)))
    left_out = process.leave_one_out().log_density.sum()
    value = process.log_marginal_likelihood if objective == "evidence" else left_out
    assert value == pytest.approx(float(exact(objective, x, y, logs, kernel)), rel=1e-11)


def plain_value(objective, x, y, w_std, b_std, noise):
    """The objective of the NNGP in plain NumPy."""
    k = plain.relu_kernels(x, w_std, b_std)[0][-1]
    a = k + noise * k.diagonal().mean() * np.eye(len(k))
    if objective == "evidence":
        solved = np.linalg.solve(a, y)
        constant = len(y) * np.log(2 * np.pi) + np.linalg.slogdet(a)[1]
        return -0.5 * ((y * solved).sum() + y.shape[1] * constant)
    inverse = np.linalg.inv(a)
    variance = 1 / inverse.diagonal()
    residual = (inverse @ y) * variance[:, None]
    return -0.5 * (residual**2 / variance[:, None] + np.log(2 * np.pi * variance)[:, None]).sum()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_against_differences_of_plain_numpy(objective):
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((40, 5)), rng.standard_normal((40, 3))
    found = nk.gaussian_process(NET, x, y, noise=0.02).gradient(objective)
    start = np.log([*W_STD, *B_STD, 0.02])

    def at(k, step):
        moved = np.exp(start + step * (np.arange(7) == k))
        return plain_value(objective, x, y, moved[:3], moved[3:6], moved[6])

    weights = {1: 45, 2: -9, 3: 1}  # a central difference of order 6
    wanted = [
        sum(w * (at(k, m * 2e-3) - at(k, -m * 2e-3)) for m, w in weights.items()) / 0.12
        for k in range(7)
    ]
    gradient = [*found["w_std"], *found["b_std"], found["noise"]]
    assert gradient == pytest.approx(wanted, rel=1e-8, abs=1e-7)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_weights_of_any_change_of_the_matrix(objective):
    """tr(W dA) against Rasmussen & Williams, eq. 5.9 and 5.13, as they stand there."""
    rng = np.random.default_rng(5)
    root, y, change = rng.standard_normal((3, 20, 20))
    a, change = root @ root.T + np.eye(20), change + change.T
    inverse = np.linalg.inv(a)
    inverse = (inverse + inverse.T) / 2
    wanted = 0.0
    for column in y.T:
        alpha, z = inverse @ column, inverse @ change
        if objective == "evidence":
            wanted += 0.5 * np.trace((np.outer(alpha, alpha) - inverse) @ change)
            continue
        diagonal, of_z = inverse.diagonal(), (z @ inverse).diagonal()
        wanted += ((alpha * (z @ alpha) - 0.5 * (1 + alpha**2 / diagonal) * of_z) / diagonal).sum()
    slope = slope_of(objective, inverse.copy(), inverse @ y)
    assert (slope.weights == slope.weights.T).all()
    assert np.vdot(slope.weights, change) == pytest.approx(wanted, rel=1e-11)
    assert slope.trace == pytest.approx(np.trace(slope.weights), rel=1e-14)
    trace = np.trace(change) / 20
    moved = np.vdot(slope.of_kernel(0.1), change)
    assert moved == pytest.approx(wanted + 0.1 * trace * slope.trace, rel=1e-11)


@pytest.mark.parametrize("activation", marked(pytest.mark.slow, ["erf", "abs", "silu", "elu"]))
def test_noise_that_is_absolute_or_not_and_other_activations(activation):
    """The derivative by all logarithms at once, along which relative noise changes with K."""
    x = np.random.default_rng(6).standard_normal((15, 4))
    y = np.sin(x[:, 0])
    step, depth = 1e-3, 3
    for absolute, noise in ((False, 0.05), (True, 0.2)):

        def at(sign, absolute=absolute, noise=noise):
            """Return the process whose parameters are `sign` steps further."""
            w, b = (np.exp(sign * step) * np.array(s) for s in (W_STD, B_STD))
            net, noise = nk.MLP(depth, activation, w, b), noise * np.exp(sign * step)
            return nk.gaussian_process(net, x, y, noise=noise, absolute=absolute)

        log_p = {k: at(k).log_marginal_likelihood for k in (-2, -1, 1, 2)}
        wanted = (8 * (log_p[1] - log_p[-1]) - (log_p[2] - log_p[-2])) / (12 * step)
        found = at(0).gradient()
        total = found["w_std"].sum() + found["b_std"].sum() + found["noise"]
        assert total == pytest.approx(wanted, rel=1e-7)


def test_what_has_no_gradient():
    x, y = samples(0.5)
    with pytest.raises(ValueError, match="objective must be 'evidence' or 'loo', not 'aic'"):
        nk.gaussian_process(NET, x, y, noise=0.1).gradient("aic")
    with pytest.raises(ValueError, match="gradients of the evidence are those of a Gaussian"):
        nk.gaussian_process(NET, x, y, kernel="ensemble", noise=0.1).gradient()
    float32 = nk.gaussian_process(NET, x.astype("float32"), y, noise=0.1).gradient()
    float64 = nk.gaussian_process(NET, x, y, noise=0.1).gradient()
    assert float32["w_std"] == pytest.approx(float64["w_std"], rel=1e-4)
    assert evidence_gradient(nk.gaussian_process(NET, x, y, noise=0.1))["noise"] == float64["noise"]
