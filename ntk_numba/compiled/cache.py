"""Numba's cache on disk, valid for one state of all compiled sources of the package.

`compiled.policy` and `compiled.loops` call `keep_on_disk` for the functions that they compile.
"""

import contextlib
import glob
import hashlib
import inspect
import os
import pickle
import sys
import uuid
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import (
    CompileResultCacheImpl,
    FunctionCache,
    InTreeCacheLocator,
    NullCache,
)
from numba.core.serialize import dumps

from ntk_numba.compiled import once, trust
from ntk_numba.notices import notice
from ntk_numba.terminal import escaped

ENDING = f".{sys.implementation.cache_tag}.nbc"  # of files with code for one version of Python

PACKAGE = Path(__file__).parent.parent
PACKAGE_NAME = __name__.partition(".")[0]
# The folders whose files neither compile anything nor have constants that compiled code reads.
# Editing these files leaves the cache valid; files of all other folders enter the digest.
NOT_COMPILED = frozenset(
    {
        "cli", "cluster", "compute", "factors", "gramfile", "inputs", "operators", "plots",
        "predict", "sklearn", "solvers", "theory", "validation",
    }
)  # fmt: skip


def _sources(package: Path) -> list[Path]:
    """Return all sources that may affect compiled code, in order."""
    found = package.rglob("*.py")
    return sorted(p for p in found if p.relative_to(package).parts[0] not in NOT_COMPILED)


@cache
def source_digest(package: Path = PACKAGE) -> str:
    """Return the SHA-256 of the names and contents of all sources that may affect compiled code.

    It is empty if one of them cannot be read.
    """
    digest = hashlib.sha256()
    with contextlib.suppress(OSError):
        for path in _sources(package):
            content = path.read_bytes()
            name = path.relative_to(package).as_posix()
            digest.update(f"{name} {len(content)} ".encode() + content)
        return digest.hexdigest()
    return ""


@cache
def _is_source(file: str) -> bool:
    """Return whether a file of this package is a source that enters the digest."""
    return Path(file) in _sources_at_first()


@cache
def _sources_at_first() -> frozenset[Path]:
    """Return the sources that exist when the first function is compiled."""
    return frozenset(_sources(PACKAGE))


def digest_is_complete() -> bool:
    """Return whether the digest covers all loaded modules that may affect compiled code.

    It does not if one of them is in a zip, or was installed without its source. Then nothing tells
    whether code that was kept is still right. Compiled functions read constants only of modules
    that were loaded before they were defined.
    """
    for name, module in list(sys.modules.items()):
        package, _, inner = name.partition(".")
        compiled = package == PACKAGE_NAME and inner.partition(".")[0] not in NOT_COMPILED
        if compiled and not _is_source(getattr(module, "__file__", None) or ""):
            return False
    return bool(source_digest())


class _Trusted:
    """A place of Numba's cache that counts as one that cannot be written if others can write it."""

    get_cache_path: Callable[[], str]

    def ensure_cache_path(self) -> None:
        folder = Path(self.get_cache_path())
        trust.make_folder(folder)
        try:
            trust.check_folder(folder)
        except trust.UntrustedError as error:
            if not isinstance(self, InTreeCacheLocator):  # an installation may be anyone's
                _refuse(str(error))
            raise
        super().ensure_cache_path()  # type: ignore[misc]


class _ReadOnlyLocator(InTreeCacheLocator):
    """The folder beside a source where no folder can be written: its code is read all the same."""

    def ensure_cache_path(self) -> None:
        pass


class _Places(CompileResultCacheImpl):
    """The places of Numba's cache, in its order, and the folder of the source as a last resort."""

    _locator_classes: list[Any] = [  # noqa: RUF012
        *(
            type(kind.__name__, (_Trusted, kind), {})
            for kind in CompileResultCacheImpl._locator_classes
        ),
        _ReadOnlyLocator,
    ]


class PackageCache(FunctionCache):
    """Numba's cache on disk, valid for one state of all compiled sources of the package.

    Code is read from the folder NUMBA_CACHE_DIR, if it is set, from ``__pycache__`` beside the
    source, and from the user's cache folder. It is saved in the first of them that can be written,
    and the later ones are not read. Numba itself would not read a folder that it cannot write, so
    that each process of a container with such an installation would compile.

    Reading code runs what it contains. So folders and files that users other than this one and
    root can write are neither read nor written (`trust`); a warning names them.

    Numba itself checks only the file of the compiled function. If a formula in another file were
    corrected, the cached code with the old formula would still be used.

    Notes
    -----
    These methods are hooks that Numba does not promise to keep. If one of them fails, for example
    because the folder cannot be written or because another version of Numba calls it differently,
    the function is compiled again and the job continues.
    """

    _impl_class = _Places

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        # The digest is computed now, since another version may be installed before the first
        # compilation.
        self._state, self._function = source_digest(), _identity(function)
        name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"
        written = Path(self.cache_path)
        self._cache_file: Any = _Entries(_folders(function, written), name, self._state)
        if isinstance(self._impl.locator, _ReadOnlyLocator):
            self._cache_path = None  # nothing can be kept

    def _index_key(self, sig: Any, codegen: Any, *_: Any, **__: Any) -> Any:
        return sig, codegen.magic_tuple(), self._function, self._state

    def load_overload(self, *args: Any, **kwargs: Any) -> Any:
        found = None
        with contextlib.suppress(Exception):
            found = super().load_overload(*args, **kwargs)
        if found is None:
            _say_that_it_compiles(NO_FOLDER if self.cache_path is None else "")
        return found

    def save_overload(self, *args: Any, **kwargs: Any) -> None:
        with contextlib.suppress(Exception):
            super().save_overload(*args, **kwargs)


class _NoCache(NullCache):
    """No cache, where the sources of the package are not all found: code is compiled each time."""

    def load_overload(self, *args: Any, **kwargs: Any) -> None:
        _say_that_it_compiles(NO_SOURCES)


def _folders(function: Callable[..., Any], written: Path) -> list[Path]:
    """Return the folders in which to look for code, in Numba's order, the written one last."""
    source = inspect.getfile(function)
    folders = [Path(source).parent / "__pycache__", written]
    if given := numba.config.CACHE_DIR:  # type: ignore[attr-defined]
        folders.insert(0, Path(given) / InTreeCacheLocator.get_suitable_cache_subpath(source))
    return folders[: folders.index(written) + 1]


@cache
def _refuse(why: str) -> None:
    """Warn once that a place of compiled code is not used."""
    warnings.warn(
        escaped(f"compiled code is not used where others could have put theirs: {why}; ")
        + "set NUMBA_CACHE_DIR to a folder that only you can write",
        stacklevel=2,
    )


# Why code is not kept, and what to do
NO_FOLDER = "no folder for compiled code can be written; set NUMBA_CACHE_DIR to one that can"
NO_SOURCES = (
    "code is kept only for sources that can be read; install the package as files, with its sources"
)


@cache
def _say_that_it_compiles(why: str) -> None:
    """Tell the user once why the first result takes its time.

    why : why the code is not kept; empty if it is
    """
    if why:
        notice(f"compiling, about 12 s in each process, since {why}")
    else:
        notice("compiling once, about 12 s; later runs find the compiled code on disk")


def keep_on_disk(compiler: Any, function: Callable[..., Any]) -> None:
    """Make a dispatcher or `CFunc` of a function keep its code on disk, if possible."""
    with contextlib.suppress(Exception):
        compiler._cache = PackageCache(function) if digest_is_complete() else _NoCache()
        compiler.compile = once.compilation()(compiler.compile)


def _identity(function: Callable[..., Any]) -> Any:
    """Return a key of a function, unique within one state of the sources, equal in all processes.

    A jitted function in a closure is identified by its name, since its pickle contains a number
    that differs between processes, and no process would find code that another has kept.
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
    """The cached code of one function: a file for each key, which is written whole or not at all.

    Numba numbers its files, in an index. Two processes that compile for two dtypes, or on two kinds
    of processors that share a home directory, may take the same number at the same time. From then
    on the index leads one of them to the code of the other. Here no two keys share a file, and
    there is no index. A file begins with the SHA-256 of its content, since a crash may leave it
    truncated.

    Parameters
    ----------
    folders : the folders to read from; files are saved in the last one
    name : the name of the function
    state : the digest of the sources; saving a file removes those of other states
    """

    def __init__(self, folders: list[Path], name: str, state: str) -> None:
        self._folders, self._name, self._state = folders, name, state[:16]

    def _file(self, key: Any) -> str:
        """Return the file of a key (signature, processor, bytecode, sources) and this Numba."""
        digest = hashlib.sha256(repr((key, numba.__version__)).encode()).hexdigest()[:32]
        return f"{self._name}-{self._state}-{digest}{ENDING}"

    def load(self, key: Any, *_: Any, **__: Any) -> Any:
        """Return the code that was saved with the key; None if there is none or it is damaged.

        If another process is compiling it, this one waits for it (`once`).
        """
        if (found := self._find(key)) is None:
            lock = self._folders[-1] / f"{self._file(key)}.lock"
            found = once.claim(lock, lambda: self._find(key))
        return found

    def _find(self, key: Any) -> Any:
        """Return the code that is on disk now."""
        for folder in self._folders:
            path = folder / self._file(key)
            try:
                trust.check_folder(folder)
                content = trust.read(path)
            except trust.UntrustedError as error:
                if os.path.lexists(path):
                    _refuse(str(error))
                continue
            except OSError:
                continue
            if hashlib.sha256(content[32:]).digest() == content[:32]:
                with contextlib.suppress(Exception):  # whatever a pickle of another kind raises
                    found, data = pickle.loads(content[32:])
                    if found == key:
                        return data
        return None

    def save(self, key: Any, data: Any, *_: Any, **__: Any) -> None:
        """Save compiled code; it replaces the code that was saved with the same key."""
        trust.check_folder(self._folders[-1])
        content = dumps((key, data))
        path = self._folders[-1] / self._file(key)
        new = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        try:
            new.touch(0o644, exist_ok=False)  # not writable for others, whatever the umask is
            new.write_bytes(hashlib.sha256(content).digest() + content)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
        current = f"{self._name}-{self._state}-"
        for old in self._folders[-1].glob(f"{glob.escape(self._name)}-*{ENDING}*"):
            if not old.name.startswith(current):
                old.unlink(missing_ok=True)
