"""X in memory, in every kind of object: the right numbers, or one sentence that says what to do."""

import array
import datetime
import io
import warnings
from decimal import Decimal

import dask
import dask.array
import h5py
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse as sp

import ntk_numba as nk
from ntk_numba.inputs.containers import read_array
from ntk_numba.inputs.source import open_source

RNG = np.random.default_rng(0)
X = RNG.standard_normal((700, 5)) * (RNG.random((700, 5)) < 0.5)
X32 = X.astype(np.float32)
WHOLE = (X * 9).round()
FRAME = pd.DataFrame(X, columns=list("abcde"))
POLARS = pl.DataFrame({name: X[:, j] for j, name in enumerate("abcde")})
SPARSE = [f"{form}_{kind}" for form in ["csr", "csc", "coo", "bsr", "dia", "lil", "dok"]
          for kind in ("matrix", "array")]  # fmt: skip
NET = nk.MLP(3, "relu", b_std=0.1)


class Tensor:
    """Stands for a tensor of PyTorch, whose dtype is not one of NumPy."""

    def __init__(self, values, dtype="torch.float64", device="cpu", grad=False, layout="strided"):
        self.values, self.dtype, self.device = values, dtype, device
        self.requires_grad, self.layout = grad, f"torch.{layout}"
        self.shape = values.shape

    requires_grad = False

    def detach(self):
        return Tensor(self.values)

    def __getitem__(self, key):
        raise AssertionError("rows of a tensor are taken from NumPy's view of it")

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __array__(self, dtype=None, copy=None):
        return self.values


class Exported:
    """Stands for an array that is exported by DLPack alone."""

    def __dlpack__(self, **options):
        return X.__dlpack__(**options)

    def __dlpack_device__(self):
        return X.__dlpack_device__()


class Interface:
    """Stands for an array with NumPy's interface."""

    __array_interface__ = X.__array_interface__


class Dataset:
    """Stands for an array of zarr, whose rows are read when needed."""

    shape, dtype, chunks = X.shape, X.dtype, (100, 5)

    def __init__(self, rows=X):
        self.rows = rows

    def __getitem__(self, key):
        assert isinstance(key, slice)
        return self.rows[key]

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("the whole of a dataset is never read")


def mixed_frame():
    return FRAME.assign(b=X[:, 1] > 0, c=np.arange(700), d=np.float32(0.5))


MIXED = np.column_stack([X[:, 0], X[:, 1] > 0, np.arange(700), np.full(700, 0.5), X[:, 4]])


@pytest.mark.parametrize("kind", SPARSE)
def test_sparse_matrices(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sp.SparseEfficiencyWarning)
        for x in (X, X32, WHOLE.astype(np.int8), X > 0):
            same(getattr(sp, kind)(x), x)


def test_sparse_entries_may_be_repeated_unsorted_or_zero():
    pointers, columns = np.array([0, 3, 3, 5]), np.array([2, 0, 2, 1, 0])
    entries = np.array([1.0, 2, 3, 0, 5])
    for kind in (sp.csr_matrix, sp.csr_array):
        same(kind((entries, columns, pointers), (3, 3)), [[2, 0, 4], [0, 0, 0], [5, 0, 0]])
    same(sp.coo_array(([1, 2], ([0, 0], [1, 1])), (1, 2)), [[0, 3]])


def test_a_sparse_matrix_is_never_dense():
    x = sp.csr_array(([1.0], ([5], [7])), (1 << 20, 1 << 20))  # 8 TiB
    block = open_source(x, "X").read(4, 6)
    assert block.shape == (2, 1 << 20) and block[1, 7] == 1 == block.sum()


DECIMALS = [Decimal("0.1"), Decimal("-2.7")]
CONTAINERS = {
    "pandas": lambda: (FRAME, X),
    "pandas32": lambda: (FRAME.astype("f4"), X32),
    "index": lambda: (FRAME.set_index(FRAME.index[::-1]), X),
    "Float64": lambda: (FRAME.astype("Float64"), X),
    "Float32": lambda: (FRAME.astype("Float32"), X32),
    "Int64": lambda: (pd.DataFrame(WHOLE).astype("Int64"), WHOLE),
    "boolean": lambda: ((FRAME > 0).astype("boolean"), X > 0),
    "pyarrow": lambda: (FRAME.astype("double[pyarrow]"), X),
    "sparse": lambda: (FRAME.astype(pd.SparseDtype(float, 0.0)), X),
    "mixed": lambda: (mixed_frame(), MIXED),
    "categories": lambda: (
        pd.DataFrame({"a": pd.Categorical([3, 1.5, 3]), "b": [1, 2, 3]}),
        np.array([[3, 1], [1.5, 2], [3, 3]]),
    ),
    "same names": lambda: (FRAME.set_axis(list("aabbc"), axis=1), X),
    "levels": lambda: (FRAME.set_axis(pd.MultiIndex.from_product([["u"], range(5)]), axis=1), X),
    "polars": lambda: (POLARS, X),
    "polars32": lambda: (POLARS.cast(pl.Float32), X32),
    "polars mixed": lambda: (pl.DataFrame(dict(mixed_frame().items())), MIXED),
    "lazy": lambda: (POLARS.lazy(), X),
    "arrow": lambda: (pa.table({n: X[:, j] for j, n in enumerate("abcde")}), X),
    "batch": lambda: (pa.record_batch({"a": X[:, 0], "b": X[:, 1] > 0}),
                      np.column_stack([X[:, 0], X[:, 1] > 0])),
    "decimals": lambda: (pa.table({"a": DECIMALS}), [[0.1], [-2.7]]),
    "polars decimals": lambda: (pl.DataFrame({"a": DECIMALS}), [[0.1], [-2.7]]),
    "pandas decimals": lambda: (pd.DataFrame({"a": pd.Series(
        DECIMALS, dtype=pd.ArrowDtype(pa.decimal128(9, 1)))}), [[0.1], [-2.7]]),
    "int8": lambda: (pd.DataFrame(WHOLE % 100).astype("i1"), WHOLE % 100),
    "dictionary": lambda: (pa.table({"a": pa.array([5, 6, 5]).dictionary_encode()}),
                           np.array([[5], [6], [5]])),
    "dask": lambda: (dask.array.from_array(X, chunks=(100, 2)), X),
    "dask masked": lambda: (dask.array.ma.masked_greater(
        dask.array.from_array(X, chunks=100), 99), X),
    "tensor": lambda: (Tensor(X), X),
    "tensor32": lambda: (Tensor(X32, "torch.float32"), X32),
    "dlpack": lambda: (Exported(), X),
    "interface": lambda: (Interface(), X),
    "dataset": lambda: (Dataset(), X),
    "unmasked": lambda: (np.ma.masked_array(X32), X32),
    ">f4": lambda: (X.astype(">f4"), X32),
    ">f8": lambda: (X.astype(">f8"), X),
    ">i8": lambda: (WHOLE.astype(">i8"), WHOLE),
    "memoryview": lambda: (memoryview(X32), X32),
    "lists": lambda: (X.tolist(), X),
    "tuples": lambda: (tuple(map(tuple, X)), X),
    "rows": lambda: (list(X), X),
    "read-only": lambda: (np.broadcast_to(X[0], (9, 5)), np.tile(X[0], (9, 1))),
    "large integers": lambda: (np.array([[2**63, 2**53]], np.uint64), [[2.0**63, 2.0**53]]),
    "least integer": lambda: (np.array([[-(2**63), 2**62]]), [[-(2.0**63), 2.0**62]]),
}  # fmt: skip


def same(x, wanted):
    """Check that x has the numbers, the dtype and the digest of an array, in runs of any rows."""
    wanted = np.asarray(wanted)
    wanted = wanted.astype(np.float32 if wanted.dtype == np.float32 else np.float64)
    source = open_source(x, "X").check()
    assert source.shape == wanted.shape and source.dtype == wanted.dtype
    length = len(wanted)
    for start, stop in ((0, length), (length // 2, length), (length - 1, length), (0, 1)):
        block = source.read(start, stop)
        assert block.flags.c_contiguous and block.dtype == wanted.dtype
        assert np.array_equal(block, wanted[start:stop])
    digest = open_source(wanted, "X").survey(digest=True).digest
    assert source.survey(digest=True).digest == digest


@pytest.mark.parametrize("kind", CONTAINERS)
def test_containers(kind, monkeypatch):
    monkeypatch.setattr("ntk_numba.inputs.frames.CHUNK_BYTES", 4000)
    same(*CONTAINERS[kind]())


def test_dask_computes_a_chunk_once():
    computed = []
    x = dask.array.from_array(X, chunks=(100, -1)).map_blocks(
        lambda chunk: computed.append(len(chunk)) or chunk, dtype=float, meta=np.empty((0, 0))
    )
    with dask.config.set(scheduler="synchronous"):
        open_source(x, "X").centre_sample()
    assert computed == [100] * 7


def missing(column, value, frame=FRAME):
    frame = frame.copy()
    frame.isetitem(column, frame.iloc[:, column].astype("Float64"))
    frame.iloc[650, column] = value
    return frame


def column_of(value):
    return FRAME.assign(d=[value] * 700)


N = RNG.standard_normal((3, 2))
REFUSED = {
    "NA": (lambda: missing(1, pd.NA), ValueError, r"row 650, column 1 \('b', counted from 0\) is"),
    "NA of two": (lambda: missing(3, pd.NA, FRAME.set_axis(list("aabbc"), axis=1)), ValueError,
                  r"row 650, column 3 \('b', counted from 0\) is missing; remove the row"),
    "NaN": (lambda: FRAME.mask(X[:, 4].max() == FRAME), ValueError,
            r"row \d+, column 4 \('e', counted from 0\) is nan"),
    "NaN sparse": (lambda: sp.csc_array([[0, 1], [np.nan, 0]]), ValueError, "row 1, column 0 "),
    "levels": (lambda: missing(2, pd.NA, CONTAINERS["levels"]()[0]), ValueError,
               r"column 2 \(\('u', 2\), counted"),
    "no category": (lambda: pd.DataFrame({"a": pd.Categorical([1, None])}), ValueError,
                    r"row 1, column 0 \('a', counted from 0\) is missing"),
    "words": (lambda: column_of("u"), TypeError, r"column 3 \('d', counted from 0\) holds"),
    "categories": (lambda: column_of("u").astype({"d": "category"}), TypeError, "holds category"),
    "date": (lambda: column_of(pd.Timestamp("2020")), TypeError, "'d', .* holds datetime64"),
    "zone": (lambda: column_of(pd.Timestamp("2020", tz="UTC")), TypeError, "holds datetime64.*UTC"),
    "time": (lambda: column_of(pd.Timedelta("1s")), TypeError, "'d', .* holds timedelta64"),
    "period": (lambda: column_of(pd.Period("2020")), TypeError, "'d', .* holds period"),
    "interval": (lambda: column_of(pd.Interval(0, 1)), TypeError, "'d', .* holds interval"),
    "complex": (lambda: column_of(1j), TypeError, "'d', .* holds complex128"),
    "integer alone": (lambda: pd.DataFrame({"a": [1, 2**53 + 1]}), ValueError,
                              r"row 1, column 0 \('a', .* is 9007199254740993,"),
    "objects": (lambda: FRAME.astype({"d": object}), TypeError, "'d', .* holds object; convert it"),
    "integer": (lambda: FRAME.assign(b=2**53 + (np.arange(700) == 650)), ValueError,
                r"row 650, column 1 \('b', .* is 9007199254740993,"),
    "Series": (lambda: FRAME["a"], ValueError, r"one feature X.to_numpy\(\)\[:, None\]"),
    "nullable Series": (lambda: FRAME["a"].astype("Float64"), ValueError, "one sample is X.to_nu"),
    "Index": (lambda: FRAME.index, ValueError, "must have two dimensions"),
    "no columns": (lambda: FRAME[[]], ValueError, "700 rows but no columns"),
    "no rows": (lambda: FRAME.iloc[:0], ValueError, "X is empty: it has no rows"),
    "null": (lambda: pl.DataFrame({"a": [1, None]}), ValueError, "row 1, column 0 .* missing"),
    "null bool": (lambda: pl.DataFrame({"a": [None, True]}), ValueError, "row 0, .* is missing"),
    "text": (lambda: POLARS.cast(pl.String), TypeError, "column 0 .'a', .* holds String"),
    "vectors": (lambda: pl.DataFrame({"a": pl.Series([[1, 2]], dtype=pl.Array(pl.Int8, 2))}),
                TypeError, "holds Array"),
    "day": (lambda: pl.DataFrame({"a": [datetime.date(2020, 1, 1)]}), TypeError, "holds Date"),
    "128 bits": (lambda: pl.DataFrame({"a": pl.Series([1], dtype=pl.Int128)}), TypeError, "Int128"),
    "polars Series": (lambda: POLARS["a"], ValueError, r"X.to_numpy\(\)\[None, :\]"),
    "null in arrow": (lambda: pa.table({"a": [1, None]}), ValueError, "row 1, column 0 .* is mis"),
    "text in arrow": (lambda: pa.table({"a": ["u"]}), TypeError, "'a', .* holds string"),
    "sparse complex": (lambda: sp.csr_array(N + 1j), TypeError, "X holds complex128"),
    "sparse empty": (lambda: sp.csr_array((0, 5)), ValueError, "X is empty: it has no rows"),
    "sparse vector": (lambda: sp.coo_array(X[0]), ValueError, r"X.toarray\(\)\[None, :\]"),
    "damaged": (lambda: damaged(), ValueError, "row 0 has an entry in column 9 of 2"),
    "unknown length": (lambda: dask_rows()[dask_rows()[:, 0] > 0], ValueError,
                       r"X.compute_chunk_sizes\(\)"),
    "masked in dask": (lambda: dask.array.ma.masked_equal(dask_rows(), X[X != 0][-1]), ValueError,
                       r"row \d+, column \d \(counted from 0\) is masked"),
    "sparse in dask": (lambda: dask_rows().map_blocks(sp.csr_array), TypeError, "map_blocks"),
    "failing dask": (lambda: dask_rows().map_blocks(lambda c: 1 // 0, dtype=float,
                     meta=np.empty((0, 0))), OSError, "X: rows 0 to 699 cannot be read .*zero"),
    "masked in a dataset": (lambda: Dataset(np.ma.masked_array(X, np.arange(3500) == 3001)),
                            ValueError, r"row 600, column 1 \(counted from 0\) is masked"),
    "masked": (lambda: np.ma.masked_equal(N, N[2, 1]), TypeError, r"the one at \[2, 1\]"),
    "masked row": (lambda: [N[0], np.ma.masked_array(N[1], [0, 1])], TypeError, r"at \[1, 1\]"),
    "gradient": (lambda: Tensor(N, grad=True), TypeError, r"give X.detach\(\)$"),
    "cuda": (lambda: Tensor(N, device="cuda:0", grad=True), TypeError, r"X.detach\(\).cpu\(\)$"),
    "sparse tensor": (lambda: Tensor(N, layout="sparse_coo"), TypeError, r"give X.to_dense\(\)$"),
    "bfloat16": (lambda: Tensor(N, "torch.bfloat16"), TypeError, r"give X.float\(\)$"),
    "generator": (lambda: (row for row in N), TypeError, r"X is of type generator.*give list\(X\)"),
    "map": (lambda: map(list, N), TypeError, "can be read only once"),
    "dict": (lambda: {"a": [1]}, TypeError, r"column_stack\(list\(X.values\(\)\)\)"),
    "set": (lambda: {1, 2}, TypeError, "a set has no order"),
    "bytes": (lambda: b"x.npy", TypeError, "X is of type bytes"),
    "file": (lambda: io.BytesIO(b""), TypeError, "give the path of the file"),
    "object": (lambda: object(), TypeError, "X is of type object"),
    "module": (lambda: np, TypeError, "X is of type module"),
    "no name": (lambda: "1,2\n" * 5000, ValueError, "X is a text that names no file"),
    "array": (lambda: array.array("d", [1, 2]), ValueError, r"numpy.asarray\(X\)\[None, :\]"),
    "images": (lambda: X[None], ValueError, r"X.reshape\(len\(X\), -1\) makes"),
    "number": (lambda: np.array(2.0), ValueError, r"X.reshape\(1, 1\)"),
    "ragged": (lambda: [[1, 2], [3]], ValueError, "row 1 .* has 1 numbers and row 0 has 2"),
    "ragged arrays": (lambda: [N[0], N[1], N[2, :1]], ValueError, "row 2 .* has 1 numbers"),
    "uint64": (lambda: np.array([[1, 2**64 - 1]], np.uint64), ValueError,
               r"row 0, column 1 \(counted from 0\) is 18446744073709551615, which float64"),
    "int64": (lambda: np.array([[1], [-(2**53) - 1]]), ValueError, "row 1, column 0 .*-900719925"),
    "long double": (lambda: X.astype(np.longdouble), TypeError, r"X.astype\(float\) rounds"),
    "fields": (lambda: np.zeros(3, "i4,f8"), TypeError, "structured_to_unstructured"),
    "strings": (lambda: np.array([["1"]]), TypeError, r"X holds <U1.*X.astype\(float\)"),
    "missing in a list": (lambda: [[1, None]], TypeError, "X holds object"),
}  # fmt: skip


def dask_rows():
    return dask.array.from_array(X, chunks=(100, -1))


def damaged():
    x = sp.csr_array(N)
    x.indices[1] = 9
    return x


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind, monkeypatch):
    monkeypatch.setattr("ntk_numba.inputs.frames.CHUNK_BYTES", 4000)
    make, error, text = REFUSED[kind]
    with pytest.raises(error, match=text) as caught:
        open_source(make(), "X").check()
    assert isinstance(caught.value, nk.NtkNumbaError) and "\n" not in str(caught.value)
    with pytest.raises(error, match=text.replace("X", "Z") if "a text" not in text else "^Z"):
        open_source(make(), "Z").check()


def test_big_endian_floats_in_files(tmp_path):
    np.save(tmp_path / "x.npy", X.astype(">f4"))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = X.astype(">f4")
    for name in ("x.npy", "x.h5"):
        same(f"{tmp_path}/{name}", X32)


def test_results_are_the_same_bits(tmp_path):
    """A file that was written with the data in one container is accepted with another."""
    x = X[:40]
    frames = (FRAME[:40], POLARS[:40], sp.csr_array(x), dask_rows()[:40], Dataset(x))
    Dataset.shape = x.shape
    try:
        expected, cross = nk.gram(NET, x), nk.gram(NET, x, x[:7])
        nk.write_gram(NET, x, tmp_path / "g.h5").close()
        for other in frames:
            k = nk.gram(NET, other)
            assert (k.nngp == expected.nngp).all() and (k.ntk == expected.ntk).all()
            assert (nk.diagonal(NET, other).ntk == np.diagonal(expected.ntk)).all()
            nk.write_gram(NET, other, tmp_path / "g.h5").close()  # finds it complete
        for other in frames[:4]:
            assert (nk.gram(NET, x, other[:7]).ntk == cross.ntk).all()
        with pytest.raises(nk.NtkNumbaError, match="data"):
            nk.write_gram(NET, sp.csr_array(x + 1), tmp_path / "g.h5")
    finally:
        Dataset.shape = X.shape


def test_finite_networks_and_predictions_take_them():
    params = nk.finite_width.sample(NET, 5, 8)
    x, y = X[:6], np.arange(6.0)
    expected = nk.finite_width.train(params, x, y, 0.1, 2).loss
    for data, target in (
        (FRAME[:6], pd.Series(y)),
        (sp.csr_array(x), pd.Series(y, dtype="Int64")),
        (POLARS[:6], pl.Series(y)),
        (x, Tensor(y)),
        (x, dask.array.from_array(y[:, None])),
    ):
        assert (nk.finite_width.train(params, data, target, 0.1, 2).loss == expected).all()
        assert (nk.finite_width.empirical_ntk(params, data)
                == nk.finite_width.empirical_ntk(params, x)).all()  # fmt: skip
    ntk = nk.gram(NET, x).ntk
    flow = nk.gradient_flow(ntk, y, 0 * y, 1.0).outputs
    assert (
        nk.gradient_flow(pd.DataFrame(ntk), pd.Series(y), pl.Series(0 * y), 1.0)[0] == flow
    ).all()
    with pytest.raises(nk.NtkNumbaError, match=r"y: row 1, column 0 \('a', .* is missing"):
        nk.gradient_flow(ntk, pd.Series([1, pd.NA] * 3, dtype="Int64", name="a"), 0 * y, 1.0)
    with pytest.raises(nk.NtkNumbaError, match="f0 holds complex128"):
        nk.gradient_flow(ntk, y, y + 1j, 1.0)
    assert read_array(3, "y") == 3 and read_array(X32[0].astype(">f4"), "y").dtype == np.float32
