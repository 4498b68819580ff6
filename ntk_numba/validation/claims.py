"""What the note claims of a finite network, and what one network shows of it.

A claim is an expected value for each of some entries; what is observed of a draw are the same
entries, made by `finite_width`, which knows no formula of the kernels. `check` compares the two.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.finite_width.empirical import (
    add_ntk,
    nngp_by_outputs,
    pooled_ntk,
    share,
)
from ntk_numba.finite_width.networks import (
    Floats,
    Parameters,
    Pass,
    in_range,
    run_pass,
)
from ntk_numba.network import MLP

UNITS = 16  # of a hidden layer whose Θ is looked at; all would cost n times a pass


class Claim(NamedTuple):
    """An equation of the note as expected values.

    text : what it says;  equation : its number
    expected : (entries,) of the mean over draws
    scale : (entries,) what the entries are measured by, √(K(x,x)K(x',x')) and the like
    noise : (entries,) variance, relative to scale², of one unit's contribution if units are
        Gaussian; 0 where they need not be
    units : (entries,) how many contribute; 0 stands for the width of the hidden layers
    shifted : whether the mean at width n is off by O(1/n), so that it has to be extrapolated
    narrowing : whether single draws tend to it, as 1/√n
    """

    text: str
    equation: str
    expected: Floats
    scale: Floats
    noise: Floats
    units: NDArray[np.int64]
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


def _claim(
    text: str,
    equation: str,
    expected: Floats,
    scale: Floats,
    noise: Floats | float = 0.0,
    units: Any = 0,
    shifted: bool = False,
    narrowing: bool = False,
) -> Claim:
    shape = expected.shape
    noise, units = np.broadcast_to(noise, shape), np.broadcast_to(units, shape)
    return Claim(text, equation, expected, scale, noise, units, shifted, narrowing)


def malformed(nngp: Floats, ntk: Floats) -> int:
    """How many entries of the exact kernels of all layers, (L, N, N), cannot be any kernel's.

    They are not finite, not symmetric, or exceed √(K(x,x)K(x',x')); or Θ⁽ˡ⁺¹⁾ − Σ⁽ˡ⁺¹⁾, which is
    σ_w²Σ̇Θ⁽ˡ⁾, is negative on the diagonal, or something where Θ⁽ˡ⁾ is nothing.
    """
    wrong = np.zeros(nngp.shape, bool)
    for kernel in (nngp, ntk):
        with np.errstate(all="ignore"):
            bound = outer(diagonal_roots(kernel)) * (1 + 1e-9)
            wrong |= ~np.isfinite(kernel) | ~(np.abs(kernel) <= bound)
        wrong |= kernel != np.swapaxes(kernel, -1, -2)
    if not wrong.any():
        rest = np.abs(ntk[1:] - nngp[1:]) > 1e-3 * outer(diagonal_roots(ntk[1:]))
        wrong[1:] |= rest & nothing(ntk[:-1])
        small = diagonal_roots(ntk) < diagonal_roots(nngp) * (1 - 1e-12)
        wrong |= small[:, :, None] & np.eye(small.shape[1], dtype=bool)
    return int(np.count_nonzero(wrong))


def nothing(kernels: Floats) -> NDArray[np.bool_]:
    """Where an entry is so small that it may be nothing but rounding."""
    return np.asarray(np.abs(kernels) <= 1e-6 * outer(diagonal_roots(kernels)))


def make_claims(net: MLP, nngp: Floats, ntk: Floats, n_out: int) -> dict[str, Claim]:
    """All claims about samples whose exact kernels of all layers these are, (L, N, N).

    By the names that `observe` uses. A scale of 0 is that of a zero vector without a bias, which
    every network maps to 0; a scale of NaN stands where there is nothing to claim.
    """
    depth, samples = net.depth, nngp.shape[-1]
    roots, ntk_root = diagonal_roots(nngp), diagonal_roots(ntk[-1])
    scale, ntk_scale = outer(roots), outer(ntk_root)
    with np.errstate(divide="ignore", invalid="ignore"):
        pairs_noise = 1 + np.where(scale > 0, nngp / scale, 0) ** 2  # of u·v, by Isserlis
    units = np.zeros(depth, int)
    units[-1] = n_out
    per_sample = np.repeat(units, samples)
    per_pair = np.broadcast_to(units[:, None, None], scale.shape)
    neighbours = np.maximum(per_pair - 1, 0)
    deep = depth > 2  # behind one hidden layer everything holds at any width
    flat = scale.ravel()
    claims = {
        "mean": _claim(
            "E f = 0, every layer", "8", 0 * roots.ravel(), roots.ravel(), 1.0, per_sample
        ),
        "units": _claim(
            "units uncorrelated", "9", 0 * flat, flat, neighbours.ravel() > 0, neighbours.ravel()
        ),
        "first": _claim(
            "Σ¹ by units", "10", lower(nngp[0]), lower(scale[0]), lower(pairs_noise[0]), units[0]
        ),
        "theta1": _claim("Θ¹ = Σ¹ ⊗ I, exactly", "18", *_per_output(nngp[0], scale[0], n_out)),
    }  # fmt: skip
    if depth == 1:
        return claims
    claims["outputs"] = _claim(
        "Σ of every layer, by units", "12", lower(nngp), lower(scale), lower(pairs_noise),
        lower(per_pair), shifted=deep,
    )  # fmt: skip
    weight2 = np.array(net.w_std[1:])[:, None, None] ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (ntk[1:] - nngp[1:]) / (weight2 * ntk[:-1])
    slope[nothing(ntk[:-1])] = np.nan
    slope_scale = outer(diagonal_roots(slope)) + 0 * slope  # NaN where either is
    through = np.sqrt(np.maximum(np.diagonal(ntk[-1] - nngp[-1]), 0))
    pairs, ntk_pairs = lower(scale[-1]), lower(ntk_scale)
    # what single networks tend to
    limits: dict[str, tuple[str, str, Floats, Floats]] = {
        "nngp": ("Σ by last features", "11", lower(nngp[-1]), pairs),
        "nngp shape": ("Σ, correlation", "11", 0 * pairs, pairs),
        "features": ("Σ of every layer, by features", "11", lower(nngp[1:]), lower(scale[1:])),
        "slope": ("Σ̇ of every layer", "24", lower(slope), lower(slope_scale)),
        "share": ("last layer's share Σ ⊗ I", "25", *_per_output(nngp[-1], scale[-1], n_out)),
        "ntk": ("Θ, mean over outputs", "26", lower(ntk[-1]), ntk_pairs),
        "ntk shape": ("Θ, correlation", "26", 0 * ntk_pairs, ntk_pairs),
        "apart": ("Θ between outputs = 0", "27", 0 * ntk_pairs, ntk_pairs),
        "gradients": (
            "Σ̇Θ is the true product", "23-24", 0 * ntk_pairs, lower(outer(through))
        ),
    }  # fmt: skip
    if n_out == 1:
        del limits["apart"]
    claims |= {k: _claim(*parts, shifted=deep, narrowing=True) for k, parts in limits.items()}
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
    slopes = [s.derivative(h) for s, h in zip(net.functions, z, strict=False)]
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
    in_range(seen["raw"]), in_range(pooled), in_range(features[-1])
    for name in ("nngp", "ntk"):
        seen[f"{name} shape"] = _shape(seen[name], claims[name])
    return seen


def _theta(params: Parameters, forth: Pass) -> Floats:
    """All of Θ, (N, N, n_L, n_L)."""
    samples, outputs = forth.outputs.shape
    theta = np.zeros((samples, samples, outputs, outputs), forth.outputs.dtype)
    add_ntk(theta, params, forth, forth)
    return theta
