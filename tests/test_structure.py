"""Each file imports only from wings below its own, or from its own wing, without a circle."""

import pytest
from structure import FILES, MODULES, ORDER, PACKAGE, imported, module_name, wing_of

# What must never import what, whatever the order: (wing, wings).
NEVER = {
    "engine": ["gramfile", "finite_width"],
    "finite_width": ["engine", "duals", "compute"],
    "gramfile": ["engine", "compute", "inputs", "compiled.policy", "compiled.loops"],
    "compute": ["cluster"],
    "plots": ["cluster"],
    "duals": ["activations"],
    "theory": ["gramfile"],
    "validation": ["gramfile"],
    "predict": ["cli", "plots"],
}


def test_every_wing_is_a_folder_or_a_file():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders == set(ORDER) - {"ground", "network"}
    assert {wing_of(name) for name in MODULES} == {*ORDER, "", "__main__"}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_go_down(path):
    """Within a wing there is no circle, or `structure` would refuse to put its files in order."""
    me = module_name(path)
    if wing_of(me) not in ORDER:
        return  # the package itself and its __main__ import what is public
    for other in imported(path):
        if other == "":
            assert wing_of(me) == "cli", f"{me} imports the package"
        else:
            assert ORDER.index(wing_of(other)) <= ORDER.index(wing_of(me)), f"{me} imports {other}"


@pytest.mark.parametrize("wing", NEVER)
def test_what_must_never_be_imported(wing):
    for path in FILES:
        if module_name(path).split(".")[0] == wing:
            for other in imported(path):
                for never in NEVER[wing]:
                    assert other != never and not other.startswith(f"{never}."), f"{path}: {other}"


def test_files_are_short():
    assert {p.name: n for p in FILES if (n := len(p.read_text().splitlines())) > 450} == {}
