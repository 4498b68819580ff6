"""No byte of a model file can change unnoticed, and no claim of a forged one is believed."""

import contextlib
import errno
import json
import os

import h5py
import numpy as np
import pytest
import xxhash

import ntk_numba as nk
from ntk_numba.gramfile import disk
from ntk_numba.predict import model_file
from ntk_numba.predict.model_file import MARK, is_model, read_model

X = np.random.default_rng(0).standard_normal((12, 3))
Y = np.column_stack([X[:, 0], X[:, 1] * X[:, 2]])


@pytest.fixture(scope="module")
def model():
    return nk.kernel_ridge(nk.MLP(3, b_std=0.1), X, Y, preprocess="standardize")


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.h5"
    model.save(path)
    return path.read_bytes()


@pytest.fixture
def path(written, tmp_path):
    path = tmp_path / "m.h5"
    path.write_bytes(written)
    return path


def test_other_programs_read_it(path, model):
    with h5py.File(path) as file:
        assert file.attrs["format"] == b"ntk_numba model" and file.attrs["format_version"] == 1
        assert json.loads(file["notes"][:].tobytes())["net"] == model.net.to_dict()
        assert (file["dual_coef"][:] == model.dual_coef).all()
        assert np.allclose(file["samples"][:], (X - X.mean(0)) / X.std(0), rtol=1e-14, atol=0)
        assert np.allclose(file["mean"][:], X.mean(0), rtol=1e-15, atol=1e-17)
    assert is_model(path) and not is_model(path.with_name("none"))


def refused(path, data):
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"m.h5 (is no model|is damaged or truncated)"):
        read_model(path)


def test_a_changed_byte(path, written):
    for at in [*range(24), *range(24, len(written), 199)]:
        refused(path, written[:at] + bytes([written[at] ^ 1 << at % 8]) + written[at + 1 :])


@pytest.mark.slow
def test_many_changed_bytes(path, written):
    for at in range(3, len(written), 7):
        refused(path, written[:at] + bytes([written[at] ^ 1 << at % 8]) + written[at + 1 :])


def test_a_truncated_or_longer_file(path, written):
    for length in [*range(0, 20), *range(20, len(written), 199), len(written) - 1]:
        refused(path, written[:length])
    refused(path, written + b"\0")


def test_what_is_no_model(path, tmp_path):
    nk.write_gram(nk.MLP(2), X, tmp_path / "g.h5").close()
    for other in (tmp_path / "g.h5", tmp_path / "x.npy"):
        np.save(tmp_path / "x.npy", X)
        with pytest.raises(ValueError, match="is no model that ntk_numba has written"):
            nk.load_model(other)
    with pytest.raises(ValueError, match=r"not one that ntk-numba gram wrote \(it is a model"):
        nk.open_gram(path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        nk.load_model(tmp_path / "none.h5")
    with pytest.raises(IsADirectoryError, match="name a model file"):
        nk.load_model(tmp_path)
    for wrong in (None, 3, b"m.h5", "a\0b"):
        with pytest.raises((ValueError, TypeError), match=r"path (must be|holds the character 0)"):
            nk.load_model(wrong)
    with pytest.raises(OSError, match="x cannot be read: File name too long"):
        nk.load_model("x" * 300)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is a device or a pipe"):
        nk.load_model(tmp_path / "pipe")


def forge(path, change):
    """Change a model by HDF5, and give it the right checksum."""
    with h5py.File(path, "r+") as file:
        change(file)
    data = bytearray(path.read_bytes())
    digest = xxhash.xxh3_64(MARK + bytes(data[len(MARK) + 8 :])).digest()
    data[: len(MARK) + 8] = MARK + digest
    path.write_bytes(data)


def put(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


def replace(name, data=None, **options):
    def change(file):
        del file[name]
        file.create_dataset(name, data=data, **options)

    return change


def note(**changes):
    """Return a change of the notes, of any length."""

    def change(file):
        notes = json.loads(file["notes"][:].tobytes()) | changes
        text = np.frombuffer(json.dumps(notes).encode(), np.uint8)
        del file["notes"]
        file["notes"] = text
        file.attrs["notes_bytes"] = len(text)

    return change


HUGE = 2**40
FORGED = {
    "a newer version": (put("format_version", 2), "has format version 2, and this package reads 1"),
    "another format": (put("format", "ntk_numba gram"), "its format is"),
    "an unknown kind": (put("kind", "svm"), "it is a 'svm'"),
    "an unknown kernel": (put("kernel", "ensemble"), "the kernel 'ensemble', which is unknown"),
    "a number as a text": (put("kernel", 3), "its attribute kernel is not a text"),
    "a list": (put("rows", np.arange(3)), "its attribute rows is not a whole number"),
    "too many rows": (put("rows", HUGE), "rows is"),
    "other rows": (put("rows", 11), "is not float64 of shape"),
    "an unknown activation": (
        note(net=nk.MLP(2).to_dict() | {"activation": ["none"]}), "none",
    ),
    "no network": (note(net=[]), "describes no network"),
    "a negative ridge": (put("ridge", -1.0), "its ridge is -1"),
    "no ridge": (put("ridge", np.nan), "its ridge is nan"),
    "a strange dtype": (put("dtype", "int8"), "its dtype is 'int8'"),
    "missing coefficients": (lambda file: file.__delitem__("dual_coef"), "no dataset dual_coef"),
    "NaN": (replace("dual_coef", np.full((12, 2), np.nan)), "dual_coef has numbers that are not"),
    "a huge dataset": (
        replace("samples", shape=(HUGE, 3), dtype="f8", chunks=(8, 3)), "is not float64 of shape",
    ),
    "chunks": (replace("samples", X, chunks=(4, 3)), "not stored as it was written"),
    "values outside": (
        replace("samples", shape=(12, 3), dtype="f8", external=[("x", 0, 288)]), "outside the file",
    ),
    "a link": (
        lambda file: (file.__delitem__("samples"),
                      file.__setitem__("samples", h5py.ExternalLink("x.h5", "x"))),
        "samples does not hold float32 or float64",
    ),
    "a scale of 0": (replace("scale", np.zeros(3)), "a number that is not positive"),
    "notes that are none": (replace("notes", np.zeros(9, "u1")), "notes is not uint8 of shape"),
    "a list of notes": (
        lambda file: (replace("notes", np.frombuffer(b"[]", "u1"))(file),
                      put("notes_bytes", 2)(file)),
        "are no JSON object",
    ),
    "flat": (note(flat=True), "does not say whether it has one output"),
    "a norm": (note(up_to="a"), "its largest norm is 'a'"),
    "classes": (note(classes=["a", 1]), "its classes are not 2 labels of one type"),
    "one class": (note(classes=["a"]), "its classes are not 2 labels of one type"),
    "names": (note(target_names=[1, 2]), "its targets have no names that fit"),
    "too many names": (note(target_names=["a", "b", "c"]), "its targets have no names that fit"),
    "a time": (
        lambda file: (put("kind", "gaussian_process")(file), note(time="-1")(file)), "time must be",
    ),
    "a choice": (note(choice={"a": 1}), "its ridge was chosen in an unknown way"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_file_with_a_right_checksum(path, name):
    change, message = FORGED[name]
    forge(path, change)
    with pytest.raises(ValueError, match=f"m.h5 cannot be used: .*{message}"):
        nk.load_model(path)


@pytest.mark.slow
def test_random_bytes_under_a_right_checksum(path, written):
    """They are read or refused, without a crash and without end."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(written)
        for at in rng.integers(model_file.USER_BLOCK, len(data), rng.integers(1, 4)):
            data[at] = rng.integers(256)
        data[: len(MARK) + 8] = MARK + xxhash.xxh3_64(MARK + bytes(data[len(MARK) + 8 :])).digest()
        path.write_bytes(data)
        with contextlib.suppress(ValueError):
            nk.load_model(path)


def test_a_forged_file_that_only_has_other_strings(path):
    forge(path, note(target_names=["a", "b"]))
    assert nk.load_model(path).target_names == ["a", "b"]


def test_a_disk_that_cannot_be_read(path, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(disk, "read_at", fail)
    with pytest.raises(OSError, match=r"m.h5 cannot be read: Input/output error"):
        read_model(path)


def test_names_that_could_not_be_read(model, tmp_path, monkeypatch):
    monkeypatch.setattr("ntk_numba.predict.model_file.MOST_NOTES", 10)
    with pytest.raises(ValueError, match=r"names of the model's classes and targets take .* bytes"):
        model.save(tmp_path / "n.h5")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_no_file(model, tmp_path, monkeypatch):
    original = disk.write_at

    def fail(fd, block, at):
        if at > model_file.USER_BLOCK:  # not the lock file
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(fd, block, at)

    monkeypatch.setattr(disk, "write_at", fail)
    with pytest.raises(OSError, match=r"m.h5 cannot be written: No space left on device"):
        model.save(tmp_path / "m.h5")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_changes_while_it_is_read(path, monkeypatch):
    original = model_file._read

    def change(file, fd, name):
        os.utime(path, ns=(0, 0))
        return original(file, fd, name)

    monkeypatch.setattr(model_file, "_read", change)
    with pytest.raises(OSError, match="has changed while it was read"):
        read_model(path)
