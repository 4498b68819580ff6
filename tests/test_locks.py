"""File systems whose locks fail: files are read without, whatever the environment demands."""

import errno
import os
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
from marks import marked

import ntk_numba as nk

pytestmark = pytest.mark.skipif(
    shutil.which("gcc") is None, reason="no gcc: locks that fail were not tested at all"
)

# HDF5 and Python lock files by this call of the system
FAILING = """
#include <errno.h>
#include <stdlib.h>
int flock(int fd, int operation) { errno = atoi(getenv("FAILS_WITH")); return -1; }
"""

READ = """
import sys
import numpy as np
from ntk_numba import open_gram
from ntk_numba.inputs.source import open_sources

with open_gram("g.h5") as f, open_gram("link.h5") as g:
    assert f.verify() and g.verify() and np.array_equal(f.ntk[:], g.ntk[:])
for name in sys.argv[1:]:
    x, _ = open_sources(name, None)
    assert x.read(0, 150)[3, 5] == np.load("x.npy")[3, 5]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("locks")
    x = np.random.default_rng(0).standard_normal((150, 7))
    np.save(folder / "x.npy", x)
    net = nk.MLP(2)
    nk.write_gram(net, x, folder / "g.h5").close()
    parts = [nk.write_gram(net, x, folder / "p.h5", part=(i, 2)).path for i in (1, 2)]
    nk.merge(parts, folder / "link.h5", link=True).close()
    with h5py.File(folder / "x.h5", "w") as file:
        file["x"] = x
    layout = h5py.VirtualLayout(x.shape, x.dtype)
    layout[:] = h5py.VirtualSource("x.h5", "x", x.shape)
    with h5py.File(folder / "virtual.h5", "w") as file:
        file.create_virtual_dataset("x", layout)
    with h5py.File(folder / "external.h5", "w") as file:
        file["x"] = h5py.ExternalLink("x.h5", "x")
    (folder / "flock.c").write_text(FAILING)
    library = folder / "flock.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, folder / "flock.c"], check=True)
    return folder


def run(folder, number, demanded, *words):
    """Run Python where locks fail with an error."""
    names = {"LD_PRELOAD": str(folder / "flock.so"), "FAILS_WITH": str(number)}
    if demanded:
        names["HDF5_USE_FILE_LOCKING"] = demanded
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=os.environ | names, capture_output=True, text=True
    )


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_everything_is_read_without_locks(folder, number):
    answer = run(folder, number, "", "-c", READ, "x.h5", "virtual.h5", "external.h5")
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("demanded", marked(pytest.mark.system, ["TRUE", "BEST_EFFORT"]))
def test_gram_files_are_read_even_if_locks_are_demanded(folder, demanded):
    answer = run(folder, errno.ENOLCK, demanded, "-c", READ)
    assert answer.returncode == 0, answer.stderr
    for name in ("x.h5", "x.npy"):
        words = [name, "-o", "new.h5", "--depth", "2"]
        answer = run(folder, errno.ENOLCK, demanded, "-m", "ntk_numba", "gram", *words)
        assert answer.returncode == 2 and "HDF5_USE_FILE_LOCKING" in answer.stderr
        assert len(answer.stderr.splitlines()) == 1, answer.stderr


def test_a_file_that_another_process_writes_is_refused(folder):
    words = ["-m", "ntk_numba", "gram", "x.h5", "-o", "new.h5", "--depth", "2"]
    answer = run(folder, errno.EWOULDBLOCK, "", *words)
    assert answer.returncode == 2
    assert "x.h5 is open for writing in another process; wait" in answer.stderr
