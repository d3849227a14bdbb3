"""See which spatial-frequency components teacher and student have: measures and plotly figures.

Names are imported on first use, so that `import sfkd_viz` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfkd_viz.measures import band_energy as band_energy
    from sfkd_viz.measures import ds2s as ds2s
    from sfkd_viz.measures import gaussian_filter as gaussian_filter
    from sfkd_viz.measures import radial_spectrum as radial_spectrum
    from sfkd_viz.measures import spectrum as spectrum
    from sfkd_viz.measures import subbands as subbands
    from sfkd_viz.plots import plot_ds2s as plot_ds2s
    from sfkd_viz.plots import plot_gaussian_mask as plot_gaussian_mask
    from sfkd_viz.plots import plot_radial_spectrum as plot_radial_spectrum
    from sfkd_viz.plots import plot_spectrum as plot_spectrum
    from sfkd_viz.plots import plot_subbands as plot_subbands

_MEASURES = ("band_energy", "ds2s", "gaussian_filter", "radial_spectrum", "spectrum", "subbands")
_PLOTS = ("plot_ds2s", "plot_gaussian_mask", "plot_radial_spectrum", "plot_spectrum", "plot_subbands")
__all__ = [*_MEASURES, *_PLOTS]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _MEASURES:
        return getattr(import_module("sfkd_viz.measures"), name)
    if name in _PLOTS:
        return getattr(import_module("sfkd_viz.plots"), name)
    raise AttributeError(f"module 'sfkd_viz' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
