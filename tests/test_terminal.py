"""Names and attributes that others chose reach no terminal as commands."""

import ast
import pickle
import subprocess
import sys
import warnings

import pytest
from programs import ENVIRONMENT
from structure import FILES, module_name

from ntk_numba import errors
from ntk_numba.terminal import escaped

HARM = "\x1b[31mred\x07\x9b2J\x7f\r\n\t\u202egnp\u2066\u200b\ufeff\u2028\udcff"
SHOWN = r"\x1b[31mred\x07\x9b2J\x7f\r\n\t\u202egnp\u2066\u200b\ufeff\u2028\udcff"


def test_what_a_terminal_obeys_is_escaped():
    assert escaped(HARM) == SHOWN
    for k in [*range(32), *range(127, 160)]:
        assert escaped(chr(k)).isprintable() and escaped(chr(k)).isascii()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a plain name.h5",
        "Σ × θ̂ é 中文 العربية עברית",
        "نامه\u200cها",
        "👩\u200d🔬 🇪🇺 ❤\ufe0f",
        "\\x1b a\\nb",
    ],
)
def test_other_text_stays(text):
    assert escaped(text) == text


@pytest.mark.parametrize("kind", [*vars(errors).values()])
def test_messages_of_errors_are_escaped(kind):
    if isinstance(kind, type) and issubclass(kind, Exception):
        error = kind(f"{HARM}.h5 does not exist")
        assert str(error) == f"{SHOWN}.h5 does not exist"
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind and str(again) == str(error)


def test_so_python_prints_them():
    code = f"import ntk_numba as nk; nk.open_gram({'/none/' + HARM!r})"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, env=ENVIRONMENT)
    assert answer.returncode == 1 and SHOWN.encode() in answer.stderr
    said = answer.stderr.decode()
    assert escaped(said.replace("\n", "")) == said.replace("\n", "")


def test_and_warnings():
    with pytest.warns(errors.UnderflowWarning) as found:
        warnings.warn(HARM, errors.UnderflowWarning, stacklevel=1)
    assert str(found[0].message) == SHOWN


def test_nothing_else_prints():
    """All text passes through the functions that escape it."""
    found = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name == "print" or name.endswith(("stdout.write", "stderr.write")):
                    found.add(module_name(path))
    assert found == {"cli.output", "notices"}


def test_notes_and_warnings_with_names_are_escaped():
    """Only errors and warnings of the package escape their text by themselves."""
    own = [w.__name__ for w in errors.NtkNumbaWarning.__subclasses__()]
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                words = ast.unparse(node)
                if node.func.attr == "add_note" and "path" in path.read_text():
                    # a repr has no characters that a terminal obeys
                    harmless = "parts are done" in words or "memory={memory!r}" in words
                    harmless |= isinstance(node.args[0], ast.Constant)
                    assert "escaped(" in words or harmless, path
                if ast.unparse(node.func) == "warnings.warn":
                    assert "escaped(" in path.read_text() or any(w in words for w in own), path
