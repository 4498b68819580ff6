"""The comparison of a factor with its matrix."""

import numpy as np
import pytest
from plain_factor import matrix

import ntk_numba as nk
from ntk_numba.factors.verified import verify_factor
from ntk_numba.gramfile.contents import FACTOR
from ntk_numba.gramfile.factor import open_factor

TILE = 64


@pytest.mark.parametrize(
    ("size", "dtype", "scale"),
    [(150, float, 1.0), (1, float, 1.0), (100, np.float32, 1.0), (130, float, 1e300)],
)
def test_a_right_factor(tmp_path, size, dtype, scale):
    a = (scale * matrix(size) / size).astype(dtype)
    with nk.cholesky(a, tmp_path / "l.h5", ridge=0.5 * scale) as factor:
        assert factor.verify()
    with open_factor(tmp_path / "l.h5") as file:
        assert bool(file.contents.exponent) == (scale != 1)
        report = verify_factor(file, a)
        assert report and len(report.checks) == 2
        a[-1, -1] *= 2
        report = verify_factor(file, a)
        assert "this is not the matrix of the factor" in report.problems[0]
        assert "the matrix is another one" in report.problems[0]


@pytest.mark.parametrize("dtype", [float, np.float32])
@pytest.mark.parametrize(("i", "j"), [(0, 0), (1, 0), (1, 1)])
def test_a_factor_with_a_right_checksum_and_a_wrong_entry(tmp_path, dtype, i, j):
    a = (matrix(100) / 100).astype(dtype)
    nk.cholesky(a, tmp_path / "l.h5").close()
    with open_factor(tmp_path / "l.h5") as file:
        with file.tiles(write=True) as tiles:
            block, value = np.empty((TILE, TILE), dtype), tiles.checksums()[FACTOR][0, i, j]
            assert not tiles.fetch((FACTOR, 0, i, j), block, int(value))
            block[20, 3] *= 1.1
            tiles.write(FACTOR, 0, i, j, block)
            tiles.commit()
        assert file.verify()  # which compares with no matrix
        problems = verify_factor(file, a).problems
        assert any(f"tile ({i}, {j}) of L Lᵀ is not that of the matrix" in p for p in problems)
        assert all(f" {i * TILE + 20}," in p for p in problems)  # its row, or its column
