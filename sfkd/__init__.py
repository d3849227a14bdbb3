"""Spatial-frequency knowledge distillation between unlike architectures: the training core and its mathematics."""

from sfkd import losses
from sfkd.align import common_grid, pair_layers
from sfkd.distillers import Distiller, Result, create_distiller, list_distillers
from sfkd.features import Backbone, Layer, Output, tokens_to_map
from sfkd.fourier import RadialProfile, gaussian_mask, power_spectrum, radial_profile
from sfkd.loading import Demo, Run, Samples, load_demo, load_run
from sfkd.losses import GaussianFrequencyLoss, band_loss, gaussian_frequency_loss
from sfkd.refine import DS2S, DS2SStages
from sfkd.wavelet import Detail, SubBands, decompose, max_levels, reconstruct
from sfkd.weights import WeightsError

__version__ = "0.1.0"

__all__ = [
    "DS2S",
    "Backbone",
    "DS2SStages",
    "Demo",
    "Detail",
    "Distiller",
    "GaussianFrequencyLoss",
    "Layer",
    "Output",
    "RadialProfile",
    "Result",
    "Run",
    "Samples",
    "SubBands",
    "WeightsError",
    "band_loss",
    "common_grid",
    "create_distiller",
    "decompose",
    "gaussian_frequency_loss",
    "gaussian_mask",
    "list_distillers",
    "load_demo",
    "load_run",
    "losses",
    "max_levels",
    "pair_layers",
    "power_spectrum",
    "radial_profile",
    "reconstruct",
    "tokens_to_map",
]
