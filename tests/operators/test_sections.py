"""Files of arrays with a checksum for each."""

import numpy as np
import pytest

from ntk_numba.operators.sections import SectionsFile, write_sections

ARRAYS = [
    ("v", 0, np.arange(12.0).reshape(4, 3)),
    ("v", 4, -np.arange(6.0).reshape(2, 3)),
    ("empty", 0, np.empty((0, 3))),
    ("exponents", 0, np.array([3, -4], np.int32)),
    ("totals", 9, np.array([[2**62], [-(2**62)]])),
]


def written(folder):
    path = folder / "file"
    write_sections(path, {"part": "1/3"}, ARRAYS)
    return path


def test_arrays_come_back(tmp_path):
    with SectionsFile(written(tmp_path)) as file:
        assert file.facts == {"part": "1/3"}
        found = [(s.name, s.start, file.read(s)) for s in file.sections]
    for (name, start, array), (other, at, back) in zip(ARRAYS, found, strict=True):
        assert (name, start, array.dtype) == (other, at, back.dtype)
        np.testing.assert_array_equal(array, back)


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = written(tmp_path)
    write_sections(path, {}, ARRAYS[:1])
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    with SectionsFile(path) as file:
        assert len(file.sections) == 1


def read_all(path):
    with SectionsFile(path) as file:
        for section in file.sections:
            file.read(section)


def is_refused(path):
    try:
        read_all(path)
    except OSError as error:
        return "is damaged; delete it" in str(error)
    return False


def test_damage_of_any_byte_is_found(tmp_path):
    path = written(tmp_path)
    good = path.read_bytes()
    missed = []
    for k in range(len(good)):
        bad = bytearray(good)
        bad[k] ^= 1
        path.write_bytes(bad)
        if not is_refused(path):
            missed.append(k)
    # only bytes that fill up to the beginning of the next array are of no importance
    assert len(missed) < 64 * 5 and not any(good[k] for k in missed)


@pytest.mark.parametrize("length", [0, 5, 24, 100, -64])
def test_a_truncated_file_is_found(tmp_path, length):
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(OSError, match=r"damaged|cannot be read"):
        read_all(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="none cannot be read: No such file"):
        SectionsFile(tmp_path / "none")
