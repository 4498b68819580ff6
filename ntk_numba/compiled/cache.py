"""Numba's cache on disk, valid for one state of all sources of the package."""

import contextlib
import glob
import hashlib
import pickle
import sys
import uuid
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache
from numba.core.serialize import dumps

ENDING = f".{sys.implementation.cache_tag}.nbc"  # of files with code, of one version of Python


PACKAGE = Path(__file__).parent.parent
# Wings whose files neither compile anything nor have constants that compiled code reads, so that an
# edit of them compiles nothing again. A wing that is not in this list counts.
NOT_COMPILED = frozenset(
    {
        "cli", "cluster", "compute", "gramfile", "inputs", "plots", "predict", "theory",
        "validation",
    }
)  # fmt: skip


@cache
def source_digest(package: Path = PACKAGE) -> str:
    """Return the SHA-256 of all sources that may end up in compiled code, and of their names."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package)
        if name.parts[0] not in NOT_COMPILED:
            content = path.read_bytes()
            digest.update(f"{name.as_posix()} {len(content)} ".encode() + content)
    return digest.hexdigest()


class PackageCache(FunctionCache):
    """Numba's cache on disk, valid for one state of all our compiled sources.

    Numba itself looks only at the file of the compiled function. A corrected formula in another
    file would go unnoticed, and the old one would go on being used.

    Notes
    -----
    The methods here are hooks that Numba does not promise to keep. Whatever goes wrong in them, as
    when a folder cannot be written or when another Numba calls them differently, costs the time to
    compile and stops nothing.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        # now, and not when something is compiled: by then another version may be installed
        self._state, self._function = source_digest(), _identity(function)
        name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"
        self._cache_file: Any = _Entries(Path(self.cache_path), name, self._state)

    def _index_key(self, sig: Any, codegen: Any, *_: Any, **__: Any) -> Any:
        return sig, codegen.magic_tuple(), self._function, self._state

    def load_overload(self, *args: Any, **kwargs: Any) -> Any:
        with contextlib.suppress(Exception):
            return super().load_overload(*args, **kwargs)
        return None

    def save_overload(self, *args: Any, **kwargs: Any) -> None:
        with contextlib.suppress(Exception):
            super().save_overload(*args, **kwargs)


def keep_on_disk(compiler: Any, function: Callable[..., Any]) -> None:
    """Let a dispatcher or `CFunc` of a function keep its code on disk, if there is a folder."""
    with contextlib.suppress(Exception):
        compiler._cache = PackageCache(function)


def _identity(function: Callable[..., Any]) -> Any:
    """Return what tells a function from others of the same sources, in any process.

    A jitted function in a closure is told by its name: pickled, it has another number in each
    process, so that no process would find the code that another one kept.
    """
    code, cells = function.__code__, function.__closure__ or ()
    closure = [cell.cell_contents for cell in cells]
    return (
        f"{function.__module__}.{function.__qualname__}",
        hashlib.sha256(code.co_code).hexdigest(),
        *(
            _identity(value.py_func)
            if hasattr(value, "py_func")
            else hashlib.sha256(dumps(value)).hexdigest()
            for value in closure
        ),
    )


class _Entries:
    """What is kept of one function: a file for each key, named by it, whole or not at all.

    Numba numbers its files, in an index. Two processes that compile for two dtypes, or on two kinds
    of processors that share a home, may take the same number at the same time: from then on the
    index leads one of them to the other's code. Here no two keys share a file, and there is no
    index. A file begins with the SHA-256 of the rest, since a crash may leave it cut.

    Parameters
    ----------
    folder : where they are
    name : the function's
    state : of our sources; when one of this state is kept, those of others go
    """

    def __init__(self, folder: Path, name: str, state: str) -> None:
        self._folder, self._name, self._state = folder, name, state[:16]

    def _path(self, key: Any) -> Path:
        """The file of a key: signature, processor, bytecode, sources; and of this Numba."""
        digest = hashlib.sha256(repr((key, numba.__version__)).encode()).hexdigest()[:32]
        return self._folder / f"{self._name}-{self._state}-{digest}{ENDING}"

    def load(self, key: Any, *_: Any, **__: Any) -> Any:
        """What was saved with the key; None if that is nothing, or damaged."""
        try:
            content = self._path(key).read_bytes()
        except OSError:
            return None
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            return None
        found, data = pickle.loads(content[32:])
        return data if found == key else None

    def save(self, key: Any, data: Any, *_: Any, **__: Any) -> None:
        """Keep compiled code, in place of what has the same key."""
        content = dumps((key, data))
        path = self._path(key)
        new = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        try:
            new.write_bytes(hashlib.sha256(content).digest() + content)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
        mine = f"{self._name}-{self._state}-"
        for old in self._folder.glob(f"{glob.escape(self._name)}-*{ENDING}*"):
            if not old.name.startswith(mine):
                old.unlink(missing_ok=True)
