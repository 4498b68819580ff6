"""Each file imports only from wings below its own, or from its own wing without circles."""

import pytest
from structure import FILES, MODULES, ORDER, PACKAGE, imported, module_name, wing_of

# By wing: the wings and modules that it must never import, whatever the order.
NEVER = {
    "engine": ["gramfile", "finite_width"],
    "finite_width": ["engine", "duals", "compute"],
    "gramfile": ["engine", "compute", "inputs", "compiled.policy", "compiled.loops"],
    "compute": ["cluster"],
    "plots": ["cluster"],
    "duals": ["activations"],
    "theory": ["gramfile"],
    "validation": ["gramfile"],
    "operators": ["cli", "plots"],
    "factors": ["cli", "cluster", "plots"],
    "solvers": ["cli", "cluster", "plots"],
    "predict": ["cli", "plots"],
    "sklearn": ["cluster", "plots"],
}


def test_every_wing_is_a_folder_or_a_file():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders == set(ORDER) - {"ground", "network"}
    assert {wing_of(name) for name in MODULES} == {*ORDER, "", "__main__"}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_go_down(path):
    """Circles within a wing need no test, since `structure` cannot be imported if there are any."""
    module = module_name(path)
    wing = wing_of(module)
    if wing not in ORDER:
        return  # the package itself and its __main__ import the public names
    for other in imported(path):
        if other == "":
            assert wing == "cli", f"{module} imports the package"
        else:
            assert ORDER.index(wing_of(other)) <= ORDER.index(wing), f"{module} imports {other}"


@pytest.mark.parametrize("wing", NEVER)
def test_some_wings_never_import_certain_others(wing):
    for path in FILES:
        if module_name(path).split(".")[0] == wing:
            for other in imported(path):
                for never in NEVER[wing]:
                    assert other != never and not other.startswith(f"{never}."), f"{path}: {other}"


def test_files_are_short():
    assert {p.name: n for p in FILES if (n := len(p.read_text().splitlines())) > 450} == {}
