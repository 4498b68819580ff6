"""The commands ``cholesky`` and ``solve``, and the matrix that a command uses."""

import argparse
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ntk_numba
from ntk_numba.cli.groups import network_of, wants_progress
from ntk_numba.cli.output import flush, show, show_json, typed
from ntk_numba.errors import InvalidValueError

if TYPE_CHECKING:
    from ntk_numba.solvers.solve import Solution


def cholesky(options: argparse.Namespace) -> bool:
    """Factorise a Gram matrix into a file."""
    opened, _ = matrix_of(options, options.threads)
    with opened as matrix:
        factor = ntk_numba.cholesky(
            matrix,
            options.output,
            ridge=options.ridge,
            kernel=stored_kernel(options),
            memory=options.memory,
            threads=options.threads,
            overwrite=options.overwrite,
            progress=wants_progress(options),
        )
    with factor:
        shape = " × ".join(f"{n:,}" for n in factor.shape)
        facts = ["factor", shape, str(factor.dtype), f"ridge {factor.ridge:g}"]
        show(f"{typed(factor.path, options.output)}: {', '.join(facts)}")
        show(f"log det {factor.log_det:.12g}")
        flush()
    return True


def solve(options: argparse.Namespace) -> bool:
    """Solve a linear system, and write the solution to a file."""
    if options.executor is None:
        return _solve(options, None, options.threads)
    if options.parts is None:
        raise InvalidValueError("--executor computes parts of passes: say how many, as --parts 16")
    from ntk_numba.cluster.schedulers import open_executor

    with open_executor(options.executor, options.threads) as (executor, threads):
        # ranks of MPI other than 0 have computed their parts and are done
        return executor is None or _solve(options, executor, threads)


def _solve(options: argparse.Namespace, executor: Any, threads: int | None) -> bool:
    """Solve a linear system, by the workers of an executor if there is one.

    threads : of each part
    """
    import numpy as np

    from ntk_numba.cli.learning import refuse_inputs, targets_of
    from ntk_numba.cli.predictions import Column, check_outputs, write_predictions

    outputs = check_outputs(options.output, std=False, overwrite=options.overwrite)
    if len(options.ridge) > 1 and options.output.lower().endswith(".csv"):
        raise InvalidValueError(f"{options.output}: a table has one solution; give one --ridge")
    kept = [] if options.checkpoint is None else [Path(options.checkpoint).absolute()]
    if kept == [Path(options.output).absolute()]:
        raise InvalidValueError(f"{options.output} is named twice; choose another --checkpoint")
    refuse_inputs([*outputs, *kept], None, options.gram, options.targets)
    opened, count = matrix_of(options, threads)
    with opened as whole, _parts(options, whole, executor) as matrix:
        y, classes, names = targets_of(options, count)
        if classes is not None:
            names = [str(label) for label in classes]
        found = ntk_numba.solve(
            matrix,
            y,
            ridge=options.ridge if len(options.ridge) > 1 else options.ridge[0],
            kernel=None if options.parts else stored_kernel(options),
            method=options.method,
            tolerance=options.tolerance,
            path=options.checkpoint,
            max_passes=options.max_passes,
            memory=options.memory,
            threads=options.threads,
            seed=options.seed,
            overwrite=options.overwrite,
            progress=wants_progress(options),
        )
    names = names or [f"weight_{k}" for k in range(found.x.shape[-1] if y.ndim == 2 else 1)]
    columns = {"weights": Column(found.x, names)}
    if options.output.lower().endswith(".npz"):
        columns["ridge"] = Column(np.asarray(found.ridge), ["ridge"])
    write_predictions(options.output, columns, overwrite=options.overwrite)
    _show_solution(options, found)
    flush()
    return True


def matrix_of(
    options: argparse.Namespace, threads: int | None
) -> "tuple[AbstractContextManager[Any], int]":
    """Return what all commands take as a matrix, as a context, and its number of rows."""
    if options.depth is None:
        from ntk_numba.inputs.paths import names_samples

        for name in ("activation", "w_std", "b_std", "dtype", "up_to"):
            if getattr(options, name) is not None:
                raise InvalidValueError(
                    f"--{name.replace('_', '-')} is of a network whose kernel is computed: give "
                    f"its --depth too, and samples in place of the Gram file"
                )
        if names_samples(options.gram):
            raise InvalidValueError(
                f"{options.gram} names samples, not a Gram file: give the network of their kernel "
                f"too, --depth and its other options"
            )
        with ntk_numba.open_gram(options.gram) as file:
            return nullcontext(options.gram), file.shape[0]
    operator = ntk_numba.kernel_operator(
        network_of(options),
        options.gram,
        kernel=options.kernel or "ntk",
        dtype=options.dtype,
        memory=options.memory,
        threads=threads,
        up_to=options.up_to,
    )
    return closing(operator), operator.shape[0]


def stored_kernel(options: argparse.Namespace) -> Any:
    """Return the kernel to take from a Gram file; None of a matrix that is computed."""
    return options.kernel if options.depth is None else None


@contextmanager
def _parts(options: argparse.Namespace, matrix: Any, executor: Any) -> Iterator[Any]:
    """Yield a matrix whose passes are computed in parts, if the options say so."""
    if options.parts is None:
        yield matrix
        return
    from ntk_numba.operators.operator import as_operator

    folder = Path(options.scratch or f"{options.output}.passes")
    if not options.scratch:
        folder.mkdir(exist_ok=True)
    parts: dict[str, Any] = {"parts": options.parts, "executor": executor}
    try:
        with (
            closing(
                as_operator(matrix, stored_kernel(options), threads=options.threads)
            ) as operator,
            ntk_numba.distribute(operator, folder, **parts) as distributed,
        ):
            yield distributed
    finally:
        if not options.scratch:
            with suppress(OSError):  # of a pass that was stopped, or of somebody else's file in it
                folder.rmdir()


def _show_solution(options: argparse.Namespace, found: "Solution") -> None:
    """Print how a solution was found."""
    from ntk_numba.solvers.systems import passes_text

    if options.json:
        show_json(
            {
                "output": options.output,
                "shape": list(found.x.shape),
                "method": found.method,
                "reason": found.reason,
                "passes": found.passes,
                "residual": found.residual,
                "ridge": found.ridge if isinstance(found.ridge, float) else found.ridge.tolist(),
            }
        )
        return
    shape = " × ".join(f"{n:,}" for n in found.x.shape)
    show(f"{options.output}: weights {shape}")
    show(f"{'method':10} {found.method} ({found.reason})")
    show(f"{'residual':10} {found.residual:.2g} after {passes_text(found.passes)}")
