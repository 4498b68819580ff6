"""All kinds of objects in memory that may stand for X: the table of them, by what they can do.

No library is imported for its objects: they are recognised by the attributes of their class.
"""

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from ntk_numba.errors import InvalidTypeError, InvalidValueError
from ntk_numba.inputs.arrays import Opened, matrix_shape, real_dtype, refuse_not_real, to_floats
from ntk_numba.inputs.bands import in_bands
from ntk_numba.inputs.chunks import Chunks
from ntk_numba.inputs.frames import ArrowTable, PandasFrame, PolarsFrame, open_frame
from ntk_numba.inputs.hdf5 import checked_dataset, open_group
from ntk_numba.inputs.sparse import CompressedRows
from ntk_numba.machine import available_memory


class Kind(NamedTuple):
    """A kind of objects.

    Attributes
    ----------
    fits : object → bool
        Returns whether an object is of this kind.
    open : (object, name) → Opened
        Opens an object; errors name it.
    """

    fits: Callable[[Any], bool]
    open: Callable[[Any, str], Opened]


def open_object(x: Any, name: str) -> Opened:
    """Open an object that stands for a matrix; the first of `KINDS` that fits opens it.

    Raises
    ------
    ValueError, TypeError
        If no matrix of numbers can be made of it.
    """
    return next(kind for kind in KINDS if kind.fits(x)).open(x, name)


def read_array(x: Any, name: str) -> NDArray[np.floating]:
    """Return real numbers of any shape, such as targets, as float32 or float64; none is rounded.

    x : anything that `open_object` takes; a series of a data frame has the shape (N,)

    Raises
    ------
    ValueError, TypeError
        If they are no real numbers, or if one is masked, missing, or not held by float64.
    """
    series = _has("to_frame")(x)
    rows = open_object(x.to_frame() if series else x, name).rows
    dtype, shape = np.dtype(rows.dtype), tuple(rows.shape)
    refuse_not_real(name, dtype, name)
    values = rows[: shape[0]] if shape else rows[()]
    floats = to_floats(name, values, real_dtype(dtype), (0,) * len(shape))
    return floats[:, 0] if series else floats


def _has(*attributes: str) -> Callable[[Any], bool]:
    """Return a test of whether the class of an object has all attributes.

    A data frame has its columns as attributes too, but its class has not.
    """
    return lambda x: all(hasattr(type(x), attribute) for attribute in attributes)


def _is_dataset(x: Any) -> bool:
    """Return whether rows of an object can be read as those of an HDF5 dataset are."""
    if not (isinstance(getattr(x, "shape", None), tuple) and hasattr(type(x), "__getitem__")):
        return False
    with contextlib.suppress(Exception):  # dtypes that are not NumPy's
        return np.dtype(x.dtype) is not None
    return False


def _open_masked(x: Any, name: str) -> Opened:
    """Open a masked array none of whose entries is masked."""
    mask = np.ma.getmaskarray(x)
    if mask.any():
        place = ", ".join(map(str, np.argwhere(mask)[0]))
        raise InvalidTypeError(
            f"{name} is a masked array, and a kernel needs every entry: the one at [{place}] "
            f"(row and column, counted from 0) is masked; fill it, or remove the row"
        )
    return Opened(x.data)


def _open_sparse(x: Any, name: str) -> Opened:
    """Open a sparse matrix or array of SciPy; it is copied if it is not of compressed rows."""
    shape = matrix_shape(name, x.shape, f"{name}.toarray()")
    refuse_not_real(name, x.dtype, name)
    rows = x.tocsr()
    held = 0 if rows is x else rows.data.nbytes + rows.indices.nbytes + rows.indptr.nbytes
    return Opened(CompressedRows(name, rows.data, rows.indices, rows.indptr, shape), held=held)


def _open_series(x: Any, name: str) -> Opened:
    """Refuse a series."""
    return Opened(np.empty(matrix_shape(name, x.shape, f"{name}.to_numpy()")))


def _open_lazy_frame(x: Any, name: str) -> Opened:
    """Compute a LazyFrame of polars."""
    frame = x.collect()
    opened = open_frame(name, PolarsFrame(frame))
    return opened._replace(held=opened.held + int(frame.estimated_size()))


def _refuse_dask_frame(x: Any, name: str) -> Opened:
    """Refuse a dask DataFrame, which does not know its length."""
    raise InvalidTypeError(
        f"{name} is a {_type(x)}, which does not know its length; give "
        f"{name}.to_dask_array(lengths=True)"
    )


def _dense(chunk: Any, name: str) -> NDArray[Any]:
    """Return a chunk of a dask array, which may be of another library, as an array."""
    if isinstance(chunk, np.ndarray):
        return chunk
    if _has("tocsr")(chunk):
        raise InvalidTypeError(
            f"{name} is a dask array of sparse chunks; give "
            f"{name}.map_blocks(lambda chunk: chunk.toarray())"
        )
    return np.asarray(open_object(chunk, name).rows)


def _open_dask(x: Any, name: str) -> Opened:
    """Open a dask array, or a DataArray of xarray, which may hold one."""
    if x.chunks is None:
        return Opened(x)
    array = x.data if _has("dims")(x) else x
    if any(n != n for n in array.shape):
        raise InvalidValueError(
            f"{name} is a dask array whose chunks have unknown sizes; call "
            f"{name}.compute_chunk_sizes() first"
        )
    ends = np.cumsum(array.chunks[0], dtype=int).tolist() if array.shape else []

    def load(start: int, stop: int) -> NDArray[Any]:
        return _dense(array[start:stop].compute(), name)

    chunks = Chunks(array.shape, np.dtype(array.dtype), ends, load)
    return Opened(chunks, held=chunks.nbytes)


# What a tensor of PyTorch needs before NumPy takes it: (the method, whether it is needed).
_TENSOR = (
    ("detach", lambda x: x.requires_grad),
    ("cpu", lambda x: str(x.device) != "cpu"),
    ("to_dense", lambda x: "strided" not in str(getattr(x, "layout", "strided"))),
    ("float", lambda x: str(x.dtype) == "torch.bfloat16"),
)


def _open_tensor(x: Any, name: str) -> Opened:
    """Open a tensor of PyTorch that NumPy takes as it is."""
    calls = "".join(f".{method}()" for method, needed in _TENSOR if needed(x))
    if calls:
        raise InvalidTypeError(f"{name} is a {_type(x)} that NumPy cannot take; give {name}{calls}")
    return _open_other(x, name)


def _open_exported(x: Any, name: str) -> Opened:
    """Open an array that is exported by DLPack only."""
    try:
        return Opened(np.from_dlpack(x))
    except Exception as error:  # each library has its own
        raise _refusal(x, name, str(error)) from None


# Objects that hold no matrix, and what their users may have meant.
_MEANT = (
    (io.IOBase, "give the path of the file"),
    (type(None), "give an array of numbers, a data frame, or the path of a file"),
    (Mapping, "give numpy.column_stack(list({0}.values())), with a feature in each value"),
    (Set, "a set has no order; give a list of samples"),
    (Iterator, "it can be read only once; give list({0})"),
    (bytes, "give numpy.frombuffer({0}, dtype).reshape(rows, columns), or a path as a str"),
)


def _open_other(x: Any, name: str) -> Opened:
    """Let NumPy convert an object, such as a list of lists, or an array of another library."""
    meant = next((text for kind, text in _MEANT if isinstance(x, kind)), None)
    if meant:
        raise _refusal(x, name, meant.format(name))
    if isinstance(x, list | tuple) and any(np.ma.is_masked(row) for row in x):
        return _open_masked(np.ma.array(x), name)
    try:
        array = np.asarray(x)
    except Exception as error:  # each library has its own
        lengths = [np.size(row) for row in x] if _is_ragged(x) else []
        if len(set(lengths)) > 1:
            row = next(i for i, length in enumerate(lengths) if length != lengths[0])
            raise InvalidValueError(
                f"{name} is no matrix: row {row} (counted from 0) has {lengths[row]} numbers and "
                f"row 0 has {lengths[0]}"
            ) from None
        if isinstance(error, ValueError):
            raise InvalidValueError(f"{name} is no matrix: {error}") from None
        raise _refusal(x, name, str(error)) from None
    if array.shape == () and array.dtype == object:
        raise _refusal(x, name, "give an array of numbers, a data frame, or the path of a file")
    return Opened(array, held=0 if np.may_share_memory(array, x) else array.nbytes)


def _is_ragged(x: Any) -> bool:
    """Return whether an object is a sequence of sequences of numbers."""
    return isinstance(x, list | tuple) and all(
        isinstance(row, list | tuple | np.ndarray) and not any(map(np.ndim, row)) for row in x
    )


def _refusal(x: Any, name: str, why: str) -> InvalidTypeError:
    """Return the error for an object that is no matrix."""
    what = "None" if x is None else f"of type {_type(x)}, which is no matrix of numbers"
    return InvalidTypeError(f"{name} is {what}: {(why.splitlines() or ['it cannot be read'])[0]}")


def _type(x: Any) -> str:
    """Return the name of an object's type, with the library that it is from."""
    library = type(x).__module__.partition(".")[0]
    return type(x).__qualname__ if library == "builtins" else f"{library}.{type(x).__qualname__}"


def _open_dataset(x: Any, name: str) -> Opened:
    """Open an HDF5 dataset all of whose values are there."""
    files = checked_dataset(x, name, external=True, most=available_memory())
    return _banded(Opened(x, files=files), name)


def _open_group(x: Any, name: str) -> Opened:
    """Open the only array of an HDF5 group."""
    return _banded(open_group(x, name, most=available_memory()), name)


def _banded(opened: Opened, name: str) -> Opened:
    """Read a compressed dataset in bands."""
    rows, held = in_bands(opened.rows, name, available_memory())
    return opened._replace(rows=rows, held=held)


def _refuse_empty(x: Any, name: str) -> Opened:
    """Refuse an HDF5 dataset without data."""
    raise InvalidValueError(f"{name} is an HDF5 dataset without data (h5py.Empty)")


def _opened(x: Any, _: str) -> Opened:
    """Open an array or a dataset as it is."""
    return Opened(x)


KINDS = (
    Kind(np.ma.isMA, _open_masked),
    Kind(lambda x: isinstance(x, np.ndarray), _opened),
    Kind(lambda x: isinstance(x, h5py.Dataset), _open_dataset),
    Kind(lambda x: isinstance(x, h5py.Group), _open_group),  # a mapping too
    Kind(lambda x: isinstance(x, h5py.Empty), _refuse_empty),
    Kind(_has("tocsr"), _open_sparse),  # a matrix of the form DOK is a mapping too
    Kind(lambda x: isinstance(x, Mapping), _open_other),
    Kind(_has("to_dask_array"), _refuse_dask_frame),
    Kind(_has("to_frame"), _open_series),
    Kind(_has("collect", "collect_schema"), _open_lazy_frame),
    Kind(_has("iloc", "dtypes"), lambda x, name: open_frame(name, PandasFrame(x))),
    Kind(_has("to_series", "get_columns"), lambda x, name: open_frame(name, PolarsFrame(x))),
    Kind(_has("column_names", "num_rows"), lambda x, name: open_frame(name, ArrowTable(x))),
    Kind(_has("compute", "chunks"), _open_dask),
    Kind(_has("requires_grad", "detach"), _open_tensor),
    Kind(_has("__array_interface__"), _open_other),
    Kind(lambda x: _has("__dlpack__")(x) and not _has("__array__")(x), _open_exported),
    Kind(lambda x: not _has("__dlpack__")(x) and _is_dataset(x), _opened),
    Kind(lambda x: True, _open_other),
)
"""The kinds of objects, the first of which that fits is taken."""
