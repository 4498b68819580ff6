import numpy as np
import pytest
import scipy.sparse

from ntk_numba.inputs.sparse import CompressedRows

DENSE = np.where(np.random.default_rng(0).random((40, 7)) < 0.3, 1.0, 0.0)
DENSE *= np.random.default_rng(1).standard_normal(DENSE.shape)
CSR = scipy.sparse.csr_array(DENSE)


def rows_of(data=CSR.data, indices=CSR.indices, indptr=CSR.indptr, shape=CSR.shape):
    return CompressedRows("x", data, indices, indptr, shape)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int8, bool, ">f8"])
def test_runs_of_rows_are_those_of_the_dense_matrix(dtype):
    rows = rows_of(CSR.data.astype(dtype))
    expected = np.zeros(CSR.shape, dtype)
    for i in range(40):
        for k in range(CSR.indptr[i], CSR.indptr[i + 1]):
            expected[i, CSR.indices[k]] = CSR.data[k]
    assert rows.shape == (40, 7) and rows.dtype == dtype
    for start, stop in ((0, 40), (3, 5), (39, 40), (5, 5)):
        block = rows[start:stop]
        assert block.dtype == dtype and (block == expected[start:stop]).all()


def test_entries_in_any_order_and_of_the_same_place():
    """SciPy adds entries of the same place."""
    data, indices, indptr = np.array([1.0, 2.0, 4.0, 8.0]), np.array([2, 0, 2, 1]), [0, 3, 4]
    rows = rows_of(data, indices, np.array(indptr), (2, 3))
    assert rows[0:2].tolist() == [[2, 0, 5], [0, 8, 0]]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"shape": (41, 7)}, r"indptr has shape \(41,\), not \(42,\) for 41 rows"),
        ({"shape": (-1, 7)}, r"its shape is \(-1, 7\)"),
        ({"data": CSR.data[:-1]}, "data has shape"),
        ({"data": CSR.data[:-1], "indices": CSR.indices[:-1]}, "indptr ends at"),
        ({"indptr": CSR.indptr[::-1]}, "decreases"),
        ({"indptr": CSR.indptr - 1}, "negative"),
        ({"indptr": CSR.indptr.astype(float)}, "are not whole numbers"),
    ],
)
def test_arrays_that_do_not_fit_together(change, text):
    with pytest.raises((ValueError, TypeError), match=f"^x is .*{text}"):
        rows_of(**change)


@pytest.mark.parametrize("column", [-1, 7, 2**40])
def test_a_column_that_does_not_exist(column):
    indices = CSR.indices.astype(np.int64)
    indices[CSR.indptr[20]] = column
    rows = rows_of(indices=indices)
    assert (rows[:20] == DENSE[:20]).all()
    with pytest.raises(ValueError, match=rf"row 20 has an entry in column {column} of 7"):
        rows[18:25]
