"""What a Gram file says of itself, checked before it is used.

`layout.read_header` reads every attribute and every dataset of a header through these functions. A
damaged or forged file may claim any type, shape and size. What it claims to hold has to fit into
it, so that no claim can make a reader allocate more memory than the file has bytes.
"""

import json
import math
from typing import Any

import h5py
import numpy as np

from ntk_numba.errors import InvalidValueError
from ntk_numba.grid import LARGEST_TILE

MOST = 2**53  # rows, columns, layers and versions are smaller


def attribute(file: h5py.File, key: str, kind: type, default: Any = None) -> Any:
    """Return an attribute, which must be one str, int or float.

    default : returned if the file has no such attribute; None if it must have one

    Raises
    ------
    ValueError
        It is missing, or is something else.
    """
    if default is not None and key not in file.attrs:
        return default
    try:
        found = file.attrs.get_id(key)
    except KeyError:
        raise InvalidValueError(f"its attribute {key} is missing") from None
    what = {str: "a text", int: "a whole number", float: "a number"}[kind]
    kinds = {str: (h5py.h5t.STRING,), int: (h5py.h5t.INTEGER,), float: (h5py.h5t.FLOAT,)}[kind]
    # of the type first: an array of any size may stand here, which would be read whole
    if found.shape != () or found.get_type().get_class() not in kinds:
        raise InvalidValueError(f"its attribute {key} is not {what}")
    value = file.attrs[key]
    if kind is str and not isinstance(value, str):
        raise InvalidValueError(f"its attribute {key} is not {what}")
    return kind(value)


def count(file: h5py.File, key: str, least: int = 1, most: int = MOST) -> int:
    """Return an attribute that is a whole number from `least` to `most`."""
    value = int(attribute(file, key, int))
    if not least <= value <= most:
        raise InvalidValueError(f"its attribute {key} is {value}, not from {least} to {most}")
    return value


def tile_edge(file: h5py.File) -> int:
    """Return the edge of a tile."""
    return count(file, "tile", 1, LARGEST_TILE)


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
    if depth < 1:
        raise InvalidValueError(f"its network has depth {depth}")
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
        right = isinstance(pair, list) and len(pair) == 2
        if not right or not isinstance(pair[0], str) or type(pair[1]) is not int:
            raise InvalidValueError("its attribute linked is no list of names and seals")
        if not pair[0] or "\0" in pair[0]:
            raise InvalidValueError("its attribute linked has a name that no file can have")
    return tuple((name, seal) for name, seal in pairs)


def decoded(key: str, text: str) -> Any:
    """Return what an attribute in JSON stands for."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidValueError(f"its attribute {key} is no JSON") from None


def _is_number(value: Any) -> bool:
    """Return whether a value of JSON is a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value < math.inf


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
    link = group.get(name, getlink=True)
    found = group[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(found, h5py.Dataset):
        raise InvalidValueError(f"it has no dataset {name}")
    if found.shape != shape or found.dtype != dtype:
        raise InvalidValueError(f"{name} is not {np.dtype(dtype)} of shape {shape}")
    if found.external:
        raise InvalidValueError(f"the values of {name} are outside the file")
    size = math.prod(shape) * found.dtype.itemsize
    if stored and size > group.file.id.get_filesize():
        raise InvalidValueError(f"it is truncated: {name} has {size:,} bytes, more than the file")
    if stored and (found.is_virtual or found.id.get_storage_size() < size):
        raise InvalidValueError(f"{name} is not stored as it was written (repacked?)")
    return found
