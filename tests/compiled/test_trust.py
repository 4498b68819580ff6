"""Compiled code that others could have written is not run."""

import hashlib
import importlib.util
import os
import pickle
import stat
import subprocess
import sys
import warnings

import numba
import pytest
from programs import ENVIRONMENT

from ntk_numba.compiled import cache as package_cache
from ntk_numba.compiled import trust
from ntk_numba.compiled.policy import kernel

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
STRANGER = 12345


class Poison:
    """An object whose pickle makes a folder when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def entry(tmp_path, monkeypatch):
    """Return the file with the code of a new function, below folders that a test may change."""
    package_cache._refuse.cache_clear()
    source = tmp_path / "site" / "module.py"
    source.parent.mkdir()
    source.write_text("def twice(x):\n    return 2 * x\n")
    spec = importlib.util.spec_from_file_location("module", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "module", module)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "above" / "cache"))
    assert kernel()(module.twice)(3) == 6
    (entry,) = tmp_path.rglob("*.nbc")
    return entry


def replace(entry, value):
    """Write another value with a right checksum in the place of compiled code."""
    content = pickle.dumps(value)
    entry.write_bytes(hashlib.sha256(content).digest() + content)


def hits():
    """Run the function, and return the number of compiled codes that were found on disk."""
    function = kernel()(sys.modules["module"].twice)
    assert function(3) == 6
    return sum(function.stats.cache_hits.values())


def linked(path):
    moved = path.with_name("elsewhere")
    path.rename(moved)
    path.symlink_to(moved)


HARM = {
    "file 0666": lambda file: file.chmod(0o666),
    "file 0664": lambda file: file.chmod(0o664),
    "file is a link": linked,
    "folder 0777": lambda file: file.parent.chmod(0o777),
    "folder 0775": lambda file: file.parent.chmod(0o775),
    "folder 1777": lambda file: file.parent.chmod(0o1777),
    "folder above 0777": lambda file: file.parents[1].chmod(0o777),
    "folder far above 0773": lambda file: file.parents[2].chmod(0o773),
}
GIVEN_AWAY = {
    "file of another": lambda file: os.chown(file, STRANGER, STRANGER),
    "folder of another": lambda file: os.chown(file.parent, STRANGER, STRANGER),
    "folder above of another": lambda file: os.chown(file.parents[2], STRANGER, STRANGER),
}


@pytest.mark.parametrize(
    "harm",
    [*HARM.values(), *(pytest.param(give, marks=needs_root) for give in GIVEN_AWAY.values())],
    ids=[*HARM, *GIVEN_AWAY],
)
def test_code_that_others_could_have_written_is_not_run(harm, entry, tmp_path):
    assert hits() == 1
    replace(entry, Poison(tmp_path / "harmed"))
    harm(entry)
    with pytest.warns(UserWarning, match="compiled code is not used") as found:
        assert hits() == 0
    assert not (tmp_path / "harmed").exists()
    said = str(found[0].message)
    assert "set NUMBA_CACHE_DIR to a folder that only you can write" in said
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hits()  # it is said once


def test_the_poison_would_work(entry, tmp_path):
    replace(entry, Poison(tmp_path / "harmed"))
    hits()
    assert (tmp_path / "harmed").exists()


@pytest.mark.parametrize("mode", [0o755, 0o1777, 0o1775, 0o700])
def test_folders_above_that_nobody_can_exchange(mode, entry):
    entry.parents[2].chmod(mode)
    assert hits() == 1


def test_a_link_to_a_folder_that_is_safe(entry, monkeypatch):
    above = entry.parents[2]
    linked(above)
    assert above.is_symlink() and hits() == 1
    above.resolve().chmod(0o777)  # not where the link leads to
    with pytest.warns(UserWarning, match="elsewhere"):
        assert hits() == 0


@pytest.mark.parametrize("target", ["absolute", "relative", "twice"])
def test_a_link_in_a_folder_that_others_may_write(target, entry, monkeypatch, tmp_path):
    """They can make it lead to a folder of this user, such as one from an archive of theirs."""
    shared = tmp_path / "shared"
    shared.mkdir()
    link = shared / "link"
    link.symlink_to(entry.parents[1] if target == "absolute" else "../above/cache")
    if target == "twice":
        (tmp_path / "first").symlink_to("./site/../shared/link")
        link = tmp_path / "first"
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(link))
    assert hits() == 1
    shared.chmod(0o1777)  # it is this user's link
    assert hits() == 1
    shared.chmod(0o777)
    with pytest.warns(UserWarning, match="shared"):
        assert hits() == 0


@needs_root
def test_a_link_of_another_in_a_sticky_folder(entry, monkeypatch, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "link").symlink_to(entry.parents[1])
    os.lchown(shared / "link", STRANGER, STRANGER)
    shared.chmod(0o1777)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(shared / "link"))
    with pytest.warns(UserWarning, match="link belongs to user 12345"):
        assert hits() == 0


@pytest.mark.parametrize("value", [None, 7, "text", (1, 2), (1, 2, 3), [], b"", Exception("no")])
def test_wrong_values_with_a_right_checksum_are_compiled_again(value, entry):
    replace(entry, value)
    assert hits() == 0 and hits() == 1


def test_wrong_code_of_the_right_key_is_compiled_again(entry):
    key, code = pickle.loads(entry.read_bytes()[32:])
    for wrong in (None, (), 7, (code[0],), (None,) * len(code)):
        replace(entry, (key, wrong))
        assert hits() == 0 and hits() == 1
    entry.write_bytes(hashlib.sha256(b"no pickle").digest() + b"no pickle")
    assert hits() == 0 and hits() == 1


def test_what_is_written_is_not_writable_for_others(tmp_path):
    """Whatever the umask is; a container's users may read what its builder has compiled."""
    (tmp_path / "module.py").write_text(
        "import os\nos.umask(0)\nfrom ntk_numba.compiled.policy import kernel\n"
        "@kernel()\ndef first(x):\n    return x\nfirst(3)\n"
    )
    cache = tmp_path / "a" / "b"
    environment = ENVIRONMENT | {"NUMBA_CACHE_DIR": str(cache)}
    subprocess.run([sys.executable, tmp_path / "module.py"], env=environment, check=True)
    made = [cache.parent, cache, *cache.rglob("*")]
    assert len(made) == 4
    modes = {stat.S_IMODE(path.stat().st_mode) for path in made}
    assert modes == {0o755, 0o644}


def test_no_file_but_a_pipe(entry):
    entry.unlink()
    os.mkfifo(entry)
    with pytest.warns(UserWarning, match="is not a file"):
        assert hits() == 0  # and it does not wait for a writer


@pytest.mark.parametrize(
    ("name", "members", "number", "private"),
    [("me", [], 1000, True), ("me", ["me"], 1000, True), ("me", ["you"], 1000, False),
     ("lab", [], 1000, False), ("me", [], 1001, False)],
)  # fmt: skip
def test_groups_of_one_user(name, members, number, private, monkeypatch):
    """A folder that only the user's own group may write is the user's alone."""
    from types import SimpleNamespace

    trust._is_private.cache_clear()
    me = SimpleNamespace(pw_name="me", pw_gid=1000)
    monkeypatch.setattr("pwd.getpwuid", lambda _: me)
    group = SimpleNamespace(gr_name=name, gr_mem=members)
    monkeypatch.setattr("grp.getgrgid", lambda _: group)
    assert trust._is_private(number) is private
    trust._is_private.cache_clear()
