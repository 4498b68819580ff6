"""Products, tiles and columns of Gram files against NumPy on the whole matrix."""

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from marks import marked

import ntk_numba as nk
from ntk_numba.gramfile import disk, products, tile_products
from ntk_numba.grid import Part
from ntk_numba.sums import Sums, balanced

NET = nk.MLP(3, "relu", b_std=0.1)
KINDS = ["full", "lower", "linked", "cross"]


def write(points, folder, kind, **options):
    """Write a Gram file of one of KINDS, of tiles of 64, and return its path."""
    path = folder / "g.h5"
    if kind == "linked":
        for i in (1, 2, 3):
            nk.write_gram(NET, points, path, part=(i, 3), **options).close()
        parts = [folder / f"g.part-{i}-of-3.h5" for i in (1, 2, 3)]
        nk.merge(parts, path, link=True).close()
    elif kind == "cross":
        nk.write_gram(NET, points, path, Z=points[:70], **options).close()
    else:
        nk.write_gram(NET, points, path, layout=kind, **options).close()
    return path


@pytest.fixture(params=marked(pytest.mark.slow, KINDS, ["lower"]))
def kind(request):
    return request.param


@pytest.fixture
def path(points, tmp_path, kind):
    return write(points, tmp_path, kind)


@pytest.fixture
def many_cores(monkeypatch):
    """Use as many threads as are asked for, whatever the machine has."""
    monkeypatch.setattr(tile_products, "threads_to_use", lambda threads: threads or 2)


def bits(array):
    return np.ascontiguousarray(array).tobytes()


@pytest.mark.parametrize("dtype", marked(pytest.mark.slow, ["float64", "float32"]))
def test_bits_do_not_depend_on_threads_layout_or_order_of_memory(
    points, tmp_path, dtype, many_cores
):
    v = np.random.default_rng(0).standard_normal((150, 20))
    found = set()
    for kind in ("full", "lower", "linked") if dtype == "float32" else ("full", "lower"):
        (tmp_path / kind).mkdir()
        with nk.open_gram(write(points, tmp_path / kind, kind, dtype=dtype)) as f:
            matrix = f.stored("ntk")
            counts = range(1, 9) if dtype == "float32" else (1, 3, 8)
            for threads in counts if kind == "lower" else (None,):
                found.add(bits(matrix.multiply(v, threads=threads)))
            found.add(bits((f.ntk @ np.asfortranarray(v)).astype(float)))
            found.add(bits((v.T @ f.ntk).T))
            matrix.direct = not matrix.direct
            found.add(bits(f.ntk @ v))
    assert len(found) == 1


def test_rectangular_bits_do_not_depend_on_threads(points, tmp_path, many_cores):
    with nk.open_gram(write(points, tmp_path, "cross")) as f:
        matrix = f.stored("ntk")
        for v, transpose in ((np.ones((70, 3)), False), (points[:, :3], True)):
            assert len({
                bits(matrix.multiply(v, transpose=transpose, threads=t)) for t in (1, 2, 8, None)
            }) == 1  # fmt: skip


def test_parts_have_the_bits_of_the_whole(points, tmp_path):
    v = np.random.default_rng(0).standard_normal((150, 3))
    with nk.open_gram(write(points, tmp_path, "lower")) as f:
        matrix = f.stored("ntk")
        right = matrix.multiply(v)
        rows, weights = matrix.bounds
        scaled, exponents = balanced(v, weights)
        for of in (1, 2, 5):
            sums = Sums(rows, np.ones(3))
            for number in reversed(range(of)):
                part = Sums(rows, np.ones(3))
                matrix.add_part(scaled, Part(number + 1, of), part)
                sums.merge(part.totals, part.rests)
            assert bits(np.ldexp(sums.result(), exponents)) == bits(right)


def test_a_part_of_a_job_multiplies_its_own_tiles(points, tmp_path):
    """With bounds that somebody else knows, as workers of a cluster do."""
    v = np.random.default_rng(0).standard_normal((150, 2))
    k = nk.gram(NET, points).ntk
    scale = np.sqrt(np.diag(k))
    scaled, exponents = balanced(v, scale)
    sums = Sums(scale, np.ones(2))
    for i in (1, 2, 3):
        with nk.write_gram(NET, points, tmp_path / "g.h5", part=(i, 3)) as f:
            f.stored("ntk").add_part(scaled, None, sums)
    assert np.allclose(np.ldexp(sums.result(), exponents), k @ v, rtol=1e-12)


def test_extreme_vectors(points, tmp_path):
    k = nk.gram(NET, points).ntk
    with nk.open_gram(write(points, tmp_path, "lower")) as f:
        for size in (1e300, 1e-300, 5e-324):
            v = np.sign(points) * size
            with np.errstate(over="ignore"):
                right, terms = k @ v, np.abs(k) @ np.abs(v)
            finite = np.isfinite(right)
            error = np.abs((f.ntk @ v)[finite] - right[finite])
            assert (error <= 1e-12 * terms[finite] + 1e-321).all()
        assert np.isinf((f.ntk @ np.full(150, 1.7e308)).max())
        mixed = np.where(np.arange(150) % 2, 1e-200, 1e200)
        assert np.allclose(f.ntk @ mixed, k @ mixed, rtol=1e-13)
        assert (f.ntk @ np.zeros(150) == 0).all() and (f.ntk @ np.zeros((150, 0))).shape == (150, 0)


@pytest.mark.parametrize("bad", [np.nan, -np.inf, np.longdouble("1e400"), complex(0, np.nan)])
def test_vectors_that_are_not_finite_are_refused(path, bad):
    with nk.open_gram(path) as f:
        rows, columns = f.shape
        v, w = np.zeros((columns, 3), type(bad)), np.zeros((2, rows), type(bad))
        v[5, 2] = w[1, 6] = bad
        with pytest.raises(ValueError, match=r"^the right factor: row 5 \(counted from 0\) is not"):
            f.ntk @ v
        with pytest.raises(ValueError, match=r"^the right factor: row 5 \(counted from 0\) is not"):
            f.ntk @ v[:, 2]
        with pytest.raises(ValueError, match=r"^the left factor: column 6 \(counted from 0\) is"):
            w @ f.ntk
        with pytest.raises(ValueError, match=r"^the left factor: row 6 \(counted from 0\) is"):
            w[1] @ f.ntk


def test_one_sample(tmp_path):
    x = np.array([[1.0, 2.0]])
    k = nk.gram(NET, x).ntk
    for layout in ("full", "lower"):
        with nk.write_gram(NET, x, tmp_path / f"{layout}.h5", layout=layout) as f:
            assert (f.ntk @ [2.0] == 2 * k[0]).all() and ([2] @ f.ntk == 2 * k[0]).all()
            ((rows, columns, block),) = f.blocks("ntk")
            assert (rows, columns) == (slice(0, 1), slice(0, 1)) and (block == k).all()


def test_kernels_of_extreme_size(tmp_path):
    x = np.random.default_rng(0).standard_normal((100, 4))
    v = np.random.default_rng(1).standard_normal((100, 2))
    for w_std in (1e-40, 1e38):
        net = nk.MLP(3, "relu", w_std=w_std)
        with nk.write_gram(net, x, tmp_path / f"{w_std}.h5", kernels="ntk", layout="lower") as f:
            k = f.ntk[...]
            assert np.allclose(f.ntk @ v, k @ v, rtol=1e-12, atol=0)
            assert np.allclose(f.ntk @ (1e60 * v), k @ (1e60 * v), rtol=1e-12, atol=0)


@pytest.fixture
def reads(monkeypatch):
    """Return the list of the positions at which tiles are read from now on."""
    found = []
    original = disk.read_at

    def read(fd, block, at):
        if block.dtype.kind == "f":
            found.append((fd, at))
        original(fd, block, at)

    monkeypatch.setattr(disk, "read_at", read)
    return found


def test_each_tile_is_read_once(path, reads):
    with nk.open_gram(path) as f:
        for use in (
            lambda: f.ntk @ np.ones(f.shape[1]),
            lambda: np.ones((2, f.shape[0])) @ f.ntk,
            lambda: list(f.blocks("ntk")),
            lambda: f.ntk @ np.ones((f.shape[1], 20)),
        ):
            reads.clear()
            use()
            assert len(reads) == len(set(reads)) == 6
        reads.clear()
        f.stored("ntk").columns(np.array([1, 1, 0]))
        assert len(reads) == 3


def test_diagonal_tiles_that_are_not_kept_are_read_again(points, tmp_path, reads, monkeypatch):
    with nk.open_gram(write(points, tmp_path, "lower")) as f:
        monkeypatch.setattr(products, "KEPT_BYTES", 2 * 64 * 64 * 8)
        reads.clear()
        first = f.ntk @ points
        assert len(reads) == 7 and len(set(reads)) == 6
        reads.clear()
        assert bits(f.ntk @ points) == bits(first) and len(reads) == 6


@pytest.mark.parametrize("layers", ["last", "all"])
def test_blocks_are_the_stored_tiles(points, tmp_path, kind, layers):
    options = {"kernels": ("nngp", "ntk")}
    path = write(points, tmp_path, kind, layers=layers, **options)
    z = points[:70] if kind == "cross" else None
    k = nk.gram(NET, points, z, layers=layers)
    with nk.open_gram(path) as f:
        for name in options["kernels"]:
            for layer in (None, *([1, 2, 3] if layers == "all" else [3])):
                right = getattr(k, name)
                right = right if layers == "last" else right[-1 if layer is None else layer - 1]
                count = np.zeros(right.shape, int)
                for rows, columns, block in f.blocks(name, layer):
                    assert (block == right[rows, columns]).all() and block.dtype == right.dtype
                    count[rows, columns] += 1
                    if kind != "cross" and rows != columns:
                        assert rows.start > columns.start
                        count[columns, rows] += 1
                assert (count == 1).all()
                v = np.arange(right.shape[1])[:, None].astype(float)
                assert np.allclose(f.stored(name, layer).multiply(v), right @ v, rtol=1e-13)
        for wrong, text in (
            (0, "at least 1"),
            (4, "has no layer 4: it has layer"),
            (True, "whole"),
        ):
            with pytest.raises((ValueError, TypeError), match=text):
                f.blocks("ntk", wrong)
        with pytest.raises(ValueError, match="kernel must be 'nngp' or 'ntk', not 'x'"):
            f.blocks("x")


def test_columns_in_any_order(path):
    with nk.open_gram(path) as f:
        k = f.ntk[...]
        chosen = np.array([69, 3, 3, 64, 0])
        for indices in (chosen, chosen[:0], np.arange(70)):
            assert (f.stored("ntk").columns(indices) == k[:, indices]).all()
        if f.contents.grid.symmetric:
            assert (f.stored("ntk").diagonal() == np.diag(k)).all()
        else:
            for use in (f.stored("ntk").diagonal, lambda: f.stored("ntk").bounds):
                with pytest.raises(ValueError, match=r"is of two data sets, 150 × 70, and has no"):
                    use()


def flip(path, at):
    """Flip a bit of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("when", ["before it is opened", "after a product"])
def test_a_damaged_tile_is_named(points, tmp_path, kind, when):
    path = write(points, tmp_path, kind)
    part = tmp_path / "g.part-2-of-3.h5" if kind == "linked" else path
    with nk.open_gram(part) as f:
        i, j = f.stored("ntk").places[-1].tolist()
        at = f.tile_map.tile_at("ntk", 0, i, j) + 8
    v = np.ones((70 if kind == "cross" else 150, 2))
    if when == "before it is opened":
        flip(part, at)
    with nk.open_gram(path) as f:
        if when != "before it is opened":
            f.ntk @ v
            flip(part, at)
        text = rf"^{part}: tile \({i}, {j}\) of ntk does not match its checksum"
        for use in (
            lambda: f.ntk @ v,
            lambda: list(f.blocks("ntk")),
            lambda: f.stored("ntk").columns(np.arange(v.shape[0])),
            lambda: f.operator("ntk") @ v,
        ):
            with pytest.raises(ValueError, match=text):
                use()
        flip(part, at)
        f.ntk @ v


def test_tiles_that_others_replace_are_noticed_although_their_checksums_fit(points, tmp_path):
    path = write(points, tmp_path, "lower")
    with nk.open_gram(path) as f, nk.open_gram(path) as other:
        f.ntk @ points
        with other.tiles(write=True) as tiles:
            tiles.write("ntk", 0, 1, 0, np.ones((64, 64)))
            tiles.commit()
        assert other.ntk[64, 0] == 1
        with pytest.raises(ValueError, match=r"tile \(1, 0\) of ntk does not match .* was changed"):
            f.ntk @ points
        assert f.stored("ntk").identity != other.stored("ntk").identity


def test_a_file_that_ends_too_early(points, tmp_path):
    path = write(points, tmp_path, "lower")
    with nk.open_gram(path) as f:
        f.ntk @ points
        at = f.tile_map.tile_at("ntk", 0, 2, 1)
        os.truncate(path, at + 100)
        with pytest.raises(
            ValueError, match=r"tile \(2, [12]\) of ntk cannot be read: the file is"
        ):
            f.ntk @ points


def test_a_file_that_is_replaced_is_read_to_the_end(points, tmp_path):
    path = write(points, tmp_path, "lower")
    (tmp_path / "other").mkdir()
    other = write(points * 2, tmp_path / "other", "lower")
    with nk.open_gram(path) as f:
        other.replace(path)
        assert np.allclose(f.ntk @ points, nk.gram(NET, points).ntk @ points, rtol=1e-11, atol=1e-6)


def test_a_closed_file_is_named(path):
    f = nk.open_gram(path)
    matrix, blocks, v = f.stored("ntk"), f.blocks("ntk"), np.ones((f.shape[1], 1))
    matrix.multiply(v)
    f.close()
    for use in (
        lambda: matrix.multiply(v),
        lambda: next(blocks),
        lambda: f.blocks("ntk"),
        lambda: f.operator("ntk"),
        lambda: f.ntk @ v,
    ):
        with pytest.raises(ValueError, match="closed; open it again"):
            use()


def test_an_incomplete_file_refuses_missing_tiles_and_sees_new_ones(points, tmp_path):
    path = write(points, tmp_path, "lower")
    k = nk.gram(NET, points).ntk
    with nk.open_gram(path) as f, f.tiles(write=True) as tiles:
        block = np.ascontiguousarray(k[64:128, :64])
        tiles.clear_checksum(("ntk", 0, 1, 0))
        tiles.begin_with(b"\x89NTK\r\n\x1a\n")
    with nk.open_gram(path, incomplete=True) as f:
        assert len(list(f.blocks("ntk"))) == 5
        for use in (lambda: f.ntk @ points, lambda: f.operator("ntk")):
            with pytest.raises(
                ValueError, match=r"tile \(0, 1\), rows from 0, columns from 64, is"
            ):
                use()
        with f.tiles(write=True) as tiles:
            tiles.write("ntk", 0, 1, 0, block)
            tiles.commit()
        assert len(list(f.blocks("ntk"))) == 6
        assert np.allclose(f.ntk @ points, k @ points, rtol=1e-11, atol=1e-6)


def test_a_matrix_that_is_no_kernel_is_refused(points, tmp_path):
    path = write(points, tmp_path, "lower")
    for entry, text in (
        (1e30, r"tile \(1, 0\) of ntk has entries that are larger than the diagonal allows"),
        (np.nan, r"tile \(1, 0\) of ntk has entries that are larger"),
    ):
        with nk.open_gram(path) as f, f.tiles(write=True) as tiles:
            tiles.write("ntk", 0, 1, 0, np.full((64, 64), entry))
            tiles.commit()
        with nk.open_gram(path) as f, pytest.raises(ValueError, match=text):
            f.ntk @ points
    with nk.open_gram(path) as f, f.tiles(write=True) as tiles:
        tiles.write("ntk", 0, 1, 1, -np.eye(64))
        tiles.commit()
    with (
        nk.open_gram(path) as f,
        pytest.raises(
            ValueError, match=r"the diagonal of ntk is -1.0 in row 64 \(counted from 0\)"
        ),
    ):
        f.ntk @ points


def test_a_file_that_was_stored_anew_is_refused(points, tmp_path):
    path = write(points, tmp_path, "full")
    with h5py.File(path, "r+") as file:
        values = file["ntk"][...]
        del file["ntk"]
        file.create_dataset("ntk", data=values, chunks=(50, 50))
    with nk.open_gram(path) as f:
        assert f.ntk[3, 5] == values[3, 5]
        with pytest.raises(ValueError, match=r"ntk is not stored as it was written \(repacked\?\)"):
            f.ntk @ points


NO_COMPILER = """
import sys
import numpy as np
import ntk_numba
with ntk_numba.open_gram(sys.argv[1]) as f:
    n = f.shape[1]
    f.ntk[[3, 1], [0, 0]], f.ntk @ np.ones((n, 2)), next(f.blocks("ntk")), f.ntk[5:9, ::2]
bad = sorted({name.partition(".")[0] for name in sys.modules} & {"numba", "llvmlite", "scipy"})
if not bad:
    with ntk_numba.open_gram(sys.argv[1]) as f:
        A = f.operator("ntk")
        A @ np.ones((n, 2)), A.columns([1])
    bad = sorted({name.partition(".")[0] for name in sys.modules} & {"numba", "llvmlite"})
sys.exit(f"imported {bad}" if bad else 0)
"""


@pytest.mark.slow
def test_neither_numba_nor_scipy_is_imported_and_only_scipy_for_an_operator(path):
    subprocess.run([sys.executable, "-c", NO_COMPILER, path], check=True)


def test_a_pass_keeps_few_tiles_in_memory(points, tmp_path, monkeypatch):
    made = []
    original = products.aligned
    monkeypatch.setattr(products, "aligned", lambda *a: made.append(1) or original(*a))
    with nk.open_gram(write(points, tmp_path, "lower")) as f:
        f.ntk @ points
        made.clear()
        for _ in range(3):
            f.ntk @ points
        assert len(made) <= 3 * max(tile_products.READERS, os.cpu_count())


def test_a_row_whose_diagonal_underflows_is_that_of_a_kernel(tmp_path):
    rng = np.random.default_rng(0)
    x, v = rng.standard_normal((70, 3)), rng.standard_normal((70, 2))
    x[9] *= 1e-195
    net = nk.MLP(2, "relu", 2**0.5)
    with pytest.warns(nk.UnderflowWarning):
        file = nk.write_gram(net, x, tmp_path / "g.h5", kernels="ntk")
    with file:
        k = file.ntk[:]
        assert k[9, 9] == 0 < np.abs(k[9]).max()
        np.testing.assert_allclose(file.ntk @ v, k @ v, rtol=0, atol=1e-13 * k.max())
