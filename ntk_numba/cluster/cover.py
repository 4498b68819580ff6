"""The parts of a job that exist, and whether together they cover the whole job.

`merge` calls `find_parts`, which reads only names and headers; `merge` itself then compares every
tile with its checksum.
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
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.contents import Contents, Header
from ntk_numba.gramfile.layout import HDF5, is_incomplete, read_header
from ntk_numba.gramfile.place import PARTIAL, partial_of
from ntk_numba.gramfile.reader import open_gram
from ntk_numba.grid import Part

SHOWN = 10  # problems that an error message lists
MOST_PARTS = 10**6  # a file name that says it is one of more parts is not believed
PARTS_OF = "{}.part-{}-of-{}{}"  # the name of a part: stem, number, number of parts, suffix


def part_path(path: Path, part: Part) -> Path:
    """Return the path of a part, as ``gram.part-03-of-16.h5`` for ``gram.h5``."""
    number = str(part.number).zfill(len(str(part.of)))
    return path.with_name(PARTS_OF.format(path.stem, number, part.of, path.suffix))


def show_indices(numbers: Iterable[int]) -> str:
    """Return numbers as a text of runs, ``3,17-19``, which schedulers accept."""
    runs: list[list[int]] = []
    for n in sorted(set(numbers)):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


@dataclass
class Cover:
    """The parts that were found, and their problems.

    contents : the contents of the whole job, in the layout "full"
    numerics : the version of the arithmetic
    of : the number of parts
    paths, headers : by the number of the part
    problems : texts for people
    again : the numbers of the parts that have to be computed again
    stale : whether files have to be deleted first, since computing would refuse to replace them
    merged : whether the complete output has the tiles of parts that do not exist
    """

    contents: Contents | None = None
    numerics: int = 0
    of: int = 0
    paths: dict[int, Path] = field(default_factory=dict)
    headers: dict[int, Header[Contents]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    again: set[int] = field(default_factory=set)
    stale: bool = False
    merged: bool = False


def find_parts(
    paths: list[Path],
    target: Path,
    *,
    layout: Layout,
    link: bool,
    overwrite: bool,
    delete: bool = False,
) -> Cover:
    """Look at all parts, and at the tiles that an earlier merge to `target` has copied.

    link, overwrite, delete : the options of `merge`

    Raises
    ------
    ValueError
        The files are not all parts of one job, each once; the text lists all problems.
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
            continue  # deleted by an earlier merge; otherwise it is listed as missing below
        except (OSError, ValueError) as error:
            disk.raise_exhausted(error)
            found.problems.append(str(error))
            found.stale = True
    earlier = [] if link else _find_earlier(target, layout, overwrite, delete)
    if headers:
        _compare(found, headers)
        _combine(found)
        _name_missing(found, earlier)
    elif earlier and (earlier[0].done | ~earlier[0].contents.grid.mask()).all():
        found.contents = replace(earlier[0].contents, part=None)
        found.numerics, found.merged = earlier[0].numerics, earlier[0].complete
    _refuse(found, paths, target)
    return found


def _find_earlier(target: Path, layout: Layout, overwrite: bool, delete: bool) -> list["_Earlier"]:
    """Return the outputs that may have the tiles of deleted parts and will not be replaced.

    A merge that overwrites and deletes may have been killed after it had renamed its output and
    before it had deleted the last part. Then there is no unfinished output any more.
    """
    unfinished = _read_earlier(partial_of(target))
    complete = None
    if not overwrite or (delete and not partial_of(target).exists()):
        complete = _read_earlier(target)
    outputs = [output for output in (unfinished, complete) if output]
    if overwrite:
        outputs = [output for output in outputs if output.contents.layout == layout]
    return outputs


def _name_missing(found: Cover, earlier: list["_Earlier"]) -> None:
    """Add to the problems all parts that neither exist nor are merged already."""
    assert found.contents is not None
    missing = set(range(1, found.of + 1)) - set(found.paths)
    for output in earlier:  # that merge may have deleted parts
        if missing and output.is_of(found.contents, found.numerics):
            grid = found.contents.grid
            missing = {n for n in missing if (grid.mask(Part(n, found.of)) & ~output.done).any()}
            if not missing:
                found.merged = output.complete
                found.contents = replace(found.contents, x=output.contents.x, z=output.contents.z)
    unfinished = {n for n in missing if _is_unfinished(found, n)}
    for numbers, state in ((unfinished, "unfinished"), (missing - unfinished, "missing")):
        if numbers:
            found.problems.append(f"of {found.of} parts {show_indices(numbers)} are {state}")
    found.again |= missing


class _Earlier(NamedTuple):
    """The output of an earlier merge, complete or not, and the tiles that it has."""

    contents: Contents
    numerics: int
    done: NDArray[np.bool_]
    complete: bool

    def is_of(self, contents: Contents, numerics: int) -> bool:
        """Return whether it is of the same job, and of the same data where both know the data."""
        return self.numerics == numerics and self.contents.same_job(contents)


def _read_earlier(path: Path) -> _Earlier | None:
    """Return the output of an earlier merge, or None if there is none that can be read."""
    try:
        with open_gram(path, incomplete=True) as file:
            if file.linked:  # the file has no tiles of its own
                return None
            complete = file.complete and path.suffix != PARTIAL
            return _Earlier(file.contents, file.numerics, file.done, complete)
    except (OSError, ValueError) as error:
        disk.raise_exhausted(error)
        return None  # if the file is damaged, its writer will say so


def find_merged(target: Path, part: Contents, numerics: int, policy: Policy) -> Path | None:
    """Return the output of a merge, complete or not, that has all tiles of a part already.

    The part itself may be deleted. A complete output that is to be overwritten does not count.
    """
    for path in (partial_of(target), *([] if policy.overwrite else [target])):
        output = _read_earlier(path)
        if output is None or not output.is_of(part, numerics):
            continue
        if not (part.storage.mask & ~output.done).any():
            return path
    return None


def _is_unfinished(found: Cover, number: int) -> bool:
    """Return whether an unfinished file of a missing part lies beside another part."""
    for path in found.paths.values():
        if match := re.fullmatch(r"(.*)\.part-\d+-of-\d+(.*)", path.name):
            whole = path.with_name(match[1] + match[2])
            return partial_of(part_path(whole, Part(number, found.of))).exists()
    return False


def _compare(found: Cover, headers: list[tuple[Path, Header[Contents]]]) -> None:
    """Separate the parts of the job to which most parts belong from those of other jobs."""

    def job(header: Header[Contents]) -> tuple[object, ...]:  # equal for the parts of one job
        c = header.contents
        assert c.part is not None
        shapes = c.x.shape, c.z and c.z.shape
        return (
            c.network, c.kernels, c.layers, c.dtype, c.grid, c.part.of, c.error,
            header.numerics, shapes,
        )  # fmt: skip

    usual = Counter(job(header) for _, header in headers).most_common(1)[0][0]
    of_job = [header for _, header in headers if job(header) == usual]
    norms = Counter(n for h in of_job if (n := h.contents.largest_norm) is not None)
    norm = norms.most_common(1)[0][0] if norms else None
    reference = next(header for header in of_job if header.contents.largest_norm == norm)
    c = reference.contents
    assert c.part is not None
    found.contents, found.numerics, found.of = replace(c, part=None), reference.numerics, c.part.of
    for path, header in headers:
        part = header.contents.part
        assert part is not None
        if job(header) != usual or not header.contents.same_norm(c):
            same_data = replace(header.contents, x=c.x, z=c.z)
            if part.of == c.part.of:
                same_data = replace(same_data, part=c.part)
            differences = c.differences(same_data)
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
    """Combine the digests of all parts, and name the parts that were computed from other data."""
    assert found.contents is not None
    digests: dict[str, Digest | None] = {}
    for name in ("x", "z"):
        by_part = {n: getattr(h.contents, name) for n, h in found.headers.items()}
        if None in by_part.values():
            digests[name] = None
            continue
        columns = zip(*([d.centre_sample, *d.blocks] for d in by_part.values()), strict=True)
        centre_sample, *blocks = (
            Counter(b for b in column if b).most_common(1)[0][0] if any(column) else b""
            for column in columns
        )
        usual = Digest(next(iter(by_part.values())).shape, centre_sample, tuple(blocks))
        digests[name] = usual
        for number, digest in by_part.items():
            if where := digest.difference(usual):
                found.problems.append(
                    f"{found.paths[number]} was made of other data: {where} of {name.upper()} "
                    f"are not those of the other parts"
                )
                found.again.add(number)
                found.stale = True
    assert digests["x"] is not None
    found.contents = replace(found.contents, x=digests["x"], z=digests["z"])


def _refuse(found: Cover, given: list[Path], target: Path) -> None:
    """Raise ValueError with all problems, if there are any."""
    if found.contents is None and not found.problems:
        found.problems.append("none of the parts exists")
        # the given names, or an unexpanded pattern of the shell, say how many parts to expect
        of = [int(n) for path in given for n in re.findall(r"\.part-.*-of-(\d+)", path.name)]
        found.again |= set(range(1, of[0] + 1)) if of and of[0] <= MOST_PARTS else set()
    if not found.problems:
        return
    shown = found.problems[:SHOWN]
    if more := len(found.problems) - len(shown):
        shown.append(f"and {more} more")
    delete = "Delete the files of those parts that are damaged, of another job or of other data. "
    remedy = (
        f"{delete if found.stale else ''}Compute them again with the same command, as in an array "
        f"of jobs with --array={show_indices(found.again)}, and merge again"
        if found.again
        else "Give the parts of one job, each once"
    )
    raise InvalidValueError(f"{target} cannot be merged: {'; '.join(shown)}. {remedy}")
