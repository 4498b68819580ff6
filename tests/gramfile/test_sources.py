"""Files that several threads share while they are open."""

import errno
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ntk_numba.gramfile.sources import OpenFiles, Reading


class File:
    """A stand-in for a `TileFile`."""

    def __init__(self):
        self.closed = 0

    def close(self):
        self.closed += 1


class Limited:
    """Opens files as a process does that may have `limit` descriptors."""

    def __init__(self, limit):
        self.limit, self.opened = limit, []

    def __call__(self, key):
        if sum(not file.closed for _, file in self.opened) >= self.limit:
            raise OSError(errno.EMFILE, "Too many open files")
        file = File()
        self.opened.append((key, file))
        return Reading(file, {})


def test_the_file_that_was_used_last_stays_open():
    limited = Limited(99)
    files = OpenFiles(limited, 2)
    for key in (1, 2, 1, 3, 1, 2):
        with files.use(key):
            assert len(files) <= 2
    assert [key for key, _ in limited.opened] == [1, 2, 3, 2]
    assert [file.closed for _, file in limited.opened] == [0, 1, 1, 0]
    files.close()
    assert all(file.closed == 1 for _, file in limited.opened)


def test_a_file_that_is_read_is_not_closed():
    limited = Limited(99)
    files = OpenFiles(limited, 1)
    with files.use(1), files.use(2), files.use(1):
        assert len(files) == 2 and not any(file.closed for _, file in limited.opened)
        files.close()
        assert not any(file.closed for _, file in limited.opened)
        with pytest.raises(ValueError, match="is closed; open it again"):
            files.use(1).__enter__()
    assert all(file.closed == 1 for _, file in limited.opened)


def test_others_are_closed_if_there_are_no_descriptors():
    files = OpenFiles(Limited(2), 8)
    for key in (1, 2, 3, 1):
        with files.use(key):
            assert len(files) <= 2


def test_a_thread_waits_for_a_descriptor():
    files, begun = OpenFiles(Limited(1), 8), threading.Event()

    def wait():
        begun.set()
        with files.use(2):
            return True

    with ThreadPoolExecutor(1) as pool:
        with files.use(1):
            waiting = pool.submit(wait)
            begun.wait()
            assert not waiting.done()
        assert waiting.result(timeout=10)


def test_without_any_descriptor_it_is_an_error():
    with pytest.raises(OSError, match="Too many open files"):
        OpenFiles(Limited(0), 8).use(1).__enter__()


def test_many_threads_with_few_descriptors():
    files = OpenFiles(Limited(2), 1)

    def read(k):
        with files.use(k % 5) as reading:
            assert not reading.tiles.closed
            return k

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(read, range(300))) == list(range(300))
