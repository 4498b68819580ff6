"""What a file of tiles says of itself, checked before it is used.

`layout.read_header` reads every attribute and every dataset of a header through these functions. A
damaged or forged file may claim any type, shape and size. Types and sizes are looked at before
values are read, and what a file claims to hold has to fit into it and below the limits of
`contents`, so that no claim can make a reader allocate more memory than the file has bytes.
"""

import json
import math
import sys
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from ntk_numba.errors import InvalidValueError
from ntk_numba.gramfile.contents import DEEPEST, MOST_ROWS
from ntk_numba.grid import LARGEST_TILE

MOST = 2**53  # features and versions are smaller
MOST_ATTRIBUTES = 1000  # users may add some of their own
# Bytes of the longest text: of a network of `DEEPEST` layers, of the lists of parts of a link, of
# the names of some hundred processors, and of all others, which are short
LONGEST = {
    "net": 4 << 20, "linked": 4 << 20, "linked_checksums": 4 << 20, "processor": 4 << 10,
}  # fmt: skip
LONGEST_OTHER = 200
LARGEST_CHUNK = 64 << 20  # bytes of a chunk that HDF5 reads whole, since it is compressed

_WHAT = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
_KINDS = {
    str: h5py.h5t.STRING, int: h5py.h5t.INTEGER, float: h5py.h5t.FLOAT, bool: h5py.h5t.ENUM,
}  # fmt: skip


def attributes(file: h5py.File, kinds: Mapping[str, type]) -> dict[str, Any]:
    """Return the attributes that a header has, each of its kind."""
    count = h5py.h5a.get_num_attrs(file.id)
    if count > MOST_ATTRIBUTES:
        raise InvalidValueError(f"it has {count:,} attributes, more than {MOST_ATTRIBUTES:,}")
    return {key: attribute(file, key, kind) for key, kind in kinds.items()}


def attribute(file: h5py.File, key: str, kind: type, default: Any = None) -> Any:
    """Return an attribute, which must be one str, int, float or bool.

    default : returned if the file has no such attribute; None if it must have one

    Raises
    ------
    ValueError
        It is missing, is something else, or is a text that is too long or has characters that
        this package never writes, such as those that control a terminal.
    """
    if default is not None and key not in file.attrs:
        return default
    try:
        found = file.attrs.get_id(key)
    except KeyError:
        raise InvalidValueError(f"its attribute {key} is missing") from None
    wrong = InvalidValueError(f"its attribute {key} is not {_WHAT[kind]}")
    # of the type first: an array of any size may stand here, which would be read whole
    what, longest = found.get_type(), LONGEST.get(key, LONGEST_OTHER)
    single = found.get_space().get_simple_extent_type() == h5py.h5s.SCALAR
    if not single or what.get_class() != _KINDS[kind] or what.get_size() > longest:
        raise wrong
    try:
        value = file.attrs[key]
    except (TypeError, ValueError, UnicodeError):  # a number that NumPy does not have
        raise wrong from None
    if isinstance(value, np.bytes_):  # of a fixed length
        value = value.decode("ascii", "replace")
    if not isinstance(value, str if kind is str else np.generic):
        raise wrong
    if kind is str:
        refuse_long(key, str(value))
        if not (str(value).isascii() and str(value).isprintable()):
            raise InvalidValueError(f"its attribute {key} has characters that do not belong there")
    return kind(value)


def refuse_long(key: str, text: str) -> None:
    """Raise an error if a text is longer than a reader accepts."""
    longest = LONGEST.get(key, LONGEST_OTHER)
    if len(text.encode("utf-8", "surrogatepass")) > longest:
        raise InvalidValueError(f"its attribute {key} is longer than {longest:,} bytes")


def between(key: str, value: int, least: int = 1, most: int = MOST) -> int:
    """Return an attribute that is a whole number, if it is from `least` to `most`."""
    if not least <= value <= most:
        raise InvalidValueError(f"its attribute {key} is {value}, not from {least} to {most}")
    return value


def sizes(values: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return rows, columns and the edge of a tile, each within its limits."""
    rows, columns = (between(key, values[key], 1, MOST_ROWS) for key in ("rows", "columns"))
    return rows, columns, between("tile", values["tile"], 1, LARGEST_TILE)


def norm(value: float) -> float:
    """Return the largest norm of the data, if it can be one."""
    if not 0 <= value < math.inf:
        raise InvalidValueError(f"its largest norm is {value}")
    return value


def numbers(key: str, text: str, length: int) -> tuple[float, ...]:
    """Return the numbers of a list in JSON, which must be finite and not negative."""
    values = decoded(key, text)
    right = isinstance(values, list) and len(values) == length
    if not right or not all(_is_number(value) for value in values):
        raise InvalidValueError(f"its attribute {key} is not {length} numbers of at least 0")
    return tuple(float(value) for value in values)


def network(text: str) -> str:
    """Return the description of a network, if its lists have the length that its depth needs."""
    found = decoded("net", text)
    depth = found.get("depth") if isinstance(found, dict) else None
    if isinstance(depth, bool) or not isinstance(depth, int):
        raise InvalidValueError("its attribute net describes no network")
    if not 1 <= depth <= DEEPEST:
        raise InvalidValueError(f"its network has a depth that is not from 1 to {DEEPEST:,}")
    if unknown := sorted(set(found) - {"depth", "activation", "w_std", "b_std"}):
        raise InvalidValueError(f"its network has a {unknown[0][:40]!r}, which is unknown")
    for key, length in (("activation", depth - 1), ("w_std", depth), ("b_std", depth)):
        values = found.get(key)
        if not isinstance(values, list) or len(values) != length:
            raise InvalidValueError(f"its network of depth {depth} has not {length} of {key}")
        if not all(isinstance(v, str) if key == "activation" else _is_number(v) for v in values):
            raise InvalidValueError(f"its network has a {key} that cannot be")
    return text


def links(text: str) -> tuple[tuple[str, int], ...]:
    """Return the names and seals of the parts that a file refers to."""
    found = decoded("linked", text)
    pairs: list[Any] = found if isinstance(found, list) else [found]
    for pair in pairs:
        right = isinstance(pair, list) and len(pair) == 2 and type(pair[1]) is int
        if not right or not isinstance(pair[0], str) or not 0 <= pair[1] < 2**64:
            raise InvalidValueError("its attribute linked is no list of names and seals")
        if not pair[0] or "\0" in pair[0]:
            raise InvalidValueError("its attribute linked has a name that no file can have")
    return tuple((name, seal) for name, seal in pairs)


def decoded(key: str, text: str) -> Any:
    """Return what an attribute in JSON stands for.

    Raises
    ------
    ValueError
        It is no JSON, or has a key twice, of which readers take different ones.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise InvalidValueError("a key stands twice")
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise InvalidValueError(f"its attribute {key} is no JSON") from None


def _is_number(value: Any) -> bool:
    """Return whether a value of JSON is a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value <= sys.float_info.max


def group(file: h5py.Group, name: str) -> h5py.Group:
    """Return a group of this file, never one that a link leads to elsewhere."""
    found = _own(file, name)
    if not isinstance(found, h5py.Group):
        raise InvalidValueError(f"it has no group {name}")
    return found


def dataset_type(file: h5py.Group, name: str) -> np.dtype:
    """Return the dtype of a kernel's dataset, which is float32 or float64."""
    found = _own(file, name)
    dtype = _dtype(found) if isinstance(found, h5py.Dataset) else None
    if dtype not in (np.float32, np.float64):
        raise InvalidValueError(f"{name} does not hold float32 or float64")
    return dtype


def _own(group: h5py.Group, name: str) -> Any:
    """Return what this group has under a name; None if it has nothing, or a link to elsewhere."""
    return group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None


def _dtype(dataset: h5py.Dataset) -> np.dtype | None:
    """Return the dtype of a dataset; None if NumPy has no such type."""
    try:
        return np.dtype(dataset.dtype)
    except (TypeError, ValueError, AttributeError):
        return None


def dataset(
    group: h5py.Group, name: str, dtype: Any, shape: tuple[int, ...], *, stored: bool = True
) -> h5py.Dataset:
    """Return a dataset of this group, if it has this dtype and shape.

    stored : whether its values have to be in this file, uncompressed

    Raises
    ------
    ValueError
        It is missing, or is something else.
    """
    found = _own(group, name)
    if not isinstance(found, h5py.Dataset):
        raise InvalidValueError(f"it has no dataset {name}")
    if found.shape != shape or _dtype(found) != dtype:
        raise InvalidValueError(f"{name} is not {np.dtype(dtype)} of shape {shape}")
    if found.external:
        raise InvalidValueError(f"the values of {name} are outside the file")
    filters = found.id.get_create_plist().get_nfilters()
    size, chunk = (math.prod(n or ()) * found.dtype.itemsize for n in (shape, found.chunks))
    if filters and chunk > LARGEST_CHUNK:
        raise InvalidValueError(
            f"{name} is compressed in pieces of {chunk:,} bytes, which are read whole; repack it "
            f"with chunks of at most {LARGEST_CHUNK:,} bytes"
        )
    if stored and size > group.file.id.get_filesize():
        raise InvalidValueError(f"it is truncated: {name} has {size:,} bytes, more than the file")
    if stored and (found.is_virtual or filters or found.id.get_storage_size() < size):
        raise InvalidValueError(f"{name} is not stored as it was written (repacked?)")
    return found
