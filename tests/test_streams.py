"""Processes whose standard streams are closed: no message is ever written into a data file."""

import os
import subprocess
import sys

import numpy as np
import pytest
from marks import marked
from programs import ENVIRONMENT

import ntk_numba as nk

# A job that ends in the middle of its tiles, as by a second Ctrl-C, after messages that libraries
# write to standard error. Its argument is the way it was started.
JOB = """
import os, sys
from ntk_numba.cli import program
from ntk_numba import stopping, write_gram, MLP
from ntk_numba.gramfile.tiles import TileFile

write = TileFile.write
written = []

def leave_at_the_third(self, *arguments, **options):
    write(self, *arguments, **options)
    written.append(1)
    if len(written) == 3:
        self.commit()
        for fd in (0, 1, 2):
            try:
                os.write(fd, b"a message of a library")
            except OSError:
                pass
        stopping.leave(program.FAREWELL)

TileFile.write = leave_at_the_third
words = ["gram", "x.npy", "-o", "g.h5", "--depth", "2", "--threads", "1", "--memory", "300MiB"]
how = sys.argv[1]
if how == "closed later":
    os.close(0), os.close(1), os.close(2)
if how in ("library", "closed later"):
    write_gram(MLP(2), "x.npy", "g.h5", threads=1)
program.main(words)
"""


def close_all():
    os.closerange(0, 3)


@pytest.mark.cluster
@pytest.mark.parametrize("executor", ["processes:2", "loky:2"])
def test_executors_need_no_streams(executor, tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(1).standard_normal((600, 3)))
    words = ["gram", "x.npy", "-o", "g.h5", "--depth=2", "--parts=2", f"--executor={executor}"]
    command = [sys.executable, "-m", "ntk_numba", *words]
    assert subprocess.run(
        command, cwd=tmp_path, env=ENVIRONMENT, timeout=100, preexec_fn=close_all
    ).returncode == 0  # fmt: skip
    assert nk.open_gram(tmp_path / "g.h5").verify()


@pytest.mark.parametrize("how", marked(pytest.mark.system, ["command", "library", "closed later"]))
def test_messages_never_reach_the_file(how, tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(1).standard_normal((1500, 3)))
    process = subprocess.run(
        [sys.executable, "-c", JOB, how], cwd=tmp_path, env=ENVIRONMENT, timeout=100,
        preexec_fn=None if how == "closed later" else close_all,
    )  # fmt: skip
    assert process.returncode == 3
    content = (tmp_path / "g.h5.partial").read_bytes()
    assert b"a message" not in content and b"stopped at once" not in content
    with nk.open_gram(tmp_path / "g.h5.partial", incomplete=True) as file:
        assert file.done.sum() >= 3
