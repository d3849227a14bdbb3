"""The views by name: what one looks at → an answer and figures."""

from views.alignment import cka, overview
from views.answers import ablation, attribution
from views.base import Drawn, Look, Shown, View
from views.maps import ds2s, gaussian, spectra, sub_bands
from views.training import training

SHOW: dict[str, View] = {
    "Overview": overview,
    "Sub-bands": sub_bands,
    "Spectra": spectra,
    "Gaussian masks": gaussian,
    "DS2S": ds2s,
    "CKA": cka,
    "Attribution": attribution,
    "Ablation": ablation,
    "Training": training,
}

__all__ = ["SHOW", "Drawn", "Look", "Shown", "View"]
