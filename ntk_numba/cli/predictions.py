"""Files of predictions: one array in .npy, arrays by their names in .npz, columns in .csv."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.errors import InvalidValueError
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.whole import check_output, written_whole

ENDINGS = (".npy", ".npz", ".csv")


class Column(NamedTuple):
    """Predictions of one kind, (M,) or (M, K), and the names of their columns in a .csv file."""

    values: NDArray[Any]
    names: Sequence[str]


def check_outputs(path: str, *, std: bool, overwrite: bool) -> list[Path]:
    """Return the files of predictions, or raise an error if they cannot be written.

    std : whether standard deviations are written too
    """
    found = [check_output(path, overwrite=overwrite)]
    if _ending(path) not in ENDINGS:
        raise InvalidValueError(f"{path}: its ending must be one of {', '.join(ENDINGS)}")
    if std and _ending(path) == ".npy":
        found.append(check_output(std_path(path), overwrite=overwrite))
    return found


def std_path(path: str) -> Path:
    """Return the file of the standard deviations that belong to a .npy file: ``out.std.npy``."""
    return Path(path).with_suffix(".std.npy")


def write_predictions(path: str, columns: Mapping[str, Column], *, overwrite: bool) -> None:
    """Write predictions to a file; with .npy, standard deviations (``std``) to another one.

    Each file appears when it is complete. That of the standard deviations is written first, so that
    they are there if the predictions are.
    """
    ending = _ending(path)
    if ending == ".npz":
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {name: column.values for name, column in columns.items()}
        np.savez(buffer, **arrays)
        _write(path, buffer.getvalue(), overwrite=overwrite)
    elif ending == ".csv":
        _write(path, _table(columns), overwrite=overwrite)
    else:
        for name, column in reversed(list(columns.items())):
            buffer = io.BytesIO()
            np.save(buffer, column.values)
            where = std_path(path) if name == "std" else path
            _write(where, buffer.getvalue(), overwrite=overwrite)


def _ending(path: str) -> str:
    return Path(path).suffix.lower()


def _table(columns: Mapping[str, Column]) -> bytes:
    """Return the text of a .csv file; numbers have as many digits as they need."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([name for column in columns.values() for name in column.names])
    parts = [np.atleast_2d(column.values.T).tolist() for column in columns.values()]
    writer.writerows(zip(*(cells for part in parts for cells in part), strict=True))
    return text.getvalue().encode("utf-8", "surrogateescape")


def _write(path: str | os.PathLike[str], data: bytes, *, overwrite: bool) -> None:
    with written_whole(path, len(data), overwrite=overwrite) as fd:
        disk.write_at(fd, data, 0)
