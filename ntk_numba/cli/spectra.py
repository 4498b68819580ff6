"""The command ``spectrum``."""

import argparse
from typing import TYPE_CHECKING, Any

import ntk_numba
from ntk_numba.cli.groups import wants_progress
from ntk_numba.cli.matrices import matrix_of, stored_kernel
from ntk_numba.cli.output import flush, show, show_json

if TYPE_CHECKING:
    from ntk_numba.solvers.spectral_sums import Estimate
    from ntk_numba.solvers.spectrum import Spectrum

SHOWN = 20  # eigenvalues, at most, that are printed for people


def spectrum(options: argparse.Namespace) -> bool:
    """Print the leading eigenvalues of a matrix and, with --plot, draw them."""
    from ntk_numba.arguments import not_negative
    from ntk_numba.cli.learning import targets_of

    for ridge in options.ridge:
        not_negative("--ridge", ridge)
    if options.plot:
        from ntk_numba.plots.figure import check_picture

        check_picture(options.plot)  # an error at once if the picture cannot be saved
    opened, count = matrix_of(options, options.threads)
    with opened as matrix:
        y = None if options.targets is None else targets_of(options, count)[0]
        found = ntk_numba.spectrum(
            matrix,
            options.k,
            kernel=stored_kernel(options),
            tolerance=options.tolerance,
            probes=options.probes,
            max_passes=options.max_passes,
            seed=options.seed,
            memory=options.memory,
            threads=options.threads,
            progress=wants_progress(options),
        )
    facts = _facts(found, options.ridge, y)
    if options.json:
        show_json(facts)
    else:
        _show(found, facts)
    if options.plot:
        from ntk_numba.plots.spectra import spectrum as draw

        draw(found, options.plot, targets=y)
    flush()
    return True


def _facts(found: "Spectrum", ridges: list[float], y: Any) -> dict[str, Any]:
    """Return what was found, as --json prints it; what is infinite or unknown is null."""
    facts: dict[str, Any] = {
        "size": found.size,
        "values": found.values.tolist(),
        "residuals": found.residuals.tolist(),
        "trace": found.trace,
        "passes": found.passes,
        "exact": found.exact,
        "ridges": [_at(found, ridge) for ridge in ridges],
    }
    if y is not None:
        alignment = found.alignment(y)
        facts |= {key: value.tolist() for key, value in alignment._asdict().items()}
    return facts


def _at(found: "Spectrum", ridge: float) -> dict[str, Any]:
    """Return the estimates at a ridge."""
    condition = found.condition(ridge)
    facts: dict[str, Any] = {"ridge": ridge}
    if ridge > 0:
        facts["effective_dimension"] = _pair(found.effective_dimension(ridge))
    if condition.least < float("inf"):
        facts["log_det"] = _pair(found.log_det(ridge))
    bounds = {"least": condition.least, "largest": condition.largest}
    return facts | {"condition": {k: v if v < float("inf") else None for k, v in bounds.items()}}


def _pair(estimate: "Estimate") -> dict[str, float]:
    """Return an estimate as --json prints it."""
    return {"value": estimate.value, "error": estimate.error}


def _show(found: "Spectrum", facts: dict[str, Any]) -> None:
    """Print what was found, for people."""
    from ntk_numba.solvers.systems import passes_text

    how = "all computed" if found.exact else passes_text(found.passes)
    show(f"{'matrix':20} {found.size:,} × {found.size:,}, {how}")
    show(f"{'trace':20} {found.trace:.8g}, {found.trace / found.size:.6g} a sample")
    share = facts.get("total")
    for k, value in enumerate(found.values[:SHOWN]):
        text = f"{value:.8g}"
        if not found.exact:
            text += f" ± {found.residuals[k]:.1g}"
        if share is not None:
            text += f", {100 * share[k]:.1f} % of the targets so far"
        show(f"{f'eigenvalue {k + 1}':20} {text}")
    if len(found.values) > SHOWN:
        show(f"{'':20} … {len(found.values) - SHOWN:,} more with --json")
    for at in facts["ridges"]:
        show(f"with a ridge of {at['ridge']:g}")
        for key in ("effective_dimension", "log_det"):
            if key in at:
                error = at[key]["error"]
                text = f"{at[key]['value']:.8g}" + (f" ± {error:.2g}" if error else "")
                show(f"  {key.replace('_', ' '):18} {text}")
        least, largest = at["condition"]["least"], at["condition"]["largest"]
        if least is None:
            show(f"  {'condition':18} infinite: an eigenvalue is not positive")
        elif found.exact:
            show(f"  {'condition':18} {least:.4g}")
        else:
            above = "" if largest is None else f", at most {largest:.4g}"
            show(f"  {'condition':18} at least {least:.4g}{above}")
