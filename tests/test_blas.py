"""The limit on the threads of BLAS, with contexts that overlap."""

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from ntk_numba.blas import blas_threads


def threads_now():
    return {i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"}


def test_contexts_that_overlap_leave_blas_as_it_was():
    np.ones((2, 2)) @ np.ones((2, 2))
    before = threads_now()
    first, second = blas_threads(1), blas_threads(1)
    with first:
        second.__enter__()
    assert threads_now() == {1}
    second.__exit__(None, None, None)
    assert threads_now() == before


def test_a_limit_is_never_raised():
    np.ones((2, 2)) @ np.ones((2, 2))
    with threadpool_limits(1, user_api="blas"):
        with blas_threads(7):
            assert threads_now() == {1}
        assert threads_now() == {1}


def test_the_smallest_limit_holds():
    np.ones((2, 2)) @ np.ones((2, 2))
    with threadpool_limits(3, user_api="blas"):
        outer, inner = blas_threads(2), blas_threads(1)
        outer.__enter__()
        with inner:
            assert threads_now() == {1}
        assert threads_now() <= {1, 2}
        outer.__exit__(None, None, None)
        assert threads_now() <= {1, 3}
