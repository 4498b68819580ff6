"""The empirical kernels of one network, eq. 5, 6 and 11.

They are computed layer by layer and never from a Jacobian, which would have as many columns as the
network has parameters. With α⁽ˡ⁾ the activations and B⁽ˡ⁾ₖ = ∂f_k/∂α̃⁽ˡ⁾ by the chain rule
(`networks.run_pass`), the derivative by a weight is a product of the two,
∂f_k/∂W⁽ˡ⁾ = σ_w/√n_l · B⁽ˡ⁺¹⁾ₖ α⁽ˡ⁾ᵀ, and the sum over all parameters (eq. 5 and 6) is

    Θ_kk'(x, x') = Σ_l (σ_w² α⁽ˡ⁾(x)·α⁽ˡ⁾(x')/n_l + β²) (B⁽ˡ⁺¹⁾ₖ(x)·B⁽ˡ⁺¹⁾ₖ'(x'))
"""

from typing import Literal

import numpy as np

from ntk_numba.arguments import Data
from ntk_numba.compiled.policy import kernel
from ntk_numba.errors import InvalidValueError
from ntk_numba.finite_width.networks import (
    ROWS,
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
from ntk_numba.finite_width.pool import fitting_threads, in_order
from ntk_numba.function import Floats
from ntk_numba.machine import threads_to_use


def empirical_nngp(
    params: Parameters,
    X: Data,
    Z: Data | None = None,
    *,
    by: Literal["features", "outputs"] = "features",
) -> Floats:
    """Compute the empirical Σ of one network, eq. 11, whose mean over networks tends to Σ⁽ᴸ⁾.

    Parameters
    ----------
    params : Parameters
    X, Z : as for `ntk_numba.gram`
    by : "features" or "outputs"
        "features" is σ_w² α⁽ᴸ⁻¹⁾(x)·α⁽ᴸ⁻¹⁾(x')/n + β², the covariance of the outputs given the
        hidden layers (eq. 11). "outputs" is the mean over outputs of f_k(x) f_k(x') (eq. 7 and
        12), which has the same expectation and more noise.

    Returns
    -------
    (N, M) array

    Raises
    ------
    ValueError, TypeError, OSError
        As for `empirical_ntk`, or if `by` is neither of the two words.
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

    def last_layer(rows: Floats) -> Floats:
        before = preactivations(params, rows)
        if by == "outputs":
            return before[-1]
        return rows if params.net.depth == 1 else params.net.functions[-1](before[-2])

    def product(rows: Floats) -> Floats:
        left = last_layer(rows)
        right = left if z is None else last_layer(z)  # X with itself is exactly symmetric
        if by == "outputs":
            return nngp_by_outputs(left, right)
        return nngp_by_features(params, -1, left, right)

    (result,) = in_order(product, [x], 1)  # one thread of BLAS, without warnings
    return in_range(result)


def nngp_by_features(params: Parameters, layer: int, left: Floats, right: Floats) -> Floats:
    """Return σ_w² α⁽ˡ⁾(x)·α⁽ˡ⁾(x')/n_l + β², (N, M), of rows of activations: eq. 11 and 25."""
    net = params.net
    product = left @ right.T
    product *= net.w_std[layer] ** 2 / left.shape[1]
    product += net.b_std[layer] ** 2
    return product


def nngp_by_outputs(left: Floats, right: Floats) -> Floats:
    """Return the mean over k of f_k(x) f_k(x'), (N, M), of outputs (N, n_L) and (M, n_L)."""
    return np.asarray(left @ right.T / left.shape[1])


def empirical_ntk(
    params: Parameters, X: Data, Z: Data | None = None, *, threads: int | None = None
) -> Floats:
    """Compute the empirical Θ of one network between all samples and all outputs, eq. 5 and 6.

    Θ_kk'(x, x') = Σ_p ∂f_k(x)/∂θ_p ∂f_k'(x')/∂θ_p over all parameters. It is computed layer by
    layer, in O(N·M·n_L²·Σ n_l + (N + M)·n_L·Σ n_l n_{l+1}) operations and without a Jacobian.

    Parameters
    ----------
    params : Parameters
    X, Z : as for `ntk_numba.gram`
        Without Z, the result is that of X with itself: exactly symmetric, for half the work.
    threads : int, optional
        The largest number of threads. The result does not depend on it.

    Returns
    -------
    (N, M, n_out, n_out) array
        In the dtype of the parameters, exact to rounding.

    Raises
    ------
    ValueError, TypeError, OSError
        As for `ntk_numba.gram`, or if the result and its computation do not fit in memory; the
        message says how many bytes they would take.
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

    def fill(rows: slice) -> None:
        # a symmetric matrix is computed only as far as the diagonal
        partners = right.rows(slice(0, rows.stop if z is None else columns))
        add_ntk(theta[rows, : len(partners.outputs)], params, left.rows(rows), partners)
        if z is None:
            mirror(theta, rows.start, min(rows.stop, len(x)))

    for _ in in_order(fill, blocks, workers):
        pass
    return in_range(theta)


def _joined(parts: list[Pass]) -> Pass:
    """Return the results for all samples from those for successive runs of them."""
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
        features = nngp_by_features(params, layer, left.alphas[layer], right.alphas[layer])
        a, b = (p.betas[layer].reshape(-1, p.betas[layer].shape[2]) for p in (left, right))
        add_layer(theta, features, a @ b.T)


def pooled_ntk(params: Parameters, left: Pass, right: Pass) -> Floats:
    """Return 1/n_L Σ_k Θ_kk(x, x'), the mean of Θ over the outputs, (N, M)."""
    outputs = left.outputs.shape[1]
    theta = np.zeros((len(left.outputs), len(right.outputs), 1, 1), left.outputs.dtype)
    for layer in range(params.net.depth):
        features = nngp_by_features(params, layer, left.alphas[layer], right.alphas[layer])
        # one product sums over k and units; for the unit vectors of the last layer it is n_L
        a, b = (p.betas[layer].reshape(len(p.outputs), -1) for p in (left, right))
        product = a @ b.T
        product /= outputs
        add_layer(theta, features, product)
    return theta[:, :, 0, 0]


@kernel()
def add_layer(theta: Floats, features: Floats, products: Floats) -> None:
    """Add a layer's term of Θ: theta[i, j, k, k'] += features[i, j] · products[i·K + k, j·K + k'].

    theta : (N, M, K, K);  features : (N, M);  products : (N·K, M·K)
    """
    rows, columns, outputs, _ = theta.shape
    for i in range(rows):
        for k in range(outputs):
            line = products[i * outputs + k]
            for j in range(columns):
                feature = features[i, j]
                for k2 in range(outputs):
                    theta[i, j, k, k2] += feature * line[j * outputs + k2]


@kernel()
def mirror(theta: Floats, start: int, stop: int) -> None:
    """Copy entries left of the diagonal to above it: Θ_k'k(x', x) = Θ_kk'(x, x'), (N, N, K, K).

    start, stop : the rows that are copied
    """
    outputs = theta.shape[2]
    for i in range(start, stop):
        for j in range(i + 1):
            for k in range(outputs):
                for k2 in range(outputs if j < i else k):
                    theta[j, i, k2, k] = theta[i, j, k, k2]
