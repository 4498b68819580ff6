"""Compiled code is kept only if all sources that it depends on are found and can be read."""

import compileall
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ntk_numba.compiled import cache as package_cache
from ntk_numba.compiled.policy import kernel

CODE = """
import sys
sys.path.insert(0, sys.argv[1])
import ntk_numba
from ntk_numba import notices
notices.wanted = True
from ntk_numba.compiled.policy import kernel
from ntk_numba.engine.formula import first
assert ntk_numba.__file__.startswith(sys.argv[1])
print(first(3.0))
"""


def make_package(folder, factor):
    """Copy the package, with a compiled function that takes its formula from another file."""
    package = folder / "ntk_numba"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(package_cache.PACKAGE, package, ignore=ignore)
    (package / "engine" / "factor.py").write_text(
        "from ntk_numba.compiled.policy import njit\n@njit\ndef scaled(x):\n"
        f"    return {factor} * x\n"
    )
    (package / "engine" / "formula.py").write_text(
        "from ntk_numba.compiled.policy import kernel\nfrom ntk_numba.engine.factor import scaled\n"
        "@kernel()\ndef first(x):\n    return scaled(x)\n"
    )
    return package


def in_zip(folder, factor):
    make_package(folder / f"of {factor}", factor)
    place = shutil.make_archive(str(folder / "x"), "zip", folder / f"of {factor}")
    return Path(place)


def only_bytecode(folder, factor, wanted="*.py"):
    """Install bytecode in the place of sources."""
    shutil.rmtree(folder / "site", ignore_errors=True)
    package = make_package(folder / "site", factor)
    assert compileall.compile_dir(package, quiet=1, legacy=True)
    for source in package.rglob(wanted):
        source.unlink()
    return package.parent


def some_bytecode(folder, factor):
    return only_bytecode(folder, factor, wanted="factor.py")


def run(place, kept):
    """Return the result and the notices of a fresh process."""
    variables = os.environ | {
        "NUMBA_CACHE_DIR": str(kept / "numba"), "XDG_CACHE_HOME": str(kept / "user")
    }  # fmt: skip
    variables.pop("PYTHONPATH", None)
    answer = subprocess.run(
        [sys.executable, "-c", CODE, place], env=variables, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    return float(answer.stdout), answer.stderr


def test_code_of_sources_is_kept(tmp_path):
    """The comparison: in a folder the second process compiles nothing."""
    kept, package = tmp_path / "kept", make_package(tmp_path / "site", 2)
    result, said = run(package.parent, kept)
    assert result == 6 and "compiling once" in said
    assert run(package.parent, kept) == (6, "")
    assert list(kept.rglob("*.nbc"))


@pytest.mark.parametrize("install", [in_zip, only_bytecode, some_bytecode])
def test_nothing_is_kept_without_all_sources(install, tmp_path):
    """A changed formula, at the same place, gives its new result, and nothing is written."""
    kept = tmp_path / "kept"
    for factor in (2, 5):
        place = install(tmp_path, factor)
        result, said = run(place, kept)
        assert result == 3 * factor
        assert said.count("since code is kept only for sources that can be read") == 1
    assert list(tmp_path.rglob("*.nbc")) == []
    assert [path for path in kept.rglob("*") if path.is_file()] == []


def identity(x):
    return x


def test_nothing_is_kept_if_a_source_cannot_be_read(monkeypatch, tmp_path):
    """Python itself then runs the bytecode beside it."""

    def refuse(_):
        raise PermissionError

    assert package_cache.digest_is_complete()
    package_cache.source_digest.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        assert not package_cache.digest_is_complete()
        function = kernel()(identity)
    package_cache.source_digest.cache_clear()
    assert function(3) == 3 and function.stats.cache_path is None
    assert package_cache.digest_is_complete()
