"""DS2S as it acts on images: the sub-bands of both streams before and after each stage, beside the teacher's target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sfkd.distillers.sfkd import SFKD, LayerView
from sfkd.wavelet import SubBands
from sfkd_viz.measures.inputs import Channel, as_maps, channel_loading, project
from sfkd_viz.measures.subbands import BandImages, band_columns, band_images, energy_of

if TYPE_CHECKING:
    from pandas import DataFrame

STAGES = ("target", "input", "within", "across")
_BEFORE = {"within": "input", "across": "within"}


@dataclass(frozen=True)
class Refinement:
    """DS2S of one layer pair on some images.

    Attributes:
        student_layer, teacher_layer: the pair. trained: False where DS2S is still the identity it starts as.
        stages: "target" (the teacher's raw bands), "input" (the student's), "within" (after stage 1), "across" (after
            stage 2) → pictures of the sub-bands, in the units of the standardised target.
        gain: stage → band → energy after the stage over energy before it (stage 1 "within", stage 2 "across").
        error: "input", "within", "across" → band → ‖S − T‖² / ‖T‖², energy-weighted over images and channels.
        energy: stage → band → mean energy per image and channel, in units of the standardised target.
    """

    student_layer: str
    teacher_layer: str
    trained: bool
    stages: dict[str, BandImages]
    gain: dict[str, dict[str, float]]
    error: dict[str, dict[str, float]]
    energy: dict[str, dict[str, float]]

    def to_dataframe(self) -> DataFrame:
        """A row a stage and band of both streams.

        Columns: `student_layer`, `teacher_layer`, `stage`, `stream` ("low": A, "high": H, V, D), `band`, `level`,
        `orientation`, `energy`, `gain` (energy after the stage / before it) and `gain_db` (10·log₁₀ of it; both empty for
        "target" and "input"), `relative_squared_error` (empty for "target").
        """
        from pandas import DataFrame

        layers = {"student_layer": self.student_layer, "teacher_layer": self.teacher_layer}
        nothing: dict[str, float] = {}
        rows = []
        for stage in STAGES:
            for band, energy in self.energy[stage].items():
                gain = self.gain.get(stage, nothing).get(band, float("nan"))
                columns = {"stage": stage, "stream": "low" if band.startswith("A") else "high", **band_columns(band)}
                numbers = {"energy": energy, "gain": gain, "gain_db": decibel(gain)}
                error = self.error.get(stage, nothing).get(band, float("nan"))
                rows.append({**layers, **columns, **numbers, "relative_squared_error": error})
        return DataFrame(rows)


def ds2s(distiller_or_run: Any, images: Any, *, layer: str | None = None, channel: Channel = "energy") -> Refinement:
    """Every stage of both DS2S streams for one layer.

    Args:
        distiller_or_run: an `sfkd` distiller, or a run that has one.
        images: `[B, C, H, W]` or `[C, H, W]`, normalised for the models.
        layer: the student's layer; default the first.
        channel: of the aligned maps, as in `subbands`; principal components are the target's, applied to all stages.

    Gain of a stage per band: Σ S_b² after it / before it; distance to the target: Σ (S_b − T_b)² / Σ T_b², sums over images,
    channels and positions.

    Raises:
        TypeError: no SFKD distiller.
        ValueError: a layer that it does not pair, NaN.

    Source: two streams and two stages are the paper's (arXiv 2607.01906); what they compute (`sfkd.DS2S`), and what is shown
    of it, are ours.
    """
    distiller = _distiller(distiller_or_run)
    layers = [student for student, _ in distiller.pairs]
    layer = layers[0] if layer is None else layer
    if layer not in layers:
        raise ValueError(f"layer {layer!r} is not paired; choose one of {', '.join(layers)}.")
    return _refinements(distiller, images, [layer], channel)[layer]


def ds2s_layers(distiller_or_run: Any, images: Any, *, channel: Channel = "energy") -> dict[str, Refinement]:
    """`ds2s` of every paired layer, by the student's layer name, from one forward of both models."""
    distiller = _distiller(distiller_or_run)
    return _refinements(distiller, images, [student for student, _ in distiller.pairs], channel)


def _distiller(distiller_or_run: Any) -> SFKD:
    distiller = getattr(distiller_or_run, "distiller", distiller_or_run)
    if not isinstance(distiller, SFKD):
        raise TypeError(
            f"ds2s expects an sfkd distiller or a run of one, got {type(distiller).__name__}: other methods have no DS2S."
        )
    return distiller


def _refinements(distiller: SFKD, images: Any, layers: list[str], channel: Channel) -> dict[str, Refinement]:
    reference = next(distiller.parameters())
    views = distiller.inspect(as_maps(images, "images").to(reference.device, reference.dtype))
    modules = {s: module for (s, _), module in zip(distiller.pairs, distiller.spatial_frequency, strict=True)}
    teacher_layers = dict(distiller.pairs)
    return {
        layer: refinement_of(
            views[layer],
            student_layer=layer,
            teacher_layer=teacher_layers[layer],
            trained=not modules[layer].refine.is_identity(),  # type: ignore[operator, union-attr]
            asked_levels=distiller.asked_levels,
            channel=channel,
        )
        for layer in layers
    }


def decibel(gain: float) -> float:
    """10·log₁₀ of a ratio of energies: −∞ for 0, NaN for NaN.

    Examples:
        >>> decibel(100.0)
        20.0
    """
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(gain))


def refinement_of(
    view: LayerView,
    *,
    student_layer: str,
    teacher_layer: str,
    trained: bool,
    asked_levels: int,
    channel: Channel = "energy",
) -> Refinement:
    """`Refinement` of a ready `LayerView`."""
    bands = {"target": view.target, **view.stages._asdict()}
    bands = {stage: b.map(lambda t: t.cpu()) for stage, b in bands.items()}
    energies = {stage: energy_of(b).energy for stage, b in bands.items()}
    gain = {after: _ratio(energies[after], energies[before]) for after, before in _BEFORE.items()}
    error = {s: _ratio(energy_of(_minus(bands[s], bands["target"])).energy, energies["target"]) for s in STAGES[1:]}
    pictures = {stage: _pictures(b, view.teacher.cpu(), channel, asked_levels) for stage, b in bands.items()}
    return Refinement(student_layer, teacher_layer, trained, pictures, gain, error, energies)


def _pictures(bands: SubBands, target: torch.Tensor, channel: Channel, asked_levels: int) -> BandImages:
    loading, label = channel_loading(target, channel)
    signed = loading is not None
    chosen = bands if loading is None else bands.map(lambda b: project(b[:1], loading))
    images = band_images(chosen, signed=signed, scale=1.0)
    return BandImages(images, bands.shape, label, signed, bands.wavelet, bands.levels, asked_levels)


def _ratio(above: dict[str, float], below: dict[str, float]) -> dict[str, float]:
    return {name: above[name] / below[name] if below[name] > 0 else float("nan") for name in above}


def _minus(a: SubBands, b: SubBands) -> SubBands:
    others = dict(b.items())
    differences = {name: band - others[name] for name, band in a.items()}
    names = iter(differences)
    return a.map(lambda _: differences[next(names)])
