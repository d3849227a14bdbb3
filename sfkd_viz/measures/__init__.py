"""Measures: features in, small named results out. No plotly here."""

from sfkd_viz.measures.gaussian import GaussianFilter, gaussian_filter
from sfkd_viz.measures.refinement import Refinement, ds2s
from sfkd_viz.measures.spectrum import RadialSpectrum, Spectrum, radial_spectrum, spectrum
from sfkd_viz.measures.subbands import BandEnergy, BandImages, band_energy, subbands

__all__ = [
    "BandEnergy",
    "BandImages",
    "GaussianFilter",
    "RadialSpectrum",
    "Refinement",
    "Spectrum",
    "band_energy",
    "ds2s",
    "gaussian_filter",
    "radial_spectrum",
    "spectrum",
    "subbands",
]
