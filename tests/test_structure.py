"""Each file imports only from wings below its own, or from its own wing, to the left."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ntk_numba"

# The wings, from the ground up: each file imports from wings below its own, and from its own wing
# only what stands to the left of it. ARCHITECTURE.md says what each is for.
WINGS = {
    "ground": ["errors", "arguments", "stopping", "machine", "grid", "digest"],
    "compiled": ["arrays", "cache", "policy", "intrinsics", "loops", "parallel"],
    "duals": [
        "special", "panels", "quadrature", "curve", "base", "owen", "hermite", "series",
    ],
    "activations": [
        "piecewise_linear", "kinked", "elu", "elu_table", "error_function", "step", "rectified",
        "gelu", "exponential", "gabor", "trigonometric", "polynomial", "named", "numerical",
        "scaled", "table",
    ],
    "network": [],
    "inputs": ["source"],
    "gramfile": [
        "contents", "disk", "layout", "lease", "tiles", "writer", "entries", "reader", "link",
    ],
    "engine": [
        "products", "transpose", "samples", "pairs", "rows", "dual", "ready", "recursion", "tile",
        "kernel",
    ],
    "finite_width": ["workers", "networks", "empirical", "monte_carlo", "training"],
    "compute": ["plan", "sweep", "memory", "stream", "estimate", "verify"],
    "cluster": ["cover", "merge", "workers", "executors", "schedulers", "write", "slurm"],
    "predict": ["gradient_flow"],
    "theory": ["criticality"],
    "validation": ["claims", "verdict", "check"],
    "plots": ["figure", "gram", "angle", "activations"],
    "cli": ["commands", "program"],
}  # fmt: skip

# What must never import what, whatever the order: (wing, wings).
NEVER = {
    "engine": ["gramfile", "finite_width"],
    "finite_width": ["engine", "duals", "compute"],
    "gramfile": ["engine", "compute", "inputs", "compiled.policy", "compiled.loops"],
    "compute": ["cluster"],
    "duals": ["activations"],
    "theory": ["gramfile"],
    "validation": ["gramfile"],
    "predict": ["cli", "plots"],
}


def modules(wing: str) -> list[str]:
    """The modules of a wing from left to right, its `__init__` last."""
    if wing == "ground":
        return WINGS[wing]
    return [*(f"{wing}.{name}" for name in WINGS[wing]), wing]


FLOORS = [*map(modules, WINGS), ["__main__", ""]]
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
        if me == "" or (me.startswith("cli") and other == ""):
            continue
        assert ORDER[other] < ORDER[me], f"{me or '__init__'} imports {other}"


@pytest.mark.parametrize("wing", NEVER)
def test_what_must_never_be_imported(wing):
    for path in FILES:
        if module_name(path).split(".")[0] == wing:
            for other in imported(path):
                for never in NEVER[wing]:
                    assert other != never and not other.startswith(f"{never}."), f"{path}: {other}"


def test_files_are_short():
    assert {p.name: n for p in FILES if (n := len(p.read_text().splitlines())) > 450} == {}


def test_finite_networks_use_no_dual():
    """Of an activation they take σ and σ', which is all that a network has."""
    for path in (PACKAGE / "finite_width").glob("*.py"):
        used = {
            n.attr for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)
        }
        assert not used & {"family", "dual_parameters", "second_moment", "never_obtuse"}
