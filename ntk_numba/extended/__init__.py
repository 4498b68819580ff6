"""Arrays of numbers with 106 bits, whose bits are the same on all processors and systems.

What the bits of a result depend on is computed with them: the variances of samples, the
coefficients of duals, and values of activations. Functions of NumPy, SciPy and the C library differ
in the last bit from processor to processor and from version to version, and long double is another
type on each kind of machine. Here all functions are written in terms of +, −, ×, ÷, √ and fused
multiply-adds, which are rounded correctly everywhere.
"""

from ntk_numba.extended import error_function  # noqa: F401  enters its functions
from ntk_numba.extended.array import (
    LN4,
    PI,
    ROOT_TWO,
    Extended,
    concatenate,
    exponential,
    extended,
    logarithm,
    maximum,
    minimum,
    stack,
    values_of,
    where,
    whole,
)
from ntk_numba.extended.sums import dot, dots, length, product, solve

__all__ = [
    "LN4", "PI", "ROOT_TWO", "Extended", "concatenate", "dot", "dots", "exponential", "extended",
    "length", "logarithm", "maximum", "minimum", "product", "solve", "stack", "values_of", "where",
    "whole",
]  # fmt: skip
