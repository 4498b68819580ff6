"""The note's claims about finite networks, and the observations of one network to test them by.

A claim states the expected values of a number of entries. An observation has the same entries of
one network, computed by `finite_width`, which uses no formula of the kernels. `check` calls both,
and `verdict` compares them.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.finite_width.empirical import (
    add_ntk,
    nngp_by_features,
    nngp_by_outputs,
    pooled_ntk,
)
from ntk_numba.finite_width.networks import (
    Parameters,
    Pass,
    in_range,
    run_pass,
)
from ntk_numba.function import Floats
from ntk_numba.network import MLP

# Units of the last hidden layer whose Θ is computed; that of all n would cost n times a pass
UNITS = 16


class Claim(NamedTuple):
    """An equation of the note, as the expected values of its entries.

    text : the statement, in a few words
    equation : its number in the note
    expected : (entries,) the expected means over draws
    scale : (entries,) the scale of the entries, such as √(K(x,x)K(x',x'))
    noise : (entries,) the variance, relative to scale², of one unit's contribution if units are
        Gaussian; 0 where they need not be
    units : (entries,) the number of units that contribute; 0 stands for the width of the hidden
        layers
    shifted : whether the mean at width n is off by O(1/n), so that it has to be extrapolated
    narrowing : whether single draws tend to the expected values, as 1/√n
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
    """Return the entries on and below the diagonal of symmetric matrices (…, N, N), flat."""
    i, j = np.tril_indices(matrices.shape[-1])
    return np.asarray(matrices[..., i, j], float).ravel()


def diagonal_roots(kernels: Floats) -> Floats:
    """Return √K(x,x) of kernels (…, N, N)."""
    return np.asarray(np.sqrt(np.diagonal(kernels, axis1=-2, axis2=-1)))


def outer(roots: Floats) -> Floats:
    """Return √K(x,x) √K(x',x') of all pairs, (…, N, N), for roots √K(x,x), (…, N)."""
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
    """Return a `Claim`, whose noise and units may be the same for all entries."""
    shape = expected.shape
    noise, units = np.broadcast_to(noise, shape), np.broadcast_to(units, shape)
    return Claim(
        text=text,
        equation=equation,
        expected=expected,
        scale=scale,
        noise=noise,
        units=units,
        shifted=shifted,
        narrowing=narrowing,
    )


def malformed(nngp: Floats, ntk: Floats) -> int:
    """Count the entries of the exact kernels of all layers, (L, N, N), that no kernel can have.

    Such an entry is not finite, not symmetric, or exceeds √(K(x,x)K(x',x')); or Θ⁽ˡ⁺¹⁾ − Σ⁽ˡ⁺¹⁾,
    which is σ_w²Σ̇Θ⁽ˡ⁾, is negative on the diagonal, or is not 0 where Θ⁽ˡ⁾ is.
    """
    wrong = np.zeros(nngp.shape, bool)
    for kernel in (nngp, ntk):
        with np.errstate(all="ignore"):
            bound = outer(diagonal_roots(kernel)) * (1 + 1e-9)
            wrong |= ~np.isfinite(kernel) | ~(np.abs(kernel) <= bound)
        wrong |= kernel != np.swapaxes(kernel, -1, -2)
    if not wrong.any():
        nonzero = np.abs(ntk[1:] - nngp[1:]) > 1e-3 * outer(diagonal_roots(ntk[1:]))
        wrong[1:] |= nonzero & negligible(ntk[:-1])
        negative = diagonal_roots(ntk) < diagonal_roots(nngp) * (1 - 1e-12)
        wrong |= negative[:, :, None] & np.eye(negative.shape[1], dtype=bool)
    return int(np.count_nonzero(wrong))


def negligible(kernels: Floats) -> NDArray[np.bool_]:
    """Return where an entry is so small that it may be a rounding error of 0."""
    return np.asarray(np.abs(kernels) <= 1e-6 * outer(diagonal_roots(kernels)))


def make_claims(net: MLP, nngp: Floats, ntk: Floats, n_out: int) -> dict[str, Claim]:
    """Return all claims, by the names that `observe` uses.

    A scale of 0 belongs to a zero vector without a bias, which every network maps to 0. A scale of
    NaN marks an entry about which nothing is claimed.

    nngp, ntk : (L, N, N) the exact kernels of all layers
    """
    depth, samples = net.depth, nngp.shape[-1]
    roots, ntk_root = diagonal_roots(nngp), diagonal_roots(ntk[-1])
    scale, ntk_scale = outer(roots), outer(ntk_root)
    with np.errstate(divide="ignore", invalid="ignore"):
        # the variance of u·v, by Isserlis' theorem
        pairs_noise = 1 + np.where(scale > 0, nngp / scale, 0) ** 2
    units = np.zeros(depth, int)
    units[-1] = n_out
    per_sample = np.repeat(units, samples)
    per_pair = np.broadcast_to(units[:, None, None], scale.shape)
    neighbours = np.maximum(per_pair - 1, 0)
    deep = depth > 2  # with one hidden layer the claims about means hold at any width
    flat = scale.ravel()
    claims = {
        "mean": _claim(
            "E f = 0, every layer",
            "8",
            expected=0 * roots.ravel(),
            scale=roots.ravel(),
            noise=1.0,
            units=per_sample,
        ),
        "units": _claim(
            "units uncorrelated",
            "9",
            expected=0 * flat,
            scale=flat,
            noise=neighbours.ravel() > 0,
            units=neighbours.ravel(),
        ),
        "first": _claim(
            "Σ¹ by units",
            "10",
            expected=lower(nngp[0]),
            scale=lower(scale[0]),
            noise=lower(pairs_noise[0]),
            units=units[0],
        ),
        "theta1": _claim("Θ¹ = Σ¹ ⊗ I, exactly", "18", *_per_output(nngp[0], scale[0], n_out)),
    }
    if depth == 1:
        return claims
    claims["outputs"] = _claim(
        "Σ of every layer, by units",
        "12",
        expected=lower(nngp),
        scale=lower(scale),
        noise=lower(pairs_noise),
        units=lower(per_pair),
        shifted=deep,
    )
    weight2 = np.array(net.w_std[1:])[:, None, None] ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (ntk[1:] - nngp[1:]) / (weight2 * ntk[:-1])
    slope[negligible(ntk[:-1])] = np.nan
    slope_scale = outer(diagonal_roots(slope)) + 0 * slope  # NaN where the slope is NaN too
    through = np.sqrt(np.maximum(np.diagonal(ntk[-1] - nngp[-1]), 0))
    pairs, ntk_pairs = lower(scale[-1]), lower(ntk_scale)
    # the claims about limits, to which single networks tend
    limits: dict[str, tuple[str, str, Floats, Floats]] = {
        "nngp": ("Σ by last features", "11", lower(nngp[-1]), pairs),
        "nngp shape": ("Σ, correlation", "11", 0 * pairs, pairs),
        "features": ("Σ of every layer, by features", "11", lower(nngp[1:]), lower(scale[1:])),
        "slope": ("Σ̇ of every layer", "24", lower(slope), lower(slope_scale)),
        "last layer": ("last layer's share Σ ⊗ I", "25", *_per_output(nngp[-1], scale[-1], n_out)),
        "ntk": ("Θ, mean over outputs", "26", lower(ntk[-1]), ntk_pairs),
        "ntk shape": ("Θ, correlation", "26", 0 * ntk_pairs, ntk_pairs),
        "between outputs": ("Θ between outputs = 0", "27", 0 * ntk_pairs, ntk_pairs),
        "gradients": (
            "Σ̇Θ is the true product", "23-24", 0 * ntk_pairs, lower(outer(through))
        ),
    }  # fmt: skip
    if n_out == 1:
        del limits["between outputs"]
    claims |= {k: _claim(*parts, shifted=deep, narrowing=True) for k, parts in limits.items()}
    return claims


def _per_output(kernel: Floats, scale: Floats, outputs: int) -> tuple[Floats, Floats]:
    """Return K ⊗ I, (N, N, n_L, n_L), and its scale, flat."""
    eye = np.eye(outputs)
    return (kernel[:, :, None, None] * eye).ravel(), (
        scale[:, :, None, None] * np.ones_like(eye)
    ).ravel()


def _shape(kernel: Floats, claim: Claim) -> Floats:
    """Return K(x,x') − r·(K(x,x)·b/a + K(x',x')·a/b)/2 on and below the diagonal.

    Here a and b are the exact roots of the diagonal and r is the exact correlation. The difference
    has mean 0 if K is right, and far less noise than K, since fluctuations that all entries have in
    common cancel.
    """
    size = math.isqrt(2 * len(claim.expected))
    i, j = np.tril_indices(size)
    diagonal = kernel[i == j] / np.where(claim.scale[i == j] > 0, claim.scale[i == j], 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.where(claim.scale > 0, claim.expected / claim.scale, 0)
    return np.asarray(kernel - claim.scale * r * (diagonal[i] + diagonal[j]) / 2)


def observe(params: Parameters, x: Floats, claims: dict[str, Claim]) -> dict[str, Floats]:
    """Return the entries of each claim for one network, flat, and its outputs on x as "raw"."""
    net, depth = params.net, params.net.depth
    passed = run_pass(params, x)
    z, outputs = passed.preactivations, params.widths[-1]
    linear = params.layers(1, outputs)
    seen: dict[str, Floats] = {
        "mean": np.concatenate([h.mean(axis=1) for h in z]),
        # neighbouring units only, since all pairs would cost n² products
        "units": np.concatenate(
            [(h[:, :-1] @ h[:, 1:].T / max(h.shape[1] - 1, 1)).ravel() for h in z]
        ),
        "first": lower(nngp_by_outputs(z[0], z[0])),
        "theta1": _theta(linear, run_pass(linear, x)).ravel(),
        "raw": passed.outputs,
    }
    if depth == 1:
        return seen
    features = [
        nngp_by_features(params, layer, a, a) for layer, a in enumerate(passed.alphas) if layer > 0
    ]
    slopes = [s.derivative(h) for s, h in zip(net.functions, z, strict=False)]
    slope = [s @ s.T / s.shape[1] for s in slopes]
    theta = _theta(params, passed)
    pooled = np.trace(theta, axis1=2, axis2=3) / outputs
    last = passed.betas[-1].reshape(-1, outputs)
    products = (last @ last.T).reshape(len(x), outputs, len(x), outputs).transpose(0, 2, 1, 3)
    before = params.layers(depth - 1, UNITS)
    below = run_pass(before, x)
    product = net.w_std[-1] ** 2 * slope[-1] * pooled_ntk(before, below, below)
    seen |= {
        "nngp": lower(features[-1]),
        "features": lower(np.array(features)),
        "outputs": lower(np.array([nngp_by_outputs(h, h) for h in z])),
        "slope": lower(np.array(slope)),
        "last layer": (features[-1][:, :, None, None] * products).ravel(),
        "ntk": lower(pooled),
        "gradients": lower(pooled - features[-1] - product),
    }
    if outputs > 1:
        mixed = theta.sum(axis=(2, 3)) - outputs * pooled
        seen["between outputs"] = lower((mixed + mixed.T) / (2 * outputs * (outputs - 1)))
    for values in (seen["raw"], pooled, features[-1]):
        in_range(values)  # raises an error that names the first sample that overflows
    for name in ("nngp", "ntk"):
        seen[f"{name} shape"] = _shape(seen[name], claims[name])
    return seen


def _theta(params: Parameters, passed: Pass) -> Floats:
    """Return Θ between all samples and outputs, (N, N, n_L, n_L)."""
    samples, outputs = passed.outputs.shape
    theta = np.zeros((samples, samples, outputs, outputs), passed.outputs.dtype)
    add_ntk(theta, params, passed, passed)
    return theta
