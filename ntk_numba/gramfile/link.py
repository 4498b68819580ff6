"""Writing a small file that links the parts of a job.

`merge(..., link=True)` calls it instead of copying tiles. Its datasets are virtual datasets of
HDF5, by which other programs read it. They do not notice a part that was replaced, so this package
reads the parts itself (see `parts`) and compares them with what is recorded here.
"""

import contextlib
import json
import os
import re
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np

from ntk_numba.errors import FileError, InvalidValueError
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.contents import Contents, Header, processors_of
from ntk_numba.gramfile.layout import HDF5, link_mark, new_file, read_header
from ntk_numba.gramfile.lease import Lease, held
from ntk_numba.gramfile.parts import FINGERPRINTS, fingerprint, read_checksums
from ntk_numba.gramfile.place import NEW, beside, check_folder, keep_mode, partial_of
from ntk_numba.opening import is_at


def write_link(
    path: Path, contents: Contents, numerics: int, parts: list[Path], *, overwrite: bool
) -> None:
    """Write a file of the layout "lower" that refers to all parts of a job.

    If a part is missing, other programs read its entries as NaN, and `open_gram` raises an error.

    Raises
    ------
    ValueError
        An unfinished file is in the way, and `overwrite` is False; or a part is of another job.
    OSError
        The folder cannot be written, or another process writes the file or repairs a part.
    """
    check_folder(path)
    partial = partial_of(path)
    lease = Lease(path)
    new = beside(path, NEW)
    try:
        if not overwrite:
            refuse_unfinished(path)
        linked, prints, headers = [], [], []
        slots, slots_of_parts = contents.storage.slots, {}
        for part in parts:
            name = os.path.relpath(part.resolve(), path.parent.resolve())
            with held(part.resolve()), HDF5(part) as file:
                header = read_header(file, part)
                if not contents.same_job(header.contents):
                    raise InvalidValueError(f"{part} has been replaced by a file of another job")
                prints.append(fingerprint(header.contents, read_checksums(file, header.contents)))
                linked.append((name, int(file.attrs["seal"])))
            headers.append(header)
            slots_of_parts[name] = np.sort(slots[header.contents.storage.mask])
        disk.remove(new)
        processor = processors_of(headers)
        header = Header(contents, numerics, version("ntk_numba"), processor, tuple(linked))
        fd = disk.create(new)
        try:
            keep_mode(fd, path)
            with new_file(fd, header) as file:
                file.attrs[FINGERPRINTS] = json.dumps(prints)
                for kernel in contents.kernels:
                    _link(file, kernel, contents, slots_of_parts)
            disk.write_at(fd, link_mark(fd), 0)
            disk.sync(fd)
            lease.check()
            if not is_at(fd, new):
                raise FileError(f"{new} was replaced by another process; is the folder safe?")
            with contextlib.suppress(FileNotFoundError):
                disk.set_mode(fd, path.stat())
        finally:
            os.close(fd)
        disk.remove(partial)
        disk.rename(new, path)
    except BaseException as error:
        disk.remove(new)
        # HDF5's message contains that of the system
        if reason := re.search("error message = '(.*?)'", str(error)):
            raise FileError(f"{path} cannot be written: {reason[1]}") from None
        raise
    finally:
        lease.release()


def refuse_unfinished(path: Path) -> None:
    """Raise ValueError if an unfinished output exists: it may hold the tiles of deleted parts."""
    partial = partial_of(path)
    if partial.exists():
        raise InvalidValueError(
            f"{partial} is the beginning of a file that is not linked. Choose another output, "
            f"delete it, or overwrite it"
        )


def _link(
    file: h5py.File, kernel: str, contents: Contents, slots_of_parts: dict[str, np.ndarray]
) -> None:
    """Create a virtual dataset, from runs of tiles that are adjacent in a part and in the whole.

    slots_of_parts : by file name, the slots in the whole of the tiles of a part, sorted
    """
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_fill_value(np.array(np.nan, contents.dtype))
    properties.set_obj_track_times(False)  # the same parts give the same bytes
    chunk = contents.grid.chunk
    layers = (contents.matrices,) if contents.all_layers else ()
    for name, slots in slots_of_parts.items():
        file_name = os.fsencode(name).replace(b"%", b"%%")  # HDF5 takes a single % for a pattern
        source = h5py.h5s.create_simple((*layers, len(slots), *chunk))
        target = h5py.h5s.create_simple(contents.stored_shape)
        target.select_none()
        starts = np.flatnonzero(np.diff(slots, prepend=-2) != 1)
        for a, b in zip(starts, [*starts[1:], len(slots)], strict=True):
            origin, size = (int(slots[a]), 0, 0), (int(b - a), *chunk)
            first = (0,) * len(layers)
            target.select_hyperslab(first + origin, layers + size, op=h5py.h5s.SELECT_OR)
        source.select_all()
        properties.set_virtual(target, file_name, kernel.encode(), source)
    space = h5py.h5s.create_simple(contents.stored_shape)
    hdf5_type = h5py.h5t.py_create(contents.dtype, logical=True)
    h5py.h5d.create(file.id, kernel.encode(), hdf5_type, space, properties)
