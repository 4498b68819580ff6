"""What ``info`` and ``verify`` find in Gram files, factors, checkpoints and models."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ntk_numba
from ntk_numba.arguments import show_bytes
from ntk_numba.cli.output import show, show_report
from ntk_numba.errors import InvalidValueError
from ntk_numba.gramfile.factor import FactorFile, open_factor
from ntk_numba.gramfile.formats import FACTOR_FILE
from ntk_numba.gramfile.layout import format_at
from ntk_numba.predict.model_file import is_model, read_model
from ntk_numba.solvers.checkpoint import is_checkpoint
from ntk_numba.solvers.checkpoint_facts import look_at

if TYPE_CHECKING:
    from ntk_numba.gramfile.reader import GramFile

__all__ = [
    "facts_of",
    "is_checkpoint",
    "is_factor",
    "is_model",
    "show_facts",
    "verify_checkpoint",
    "verify_factor",
    "verify_model",
]


def is_factor(path: Path) -> bool:
    """Return whether this is the file of a factor; an error says if it is no file of tiles."""
    return path.is_file() and format_at(path) is FACTOR_FILE


def facts_of(path: Path) -> dict[str, Any]:
    """Return the contents of a file as ``info --json`` prints them."""
    if is_model(path):
        return _facts_of_model(path)
    if is_checkpoint(path):
        return _facts_of_checkpoint(path)
    if is_factor(path):
        with open_factor(path, incomplete=True) as factor:
            return _facts_of_factor(factor)
    with ntk_numba.open_gram(path, incomplete=True) as file:
        return _facts(file)


def show_facts(facts: dict[str, Any]) -> None:
    """Print the contents of a file for people, one to a line."""
    for key, value in facts.items():
        if key == "net":
            value = _network_text(value)
        elif isinstance(value, list):
            value = (" × " if key == "shape" else ", ").join(map(str, value))
        elif key == "bytes":
            value = show_bytes(value)
        show(f"{key:16} {value}")


def _network_text(description: dict[str, Any]) -> str:
    """Return a network for people."""
    from ntk_numba.network import MLP

    return str(MLP.from_dict(description))


def _facts(file: "GramFile") -> dict[str, Any]:
    """Return the contents of a file as `info --json` prints them."""
    contents = file.contents
    return {
        "file": str(file.path),
        "complete": file.complete,
        "tiles": contents.count,
        "tiles_done": int(file.done.sum()),
        "layout": contents.layout,
        "part": str(contents.part or "1/1"),
        "linked": [name for name, _ in file.linked],
        "kernels": list(file.kernels),
        "shape": list(file.shape),
        "symmetric": contents.grid.symmetric,
        "layers": contents.layers,
        "dtype": str(file.dtype),
        "error": list(contents.error),
        "tile": contents.grid.tile,
        "bytes": file.path.stat().st_size,
        "net": contents.description,
        "fingerprint": file.net.fingerprint,
        "input_digest": contents.x.hex,
        "against_digest": contents.z.hex if contents.z else "",
        "package_version": file.package_version,
        "processor": file.processor,
    }


def _facts_of_factor(file: FactorFile) -> dict[str, Any]:
    """Return the contents of the file of a factor."""
    c = file.contents
    return {
        "file": str(file.path),
        "kind": "factor",
        "complete": file.complete,
        "tiles": c.count,
        "tiles_done": int(file.done.sum()),
        "layout": c.layout,
        "shape": list(file.shape),
        "dtype": str(file.dtype),
        "kernel": c.kernel,
        "ridge": c.ridge,
        "exponent": c.exponent,
        "matrix_digest": c.matrix,
        "tile": c.grid.tile,
        "bytes": file.path.stat().st_size,
        "package_version": file.package_version,
        "processor": file.processor,
    }


def _facts_of_checkpoint(path: Path) -> dict[str, Any]:
    """Return the contents of a checkpoint of `solve`, every byte of which is checked."""
    found = look_at(path)
    return {
        "file": str(path),
        "kind": "checkpoint",
        "method": found.problem.get("method", "unknown"),
        "state": "damaged" if found.wrong else "solved" if found.solved else "not solved yet",
        "passes": found.state["passes"] if found.state else 0,
        "samples": found.samples,
        "matrix_digest": found.problem.get("matrix", ""),
        "bytes": path.stat().st_size,
    }


def verify_checkpoint(options: argparse.Namespace) -> bool:
    """Read a whole checkpoint of `solve`, and print what was checked."""
    if options.repair or options.data is not None:
        raise InvalidValueError(
            f"{options.file} is the checkpoint of a solution; --data, --repair and --against are "
            f"for Gram files"
        )
    found = look_at(Path(options.file))
    for line in found.wrong:
        show(f"WRONG  {line}")
    if not found.wrong:
        passes = found.state["passes"] if found.state else 0
        show(f"ok     every byte of the state after {passes:,} passes matches the checksums")
    return not found.wrong


def _facts_of_model(path: Path) -> dict[str, Any]:
    """Return the contents of a model, every byte of which is checked."""
    values, notes, arrays = read_model(path)
    return {
        "file": str(path),
        "kind": values["kind"],
        "kernel": values["kernel"],
        "samples": values["rows"],
        "features": values["features"],
        "outputs": values["outputs"],
        "classes": notes.get("classes") or [],
        "targets": notes.get("target_names") or [],
        "ridge": values["ridge"],
        "relative_ridge": values["relative_ridge"],
        "chosen_by": (notes.get("choice") or {}).get("objective", "given"),
        "residual": values["residual"],
        "dtype": values["dtype"],
        "standardized": "mean" in arrays,
        "data": (notes.get("reference") or {}).get("path", "in this file"),
        "bytes": path.stat().st_size,
        "net": notes["net"],
        "package_version": values["package_version"],
    }


def verify_model(options: argparse.Namespace) -> bool:
    """Read a whole model and, with --data, compare its samples with X; print what was checked."""
    if options.repair or options.against is not None:
        raise InvalidValueError(
            f"{options.file} is a model; --repair and --against are for Gram files"
        )
    try:
        model = ntk_numba.load_model(options.file)
    except InvalidValueError as error:
        show(f"WRONG  {error}")
        return False
    show("ok     every byte matches the checksum")
    if options.data is None:
        return True
    from ntk_numba.inputs.source import open_source
    from ntk_numba.predict.saving import first_difference

    row = first_difference(open_source(options.data, "X"), model.training)
    if row is not None:
        show(f"WRONG  row {row} of {options.data} is not that of the training samples")
        return False
    show("ok     the training samples are those of the data")
    return True


def verify_factor(options: argparse.Namespace) -> bool:
    """Read the file of a factor and, with --data, compare it with its matrix or repair it."""
    if options.against is not None:
        raise InvalidValueError(f"{options.file} is a factor; --against is for Gram files")
    if options.data is not None:
        from ntk_numba.inputs.paths import names_samples

        if names_samples(options.data):
            raise InvalidValueError(
                f"{options.data} names samples; a factor is compared with a Gram file of its matrix"
            )
    progress = sys.stderr.isatty()
    with open_factor(options.file, incomplete=not options.repair) as file:
        report, complete, kernel = file.verify(progress=progress), file.complete, _kernel(file)
    good = show_report(report)
    if options.repair and report.bad:
        good = show_report(
            ntk_numba.repair_factor(
                options.file, options.data, kernel=kernel, bad=report.bad, progress=progress
            )
        )
    if options.data is not None and complete and good:
        from ntk_numba.factors.verified import verify_factor as compare

        with open_factor(options.file) as file:
            good = show_report(compare(file, options.data, kernel=kernel))
    return good


def _kernel(file: FactorFile) -> Any:
    """Return the kernel whose factor a file has; None if its matrix has only one."""
    return file.contents.kernel or None
