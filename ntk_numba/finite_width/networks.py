"""One network of finite width: its parameters, outputs and derivatives, eq. 1-4 and 21."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from ntk_numba.arguments import Data, whole_number
from ntk_numba.errors import InvalidTypeError, InvalidValueError
from ntk_numba.finite_width.pool import fitting_threads, in_order
from ntk_numba.function import Floats
from ntk_numba.inputs.source import Source, open_source, result_dtype
from ntk_numba.machine import threads_to_use
from ntk_numba.network import MLP, check_network

ROWS = 256  # samples in a block, the unit of parallel work on one network


@dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class Parameters:
    """The parameters of one network, which `sample` draws.

    Attributes
    ----------
    net : MLP
        The description of the network.
    weights : L arrays W⁽ˡ⁾ of shape (n_{l+1}, n_l), l = 0 … L − 1
    biases : L arrays b⁽ˡ⁾ of shape (n_{l+1},)
    """

    net: MLP
    weights: tuple[Floats, ...]
    biases: tuple[Floats, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths n_0 … n_L."""
        return (self.weights[0].shape[1], *(len(b) for b in self.biases))

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the parameters and of all that is computed with them."""
        return self.weights[0].dtype

    def layers(self, count: int, outputs: int | None = None) -> "Parameters":
        """Return the network of the first `count` layers, whose outputs are α̃⁽ˡ⁾, l = count.

        outputs : the number of its outputs that are kept, the first ones; by default all
        """
        return Parameters(
            self.net.first(count),
            (*self.weights[: count - 1], self.weights[count - 1][:outputs]),
            (*self.biases[: count - 1], self.biases[count - 1][:outputs]),
        )


def layer_widths(
    net: MLP, n_in: int, width: int | Sequence[int], n_out: int = 1
) -> tuple[int, ...]:
    """Return n_0 … n_L of a network, given one width for all hidden layers or one for each."""
    hidden = net.depth - 1
    given = (
        width if isinstance(width, Iterable) and not isinstance(width, str) else [width] * hidden
    )
    inner = [whole_number("width", w) for w in given]
    if len(inner) != hidden:
        raise InvalidValueError(
            f"width: a network of depth {net.depth} has {hidden} hidden layers, but "
            f"{len(inner)} widths are given"
        )
    return (whole_number("n_in", n_in), *inner, whole_number("n_out", n_out))


def parameter_bytes(widths: Sequence[int], itemsize: int = 8) -> int:
    """Return the bytes of all weights and biases."""
    return itemsize * sum((a + 1) * b for a, b in pairwise(widths))


def pass_bytes(widths: Sequence[int], samples: int, itemsize: int = 8) -> int:
    """Return the bytes that `run_pass` takes for `samples` samples, working memory included."""
    return itemsize * samples * (widths[0] + 2 * (1 + widths[-1]) * sum(widths[1:]))


def sample(
    net: MLP,
    n_in: int,
    width: int | Sequence[int],
    n_out: int = 1,
    seed: int | np.random.SeedSequence = 0,
    *,
    dtype: DTypeLike = "float64",
) -> Parameters:
    """Draw a network whose weights and biases are independent and from N(0, 1).

    Parameters
    ----------
    net : MLP
    n_in : int
        n0, the number of features of a sample.
    width : int or sequence of int
        The width of all L − 1 hidden layers, or one width for each.
    n_out : int
        n_L, the number of outputs.
    seed : int or numpy.random.SeedSequence
        The same seed gives the same network, with the same version of NumPy.
    dtype : float64 or float32
        The dtype of the parameters.

    Returns
    -------
    params : Parameters
        Weights of shapes (n_{l+1}, n_l) and biases of shapes (n_{l+1},).

    Raises
    ------
    ValueError, TypeError
        If a width is not a whole number of at least 1, or if the network does not fit in memory.
    """
    real = result_dtype(dtype)
    widths = layer_widths(check_network(net), n_in, width, n_out)
    fitting_threads(1, 0, parameter_bytes(widths, real.itemsize), f"a network of widths {widths}")
    return draw(net, widths, seed_sequence(seed), real)


def draw(
    net: MLP, widths: Sequence[int], stream: np.random.SeedSequence, real: np.dtype
) -> Parameters:
    """Draw a network without the checks of `sample`.

    The check of memory reads a dozen system files, which is too slow for every draw of a Monte
    Carlo mean.
    """
    rng = np.random.Generator(np.random.SFC64(stream))
    weights, biases = [], []
    for a, b in pairwise(widths):
        weights.append(rng.standard_normal((b, a), real))
        biases.append(rng.standard_normal(b, real))
    return Parameters(net, tuple(weights), tuple(biases))


def seed_sequence(
    seed: int | np.random.SeedSequence, key: tuple[int, ...] = ()
) -> np.random.SeedSequence:
    """Return the seed sequence of a seed, or the child of it that a key names.

    Children of different keys are independent.
    """
    if isinstance(seed, np.random.SeedSequence):
        entropy, key = seed.entropy, (*seed.spawn_key, *key)
    else:
        entropy = whole_number("seed", seed, 0)
    return np.random.SeedSequence(entropy, spawn_key=key)


def check_parameters(params: Any) -> Parameters:
    """Return `params`, or raise an error if it is not a `Parameters`."""
    if not isinstance(params, Parameters):
        raise InvalidTypeError(
            f"params must be the Parameters that ntk_numba.finite_width.sample returns, not "
            f"{type(params).__name__}"
        )
    return params


def read_samples(X: Data, name: str, n_in: int | None, dtype: np.dtype) -> Floats:
    """Read all rows of X; they must be real, finite, and of `n_in` features."""
    source = open_source(X, name)
    if n_in is not None and source.shape[1] != n_in:
        raise InvalidValueError(
            f"{source.name} has {source.shape[1]} features, but the network has {n_in} inputs"
        )
    return _read(source.check(), dtype)


def _read(source: Source, dtype: np.dtype) -> Floats:
    """Return all rows of a source in a dtype, or raise an error if one is out of its range."""
    with np.errstate(over="ignore"):
        rows: Floats = np.ascontiguousarray(source.read(0, source.shape[0]), dtype)
    return in_range(rows, source.name, "")


def preactivations(params: Parameters, x: Floats) -> list[Floats]:
    """Return [α̃⁽¹⁾, …, α̃⁽ᴸ⁾] of the rows of x, each (N, n_l): eq. 1-4."""
    net = params.net
    out: list[Floats] = []
    alpha = x
    for layer, (weight, bias) in enumerate(zip(params.weights, params.biases, strict=True)):
        z: Floats = alpha @ weight.T
        z *= net.w_std[layer] / math.sqrt(weight.shape[1])
        z += net.b_std[layer] * bias
        out.append(z)
        if layer < net.depth - 1:
            alpha = net.functions[layer](z)
    return out


class Pass(NamedTuple):
    """The results of one forward and one backward pass for N samples.

    preactivations : L arrays α̃⁽ˡ⁾ of shape (N, n_l), l = 1 … L
    alphas : L arrays α⁽ˡ⁾ of shape (N, n_l), l = 0 … L − 1
    betas : L arrays B⁽ˡ⁺¹⁾ of shape (N, n_L, n_{l+1}), l = 0 … L − 1
    """

    preactivations: list[Floats]
    alphas: list[Floats]
    betas: list[Floats]

    @property
    def outputs(self) -> Floats:
        """The outputs f, (N, n_L)."""
        return self.preactivations[-1]

    def rows(self, rows: slice) -> "Pass":
        """Return the results for a run of the samples."""
        return Pass(*([a[rows] for a in arrays] for arrays in self))


def run_pass(params: Parameters, x: Floats) -> Pass:
    """Run a forward and a backward pass for the rows of x.

    B⁽ᴸ⁾ₖ = e_k,  B⁽ˡ⁾ₖ = (σ_w/√n_l · W⁽ˡ⁾ᵀ B⁽ˡ⁺¹⁾ₖ) ⊙ σ'(α̃⁽ˡ⁾), by the chain rule (eq. 21).
    """
    net = params.net
    z = preactivations(params, x)
    alphas = [x, *(sigma(h) for sigma, h in zip(net.functions, z, strict=False))]
    n, outputs = z[-1].shape
    beta = np.broadcast_to(np.eye(outputs, dtype=x.dtype), (n, outputs, outputs))
    betas = [beta]
    for layer in range(net.depth - 1, 0, -1):
        weight = params.weights[layer]
        slope = net.functions[layer - 1].derivative(z[layer - 1])
        slope *= net.w_std[layer] / math.sqrt(weight.shape[1])
        if layer == net.depth - 1:  # a product with unit vectors selects rows
            beta = weight * slope[:, None, :]
        else:
            beta = (beta.reshape(n * outputs, -1) @ weight).reshape(n, outputs, -1)
            beta *= slope[:, None, :]
        betas.append(beta)
    return Pass(z, alphas, betas[::-1])


def forward(params: Parameters, X: Data, *, threads: int | None = None) -> Floats:
    """Compute the outputs f(x) = α̃⁽ᴸ⁾(x) of a network, eq. 1-4.

    Parameters
    ----------
    params : Parameters
        A network, as `sample` returns it.
    X : (N, n_in), as for `ntk_numba.gram`
    threads : int, optional
        The largest number of threads. The result does not depend on it.

    Returns
    -------
    (N, n_out) array
        In the dtype of the parameters.

    Raises
    ------
    ValueError, TypeError, OSError
        If the parameters or the data cannot be used, if the outputs overflow, or if the
        computation does not fit in memory; the message says how many bytes it would take.
    """
    check_parameters(params)
    x = read_samples(X, "X", params.widths[0], params.dtype)
    each = forward_bytes(params.widths, min(len(x), ROWS), params.dtype.itemsize)
    workers = fitting_threads(threads_to_use(threads), 0, each, "the network's activations")
    blocks = [x[k : k + ROWS] for k in range(0, len(x), ROWS)]
    done = in_order(lambda rows: preactivations(params, rows)[-1], blocks, workers)
    return in_range(np.concatenate(list(done)))


def forward_bytes(widths: Sequence[int], samples: int, itemsize: int) -> int:
    """Return the bytes of the preactivations of samples and of the activations of two layers."""
    return itemsize * samples * (sum(widths[1:]) + 2 * max(widths))


def in_range(values: Floats, name: str = "X", what: str = "the network's result for ") -> Floats:
    """Return `values`, which has one row for each sample, or raise an error if one overflowed.

    name : the name of the samples in the error message
    what : the words before the number of the row
    """
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        raise InvalidValueError(
            f"{name}: {what}row {int(np.argmin(finite))} is too large for "
            f"{values.dtype}; scale the data down"
            + (" or use float64" if values.dtype == np.float32 else "")
        )
    return values
