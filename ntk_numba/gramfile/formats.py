"""The formats of files of tiles: what the header of each says beside what all say.

`layout` writes and reads all of them in the same way. A format is a name, a version, a table of its
attributes, and two functions: one gives the values of the attributes, the other makes the contents
of them, after it has checked them.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic

import h5py
import numpy as np
import xxhash

from ntk_numba.arguments import KERNELS, parse_layers
from ntk_numba.digest import ROWS, SIZE, Digest
from ntk_numba.errors import InvalidValueError
from ntk_numba.gramfile import claims
from ntk_numba.gramfile.contents import (
    FACTOR,
    MOST_ROWS,
    AnyContents,
    Contents,
    FactorContents,
    Stored,
)
from ntk_numba.grid import Grid, parse_part

DIGESTS = "digests"  # the group of the digests of X and Z
LARGEST_NORM = "largest_norm"  # an optional attribute, see `Contents`
PROCESSOR = "processor"  # an optional attribute, see `Header`
LARGEST_FACTOR_TILE = 4096  # the edge of a tile of a factor
LARGEST_EXPONENT = 1100  # of a power of two by which a matrix is scaled, in magnitude

_BEFORE: dict[str, type] = {
    "format": str, "format_version": int, "package_version": str, "numerics": int,
}  # fmt: skip


@dataclass(frozen=True)
class Format(Generic[AnyContents]):
    """A format of files of tiles.

    name, version : what the attributes `format` and `format_version` say
    contents : the class of the contents
    what : a file of this format, for people
    written_by, opened_by : the command that writes one, and the function that opens one
    attributes : the attributes that all of its files have and that their seal covers, in their
        order, each with its type
    values : makes the values of those attributes that `layout` does not know
    add : writes what follows the attributes: optional ones, and datasets of a few bytes
    read : makes the contents of a file and its attributes, which are of their types
    """

    name: str
    version: int
    contents: type[AnyContents]
    what: str
    written_by: str
    opened_by: str
    attributes: Mapping[str, type]
    values: Callable[[Any], dict[str, Any]]
    add: Callable[[h5py.File, Any], None]
    read: Callable[[h5py.File, Mapping[str, Any]], AnyContents]

    def seal(self, attributes: Mapping[str, Any]) -> np.uint64:
        """Return the checksum of the attributes, since HDF5 has none for its strings."""
        text = json.dumps([str(attributes[key]) for key in self.attributes])
        return np.uint64(xxhash.xxh3_64_intdigest(text.encode()))


def _gram_values(c: Contents) -> dict[str, Any]:
    """Return what the attributes of a Gram file say of its network and its data."""
    return {
        "net": c.network,
        "columns": c.grid.columns,
        "features": c.x.shape[1],
        "input_digest": c.x.hex,
        "against_digest": c.z.hex if c.z else "",
        "layers": c.layers,
        "part": str(c.part or ""),
        "error": json.dumps(c.error),
    }


def _add_digests(file: h5py.File, c: Contents) -> None:
    """Write the largest norm of the data, and the digests of its blocks of rows."""
    if c.largest_norm is not None:
        file.attrs[LARGEST_NORM] = c.largest_norm
    group = file.create_group(DIGESTS)
    for name, digest in (("X", c.x), ("Z", c.z)):
        if digest:
            group.create_dataset(name, data=digest.table, track_times=False)


def _read_gram(file: h5py.File, values: Mapping[str, Any]) -> Contents:
    """Return the contents of a Gram file."""
    names = tuple(name for name in KERNELS if file.get(name, getlink=True) is not None)
    if not names:
        raise InvalidValueError("it holds no kernel")
    rows, columns, tile = claims.sizes(values)
    features = claims.between("features", values["features"])
    symmetric = not values["against_digest"]
    if symmetric and rows != columns:
        raise InvalidValueError(f"it is symmetric, but of {rows} × {columns} entries")
    largest_norm = None
    if LARGEST_NORM in file.attrs:
        largest_norm = claims.norm(claims.attribute(file, LARGEST_NORM, float))
    return Contents(
        network=claims.network(values["net"]),
        kernels=names,
        layers=parse_layers(values["layers"]),
        dtype=claims.dataset_type(file, names[0]),
        grid=Grid(rows, columns, symmetric, tile),
        part=parse_part(values["part"]) if values["part"] else None,
        x=_read_digest(file, "X", (rows, features), values["input_digest"]),
        z=None
        if symmetric
        else _read_digest(file, "Z", (columns, features), values["against_digest"]),
        error=claims.numbers("error", values["error"], 2),  # type: ignore[arg-type]
        largest_norm=largest_norm,
    )


def _read_digest(file: h5py.File, name: str, shape: tuple[int, int], hexes: str) -> Digest:
    """Return the stored digest of X or Z, if it is the one that the attributes state."""
    size = 1 + -(-shape[0] // ROWS), SIZE
    table = claims.dataset(claims.group(file, DIGESTS), name, np.uint8, size)
    digest = Digest.from_table(shape, table[:])
    if digest.hex != hexes:
        raise InvalidValueError(f"the digests of {name} have changed")
    return digest


def _factor_values(c: FactorContents) -> dict[str, Any]:
    """Return what the attributes of a factor say of the matrix that was factorised."""
    return {"matrix": c.matrix, "kernel": c.kernel, "ridge": c.ridge, "exponent": c.exponent}


def _read_factor(file: h5py.File, values: Mapping[str, Any]) -> FactorContents:
    """Return the contents of the file of a factor."""
    size = claims.between("rows", values["rows"], 1, MOST_ROWS)
    tile = claims.between("tile", values["tile"], 1, LARGEST_FACTOR_TILE)
    if not re.fullmatch("[0-9a-f]{16,128}", values["matrix"]):
        raise InvalidValueError("its attribute matrix is no digest")
    if values["kernel"] not in ("", *KERNELS):
        raise InvalidValueError("its attribute kernel names no kernel")
    if not 0 <= values["ridge"] < math.inf:
        raise InvalidValueError(f"its ridge is {values['ridge']}")
    most = LARGEST_EXPONENT
    return FactorContents.of(
        size,
        tile,
        claims.dataset_type(file, FACTOR),
        matrix=values["matrix"],
        kernel=values["kernel"],
        ridge=values["ridge"],
        exponent=claims.between("exponent", values["exponent"], -most, most),
    )


GRAM = Format(
    name="ntk_numba gram",
    version=4,
    contents=Contents,
    what="a Gram file",
    written_by="ntk-numba gram",
    opened_by="open_gram",
    attributes=_BEFORE
    | {
        "net": str, "rows": int, "columns": int, "features": int, "input_digest": str,
        "against_digest": str, "layers": str, "tile": int, "layout": str, "part": str,
        "linked": str, "error": str, "complete": bool,
    },
    values=_gram_values,
    add=_add_digests,
    read=_read_gram,
)  # fmt: skip

FACTOR_FILE = Format(
    name="ntk_numba factor",
    version=1,
    contents=FactorContents,
    what="a Cholesky factor",
    written_by="ntk-numba cholesky",
    opened_by="open_cholesky",
    attributes=_BEFORE
    | {
        "rows": int, "tile": int, "layout": str, "matrix": str, "kernel": str, "ridge": float,
        "exponent": int, "complete": bool,
    },
    values=_factor_values,
    add=lambda file, contents: None,
    read=_read_factor,
)  # fmt: skip

FORMATS: tuple[Format[Any], ...] = GRAM, FACTOR_FILE
# Files of this package that are no files of tiles, and the function that opens one
OTHERS = {"ntk_numba model": ("a model", "load_model")}


def format_of(contents: Stored) -> Format[Any]:
    """Return the format of a file with these contents."""
    return next(form for form in FORMATS if isinstance(contents, form.contents))


def other_format(name: str | None) -> str:
    """Return, for an error, what a file of another format is, and the function that opens it."""
    known = OTHERS | {form.name: (form.what, form.opened_by) for form in FORMATS}
    if name not in known:
        return ""
    what, opened_by = known[name]
    return f" (it is {what}: open it with ntk_numba.{opened_by})"
