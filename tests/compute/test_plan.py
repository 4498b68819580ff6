import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba.compute.plan import make_plan
from ntk_numba.inputs.source import Source


class Shape:
    """An array of any size, whose entries are never read."""

    def __init__(self, *shape, dtype=np.float64):
        self.shape, self.dtype = shape, np.dtype(dtype)


def plan(n, n0, m=None, memory="2GiB", dtype=np.float64, **options):
    x = Source("X", Shape(n, n0, dtype=dtype))
    z = None if m is None else Source("Z", Shape(m, n0, dtype=dtype))
    return make_plan(nk.MLP(4), x, z, memory=memory, threads=2, **options)


@pytest.mark.parametrize("memory", ["64MiB", "300MiB", "2GiB", "64GiB"])
@pytest.mark.parametrize(
    ("n", "n0", "m"), [(10, 3, None), (60_000, 784, None), (10**6, 784, None), (10**5, 20, 7)]
)
def test_a_job_fits_its_memory(n, n0, m, memory):
    p = plan(n, n0, m, memory)
    assert p.working <= p.memory
    assert 1 <= p.band <= max(p.grid.down, p.grid.across)
    assert 1 <= p.batch <= p.grid.count


def test_all_rows_at_once_where_they_fit():
    assert plan(60_000, 784).band == 118
    assert plan(60_000, 784, memory="400MiB").band < 30


@pytest.mark.parametrize(("n", "n0", "memory"), [(1000, 10**7, "2GiB"), (10**5, 784, "30MiB")])
def test_a_job_that_cannot_fit_is_refused_with_the_memory_it_takes(n, n0, memory):
    with pytest.raises(ValueError, match=r"memory=.* is too little: this job takes at least") as e:
        plan(n, n0, memory=memory)
    least = str(e.value).split("at least ")[1].split(" (")[0]
    number, unit = least.split()
    plan(n, n0, memory=f"{float(number) * 1.01}{unit}")


def test_tiles_do_not_depend_on_memory_or_threads():
    grids = {plan(60_000, 784, memory=m).grid for m in ("400MiB", "2GiB", "64GiB")}
    assert len(grids) == 1 and grids.pop().tile == 512


def test_size_on_disk():
    assert plan(60_000, 784).output_bytes == (118 * 512) ** 2 * 8
    assert plan(60_000, 784, dtype=np.float32, layers="all").output_bytes > 4 * 60_000**2 * 4
    assert plan(10, 5).output_bytes == 800
