"""The commands that use a Gram matrix: ``cholesky``."""

import argparse

import ntk_numba
from ntk_numba.cli.groups import wants_progress
from ntk_numba.cli.output import flush, show, typed


def cholesky(options: argparse.Namespace) -> bool:
    """Factorise a Gram matrix into a file."""
    factor = ntk_numba.cholesky(
        options.gram,
        options.output,
        ridge=options.ridge,
        kernel=options.kernel,
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
