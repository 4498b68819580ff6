"""Hyperparameters of a network by the evidence, or by the leave-one-out density, of its targets."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import qmc
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ntk_numba.activations import Activation
from ntk_numba.arguments import (
    KERNELS,
    Data,
    KernelName,
    listed,
    not_negative,
    number_between,
    one_of,
    plain,
    whole_number,
)
from ntk_numba.errors import InvalidTypeError, InvalidValueError
from ntk_numba.machine import threads_to_use
from ntk_numba.network import MLP, check_network
from ntk_numba.operators.matrix import refuse_large
from ntk_numba.predict.candidates import Candidate, HyperparameterFit
from ntk_numba.predict.evidence import OBJECTIVES
from ntk_numba.predict.evidence import Objective as ObjectiveName
from ntk_numba.predict.preprocess import Preprocess
from ntk_numba.predict.search import Ascent, Objective, climb, screen
from ntk_numba.predict.space import NAMES, Name, Space
from ntk_numba.predict.targets import read_targets
from ntk_numba.predict.training import open_training

Floats = NDArray[np.float64]

BOUNDS: dict[Name, tuple[float, float]] = {
    "w_std": (0.01, 100.0),
    "b_std": (1e-3, 100.0),
    "noise": (1e-8, 100.0),
}
# Where starts are drawn, as far as the bounds allow. With less noise the objective is nearly flat
# in its logarithm, and a search would end there.
DRAWN: dict[Name, tuple[float, float]] = {
    "w_std": (0.5, 4.0),
    "b_std": (0.03, 3.0),
    "noise": (1e-3, 1.0),
}
MATRICES = 2  # N×N matrices that a search holds at a time: K, its factor or A⁻¹, and W


def fit_hyperparameters(
    net: MLP,
    X: Data,
    y: ArrayLike,
    *,
    objective: ObjectiveName = "evidence",
    kernel: KernelName = "nngp",
    depths: Sequence[int] | None = None,
    activations: Sequence[str | Activation] | None = None,
    fit: Sequence[Name] = NAMES,
    shared: bool = True,
    noise: float = 1e-2,
    bounds: Mapping[Name, tuple[float, float]] | None = None,
    starts: int = 8,
    refine: int = 2,
    iterations: int = 100,
    seed: int = 0,
    preprocess: Preprocess = None,
    memory: int | str | None = None,
    threads: int | None = None,
    progress: bool = False,
) -> HyperparameterFit:
    """Find σ_w, β and the noise, and the depth and the activation, that describe the targets best.

    The targets are taken as values of a Gaussian process with covariance K + ν·mean(K_ii)·I, where
    K is Σ or Θ of the network. Either the log marginal likelihood of the targets (the evidence) is
    made as large as possible, or the sum of the log predictive densities of each sample given all
    others:

        log p = −½ yᵀA⁻¹y − ½ log det A − N/2 log 2π,   A = K + ν·mean(K_ii)·I
        log q = Σ_i [½ log B_ii − α_i²/(2B_ii) − ½ log 2π],   B = A⁻¹, α = By

    summed over the targets. For each activation and depth, L-BFGS-B climbs in the logarithms of
    the hyperparameters, with the exact gradient. Neither objective needs samples that are set
    aside. The evidence is that of the prior as a whole; the leave-one-out density depends less on
    the prior being right (Rasmussen & Williams 2006, section 5.4.2).

    Parameters
    ----------
    net : MLP
        The network that the search starts from, and the values of all that is not fitted.
    X : (N, n0), as for `gram`
    y : (N,) or (N, n_out) targets
        They are taken as they are: subtract their mean, if the process is to have mean 0.
    objective : "evidence" or "loo"
    kernel : "nngp" or "ntk"
        The covariance.
    depths : sequence of int, optional
        The depths to compare; by default that of `net`. Layer l of a deep network is the network of
        depth l, so each start is screened at all depths with one pass over the pairs of samples.
    activations : sequence of str or Activation, optional
        The activations to compare, each in all layers; by default those of `net`.
    fit : some of "w_std", "b_std", "noise"
        What is fitted; the rest keeps its value.
    shared : bool
        Whether w_std, and b_std, is one number for all layers. Otherwise each layer has its own,
        and there are 2L + 1 numbers.
    noise : float
        The noise at the start, relative to the mean of the kernel's diagonal; its value if it is
        not fitted.
    bounds : mapping, optional
        The least and the largest value by name, where they are to differ from ``{"w_std":
        (0.01, 100), "b_std": (0.001, 100), "noise": (1e-8, 100)}``. Starts are moved into the
        bounds, and the table names the hyperparameters that end at one.
    starts : int
        How many starts are screened. The first is `net`. The others are a Latin hypercube in
        logarithms, with w_std from 0.5 to 4, b_std from 0.03 to 3 and noise from 0.001 to 1, as far
        as the bounds allow, and with the same w_std and b_std in all layers.
    refine : int
        From how many of the best starts the search climbs, for each activation and depth.
    iterations : int
        The largest number of iterations of L-BFGS-B in one search, and half of the largest number
        of evaluations of the objective.
    seed : int
        The seed of the starts. Equal arguments have equal results.
    preprocess : None, "standardize" or Standardize
        What is done to X, as in `gaussian_process`.
    memory : int or str such as "2GiB", optional
        The largest amount of memory that the matrices may take; by default what is available.
    threads : int, optional
        As for `gram`.
    progress : bool
        Whether to show a progress bar on standard error.

    Returns
    -------
    HyperparameterFit
        ``print(result)`` shows the best network of each activation and depth.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range; if w_std is 0 and is to be fitted; if layers differ in what
        is to be shared; if the matrices do not fit in memory; or if the objective can be computed
        at no start, with the reason at the first one.
    OSError
        If a file cannot be read.

    Notes
    -----
    "loo" is a density, which the predicted variances enter; ``noise="loo"`` of `gaussian_process`
    minimises the squared error of the same predictions, without their variances.

    All computations are in float64, whatever the dtype of X. Each evaluation takes a Gram matrix, a
    Cholesky factorisation, an inverse, and a pass over the pairs of samples for the derivatives,
    and the memory of two N×N matrices. Where a kernel overflows, or A is not positive definite,
    the objective counts as lower than anywhere else.

    Searches end where the objective changes by less than 1e-8 nats per target, or its slope is less
    than 1e-5. They find local maxima; one of them is often where all of y is noise. More `starts`
    and a larger `refine` make it less likely that a better maximum is missed.

    The logarithm of 0 does not exist: if b_std is fitted and is 0 in a layer of `net`, it starts
    from 0.1. To keep it 0, leave it out of `fit`.

    For relu, leaky_relu, abs, identity and all other σ with σ(cx) = cσ(x) for c > 0, some
    directions matter little or not at all. If b_std = 0, w_std only multiplies the kernel. Since
    the noise is relative, it then multiplies A: the predicted mean does not depend on it, but the
    predicted variance does, and with it both objectives. They are largest at the scale at which the
    variances fit the targets: where the mean of yᵀA⁻¹y/N over the targets is 1 (evidence), or that
    of α_i²/B_ii over samples and targets (leave-one-out). With ``shared=False``, a network with
    w_std and b_std of a hidden layer times c, and w_std of the next layer divided by c, has the
    same kernels: L − 1 of the 2L numbers are not determined, and stay near those of the start.

    Source: Rasmussen & Williams 2006, *Gaussian Processes for Machine Learning*, chapter 5.

    Examples
    --------
    >>> x = numpy.linspace(-2, 2, 30)[:, None]
    >>> y = numpy.sin(2 * x[:, 0])
    >>> net = ntk_numba.MLP(3, "relu", 2**0.5, 0.1)
    >>> best = ntk_numba.fit_hyperparameters(net, x, y, depths=[2, 3], activations=["relu", "erf"])
    >>> print(best.net.depth, best.net.activation[0].name, round(best.value))
    2 erf 93
    >>> process = ntk_numba.gaussian_process(best.net, x, y, noise=best.noise)
    >>> round(process.log_marginal_likelihood)
    93
    """
    fitted, limits = _fitted(fit), _limits(bounds)
    known = one_of("objective", objective, OBJECTIVES)
    covariance = one_of("kernel", kernel, KERNELS)
    given = _noise(noise, fitted)
    counts = ("starts", starts), ("refine", refine), ("iterations", iterations)
    count, refined, rounds = (whole_number(*pair) for pair in counts)
    families = [
        [Space(base.first(depth), given, fitted, shared, limits) for depth in chosen]
        for base, chosen in _bases(check_network(net), depths, activations)
    ]
    for spaces in families:
        spaces[-1].check()
    training = open_training(net, X, preprocess=preprocess, dtype=float)
    pair = 8 * MATRICES  # bytes; they do not depend on the dtype of the samples
    free = refuse_large(training.count, np.dtype(np.float32), memory, pair, matrices=0)
    room = free // (8 * training.count**2)
    targets = read_targets(y, training.count)
    task = Objective(training.samples, targets, covariance, known, threads)
    points = [{}, *_points(count - 1, fitted, limits, whole_number("seed", seed, 0))]
    table, screened = [], []
    steps = sum(len(points) + len(spaces) for spaces in families)
    with (
        threadpool_limits(threads_to_use(threads), user_api="blas"),
        tqdm(total=steps, unit="step", disable=not progress, leave=False) as bar,
    ):
        for spaces in families:
            found = []
            for point in points:
                found.append(screen(task, spaces, point, room))
                bar.update()
            for space, starts_here in zip(spaces, zip(*found, strict=True), strict=True):
                screened += [_candidate(space, start) for start in starts_here]
                table.append(_candidate(space, climb(task, space, starts_here, refined, rounds)))
                bar.update()
    table.sort(key=lambda row: -row.value)
    best = table[0]
    if best.value == -math.inf:
        raise InvalidValueError(
            f"the objective can be computed at no start; at the first, {best.failure}"
        )
    return HyperparameterFit(best.net, best.noise, best.value, known, covariance, table, screened)


def _fitted(fit: Sequence[Name]) -> tuple[Name, ...]:
    """Return what is fitted, in the order of `NAMES`."""
    wanted = listed("fit", fit)
    for name in wanted:
        if not isinstance(name, str) or name not in NAMES:
            raise InvalidValueError(f"fit: {name!r} is none of {', '.join(NAMES)}")
    return tuple(name for name in NAMES if name in wanted)


def _limits(bounds: Mapping[Name, tuple[float, float]] | None) -> dict[Name, tuple[float, float]]:
    """Return the bounds of all hyperparameters."""
    limits = dict(BOUNDS)
    if not isinstance(bounds, Mapping | None):
        raise InvalidTypeError(
            f"bounds must be a mapping such as {{'w_std': (0.1, 10)}}, not {bounds!r}"
        )
    for name, pair in (bounds or {}).items():
        if name not in NAMES:
            raise InvalidValueError(f"bounds: {name!r} is none of {', '.join(NAMES)}")
        if not isinstance(plain(pair), Sequence | np.ndarray) or len(pair) != 2:
            raise InvalidTypeError(f"bounds of {name} must be a pair of numbers, not {pair!r}")
        low = number_between(f"the lower bound of {name}", pair[0], 0, math.inf)
        limits[name] = (low, number_between(f"the upper bound of {name}", pair[1], low, math.inf))
    return limits


def _noise(noise: Any, fitted: Sequence[Name]) -> float:
    """Return the noise, which must not be 0 if a search starts from it."""
    if "noise" in fitted:
        return number_between("noise", noise, 0, math.inf)
    return not_negative("noise", noise)


def _bases(
    net: MLP, depths: Sequence[int] | None, activations: Sequence[str | Activation] | None
) -> list[tuple[MLP, list[int]]]:
    """Return the deepest network of each activation, and the depths to compare with it.

    A network of depth 1 has no activation, and is compared once.
    """
    given = [net.depth] if depths is None else listed("depths", depths)
    wanted = {whole_number("depths", depth) for depth in given}
    if not wanted:
        raise InvalidValueError("depths is empty; leave it out for the depth of net")
    chosen, most = sorted(wanted), max(wanted)
    if activations is None:
        return [(_deepest(net, most), chosen)]
    if isinstance(activations, Activation):
        activations = [activations]
    out = []
    for at, activation in enumerate(listed("activations", activations)):
        here = chosen if at == 0 else [depth for depth in chosen if depth > 1]
        if here:
            out.append((_deepest(net, most, activation=activation), here))
    if not out:
        raise InvalidValueError("activations is empty; leave it out for those of net")
    return out


def _deepest(net: MLP, depth: int, **activation: Any) -> MLP:
    """Return the network of a depth, with another activation if one is given.

    Raises
    ------
    ValueError
        If it is deeper than `net`, whose layers do not say what all layers are.
    """
    if depth <= net.depth:
        return net.first(depth).replace(**activation)
    for name in ("activation", "w_std", "b_std"):
        if name not in activation and len(set(getattr(net, name))) != 1:
            raise InvalidValueError(
                f"depths: net has depth {net.depth}, and its {name} is not one for all layers, so "
                f"that it does not say what that of depth {depth} is; give a net of depth {depth}"
            )
    return net.replace(depth=depth, **activation)


def _points(
    count: int, fitted: Sequence[Name], limits: dict[Name, tuple[float, float]], seed: int
) -> list[dict[Name, float]]:
    """Return `count` starts, a Latin hypercube in logarithms, within `DRAWN` and the bounds."""
    if not fitted or not count:
        return []
    rows = qmc.LatinHypercube(len(fitted), seed=np.random.default_rng(seed)).random(count)
    low, high = np.log([np.clip(DRAWN[name], *limits[name]) for name in fitted]).T
    values = np.exp(low + rows * (high - low))
    return [dict(zip(fitted, row.tolist(), strict=True)) for row in values]


def _candidate(space: Space, found: Ascent) -> Candidate:
    """Return a row of the table."""
    net, noise = space.place(found.vector)

    def short(values: tuple[float, ...]) -> float | tuple[float, ...]:
        return values[0] if len(set(values)) == 1 else tuple(values)

    return Candidate(
        activation=", ".join(dict.fromkeys(a.name for a in net.activation)) or "none",
        depth=net.depth,
        w_std=short(net.w_std),
        b_std=short(net.b_std),
        noise=noise,
        value=found.value,
        evaluations=found.evaluations,
        converged=found.converged,
        at_bounds=space.at_bounds(found.vector),
        failure=found.failure,
        net=net,
    )
