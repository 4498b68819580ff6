"""Merging the parts of a job: one file that holds copies of their tiles, or links to them.

A merge trusts no file: it compares each tile with its checksum while copying. A merge that was
stopped continues where it was, like a job.
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
from ntk_numba.cluster.cover import Cover, find_parts, show_indices
from ntk_numba.errors import FileError, InvalidTypeError, InvalidValueError, folder_error
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.contents import Contents, Header, processors_of
from ntk_numba.gramfile.layout import HDF5, read_header
from ntk_numba.gramfile.lease import held
from ntk_numba.gramfile.link import refuse_unfinished, write_link
from ntk_numba.gramfile.place import LOCK, NEXT, is_taken, output_path, refuse_inputs
from ntk_numba.gramfile.reader import GramFile, open_gram
from ntk_numba.gramfile.storage import parse_layout
from ntk_numba.gramfile.stored import existing
from ntk_numba.gramfile.tiles import Place, Tile
from ntk_numba.gramfile.writer import TileWriter
from ntk_numba.grid import Part

COMMIT_BYTES = 256 << 20  # bytes that are copied between two commits


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
    """Merge the parts of a job into one file, bit for bit the file of a single job.

    If the parts were computed on several kinds of processors, only the attribute `processor`
    differs from that of a single job: it names all of them.

    Every tile is compared with its checksum while it is copied. If the merge is stopped, the same
    call continues it.

    Parameters
    ----------
    parts : sequence of paths
        The files, in any order.
    path : str or path
        The file to write.
    layout : str
        "full", or "lower" to store only the tiles on and below the diagonal, which take half of
        the bytes; ``f.ntk[i, j]`` can still be read for all i and j.
    link : bool
        Write a small file of the layout "lower" that refers to the parts. They have to stay where
        they are relative to it; if one is missing or replaced, opening the file raises an error.
    delete_parts : bool
        Delete each part as soon as its tiles are durable in the new file, which then takes its
        space step by step and not at the start. If the file is complete already, all of its tiles
        are verified before any part is deleted.
    overwrite, progress : see `write_gram`

    Returns
    -------
    GramFile
        The file, open for reading.

    Raises
    ------
    ValueError
        Parts are missing, unfinished, given twice, damaged, or of different jobs, data or versions;
        the text names each of them, and the parts to compute again. Merged tiles are kept.
    OSError
        See `write_gram`; or the file is complete and damaged, so that no part is deleted.
    StoppedError
        An OSError: the disk failed. Merged tiles are kept.
    """
    parse_layout(layout, True)
    target = output_path(path)
    if link and delete_parts:
        raise InvalidValueError(
            "a linked file needs its parts: link and delete_parts exclude each other"
        )
    if isinstance(parts, str | os.PathLike):
        raise InvalidTypeError(f"parts must be a list of files, not one: {parts!r}")
    # absolute, since the working folder may change; a pattern of the shell finds lock files, too
    given = [Path(part).absolute() for part in parts if not str(part).endswith((LOCK, NEXT))]
    if any(Path(part) == Path() for part in parts):
        raise folder_error(Path(), "the files of the parts")
    refuse_inputs(target, given, "one of the parts")
    policy = Policy(overwrite, progress)
    if link and not overwrite:
        refuse_unfinished(target)
    found = find_parts(
        given, target, layout=layout, link=link, overwrite=overwrite, delete=delete_parts
    )
    assert found.contents is not None
    contents = found.contents
    stored = parse_layout("lower" if link else layout, contents.grid.symmetric)
    contents = replace(contents, part=stored)
    before = is_taken(target) and (not overwrite or found.merged)
    if before:
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
        except FileExistsError:  # another merge has completed it since the check above
            file, before = _merged_before(target, contents, found.numerics, link), True
    if delete_parts:
        try:
            with held(target):
                if before and (found.paths or found.merged):
                    _verify(file, found, progress=progress)
                for number, part in found.paths.items():
                    _delete(part, found.headers[number])
            for part in given:  # a kill may have left a link to a part that was deleted
                if part.is_symlink() and not part.exists():
                    disk.remove(part)
        except BaseException:
            file.close()
            raise
    return file


def _verify(file: GramFile, found: Cover, *, progress: bool) -> None:
    """Raise FileError if a complete output is damaged, for which parts are to be deleted."""
    report = file.verify(progress=progress)
    if not report:
        more = f" and {len(report.problems) - 1} more" if len(report.problems) > 1 else ""
        mend = "merge again and overwrite it"
        if len(found.paths) != found.of:
            mend = (
                "repair it with its data (ntk-numba verify --repair --data), and merge again "
                "without overwriting it"
            )
        raise FileError(
            f"{file.path} is complete but damaged ({report.problems[0]}{more}), so no part is "
            f"deleted; {mend}"
        )
    with file.tiles() as tiles:
        if not tiles.is_at(file.path):
            raise FileError(f"{file.path} was replaced while it was verified; merge again")


def _merged_before(target: Path, contents: Contents, numerics: int, link: bool) -> GramFile:
    """Open a file that is already merged.

    Raise ValueError if it only links the parts although `link` is False, or if the versions of the
    arithmetic differ.
    """
    file, problem = existing(target, contents, open_gram), ""
    if file.linked and not link:
        problem = "refers to the parts and holds no tiles"
    elif file.numerics != numerics:
        problem = f"is of numerical version {file.numerics}, the parts of {numerics}"
    if problem:
        file.close()
        raise InvalidValueError(f"{target} {problem}. Choose another output, or overwrite it")
    return file


def _copy_all(
    found: Cover, target: Path, contents: Contents, policy: Policy, *, delete: bool
) -> None:
    """Copy all tiles that are not merged yet, and with `delete`, delete each merged part."""
    c = contents
    with TileWriter(
        target, contents, found.numerics, policy, processor=processors_of(found.headers.values()),
        reserve=not delete, direct=False,
    ) as writer:  # fmt: skip
        bar = tqdm(
            total=c.count, initial=int(np.count_nonzero(writer.done)), unit="tile",
            disable=not policy.progress, smoothing=0.1,
        )  # fmt: skip
        with bar:
            gone = set(range(1, found.of + 1)) - set(found.paths)
            if lost := {n for n in gone if (c.grid.mask(Part(n, found.of)) & ~writer.done).any()}:
                raise InvalidValueError(
                    f"merged tiles of parts that were deleted since are damaged; compute those "
                    f"parts again with the same command, as in an array of jobs with "
                    f"--array={show_indices(lost)}, and merge again"
                )
            for number in sorted(found.paths):
                path = found.paths[number]
                todo = c.grid.mask(Part(number, found.of)) & ~writer.done
                if wrong := _copy(path, found.headers[number], todo, writer, bar.update):
                    # a part that exists is not computed again, so it has to be deleted
                    raise InvalidValueError(
                        f"{path}: {wrong}; delete that file, compute it again with the same "
                        f"command, as in an array of jobs with --array={number}, and merge again"
                    )
                # the last part stays until the file is complete
                if delete and number != max(found.paths):
                    writer.tiles.sync()
                    writer.check()
                    _delete(path, found.headers[number])


def _refuse_other(part: Path, real: Path, header: Header[Contents]) -> None:
    """Raise FileError if a part is no longer the file that was merged."""
    try:
        with HDF5(real) as file:
            found = read_header(file, real)
    except (OSError, ValueError) as error:
        raise FileError(f"{part} is merged, but not deleted: {error}") from None
    if (found.contents, found.numerics) != (header.contents, header.numerics):
        raise FileError(f"{part} has been replaced by a file of another job; it is not deleted")


def _delete(part: Path, header: Header[Contents]) -> None:
    """Delete a merged part, if it is still the file that was merged."""
    real = part.resolve()
    if real.exists():
        with held(real):
            _refuse_other(part, real, header)
    # now that its lock file is gone, which would be left alone if this process is killed here
    try:
        for path in (real, part):  # for a symbolic link, both the file and the link
            disk.remove(path)
    except OSError as error:
        raise FileError(f"{part} is merged, but cannot be deleted: {error.strerror}") from None


def _copy(
    path: Path,
    header: Header[Contents],
    todo: NDArray[np.bool_],
    writer: TileWriter,
    update: Callable[[float], object],
) -> str:
    """Copy the tiles of a part in `todo`; return the problem with a bad tile, or an empty text."""
    target = writer.tiles
    with held(path.resolve()), open_gram(path) as file, file.tiles() as tiles:
        c, whole = file.contents, target.tile_map.contents
        if (c, file.numerics) != (header.contents, header.numerics):
            raise FileError(f"{path} has been replaced by a file of another job")

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
                writer.check()
                copied = 0
        target.commit()
    return ""
