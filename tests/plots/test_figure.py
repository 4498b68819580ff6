"""The style of all pictures, and the writing of their files."""

import itertools
import pickle
import sys
import zlib

import matplotlib
import numpy as np
import pytest
from marks import marked

import ntk_numba as nk
from ntk_numba.gramfile import disk
from ntk_numba.plots import style
from ntk_numba.plots.figure import picture

LABELS = "Θ∞ Σ √ ≥ 0.1 σ_w"


def draw(path=None):
    with picture(path, width=2, height=2) as figure:
        axes = figure.subplots()
        axes.loglog([1, 10], [1, 100], **style.line(0), label=LABELS)  # with mathtext in ticks
        axes.set_title(LABELS)
    return figure


def embedded(pdf):
    """Return the bytes of a PDF with its compressed streams unpacked."""
    parts = [pdf]
    for chunk in pdf.split(b"stream")[1:]:
        try:
            parts.append(zlib.decompressobj().decompress(chunk.lstrip(b"\r\n")))
        except zlib.error:
            continue
    return b"".join(parts)


@pytest.mark.parametrize("name", marked(pytest.mark.slow, ["saved.pdf", "a.pdf", "a.eps"]))
def test_fonts_are_true_type(tmp_path, name):
    path = tmp_path / name
    if name == "saved.pdf":  # by the user, whose settings are others
        with matplotlib.rc_context({"pdf.fonttype": 3}):
            draw().savefig(path)
    else:
        draw(path)
    content = embedded(path.read_bytes())
    assert any(kind in content for kind in (b"/CIDFontType2", b"/TrueType", b"/FontType 42"))
    assert b"/Type3" not in content and b"/FontType 3" not in content


def test_settings_of_matplotlib_neither_matter_nor_change():
    mine = {"lines.linewidth": 9.0, "text.usetex": True, "font.family": ["serif"],
            "axes.prop_cycle": matplotlib.cycler(color="rgb")}  # fmt: skip
    with matplotlib.rc_context(mine):
        before = dict(matplotlib.rcParams)
        figure = draw()
        assert dict(matplotlib.rcParams) == before
    title = figure.axes[0].title
    assert not title.get_usetex() and title.get_fontfamily() == ["DejaVu Sans"]
    assert figure.axes[0].lines[0].get_linewidth() == style.STYLE["lines.linewidth"]


def test_thirty_lines_differ_and_neighbours_differ_without_colours():
    lines = [style.line(k) for k in range(30)]
    assert len({str(line) for line in lines}) == 30
    dashes = [str(line["linestyle"]) for line in lines]
    assert all(a != b for a, b in itertools.pairwise(dashes))
    assert len({style.line(k, marker=True)["marker"] for k in range(7)}) == 7


def test_colours_are_far_apart_for_dichromats():
    """Machado, Oliveira and Fernandes 2009: what people without red or green cones see."""
    rgb = np.array([matplotlib.colors.to_rgb(c) for c in style.COLOURS])
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    for matrix in (
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
         [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
         [-0.011820, 0.042940, 0.968881]],
    ):  # fmt: skip
        seen = np.clip(linear @ np.array(matrix).T, 0, 1) ** (1 / 2.2)
        apart = np.linalg.norm(seen[:, None] - seen, axis=2) + np.eye(len(seen))
        assert apart.min() > 0.1


def test_figures_are_shown_by_notebooks_and_pickled():
    figure = draw()
    assert figure._repr_png_()[:4] == b"\x89PNG"
    again = pickle.loads(pickle.dumps(figure))
    assert again.axes[0].get_title() == LABELS


def test_letters_that_the_font_lacks_give_no_warning(tmp_path):
    nk.plots.gram(np.eye(2), tmp_path / "a.png", labels=["犬", "猫"], spectrum=False)


def test_an_error_leaves_no_file_and_the_old_one_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def interrupted():
        with picture(path) as figure:
            figure.subplots()
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    write = disk.write_at

    def fail(fd, block, at):
        if len(block) > 1000:  # it is the picture
            raise OSError(28, "No space left on device")
        write(fd, block, at)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "write_at", fail)
        with pytest.raises(OSError, match=r"a\.png cannot be written: No space left"):
            draw(path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    draw(path)
    assert path.read_bytes()[:4] == b"\x89PNG" and list(tmp_path.iterdir()) == [path]


def test_links_are_followed_and_permissions_kept(tmp_path):
    target, link = tmp_path / "a.svg", tmp_path / "link.svg"
    target.write_text("")
    target.chmod(0o640)
    link.symlink_to(target)
    draw(link)
    assert link.is_symlink() and b"<svg" in target.read_bytes()
    assert target.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("a.xyz", r"a\.xyz: its ending must be one of .*pdf.*png.*svg"),
        ("a", "its ending must be one of"),
        ("a.pgf", "its ending must be one of"),
        ("a\0.png", "path holds the character 0"),
        ("none/a.png", "none does not exist; create it first"),
    ],
)
def test_bad_paths(tmp_path, path, text):
    with pytest.raises((ValueError, OSError), match=text):
        nk.plots.gram(np.eye(2), tmp_path / path)


def test_a_path_that_is_none():
    with pytest.raises(TypeError, match="path must be the path of a file as a str, not 5"):
        nk.plots.gram(np.eye(2), 5)


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r"pip install 'ntk_numba\[plot\]'"):
        nk.plots.spectrum([1.0])


def test_public_names():
    assert set(nk.plots.__all__) <= set(dir(nk.plots))
    assert all(callable(getattr(nk.plots, name)) for name in nk.plots.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'plot_gram'"):
        nk.plots.plot_gram  # noqa: B018
