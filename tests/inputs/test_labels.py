"""Targets and labels are read as they were written, and what may be read in two ways is refused."""

import h5py
import numpy as np
import pytest

from ntk_numba.inputs.labels import read_labels, read_targets_file
from ntk_numba.inputs.source import open_source


@pytest.fixture
def table(tmp_path):
    """Write a text file, and read targets from it."""

    def table(text, key="", count=3, name="y.csv", **options):
        (tmp_path / name).write_text(text)
        return read_targets_file(f"{tmp_path}/{name}{key}", count, **options)

    return table


def test_a_column_of_the_table_of_the_samples(table, tmp_path):
    text = "a,b,label\n1,2,cat\n3,4.5,dog\n5,6,cat\n"
    labels = table(text, ":label", name="x.csv")
    assert labels.values.tolist() == labels.classes().tolist() == ["cat", "dog", "cat"]
    assert labels.are_text and labels.columns == ["label"]
    rows = open_source(f"{tmp_path}/x.csv:!label", "X").read(0, 3)
    assert rows.tolist() == [[1, 2], [3, 4.5], [5, 6]]
    numbers = table(text, ":b,a", name="x.csv")
    assert numbers.values.tolist() == [[2, 1], [4.5, 3], [6, 5]] and not numbers.are_text


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("cat\ndog\ncat\n", ""),
        ("species\ncat\ndog\ncat\n", ""),
        ("cat\ndog\nbird\n", ":header=no"),
        ("id;species\n1;cat\n2;dog\n3;cat\n", ":species"),
        ("species\nIris setosa\nIris versi color\nIris setosa\n", ""),
        ('species\n"a,b"\n"c,d"\n"a,b"\n', ":species"),
        ("true\nfalse\ntrue\n", ""),
    ],
)
def test_text(table, text, key):
    lines = [line.strip('"').split(";")[-1] for line in text.split("\n")[:-1]]
    labels = table(text, key)
    assert labels.classes().tolist() == lines[-3:] and labels.values.dtype.kind == "U"


def test_a_first_line_that_may_be_a_label(table):
    with pytest.raises(ValueError, match=r"has 2 rows, and X has 3.*first line a header"):
        table("cat\ndog\nbird\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n2.5\nx\n", "line 3, column 0 is 'x', and others are numbers; correct it, or take all"),
        ("t\na\nb\n7\n", r"line 4, column 0 \('t'\) is '7', and others are text"),
        ("u,t\n1,2\n2,\n3,4\n", r"line 3, column 1 \('t'\) is missing"),
        ("u,t\n1,2\n2,nan\n3,4\n", r"line 3, column 1 \('t'\) is missing"),
        ("u,t\na,2\nb,5\nc,6\n", "columns of numbers and columns of text"),
        (f"t\na\nb\n{'c' * 300}\n", "a label of 300 characters"),
    ],
)
def test_cells_that_are_refused(table, text, message):
    with pytest.raises(ValueError, match=message):
        table(text)


def test_classes_may_be_numbers(table):
    assert table("1\n2\n1\n").classes().tolist() == [1, 2, 1]
    assert table("1\n2.5\nx\n", ":header=no", classes=True).classes().tolist() == ["1", "2.5", "x"]
    with pytest.raises(ValueError, match=r"row 1 .counted from 0. is 2.5, and class labels are"):
        table("1\n2.5\n3\n").classes()
    with pytest.raises(ValueError, match="has 2 columns, and class labels are one"):
        table("1,2\n3,4\n5,6\n").classes()


def test_text_of_arrays(tmp_path):
    np.save(tmp_path / "s.npy", np.array([b"a", "ä".encode()]))
    np.save(tmp_path / "bool.npy", np.array([True, False]))
    np.save(tmp_path / "z.npy", np.array([1j, 2]))
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["any"] = ["ä", "b"]
        file["fixed"] = np.array([b"a", b"b"])
        file["numbers"] = np.arange(4).reshape(2, 2)
        file.create_dataset("packed", data=["q", "r"], chunks=(1,), compression="gzip")
    for name, expected in {
        "s.npy": ["a", "ä"], "bool.npy": [True, False], "y.h5:any": ["ä", "b"],
        "y.h5:fixed": ["a", "b"], "y.h5:packed": ["q", "r"],
    }.items():  # fmt: skip
        labels = read_targets_file(f"{tmp_path}/{name}", 2)
        assert labels.are_text and labels.classes().tolist() == expected
        assert read_labels(f"{tmp_path}/{name}", 2).tolist() == expected
    assert read_targets_file(f"{tmp_path}/y.h5:numbers", 2).values.tolist() == [[0, 1], [2, 3]]
    with pytest.raises(TypeError, match="holds complex128; targets are real numbers or text"):
        read_targets_file(tmp_path / "z.npy", 2)


def test_text_of_parquet(tmp_path):
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame(
        {"a": [1.0, 2], "l": ["x", "y"], "c": pandas.Categorical(["u", "v"]), "z": [None, "q"]}
    ).to_parquet(tmp_path / "p.parquet")
    for key, expected in {"l": ["x", "y"], "c": ["u", "v"], "a": [1.0, 2.0]}.items():
        labels = read_targets_file(f"{tmp_path}/p.parquet:{key}", 2)
        assert labels.classes().tolist() == expected and labels.columns == [key]
    with pytest.raises(ValueError, match=r"row 0, column 3 \('z'.* is missing"):
        read_targets_file(f"{tmp_path}/p.parquet:z", 2)
    with pytest.raises(ValueError, match="columns of numbers and columns of text"):
        read_targets_file(f"{tmp_path}/p.parquet:a,l", 2)
