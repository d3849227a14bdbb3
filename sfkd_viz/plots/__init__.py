"""Plots: results (or the features under them) in, plotly figures out. Nothing is measured here."""

from sfkd_viz.plots.ablation import plot_band_ablation
from sfkd_viz.plots.amplitude import plot_relative_amplitude
from sfkd_viz.plots.attribution import plot_attribution
from sfkd_viz.plots.cka import plot_cka
from sfkd_viz.plots.energy import plot_band_energy
from sfkd_viz.plots.gaussian import plot_gaussian_mask
from sfkd_viz.plots.refinement import plot_ds2s
from sfkd_viz.plots.spectrum import plot_radial_spectrum, plot_spectrum
from sfkd_viz.plots.subbands import plot_subbands
from sfkd_viz.plots.training import plot_training
from sfkd_viz.plots.transfer import plot_transfer

__all__ = [
    "plot_attribution",
    "plot_band_ablation",
    "plot_band_energy",
    "plot_cka",
    "plot_ds2s",
    "plot_gaussian_mask",
    "plot_radial_spectrum",
    "plot_relative_amplitude",
    "plot_spectrum",
    "plot_subbands",
    "plot_training",
    "plot_transfer",
]
