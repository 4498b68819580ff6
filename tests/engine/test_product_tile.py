"""The compiled loop over tiles that are multiplied; see also the tests of `compute.multiply`."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba.compute.plan import make_plan
from ntk_numba.compute.sweep import make_kernel
from ntk_numba.engine.product_tile import NO_TOTALS, NO_VECTORS, WIDTH, Side
from ntk_numba.engine.tile import tile_table
from ntk_numba.inputs.source import open_source

NET, X = nk.MLP(2), np.random.default_rng(0).standard_normal((64, 3))
UNITS = 2.0**40


@pytest.fixture
def kernel():
    source = open_source(X, "X")
    own = make_kernel(make_plan(NET, source, kernels="ntk", in_memory=True), source, None)
    return own, own.samples(source, 0, 64)


def side(vectors, columns):
    totals, rests = (np.zeros((columns, 64), np.int64) for _ in range(2))
    return Side(vectors, totals, rests, np.full(64, UNITS), np.zeros(1, np.int64))


@pytest.mark.parametrize("columns", [1, WIDTH + 1])
def test_threads_that_add_to_the_same_rows_lose_nothing(kernel, columns):
    own, samples = kernel
    vectors = np.ones((-(-columns // WIDTH), 64, WIDTH))
    k = nk.gram(NET, X, kernels="ntk").ntk
    found = []
    for count in (1, 500):
        down, across = side(vectors, columns), side(vectors, columns)
        tiles = tile_table([(0, 0, 64, 64)] * count, [(0, 0)] * count)
        own.multiply(tiles, samples, samples, down, across)
        found.append((down, across))
    for one, many, sums in zip(*found, (k.sum(axis=1), k.sum(axis=0)), strict=True):
        assert (many.totals == 500 * one.totals).all() and (many.rests == 500 * one.rests).all()
        assert not many.locks.any()
        np.testing.assert_allclose(one.totals / UNITS, np.tile(sums, (columns, 1)), rtol=1e-9)


def test_one_of_the_products_alone(kernel):
    own, samples = kernel
    vectors = np.random.default_rng(1).standard_normal((1, 64, WIDTH))
    nothing = Side(NO_VECTORS, NO_TOTALS, NO_TOTALS, np.zeros(0), np.zeros(0, np.int64))
    both = side(vectors, 3), side(vectors, 3)
    alone = side(vectors, 3), side(vectors, 3)
    tiles = tile_table([(0, 0, 64, 64)], [(0, 0)])
    own.multiply(tiles, samples, samples, *both)
    own.multiply(tiles, samples, samples, alone[0], nothing)
    own.multiply(tiles, samples, samples, nothing, alone[1])
    for one, other in zip(alone, both, strict=True):
        assert (one.totals == other.totals).all() and (one.rests == other.rests).all()


def test_more_callers_than_threads_compute_alone(kernel):
    own, samples = kernel
    k = nk.gram(NET, X, kernels="ntk").ntk

    def compute(_):
        outputs = own.outputs(64, 64)
        own.compute_alone(
            tile_table([(0, 0, 64, 64)], [(0, 0)], [(0, 0)]), samples, samples, *outputs
        )
        return outputs[1][0]

    with ThreadPoolExecutor(5) as pool:
        assert all((found == k).all() for found in pool.map(compute, range(40)))
