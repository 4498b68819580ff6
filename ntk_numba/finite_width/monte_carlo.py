"""Means and standard errors of the empirical kernels over many draws of a network.

Each draw of a seed has a random stream of its own, so that any thread can make it, and draws are
added up in their order by Welford's recurrence. The result therefore does not depend on the number
of threads, and the first draws of a longer run are those of a shorter one, bit for bit.
"""

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ntk_numba.arguments import Data, number_between, whole_number
from ntk_numba.compiled.policy import kernel
from ntk_numba.errors import InvalidTypeError, InvalidValueError
from ntk_numba.finite_width.empirical import nngp_by_features, nngp_by_outputs, pooled_ntk
from ntk_numba.finite_width.networks import (
    Parameters,
    draw,
    in_range,
    layer_widths,
    parameter_bytes,
    pass_bytes,
    read_samples,
    run_pass,
    seed_sequence,
)
from ntk_numba.finite_width.pool import fitting_threads, in_order
from ntk_numba.function import Floats
from ntk_numba.inputs.source import result_dtype
from ntk_numba.machine import threads_to_use
from ntk_numba.network import MLP, check_network

STOP_EVERY = 16  # draws between two looks at the standard error

Seen = TypeVar("Seen")


class MonteCarlo(NamedTuple):
    """Means over draws and outputs, and their standard errors, each (N, M) in float64.

    nngp, nngp_sem : Σ from the last hidden features: σ_w² α·α'/n + β² (eq. 11)
    ntk, ntk_sem : Θ_kk, the mean over outputs (eq. 5 and 6)
    nngp_outputs, nngp_outputs_sem : Σ from the outputs, f_k(x) f_k(x'), which has more noise
    draws : the number of networks
    widths : n_0 … n_L of the networks; after an extrapolation, of the widest ones
    """

    nngp: NDArray[np.float64]
    nngp_sem: NDArray[np.float64]
    ntk: NDArray[np.float64]
    ntk_sem: NDArray[np.float64]
    nngp_outputs: NDArray[np.float64]
    nngp_outputs_sem: NDArray[np.float64]
    draws: int
    widths: tuple[int, ...]


def monte_carlo(
    net: MLP,
    X: Data,
    Z: Data | None = None,
    *,
    width: int | Sequence[int] = 1024,
    draws: int = 64,
    n_out: int = 1,
    seed: int | np.random.SeedSequence = 0,
    threads: int | None = None,
    dtype: DTypeLike = "float64",
    tolerance: float | None = None,
) -> MonteCarlo:
    """Estimate Σ and Θ of networks of finite width by simulation.

    At width n the means differ from Σ⁽ᴸ⁾ and Θ∞⁽ᴸ⁾ by O(1/n) if there is more than one hidden layer
    (for functions that are linear but for a kink at 0, off the diagonal only); `extrapolate`
    removes this difference. A draw deviates from the mean by O(1/√n).

    Parameters
    ----------
    net, X, Z : see `ntk_numba.gram`
    width : int or sequence of int
        The width of all hidden layers, or one width for each.
    draws : int
        The number of networks, at least 2.
    n_out : int
        The number of outputs of each network; the result is the mean over them.
    seed : int or numpy.random.SeedSequence
        The same seed gives the same bits, for any number of threads.
    threads : int, optional
        The number of draws made at once; by default as many as there are cores and memory for.
    dtype : float64 or float32
        The dtype of the networks; means and standard errors are summed in float64.
    tolerance : float, optional
        If given, stop early, at a multiple of 16 draws, once no standard error of Σ or Θ is more
        than `tolerance` times the largest entry of its matrix. Standard errors are then a little
        too small, since the data decide when to stop; to test a hypothesis, draw a fixed number.

    Returns
    -------
    MonteCarlo

    Raises
    ------
    ValueError, TypeError, OSError
        As for `ntk_numba.gram`, or if there are fewer than 2 draws, or if the networks do not fit
        in memory; the message says how many bytes they would take.
    """
    if tolerance is not None:
        tolerance = number_between("tolerance", tolerance, 0, math.inf)
    whole_number("draws", draws, 2)  # a single draw has no standard error
    x = read_samples(X, "X", None, result_dtype(dtype))
    z = None if Z is None else read_samples(Z, "Z", x.shape[1], x.dtype)
    widths = layer_widths(check_network(net), x.shape[1], width, n_out)
    shape = (len(x), len(x if z is None else z))
    sums = nngp, ntk, outputs = _Mean(shape), _Mean(shape), _Mean(shape)

    def observe(params: Parameters) -> list[Floats]:
        left = run_pass(params, x)
        right = left if z is None else run_pass(params, z)
        return [
            in_range(nngp_by_features(params, net.depth - 1, left.alphas[-1], right.alphas[-1])),
            in_range(pooled_ntk(params, left, right)),
            in_range(nngp_by_outputs(left.outputs, right.outputs)),
        ]

    entries = shape[0] * shape[1]
    samples = shape[0] + (0 if z is None else shape[1])
    working = pass_bytes(widths, samples, x.itemsize) + 6 * x.itemsize * entries
    seen = each_draw(
        observe,
        net,
        widths,
        draws=draws,
        seed=seed,
        threads=threads,
        dtype=x.dtype,
        fixed=48 * entries,
        each=working,
    )
    for count, values in enumerate(seen, start=1):
        for total, value in zip(sums, values, strict=True):
            total.add(value)
        if tolerance is None or count % STOP_EVERY:
            continue
        if max(nngp.relative_error(), ntk.relative_error()) <= tolerance:
            break
    seen.close()
    return MonteCarlo(
        nngp=nngp.mean,
        nngp_sem=nngp.standard_error(),
        ntk=ntk.mean,
        ntk_sem=ntk.standard_error(),
        nngp_outputs=outputs.mean,
        nngp_outputs_sem=outputs.standard_error(),
        draws=nngp.count,
        widths=widths,
    )


def extrapolate(
    net: MLP,
    X: Data,
    Z: Data | None = None,
    *,
    widths: Sequence[int] = (256, 512, 1024),
    draws: int = 64,
    n_out: int = 1,
    seed: int = 0,
    threads: int | None = None,
    dtype: DTypeLike = "float64",
) -> MonteCarlo:
    """Extrapolate Σ and Θ to infinite width, from networks of several widths.

    At width n the means are K + c/n + O(1/n²). K is their intercept, by least squares in 1/n with
    weights n, since variances are proportional to 1/n. The remaining error is O(1/n²) plus noise,
    which for widths in the ratio 1 : 2 : 4 is about 1.5 times that of the widest networks alone.

    Parameters
    ----------
    widths : sequence of int
        At least two different widths.
    draws : int
        The number of networks of each width.
    net, X, Z, n_out, seed, threads, dtype : see `monte_carlo`

    Returns
    -------
    MonteCarlo
        Its `draws` is the sum over all widths.

    Raises
    ------
    ValueError, TypeError, OSError
        As for `monte_carlo`, or if there are fewer than two different widths.
    """
    factors = intercept(widths)
    # draws of different widths have streams of their own
    parts = [
        monte_carlo(
            net,
            X,
            Z,
            width=w,
            draws=draws,
            n_out=n_out,
            seed=seed_sequence(seed, (k,)),
            threads=threads,
            dtype=dtype,
        )
        for k, w in enumerate(widths)
    ]
    fields: dict[str, NDArray[np.float64]] = {}
    for name in ("nngp", "ntk", "nngp_outputs"):
        means = np.array([getattr(p, name) for p in parts])
        errors = np.array([getattr(p, f"{name}_sem") for p in parts])
        fields[name] = np.tensordot(factors, means, 1)
        fields[f"{name}_sem"] = np.sqrt(np.tensordot(factors**2, errors**2, 1))
    widest = parts[int(np.argmax(widths))].widths
    return MonteCarlo(**fields, draws=sum(p.draws for p in parts), widths=widest)


def intercept(widths: Sequence[int]) -> NDArray[np.float64]:
    """Return the factors f with K = Σ f_j K_j, for K_j = K + c/n_j with variances ∝ 1/n_j.

    Raises
    ------
    ValueError, TypeError
        If there are fewer than two different widths.
    """
    if not isinstance(widths, Iterable):
        raise InvalidTypeError(f"widths must be at least two different widths, not {widths!r}")
    n = np.array([whole_number("widths", w) for w in widths], float)
    if len(set(n)) < 2:
        raise InvalidValueError(f"widths must be at least two different widths, not {widths!r}")
    design = np.stack([np.ones(len(n)), 1 / n], axis=1) * np.sqrt(n)[:, None]
    return np.asarray(np.linalg.pinv(design)[0] * np.sqrt(n))


def each_draw(
    observe: Callable[[Parameters], Seen],
    net: MLP,
    widths: Sequence[int],
    *,
    draws: int,
    seed: int | np.random.SeedSequence,
    threads: int | None,
    dtype: np.dtype,
    fixed: int,
    each: int,
) -> Generator[Seen]:
    """Yield ``observe(params)`` of each draw, in order; draws are made on several threads.

    fixed : bytes that the caller holds
    each : bytes that one call of ``observe`` takes, the parameters aside
    """
    workers = fitting_threads(
        threads_to_use(threads),
        fixed,
        each + parameter_bytes(widths, dtype.itemsize),
        f"one draw of a network of widths {', '.join(map(str, widths))}",
    )

    def observed(k: int) -> Seen:
        return observe(draw(net, widths, seed_sequence(seed, (k,)), dtype))

    yield from in_order(observed, range(draws), workers)


class _Mean:
    """A mean and its standard error from a stream of arrays, by Welford's recurrence."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.mean, self._squares, self.count = np.zeros(shape), np.zeros(shape), 0

    def add(self, values: Floats) -> None:
        """Add the next array of the stream."""
        self.count += 1
        add_values(self.mean.ravel(), self._squares.ravel(), values.ravel(), self.count)

    def standard_error(self) -> NDArray[np.float64]:
        """Return the standard error of each mean."""
        return np.asarray(np.sqrt(self._squares / (self.count * max(self.count - 1, 1))))

    def relative_error(self) -> float:
        """Return the largest standard error divided by the largest entry."""
        return float(self.standard_error().max() / max(abs(self.mean).max(), np.finfo(float).tiny))


@kernel()
def add_values(mean: Floats, squares: Floats, values: Floats, count: int) -> None:
    """Update means, and sums of squared deviations from them, by one more value of each.

    count : the number of values, this one included
    """
    for j in range(mean.size):
        deviation = values[j] - mean[j]
        mean[j] += deviation / count
        squares[j] += deviation * (values[j] - mean[j])
