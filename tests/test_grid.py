import numpy as np
import pytest

from ntk_numba.grid import (
    Grid,
    number_between,
    parse_bytes,
    show_bytes,
    tile_size,
    whole_number,
)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (64, 64), (65, 63), (1000, 3), (3, 700)])
@pytest.mark.parametrize("band", [1, 3, 100])
def test_bands_of_tiles_cover_every_entry_once(rows, columns, band):
    for symmetric in {False, rows == columns}:
        grid = Grid(rows, columns, symmetric, 64)
        seen = set()
        for down in grid.bands(grid.down, band):
            for across in grid.bands(grid.across, band):
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
    ("text", "value"),
    [
        (5, 5),
        ("5", 5),
        ("2GiB", 2 << 30),
        ("2 gib", 2 << 30),
        ("1.5k", 1500),
        ("500MB", 500_000_000),
    ],
)
def test_parse_bytes(text, value):
    assert parse_bytes(text, "memory") == value


@pytest.mark.parametrize("text", ["", "two", "-1", 0, "0", "5 XB", "1GiBs", None, True, 1.5j])
def test_parse_bytes_refuses(text):
    with pytest.raises(ValueError, match="memory must be"):
        parse_bytes(text, "memory")


def test_show_bytes():
    assert show_bytes(5) == "5 B"
    assert show_bytes(1536) == "1.5 KiB"
    assert show_bytes(28.8e9) == "26.8 GiB"
    assert show_bytes(5000 << 40) == "5000 TiB"


def test_numbers_are_checked():
    assert whole_number("n", np.int64(3)) == 3 and type(whole_number("n", 3)) is int
    assert number_between("p", np.float32(0.5), 0, 1) == 0.5
    for bad in (True, 1.0, "1", None):
        with pytest.raises(TypeError, match=r"n must be a whole number, not"):
            whole_number("n", bad)
    with pytest.raises(ValueError, match="n must be at least 2, not 1"):
        whole_number("n", 1, 2)
    for bad in (False, "0.5", None, [0.5], 1j):
        with pytest.raises(TypeError, match=r"p must be a number, not"):
            number_between("p", bad, 0, 1)
    for bad in (0, 1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="p must be more than 0 and less than 1, not"):
            number_between("p", bad, 0, 1)
    with pytest.raises(ValueError, match="p must be more than 0 and finite, not inf"):
        number_between("p", float("inf"), 0, float("inf"))
