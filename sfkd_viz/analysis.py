"""`analyze`: one pass over a data set, and everything that the measures say about teacher, student and baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from sfkd._checks import one_of
from sfkd.features import Backbone
from sfkd.wavelet import Mode
from sfkd_viz.measures.cka import CKA
from sfkd_viz.measures.spectrum import Spectrum, radial_spectrum
from sfkd_viz.measures.subbands import BandEnergy
from sfkd_viz.measures.transfer import Transfer, transfer_of
from sfkd_viz.walk import Walk, at_once

if TYPE_CHECKING:
    import pandas as pd

Measure = Literal["spectrum", "band_energy", "cka", "transfer", "ablation", "attribution"]
STREAMING: tuple[Measure, ...] = ("spectrum", "band_energy", "cka", "transfer")
_ATTRIBUTED = 16  # each takes a forward and a backward at every step of its integral
_COLUMNS = ["measure", "model", "layer", "teacher_layer", "band", "value", "low", "high"]


@dataclass(frozen=True)
class Analysis:
    """What `analyze` found. Roles are "teacher", "student" and "baseline" (the student trained alone).

    Attributes:
        models: role → the model's name. images: how many were measured. complete: False where it was stopped.
        wavelet, levels, mode: of `sfkd.decompose`.
        spectra, band_energy: role → layer → result; means over all images.
        cka: "student" and "baseline" → alignment of the teacher's layers (rows) with that model's (columns).
        transfer: None without a baseline.
        ablation, attribution: role → result on the first images; empty where not asked for.
    """

    models: dict[str, str]
    images: int
    complete: bool
    wavelet: str
    levels: int
    mode: Mode
    spectra: dict[str, dict[str, Spectrum]] = field(default_factory=dict)
    band_energy: dict[str, dict[str, BandEnergy]] = field(default_factory=dict)
    cka: dict[str, CKA] = field(default_factory=dict)
    transfer: Transfer | None = None
    ablation: dict[str, Any] = field(default_factory=dict)
    attribution: dict[str, Any] = field(default_factory=dict)

    def sentence(self) -> str:
        """What moved, in plain words; without a baseline, which layers are nearest."""
        told = [] if self.complete else [f"Stopped after {self.images:,} images."]
        if self.transfer is not None:
            told.append(self.transfer.sentence())
        elif "student" in self.cka:
            told.append(_nearest(self.cka["student"]))
        else:
            told.append(f"Spectra of {', '.join(self.models)} over {self.images:,} images.")
        if "student" in self.ablation:
            told.append(f"In the distilled student: {self.ablation['student'].sentence()}")
        return " ".join(told)

    def to_dataframe(self) -> pd.DataFrame:
        """Long form: measure, model (role), layer, teacher_layer (of a pair), band, value, low, high.

        "spectrum" is the share of energy in each ring of cycles/image, "band_energy" the share in each sub-band, "transfer"
        has its joint interval. Ablation and attribution have tables of their own.
        """
        import pandas as pd

        return pd.DataFrame([dict(zip(_COLUMNS, row, strict=True)) for row in self._rows()], columns=_COLUMNS)

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        for role, spectra in self.spectra.items():
            for layer, measured in spectra.items():
                rings = radial_spectrum(measured)
                for cycles, share in zip(rings.frequency, rings.share, strict=True):
                    yield "spectrum", role, layer, None, f"{cycles:g} cycles/image", float(share), None, None
        for role, energies in self.band_energy.items():
            for layer, energy in energies.items():
                for band, share in energy.share.items():
                    yield "band_energy", role, layer, None, band, share, None, None
        for role, alignment in self.cka.items():
            for row in alignment.to_dataframe().itertuples():
                yield "cka", role, row.b, row.a, row.band, row.cka, None, None
        if self.transfer is not None:
            for row in self.transfer.to_dataframe().itertuples():
                yield (
                    *("transfer", "student", row.student, row.teacher, row.band),
                    *(row.transfer, row.joint_low, row.joint_high),
                )

    def save(self, path: str | Path) -> Path:
        """Write `path` with the endings `.npz` (arrays) and `.json` (all else); the JSON's path. Nothing is pickled."""
        from sfkd_viz.saving import save

        return save(self, path)


def load_analysis(path: str | Path) -> Analysis:
    """What `Analysis.save` wrote; `path` with or without an ending.

    Raises:
        ValueError: files that are missing, damaged, or something else.

    Examples:
        >>> from sfkd.loading import DEMO
        >>> load_analysis(DEMO / "analysis" / "analysis").images
        10000
    """
    from sfkd_viz.saving import load

    return load(path)


def analyze(
    teacher: Backbone,
    student: Backbone,
    loader: Iterable[Any],
    baseline: Backbone | None = None,
    *,
    layers: Mapping[str, Sequence[str]] | None = None,
    wavelet: str = "haar",
    levels: int = 2,
    mode: Mode = "symmetric",
    measures: Sequence[Measure] | None = None,
    max_images: int | None = None,
    samples: int = 256,
    device: torch.device | str | None = None,
    progress: bool = True,
    stop: Callable[[], bool] | None = None,
) -> Analysis:
    """Measure teacher, student and the student trained alone on a data set, in one pass and constant memory.

    Images are regrouped into blocks of 256 in the order in which they come and forwarded 64 at a time, so the loader's
    batch size and workers change nothing. Held at once: a block of images and its float32 maps (each on the largest grid
    on which it is compared), and the HSIC of past blocks, a few kilobytes each.

    On many processes (torch.distributed, Accelerate) give every process the whole loader as it was before
    `accelerator.prepare`: each forwards every n-th block, skips the others and receives the sums of all, so all return
    what one process would. Reading the images is then done by each.

    Args:
        teacher, student, baseline: baseline is the student's architecture trained without the teacher; transfer needs it.
        loader: any iterable of (images `[B, C, H, W]`, targets, …), walked once. Its order is the order of the blocks.
        layers: role → names of the layers to measure ("teacher", "student"; the baseline takes the student's); default
            those that the models capture.
        wavelet, levels, mode: of `sfkd.decompose`.
        measures: default "spectrum", "band_energy", "cka", and "transfer" where there is a baseline. "ablation" and
            "attribution" need forwards of their own: the first `samples` images are kept for them. Ablation is that of the
            students, with the teacher as reference; attribution, of all models, explains the first 16.
        max_images: stop reading after so many.
        samples: most images kept for ablation and attribution.
        device: move the models there first; default: where each of them is.
        progress: a bar on stderr. stop: asked before each block; a stopped analysis holds what was seen, as one
            interrupted from the keyboard does, and says so in `complete`.

    Raises:
        TypeError: no Backbone, no (images, targets).
        ValueError: fewer than 4 images, unknown measures, NaN (the layer is named), transfer without a
            baseline.

    Examples:
        >>> from sfkd.loading import load_demo
        >>> run, samples = load_demo()
        >>> batches = [(samples.images[:24], samples.labels[:24]), (samples.images[24:40], samples.labels[24:40])]
        >>> found = analyze(run.teacher, run.student, batches, run.baseline, progress=False)
        >>> found.images, list(found.cka), found.cka["student"].columns
        (40, ['student', 'baseline'], ('layers.0', 'layers.1', 'layers.2'))
    """
    models = {"teacher": teacher, "student": student} | ({} if baseline is None else {"baseline": baseline})
    wanted = _wanted(measures, baseline)
    for name, number in {"max_images": max_images, "samples": samples}.items():
        if number is not None and (isinstance(number, bool) or number < 1):
            raise ValueError(f"{name} expects a number ≥ 1, got {number!r}.")
    for role, model in models.items():
        if not isinstance(model, Backbone):
            raise TypeError(
                f"{role} expects an sfkd.Backbone, got {type(model).__name__}: wrap it in sfkd.Backbone(…)."
            )
        if device is not None:
            model.to(device)
    names = {role: _name(model) for role, model in models.items()}
    models = _with_layers(models, layers or {})
    options: dict[str, Any] = {"wavelet": wavelet, "levels": levels, "mode": mode}
    keep = samples if {"ablation", "attribution"} & set(wanted) else 0
    walk = Walk(models, wanted, keep=keep, **options)
    with _evaluating(models):
        complete = walk.run(loader, max_images=max_images, progress=progress, stop=stop)
        extra = _on_samples(models, names, walk.kept, wanted, options)
    alignment = walk.alignment()
    moved = transfer_of(alignment["student"], alignment["baseline"]) if "transfer" in wanted else None
    return Analysis(
        names,
        walk.images,
        complete,
        wavelet,
        levels,
        mode,
        spectra=walk.spectra(),
        band_energy=walk.energies(),
        cka=alignment if "cka" in wanted else {},
        transfer=moved,
        **extra,
    )


@contextmanager
def _evaluating(models: Mapping[str, Backbone]) -> Iterator[None]:
    """Eval mode during the block; every module is put back as it was."""
    before = [(module, module.training) for model in models.values() for module in model.modules()]
    for model in models.values():
        model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def _wanted(measures: Sequence[Measure] | None, baseline: Backbone | None) -> tuple[Measure, ...]:
    if measures is None:
        return tuple(measure for measure in STREAMING if measure != "transfer" or baseline is not None)
    if isinstance(measures, str):
        raise TypeError(f"measures expects a list of names, got the string {measures!r}: write [{measures!r}].")
    for measure in measures:
        one_of("measure", measure, get_args(Measure))
    if not measures:
        raise ValueError(f"measures expects one at least of {', '.join(get_args(Measure))}.")
    if "transfer" in measures and baseline is None:
        raise ValueError(
            "transfer compares with the student trained alone: pass baseline=…, or leave it out of measures."
        )
    return tuple(measures)


def _with_layers(models: dict[str, Backbone], layers: Mapping[str, Sequence[str]]) -> dict[str, Backbone]:
    for role in layers:
        one_of("role in layers", role, ("teacher", "student"))
    chosen = {role: layers.get("student" if role == "baseline" else role) for role in models}
    return {
        role: model if (names := chosen[role]) is None else model.capturing(names) for role, model in models.items()
    }


def _name(model: Backbone) -> str:
    """The architecture where timm knows it (the name of a run's model is the path of its weights)."""
    return (getattr(model.model, "pretrained_cfg", None) or {}).get("architecture") or model.name


def _on_samples(
    models: dict[str, Backbone],
    names: dict[str, str],
    kept: tuple[Tensor, Tensor] | None,
    wanted: Sequence[str],
    options: dict[str, Any],
) -> dict[str, dict[str, Any]]:
    """Ablation and attribution of the images that were kept, under the models' names in the analysis."""
    found: dict[str, dict[str, Any]] = {}
    if kept is None:
        return found
    images, targets = kept
    if "ablation" in wanted:
        from sfkd_viz.measures.ablate import band_ablation

        parts = list(zip(images.split(at_once(images)), targets.split(at_once(images)), strict=True))
        teacher = models["teacher"]
        found["ablation"] = {
            role: replace(
                band_ablation(model, parts, reference=teacher, **options), model=names[role], reference=names["teacher"]
            )
            for role, model in models.items()
            if role != "teacher"
        }
    if "attribution" in wanted:
        from sfkd_viz.measures.attribution import wavelet_attribution

        few = images[:_ATTRIBUTED], targets[:_ATTRIBUTED]
        found["attribution"] = {
            role: replace(wavelet_attribution(model, *few, **options), model=names[role])
            for role, model in models.items()
        }
    return found


def _nearest(alignment: CKA) -> str:
    values = alignment.values
    if not np.isfinite(values).any():
        return "No pair of layers has an alignment: one side is constant in each."
    row, column = (int(i) for i in np.unravel_index(int(np.nanargmax(values)), values.shape))
    return (
        f"Of all pairs, {alignment.columns[column]} of the student is nearest to {alignment.rows[row]} of the teacher: "
        f"CKA {values[row, column]:.2f} ({alignment.images:,} images); without a baseline nothing says what distillation "
        "moved."
    )
