"""Plots: results (or the features under them) in, plotly figures out. Nothing is measured here."""

from sfkd_viz.plots.gaussian import plot_gaussian_mask
from sfkd_viz.plots.refinement import plot_ds2s
from sfkd_viz.plots.spectrum import plot_radial_spectrum, plot_spectrum
from sfkd_viz.plots.subbands import plot_subbands

__all__ = ["plot_ds2s", "plot_gaussian_mask", "plot_radial_spectrum", "plot_spectrum", "plot_subbands"]
