"""Helpers that write the parts of a job, and that stop a merge."""

import ntk_numba as nk
from ntk_numba.cluster import merge as merging

NET = nk.MLP(3, "relu", b_std=0.1)
OF = 5


def parts_of(x, folder, of=OF, z=None, **options):
    """Write all parts of a job, and return their paths."""
    paths = []
    for number in range(1, of + 1):
        with nk.write_gram(NET, x, folder / "g.h5", Z=z, part=(number, of), **options) as f:
            paths.append(f.path)
    return paths


class Stop(BaseException):
    """An exception that stops a job or a merge here, as that of a signal does."""


def stop_after(monkeypatch, count):
    """Stop a merge after `count` tiles are copied."""
    monkeypatch.setattr(merging, "COMMIT_BYTES", 1)
    monkeypatch.setattr("ntk_numba.gramfile.tiles.BATCH", 1)
    left = [count]

    def check():
        left[0] -= 1
        if left[0] < 0:
            raise Stop

    monkeypatch.setattr(merging.stopping, "check", check)
