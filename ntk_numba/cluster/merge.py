"""Parts of a job put together: copied into one file, or linked by one.

A merge believes nothing either: each tile is compared with its checksum on its way, and what was
merged goes on from where it was, as a job does.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ntk_numba import stopping
from ntk_numba.arguments import Layout, Policy
from ntk_numba.cluster.cover import (
    Cover,
    find_parts,
    show_indices,
)
from ntk_numba.errors import FileError, InvalidTypeError, InvalidValueError
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.contents import Contents, Header
from ntk_numba.gramfile.link import refuse_beginning, write_link
from ntk_numba.gramfile.reader import GramFile, existing, open_gram
from ntk_numba.gramfile.storage import parse_layout
from ntk_numba.gramfile.tiles import Place, Tile, TileFile
from ntk_numba.gramfile.writer import GramWriter, output_path
from ntk_numba.grid import Part

COMMIT_BYTES = 256 << 20  # between two times that what was copied is made durable


def merge(
    parts: Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    layout: Layout = "full",
    link: bool = False,
    delete_parts: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> GramFile:
    """Put the parts of a job together: the file is what one job would have written, bit for bit.

    Every tile is compared with its checksum on its way. If it is stopped, the same call goes on.

    Parameters
    ----------
    parts : the files, in any order
    path : the file to write
    layout : str
        "full", or "lower" for the tiles on and below the diagonal only: half of the bytes, and
        ``f.ntk[i, j]`` answers everywhere all the same.
    link : bool
        Write a small file, of the layout "lower", that refers to the parts, which have to stay
        where they are, seen from it. It refuses to be opened when one is missing or another.
    delete_parts : bool
        Delete each part as soon as its tiles are safe in the new file, which then takes its space
        bit by bit and not at the start.
    overwrite, progress : see `write_gram`

    Returns
    -------
    GramFile
        Open for reading.

    Raises
    ------
    ValueError
        Parts that are missing, unfinished, given twice, damaged, or of different jobs, data or
        versions; the text names each, and what to compute again. What is merged is kept.
    OSError
        See `write_gram`.
    StoppedError
        An OSError: the disk failed. What is merged is kept.
    """
    parse_layout(layout, True)
    target = output_path(path)
    if link and delete_parts:
        raise InvalidValueError(
            "a linked file needs its parts: link and delete_parts exclude each other"
        )
    if isinstance(parts, str | os.PathLike):
        raise InvalidTypeError(f"parts must be a list of files, not one: {parts!r}")
    given = [Path(part) for part in parts]
    if target.exists() and any(part.exists() and part.samefile(target) for part in given):
        raise InvalidValueError(f"{target} is one of the parts; choose another output")
    policy = Policy(overwrite, progress)
    if link and not overwrite:
        refuse_beginning(target)
    found = find_parts(given, target, layout=layout, link=link, overwrite=overwrite)
    assert found.contents is not None
    contents = found.contents
    stored = parse_layout("lower" if link else layout, contents.grid.symmetric)
    contents = replace(contents, part=stored)
    if target.exists() and not overwrite:
        file = _merged_before(target, contents, found.numerics, link)
    elif link:
        paths = list(found.paths.values())
        write_link(target, contents, found.numerics, paths, overwrite=overwrite)
        file = open_gram(target)
    else:
        try:
            with stopping.gently():
                _copy_all(found, target, contents, policy, delete=delete_parts)
            file = open_gram(target)
        except FileExistsError:  # another merge has completed it since we looked
            file = _merged_before(target, contents, found.numerics, link)
    if delete_parts:
        for part in found.paths.values():
            _delete(part)
    return file


def _merged_before(target: Path, contents: Contents, numerics: int, link: bool) -> GramFile:
    """The complete file that is there; its parts are needed no more if it has tiles of its own."""
    file, what = existing(target, contents), ""
    if file.linked and not link:
        what = "refers to the parts and holds no tiles"
    elif file.numerics != numerics:
        what = f"is of numerical version {file.numerics}, the parts of {numerics}"
    if what:
        file.close()
        raise InvalidValueError(f"{target} {what}. Choose another output, or overwrite it")
    return file


def _copy_all(
    found: Cover, target: Path, contents: Contents, policy: Policy, *, delete: bool
) -> None:
    """Copy all tiles that are not there yet, and delete the parts meanwhile."""
    c = contents
    with GramWriter(
        target, contents, found.numerics, policy, reserve=not delete, direct=False
    ) as writer:
        bar = tqdm(
            total=c.count, initial=int(np.count_nonzero(writer.done)), unit="tile",
            disable=not policy.progress, smoothing=0.1,
        )  # fmt: skip
        with bar:
            gone = set(range(1, found.of + 1)) - set(found.paths)
            if lost := {n for n in gone if (c.grid.mask(Part(n, found.of)) & ~writer.done).any()}:
                raise InvalidValueError(
                    f"what was merged of parts that were deleted since is damaged; compute them "
                    f"again with the same command, as in an array of jobs with "
                    f"--array={show_indices(lost)}, and merge again"
                )
            for number in sorted(found.paths):
                path = found.paths[number]
                todo = c.grid.mask(Part(number, found.of)) & ~writer.done
                if wrong := _copy(path, found.headers[number], todo, writer.tiles, bar.update):
                    raise InvalidValueError(  # to try again as it is would mend nothing
                        f"{path}: {wrong}; delete that file, compute it again with the same "
                        f"command, as in an array of jobs with --array={number}, and merge again"
                    )
                if delete and number != max(found.paths):  # the last one stays until all is done
                    writer.tiles.sync()
                    _delete(path)


def _delete(part: Path) -> None:
    try:
        for path in {part.resolve(), part}:  # of a symbolic link, the file and the link
            disk.remove(path)
    except OSError as error:
        raise FileError(f"{part} is merged, but cannot be deleted: {error.strerror}") from None


def _copy(
    path: Path,
    header: Header,
    todo: NDArray[np.bool_],
    target: TileFile,
    update: Callable[[float], object],
) -> str:
    """Copy some tiles of a part, each compared with its checksum; what is wrong with one."""
    with open_gram(path) as file, file.tiles() as tiles:
        c, whole = file.contents, target.tile_map.contents
        if (c, file.numerics) != (header.contents, header.numerics):
            raise FileError(f"{path} has been replaced by a file of another job meanwhile")

        def copy(tile: Tile) -> str:
            if tile.wrong:
                return f"tile {tile.place[2:]} {next(iter(tile.wrong.values()))}"
            _, _, i, j = tile.place
            mirror = None
            if whole.storage.images == 2 and i != j:
                np.copyto(tile.scratch, tile.block.T)
                mirror = tile.scratch
            target.write(*tile.place, tile.block, mirror)
            return ""

        places: list[Place] = [
            (name, layer, int(i), int(j))
            for name in c.kernels
            for layer in range(c.matrices)
            for i, j in np.argwhere(todo)
        ]
        copied, matrices = 0, c.matrices * len(c.kernels)
        for wrong in tiles.scan(places, copy):
            stopping.check()
            if wrong:
                return wrong
            update(1 / matrices)
            copied += c.tile_bytes
            if copied >= COMMIT_BYTES:
                target.commit()
                copied = 0
        target.commit()
    return ""
