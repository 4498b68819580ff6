"""What the note claims of a finite network, and what one network shows of it.

A claim is an expected value for each of some entries; what is observed of a draw are the same
entries, made by `finite_width`, which knows no formula of the kernels. `check` compares the two.
"""

import math
from typing import NamedTuple

import numpy as np

from ntk_numba.finite_width.networks import (
    Floats,
    Parameters,
    Pass,
    add_ntk,
    nngp_by_outputs,
    pooled_ntk,
    run_pass,
    share,
)
from ntk_numba.jobs.memory import gram
from ntk_numba.network import MLP

UNITS = 16  # of a hidden layer whose Θ is looked at; all would cost n times a pass


class Claim(NamedTuple):
    """An equation of the note as expected values.

    text : what it says;  equation : its number
    expected : (entries,) of the mean over draws, relative to `scale`
    scale : (entries,) what the entries are measured by, √(K(x,x)K(x',x')) and the like
    shifted : whether the mean at width n is off by O(1/n), so that it has to be extrapolated
    narrowing : whether single draws tend to it, as 1/√n
    """

    text: str
    equation: str
    expected: Floats
    scale: Floats
    shifted: bool = False
    narrowing: bool = False


def lower(matrices: Floats) -> Floats:
    """The entries on and below the diagonal of symmetric matrices (…, N, N), flat."""
    i, j = np.tril_indices(matrices.shape[-1])
    return np.asarray(matrices[..., i, j], float).ravel()


def diagonal_roots(kernels: Floats) -> Floats:
    """√K(x,x) of kernels (…, N, N)."""
    return np.asarray(np.sqrt(np.diagonal(kernels, axis1=-2, axis2=-1)))


def outer(roots: Floats) -> Floats:
    """√K(x,x) √K(x',x') of (…, N) roots."""
    return np.asarray(roots[..., :, None] * roots[..., None, :])


def make_claims(net: MLP, x: Floats, n_out: int) -> dict[str, Claim]:
    """All claims about the samples x, (N, n0), by the names that `observe` uses."""
    exact = gram(net, x, layers="all", dtype="float64")
    assert exact.nngp is not None and exact.ntk is not None
    nngp, ntk, depth = exact.nngp, exact.ntk, net.depth
    roots, ntk_root = diagonal_roots(nngp), diagonal_roots(ntk[-1])
    scale, ntk_scale = outer(roots), outer(ntk_root)
    deep = depth > 2  # behind one hidden layer everything holds at any width
    claims = {
        "mean": Claim("E f = 0, every layer", "8", 0 * roots.ravel(), roots.ravel()),
        "units": Claim("units independent", "9", np.zeros(scale.size), scale.ravel()),
        "first": Claim("Σ¹ by units", "10", lower(nngp[0]), lower(scale[0])),
        "theta1": Claim("Θ¹ = Σ¹ ⊗ I, exactly", "18", *_per_output(nngp[0], scale[0], n_out)),
    }
    if depth == 1:
        return claims
    weight2 = np.array(net.w_std[1:])[:, None, None] ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (ntk[1:] - nngp[1:]) / (weight2 * ntk[:-1])
    # of a Θ that is nothing but rounding there is no quotient
    slope[np.abs(ntk[:-1]) < 1e-6 * outer(diagonal_roots(ntk[:-1]))] = np.nan
    slope_root = diagonal_roots(slope)
    through = np.sqrt(np.maximum(np.diagonal(ntk[-1] - nngp[-1]), 0))
    pairs = lower(scale[-1]), lower(ntk_scale)
    claims |= {
        "nngp": Claim("Σ by last features", "11", lower(nngp[-1]), pairs[0], deep, True),
        "nngp shape": Claim("Σ, correlation", "11", 0 * pairs[0], pairs[0], deep, True),
        "features": Claim(
            "Σ of every layer, by features", "11", lower(nngp[1:]), lower(scale[1:]), deep, True
        ),
        "outputs": Claim("Σ of every layer, by units", "12", lower(nngp), lower(scale), deep),
        "slope": Claim(
            "Σ̇ of every layer", "24", lower(slope), lower(outer(slope_root)), deep, True
        ),
        "share": Claim(
            "last layer's share Σ ⊗ I", "25", *_per_output(nngp[-1], scale[-1], n_out), deep, True
        ),
        "ntk": Claim("Θ, mean over outputs", "26", lower(ntk[-1]), pairs[1], deep, True),
        "ntk shape": Claim("Θ, correlation", "26", 0 * pairs[1], pairs[1], deep, True),
        "apart": Claim("Θ between outputs = 0", "27", 0 * pairs[1], pairs[1], deep, True),
        "gradients": Claim(
            "Σ̇Θ is the true product", "23-24", 0 * pairs[1], lower(outer(through)), deep, True
        ),
    }
    if n_out == 1:
        del claims["apart"]
    return claims


def _per_output(kernel: Floats, scale: Floats, outputs: int) -> tuple[Floats, Floats]:
    """K ⊗ I and its scale, (N, N, K, K), flat."""
    eye = np.eye(outputs)
    return (kernel[:, :, None, None] * eye).ravel(), (
        scale[:, :, None, None] * np.ones_like(eye)
    ).ravel()


def _shape(kernel: Floats, claim: Claim) -> Floats:
    """K(x,x') less what its diagonal lets expect, r·(K(x,x)·b/a + K(x',x')·a/b)/2, lower triangle.

    With a, b the exact roots of the diagonal and r the exact correlation it has mean 0 if K is
    right, and far less noise than K: the fluctuations that all entries share cancel.
    """
    size = math.isqrt(2 * len(claim.expected))
    i, j = np.tril_indices(size)
    diagonal = kernel[i == j] / np.where(claim.scale[i == j] > 0, claim.scale[i == j], 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.where(claim.scale > 0, claim.expected / claim.scale, 0)
    return np.asarray(kernel - claim.scale * r * (diagonal[i] + diagonal[j]) / 2)


def observe(params: Parameters, x: Floats, claims: dict[str, Claim]) -> dict[str, Floats]:
    """The entries of every claim as one network has them, flat; and its outputs on x."""
    net, depth = params.net, params.net.depth
    forth = run_pass(params, x)
    z, outputs = forth.preactivations, params.widths[-1]
    linear = params.layers(1, outputs)
    seen: dict[str, Floats] = {
        "mean": np.concatenate([h.mean(axis=1) for h in z]),
        # neighbouring units, for all pairs would cost n² products
        "units": np.concatenate(
            [(h[:, :-1] @ h[:, 1:].T / max(h.shape[1] - 1, 1)).ravel() for h in z]
        ),
        "first": lower(nngp_by_outputs(z[0], z[0])),
        "theta1": _theta(linear, run_pass(linear, x)).ravel(),
        "raw": forth.outputs,
    }
    if depth == 1:
        return seen
    features = [share(params, layer, a, a) for layer, a in enumerate(forth.alphas) if layer > 0]
    slopes = [s.derivative(h) for s, h in zip(net.activation, z, strict=False)]
    slope = [s @ s.T / s.shape[1] for s in slopes]
    theta = _theta(params, forth)
    pooled = np.trace(theta, axis1=2, axis2=3) / outputs
    last = forth.betas[-1].reshape(-1, outputs)
    shares = (last @ last.T).reshape(len(x), outputs, len(x), outputs).transpose(0, 2, 1, 3)
    before = params.layers(depth - 1, UNITS)
    below = run_pass(before, x)
    product = net.w_std[-1] ** 2 * slope[-1] * pooled_ntk(before, below, below)
    seen |= {
        "nngp": lower(features[-1]),
        "features": lower(np.array(features)),
        "outputs": lower(np.array([nngp_by_outputs(h, h) for h in z])),
        "slope": lower(np.array(slope)),
        "share": (features[-1][:, :, None, None] * shares).ravel(),
        "ntk": lower(pooled),
        "gradients": lower(pooled - features[-1] - product),
    }
    if outputs > 1:
        apart = theta.sum(axis=(2, 3)) - outputs * pooled
        seen["apart"] = lower((apart + apart.T) / (2 * outputs * (outputs - 1)))
    for name in ("nngp", "ntk"):
        seen[f"{name} shape"] = _shape(seen[name], claims[name])
    return seen


def _theta(params: Parameters, forth: Pass) -> Floats:
    """All of Θ, (N, N, n_L, n_L)."""
    samples, outputs = forth.outputs.shape
    theta = np.zeros((samples, samples, outputs, outputs), forth.outputs.dtype)
    add_ntk(theta, params, forth, forth)
    return theta
