import errno
import json
import re
import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest
from marks import marked
from programs import PATIENCE

import ntk_numba as nk
from ntk_numba.digest import Digest
from ntk_numba.gramfile import layout
from ntk_numba.gramfile.contents import Contents, Header
from ntk_numba.grid import Grid


@pytest.fixture(params=["last", "all"])
def contents(request):
    net = nk.MLP(3, ["abs", "relu"], b_std=0.1)
    layers = request.param
    x, z = Digest((150, 7), b"", (b"x" * 32,)), Digest((70, 7), b"e" * 32, (b"z" * 32,))
    grid = Grid(150, 70, False, 64)
    return Contents(
        kernels=("nngp", "ntk"),
        layers=layers,
        dtype=np.dtype("f4"),
        grid=grid,
        part=None,
        network=json.dumps(net.to_dict()),
        x=x,
        z=z,
    )


def created(path, contents):
    with path.open("w+b") as file:
        layout.create(file.fileno(), Header(contents, 5, "1.2", "haswell"))
    return path


def test_a_header_says_what_was_written(tmp_path, contents):
    path = created(tmp_path / "g.h5", contents)
    with layout.HDF5(path) as file:
        assert layout.read_header(file, path) == Header(contents, 5, "1.2", "haswell")


def test_the_same_contents_give_the_same_bytes(tmp_path, contents):
    first, second = (created(tmp_path / name, contents).read_bytes() for name in ("a.h5", "b.h5"))
    assert first == second


def test_places_are_those_that_hdf5_reads(tmp_path, contents):
    """HDF5 finds numbers that were written at the computed positions."""
    path = created(tmp_path / "g.h5", contents)
    with layout.HDF5(path) as file:
        where = layout.read_tile_map(file, path, contents)
    number = 0
    with path.open("r+b") as raw:
        for name in contents.kernels:
            for layer, i, j in np.ndindex(contents.matrices, 3, 2):
                number += 1
                raw.seek(where.tile_at(name, layer, i, j))
                raw.write(np.full(contents.grid.chunk, number, "f4").tobytes())
                raw.seek(where.checksum_at(name, layer, i, j))
                raw.write(number.to_bytes(8, "little"))
    assert raw.closed and path.stat().st_size >= contents.allocated_bytes
    number = 0
    with h5py.File(path) as file:
        for name in contents.kernels:
            values = file[name][:].reshape(-1, 150, 70)
            sums = file["checksums"][name][:].reshape(-1, 3, 2)
            for layer, i, j in np.ndindex(contents.matrices, 3, 2):
                number += 1
                tile = values[layer, i * 64 : (i + 1) * 64, j * 64 : (j + 1) * 64]
                assert (tile == number).all() and sums[layer, i, j] == number


def test_an_incomplete_file_is_read_all_the_same(tmp_path, contents):
    path = created(tmp_path / "g.h5", contents)
    assert not layout.is_incomplete(path)
    with path.open("r+b") as file:
        file.write(layout.INCOMPLETE)
    assert layout.is_incomplete(path)
    with layout.HDF5(path) as file:
        assert layout.read_header(file, path).contents == contents
    with pytest.raises(OSError, match="signature"):
        h5py.File(path)


def test_a_changed_attribute_is_noticed(tmp_path, contents):
    """HDF5 has no checksum for the characters of strings."""
    path = created(tmp_path / "g.h5", contents)
    data = path.read_bytes()
    at = data.index(b'"b_std": [0.1')
    path.write_bytes(data[: at + 12] + b"9" + data[at + 13 :])
    with (
        layout.HDF5(path) as file,
        pytest.raises(ValueError, match=r"g.h5 is damaged: its attributes have changed"),
    ):
        layout.read_header(file, path)


CHANGE_BITS = """
import sys
from pathlib import Path
from ntk_numba.gramfile.layout import HDF5, read_header, read_tile_map

path = Path(sys.argv[1])
def found():
    with HDF5(path) as file:
        header = read_header(file, path)
        return header, read_tile_map(file, path, header.contents)
right = found()
end = min(right[1].tiles.values())
heap = path.read_bytes().index(b"GCOL")
# testing all bits would take minutes
bits = {*range(0, 8 * end, 29), *range(8 * heap, 8 * heap + 4000)}
with path.open("r+b", buffering=0) as raw:
    for bit in sorted(bits)[:: int(sys.argv[2])]:
        raw.seek(bit // 8)
        (byte,) = raw.read(1)
        raw.seek(bit // 8)
        raw.write(bytes([byte ^ (1 << bit % 8)]))
        try:
            assert found() == right, bit  # a bit without a meaning
        except ValueError as error:
            assert f"{path} " in str(error)
        raw.seek(bit // 8)
        raw.write(bytes([byte]))
"""


@pytest.mark.parametrize("contents", marked(pytest.mark.slow, ["last", "all"]), indirect=True)
@pytest.mark.parametrize("every", marked(pytest.mark.slow, ["16", "3"]))
def test_bits_that_are_wrong_are_noticed(tmp_path, contents, every):
    """HDF5 has a checksum for all but the heap of strings, which can make it loop for ever."""
    path = created(tmp_path / "g.h5", contents)
    command = [sys.executable, "-c", CHANGE_BITS, path, every]
    subprocess.run(command, check=True, timeout=PATIENCE)


@pytest.mark.parametrize("depth", [1, 30, 3000])
def test_all_strings_are_looked_at(tmp_path, contents, depth):
    """The description of a deep network has a heap of its own."""
    net = nk.MLP(depth, ["abs"] * (depth - 1))
    path = created(
        tmp_path / "g.h5", replace(contents, network=json.dumps(net.to_dict()), layers="last")
    )
    with layout.HDF5(path) as file:
        assert layout.read_header(file, path).contents.net == net
    data = path.read_bytes()
    heaps = [match.start() for match in re.finditer(rb"GCOL\x01\x00\x00\x00", data)]
    assert len(heaps) == (2 if depth == 3000 else 1)
    for heap in heaps:
        at = heap + 16 + 8  # the length of its first string
        path.write_bytes(data[:at] + b"\xff" * 8 + data[at + 8 :])
        with pytest.raises(ValueError, match=r"g.h5 is damaged: its strings have sizes that"):
            layout.HDF5(path)


def test_differences_are_named(contents):
    net = nk.MLP(3, ["abs", "relu"], b_std=0.2)
    other = replace(contents, network=json.dumps(net.to_dict()), dtype=np.dtype("f8"))
    assert contents.differences(contents) == []
    assert contents.differences(other) == [
        "b_std is [0.2, 0.2, 0.2], not [0.1, 0.1, 0.1]", "dtype is float64, not float32"
    ]  # fmt: skip


def test_a_checksum_is_never_that_of_nothing(monkeypatch):
    block = np.arange(6.0)
    assert layout.checksum(block) == layout.checksum(block.tobytes()) != 0
    monkeypatch.setattr(layout.xxhash, "xxh3_64_intdigest", lambda block: 0)
    assert layout.checksum(block) == 1


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_locks(tmp_path, contents, monkeypatch, number):
    """HDF5 by itself reads on after ENOSYS only; its errors have this form."""
    path = created(tmp_path / "g.h5", contents)
    opened = h5py.File.__init__

    def refuse(self, *arguments, locking=None, **options):
        if isinstance(arguments[0], str) and locking is not False:
            raise OSError(f"Unable to open file (unable to lock file, errno = {number}, error ...")
        opened(self, *arguments, locking=locking, **options)

    monkeypatch.setattr(h5py.File, "__init__", refuse)
    with layout.HDF5(path) as file:
        assert layout.read_header(file, path).contents == contents


def test_a_file_that_another_program_writes(tmp_path, contents):
    path = created(tmp_path / "g.h5", contents)
    code = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        with pytest.raises(BlockingIOError, match=r"g.h5 is open for writing in another program"):
            layout.HDF5(path)
        process.stdin.close()


@pytest.mark.parametrize("locking", [None, True, False, "best-effort"])
def test_a_file_that_this_process_has_opened_by_h5py(tmp_path, contents, locking):
    """HDF5 refuses to open a file twice if its locks are used differently."""
    path = created(tmp_path / "g.h5", contents)
    with h5py.File(path, locking=locking), layout.HDF5(path) as file:
        assert layout.read_header(file, path).contents == contents
