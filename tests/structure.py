"""The wings of the package and what its files import, read from the sources."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "ntk_numba"


def modules(wings: dict[str, list[str]], wing: str) -> list[str]:
    """The modules of a wing from left to right, its `__init__` last."""
    if wing == "ground":
        return wings[wing]
    return [*(f"{wing}.{name}" for name in wings[wing]), wing]


def module_name(path: Path) -> str:
    """The name of a file's module within the package; of the package itself, nothing."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {module_name(path): path for path in FILES}


def imported(path: Path) -> set[str]:
    """The package's modules that a file imports, anywhere in it."""
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
    """The first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(MODULES[module].read_text())) or ""
    return " ".join(text.partition("\n\n")[0].split())
