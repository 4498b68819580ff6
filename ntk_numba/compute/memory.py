"""Kernels in memory: gram() and diagonal()."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ntk_numba.arguments import (
    KERNELS,
    Data,
    KernelName,
    Kernels,
    Layers,
    parse_kernels,
    parse_layers,
)
from ntk_numba.compiled.arrays import aligned
from ntk_numba.compute.plan import find_largest_norm, make_plan
from ntk_numba.compute.sweep import make_kernel, sweep
from ntk_numba.engine.fitted import fit_network
from ntk_numba.engine.kernel import Kernel
from ntk_numba.engine.tile import tile_table
from ntk_numba.errors import InvalidTypeError, InvalidValueError
from ntk_numba.inputs.source import open_source, open_sources, result_dtype
from ntk_numba.machine import threads_to_use
from ntk_numba.network import MLP, check_network

Matrix = NDArray[np.floating]


@dataclass(frozen=True, eq=False, repr=False)
class Gram:
    """The kernels of a data set; a pair that unpacks as ``nngp, ntk = k``.

    Attributes
    ----------
    nngp : array or None
        Σ⁽ᴸ⁾, the covariance of the Gaussian process (eq. 10-12); None where it was not asked for.
    ntk : array or None
        Θ∞⁽ᴸ⁾, the neural tangent kernel (eq. 18 and 27); None where it was not asked for.
    error : (float, float)
        Bounds of the errors of Σ and of Θ relative to √(K(x,x)·K(x',x')), beyond rounding; 0 where
        all activations have closed forms.
    """

    nngp: Matrix | None
    ntk: Matrix | None
    error: tuple[float, float] = (0.0, 0.0)

    def __iter__(self) -> Iterator[Matrix | None]:
        return iter((self.nngp, self.ntk))

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Matrix | None:
        return (self.nngp, self.ntk)[index]

    def __repr__(self) -> str:
        shown = [
            f"{name}={'None' if array is None else _shown(array)}"
            for name, array in zip(KERNELS, self, strict=True)
        ]
        return f"Gram({', '.join(shown)}, error={self.error})"


def _shown(array: Matrix) -> str:
    """Return the shape and dtype of an array for people, as ``<1000 × 1000, float64>``."""
    return f"<{' × '.join(map(str, np.shape(array)))}, {np.asarray(array).dtype}>"


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
) -> Gram:
    """The exact kernels of an infinitely wide network between all pairs of samples, in memory.

    Σ⁽¹⁾ = σ_w² x·x'/n0 + β², Σ⁽ˡ⁺¹⁾ = σ_w² E[σ(u)σ(v)] + β² (eq. 10, 12) and
    Θ⁽¹⁾ = Σ⁽¹⁾, Θ⁽ˡ⁺¹⁾ = σ_w² E[σ'(u)σ'(v)] Θ⁽ˡ⁾ + Σ⁽ˡ⁺¹⁾ (eq. 18, 26), (u, v) ~ N(0, Σ⁽ˡ⁾).

    Parameters
    ----------
    net : MLP
    X : (N, n0) real array, memory map, h5py dataset or path
        Bool, integers and float16 are converted to float64. Paths: ``x.npy``, ``x.npz:key``,
        ``x.h5:dataset``, ``x.csv``; ``:key`` may be left out where the file holds one array.
    Z : (M, n0), likewise, optional
        Without it the matrix is that of X with itself, computed once below the diagonal.
    kernels : "nngp", "ntk" or both
    layers : "last" or "all"
    dtype : float64 or float32
        Of the result and of the arithmetic; by default float64 unless the data is float32.
    threads : int, optional
        At most so many; by default all that this process may use. They do not change a bit.
    out : Gram, optional
        C-contiguous arrays of the right shape and dtype to be filled and returned. Those that an
        earlier call returned are filled some per cent faster than any others, whose rows may begin
        anywhere in a line of the cache.

    Returns
    -------
    Gram
        Of (N, M) arrays; with ``layers="all"`` (L, N, M), entry l − 1 being layer l. Without Z
        M = N and the arrays are exactly symmetric. Equal samples have exactly equal rows.

    Raises
    ------
    ValueError, TypeError, OSError
        Bad arguments, NaN or infinity in the data, samples too large for the dtype, files that
        cannot be read; the text names the argument, file or row.

    Notes
    -----
    The error of an entry, relative to √(K(x,x)·K(x',x')), is at most 1e-14 in float64 and
    1e-6·max(1, L/8) in float32, near duplicates and opposite samples included, for functions that
    are linear but for one kink at 0, as relu, abs and leaky_relu; for other closed forms it is that
    times the condition that the family's file states, and up to 1e-12 for Θ of a kink behind a
    smooth layer, 1e-9 behind kinks off 0; for series, `Gram.error` is added.
    Beside the result, memory is taken for one copy of X and Z and a few tiles per thread.
    """
    x, z = open_sources(X, Z)
    plan = make_plan(
        net, x, z, kernels=kernels, layers=layers, dtype=dtype, threads=threads, in_memory=True
    )
    arrays = _outputs(out, plan.kernels, plan.shape, plan.dtype)
    x.check()
    if z is not None:
        z.check()
    kernel = make_kernel(plan, x)
    shape = (plan.matrices, plan.grid.rows, plan.grid.columns)
    nngp, ntk = (np.empty((0, 1, 1), plan.dtype) if a is None else a.reshape(shape) for a in arrays)
    tile = plan.grid.tile
    for work in sweep(plan, kernel, x, z):
        to = np.array(work.indices) * tile
        tiles = tile_table(work.reads, to, to[:, ::-1]) if z is None else tile_table(work.reads, to)
        kernel.compute(tiles, work.rows, work.columns, nngp, ntk)
        del work
    return replace(arrays, error=plan.fitted.error)


def diagonal(
    net: MLP,
    X: Data,
    *,
    kernels: Kernels = KERNELS,
    layers: Layers = "last",
    dtype: DTypeLike | None = None,
) -> Gram:
    """Σ(x,x) and Θ(x,x) of every sample, equal to the diagonal of `gram` bit for bit, in O(N·n0).

    Parameters are those of `gram`. Returns a `Gram` of (N,) arrays, (L, N) with ``layers="all"``.
    """
    x = open_source(X, "X").check()
    wanted, every = parse_kernels(kernels), parse_layers(layers) == "all"
    real = result_dtype(dtype, x)
    fitted = fit_network(check_network(net), find_largest_norm(net, x, None), x.shape[1])
    kernel = Kernel(
        fitted, x, kernels=wanted, every=every, dtype=real, tile=1, threads=threads_to_use(None)
    )
    parts = [
        kernel.diagonal(kernel.samples(x, start, stop), stop - start) for start, stop in x.blocks()
    ]
    joined = (np.concatenate(p, axis=1)[:, :, 0] for p in zip(*parts, strict=True))
    sums, thetas = (
        (d if every else d[0]) if name in wanted else None
        for name, d in zip(KERNELS, joined, strict=True)
    )
    return Gram(sums, thetas, fitted.error)


def _outputs(
    out: Gram | None, kernels: tuple[KernelName, ...], shape: tuple[int, ...], dtype: np.dtype
) -> Gram:
    """New arrays, or the caller's if they fit."""
    if out is None:
        nngp, ntk = (aligned(shape, dtype) if name in kernels else None for name in KERNELS)
        return Gram(nngp, ntk)
    if not isinstance(out, Gram):
        raise InvalidTypeError(
            "out must be an ntk_numba.Gram of arrays, with None for what is not wanted"
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
