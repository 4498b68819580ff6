import numpy as np
import pytest

from ntk_numba.grid import Grid, Part, parse_part, tile_size


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (64, 64), (65, 63), (1000, 3), (3, 700)])
@pytest.mark.parametrize("band", [1, 3, 100])
def test_bands_of_tiles_cover_every_entry_once(rows, columns, band):
    for symmetric in {False, rows == columns}:
        grid = Grid(rows, columns, symmetric, 64)
        seen = set()
        for down in grid.bands(range(grid.down), band):
            for across in grid.bands(range(grid.across), band):
                for i, j in grid.tiles(down, across):
                    assert (i, j) not in seen
                    seen.add((i, j))
        assert len(seen) == grid.count
        area = sum(
            grid.height(i) * grid.width(j) * (2 if symmetric and i != j else 1) for i, j in seen
        )
        assert area == rows * columns


def test_tile_size_follows_from_the_shape_alone():
    assert tile_size(60_000, 60_000, 784, 8, 2) == 512
    assert tile_size(10, 10, 784, 8, 2) == 64
    assert tile_size(60_000, 10, 784, 4, 1) == 512
    assert tile_size(60_000, 60_000, 100_000, 8, 2) == 64  # panels of 51 MB
    assert tile_size(60_000, 60_000, 784, 8, 2 * 2 * 32) <= 128  # all layers of both kernels


@pytest.mark.parametrize(
    ("rows", "columns", "symmetric"),
    [(1000, 1000, True), (1000, 333, False), (64, 6000, False), (6000, 64, False), (1, 1, True)],
)
def test_parts_are_equal_and_cover_everything_once(rows, columns, symmetric):
    grid = Grid(rows, columns, symmetric, 64)
    for of in sorted({*range(1, min(grid.count, 12) + 1), min(grid.count, 59)}):
        parts = [Part(number, of) for number in range(1, of + 1)]
        masks = [grid.mask(part) for part in parts]
        assert (sum(m.astype(int) for m in masks) == grid.mask()).all()
        sizes = [int(m.sum()) for m in masks]
        assert max(sizes) - min(sizes) <= 1
        assert sizes == [grid.size(part) for part in parts]
        for part, mask in zip(parts, masks, strict=True):
            covered = np.zeros_like(mask)
            for piece in grid.pieces(part):
                a, b = piece.rows, piece.columns
                covered[a.start : a.stop, b.start : b.stop] = True
            assert not (mask & ~covered).any()


def test_a_part_reads_few_rows():
    """Nearly a square of the triangle: 2/√(2n) of the rows each, and not 2/3 of them."""
    grid = Grid(10**6, 10**6, True, 512)
    for of in (10, 100, 1000):
        read = [
            sum(len(p.rows) + len(p.columns) for p in grid.pieces(Part(number, of)))
            for number in range(1, of + 1)
        ]
        assert np.mean(read) < 1.4 * grid.down * 2 / np.sqrt(2 * of)
        assert max(read) < 3.5 * grid.down * 2 / np.sqrt(2 * of)


def test_more_parts_than_tiles_are_refused():
    grid = Grid(130, 130, True, 64)
    assert grid.size(Part(6, 6)) == 1
    with pytest.raises(ValueError, match="part=2/7: there are 6 tiles, so at most 6 parts are"):
        grid.pieces(Part(2, 7))


@pytest.mark.parametrize("value", [(3, 8), "3/8", " 3 / 8 ", [3, 8], np.array([3, 8])])
def test_a_part_is_a_pair(value):
    assert parse_part(value) == Part(3, 8) and str(parse_part(value)) == "3/8"


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        ("3", ValueError, "part must be like 3/8"), ("3/", ValueError, "part must be like 3/8"),
        ("-1/8", ValueError, "part must be like 3/8"), ((0, 8), ValueError, "at least 1, not 0"),
        ((9, 8), ValueError, "part must be one of 1/8 to 8/8, not 9/8"), (3, TypeError, "a pair"),
        ((1, 2, 3), TypeError, "a pair"), ((1.0, 2), TypeError, "whole number"),
    ],
)  # fmt: skip
def test_bad_parts_are_refused(value, error, text):
    with pytest.raises(error, match=text):
        parse_part(value)
