"""Loss functions, pure; and thin modules that store their keywords.

Every function takes the student first, the teacher second, and returns a scalar that is a mean over samples (or over
their pairs and triples), so that its scale does not depend on the batch size. Half precision is computed in float32,
and nothing waits for the device.
"""

from sfkd.losses.logits import dist_loss, dkd_loss, kd_loss, ofa_loss
from sfkd.losses.maps import (
    Comparison,
    GaussianFrequencyLoss,
    Spectrum,
    band_loss,
    check_band_weights,
    detail_band_loss,
    gaussian_frequency_loss,
    hint_loss,
    spectral_mse_loss,
)
from sfkd.losses.relations import contrastive_loss, correlation_distance, correlation_loss, infonce_loss, rkd_loss

__all__ = [
    "Comparison",
    "GaussianFrequencyLoss",
    "Spectrum",
    "band_loss",
    "check_band_weights",
    "contrastive_loss",
    "correlation_distance",
    "correlation_loss",
    "detail_band_loss",
    "dist_loss",
    "dkd_loss",
    "gaussian_frequency_loss",
    "hint_loss",
    "infonce_loss",
    "kd_loss",
    "ofa_loss",
    "rkd_loss",
    "spectral_mse_loss",
]
