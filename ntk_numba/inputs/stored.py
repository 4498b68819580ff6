"""Whether all values of an HDF5 dataset are really there.

HDF5 returns its fill value, usually 0, for what it cannot find: virtual datasets whose sources are
gone, chunks that were never written, external files that are too short. Such zeros would be taken
for data.

A dataset may also have its values in raw files ("external storage"), and name any file of the user,
such as a key or a password. These are read only if the user has opened the dataset himself.
"""

import contextlib
import importlib
import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ntk_numba import stopping
from ntk_numba.errors import InvalidValueError, MissingFileError
from ntk_numba.inputs.bands import refuse_large_chunks
from ntk_numba.inputs.links import candidates, follow, open_candidate
from ntk_numba.inputs.unchanged import Stamp, stamp

LOOKED_AT = 100_000  # chunks; of more, which would take a second, only the number is checked
MOST_NESTED = 16  # virtual datasets of virtual datasets
MOST_BOXES = 1_000_000  # pieces that a source has in a virtual dataset
MOST_PLACES = 50_000_000  # of a grid of all edges of these pieces
TOO_MANY = "a virtual dataset is scattered over too many pieces; copy it, numpy.save('x.npy', x[:])"

Seen = tuple[tuple[str, str], ...]


@dataclass
class _Look:
    """A look at a dataset and its sources.

    Attributes
    ----------
    name : str
        The name of the dataset, for errors.
    external : bool
        Whether raw files may be read.
    most : int
        The bytes that a compressed chunk may take.
    files : set of Stamp
        All files that were looked at, as they were before.
    whole : set of (file, dataset)
        The sources all of whose values are there.
    """

    name: str
    external: bool
    most: int
    files: set[Stamp] = field(default_factory=set)
    whole: set[tuple[str, str]] = field(default_factory=set)


def refuse_absent(
    dataset: h5py.Dataset, name: str, *, external: bool, most: int
) -> tuple[Stamp, ...]:
    """Check that all values of a dataset are stored; return the other files that they are in.

    Parameters
    ----------
    name : the name of the dataset, for errors
    external : whether the dataset, or a source of it, may have its values in raw files
    most : the bytes that a compressed chunk of it may take while it is unpacked

    Raises
    ------
    ValueError
        Values were never written, a virtual dataset has places without a source or refers to
        itself, a filter is missing, or values are in raw files that may not be read, or a
        compressed chunk is too large. Chunks that were never written are accepted if the dataset
        has a fill value of its own, which then says what they are.
    OSError
        A source of a virtual dataset or a file of raw data is missing.
    """
    look = _Look(name, external, most)
    _check(dataset, name, look)
    return tuple(look.files)


def _check(dataset: h5py.Dataset, name: str, look: _Look, seen: Seen = ()) -> None:
    """Do as `refuse_absent`.

    seen : the virtual datasets that led to this one: file and name
    """
    if not dataset.shape:
        return
    properties = dataset.id.get_create_plist()
    if dataset.is_virtual:  # without its sources it may have no rows
        _check_sources(dataset, name, look, seen)
        return
    if dataset.external and not look.external:
        raise InvalidValueError(
            f"{name} has its values in other files ({os.fsdecode(dataset.external[0][0])!r}, …), "
            f"which may be any of yours; if you trust the file, open it with h5py and give the "
            f"dataset, or copy the dataset with numpy.save('x.npy', dataset[:])"
        )
    if not dataset.size:
        return
    if dataset.external:
        _check_external(dataset, name, look)
        return
    _check_filters(properties, name)
    refuse_large_chunks(dataset, name, look.most)
    if not dataset.id.get_storage_size():
        raise InvalidValueError(f"{name} was created but never written; write its values first")
    own_fill = properties.fill_value_defined() == h5py.h5d.FILL_VALUE_USER_DEFINED
    if dataset.chunks:
        grid = [-(-n // k) for n, k in zip(dataset.shape, dataset.chunks, strict=True)]
        found, count = dataset.id.get_num_chunks(), math.prod(grid)
        first = _first_missing(dataset, grid) if count < LOOKED_AT else None
        if not own_fill and (found < count or first is not None):
            where = "" if first is None else f"; the first that was not begins in row {first}"
            raise InvalidValueError(
                f"{name}: {min(found, count)} of {count} chunks were written{where}; write the "
                f"rest, or give the dataset a fill value"
            )
    elif dataset.id.get_storage_size() > dataset.file.id.get_filesize():
        raise InvalidValueError(f"{name} is damaged: it is larger than its file")


def _first_missing(dataset: h5py.Dataset, grid: list[int]) -> int | None:
    """Return the row where the first chunk begins that is not at its place; None if all are."""
    there = np.zeros(grid, bool)

    def note(chunk: Any) -> None:
        there[tuple(a // k for a, k in zip(chunk.chunk_offset, dataset.chunks, strict=True))] = True

    with contextlib.suppress(AttributeError):  # an older HDF5 has no such call
        dataset.id.chunk_iter(note)
        if not there.all():
            return int(np.argwhere(~there)[0][0]) * int(dataset.chunks[0])
    return None


def _check_filters(properties: Any, name: str) -> None:
    """Raise ValueError if a filter that the data passed through is missing."""
    for k in range(properties.get_nfilters()):
        code, _, _, label = properties.get_filter(k)
        if not h5py.h5z.filter_avail(code):
            with contextlib.suppress(ImportError):  # its import makes more filters available
                importlib.import_module("hdf5plugin")
        if not h5py.h5z.filter_avail(code):
            raise InvalidValueError(
                f"{name} is compressed by filter {code} ({label.decode(errors='replace')}), which "
                f"this HDF5 does not have; install hdf5plugin, or save it with gzip or without "
                f"compression"
            )


def _check_external(dataset: h5py.Dataset, name: str, look: _Look) -> None:
    """Check that the files of raw data outside the HDF5 file hold all of the data."""
    prefix = os.environ.get("HDF5_EXTFILE_PREFIX")
    if prefix is None:
        prefix = os.fsdecode(dataset.id.get_access_plist().get_efile_prefix())
    origin = str(Path(dataset.file.filename).parent)
    folder = Path("" if prefix == "." else prefix.replace("${ORIGIN}", origin))
    left = dataset.size * dataset.dtype.itemsize
    for file_name, offset, size in dataset.external:
        path = folder / os.fsdecode(file_name)
        wanted = min(left, size)
        look.files.add(stamp(path))
        if not path.is_file():
            raise MissingFileError(f"{name} has its data in {path}, which is no file")
        if path.stat().st_size < offset + wanted:
            raise InvalidValueError(f"{name} has its data in {path}, which is too short")
        left -= wanted


def _check_sources(dataset: h5py.Dataset, name: str, look: _Look, seen: Seen) -> None:
    """Check that the sources of a virtual dataset together have all of it."""
    own = str(dataset.file.filename), str(dataset.name)
    if own in seen:
        raise InvalidValueError(f"{name} is a virtual dataset that refers to itself")
    if len(seen) == MOST_NESTED:
        raise InvalidValueError(f"{name} is a virtual dataset of too many others")
    corners = []
    for mapping in dataset.virtual_sources():
        numbered = _is_numbered(mapping.file_name) or _is_numbered(mapping.dset_name)
        for block in itertools.count():
            stopping.check()
            file_name = _substitute(mapping.file_name, block)
            dset_name = _substitute(mapping.dset_name, block)
            boxes = _boxes(mapping.vspace, dataset.shape, block if numbered else None)
            if numbered and not len(boxes):
                break
            with _source(dataset, name, file_name, dset_name, look) as source:
                what = f"{dset_name} in {source.file.filename}, a source of {look.name},"
                place = str(source.file.filename), str(source.name)
                if place not in look.whole:
                    _check(source, what, look, (*seen, own))
                    look.whole.add(place)
                boxes = _fitted(boxes, mapping, source, what)
            corners.append(boxes)
            if not numbered:
                break
        if numbered:
            _refuse_gap(dataset, name, mapping, block, look)
    covered = _covered(np.concatenate([np.zeros((0, 2, dataset.ndim), int), *corners]))
    if covered < dataset.size:
        raise InvalidValueError(
            f"{name} is a virtual dataset, and {dataset.size - covered:,} of its {dataset.size:,} "
            f"entries have no source; HDF5 would make them up"
        )


def _is_numbered(name: str) -> bool:
    """Return whether a name of a source is a pattern, in which %b stands for a number."""
    return "%b" in name.replace("%%", "")


def _substitute(name: str, block: int) -> str:
    """Return the name of a source with its number in place of %b, and % in place of %%."""
    return "%".join(piece.replace("%b", str(block)) for piece in name.split("%%"))


def _candidates(dataset: h5py.Dataset, file_name: str) -> Iterator[Path]:
    """Yield the paths at which HDF5 looks for the file of a source, in its order."""
    prefix = dataset.id.get_access_plist().get_virtual_prefix()
    return candidates(dataset.file, file_name, "HDF5_VDS_PREFIX", prefix)


@contextlib.contextmanager
def _source(
    dataset: h5py.Dataset, name: str, file_name: str, dset_name: str, look: _Look
) -> Iterator[h5py.Dataset]:
    """Open a source of a virtual dataset as HDF5 would; name it if it is missing."""
    source_of = f"{name} is a virtual dataset, and its source"
    with contextlib.ExitStack() as stack:
        if file_name == ".":
            file = dataset.file
        else:
            try:
                opened = open_candidate(_candidates(dataset, file_name))
            except InvalidValueError as error:
                raise InvalidValueError(f"{source_of} {error}") from None
            if opened is None:
                tried = next((p for p in _candidates(dataset, file_name) if p.exists()), None)
                why = f"{tried} cannot be opened" if tried else f"{file_name} does not exist"
                raise MissingFileError(f"{source_of} {why}; put it back where it was")
            file = stack.enter_context(opened[0])
            look.files.add(opened[1])
        found = follow(file, file.filename, dset_name.strip("/"))
        if found is None or not isinstance(found.item, h5py.Dataset):
            raise InvalidValueError(f"{source_of} {file.filename} has no dataset {dset_name!r}")
        look.files.update(found.files)
        yield found.item


def _refuse_gap(dataset: h5py.Dataset, name: str, mapping: Any, first: int, look: _Look) -> None:
    """Raise an error if numbered sources exist beyond `first`, the number that ends the dataset.

    HDF5 ends the dataset before the first number that is missing.
    """
    if not _is_numbered(mapping.file_name):
        return
    if not first:
        with _source(dataset, name, _substitute(mapping.file_name, 0), mapping.dset_name, look):
            return
    for path in _candidates(dataset, mapping.file_name):
        head, _, tail = (s.replace("%%", "%") for s in path.name.partition("%b"))
        if not path.parent.is_dir():
            continue
        for found in path.parent.iterdir():
            number = found.name[len(head) : len(found.name) - len(tail)]
            same = found.name.startswith(head) and found.name.endswith(tail)
            if same and number.isdecimal() and int(number) > first:
                raise MissingFileError(
                    f"{name} is a virtual dataset, and its source "
                    f"{_substitute(mapping.file_name, first)} does not exist, although "
                    f"{found.name} does; put it back where it was"
                )


def _boxes(space: Any, shape: tuple[int, ...], block: int | None) -> NDArray[np.int64]:
    """Return a selection as boxes within a shape: (boxes, 2, dimensions), first and end.

    block : choose only this block along a dimension of endlessly many; None for all of them
    """
    if space.get_select_type() == h5py.h5s.SEL_ALL:
        return np.array([[(0,) * len(shape), shape]])
    if space.get_select_type() != h5py.h5s.SEL_HYPERSLABS:
        return np.zeros((0, 2, len(shape)), np.int64)
    if not space.is_regular_hyperslab():
        boxes = np.array(space.get_select_hyper_blocklist(), np.int64)
        return boxes + np.array([[0], [1]])
    runs: list[NDArray[np.int64]] = []
    for start, stride, count, width, n in zip(*space.get_regular_hyperslab(), shape, strict=True):
        if block is not None and count == h5py.h5s.UNLIMITED:
            first = np.array([start + block * stride])
        else:
            count = min(count, max(0, -(-(n - start) // stride)))
            if count * math.prod(map(len, runs)) > MOST_BOXES:
                raise InvalidValueError(TOO_MANY)
            first = start + stride * np.arange(count)
        first = first[first < n]
        end = np.minimum(first + min(width, n), n)
        if stride == width and first.size:
            first, end = first[:1], end[-1:]
        runs.append(np.stack([first, end], -1))
    places = np.array(list(itertools.product(*runs)), np.int64).reshape(-1, len(shape), 2)
    return places.transpose(0, 2, 1)


def _fitted(
    boxes: NDArray[np.int64], mapping: Any, source: h5py.Dataset, what: str
) -> NDArray[np.int64]:
    """Return the boxes that a source fills, or raise ValueError if it has another shape.

    A source that can grow fills as many entries as it has.
    """
    wanted = int(np.prod(boxes[:, 1] - boxes[:, 0], axis=1).sum())
    if mapping.src_space.get_select_type() == h5py.h5s.SEL_ALL:
        there, fits = source.size, source.size == wanted
    else:
        if len(mapping.src_space.shape) != source.ndim:
            raise InvalidValueError(f"{what} has another shape than it had: {source.shape}")
        chosen = _boxes(mapping.src_space, source.shape, None)
        there = int(np.prod(np.maximum(chosen[:, 1] - chosen[:, 0], 0), axis=1).sum())
        fits = there == wanted and (chosen <= source.shape).all()
    if not fits:
        raise InvalidValueError(
            f"{what} has another shape than it had: {source.shape}, with {there:,} of {wanted:,} "
            f"entries"
        )
    return boxes


def _covered(boxes: NDArray[np.int64]) -> int:
    """Return the number of entries in at least one of some boxes."""
    edges = [np.unique(boxes[:, :, k]) for k in range(boxes.shape[2])]
    if math.prod(map(len, edges)) > MOST_PLACES:
        raise InvalidValueError(TOO_MANY)
    steps = np.zeros([len(e) for e in edges], np.int64)
    at = [np.searchsorted(e, boxes[:, :, k]) for k, e in enumerate(edges)]
    for ends in itertools.product((0, 1), repeat=len(edges)):
        places = tuple(a[:, end] for a, end in zip(at, ends, strict=True))
        np.add.at(steps, places, (-1) ** sum(ends))
    for axis in range(steps.ndim):
        steps = np.cumsum(steps, axis=axis)
    inside = steps[(slice(-1),) * steps.ndim] > 0
    for e in reversed(edges):
        inside = inside @ np.diff(e)
    return int(inside)
