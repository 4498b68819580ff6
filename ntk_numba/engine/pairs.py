"""Tuples that describe a row of pairs, which the compiled functions of the engine pass on."""

from typing import NamedTuple

from ntk_numba.compiled.policy import njit
from ntk_numba.engine.samples import Samples
from ntk_numba.function import Floats


class Bands(NamedTuple):
    """The samples of a matrix's rows and those of its columns."""

    rows: Samples
    columns: Samples


class Pairs(NamedTuple):
    """A row of pairs: sample i of a matrix's rows with samples j0 … j0 + n − 1 of its columns."""

    bands: Bands
    i: int
    j0: int
    n: int


class MixingWeights(NamedTuple):
    """Half the weight and half the bias (see `recursion`) of the samples of a row of pairs.

    weight, bias : the two halves for sample i
    weights, biases : (n,) the halves for samples j0 … j0 + n − 1
    """

    weight: float
    bias: float
    weights: Floats
    biases: Floats


@njit
def mixing_weights(pairs: Pairs, layer: int) -> MixingWeights:
    """Return the mixing weights of a layer, counted from 0, for a row of pairs."""
    (rows, columns), i, j0, n = pairs
    return MixingWeights(
        rows.half_weight[layer, i],
        rows.half_bias[layer, i],
        columns.half_weight[layer, j0 : j0 + n],
        columns.half_bias[layer, j0 : j0 + n],
    )
