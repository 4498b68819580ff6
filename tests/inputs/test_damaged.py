"""Damaged data files: errors of the package only, and no crash of the process."""

import subprocess
import sys

import h5py
import numpy as np
import pytest
from marks import marked
from programs import PATIENCE

X = np.random.default_rng(0).standard_normal((40, 3))

# In a process of its own, which may crash. Prints how many of the spoilt files were refused, and
# how many were read with other numbers although their structure could tell.
SPOIL = """
import faulthandler, sys, warnings
from pathlib import Path
import numpy as np
import ntk_numba as nk
from ntk_numba.inputs.source import open_source

path, count = Path(sys.argv[1]), int(sys.argv[2])
data, rng = path.read_bytes(), np.random.default_rng(int(sys.argv[2]))
right = open_source(str(path), "X").read(0, 40)
new = path.with_name("spoilt" + path.suffix)
refused = other = 0
for k in range(count):
    faulthandler.dump_traceback_later(30, exit=True)  # of one file
    spoilt = bytearray(data)
    if k % 4 == 0:
        spoilt = spoilt[: rng.integers(len(data))]
    else:
        for at in rng.integers(0, len(data), rng.integers(1, 6)):
            spoilt[at] = rng.integers(256)
    new.write_bytes(spoilt)
    try:
        source = open_source(str(new), "X")
        if source.shape[0] * source.shape[1] > 1e9:  # a job of this size is refused by its plan
            continue
        found = source.check().read(0, min(40, source.shape[0]))
        other += found.shape != right.shape or not (found == right).all()
    except nk.NtkNumbaError as error:
        assert str(new) in str(error), str(error)
        refused += 1
    new.unlink()
print(refused, other)
"""


def write(path, kind):
    if kind == "npy":
        np.save(path, X)
    elif kind == "npz":
        np.savez_compressed(path, x=X)
    elif kind == "sparse.h5ad":
        # Without checksums of its metadata, as in older formats, HDF5 itself may loop for ever or
        # crash in a damaged group or string; that is not prevented. Strings of variable length are
        # in a heap without a checksum, so the one here has a fixed length.
        with h5py.File(path, "w", libver="latest") as file:
            group = file.create_group("X")
            group.attrs["encoding-type"], group.attrs["shape"] = np.bytes_("csr_matrix"), X.shape
            group["data"], group["indices"] = X.ravel(), np.tile(np.arange(3), 40)
            group["indptr"] = np.arange(0, 121, 3)
    else:
        options = {"chunks": (9, 2), "compression": "gzip", "fletcher32": True}
        with h5py.File(path, "w", libver="latest" if kind == "new.h5" else "earliest") as file:
            file.create_dataset("group/x", data=X, **(options if kind != "plain.h5" else {}))
            file["group"].attrs["text"] = "a text"
            file["soft"] = h5py.SoftLink("/group/x")


KINDS = ["npy", "npz", "plain.h5", "old.h5", "new.h5", "sparse.h5ad"]


@pytest.mark.parametrize("count", marked(pytest.mark.slow, [40, 4000]))
@pytest.mark.parametrize("kind", KINDS)
def test_spoilt_bytes(tmp_path, kind, count):
    path = tmp_path / f"x.{kind}"
    write(path, kind)
    command = [sys.executable, "-W", "error", "-c", SPOIL, path, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-2000:]
    refused, other = map(int, done.stdout.split())
    assert refused > count / 4
    if kind in ("npz", "new.h5"):  # all numbers and, unlike in old.h5, all shapes have a checksum
        assert other == 0
