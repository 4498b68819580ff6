"""Derivatives of the kernels by w_std and b_std of every layer, in memory.

`gram` calls `all_derivatives`; `contract` sums the derivatives of all entries with weights; `along`
returns those along directions.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ntk_numba.arguments import KERNELS, Data, KernelName, Kernels, one_of, show_bytes
from ntk_numba.compiled.arrays import aligned
from ntk_numba.compute.plan import Plan, check_rows, make_plan, outline
from ntk_numba.compute.sweep import sweep
from ntk_numba.engine.gradient_kernel import GradientKernel, bytes_of_sample, fit_gradients
from ntk_numba.engine.gradient_tile import Wanted
from ntk_numba.engine.tile import tile_table
from ntk_numba.errors import InvalidValueError
from ntk_numba.inputs.source import Source, open_source
from ntk_numba.machine import available_memory
from ntk_numba.network import MLP, check_network

Doubles = NDArray[np.float64]
NOTHING = np.zeros((0, 1, 1))


def contract(
    net: MLP,
    X: Data,
    weights: Doubles,
    *,
    kernel: KernelName,
    directions: Doubles | None = None,
    up_to: float | None = None,
    threads: int | None = None,
) -> Doubles:
    """Return the weighted sums of the derivatives of all entries of a kernel's Gram matrix.

        s_p = Σ_ij weights[i, j] Σ_l (c_p0l ∂K_ij/∂log σ_w[l] + c_p1l ∂K_ij/∂log β[l])

    with the coefficients c of direction p. No matrix of derivatives is stored: they are computed,
    multiplied and added tile by tile, for the pairs i ≥ j only.

    Parameters
    ----------
    net : MLP
        The network of depth L.
    X : (N, n0), see `ntk_numba.gram`
        The samples.
    weights : (N, N) array of float64
        A symmetric matrix, of which only one triangle is read.
    kernel : "nngp" or "ntk"
        The kernel K.
    directions : (P, 2, L) array, optional
        The coefficients c of the derivatives by log σ_w, [:, 0], and by log β, [:, 1], of each
        layer. By default they are those by each parameter alone, P = 2L: first by log σ_w of all
        layers, then by log β.
    up_to : float, optional
        See `ntk_numba.gram`.
    threads : int, optional
        The largest number of threads. The result does not depend on it.

    Returns
    -------
    (P,) array of float64

    Raises
    ------
    ValueError, TypeError, OSError
        If the weights or the directions have other shapes; see also `ntk_numba.gram`.
    """
    check_network(net)
    name = one_of("kernel", kernel, KERNELS)
    x = open_source(X, "X")
    weights = _checked_weights(weights, x.shape[0])
    moved = unit_directions(net.depth) if directions is None else _checked(directions, net.depth)
    plan = _plan(net, x, None, moved, kernels=name, threads=threads, up_to=up_to)
    check_rows(x, plan.largest_norm)
    derivatives = _kernel(plan, x, None, moved, kernels=(), dtype=np.dtype(float))
    parts = np.zeros((plan.grid.down, plan.grid.across, len(moved)))
    for batch in sweep(plan, derivatives.band, x, None):
        to = np.array(batch.indices) * plan.grid.tile
        tiles = tile_table(batch.reads, to, to[:, ::-1])
        sums = np.empty((len(tiles), len(moved)))
        wanted = Wanted(NOTHING, NOTHING, weights, name == "ntk", sums)
        derivatives.differentiate(tiles, batch.rows, batch.columns, wanted)
        parts[tuple(np.array(batch.indices).T)] = sums
        del batch
    # in one order, whatever the order of the tiles was
    return parts.reshape(-1, len(moved)).sum(axis=0)


def refuse_too_large(
    net: MLP, x: Source, z: Source | None, *, kernels: Kernels, dtype: DTypeLike | None
) -> None:
    """Raise an error if all derivatives of `gram` do not fit in the memory of this process."""
    what = outline(net, x, z, kernels=kernels, dtype=dtype)
    matrices = len(what.kernels) * (1 + 2 * net.depth)
    size = matrices * what.grid.rows * what.grid.columns * what.dtype.itemsize
    if size > (free := available_memory()):
        raise InvalidValueError(
            f"gradients=True makes {matrices} matrices of {what.grid.rows:,} × "
            f"{what.grid.columns:,}, {size:,} bytes ({show_bytes(size)}), but {show_bytes(free)} "
            "of memory are free; name one kernel, take fewer samples, or float32"
        )


def all_derivatives(
    plan: Plan, x: Source, z: Source | None
) -> dict[KernelName, dict[str, NDArray[np.floating]]]:
    """Return the derivatives of all entries by σ_w and β of each layer, by kernel.

    plan : the plan of the kernels themselves, of the last layer

    Raises
    ------
    ValueError
        If a derivative is too large for the dtype.
    """
    depth = plan.depth
    values = np.array(plan.net.w_std + plan.net.b_std)
    # ∂/∂σ = (∂/∂log σ)/σ, and 0 where σ is 0 or so small that σ² is, since K depends on σ²
    with np.errstate(divide="ignore", over="ignore"):
        per_value = np.where(values**2 > 0, 1 / values, 0)
    directions = unit_directions(depth) * per_value[:, None, None]
    kernels, threads, norm = plan.kernels, plan.threads, plan.largest_norm
    own = _plan(plan.net, x, z, directions, kernels=kernels, threads=threads, up_to=norm)
    found = _along(own, x, z, directions, plan.dtype)
    _refuse_overflow(found, plan)
    return {name: {"w_std": array[:depth], "b_std": array[depth:]} for name, array in found.items()}


def _refuse_overflow(found: dict[KernelName, NDArray[np.floating]], plan: Plan) -> None:
    """Raise an error if a derivative is not finite: where σ is small, K/σ may be too large."""
    names = [f"{kind}[{k}]" for kind in ("w_std", "b_std") for k in range(plan.depth)]
    for kernel, derivatives in found.items():
        for name, matrix in zip(names, derivatives, strict=True):
            if not np.isfinite(matrix).all():
                row, column = np.argwhere(~np.isfinite(matrix))[0]
                raise InvalidValueError(
                    f"the derivative of {kernel} by {name} is too large for {plan.dtype} at row "
                    f"{row}, column {column} (counted from 0); scale the data down or take a "
                    "larger w_std or b_std"
                )


def along(
    net: MLP,
    X: Data,
    directions: Doubles,
    *,
    kernel: KernelName,
    up_to: float | None = None,
    threads: int | None = None,
) -> Doubles:
    """Return the derivatives of all entries of a kernel's Gram matrix along P directions.

    Parameters
    ----------
    net, X, kernel, directions, up_to, threads
        See `contract`.

    Returns
    -------
    (P, N, N) array of float64

    Raises
    ------
    ValueError, TypeError, OSError
        See `contract`.
    """
    check_network(net)
    name = one_of("kernel", kernel, KERNELS)
    x = open_source(X, "X")
    moved = _checked(directions, net.depth)
    plan = _plan(net, x, None, moved, kernels=name, threads=threads, up_to=up_to)
    check_rows(x, plan.largest_norm)
    return _along(plan, x, None, moved, np.dtype(float))[name].astype(float, copy=False)


def _plan(
    net: MLP,
    x: Source,
    z: Source | None,
    directions: Doubles,
    *,
    kernels: Kernels,
    threads: int | None,
    up_to: float | None,
) -> Plan:
    """Return the plan of derivatives along P directions, which are computed in float64."""
    return make_plan(
        net,
        x,
        z,
        kernels=kernels,
        dtype=float,
        threads=threads,
        in_memory=True,
        up_to=up_to,
        beside=lambda fitted: bytes_of_sample(fitted, len(directions)),
    )


def _kernel(
    plan: Plan,
    x: Source,
    z: Source | None,
    directions: Doubles,
    *,
    kernels: Sequence[KernelName],
    dtype: np.dtype,
) -> GradientKernel:
    """Return the compiled derivatives along P directions; kernels and dtype are of the outputs."""
    return GradientKernel(
        fit_gradients(plan.net, plan.largest_norm, plan.features, directions),
        x,
        z,
        kernels=kernels,
        dtype=dtype,
        directions=directions,
        tile=plan.grid.tile,
        threads=plan.threads,
    )


def _along(
    plan: Plan, x: Source, z: Source | None, directions: Doubles, dtype: np.dtype
) -> dict[KernelName, NDArray[np.floating]]:
    """Return the derivatives of all entries along P directions, (P, N, M), by kernel.

    plan : a plan in float64
    """
    found = {
        name: aligned((len(directions), plan.grid.rows, plan.grid.columns), dtype)
        for name in plan.kernels
    }
    derivatives = _kernel(plan, x, z, directions, kernels=plan.kernels, dtype=dtype)
    nngp, ntk = (found.get(name, NOTHING.astype(dtype)) for name in KERNELS)
    for batch in sweep(plan, derivatives.band, x, z):
        to = np.array(batch.indices) * plan.grid.tile
        tiles = tile_table(batch.reads, to, to[:, ::-1] if z is None else (-1, -1))
        wanted = Wanted(nngp, ntk, NOTHING[:, :, 0], False, np.zeros((len(tiles), len(directions))))
        derivatives.differentiate(tiles, batch.rows, batch.columns, wanted)
        del batch
    return found


def unit_directions(depth: int) -> Doubles:
    """Return the directions of each log σ_w, then of each log β, (2L, 2, L)."""
    return np.eye(2 * depth).reshape(2 * depth, 2, depth)


def _checked_weights(weights: Doubles, count: int) -> Doubles:
    """Return the weights in C order, with an error if they are not of the matrix's shape."""
    weights = np.asarray(weights)
    if weights.shape != (count, count):
        raise InvalidValueError(
            f"weights must have the shape of the matrix, ({count}, {count}), not {weights.shape}"
        )
    if weights.flags.f_contiguous:
        weights = weights.T  # which is the same matrix
    return np.ascontiguousarray(weights, float)


def _checked(directions: Doubles, depth: int) -> Doubles:
    """Return directions as an array, with an error if they are not of the network's depth."""
    found = np.asarray(directions, float)
    if found.ndim != 3 or found.shape[1:] != (2, depth):
        raise InvalidValueError(
            f"directions must have the shape (P, 2, {depth}), not {found.shape}"
        )
    if not np.isfinite(found).all():
        raise InvalidValueError("directions must be finite")
    return np.ascontiguousarray(found)
