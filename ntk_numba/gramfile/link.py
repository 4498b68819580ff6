"""A small file whose datasets are those of the parts of a job, by virtual datasets of HDF5."""

import os
import re
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np

from ntk_numba.errors import FileError, InvalidValueError
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.contents import Contents, Header
from ntk_numba.gramfile.layout import (
    HDF5,
    link_mark,
    new_file,
    read_header,
)
from ntk_numba.gramfile.lease import Lease
from ntk_numba.gramfile.writer import check_folder, partial_of


def write_link(
    path: Path, contents: Contents, numerics: int, parts: list[Path], *, overwrite: bool
) -> None:
    """Write a file of the layout "lower" that refers to all parts of a job.

    What a plain program reads of a part that is not there is NaN; `open_gram` refuses the file.

    Raises
    ------
    ValueError
        The beginning of another file, unless it is to be overwritten.
    OSError
        A folder that cannot be written, or a file that another process writes.
    """
    check_folder(path)
    partial = partial_of(path)
    lease = Lease(partial)
    new = partial.with_name(f"{partial.name}.new")
    try:
        if not overwrite:
            refuse_beginning(path)
        linked = []
        slots = contents.storage.slots
        spaces = {}
        for part in parts:
            name = os.path.relpath(part.resolve(), path.parent.resolve())
            with HDF5(part) as file:
                header = read_header(file, part)
                linked.append((name, int(file.attrs["seal"])))
            spaces[name] = np.sort(slots[header.contents.storage.mask])
        disk.remove(new)
        with new_file(new, Header(contents, numerics, version("ntk_numba"), tuple(linked))) as file:
            for kernel in contents.kernels:
                _link(file, kernel, contents, spaces)
        fd = os.open(new, os.O_RDWR)
        try:
            disk.write_at(fd, link_mark(new), 0)
            disk.sync(fd)
        finally:
            os.close(fd)
        disk.remove(partial)
        disk.rename(new, path)
    except BaseException as error:
        disk.remove(new)
        if reason := re.search("error message = '(.*?)'", str(error)):  # within what HDF5 says
            raise FileError(f"{path} cannot be written: {reason[1]}") from None
        raise
    finally:
        lease.release()


def refuse_beginning(path: Path) -> None:
    """Refuse an output that another call has begun: it may have the only tiles of some parts."""
    partial = partial_of(path)
    if partial.exists():
        raise InvalidValueError(
            f"{partial} is the beginning of a file that is not linked. Choose another output, "
            f"delete it, or overwrite it"
        )


def _link(file: h5py.File, kernel: str, contents: Contents, spaces: dict[str, np.ndarray]) -> None:
    """A virtual dataset: of each part, runs of tiles that follow one another in both."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_fill_value(np.array(np.nan, contents.dtype))
    rest = contents.grid.chunk
    layers = (contents.matrices,) if contents.all_layers else ()
    for name, slots in spaces.items():
        file_name = os.fsencode(name).replace(b"%", b"%%")  # else they are patterns of HDF5
        source = h5py.h5s.create_simple((*layers, len(slots), *rest))
        target = h5py.h5s.create_simple(contents.stored)
        target.select_none()
        starts = np.flatnonzero(np.diff(slots, prepend=-2) != 1)
        for a, b in zip(starts, [*starts[1:], len(slots)], strict=True):
            origin, size = (int(slots[a]), 0, 0), (int(b - a), *rest)
            first = (0,) * len(layers)
            target.select_hyperslab(first + origin, layers + size, op=h5py.h5s.SELECT_OR)
        source.select_all()
        properties.set_virtual(target, file_name, kernel.encode(), source)
    space = h5py.h5s.create_simple(contents.stored)
    kind = h5py.h5t.py_create(contents.dtype, logical=True)
    h5py.h5d.create(file.id, kernel.encode(), kind, space, properties)
