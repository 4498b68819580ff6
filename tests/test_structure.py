"""Each file imports only from floors below its own, or from its own wing, to the left."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ntk_numba"

# From the lowest floor to the highest, within a floor from left to right. ARCHITECTURE.md has the
# same order with the reasons.
FLOORS = [
    ["stopping", "jit", "row", "grid", "machine"],
    [
        "activations.special", "activations.panels", "activations.quadrature", "activations.curve",
        "activations.base", "activations.piecewise_linear", "activations.owen",
        "activations.kinked", "activations.elu", "activations.elu_table",
        "activations.error_function",
        "activations.step", "activations.rectified", "activations.gelu",
        "activations.exponential", "activations.gabor", "activations.trigonometric",
        "activations.hermite_row", "activations.polynomial", "activations.series",
        "activations.named", "activations.numerical", "activations.scaled", "activations.table",
        "activations",
    ],
    ["network"],
    [
        "files.digest", "files.source", "files.contents", "files.disk", "files.layout",
        "files.lease", "files.tiles", "files.store", "files.entries", "files.gram_file",
        "files.link", "files",
    ],
    [
        "engine.products", "engine.transpose", "engine.samples", "engine.rows", "engine.dual",
        "engine.ready", "engine.recursion", "engine.tile", "engine.kernel", "engine",
    ],
    [
        "finite_width.workers", "finite_width.networks", "finite_width.empirical",
        "finite_width.monte_carlo", "finite_width.training", "finite_width",
    ],
    [
        "jobs.plan", "jobs.sweep", "jobs.memory", "jobs.stream", "jobs.cover", "jobs.merge",
        "jobs.workers", "jobs.executors", "jobs.schedulers", "jobs.write", "jobs.slurm",
        "jobs.estimate", "jobs.verify", "jobs.criticality",
        "jobs.picture", "jobs.plot", "jobs.claims", "jobs.verdict", "jobs.check", "jobs.angle_plot",
        "jobs.gradient_flow", "jobs.activation_plot", "jobs",
    ],
    ["commands", "cli"],
    ["__main__", ""],
]  # fmt: skip

ORDER = {name: (floor, k) for floor, names in enumerate(FLOORS) for k, name in enumerate(names)}


def module_name(path: Path) -> str:
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    """The package's modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner.removeprefix("ntk_numba.") in ORDER else node.module)
    return {
        n.removeprefix("ntk_numba").removeprefix(".") for n in found if n.startswith("ntk_numba")
    }


FILES = sorted(PACKAGE.rglob("*.py"))


def test_every_file_has_a_place():
    assert {module_name(path) for path in FILES} == set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_go_down(path):
    me = module_name(path)
    for other in imported(path):
        if me == "" or (me in ("cli", "commands") and other == ""):
            continue
        assert ORDER[other] < ORDER[me], f"{me or '__init__'} imports {other}"


def test_the_check_is_independent():
    """Finite networks share with the engine what a network is, and nothing that computes."""
    wings = {"engine": "finite_width", "finite_width": "engine"}
    for path in FILES:
        if other := wings.get(module_name(path).split(".")[0]):
            assert not [name for name in imported(path) if name.startswith(other)]


def test_files_are_short():
    assert {p.name: n for p in FILES if (n := len(p.read_text().splitlines())) > 450} == {}


def test_finite_networks_use_no_dual():
    """Of an activation they take σ and σ', which is all that a network has."""
    for path in (PACKAGE / "finite_width").glob("*.py"):
        used = {
            n.attr for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)
        }
        assert not used & {"family", "dual_parameters", "second_moment", "never_obtuse"}
