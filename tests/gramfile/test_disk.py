import errno
import fcntl
import os

import numpy as np
import pytest

import ntk_numba as nk
from ntk_numba.compiled.arrays import PAGE, aligned
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.disk import set_direct, write_at
from ntk_numba.gramfile.tiles import TileFile


@pytest.fixture
def file(tmp_path):
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


@pytest.fixture
def block():
    array = aligned((4, PAGE), np.uint8)
    array[:] = np.random.default_rng(0).integers(256, size=array.shape)
    return array


def is_direct(fd):
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)


def can_be_direct(folder):
    """Return whether the file system supports direct writes, tested independently."""
    try:
        os.close(os.open(folder / "probe", os.O_RDWR | os.O_CREAT | os.O_DIRECT))
    except OSError:
        return False
    return True


def test_direct_where_the_file_system_can(file, tmp_path):
    set_direct(file, True)
    assert is_direct(file) == can_be_direct(tmp_path)
    set_direct(file, False)
    assert not is_direct(file)


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("at", [0, 2 * PAGE, 100])
def test_the_same_bytes_whether_direct_or_not(file, block, on, at):
    """The system refuses a direct write at byte 100, which is then made through the cache."""
    set_direct(file, on)
    write_at(file, block, at)
    set_direct(file, False)
    assert os.pread(file, block.size + 1, at) == block.tobytes()


def test_a_short_write_is_continued(file, block, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(disk.os, "pwrite", lambda fd, view, at: pwrite(fd, view[:1000], at))
    set_direct(file, True)
    write_at(file, block, PAGE)
    set_direct(file, False)
    assert os.pread(file, block.size + 1, PAGE) == block.tobytes()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EINVAL])
def test_other_errors_are_raised(file, block, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, "no")

    monkeypatch.setattr(disk.os, "pwrite", refuse)
    with pytest.raises(OSError, match="no"):
        write_at(file, block, 0)


@pytest.mark.parametrize(("n", "whole_pages"), [(700, True), (37, False)])
def test_a_job_writes_directly_where_its_tiles_are_whole_pages(
    tmp_path, monkeypatch, n, whole_pages
):
    seen = []
    write = TileFile.write

    def look(self, *arguments, **options):
        write(self, *arguments, **options)
        seen.append(is_direct(self._fd))

    monkeypatch.setattr(TileFile, "write", look)
    x = np.random.default_rng(0).standard_normal((n, 5))
    with nk.write_gram(nk.MLP(2), x, tmp_path / "g.h5", kernels=("nngp", "ntk")) as f:
        assert np.array_equal(f.ntk[:], nk.gram(nk.MLP(2), x).ntk)
        for dataset in (f.nngp, f.ntk):
            start = dataset.id.get_chunk_info_by_coord((0, 0)).byte_offset
            assert start % PAGE == 0 or not whole_pages
    assert set(seen) == {whole_pages and can_be_direct(tmp_path)}


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP])
def test_calls_that_a_file_system_lacks(tmp_path, file, monkeypatch, number):
    """A job goes on without them; other errors are raised."""

    def lacks(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(disk.os, "posix_fallocate", lacks)
    monkeypatch.setattr(disk, "sync", lacks)
    disk.allocate(file, 100)
    disk.rename(tmp_path / "f", tmp_path / "g")
    assert (tmp_path / "g").exists()
    number = errno.EIO
    for call in (lambda: disk.allocate(file, 100), lambda: disk.sync_folder(tmp_path)):
        with pytest.raises(OSError, match="Input/output"):
            call()


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(disk.os, "open", refuse)
    disk.sync_folder(tmp_path)
