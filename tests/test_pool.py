"""Independent pieces of work, whose results are returned in order."""

import threading
import time

import pytest

from ntk_numba.pool import in_order


def test_results_are_in_order_and_few_are_ahead():
    taken, most = 0, 0

    def items():
        nonlocal most
        for k in range(50):
            most = max(most, k - taken)
            yield k

    def work(k):
        time.sleep(0.002 * (k % 3 == 0))
        return k * k

    for k, found in enumerate(in_order(work, items(), 3, ahead=5)):
        assert found == k * k
        taken += 1
    assert taken == 50 and 3 <= most <= 6
    assert list(in_order(work, [], 2)) == []


def test_an_error_stops_the_rest():
    done = []

    def work(k):
        if k == 3:
            raise ValueError("three")
        done.append(k)

    with pytest.raises(ValueError, match="three"):
        list(in_order(work, range(1000), 2))
    assert len(done) < 20


def test_it_ends_if_nobody_takes_more_results():
    before = threading.active_count()
    results = in_order(lambda k: k, range(1000), 2, name="pieces")
    assert next(results) == 0
    assert any(t.name.startswith("pieces") for t in threading.enumerate())
    results.close()
    assert threading.active_count() == before
