"""Whatever a Gram file says of itself, its readers raise only errors of the package."""

import contextlib
import json
import os
import resource
import shutil

import h5py
import numpy as np
import psutil
import pytest
from marks import marked
from parts import NET, parts_of
from programs import own_process_kept

import ntk_numba as nk
from ntk_numba.cli import main
from ntk_numba.compute.verify import verify_sample
from ntk_numba.gramfile import layout
from ntk_numba.gramfile.contents import DEEPEST, MOST_ROWS
from ntk_numba.gramfile.factor import open_factor
from ntk_numba.gramfile.formats import FACTOR_FILE, GRAM, LARGEST_NORM, PROCESSOR
from ntk_numba.gramfile.lease import lock_of

HUGE = 512 << 30
NETWORK = json.dumps(NET.to_dict())
VALUES = [
    np.array([]), np.array("", h5py.string_dtype()), h5py.Empty("f8"), h5py.Empty("S1"), -1, 0,
    2**62, np.nan, -np.inf, 3.5, 1e300, True, b"\xff\xfe", "NaN", "{}", "[]", "[" * 3000, "null",
    "[1e999, NaN]", '[["a"]]', '[["/dev/zero", 1], ["\\u0000", 2]]', "1/99999999999", "0/0", "9/3",
    np.zeros((3, 3)), np.array(["a", "b"], h5py.string_dtype()), np.zeros((), "i4,f8"),
    '{"depth": 1000000000000}', '{"depth": 1, "activation": [], "w_std": ["a"], "b_std": [1]}',
    '{"depth": true, "activation": [], "w_std": [1], "b_std": [1]}', "x" * 60000,
    '{"depth": 2, "activation": ["none"], "w_std": [1, 1], "b_std": [1, 1]}',
    np.zeros(2, "S4"), 1j, np.inf, 2**30, 512, 2**64 - 1, np.longdouble(1), np.int8(1),
    "1" + "0" * 5000, NETWORK[:-1] + ', "depth": 1}', NETWORK[:-1] + ', "train": 1}',
    NETWORK.replace("3", "1" + "0" * 400, 1), NETWORK.replace("3", '"3"', 1),
    NETWORK.replace("[1.0", "[1" + "0" * 400), "\x1b]0;title\x07", "[1e9, 1e9]",
    "{" + '"a": {' * 5000, "x" * (5 << 20),
]  # fmt: skip
ATTRIBUTES = [*GRAM.attributes, "seal", LARGEST_NORM, PROCESSOR]
DATASETS = ["ntk", "checksums/ntk", "digests/X", "tiles", "checksums", "digests"]


def late(file, name, shape, dtype="u1"):
    """Create a dataset that claims a size and has no bytes."""
    file.create_dataset(name, shape, dtype, chunks=(1 << 20, 32) if len(shape) == 2 else None)


CHANGES = {
    "missing": lambda file, name: None,
    "group": lambda file, name: file.create_group(name),
    "huge": lambda file, name: late(file, name, (HUGE // 32, 32)),
    "line": lambda file, name: late(file, name, (HUGE,)),
    "empty": lambda file, name: file.create_dataset(name, data=h5py.Empty("u1")),
    "words": lambda file, name: file.create_dataset(name, data=["a", "b"]),
    "none": lambda file, name: file.create_dataset(name, (0, 32), "u1"),
    "number": lambda file, name: file.create_dataset(name, data=3.0),
    "nan": lambda file, name: file.create_dataset(name, data=np.full((150, 150), np.nan)),
    "soft": lambda file, name: file.__setitem__(name, h5py.SoftLink(f"/{name}")),
    "outside": lambda file, name: file.__setitem__(name, h5py.ExternalLink("/dev/zero", "x")),
    "type": lambda file, name: file.__setitem__(name, np.dtype("f8")),
    "raw": lambda file, name: file.create_dataset(
        name, (150, 150), "f8", external=[("/dev/zero", 0, 150 * 150 * 8)]
    ),
}


@pytest.fixture(autouse=True)
def little_memory():
    """Allow 2 GiB more than the process has: no claim may take that."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (now + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """A small Gram file of each kind, and its data."""
    folder = tmp_path_factory.mktemp("claims")
    x = np.random.default_rng(0).standard_normal((150, 7))
    np.save(folder / "x.npy", x)
    nk.write_gram(NET, x, folder / "full.h5").close()
    nk.write_gram(NET, x, folder / "lower.h5", layout="lower").close()
    parts = parts_of(x, folder, of=2)
    nk.merge(parts, folder / "link.h5", link=True).close()
    shutil.copy(parts[0], folder / "part.h5")
    shutil.copy(folder / "full.h5", folder / "partial.h5")
    nk.cholesky(folder / "full.h5", folder / "factor.h5", ridge=0.5).close()
    return folder


def change(path, edit):
    """Change a file by h5py, and restore its seal and its first bytes."""
    first = path.read_bytes()[: layout.MARK]
    with h5py.File(path, "r+") as file:
        seal = file.attrs["seal"]
        edit(file)
        if "seal" in file.attrs and str(file.attrs["seal"]) == str(seal):
            with contextlib.suppress(Exception):  # where another attribute is missing
                form = FACTOR_FILE if "factor" in path.name else GRAM
                file.attrs["seal"] = form.seal(file.attrs)
    if first.startswith(layout.LINKED):
        mark = layout.link_mark(path)
        with path.open("r+b") as raw:
            raw.write(mark)


def set_attribute(name, value):
    def edit(file):
        file.attrs.pop(name, None)
        if value is not None:
            if isinstance(value, str | bytes) and len(value) > 50000:
                file.attrs.create(name, value, dtype=h5py.string_dtype())
            else:
                file.attrs[name] = value

    return edit


def set_dataset(name, how):
    def edit(file):
        if name in file:
            del file[name]
        CHANGES[how](file, name)

    return edit


def run(*words):
    with own_process_kept(), pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return end.value.code


def use_everywhere(path, folder, capsys, thorough):
    """Use a file in all ways, none of which may raise an error that is not the package's."""
    x = np.load(folder / "x.npy")
    with contextlib.suppress(nk.NtkNumbaError), nk.open_gram(path, incomplete=True) as f:
        f.verify()
        repr(f)
        if f.complete:
            with contextlib.suppress(nk.NtkNumbaError):
                f.ntk[3, 5]
            verify_sample(f, x)
    with contextlib.suppress(nk.NtkNumbaError):
        nk.merge([path, folder / "g.part-2-of-2.h5"], folder / "merged.h5").close()
    (folder / "merged.h5").unlink(missing_ok=True)
    with contextlib.suppress(nk.NtkNumbaError):
        nk.write_gram(NET, x, path).close()
    if thorough:
        with contextlib.suppress(nk.NtkNumbaError):
            nk.repair(path, x)
        codes = [run(*words) for words in (
            ("info", path), ("info", path, "--json"), ("verify", path),
            ("verify", path, "--data", folder / "x.npy"),
            ("plot", path, "-o", folder / "g.png"),
        )]  # fmt: skip
        assert set(codes) <= {0, 2, 4}
        assert "Traceback" not in capsys.readouterr().err


def use_factor(path, folder, capsys, thorough):
    """Do the same with the file of a factor."""
    gram = folder / "full.h5"
    with contextlib.suppress(nk.NtkNumbaError), open_factor(path, incomplete=True) as f:
        f.verify()
        repr(f)
    with contextlib.suppress(nk.NtkNumbaError), nk.open_cholesky(path) as factor:
        factor.solve(np.ones(150))
        assert np.isfinite(factor.log_det)
    with contextlib.suppress(nk.NtkNumbaError):
        nk.cholesky(gram, path, ridge=0.5).close()
    if thorough:
        with contextlib.suppress(nk.NtkNumbaError):
            nk.repair_factor(path, gram)
        words = ("info", path), ("info", path, "--json"), ("verify", path, "--data", gram)
        assert {run(*command) for command in words} <= {0, 2, 4}
        assert "Traceback" not in capsys.readouterr().err


def spoil(folder, kind, edit, capsys, *, thorough=False):
    path = folder / f"spoilt-{kind}.h5"
    shutil.copy(folder / f"{kind}.h5", path)
    change(path, edit)
    if kind == "partial":
        path = path.rename(path.with_name(path.name + ".partial"))
        with path.open("r+b") as raw:
            raw.write(layout.INCOMPLETE)
        with contextlib.suppress(nk.NtkNumbaError):
            nk.write_gram(NET, np.load(folder / "x.npy"), path.with_suffix("")).close()
        path.with_suffix("").unlink(missing_ok=True)
    if path.exists():
        use = use_factor if kind == "factor" else use_everywhere
        use(path, folder, capsys, thorough)
        path.unlink()


KINDS = ["full", "lower", "part", "link", "partial"]


@pytest.mark.parametrize("kind", marked(pytest.mark.slow, KINDS, but=("partial",)))
def test_attributes_of_any_kind(kinds, kind, capsys):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rng = np.random.default_rng(KINDS.index(kind))
    for name in ATTRIBUTES:
        for k in rng.permutation(len(VALUES))[:3]:
            spoil(kinds, kind, set_attribute(name, VALUES[k]), capsys)
        spoil(kinds, kind, set_attribute(name, None), capsys)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_attributes_of_every_kind(kinds, kind, capsys):
    """All values of all attributes: each in the file of one kind."""
    for n, name in enumerate(ATTRIBUTES):
        for k in range((KINDS.index(kind) - n) % len(KINDS), len(VALUES), len(KINDS)):
            spoil(kinds, kind, set_attribute(name, VALUES[k]), capsys, thorough=k % 7 == 0)


@pytest.mark.slow
def test_a_factor_of_any_kind(kinds, capsys):
    rng = np.random.default_rng(0)
    for name in [*FACTOR_FILE.attributes, "seal", PROCESSOR]:
        for n, k in enumerate(rng.permutation(len(VALUES))[:8]):
            spoil(kinds, "factor", set_attribute(name, VALUES[k]), capsys, thorough=n == 0)
        spoil(kinds, "factor", set_attribute(name, None), capsys)
    for name in ("factor", "checksums/factor", "tiles", "checksums"):
        for how in CHANGES:
            spoil(kinds, "factor", set_dataset(name, how), capsys)


@pytest.mark.parametrize("kind", marked(pytest.mark.slow, KINDS, but=("part",)))
def test_datasets_of_any_kind(kinds, kind, capsys):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in DATASETS:
        for how in CHANGES:
            spoil(kinds, kind, set_dataset(name, how), capsys)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("error", np.array([]), "its attribute error is not a text"),
        ("error", "[]", "its attribute error is not 2 numbers of at least 0"),
        ("error", "[NaN, 0]", "its attribute error is not 2 numbers"),
        ("tile", 0, "its attribute tile is 0, not from 1 to 512"),
        ("rows", "150", "its attribute rows is not a whole number"),
        ("rows", 151, "it is symmetric, but of 151 × 150 entries"),
        ("columns", -1, "its attribute columns is -1, not from 1"),
        ("part", "9/3", "part must be one of"),
        ("layout", "lower", "its layout is lower, not full"),
        ("net", '{"depth": 3}', "its network of depth 3 has not 2 of activation"),
        ("net", "[" * 3000, "its attribute net is no JSON"),
        ("linked", "[1]", "its attribute linked is no list of names and seals"),
        ("largest_norm", np.nan, "its largest norm is nan"),
        ("format_version", "4", "its attribute format_version is not a whole number"),
        ("numerics", None, "its attribute numerics is missing"),
        ("rows", MOST_ROWS + 1, f"its attribute rows is {MOST_ROWS + 1}, not from 1 to"),
        ("complete", np.zeros(5000), "its attribute complete is not true or false"),
        ("layers", "x" * 1001, "its attribute layers is longer than 200 bytes"),
        ("package_version", np.array(["a"], "S4"), "its attribute package_version is not a text"),
        ("net", json.dumps({"depth": 10**9}), "a depth that is not from 1 to 100,000"),
        ("net", NETWORK.replace("[1.0, ", "[1" + 400 * "0" + ", "), "a w_std that cannot be"),
        ("net", NETWORK[:-1] + ', "depth": 1}', "its attribute net is no JSON"),
        ("net", NETWORK[:-1] + ', "train": 1}', "its network has a 'train', which is unknown"),
        ("package_version", "\x1b]0;title\x07", "its attribute package_version has characters"),
        ("layout", "lower\u202e", "its attribute layout has characters that do not belong there"),
        ("linked", '[["a", -1]]', "its attribute linked is no list of names and seals"),
        ("processor", 3, "its attribute processor is not a text"),
        ("processor", np.array(["a"], "S4"), "its attribute processor is not a text"),
        ("processor", np.bytes_(4097 * b"x"), "its attribute processor is not a text"),
        ("processor", 4097 * "x", "its attribute processor is longer than 4,096 bytes"),
        ("processor", np.bytes_(b"\x1b]0;title\x07"), "its attribute processor has characters"),
        ("part", "1/" + 5000 * "9", "its attribute part is longer than 200 bytes"),
    ],
)
def test_claims_are_named(kinds, capsys, name, value, text):
    path = kinds / "named.h5"
    shutil.copy(kinds / "full.h5", path)
    change(path, set_attribute(name, value))
    with pytest.raises(nk.NtkNumbaError) as error:
        nk.open_gram(path)
    assert f"{path} is damaged: " in str(error.value) and text in str(error.value)
    assert run("verify", path, "--data", kinds / "x.npy") == 2
    assert run("info", path) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stated", "activation"),
    marked(
        pytest.mark.slow,
        [("[1e9, 1e9]", "relu"), ("[1e-3, 1e-3]", "tanh"), ("[1e-9, 1e-9]", "erf")],
    ),
)
def test_an_error_bound_that_the_network_does_not_have(tmp_path, points, stated, activation):
    """A file may not state an error so large that wrong entries pass."""
    path, x = tmp_path / "g.h5", points
    nk.write_gram(nk.MLP(3, activation), x, path).close()
    with nk.open_gram(path) as f:
        assert verify_sample(f, x)

    def forge(file):
        file.attrs["error"] = stated
        if stated == "[1e9, 1e9]":
            file["ntk"][...] = np.eye(len(x))

    change(path, forge)
    with nk.open_gram(path) as f:
        problems = verify_sample(f, x).problems
    assert problems[0].startswith(f"ntk: the file states an error of {json.loads(stated)[1]:.3g}, ")
    assert len(problems) == 1 + (stated == "[1e9, 1e9]")


def test_a_file_that_no_reader_accepts_is_not_begun(tmp_path):
    deep = nk.MLP(DEEPEST + 1)
    with pytest.raises(ValueError, match="a file holds kernels of at most 100,000 layers"):
        nk.write_gram(deep, np.eye(3), tmp_path / "g.h5")
    assert not list(tmp_path.iterdir())


def test_a_digest_that_claims_more_than_the_file(kinds):
    path = kinds / "digest.h5"
    shutil.copy(kinds / "full.h5", path)
    change(path, set_dataset("digests/X", "huge"))
    with pytest.raises(ValueError, match=r"is damaged: X is not uint8 of shape \(2, 32\)"):
        nk.open_gram(path)

    def edit(file):
        file.attrs["rows"] = file.attrs["columns"] = rows = MOST_ROWS
        set_dataset("digests/X", "huge")(file)
        del file["digests/X"]
        late(file, "digests/X", (1 + rows // 512, 32))

    change(path, edit)
    with pytest.raises(ValueError, match=r"it is truncated: X has 67,108,896 bytes, more"):
        nk.open_gram(path)


def test_a_link_to_itself_or_to_a_pipe(kinds):
    path = kinds / "self.h5"
    os.mkfifo(kinds / "pipe.h5")
    with h5py.File(kinds / "full.h5") as file:
        seal = file.attrs["seal"]
    for target in ("self.h5", "link.h5", "pipe.h5"):
        shutil.copy(kinds / "link.h5", path)
        change(path, set_attribute("linked", f'[["{target}", {seal}], ["{target}", {seal}]]'))
        with pytest.raises(ValueError, match=rf"is made of .*{target}, which is not the file"):
            nk.open_gram(path)
    with pytest.raises(ValueError, match="is a device or a pipe"):
        nk.open_gram(kinds / "pipe.h5")


@pytest.mark.parametrize("text", ["[" * 9000, "x" * 9999, '["a","b","c",1e99,"d",2.0]', "", "{}",
                                  '["a","b","c",99999999999999,"d",2.0]'])  # fmt: skip
def test_a_lock_file_of_any_text(kinds, text):
    path = kinds / "locked.h5"
    lock_of(path).write_text(text)
    nk.write_gram(NET, np.load(kinds / "x.npy"), path).close()
    path.unlink()


@pytest.mark.parametrize("count", marked(pytest.mark.slow, [25, 250]))
@pytest.mark.parametrize("kind", marked(pytest.mark.slow, ["part", "full", "partial"]))
def test_bytes_of_any_value(kinds, kind, count, capsys):
    rng = np.random.default_rng(count)
    data = (kinds / f"{kind}.h5").read_bytes()
    path = kinds / ("bytes.h5" + (".partial" if kind == "partial" else ""))
    for k in range(count):
        spoilt = bytearray(data)
        for at in rng.integers(0, min(len(data), 20000), rng.integers(1, 9)):
            spoilt[at] = rng.integers(256)
        if kind == "partial":
            spoilt[:8] = layout.INCOMPLETE
        path.write_bytes(spoilt[: len(data) if k % 5 else rng.integers(len(data))])
        use_everywhere(path, kinds, capsys, thorough=k % 20 == 0)
        path.unlink(missing_ok=True)
