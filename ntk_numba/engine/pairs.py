"""Tuples that describe a row of pairs, which the compiled functions of the engine pass on."""

from typing import NamedTuple

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
