"""The wings of the package and the imports of its files, read from the sources."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "ntk_numba"


def module_name(path: Path) -> str:
    """Return the name of a file's module within the package, "" for the package itself."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {module_name(path): path for path in FILES}


def imported(path: Path) -> set[str]:
    """Return the modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner.removeprefix("ntk_numba.") in MODULES else node.module)
    return {
        n.removeprefix("ntk_numba").removeprefix(".") for n in found if n.startswith("ntk_numba")
    }


def docstring(module: str) -> str:
    """Return the first paragraph of a module's docstring."""
    text = ast.get_docstring(ast.parse(MODULES[module].read_text())) or ""
    return " ".join(text.partition("\n\n")[0].split())


# The wings, from the lowest up. A file imports only from wings below its own, and from files of its
# own wing that do not import it. ARCHITECTURE.md states the purpose of each wing.
ORDER = [
    "ground", "compiled", "extended", "duals", "activations", "network", "inputs", "gramfile",
    "engine", "finite_width", "compute", "cluster", "operators", "factors", "solvers", "predict",
    "theory", "validation", "plots", "sklearn", "cli",
]  # fmt: skip


def wing_of(module: str) -> str:
    """Return the wing of a module: its folder, or "ground" for files outside the folders."""
    head = module.split(".")[0]
    return head if head in ORDER or head in ("", "__main__") else "ground"


def _from_left_to_right(wing: str) -> list[str]:
    """Return the files of a wing, each after those that it imports; cyclic imports raise."""
    own = [m for m in MODULES if wing_of(m) == wing and m != wing]
    graph = {m: sorted(n for n in imported(MODULES[m]) if n in own) for m in sorted(own)}
    return [m.removeprefix(f"{wing}.") for m in TopologicalSorter(graph).static_order()]


WINGS = {wing: _from_left_to_right(wing) for wing in ORDER}
