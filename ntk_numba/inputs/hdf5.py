"""Reader of data in HDF5 files: which dataset, where its links lead, and what it may hold."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ntk_numba.errors import (
    BusyFileError,
    FileError,
    InvalidTypeError,
    InvalidValueError,
    NtkNumbaError,
)
from ntk_numba.inputs.arrays import Opened, pick
from ntk_numba.inputs.bands import in_bands
from ntk_numba.inputs.links import (
    DAMAGE,
    LOCKED,
    Found,
    follow,
    names_of_arrays,
    open_read,
)
from ntk_numba.inputs.sparse import CompressedRows
from ntk_numba.inputs.stored import refuse_absent
from ntk_numba.inputs.unchanged import Stamp
from ntk_numba.opening import NO_LOCK, open_ordinary
from ntk_numba.terminal import escaped

MATLAB = b"MATLAB 7.3 MAT-file"  # the first bytes of a file that MATLAB saved with -v7.3


def open_hdf5(path: Path, key: str, most: int) -> Opened:
    """Open a dataset of an HDF5 file; its rows are read when needed, compressed ones in `bands`.

    MATLAB stores matrices by columns, so that HDF5 sees their transposes: the matrices of a file
    that MATLAB wrote are transposed back, with a warning that says so, and have the shape that they
    had in MATLAB.

    Raises
    ------
    ValueError
        If the file is not HDF5 or is truncated, if it lacks the key, or if some values of the
        dataset are not there.
    OSError
        If another process is writing the file, or a file that it refers to is missing.
    """
    try:
        file = open_read(path)
    except OSError as error:
        raise _not_opened(path, error) from None
    try:
        with _damage(str(path)):
            opened = open_group(file, str(path), key, "{}:key", external=False, most=most)
        name, transposed = f"{path}:{opened.key}", _by_matlab(path, opened.rows)
        rows, held = in_bands(opened.rows, name, most, transposed=transposed)
        if transposed:
            opened = opened._replace(rows=Transposed(rows) if rows is opened.rows else rows)
            shape = " × ".join(map(str, opened.rows.shape))
            name = escaped(f"{path}:{opened.key}")
            warnings.warn(
                f"{name} was written by MATLAB, which stores matrices by columns; it "
                f"is read as the matrix of {shape} that MATLAB shows, one sample per row",
                stacklevel=2,
            )
        else:
            opened = opened._replace(rows=rows)
        return opened._replace(held=held, close=file.close)
    except BaseException:
        file.close()
        raise


def _not_opened(path: Path, error: OSError) -> NtkNumbaError:
    """Return the error for a file that HDF5 cannot open."""
    text = str(error)
    if NO_LOCK in text and error.errno not in LOCKED:
        return FileError(
            f"{path} is on a file system without locks, and the variable HDF5_USE_FILE_LOCKING "
            f"demands them; unset it"
        )
    if isinstance(error, BlockingIOError) or NO_LOCK in text:
        return BusyFileError(
            f"{path} is open for writing in another process; wait until it is closed"
        )
    if "already open for" in text:
        return BusyFileError(
            f"{path} is open for writing (perhaps as SWMR), or its writer was killed; close it, or "
            f"run h5clear -s on it"
        )
    with open_ordinary(path) as raw:
        if raw.read(10) == b"MATLAB 5.0":
            return InvalidValueError(
                f"{path} is a MATLAB file of an older format; save it in MATLAB with -v7.3"
            )
    return InvalidValueError(f"{path} is no valid HDF5 file, perhaps truncated ({error})")


def open_group(
    group: h5py.Group,
    name: str,
    key: str = "",
    way: str = "{}['key']",
    *,
    most: int,
    external: bool = True,
) -> Opened:
    """Return the array `key` of a group or file or, without a key, its only one.

    name, way : the name of the group and the way to name an array in it, for errors
    most, external : see `stored.refuse_absent`

    Raises
    ------
    ValueError, OSError
        See `open_hdf5`.
    """
    with _damage(name):
        if not group:
            raise InvalidValueError(f"{name} belongs to a closed file; open it again")
        key = key.strip("/")
        if not key and _is_sparse(group):
            return _open_array(Found(group), name, "", external, most)
        found = follow(group, name, key) if key else None
        if found is None or not _is_array(found.item):
            names = names_of_arrays(group, name, _is_array)
            if not key and not names.complete:
                raise InvalidValueError(
                    f"{name} holds more groups and arrays than a search looks at; name the array: "
                    f"{way.format(name)}"
                )
            key = pick(Path(name), key, [k for k in names.paths if k != key], way)
            found = follow(group, name, key)
        assert found is not None
        return _open_array(found, f"{name}:{key}", key, external, most)


def _open_array(found: Found, name: str, key: str, external: bool, most: int) -> Opened:
    """Return the contents of a dataset or of a group that stores a sparse matrix."""
    item, files = found
    if not _is_sparse(item):
        files += checked_dataset(item, name, external=external, most=most)
        return Opened(item, key, files=files)
    kind = _text(item, "encoding-type") or _text(item, "h5sparse_format")
    if not kind.startswith("csr"):
        raise InvalidValueError(
            f"{name} is a sparse matrix that is stored by columns; store it by rows, as "
            f"scipy.sparse's tocsr() does"
        )
    parts = []
    for part in ("data", "indices", "indptr"):
        inside = follow(item, name, part)
        if inside is None or not isinstance(inside.item, h5py.Dataset):
            raise InvalidValueError(f"{name} is damaged: a sparse matrix without {part}")
        files += inside.files
        files += checked_dataset(inside.item, f"{name}: {part}", external=external, most=most)
        parts.append(inside.item)
    shape = np.asarray(item.attrs.get("shape", item.attrs.get("h5sparse_shape")))
    if shape.shape != (2,) or shape.dtype.kind not in "iu":
        raise InvalidValueError(f"{name} has no shape of two whole numbers")
    data, indices, indptr = parts
    rows = CompressedRows(name, data, indices, indptr, (int(shape[0]), int(shape[1])))
    return Opened(rows, key, files=files)


def checked_dataset(dataset: Any, name: str, *, external: bool, most: int) -> tuple[Stamp, ...]:
    """Check that a dataset holds numbers, all of them there; return the other files it is in.

    external, most : see `stored.refuse_absent`

    Raises
    ------
    ValueError, TypeError, OSError
        If it does not; see also `stored.refuse_absent`.
    """
    with _damage(name):
        if not dataset:
            raise InvalidValueError(f"{name} belongs to a closed file; open it again")
        if dataset.shape is None:
            raise InvalidValueError(f"{name} is an HDF5 dataset without data (h5py.Empty)")
        kind = dataset.id.get_type().get_class()
        try:
            dtype = dataset.dtype
        except TypeError:
            dtype = None
        what = {
            h5py.h5t.STRING: "strings",
            h5py.h5t.REFERENCE: "references",
            h5py.h5t.BITFIELD: "bit fields",
            h5py.h5t.OPAQUE: "opaque bytes",
            h5py.h5t.TIME: "times",
            h5py.h5t.VLEN: "rows of varying length",
            h5py.h5t.ARRAY: "an array in each entry",
            h5py.h5t.COMPOUND: "records with the fields "
            + ", ".join((dtype and dtype.names) or ()),
            h5py.h5t.ENUM: "an enumeration",
        }.get(kind)
        if what and dtype != np.bool_ and not _is_label(dtype):
            complex_ = dtype is not None and dtype.kind == "c"
            raise InvalidTypeError(
                f"{name} holds {dtype if complex_ else what}; real numbers are wanted: bool, "
                f"integers, float16, float32 or float64"
            )
        return refuse_absent(dataset, name, external=external, most=most)


def _is_label(dtype: Any) -> bool:
    """Return whether entries are strings, which may be labels; as data `Source` refuses them."""
    return dtype is not None and (dtype.kind == "S" or h5py.check_string_dtype(dtype) is not None)


def _is_sparse(found: Any) -> bool:
    """Return whether a group stores one sparse matrix, as AnnData, h5sparse or MATLAB do."""
    marks = ("h5sparse_format", "MATLAB_sparse")
    if not isinstance(found, h5py.Group):
        return False
    kind = _text(found, "encoding-type")
    return kind in ("csr_matrix", "csc_matrix") or any(m in found.attrs for m in marks)


def _text(item: Any, key: str) -> str:
    """Return an attribute that is one text, else "".

    Its type and shape are looked at first: where they are damaged, HDF5 may crash as it reads them.
    """
    if key not in item.attrs:
        return ""
    found = item.attrs.get_id(key)
    kind = found.get_type()
    if found.shape != () or kind.get_class() != h5py.h5t.STRING:
        return ""
    value = item.attrs[key]  # bytes if its length is fixed, as programs in R write it
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _is_array(item: Any) -> bool:
    """Return whether an item of a file is a dataset or stores a sparse matrix."""
    return isinstance(item, h5py.Dataset) or _is_sparse(item)


def _by_matlab(path: Path, rows: Any) -> bool:
    """Return whether MATLAB wrote a matrix."""
    if not isinstance(rows, h5py.Dataset) or rows.ndim != 2:
        return False
    with open_ordinary(path) as file:
        return file.read(len(MATLAB)) == MATLAB or "MATLAB_class" in rows.attrs


class Transposed:
    """The transpose of a dataset of two dimensions, read in runs of its rows."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset = dataset
        self.shape, self.dtype = dataset.shape[::-1], dataset.dtype

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        if isinstance(rows, slice):
            return self._dataset[:, rows].T
        return self._dataset[()].T[rows]


@contextlib.contextmanager
def _damage(name: str) -> Iterator[None]:
    """Name the file in errors that h5py raises where a file is damaged."""
    try:
        yield
    except NtkNumbaError:
        raise
    except DAMAGE as error:
        raise FileError(f"{name} is damaged: {error}") from None
