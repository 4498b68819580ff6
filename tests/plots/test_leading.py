"""Pictures of what `spectrum` finds."""

import numpy as np
import pytest
from marks import marked

import ntk_numba as nk
from ntk_numba.linalg import spectrum as module

RNG = np.random.default_rng(4)
ROOT = RNG.standard_normal((120, 120)) / np.arange(1.0, 121)
K = ROOT @ ROOT.T


@pytest.mark.parametrize("dense", marked(pytest.mark.slow, [20, 2048]))
def test_the_panels(dense, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "DENSE", dense)
    found, y = nk.spectrum(K, 8), RNG.standard_normal((120, 2))
    figure = nk.plots.spectrum(found, tmp_path / "a.png", targets=y)
    values, dimension, shares = figure.axes
    exact = np.linalg.eigvalsh(K)[::-1]
    drawn = values.lines[0].get_ydata()
    assert drawn[:8] == pytest.approx(exact[:8], rel=1e-6)
    assert len(drawn) == (8 if dense == 20 else np.count_nonzero(exact > 0))
    which = "8 largest of 120" if dense == 20 else "all 120"
    assert values.get_title() == f"{which} eigenvalues"
    ridges, estimates = dimension.lines[0].get_data()
    at = ridges[30] * np.trace(K) / 120
    assert estimates[30] == pytest.approx((exact / (exact + at)).sum(), rel=0.05)
    assert bool(dimension.collections) == (dense == 20)  # the band of errors
    assert shares.lines[0].get_ydata() == pytest.approx(found.alignment(y).total)
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert len(nk.plots.spectrum(found).axes) == 2


def test_a_matrix_of_zeros_and_targets_without_a_spectrum():
    nk.plots.spectrum(nk.spectrum(np.zeros((3, 3)), 2))
    with pytest.raises(ValueError, match=r"result of ntk_numba\.spectrum only"):
        nk.plots.spectrum(K, targets=np.ones(120))
