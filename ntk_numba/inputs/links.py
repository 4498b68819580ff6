"""Names in HDF5 files: which arrays a group has, and where links lead.

HDF5 follows links by itself, and waits for ever if one leads to a pipe. Here each file is looked at
first, and a file of any structure, such as groups in groups or links in circles, takes a bounded
time.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py

from ntk_numba.errors import InvalidValueError
from ntk_numba.inputs.unchanged import Stamp, stamp
from ntk_numba.opening import refuse_special

LOCKED = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)  # if another process has locked it

MOST_NAMES = 10_000  # of groups and arrays that a search looks at, which takes a second
MOST_CHARACTERS = 4096  # of a path in a file that a search finds, as of a path in Linux
MOST_LINKS = 16  # that lead from one to another, as in HDF5
MOST_LINKED = 100  # links that a search follows, since each may open a file
# what h5py raises, where the contents of a file are not what HDF5 expects
DAMAGE = (KeyError, OSError, RuntimeError, ValueError, TypeError, AttributeError, IndexError,
          UnicodeError, MemoryError, OverflowError, NotImplementedError)  # fmt: skip


class Found(NamedTuple):
    """What a name in a file leads to, and the files that external links lead through."""

    item: Any
    files: tuple[Stamp, ...] = ()


class Names(NamedTuple):
    """The paths of the arrays in a group, and whether the search has seen all of it."""

    paths: list[str]
    complete: bool


class _Lost(Exception):
    """A link leads nowhere; the text says why."""


def open_read(path: Path) -> h5py.File:
    """Open an HDF5 file for reading, also if the working folder changes later.

    HDF5 locks it, so that a file that another process is writing is refused. Where locks fail for
    another reason, as on some file systems of clusters, it is read without.

    Raises
    ------
    ValueError
        It is a device or a pipe.
    OSError
        HDF5 cannot open it.
    """
    refuse_special(path)
    try:
        return h5py.File(path.absolute(), "r")
    except OSError as error:
        if error.errno in LOCKED:
            raise
    # which is also right if this process has opened the file without locks already
    return h5py.File(path.absolute(), "r", locking=False)


def candidates(file: h5py.File, name: str, variable: str, prefix: bytes) -> Iterator[Path]:
    """Yield the paths at which HDF5 looks for a file that another file names, in its order.

    file : the file that has the name
    variable : the variable of the environment with folders to look in
    prefix : a folder that was given when the file was opened
    """
    folder, path = Path(file.filename).absolute().parent, Path(name)
    if path.is_absolute():
        yield path
        path = Path(path.name)
    for given in [*os.environ.get(variable, "").split(":"), os.fsdecode(prefix)]:
        if given:
            yield Path(given.replace("${ORIGIN}", str(folder))) / path
    yield folder / path
    yield path
    yield Path(file.filename).resolve().parent / path


def open_candidate(paths: Iterator[Path]) -> tuple[h5py.File, Stamp] | None:
    """Open the first of some paths that is an HDF5 file; None if there is none.

    Raises
    ------
    ValueError
        If a path before it is a device or a pipe, which HDF5 would try to open.
    """
    for path in paths:
        if path.exists() and not path.is_dir():
            found = stamp(path)
            with contextlib.suppress(OSError):
                return open_read(path), found
    return None


def follow(group: h5py.Group, name: str, key: str) -> Found | None:
    """Return what a key names, through links of all kinds; None if there is no such name.

    Raises
    ------
    ValueError
        If a link on the way leads nowhere, or leads to others too often.
    """
    here = Found(group)
    words, counter = key.split("/"), iter(range(MOST_LINKS))
    for k, word in enumerate(words):
        try:
            after = _step(here, word, counter)
        except _Lost as error:
            way = "/".join(words[: k + 1])
            raise InvalidValueError(
                f"{name}: {way!r} is {_show(here.item, word)}, which cannot be found ({error})"
            ) from None
        if after is None:
            return None
        here = after
    return here


def _link(group: h5py.Group, word: str) -> Any:
    """Return the link of a name in a group, by h5py's classes; None if there is none."""
    raw = word.encode("utf-8", "surrogateescape")
    if not group.id.links.exists(raw):
        return None
    return group.get(word, getlink=True)


def _show(group: h5py.Group, word: str) -> str:
    """Describe a link in a message."""
    link = _link(group, word)
    if isinstance(link, h5py.ExternalLink):
        return f"a link to {link.path!r} of the file {link.filename}"
    return f"a link to {link.path!r}"


def _step(here: Found, word: str, counter: Iterator[int]) -> Found | None:
    """Return what one name in a group leads to; None if there is no such name.

    counter : ends when too many links have been followed
    """
    group = here.item
    if word in ("", "."):
        return here
    link = _link(group, word) if isinstance(group, h5py.Group) else None
    if link is None:
        return None
    if isinstance(link, h5py.HardLink):
        return here._replace(item=group[word])
    if next(counter, None) is None:
        raise _Lost("too many links lead to each other")
    if isinstance(link, h5py.SoftLink):
        start = here._replace(item=group.file["/"]) if link.path.startswith("/") else here
    else:
        try:
            opened = open_candidate(candidates(group.file, link.filename, "HDF5_EXT_PREFIX", b""))
        except InvalidValueError as error:
            raise _Lost(str(error)) from None
        if opened is None:
            raise _Lost(f"{link.filename} is not there or cannot be opened")
        start = Found(opened[0]["/"], (*here.files, opened[1]))
    for part in link.path.split("/"):
        after = _step(start, part, counter)
        if after is None:
            raise _Lost(f"{link.path!r} has no {part!r}")
        start = after
    return start


def _words(group: h5py.Group) -> list[bytes]:
    """Return the names in a group, or a few more than are looked at."""
    words: list[bytes] = []

    def note(word: bytes) -> bool | None:
        words.append(word)
        return len(words) > MOST_NAMES or None  # anything but None ends the iteration

    group.id.links.iterate(note)
    return words


def names_of_arrays(group: h5py.Group, name: str, is_array: Callable[[Any], bool]) -> Names:
    """Return the names of the arrays in a group; if there are none, of links to arrays.

    is_array : whether a dataset or a group counts as an array; nothing in it counts then
    """
    found: list[str] = []
    links: list[str] = []
    seen, looked, complete = set(), 0, True
    waiting = [("", group)]
    while waiting:
        prefix, here = waiting.pop()
        for raw in _words(here):
            path = prefix + raw.decode("utf-8", "surrogateescape")
            looked += 1
            if looked > MOST_NAMES or len(path) > MOST_CHARACTERS:
                return Names(found, False)
            if here.id.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
                links.append(path)
                continue
            item = here[raw]
            info = h5py.h5o.get_info(item.id)
            place = info.fileno, info.addr
            if place in seen:
                continue
            seen.add(place)
            if is_array(item):
                found.append(path)
            elif isinstance(item, h5py.Group):
                waiting.append((f"{path}/", item))
    if not found:
        complete = len(links) <= MOST_LINKED
        for path in links[:MOST_LINKED]:
            with contextlib.suppress(*DAMAGE):
                end = follow(group, name, path)
                if end is not None and is_array(end.item):
                    found.append(path)
    return Names(sorted(found, key=lambda path: path.split("/")), complete)
