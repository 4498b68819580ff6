"""The parts of a job that are there, and whether together they are all of it.

Judged are their headers and names alone; `merge` compares every tile on its way.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntk_numba.arguments import Layout, Policy
from ntk_numba.digest import Digest
from ntk_numba.errors import InvalidValueError
from ntk_numba.gramfile.contents import Contents, Header
from ntk_numba.gramfile.layout import HDF5, is_incomplete, read_header
from ntk_numba.gramfile.reader import open_gram
from ntk_numba.gramfile.writer import partial_of
from ntk_numba.grid import Part

SHOWN = 10  # problems
MOST_PARTS = 10**6  # that the name of a part is believed to be one of
PARTS_OF = "{}.part-{}-of-{}{}"  # the name of a part: stem, number, how many, suffix


def part_path(path: Path, part: Part) -> Path:
    """``gram.part-03-of-16.h5`` of ``gram.h5``."""
    number = str(part.number).zfill(len(str(part.of)))
    return path.with_name(PARTS_OF.format(path.stem, number, part.of, path.suffix))


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
class Cover:
    """The parts that were found, and what is wrong with them.

    contents : what they make together, in the layout "full"
    problems : for people;  again : the numbers of the parts to compute again
    stale : whether there are files that would be refused to be computed again where they are
    """

    contents: Contents | None = None
    numerics: int = 0
    of: int = 0
    paths: dict[int, Path] = field(default_factory=dict)
    headers: dict[int, Header] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    again: set[int] = field(default_factory=set)
    stale: bool = False


def find_parts(
    paths: list[Path], target: Path, *, layout: Layout, link: bool, overwrite: bool
) -> Cover:
    """Look at all parts, and at what an earlier merge to `target` has done.

    Raises
    ------
    ValueError
        They are not all parts of one job, each once; the text says all that is wrong.
    """
    found, headers = Cover(), []
    for path in paths:
        try:
            if is_incomplete(path):
                found.problems.append(f"{path} is unfinished")
                continue
            with HDF5(path) as file:
                header = read_header(file, path)
            if header.contents.part is None or header.linked:
                raise InvalidValueError(f"{path} is no part of a job")
            headers.append((path, header))
        except FileNotFoundError:
            continue  # deleted by an earlier merge, or to be named as missing
        except (OSError, ValueError) as error:
            found.problems.append(str(error))
            found.stale = True
    earlier = [] if link else _earlier(target, layout, overwrite)
    if headers:
        _compare(found, headers)
        _combine(found)
        _name_missing(found, earlier)
    elif earlier and (earlier[0].done | ~earlier[0].contents.grid.mask()).all():
        found.contents = replace(earlier[0].contents, part=None)
        found.numerics = earlier[0].numerics
    _refuse(found, paths, target)
    return found


def _earlier(target: Path, layout: Layout, overwrite: bool) -> list["_Begun"]:
    """What may have the tiles of deleted parts, and is not to be replaced."""
    begun, done = _begun(partial_of(target)), None if overwrite else _begun(target)
    if begun and overwrite and begun.contents.layout != layout:
        begun = None
    return [file for file in (begun, done) if file]


def _name_missing(found: Cover, earlier: list["_Begun"]) -> None:
    """Name the parts that are neither there nor merged already."""
    assert found.contents is not None
    missing = set(range(1, found.of + 1)) - set(found.paths)
    for begun in earlier:  # perhaps it deleted parts
        if missing and begun.is_of(found.contents, found.numerics):
            grid = found.contents.grid
            missing = {n for n in missing if (grid.mask(Part(n, found.of)) & ~begun.done).any()}
            if not missing:
                found.contents = replace(found.contents, x=begun.contents.x, z=begun.contents.z)
    unfinished = {n for n in missing if _is_begun(found, n)}
    for numbers, what in ((unfinished, "unfinished"), (missing - unfinished, "missing")):
        if numbers:
            found.problems.append(f"of {found.of} parts {show_indices(numbers)} are {what}")
    found.again |= missing


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
        if not mine.same_norm(contents):
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


def merged(target: Path, part: Contents, numerics: int, policy: Policy) -> Path | None:
    """The file that has all tiles of a part already, complete or not, though the part is deleted.

    A complete one that is to be overwritten does not count.
    """
    for path in (partial_of(target), *([] if policy.overwrite else [target])):
        begun = _begun(path)
        if begun is None or not begun.is_of(part, numerics):
            continue
        if not (part.grid.mask(part.part) & ~begun.done).any():
            return path
    return None


def _is_begun(found: Cover, number: int) -> bool:
    """Whether a missing part's beginning lies beside another part."""
    for path in found.paths.values():
        if match := re.fullmatch(r"(.*)\.part-\d+-of-\d+(.*)", path.name):
            whole = path.with_name(match[1] + match[2])
            return partial_of(part_path(whole, Part(number, found.of))).exists()
    return False


def _compare(found: Cover, headers: list[tuple[Path, Header]]) -> None:
    """Sort the parts of one job from those of others: that of most of them is the one."""

    def job(header: Header) -> tuple[object, ...]:
        c = header.contents
        assert c.part is not None
        shapes = c.x.shape, c.z and c.z.shape
        return (
            c.network, c.kernels, c.layers, c.dtype, c.grid, c.part.of, c.error,
            header.numerics, shapes,
        )  # fmt: skip

    usual = Counter(job(header) for _, header in headers).most_common(1)[0][0]
    of_it = [header for _, header in headers if job(header) == usual]
    norms = Counter(n for h in of_it if (n := h.contents.largest_norm) is not None)
    norm = norms.most_common(1)[0][0] if norms else None
    reference = next(header for header in of_it if header.contents.largest_norm == norm)
    c = reference.contents
    assert c.part is not None
    found.contents, found.numerics, found.of = replace(c, part=None), reference.numerics, c.part.of
    for path, header in headers:
        part = header.contents.part
        assert part is not None
        if job(header) != usual or not header.contents.same_norm(c):
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
            found.stale = True
        elif part.number in found.paths:
            other = found.paths[part.number]
            found.problems.append(f"part {part} is given twice: {other} and {path}")
        else:
            found.paths[part.number], found.headers[part.number] = path, header


def _combine(found: Cover) -> None:
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
                found.stale = True
    assert digests["x"] is not None
    found.contents = replace(found.contents, x=digests["x"], z=digests["z"])


def _refuse(found: Cover, given: list[Path], target: Path) -> None:
    """Say all that is wrong at once."""
    if found.contents is None and not found.problems:
        found.problems.append("none of the parts exists")
        # what is not there, a name or a pattern of the shell, still says how many there should be
        of = [int(n) for path in given for n in re.findall(r"\.part-.*-of-(\d+)", path.name)]
        found.again |= set(range(1, of[0] + 1)) if of and of[0] <= MOST_PARTS else set()
    if not found.problems:
        return
    shown = found.problems[:SHOWN]
    if more := len(found.problems) - len(shown):
        shown.append(f"and {more} more")
    delete = "Delete the files of those parts that are damaged, of another job or of other data. "
    mend = (
        f"{delete if found.stale else ''}Compute them again with the same command, as in an array "
        f"of jobs with --array={show_indices(found.again)}, and merge again"
        if found.again
        else "Give the parts of one job, each once"
    )
    raise InvalidValueError(f"{target} cannot be merged: {'; '.join(shown)}. {mend}")
