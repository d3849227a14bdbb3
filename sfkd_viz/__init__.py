"""See which spatial-frequency components teacher and student have: measures and plotly figures.

Names are imported on first use, so that `import sfkd_viz` stays light: torch comes with the first measure (or with a run,
whose files `sfkd` reads), plotly with the first figure, captum with the first attribution, kaleido with the first image.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfkd_viz.analysis import Analysis as Analysis
    from sfkd_viz.analysis import analyze as analyze
    from sfkd_viz.analysis import load_analysis as load_analysis
    from sfkd_viz.export import figure_data as figure_data
    from sfkd_viz.export import save_figure as save_figure
    from sfkd_viz.measures import CKAStream as CKAStream
    from sfkd_viz.measures import band_ablation as band_ablation
    from sfkd_viz.measures import band_energy as band_energy
    from sfkd_viz.measures import cka as cka
    from sfkd_viz.measures import ds2s as ds2s
    from sfkd_viz.measures import ds2s_layers as ds2s_layers
    from sfkd_viz.measures import gaussian_filter as gaussian_filter
    from sfkd_viz.measures import grad_cam as grad_cam
    from sfkd_viz.measures import radial_spectrum as radial_spectrum
    from sfkd_viz.measures import relative_amplitude as relative_amplitude
    from sfkd_viz.measures import spectrum as spectrum
    from sfkd_viz.measures import subbands as subbands
    from sfkd_viz.measures import training_curves as training_curves
    from sfkd_viz.measures import transfer as transfer
    from sfkd_viz.measures import transfer_of as transfer_of
    from sfkd_viz.measures import wavelet_attribution as wavelet_attribution
    from sfkd_viz.plots import plot_attribution as plot_attribution
    from sfkd_viz.plots import plot_band_ablation as plot_band_ablation
    from sfkd_viz.plots import plot_band_energy as plot_band_energy
    from sfkd_viz.plots import plot_cka as plot_cka
    from sfkd_viz.plots import plot_ds2s as plot_ds2s
    from sfkd_viz.plots import plot_gaussian_mask as plot_gaussian_mask
    from sfkd_viz.plots import plot_radial_spectrum as plot_radial_spectrum
    from sfkd_viz.plots import plot_relative_amplitude as plot_relative_amplitude
    from sfkd_viz.plots import plot_spectrum as plot_spectrum
    from sfkd_viz.plots import plot_subbands as plot_subbands
    from sfkd_viz.plots import plot_training as plot_training
    from sfkd_viz.plots import plot_transfer as plot_transfer

_MEASURES = (
    "band_ablation",
    "grad_cam",
    "wavelet_attribution",
    "band_energy",
    "ds2s",
    "ds2s_layers",
    "gaussian_filter",
    "radial_spectrum",
    "relative_amplitude",
    "spectrum",
    "subbands",
    "training_curves",
    "CKAStream",
    "cka",
    "transfer",
    "transfer_of",
)
_PLOTS = (
    "plot_attribution",
    "plot_band_ablation",
    "plot_band_energy",
    "plot_ds2s",
    "plot_gaussian_mask",
    "plot_radial_spectrum",
    "plot_relative_amplitude",
    "plot_spectrum",
    "plot_subbands",
    "plot_training",
    "plot_cka",
    "plot_transfer",
)
_ANALYSIS = ("Analysis", "analyze", "load_analysis")
_EXPORT = ("figure_data", "save_figure")
__all__ = [*_MEASURES, *_PLOTS, *_EXPORT, *_ANALYSIS]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _MEASURES:
        return getattr(import_module("sfkd_viz.measures"), name)
    if name in _PLOTS:
        return getattr(import_module("sfkd_viz.plots"), name)
    if name in _ANALYSIS:
        return getattr(import_module("sfkd_viz.analysis"), name)
    if name in _EXPORT:
        return getattr(import_module("sfkd_viz.export"), name)
    raise AttributeError(f"module 'sfkd_viz' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
