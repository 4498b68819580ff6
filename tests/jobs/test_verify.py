import h5py
import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba.jobs.verify import verify_sample

NET = nk.MLP(3, "relu", b_std=0.1)


@pytest.mark.parametrize("layers", ["last", "all"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("cross", [False, True])
def test_a_good_file_passes(points, tmp_path, layers, dtype, cross):
    z = points[:30] if cross else None
    with nk.write_gram(NET, points, tmp_path / "g.h5", z, ("nngp", "ntk"), layers, dtype) as f:
        report = verify_sample(f, points, z)
        assert report, report.problems
        assert report.checks[-1] == f"64 × {30 if cross else 64} entries computed anew"


def test_other_data_and_wrong_entries_are_found(points, tmp_path):
    nk.write_gram(NET, points, tmp_path / "g.h5").close()
    with nk.open_gram(tmp_path / "g.h5") as f:
        assert "X is not the data" in verify_sample(f, points + 1).problems[0]
        assert "but Z is given" in verify_sample(f, points, points).problems[0]
    with h5py.File(tmp_path / "g.h5", "r+") as file:
        file["ntk"][:] *= 1 + 1e-13
    with nk.open_gram(tmp_path / "g.h5") as f:
        assert f.verify()  # symmetric and finite all the same
        (problem,) = verify_sample(f, points).problems
        assert "is not what the data gives" in problem
    with nk.write_gram(NET, points, tmp_path / "c.h5", points[:9]) as f:
        assert "give Z as well" in verify_sample(f, points).problems[0]
        assert "Z is not the data" in verify_sample(f, points, points[1:10]).problems[0]
