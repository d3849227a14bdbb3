"""What each view is called, asks, shows and follows; without torch, for the layout of the page."""

from __future__ import annotations

from dataclasses import dataclass

CONTROLS = ("layer", "wavelet", "levels", "band", "channel", "sigma", "model")


@dataclass(frozen=True)
class Card:
    """A view as the page lays it out.

    Attributes:
        question: what it answers. figures: what each figure is, in words for those who do not see it.
        follows: the shared controls that change it; all follow the pair, and all but training the image.
    """

    question: str
    figures: tuple[str, ...]
    follows: frozenset[str]


def _card(question: str, figures: tuple[str, ...], follows: str) -> Card:
    return Card(question, figures, frozenset(follows.split()))


CARDS: dict[str, Card] = {
    "Overview": _card(
        "Which band of which layer moved towards the teacher, compared with the same student trained alone?",
        ("Movement of alignment by layer pair and band",),
        "wavelet levels band",
    ),
    "Sub-bands": _card(
        "Where in the image, at which scale and orientation, does a layer carry its energy?",
        ("Wavelet sub-bands of each model", "Share of energy per sub-band over depth"),
        "layer wavelet levels band channel model",
    ),
    "Spectra": _card(
        "How is energy spread over spatial frequencies, and how does that change with depth?",
        ("Energy spectrum of each model", "Radial spectra", "Relative amplitude over depth"),
        "layer model",
    ),
    "Gaussian masks": _card(
        "What does a Gaussian of width σ let through? It is what the frequency loss of SFKD compares.",
        ("What a Gaussian mask keeps and removes",),
        "layer channel sigma",
    ),
    "DS2S": _card(
        "What does the refinement DS2S do to the student's sub-bands on their way to the teacher's? Wavelet and levels are "
        "those of the training.",
        ("Sub-bands before and after each stage of DS2S",),
        "layer channel",
    ),
    "CKA": _card(
        "Which layers of teacher and student are alike, as a whole and band by band?",
        ("Alignment of the distilled student with the teacher", "Alignment of the student alone with the teacher"),
        "layer wavelet levels band",
    ),
    "Attribution": _card(
        "Which bands speak for the model's answer on this image, and where?",
        ("Attribution of the answer to bands",),
        "layer wavelet levels model",
    ),
    "Ablation": _card(
        "Which bands matter: what does the model lose without each of them?",
        ("What each band is worth to the model",),
        "wavelet levels model",
    ),
    "Training": _card("How did training go, and how is it going?", ("Training curves",), ""),
}
