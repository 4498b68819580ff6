"""Parts of a job put together: copied into one file, or linked by one.

A merge believes nothing either: each tile is compared with its checksum on its way, and what was
merged goes on from where it was, as a job does.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ntk_numba import stopping
from ntk_numba.files import disk
from ntk_numba.files.digest import Digest
from ntk_numba.files.gram_file import GramFile, existing, open_gram
from ntk_numba.files.layout import HDF5, Contents, Header, is_incomplete, read_header
from ntk_numba.files.link import refuse_beginning, write_link
from ntk_numba.files.store import GramWriter, check_folder, partial_of
from ntk_numba.files.tiles import Place, Tile, TileFile
from ntk_numba.grid import Part

COMMIT_BYTES = 256 << 20  # between two times that what was copied is made durable
SHOWN = 5  # problems of one kind
MOST_PARTS = 10**6  # that the name of a part is believed to be one of
PARTS_OF = "{}.part-{}-of-{}{}"  # the name of a part: stem, number, how many, suffix


def part_path(path: Path, part: Part) -> Path:
    """``gram.part-03-of-16.h5`` of ``gram.h5``."""
    number = str(part.number).zfill(len(str(part.of)))
    return path.with_name(PARTS_OF.format(path.stem, number, part.of, path.suffix))


def check_layout(layout: str, symmetric: bool) -> Part | None:
    """The part whose tiles a whole file has in a row: all for "lower", none for "full"."""
    if layout not in ("full", "lower"):
        raise ValueError(f"layout must be 'full' or 'lower', not {layout!r}")
    if layout == "lower" and not symmetric:
        raise ValueError("a matrix of two data sets has no triangle: layout must be 'full'")
    return Part(1, 1) if layout == "lower" else None


def show_indices(numbers: Iterable[int]) -> str:
    """``3,17-19``, as schedulers take them."""
    runs: list[list[int]] = []
    for n in sorted(set(numbers)):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


@dataclass
class _Parts:
    """The parts that were found, and what is wrong with them.

    contents : what they make together, in the layout "full"
    problems : for people;  again : the numbers of the parts to compute again
    """

    contents: Contents | None = None
    numerics: int = 0
    of: int = 0
    paths: dict[int, Path] = field(default_factory=dict)
    headers: dict[int, Header] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    again: set[int] = field(default_factory=set)


def merge(
    parts: Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    layout: str = "full",
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
        Parts that are missing, unfinished, given twice, or of different jobs, data or versions; the
        text names each, and what to compute again.
    OSError
        See `write_gram`.
    StoppedError
        An OSError: the disk failed, or a part is damaged. What is merged is kept.
    """
    target = Path(path)
    if target.is_symlink():
        target = target.resolve()
    check_layout(layout, True)
    check_folder(target, write=False)
    if link and delete_parts:
        raise ValueError("a linked file needs its parts: link and delete_parts exclude each other")
    if isinstance(parts, str | os.PathLike):
        raise TypeError(f"parts must be a list of files, not one: {parts!r}")
    given = [Path(part) for part in parts]
    if target.exists() and any(part.exists() and part.samefile(target) for part in given):
        raise ValueError(f"{target} is one of the parts; choose another output")
    if link and not overwrite:
        refuse_beginning(target)
    found = _find(given, target, overwrite, link)
    _refuse(found, given, target)
    assert found.contents is not None
    contents = found.contents
    kind = check_layout("lower" if link else layout, contents.grid.symmetric)
    contents = replace(contents, part=kind)
    if target.exists() and not overwrite:
        file = existing(target, contents)
        if file.linked and not link:
            file.close()
            raise ValueError(
                f"{target} exists and has no tiles, it refers to those of its parts. Choose "
                f"another output, or overwrite it"
            )
    elif link:
        write_link(target, contents, found.numerics, list(found.paths.values()), overwrite)
        file = open_gram(target)
    else:
        with stopping.gently():
            _copy_all(found, target, contents, delete_parts, overwrite, progress)
        file = open_gram(target)
    if delete_parts:
        for part in found.paths.values():
            _delete(part)
    return file


def _find(paths: list[Path], target: Path, overwrite: bool, link: bool) -> _Parts:
    """Look at all parts, and at what an earlier merge has done."""
    found, headers = _Parts(), []
    for path in paths:
        try:
            if is_incomplete(path):
                found.problems.append(f"{path} is unfinished")
                continue
            with HDF5(path) as file:
                header = read_header(file, path)
            if header.contents.part is None or header.linked:
                raise ValueError(f"{path} is no part of a job")
            headers.append((path, header))
        except FileNotFoundError:
            continue  # deleted by an earlier merge, or to be named as missing
        except (OSError, ValueError) as error:
            found.problems.append(str(error))
    files = [partial_of(target), *([] if overwrite else [target])]
    earlier = [] if link else [begun for path in files if (begun := _begun(path))]
    if not headers:
        for begun in earlier[:1]:
            if (begun.done | ~begun.contents.grid.mask()).all():
                found.contents = replace(begun.contents, part=None)
                found.numerics = begun.numerics
        return found
    _compare(found, headers)
    _combine(found)
    assert found.contents is not None
    missing = set(range(1, found.of + 1)) - set(found.paths)
    for begun in earlier:  # perhaps it deleted parts
        if missing and begun.is_of(found.contents, found.numerics):
            grid = found.contents.grid
            missing = {n for n in missing if (grid.mask(Part(n, found.of)) & ~begun.done).any()}
            if not missing:
                found.contents = replace(found.contents, x=begun.contents.x, z=begun.contents.z)
    if missing:
        unfinished = {n for n in missing if _is_begun(found, n)}
        for numbers, what in ((unfinished, "unfinished"), (missing - unfinished, "missing")):
            if numbers:
                found.problems.append(f"of {found.of} parts {show_indices(numbers)} are {what}")
        found.again |= missing
    return found


class _Begun(NamedTuple):
    """What an earlier merge was to make, or has made, and the tiles it has."""

    contents: Contents
    numerics: int
    done: NDArray[np.bool_]

    def is_of(self, contents: Contents, numerics: int) -> bool:
        """Whether it is of that job, and of the same data as far as both know."""
        mine = self.contents
        if (replace(mine, part=contents.part, x=contents.x, z=contents.z), self.numerics) != (
            contents, numerics
        ):  # fmt: skip
            return False
        sides = (mine.x, contents.x), (mine.z, contents.z)
        return not any(a.difference(b) for a, b in sides if a and b)


def _begun(path: Path) -> _Begun | None:
    try:
        with open_gram(path, incomplete=True) as file:
            if file.linked:  # it has no tiles of its own
                return None
            return _Begun(file.contents, file.numerics, file.done)
    except (OSError, ValueError):
        return None  # there is none, or its writer will say what is wrong with it


def merged(target: Path, part: Contents, numerics: int, overwrite: bool) -> Path | None:
    """The file that has all tiles of a part already, complete or not, though the part is deleted.

    A complete one that is to be overwritten does not count.
    """
    for path in (partial_of(target), *([] if overwrite else [target])):
        begun = _begun(path)
        if begun is None or not begun.is_of(part, numerics):
            continue
        if not (part.grid.mask(part.part) & ~begun.done).any():
            return path
    return None


def _is_begun(found: _Parts, number: int) -> bool:
    """Whether a missing part's beginning lies beside another part."""
    name = re.compile(r"(.*\.part-)\d+(-of-\d+.*)")
    for path in found.paths.values():
        if match := name.fullmatch(path.name):
            number_text = str(number).zfill(len(str(found.of)))
            return partial_of(path.with_name(f"{match[1]}{number_text}{match[2]}")).exists()
    return False


def _compare(found: _Parts, headers: list[tuple[Path, Header]]) -> None:
    """Sort the parts of one job from those of others: that of most of them is the one."""

    def job(header: Header) -> tuple[object, ...]:
        c = header.contents
        assert c.part is not None
        shapes = c.x.shape, c.z and c.z.shape
        return (c.net, c.kernels, c.every, c.dtype, c.grid, c.part.of, header.numerics, shapes)

    usual = Counter(job(header) for _, header in headers).most_common(1)[0][0]
    reference = next(header for _, header in headers if job(header) == usual)
    c = reference.contents
    assert c.part is not None
    found.contents, found.numerics, found.of = replace(c, part=None), reference.numerics, c.part.of
    for path, header in headers:
        part = header.contents.part
        assert part is not None
        if job(header) != usual:
            mine = replace(header.contents, x=c.x, z=c.z)
            if part.of == c.part.of:
                mine = replace(mine, part=c.part)
            differences = c.differences(mine)
            if header.numerics != found.numerics:
                differences.append(f"numerical version is {header.numerics}, not {found.numerics}")
            if header.contents.x.shape != c.x.shape:
                differences.append("the data has another shape")
            found.problems.append(f"{path} is of another job: {'; '.join(differences)}")
            if part.of == c.part.of:
                found.again.add(part.number)
        elif part.number in found.paths:
            other = found.paths[part.number]
            found.problems.append(f"part {part} is given twice: {other} and {path}")
        else:
            found.paths[part.number], found.headers[part.number] = path, header


def _combine(found: _Parts) -> None:
    """What data all parts together were made of; those that were made of other data are named."""
    assert found.contents is not None
    digests: dict[str, Digest | None] = {}
    for side in ("x", "z"):
        each = {n: getattr(h.contents, side) for n, h in found.headers.items()}
        if None in each.values():
            digests[side] = None
            continue
        columns = zip(*([d.evenly, *d.blocks] for d in each.values()), strict=True)
        evenly, *blocks = (
            Counter(b for b in column if b).most_common(1)[0][0] if any(column) else b""
            for column in columns
        )
        usual = Digest(next(iter(each.values())).shape, evenly, tuple(blocks))
        digests[side] = usual
        for number, digest in each.items():
            if where := digest.difference(usual):
                found.problems.append(
                    f"{found.paths[number]} was made of other data: {where} of {side.upper()} "
                    f"are not those of the other parts"
                )
                found.again.add(number)
    assert digests["x"] is not None
    found.contents = replace(found.contents, x=digests["x"], z=digests["z"])


def _refuse(found: _Parts, given: list[Path], target: Path) -> None:
    """Say all that is wrong at once."""
    if found.contents is None and not found.problems:
        found.problems.append("none of the parts exists")
        # what is not there, a name or a pattern of the shell, still says how many there should be
        of = [int(n) for path in given for n in re.findall(r"\.part-.*-of-(\d+)", path.name)]
        found.again |= set(range(1, of[0] + 1)) if of and of[0] <= MOST_PARTS else set()
    if not found.problems:
        return
    shown = found.problems[: 2 * SHOWN]
    if more := len(found.problems) - len(shown):
        shown.append(f"and {more} more")
    mend = (
        f"Compute them again with the same command, as in an array of jobs with "
        f"--array={show_indices(found.again)}, and merge again"
        if found.again
        else "Give the parts of one job, each once"
    )
    raise ValueError(f"{target} cannot be merged: {'; '.join(shown)}. {mend}")


def _copy_all(
    found: _Parts, target: Path, contents: Contents, delete: bool, overwrite: bool, progress: bool
) -> None:
    c = contents
    with GramWriter(
        target, contents, found.numerics, overwrite, progress, reserve=not delete
    ) as writer:
        bar = tqdm(
            total=c.count, initial=int(np.count_nonzero(writer.done)), unit="tile",
            disable=not progress, smoothing=0.1,
        )  # fmt: skip
        with bar:
            for number in sorted(found.paths):
                path = found.paths[number]
                todo = c.grid.mask(Part(number, found.of)) & ~writer.done
                if wrong := _copy(path, found.headers[number], todo, writer.tiles, bar.update):
                    raise OSError(
                        f"{path}: {wrong}; delete that file, compute it again with the same "
                        f"command, as in an array of jobs with --array={number}, and merge again"
                    )
                if delete and number != max(found.paths):  # the last one stays until all is done
                    writer.tiles.sync()
                    _delete(path)


def _delete(part: Path) -> None:
    try:
        disk.remove(part)
    except OSError as error:
        raise OSError(f"{part} is merged, but cannot be deleted: {error.strerror}") from None


def _copy(
    path: Path,
    header: Header,
    todo: NDArray[np.bool_],
    target: TileFile,
    update: Callable[[float], object],
) -> str:
    """Copy some tiles of a part, each compared with its checksum; what is wrong with one."""
    with open_gram(path) as file, file.tiles() as tiles:
        c, whole = file.contents, target.layout.contents
        if (c, file.numerics) != (header.contents, header.numerics):
            raise OSError(f"{path} has been replaced by a file of another job meanwhile")

        def copy(tile: Tile) -> str:
            if tile.wrong:
                return f"tile {tile.place[2:]} {next(iter(tile.wrong.values()))}"
            _, _, i, j = tile.place
            mirror = None
            if whole.mirrored and i != j:
                np.copyto(tile.scratch, tile.block.T)
                mirror = tile.scratch
            target.write(*tile.place, tile.block, mirror)
            return ""

        places: list[Place] = [
            (name, layer, int(i), int(j))
            for name in c.kernels
            for layer in range(c.layers)
            for i, j in np.argwhere(todo)
        ]
        copied, matrices = 0, c.layers * len(c.kernels)
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
