"""Kernels in memory: the public functions `gram` and `diagonal`."""

from dataclasses import replace

import numpy as np
from numpy.typing import DTypeLike

from ntk_numba.arguments import (
    KERNELS,
    Data,
    KernelName,
    Kernels,
    Layers,
    kept_layers,
    parse_kernels,
    parse_layers,
)
from ntk_numba.compiled.arrays import aligned
from ntk_numba.compute.gradients import all_derivatives, refuse_too_large
from ntk_numba.compute.pair import Gram
from ntk_numba.compute.plan import check_rows, find_largest_norm, make_plan
from ntk_numba.compute.sweep import make_kernel, sweep
from ntk_numba.engine.fitted import fit_network
from ntk_numba.engine.kernel import Kernel
from ntk_numba.engine.tile import tile_table
from ntk_numba.errors import InvalidTypeError, InvalidValueError
from ntk_numba.inputs.source import open_source, open_sources, result_dtype
from ntk_numba.machine import threads_to_use
from ntk_numba.network import MLP, check_network


def gram(
    net: MLP,
    X: Data,
    Z: Data | None = None,
    *,
    kernels: Kernels = KERNELS,
    layers: Layers = "last",
    dtype: DTypeLike | None = None,
    threads: int | None = None,
    out: Gram | None = None,
    up_to: float | None = None,
    gradients: bool = False,
) -> Gram:
    """Compute the exact kernels of an infinitely wide network for all pairs of samples.

    The covariance Σ of the Gaussian process (NNGP) and the neural tangent kernel Θ (NTK) are, with
    (u, v) ~ N(0, Σ⁽ˡ⁾) on the pair x, x',

        Σ⁽¹⁾ = σ_w² x·x'/n0 + β²,    Σ⁽ˡ⁺¹⁾ = σ_w² E[σ(u)σ(v)] + β²                 (eq. 10, 12)
        Θ⁽¹⁾ = Σ⁽¹⁾,                 Θ⁽ˡ⁺¹⁾ = σ_w² E[σ'(u)σ'(v)] Θ⁽ˡ⁾ + Σ⁽ˡ⁺¹⁾     (eq. 18, 26)

    The result is in memory; `write_gram` writes it to a file.

    Parameters
    ----------
    net : MLP
        The network of depth L.
    X : (N, n0) real array, memory map, h5py dataset or path
        The samples of the rows. Bool, integers and float16 are converted to float64. A path is
        ``x.npy``, ``x.npz:key``, ``x.h5:dataset``, ``x.csv`` or ``x.parquet``; ``:key`` may be
        omitted if the file holds one array. Of tables it chooses columns, ``x.csv:a,b`` or
        ``x.csv:!label``. Messages count rows and columns from 0.
    Z : (M, n0), as X, optional
        The samples of the columns. Without it the matrix is that of X with itself, of which only
        the half at and below the diagonal is computed.
    kernels : "nngp", "ntk" or both
        The kernels to compute.
    layers : "last", "all" or sequence of int
        The layers to return. A sequence has the numbers of layers, from 1 to L, in increasing
        order.
    dtype : float64 or float32, optional
        The dtype of the result and of the arithmetic. By default it is float64, unless all data is
        float32.
    threads : int, optional
        The largest number of threads; by default all that this process may use. The result does not
        depend on it.
    out : Gram, optional
        C-contiguous arrays of the right shape and dtype, which are filled and returned. Arrays that
        an earlier call has returned are a few per cent faster than others, since their rows begin
        at lines of the cache.
    up_to : float, optional
        The largest Euclidean norm that a row of X or Z may have; a longer row raises an error.
        Activations that are computed as series (tanh, silu, …), and elu, selu and celu, are fitted
        to it; without it, they are fitted to the longest row of the call. Give several calls the
        same `up_to`, at least the norm of their longest sample, and they compute one and the same
        kernel: ``gram(X)``, ``gram(Z, X)`` and ``diagonal(Z)`` then fit together, and a posterior
        variance cannot be negative because the calls approximate differently. Other activations
        do not use it.
    gradients : bool, optional
        Whether to compute the derivatives of the kernels by σ_w and β of each layer too, which are
        2L matrices for each kernel: `Gram.d_nngp` and `Gram.d_ntk`. The kernels themselves have the
        same bits with and without them. It needs ``layers="last"`` and no `out`.

    Returns
    -------
    Gram
        Two arrays of shape (N, M); or (L, N, M) with ``layers="all"``, where index l − 1 is layer
        l; or (k, N, M) for a sequence of k layers, where index i is ``layers[i]``. Without Z, M = N
        and the arrays are exactly symmetric. Equal samples have exactly equal rows. An entry has
        the units of the squared output of the network.

    Raises
    ------
    ValueError
        If an argument is out of range, the data contains NaN or infinity, or a sample is so large
        that a kernel overflows in the dtype. The message names the argument, file or row.
    TypeError
        If an argument has the wrong type, or the data is not a matrix of real numbers.
    OSError
        If a file cannot be read.

    Notes
    -----
    `ntk_numba.accuracy` states the errors of entries relative to √(K(x,x)·K(x',x')). They hold for
    all pairs, including nearly equal and nearly opposite samples. If an activation is given by a
    series, `Gram.error` is added. Errors of Θ are larger if an activation with a kink follows a
    smooth one (up to 1e-12 in float64), or one with kinks that are not at 0 (up to 1e-9).

    Layer l is the network of depth l: without `dtype` or data that change, the kernels of layer l
    have the bits of ``gram(net.first(l), …)``. So one call with ``layers="all"`` compares depths.
    An exception are deep networks of activations that are computed as series, in which each layer
    amplifies the errors of the layers before it, such as 15 layers of tanh with a w_std of 2. Their
    series are finer in all layers, so that `Gram.error` is within the tolerance; layer l and the
    network of depth l then differ by at most the sum of both errors.

    The derivatives are computed in float64 for any dtype. K depends on σ_w² and β², so they are 0
    for a parameter that is 0. Where all activations are linear but for one kink at 0, those by
    log σ_w and log β have an error of at most 1e-13·√(K(x,x)·K(x',x')), for all pairs. For other
    networks they are central differences of order 10 of the whole recursion in these logarithms,
    with errors of about 1e-11 beside those of the series (see `ntk_numba.engine.differences`),
    and each takes 11 times as long as the kernels.

    In addition to the result, the function needs memory for one copy of X and Z and for a few tiles
    per thread. If these samples do not fit, they are read in bands.

    Examples
    --------
    >>> net = ntk_numba.MLP(4, "relu", b_std=0.1)
    >>> k = ntk_numba.gram(net, [[1.0, 0.0], [0.0, 1.0]])
    >>> k.nngp.round(4)
    array([[0.0813, 0.0558],
           [0.0558, 0.0813]])
    >>> k.ntk.round(4)
    array([[0.2825, 0.0927],
           [0.0927, 0.2825]])
    >>> ntk_numba.gram(net, [[1.0, 0.0]], gradients=True).d_ntk["b_std"].ravel().round(4)
    array([0.1 , 0.15, 0.2 , 0.2 ])
    """
    if gradients and (out is not None or parse_layers(layers) != "last"):
        raise InvalidValueError(
            'gradients=True needs layers="last" and no out; leave them out, or call gram without '
            "gradients for the other layers"
        )
    x, z = open_sources(X, Z)
    if gradients:
        refuse_too_large(net, x, z, kernels=kernels, dtype=dtype)
    plan = make_plan(
        net,
        x,
        z,
        kernels=kernels,
        layers=layers,
        dtype=dtype,
        threads=threads,
        in_memory=True,
        up_to=up_to,
    )
    arrays = _outputs(out, plan.kernels, plan.shape, plan.dtype)
    for source in (x, z):
        if source is not None:
            check_rows(source, plan.largest_norm)
    kernel = make_kernel(plan, x, z)
    shape = (plan.matrices, plan.grid.rows, plan.grid.columns)
    nngp, ntk = (np.empty((0, 1, 1), plan.dtype) if a is None else a.reshape(shape) for a in arrays)
    tile = plan.grid.tile
    for batch in sweep(plan, kernel.samples, x, z):
        to = np.array(batch.indices) * tile
        mirrors = to[:, ::-1] if z is None else (-1, -1)
        tiles = tile_table(batch.reads, to, mirrors)
        kernel.compute(tiles, batch.rows, batch.columns, nngp, ntk)
        del batch  # so that no more than two bands are in memory
    found = replace(arrays, error=plan.fitted.error)
    if not gradients:
        return found
    derivatives = all_derivatives(plan, x, z)
    return replace(found, d_nngp=derivatives.get("nngp"), d_ntk=derivatives.get("ntk"))


def diagonal(
    net: MLP,
    X: Data,
    *,
    kernels: Kernels = KERNELS,
    layers: Layers = "last",
    dtype: DTypeLike | None = None,
    up_to: float | None = None,
) -> Gram:
    """Compute Σ(x,x) and Θ(x,x) of all samples, without the matrix.

    The result equals the diagonal of `gram` bit for bit and takes O(N·n0) operations:

        Σ⁽¹⁾ = σ_w² |x|²/n0 + β²,    Σ⁽ˡ⁺¹⁾ = σ_w² E[σ(u)²] + β²                (eq. 10, 12)
        Θ⁽¹⁾ = Σ⁽¹⁾,                 Θ⁽ˡ⁺¹⁾ = σ_w² E[σ'(u)²] Θ⁽ˡ⁾ + Σ⁽ˡ⁺¹⁾     (eq. 18, 26)

    with u ~ N(0, Σ⁽ˡ⁾(x,x)).

    Parameters
    ----------
    net, X, kernels, layers, dtype, up_to
        See `gram`.

    Returns
    -------
    Gram
        Two arrays of shape (N,), (L, N) with ``layers="all"``, or (k, N) for a sequence
        of k layers. The accuracy is that of `gram`.

    Raises
    ------
    ValueError, TypeError, OSError
        See `gram`.
    """
    x = open_source(X, "X")
    wanted, chosen = parse_kernels(kernels), parse_layers(layers)
    real = result_dtype(dtype, x)
    largest_norm = find_largest_norm(check_network(net), x, None, up_to)
    fitted = fit_network(net, largest_norm, x.shape[1])
    check_rows(x, largest_norm)
    kernel = Kernel(
        fitted,
        x,
        kernels=wanted,
        layers=kept_layers(chosen, net.depth),
        dtype=real,
        tile=1,
        threads=threads_to_use(None),
    )
    parts = [
        kernel.diagonal(kernel.samples(x, start, stop), stop - start) for start, stop in x.blocks()
    ]
    joined = (np.concatenate(p, axis=1)[:, :, 0] for p in zip(*parts, strict=True))
    nngp, ntk = (
        (d[0] if chosen == "last" else d) if name in wanted else None
        for name, d in zip(KERNELS, joined, strict=True)
    )
    return Gram(nngp, ntk, fitted.error)


def _outputs(
    out: Gram | None, kernels: tuple[KernelName, ...], shape: tuple[int, ...], dtype: np.dtype
) -> Gram:
    """Return new arrays, or those of `out` if their shapes and dtypes are right."""
    if out is None:
        nngp, ntk = (aligned(shape, dtype) if name in kernels else None for name in KERNELS)
        return Gram(nngp, ntk)
    if not isinstance(out, Gram):
        raise InvalidTypeError(
            "out must be an ntk_numba.Gram of arrays, with None for a kernel that is not computed"
        )
    for name, array in zip(KERNELS, out, strict=True):
        if name not in kernels:
            continue
        if not isinstance(array, np.ndarray):
            raise InvalidTypeError(f"out.{name} must be an array, not {type(array).__name__}")
        if array.shape != shape or array.dtype != dtype:
            raise InvalidValueError(
                f"out.{name} must be {dtype} of shape {shape}, not {array.dtype} of {array.shape}"
            )
        if not array.flags.c_contiguous or not array.flags.writeable:
            raise InvalidValueError(f"out.{name} must be C-contiguous and writable")
    nngp, ntk = (a if name in kernels else None for name, a in zip(KERNELS, out, strict=True))
    return Gram(nngp, ntk)
