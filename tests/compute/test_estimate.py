import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba.compute.estimate import estimate, estimate_uses
from ntk_numba.compute.plan import make_plan
from ntk_numba.inputs.source import open_source


@pytest.mark.parametrize(("n", "m"), [(1, None), (100, None), (300, 5), (5, 300)])
def test_an_estimate_leaves_nothing_behind(tmp_path, n, m):
    x = open_source(np.random.default_rng(0).standard_normal((n, 3)), "X")
    z = None if m is None else open_source(np.ones((m, 3)), "Z")
    seconds = estimate(make_plan(nk.MLP(3), x, z), x, tmp_path)
    assert 0 < seconds.compute < 60 and 0 < seconds.write < 60
    assert seconds.total == max(seconds.compute, seconds.write)
    uses = estimate_uses(make_plan(nk.MLP(3), x, z, kernels=("nngp", "ntk")), x, tmp_path)
    assert all(0 < t < 60 for t in (uses.computing, uses.reading))
    assert (uses.cholesky is None) == (z is not None)
    assert uses.choice.startswith("computing" if uses.computing <= uses.reading else "reading")
    assert list(tmp_path.iterdir()) == []


def test_bad_rows_are_named(tmp_path, points):
    points[3, 3] = np.nan
    x = open_source(points, "X")
    with pytest.raises(ValueError, match="X: row 3, column 3"):
        estimate(make_plan(nk.MLP(3), x), x, tmp_path)
