"""Tests of parallel loops whose body is called by its address."""

from typing import Any, NamedTuple

import numba
import numpy as np
import pytest

from ntk_numba.compiled.parallel import ParallelLoop, arguments_at


class Inner(NamedTuple):
    factor: int
    wanted: bool
    vector: Any


class Outer(NamedTuple):
    inner: Inner
    table: Any
    out: Any
    threads: Any


@ParallelLoop
def scale(outer_at, thread, k):
    outer = arguments_at(outer_at)
    if outer.inner.wanted:
        for j in range(outer.out.shape[1]):
            row = outer.table[k].row
            outer.out[k, j] = outer.inner.factor * outer.inner.vector[row] + 10 * j
    outer.threads[k] = thread


def arguments(count, dtype=np.float64, wanted=True):
    table = np.zeros(count, [("skipped", np.int64), ("row", np.int64)])
    table["row"] = np.arange(count)[::-1]
    inner = Inner(3, wanted, np.arange(count, dtype=dtype))
    return Outer(inner, table, np.zeros((count, 4), dtype), np.full(count, -1))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("count", [0, 1, 1000])
def test_each_number_is_taken_once_with_all_arguments(count, dtype):
    outer = arguments(count, dtype)
    scale(outer, count)
    expected = 3 * np.arange(count)[::-1, None] + 10 * np.arange(4)
    assert (outer.out == expected).all()
    assert ((outer.threads >= 0) & (outer.threads < numba.get_num_threads())).all()
    outer = arguments(count, dtype, wanted=False)
    scale(outer, count)
    assert (outer.out == 0).all()


def test_arrays_of_any_strides():
    outer = arguments(20)
    wide, vector = np.zeros((40, 8)), np.repeat(outer.inner.vector, 3)
    vector.flags.writeable = False
    strided = Outer(
        outer.inner._replace(vector=vector[::3]),
        np.repeat(outer.table, 2)[::2], wide[::2, ::-2], outer.threads,
    )  # fmt: skip
    scale(outer, 20)
    scale(strided, 20)
    assert (strided.out == outer.out).all() and (wide[1::2] == 0).all()


def test_a_body_is_compiled_once_for_a_type(monkeypatch):
    scale(arguments(3), 3)
    monkeypatch.setattr("ntk_numba.compiled.parallel.compile_by_address", None)
    scale(arguments(5), 5)


def test_the_loop_runs_on_the_threads_that_numba_is_set_to_use():
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        outer = arguments(500)
        scale(outer, 500)
    finally:
        numba.set_num_threads(before)
    assert (outer.threads == 0).all()
