"""Pictures of kernels, spectra, posteriors, searches, activations and finite networks.

`ntk_numba.plots` is public and needs matplotlib: ``pip install 'ntk_numba[plot]'``. Every function
returns a matplotlib figure, which a notebook shows, and writes it if a path is given. All pictures
have one style, whatever the settings of matplotlib are, and the settings stay as they are. Lines
differ by colour, dashes and markers, so that a picture can be read without colours. Fonts in PDF
and PostScript files are TrueType fonts.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ntk_numba.plots.angles import angle as angle
    from ntk_numba.plots.bands import posterior as posterior
    from ntk_numba.plots.duals import activations as activations
    from ntk_numba.plots.matrices import gram as gram
    from ntk_numba.plots.searches import evidence as evidence
    from ntk_numba.plots.spectra import spectrum as spectrum

_HOMES = {
    "gram": "matrices",
    "spectrum": "spectra",
    "posterior": "bands",
    "evidence": "searches",
    "activations": "duals",
    "angle": "angles",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a function when it is first used: most pictures do not need the compiler."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
