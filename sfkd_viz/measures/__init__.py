"""Measures: features in, small named results out. No plotly here."""

from sfkd_viz.measures.ablate import band_ablation
from sfkd_viz.measures.ablation import BandAblation
from sfkd_viz.measures.amplitude import RelativeAmplitude, relative_amplitude
from sfkd_viz.measures.attribution import WaveletAttribution, wavelet_attribution
from sfkd_viz.measures.cam import GradCAM, grad_cam
from sfkd_viz.measures.cka import CKA, CKAStream, cka
from sfkd_viz.measures.gaussian import GaussianFilter, gaussian_filter
from sfkd_viz.measures.refinement import Refinement, ds2s, ds2s_layers
from sfkd_viz.measures.spectrum import RadialSpectrum, Spectrum, radial_spectrum, spectrum
from sfkd_viz.measures.subbands import BandEnergy, BandImages, band_energy, subbands
from sfkd_viz.measures.training import TrainingCurves, training_curves
from sfkd_viz.measures.transfer import Transfer, transfer, transfer_of

__all__ = [
    "CKA",
    "BandAblation",
    "BandEnergy",
    "BandImages",
    "CKAStream",
    "GaussianFilter",
    "GradCAM",
    "RadialSpectrum",
    "Refinement",
    "RelativeAmplitude",
    "Spectrum",
    "TrainingCurves",
    "Transfer",
    "WaveletAttribution",
    "band_ablation",
    "band_energy",
    "cka",
    "ds2s",
    "ds2s_layers",
    "gaussian_filter",
    "grad_cam",
    "radial_spectrum",
    "relative_amplitude",
    "spectrum",
    "subbands",
    "training_curves",
    "transfer",
    "transfer_of",
    "wavelet_attribution",
]
