"""The empirical kernels of one network, eq. 5, 6 and 11.

They are made layer by layer and never from a Jacobian, which would have as many columns as the
network has parameters. With α⁽ˡ⁾ the activations and B⁽ˡ⁾ₖ = ∂f_k/∂α̃⁽ˡ⁾ by the chain rule
(`networks.run_pass`), the derivative by a weight is a product of the two,
∂f_k/∂W⁽ˡ⁾ = σ_w/√n_l · B⁽ˡ⁺¹⁾ₖ α⁽ˡ⁾ᵀ, and the sum over all parameters (eq. 5 and 6) is

    Θ_kk'(x, x') = Σ_l (σ_w² α⁽ˡ⁾(x)·α⁽ˡ⁾(x')/n_l + β²) (B⁽ˡ⁺¹⁾ₖ(x)·B⁽ˡ⁺¹⁾ₖ'(x'))
"""

from typing import Any

import numpy as np

from ntk_numba.compiled.policy import kernel
from ntk_numba.errors import InvalidValueError
from ntk_numba.finite_width.networks import (
    ROWS,
    Floats,
    Parameters,
    Pass,
    check_parameters,
    forward_bytes,
    in_range,
    pass_bytes,
    preactivations,
    read_samples,
    run_pass,
)
from ntk_numba.finite_width.workers import fitting_threads, in_order
from ntk_numba.machine import threads_to_use


def empirical_nngp(params: Parameters, X: Any, Z: Any = None, by: str = "features") -> Floats:
    """The Σ that one network shows, eq. 11: its mean over networks tends to Σ⁽ᴸ⁾ (eq. 12).

    Parameters
    ----------
    params : Parameters
    X, Z : as for `ntk_numba.gram`
    by : "features" or "outputs"
        σ_w² α⁽ᴸ⁻¹⁾(x)·α⁽ᴸ⁻¹⁾(x')/n + β², the covariance of the outputs given the hidden layers
        (eq. 11); or the mean over outputs of f_k(x) f_k(x') (eq. 7 and 12), which has the same mean
        and more noise.

    Returns
    -------
    (N, M) array

    Raises
    ------
    ValueError, TypeError, OSError
        As `empirical_ntk`; another `by`.
    """
    if by not in ("features", "outputs"):
        raise InvalidValueError(f"by must be 'features' or 'outputs', not {by!r}")
    check_parameters(params)
    x = read_samples(X, "X", params.widths[0], params.dtype)
    z = None if Z is None else read_samples(Z, "Z", params.widths[0], params.dtype)
    item = params.dtype.itemsize
    columns = len(x if z is None else z)
    each = forward_bytes(params.widths, len(x) + (0 if z is None else columns), item)
    fitting_threads(1, len(x) * columns * item, each, "the network's activations")

    def last(rows: Floats) -> Floats:
        before = preactivations(params, rows)
        if by == "outputs":
            return before[-1]
        return rows if params.net.depth == 1 else params.net.functions[-1](before[-2])

    def product(rows: Floats) -> Floats:
        left = last(rows)
        right = left if z is None else last(z)  # a product with itself is exactly symmetric
        return nngp_by_outputs(left, right) if by == "outputs" else share(params, -1, left, right)

    (result,) = in_order(product, [x], 1)
    return in_range(result)


def share(params: Parameters, layer: int, left: Floats, right: Floats) -> Floats:
    """σ_w² α⁽ˡ⁾(x)·α⁽ˡ⁾(x')/n_l + β² of rows of activations, (N, M): eq. 11 and 25."""
    net = params.net
    product = left @ right.T
    product *= net.w_std[layer] ** 2 / left.shape[1]
    product += net.b_std[layer] ** 2
    return product


def nngp_by_outputs(left: Floats, right: Floats) -> Floats:
    """The mean over k of f_k(x) f_k(x'), (N, M), of outputs (N, n_L) and (M, n_L)."""
    return np.asarray(left @ right.T / left.shape[1])


def empirical_ntk(params: Parameters, X: Any, Z: Any = None, threads: int | None = None) -> Floats:
    """The Θ of one network, between all samples and all outputs: eq. 5 and 6.

    Θ_kk'(x, x') = Σ_p ∂f_k(x)/∂θ_p ∂f_k'(x')/∂θ_p over all parameters, made by layer (see the head
    of this file) in O(N·M·n_L²·Σ n_l + (N + M)·n_L·Σ n_l n_{l+1}) operations
    and without a Jacobian.

    Parameters
    ----------
    params : Parameters
    X, Z : as for `ntk_numba.gram`
        Without Z, X with itself: exactly symmetric, and half the work.
    threads : int, optional
        At most so many; they do not change a bit.

    Returns
    -------
    (N, M, n_out, n_out) array, of the dtype of the parameters, exact to rounding

    Raises
    ------
    ValueError, TypeError, OSError
        As `ntk_numba.gram`; and what does not fit in memory, with its bytes.
    """
    check_parameters(params)
    x = read_samples(X, "X", params.widths[0], params.dtype)
    z = None if Z is None else read_samples(Z, "Z", params.widths[0], params.dtype)
    columns, outputs, item = len(x if z is None else z), params.widths[-1], params.dtype.itemsize
    held = len(x) + (0 if z is None else len(z))
    block = min(len(x), ROWS)
    workers = fitting_threads(
        threads_to_use(threads),
        pass_bytes(params.widths, held, item) + len(x) * columns * outputs**2 * item,
        block * columns * (1 + outputs**2) * item,
        f"the empirical kernel of {len(x):,} × {columns:,} samples and {outputs} outputs",
    )
    blocks = [slice(k, k + ROWS) for k in range(0, len(x), ROWS)]
    theta = np.zeros((len(x), columns, outputs, outputs), params.dtype)

    def passes(rows: Floats) -> Pass:
        parts = [rows[k : k + ROWS] for k in range(0, len(rows), ROWS)]
        return _joined(list(in_order(lambda part: run_pass(params, part), parts, workers)))

    left = passes(x)
    right = left if z is None else passes(z)

    def fill(some: slice) -> None:
        # of a symmetric matrix only as far as the diagonal
        others = right.rows(slice(0, some.stop if z is None else columns))
        add_ntk(theta[some, : len(others.outputs)], params, left.rows(some), others)
        if z is None:
            mirror(theta, some.start, min(some.stop, len(x)))

    for _ in in_order(fill, blocks, workers):
        pass
    return in_range(theta)


def _joined(parts: list[Pass]) -> Pass:
    if len(parts) == 1:
        return parts[0]
    return Pass(
        *(
            [np.concatenate(pieces) for pieces in zip(*arrays, strict=True)]
            for arrays in zip(*parts, strict=True)
        )
    )


def add_ntk(theta: Floats, params: Parameters, left: Pass, right: Pass) -> None:
    """Add Θ_kk'(x, x') to theta, (N, M, n_L, n_L)."""
    for layer in range(params.net.depth):
        shares = share(params, layer, left.alphas[layer], right.alphas[layer])
        a, b = (p.betas[layer].reshape(-1, p.betas[layer].shape[2]) for p in (left, right))
        add_layer(theta, shares, a @ b.T)


def pooled_ntk(params: Parameters, left: Pass, right: Pass) -> Floats:
    """1/n_L Σ_k Θ_kk(x, x'), (N, M)."""
    outputs = left.outputs.shape[1]
    theta = np.zeros((len(left.outputs), len(right.outputs), 1, 1), left.outputs.dtype)
    for layer in range(params.net.depth):
        shares = share(params, layer, left.alphas[layer], right.alphas[layer])
        # the sum over k and units at once; of the unit vectors of the last layer it is n_L
        a, b = (p.betas[layer].reshape(len(p.outputs), -1) for p in (left, right))
        product = a @ b.T
        product /= outputs
        add_layer(theta, shares, product)
    return theta[:, :, 0, 0]


@kernel()
def add_layer(theta: Floats, shares: Floats, products: Floats) -> None:
    """theta[i, j, k, k'] += shares[i, j] · products[i·K + k, j·K + k'].

    theta : (N, M, K, K);  shares : (N, M);  products : (N·K, M·K)
    """
    rows, columns, outputs, _ = theta.shape
    for i in range(rows):
        for k in range(outputs):
            line = products[i * outputs + k]
            for j in range(columns):
                share = shares[i, j]
                for k2 in range(outputs):
                    theta[i, j, k, k2] += share * line[j * outputs + k2]


@kernel()
def mirror(theta: Floats, start: int, stop: int) -> None:
    """Θ_k'k(x', x) = Θ_kk'(x, x'), (N, N, K, K): from rows left of the diagonal to columns."""
    outputs = theta.shape[2]
    for i in range(start, stop):
        for j in range(i + 1):
            for k in range(outputs):
                for k2 in range(outputs if j < i else k):
                    theta[j, i, k2, k] = theta[i, j, k, k2]
