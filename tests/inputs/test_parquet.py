"""Parquet files, against the numbers that were written to them."""

import sys
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ntk_numba as nk
from ntk_numba.inputs.labels import read_labels
from ntk_numba.inputs.source import open_source

X = np.random.default_rng(0).standard_normal((100, 3)) * 1e-5


@pytest.fixture
def write(tmp_path):
    """Write columns to a Parquet file of four row groups, and return its path."""

    def write(columns, **options):
        path = tmp_path / "x.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=options.pop("rows", 30), **options)
        return str(path)

    return write


def read(path):
    source = open_source(path, "X")
    return source.read(0, source.shape[0])


@pytest.mark.parametrize("options", [{}, {"compression": "zstd"}, {"use_dictionary": True}])
def test_runs_of_rows(write, options):
    path = write({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2]}, **options)
    source = open_source(path, "X")
    assert source.shape == (100, 3) and source.dtype == np.float64
    assert source.held == 30 * 3 * 8  # one row group, not all
    for start, stop in ((0, 100), (25, 65), (29, 31), (90, 100), (3, 4), (5, 5)):
        assert (source.read(start, stop) == X[start:stop]).all()
    assert source.survey(digest=True).digest == open_source(X, "X").survey(digest=True).digest
    assert (read(f"{path}:c,a") == X[:, [2, 0]]).all()
    assert (read(f"{path}:!b") == X[:, [0, 2]]).all()
    assert (nk.gram(nk.MLP(2), path).ntk == nk.gram(nk.MLP(2), X).ntk).all()
    assert (read_labels(f"{path}:b", 100) == X[:, 1]).all()


def test_a_row_group_is_read_once(write, monkeypatch):
    source = open_source(write({"a": X[:, 0]}), "X")
    count, original = [], pq.ParquetFile.read_row_group

    def counted(self, k, **options):
        count.append(k)
        return original(self, k, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    for start in range(0, 100, 5):
        source.read(start, start + 5)
    assert count == [0, 1, 2, 3]


INTEGERS = [1, -(2**31), 2**53, -(2**63), 2**62]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, 2, 255], pa.uint8()), [1, 2, 255]),
        (pa.array(INTEGERS, pa.int64()), [float(i) for i in INTEGERS]),
        (pa.array([2**63], pa.uint64()), [2.0**63]),
        (pa.array([True, False]), [1, 0]),
        (pa.array(np.array([0.5, 1.25], np.float16)), [0.5, 1.25]),
        (pa.array([0.1, 3e38], pa.float32()), [float(np.float32(0.1)), float(np.float32(3e38))]),
        (pa.array([1.5, 2.5, 1.5]).dictionary_encode(), [1.5, 2.5, 1.5]),
        (
            pa.array([Decimal("0.1"), Decimal("123456789.123456789")], pa.decimal128(30, 9)),
            [0.1, 123456789.123456789],
        ),
    ],
)
def test_types_of_numbers(write, column, expected):
    path = write({"a": column, "one": pa.array([1.0] * len(column))}, rows=2)
    assert read(path)[:, 0].tolist() == expected
    single = open_source(f"{path}:a", "X")
    assert single.dtype == (np.float32 if column.type == pa.float32() else np.float64)


@pytest.mark.parametrize(
    ("column", "shown"),
    [
        (pa.array(["x", "y"]), "string"),
        (pa.array(["x", "y"]).dictionary_encode(), "dictionary"),
        (pa.array([[1.0], [2.0]]), "list"),
        (pa.array([{"p": 1}, {"p": 2}]), "struct"),
        (pa.array([0, 1], pa.timestamp("ns")), "timestamp"),
        (pa.nulls(2), "null"),
    ],
)
def test_other_types_are_named(write, column, shown):
    path = write({"a": [1.0, 2.0], "b": column})
    with pytest.raises(TypeError, match=rf"column 1 \('b'\) holds {shown}.*; leave it out, .*:!1"):
        read(path)
    with pytest.raises(TypeError, match="do not name it in :a,b"):
        read(f"{path}:a,b")
    assert read(f"{path}:!1").tolist() == read(f"{path}:a").tolist() == [[1], [2]]


def test_refusals(write, tmp_path):
    values = X[:, 0].tolist()
    path = write({"a": X[:, 0], "b": [*values[:70], None, *values[71:]]})
    source = open_source(path, "X")
    assert source.read(0, 60).shape == (60, 2)
    with pytest.raises(ValueError, match=r"row 70, column 1 \('b'\) is missing \(null"):
        source.read(60, 90)
    bad = X[:, 0].copy()
    bad[41] = np.nan
    with pytest.raises(ValueError, match=r"row 41, column 1 .* is nan"):
        open_source(path := write({"a": X[:, 0], "b": bad}), "X").check()
    with pytest.raises(ValueError, match=r"row 41, column 1 \('b', counted from 0\) is nan"):
        read(f"{path}:b")  # the number is that in the file
    for large in ([1, 2**53 + 1], [1, 2**63 - 1]):
        with pytest.raises(ValueError, match=rf"row 1, column 1 \('b', .* is {large[1]}, which"):
            read(write({"a": [1.0, 2.0], "b": large}) + ":b")
    path = write({"a": X[:, 0], "b": bad})
    with pytest.raises(ValueError, match="has no column 'c'; its columns are a, b"):
        read(f"{path}:c")
    with pytest.raises(ValueError, match="it has no rows"):
        read(write({"a": np.empty(0)}))
    twice = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], ["a", "a"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(ValueError, match="has a name that another column has too"):
        read(str(tmp_path / "twice.parquet"))
    whole = (tmp_path / "x.parquet").read_bytes()
    for data in (b"", b"PAR1", whole[: len(whole) // 2], whole[:-5], b"x" * 100):
        (tmp_path / "cut.parquet").write_bytes(data)
        with pytest.raises(ValueError, match="no valid Parquet file, perhaps truncated"):
            read(str(tmp_path / "cut.parquet"))


def test_the_index_of_pandas_is_no_feature(tmp_path):
    metadata = {"pandas": '{"index_columns": ["__index_level_0__"], "columns": []}'}
    table = pa.table({"a": [1.0, 2.0], "__index_level_0__": [7, 8]})
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"column 1 \('__index_level_0__'\) looks like an index"):
        read(f"{tmp_path}/x.parquet")
    assert read(f"{tmp_path}/x.parquet:!1").tolist() == [[1], [2]]
    assert read(f"{tmp_path}/x.parquet:0:").tolist() == [[1, 7], [2, 8]]


def test_a_file_that_changes(write):
    columns = {"a": X[:, 0]}
    source = open_source(write(columns), "X")
    write({"a": X[:50, 0]})
    with pytest.raises(OSError, match="has changed since it was opened"):
        source.refuse_changed()


def test_damaged_pages_are_no_traceback(write, tmp_path):
    path = write({"a": X[:, 0], "b": X[:, 1]})
    data = (tmp_path / "x.parquet").read_bytes()
    chance = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        changed = bytearray(data)
        changed[int(chance.integers(4, len(data)))] ^= 1 << int(chance.integers(8))
        (tmp_path / "y.parquet").write_bytes(changed)
        try:
            read(str(tmp_path / "y.parquet"))
        except nk.NtkNumbaError:
            refused += 1
    assert refused > 5, path


def test_without_pyarrow(write, monkeypatch):
    path = write({"a": [1.0]})
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(OSError, match=r"needs pyarrow to be read: pip install ntk_numba\[tables\]"):
        read(path)
