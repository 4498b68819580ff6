import ast
import errno
import gc
import importlib
import importlib.util
import itertools
import os
import shutil
import subprocess
import sys
import threading
import types

import numba
import pytest
from marks import marked

from ntk_numba.compiled import cache as package_cache
from ntk_numba.compiled.loops import compile_by_address
from ntk_numba.compiled.policy import kernel


def test_cached_code_goes_stale_with_any_compiled_source(monkeypatch):
    """Numba's own cache would still use an old formula from another file."""
    from ntk_numba.engine.dual import _pairs

    def key():
        cache = package_cache.PackageCache(_pairs.py_func)
        return cache._index_key((), _pairs.targetctx.codegen())

    before = key()
    assert before == key()
    monkeypatch.setattr(package_cache, "source_digest", lambda: "another state of the sources")
    assert key() != before


def sources(package):
    """Return the sources of a package, and for each whether it may be compiled."""
    files = sorted(package.rglob("*.py"))
    wings = {path: path.relative_to(package).parts[0] for path in files}
    return files, {path: wings[path] not in package_cache.NOT_COMPILED for path in files}


def imports(path):
    """Yield (module, name) of everything that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


def test_every_edit_of_a_source_that_is_compiled_changes_the_digest(tmp_path):
    package = tmp_path / "package"
    shutil.copytree(package_cache.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))

    def digest():
        return package_cache.source_digest.__wrapped__(package)

    before = digest()
    assert before == package_cache.source_digest()
    files, compiled = sources(package)
    wings = {path.relative_to(package).parts[0] for path in files if compiled[path]}
    assert wings >= {"activations", "compiled", "duals", "engine", "finite_width", "grid.py"}
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content + b"CONSTANT = 1e-10\n")
        assert (digest() != before) == compiled[path], path
        path.write_bytes(content)
    (package / "engine" / "deeper").mkdir()
    for new in (package / "new" / "file.py", package / "engine" / "deeper" / "file.py"):
        new.parent.mkdir(exist_ok=True)
        new.write_text("")
        assert digest() != before
        new.unlink()
    assert digest() == before
    (package / "grid.py").rename(package / "lattice.py")
    assert digest() != before


def test_files_that_the_digest_leaves_out_are_not_compiled():
    """Such a file has no compiled function, and no constant that a compiled function may read."""
    package = package_cache.PACKAGE
    compilers = {
        f"ntk_numba.compiled.{name}" for name in ("policy", "intrinsics", "loops", "parallel")
    }
    assert all((package / name).is_dir() for name in package_cache.NOT_COMPILED)
    files, compiled = sources(package)
    for path in files:
        for module, name in imports(path):
            full = f"{module}.{name}"
            if not compiled[path]:
                assert module.partition(".")[0] not in ("numba", "llvmlite"), path
                assert not compilers & {module, full}, path
                assert name != "per_dtype", path
            elif any(module.startswith(f"ntk_numba.{w}.") for w in package_cache.NOT_COMPILED):
                value = getattr(importlib.import_module(module), name)
                assert isinstance(value, type | types.FunctionType), f"{path} reads {full}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "first", ["4, 'relu', 1, 0.1", "7, ['abs'] * 6, 2, 0", "3, ['erf', 'tanh']"]
)
def test_a_second_process_compiles_nothing(first, tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    code = (
        "import ntk_numba as nk, numpy as np; from numba.core import event;"
        "event.register('numba:compile', heard := event.RecordingListener());"
        f"nk.gram(nk.MLP({first}), np.ones((3, 2)));"
        "print(len(heard.buffer) > 0)"
    )
    run = [sys.executable, "-c", code]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "True\n"
    kept = files(tmp_path)
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "False\n"
    run[2] = code.replace(first, "3, 'leaky_relu:0.2', 1, 2")
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "False\n"
    assert files(tmp_path) == kept


def identity(x):
    return x


def do_nothing(x):
    pass


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the folder of the compiled code."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def saved_in_turns(order):
    """Let two caches save code at once, step by step; return the code that each key leads to.

    A step ends when a file gets its name, the only moment that other processes can observe.
    """
    caches = [package_cache.PackageCache(identity)._cache_file for _ in range(2)]
    turns = [threading.Semaphore(0) for _ in caches]
    pauses = threading.Semaphore(0)
    ended = [False, False]  # a thread is alive for a moment after its last step
    replace = os.replace

    def paused(old, new):
        pauses.release()
        assert turns[int(threading.current_thread().name)].acquire(timeout=10)
        replace(old, new)

    def save(k):
        assert turns[k].acquire(timeout=10)
        caches[k].save(("key", k), f"code {k}")
        ended[k] = True
        pauses.release()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", paused)
        threads = [threading.Thread(target=save, args=(k,), name=str(k)) for k in range(2)]
        for thread in threads:
            thread.start()
        for k in order:
            if not ended[k]:
                turns[k].release()
                assert pauses.acquire(timeout=10)
        for turn, thread in zip(turns, threads, strict=True):
            turn.release(9)
            thread.join()
    return [package_cache.PackageCache(identity)._cache_file.load(("key", k)) for k in range(2)]


@pytest.mark.parametrize("order", sorted(set(itertools.permutations([0, 0, 0, 1, 1, 1]))))
def test_two_caches_that_save_at_once_load_their_own_code(order, folder):
    assert saved_in_turns(order) == ["code 0", "code 1"]


@pytest.mark.parametrize("dtypes", marked(pytest.mark.slow, ["f4 f8", "f4 f8 i4 i8 c8 c16"]))
def test_processes_that_compile_for_many_dtypes_at_once(dtypes, tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "module.py").write_text(
        "from ntk_numba.compiled.policy import kernel\n@kernel()\ndef first(x):\n    return x[0]\n"
    )
    code = (
        "import sys, numpy as np\nfrom module import first\n"
        "if sys.argv[2] == 'wait':\n"
        "    save = first._cache.save_overload\n"
        "    first._cache.save_overload = lambda *a: (print(flush=True), input(), save(*a))\n"
        "x = np.array([3, 4], sys.argv[1])\n"
        "print(first(x) == 3, sum(first.stats.cache_hits.values()), len(first.signatures))"
    )
    dtypes = dtypes.split()
    count = len(dtypes)

    def start(*arguments):
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path,
        )  # fmt: skip

    processes = [start(dtype, "wait") for dtype in dtypes]
    assert [process.stdout.readline() for process in processes] == ["\n"] * count
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate()[0] for process in processes] == ["True 0 1\n"] * count
    assert [start(dtype, "").communicate()[0] for dtype in dtypes] == ["True 1 1\n"] * count
    assert len(files(tmp_path / "cache")) == count


def test_damaged_code_is_compiled_again(folder):
    cache = package_cache.PackageCache(identity)._cache_file
    cache.save("key", list(range(1000)))
    (path,) = files(folder)
    whole = path.read_bytes()
    assert cache.load("key") == list(range(1000))
    for damaged in (b"", whole[:20], whole[:-1], whole[:99] + b"\0" + whole[100:]):
        path.write_bytes(damaged)
        assert cache.load("key") is None
    # another key's file, which only a collision of SHA-256 could put here
    cache.save("other", 1)
    next(p for p in files(folder) if p != path).replace(path)
    assert cache.load("key") is None


def test_code_of_other_sources_is_removed(folder, monkeypatch):
    package_cache.PackageCache(identity)._cache_file.save("key", 1)
    package_cache.PackageCache(identity)._cache_file.save("another", 2)
    old = files(folder)
    others = [old[0].with_name(name) for name in ("test_cache.identity2-0-0.nbc", "x.py")]
    for path in others:
        path.touch()
    monkeypatch.setattr(package_cache, "source_digest", lambda: "f" * 64)
    package_cache.PackageCache(identity)._cache_file.save("key", 3)
    assert len(old) == 2 and not any(path.exists() for path in old)
    assert all(path.exists() for path in others) and len(files(folder)) == 3


@pytest.mark.parametrize("call", ["write_bytes", "replace"])
def test_code_that_cannot_be_saved_is_compiled_and_runs(call, folder, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"pathlib.Path.{call}", full)
    function = kernel()(identity)
    assert function(3) == 3
    assert files(folder) == []


def changed_arguments(method):
    """Return a method that is called with additional arguments, as by another version of Numba."""
    return lambda self, *args: method(self, *args, "new", flag=True)


def refused(*_, **__):
    raise TypeError("unexpected argument")


@pytest.mark.parametrize("hook", ["save", "load"])
def test_new_arguments_of_hooks_are_ignored(hook, folder, monkeypatch):
    entries = package_cache._Entries
    monkeypatch.setattr(entries, hook, changed_arguments(getattr(entries, hook)))
    for hits in (0, 1):
        function = kernel()(identity)
        assert function(3) == 3
        assert sum(function.stats.cache_hits.values()) == hits
    assert len(files(folder)) == 1


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (package_cache._Entries, "save"),
        (package_cache._Entries, "load"),
        (package_cache.PackageCache, "_index_key"),
        (package_cache.FunctionCache, "load_overload"),
        (package_cache.FunctionCache, "save_overload"),
        (package_cache.FunctionCache, "__init__"),
    ],
)
@pytest.mark.parametrize("change", ["raises", "is gone"])
def test_hooks_of_another_numba_cost_time_only(owner, name, change, folder, monkeypatch):
    if change == "raises":
        monkeypatch.setattr(owner, name, refused)
    elif name == "__init__":
        monkeypatch.delattr(package_cache.FunctionCache.__base__, "cache_path")
    elif name in vars(owner):
        monkeypatch.delattr(owner, name)
    for _ in range(2):
        assert kernel()(identity)(3) == 3
    compiled = compile_by_address(do_nothing, ((numba.types.intp,), numba.types.void))
    assert compiled.address != 0


def test_without_a_cache_folder_code_is_compiled_and_runs(folder, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    function = kernel()(identity)
    assert function(4) == 4 and function.stats.cache_path is None
    assert files(folder) == []


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Return a function that compiles one of a package; only the folders in `writable` take code.

    The function returns the number of hits and the notices that it caused. Root may write
    everywhere, so that the locators of Numba and the cache are refused here.
    """
    import tempfile
    from pathlib import Path

    said, folder = [], tmp_path / "site" / "some_package"
    folder.mkdir(parents=True)
    (folder / "first.py").write_text("def first(x):\n    return x\n")
    spec = importlib.util.spec_from_file_location("first", folder / "first.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "first", module)  # code that is read imports its module
    writable = [str(tmp_path)]
    temporary, write_bytes = tempfile.TemporaryFile, Path.write_bytes

    def check(place):
        if not any(str(place).startswith(allowed) for allowed in writable):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(
        tempfile, "TemporaryFile", lambda *a, dir, **k: (check(dir), temporary(*a, dir=dir, **k))[1]
    )
    monkeypatch.setattr(
        Path, "write_bytes", lambda path, content: (check(path), write_bytes(path, content))[1]
    )
    monkeypatch.setattr(package_cache, "notice", said.append)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))

    def compile_first(*allowed, argument=3):
        writable[:] = [str(tmp_path / name) for name in allowed]
        said.clear()
        package_cache._say_that_it_compiles.cache_clear()
        gc.collect()  # what another process would not have
        function = kernel()(module.first)
        assert function(argument) == argument
        return sum(function.stats.cache_hits.values()), list(said)

    return compile_first


@pytest.mark.parametrize("later", [(), ("user",)])
def test_code_in_a_folder_that_cannot_be_written_is_read(later, installed, tmp_path):
    hits, said = installed("site", "user")
    assert hits == 0 and len(said) == 1 and "compiling once" in said[0]
    kept = files(tmp_path / "site")
    assert any(path.suffix == ".nbc" for path in kept)
    for _ in range(2):
        assert installed(*later) == (1, [])
    assert files(tmp_path / "site") == kept and files(tmp_path / "user") == []


@pytest.mark.parametrize("later", [(), ("site", "user")])
def test_so_is_code_in_the_folder_that_numba_is_told(later, installed, tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "told"))
    installed("told", "site", "user")
    kept = files(tmp_path / "told")
    assert kept and installed(*later) == (1, [])
    assert files(tmp_path / "told") == kept and files(tmp_path / "user") == []


def test_code_that_such_a_folder_lacks_is_kept_for_the_user(installed, tmp_path):
    installed("site", "user")
    assert installed("user", argument=2.5)[0] == 0
    (kept,) = files(tmp_path / "user")
    assert kept.suffix == ".nbc"
    assert installed("user", argument=2.5) == (1, [])


def test_where_nothing_can_be_kept_it_says_so_once(installed):
    for _ in range(2):
        hits, said = installed()
        assert hits == 0 and len(said) == 1 and "set NUMBA_CACHE_DIR to one that can" in said[0]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("setpriv"), reason="no setpriv, which takes root's rights")
def test_a_process_that_cannot_write_its_installation_compiles_nothing(tmp_path):
    """An installation, as in a container, without a folder that the process can write."""
    site = tmp_path / "site"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(package_cache.PACKAGE, site / "ntk_numba", ignore=ignore)
    code = (
        "import ntk_numba as nk, numpy as np; from ntk_numba import notices;"
        "notices.wanted = True; nk.gram(nk.MLP(3), np.ones((3, 2)))"
    )
    environment = os.environ | {"PYTHONPATH": str(site), "HOME": "/none", "XDG_CACHE_HOME": "/none"}
    environment.pop("NUMBA_CACHE_DIR", None)
    unable = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
    for words, said in (([], "compiling once"), (unable, None)):
        run = [*words, sys.executable, "-c", code]
        answer = subprocess.run(run, env=environment, cwd="/", capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
        assert said in answer.stderr if said else answer.stderr == ""
        for folder in site.rglob("*"):
            if folder.is_dir():
                folder.chmod(0o555)
    refused = subprocess.run([*unable, "touch", f"{site}/ntk_numba/new"], capture_output=True)
    assert refused.returncode != 0
