"""Independent pieces of work on several threads."""

import threading
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from ntk_numba.finite_width import pool


def test_results_come_in_order_and_few_are_held():
    started = []

    def work(k):
        started.append(k)
        time.sleep(0.002 * (k % 3))
        return k

    seen = []
    for value in pool.in_order(work, range(30), 3):
        seen.append(value)
        assert len(started) - len(seen) <= 3
    assert seen == list(range(30))


def test_products_stay_on_their_thread():
    def work(k):
        return [i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"]

    np.ones((2, 2)) @ np.ones((2, 2))
    for threads in pool.in_order(work, range(4), 2):
        assert threads and set(threads) == {1}


def test_an_error_ends_the_work():
    started = []

    def work(k):
        started.append(k)
        if k == 2:
            raise ArithmeticError("two")
        return k

    with pytest.raises(ArithmeticError, match="two"):
        list(pool.in_order(work, range(1000), 2))
    assert len(started) < 10
    assert not [t for t in threading.enumerate() if t.name.startswith("finite-width")]


def test_threads_that_fit(monkeypatch):
    monkeypatch.setattr(pool, "available_memory", lambda: 1000)
    assert pool.fitting_threads(8, 100, 300, "it") == 3
    assert pool.fitting_threads(2, 100, 300, "it") == 2
    assert pool.fitting_threads(2, 1000, 0, "it") == 1
    with pytest.raises(ValueError, match=r"it would take 1.17 KiB \(1,200 bytes\), and 0.977 KiB"):
        pool.fitting_threads(2, 900, 300, "it")
