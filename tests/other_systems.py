"""A job on a system that lacks what only Linux has, as far as Linux can be made such a system.

``python tests/other_systems.py macos FOLDER`` takes away from Python what macOS lacks, gives it the
calls of macOS in its place, and writes, completes, repairs, merges and uses Gram files. With
``linux`` it does the same on the system as it is, and with ``"macos without F_FULLFSYNC"`` as on a
network file system; all files have to be the same. It prints how often each kind of call was made,
as a JSON object. `test_other_systems` calls it.
"""

import errno
import fcntl
import functools
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

# By the headers of macOS; on Linux the first two numbers are those of other errors
ENOTSUP, EOPNOTSUPP = 45, 102
F_NOCACHE, F_GETPATH, F_FULLFSYNC = 48, 50, 51
LACKING = (
    "sched_getaffinity", "sched_setaffinity", "posix_fallocate", "posix_fadvise", "O_DIRECT",
    "O_TMPFILE", "preadv", "pwritev", "copy_file_range", "memfd_create", "splice", "getrandom",
)  # fmt: skip
counts: Counter[str] = Counter()


def become_macos(refused: int = 0) -> None:
    """Give this process the calls of macOS; call it before the package is imported.

    refused : the number of the error that F_FULLFSYNC raises, as on a network file system
    """
    for name in LACKING:
        if hasattr(os, name):
            delattr(os, name)
    errno.ENOTSUP, errno.EOPNOTSUPP = ENOTSUP, EOPNOTSUPP
    fcntl.F_NOCACHE, fcntl.F_GETPATH, fcntl.F_FULLFSYNC = F_NOCACHE, F_GETPATH, F_FULLFSYNC
    real = {
        "fcntl": fcntl.fcntl, "fsync": os.fsync, "open": os.open, "readlink": Path.readlink
    }  # fmt: skip

    def control(fd: int, command: int, argument: Any = 0) -> Any:
        if command == F_FULLFSYNC:
            counts["F_FULLFSYNC"] += 1
            if refused:
                raise OSError(refused, "refused")
            return real["fsync"](fd) or 0
        if command == F_GETPATH:
            counts["F_GETPATH"] += 1
            return bytes(real["readlink"](Path(f"/proc/self/fd/{fd}"))).ljust(len(argument), b"\0")
        if command == F_NOCACHE:
            counts["F_NOCACHE"] += 1
            return 0
        return real["fcntl"](fd, command, argument)

    def fsync(fd: int) -> None:
        counts["fsync"] += 1
        real["fsync"](fd)

    def open_or_duplicate(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        text = os.fsdecode(path)
        if not text.startswith("/dev/fd/"):
            return real["open"](path, flags, *arguments, **options)
        fd = int(text.removeprefix("/dev/fd/"))
        has = real["fcntl"](fd, fcntl.F_GETFL) & os.O_ACCMODE
        if has not in (os.O_RDWR, flags & os.O_ACCMODE):
            counts["refused for writing"] += 1
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return os.dup(fd)

    fcntl.fcntl, os.fsync, os.open = control, fsync, open_or_duplicate
    for name in ("read_text", "exists", "readlink", "is_dir"):
        setattr(Path, name, _without_proc(getattr(Path, name)))


def _without_proc(call: Any) -> Any:
    """Return a method of paths for which /proc and /sys do not exist; psutil uses none of them."""

    @functools.wraps(call)
    def method(self: Path, *arguments: Any, **options: Any) -> Any:
        if str(self).startswith(("/proc/", "/sys/")):
            counts["/proc"] += 1
            if call.__name__ in ("exists", "is_dir"):
                return False
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return call(self, *arguments, **options)

    return method


def work(folder: Path) -> None:
    """Write Gram files in all ways, and what is computed from them, to a folder."""
    import numpy as np

    import ntk_numba as nk
    from ntk_numba.gramfile import disk

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((500, 7)), rng.standard_normal((500, 2))
    data = folder / "x.npy"
    np.save(data, np.asfortranarray(x))
    net, path = nk.MLP(3, b_std=0.1), folder / "g.h5"

    # a disk that is full in the middle of the job, and the same call again
    write_at, calls = disk.write_at, iter(range(1000))

    def full(fd: int, block: Any, at: int) -> None:
        if next(calls) == 30:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_at(fd, block, at)

    def write(path: Path, **options: Any) -> Any:
        return nk.write_gram(net, data, path, kernels=("nngp", "ntk"), **options)

    disk.write_at = full
    try:
        write(path, threads=1)
    except nk.StoppedError:
        counts["stopped"] += 1
    disk.write_at = write_at
    with nk.open_gram(f"{path}.partial", incomplete=True) as f:
        assert not path.exists() and 0 < f.done.sum() < f.done.size
    with write(path) as f:
        assert f.verify() and (f.ntk[:] == nk.gram(net, x).ntk).all()
        solution = nk.solve(f.ntk, y, ridge=0.1, method="block_krylov").x
        np.savez(folder / "used.npz", product=f.ntk @ y, solution=solution)
        at = f.ntk.id.get_chunk_info_by_coord((0, 0)).byte_offset
        nk.cholesky(f.ntk, folder / "factor.h5", ridge=0.1).close()

    whole = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"damaged!")
    nk.repair(path, x)
    assert path.read_bytes() == whole

    parts = [write(folder / "parted.h5", part=(part, 2)) for part in (1, 2)]
    nk.merge([part.path for part in parts], folder / "merged.h5").close()
    assert (folder / "merged.h5").read_bytes() == whole
    nk.kernel_ridge(net, x, y, ridge=0.1).save(folder / "model.h5")


if __name__ == "__main__":
    system, folder = sys.argv[1:]
    if system.startswith("macos"):
        become_macos(ENOTSUP if "without F_FULLFSYNC" in system else 0)
    work(Path(folder))
    print(json.dumps(counts))
