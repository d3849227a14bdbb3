"""Each band of a layer taken away inside the network, and what that changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sfkd._checks import one_of, unknown
from sfkd.features import Backbone, captured
from sfkd.wavelet import Mode, decompose, max_levels, reconstruct
from sfkd_viz.measures.ablation import BandAblation
from sfkd_viz.measures.blocks import WHOLE, band_names
from sfkd_viz.measures.inputs import check_finite
from sfkd_viz.measures.matrices import APPROXIMATION
from sfkd_viz.measures.sites import (
    INPUT,
    Site,
    as_classes,
    evaluating,
    find_sites,
    logits_of,
    placed,
    rebuilt,
    short_name,
)


def band_ablation(
    model: Backbone,
    batches: Iterable[Any],
    *,
    layers: Sequence[str] | None = None,
    wavelet: str = "haar",
    levels: int = 2,
    mode: Mode = "symmetric",
    bands: Sequence[str] | None = None,
    reference: Backbone | None = None,
    confidence: float = 0.95,
) -> BandAblation:
    """What changes when one band b of one layer is zero: F ← F − W⁻¹(…, 0, W_b F, 0, …) inside the network.

    W is linear, so that is the inverse transform of F's bands with b set to zero. One forward a batch for the intact model
    and one for each layer and band; memory does not grow with the number of images. Prefix tokens are left as they are. On
    grids that 2^J does not divide, the padded transform has more coefficients than the map, so some of b may reappear when
    the ablated map is decomposed anew.

    Args:
        model: put into eval mode meanwhile.
        batches: (images `[B, C, H, W]`, targets `[B]`), all of one size, walked once; −1 is unlabelled.
        layers: default "input", the images themselves, and those that the model captures; or any module that gives a map.
        wavelet, levels, mode: of `sfkd.decompose`; a grid that bears fewer levels lacks the coarser details, and its "A" is
            finer. A grid that bears none has no bands.
        bands: "A", "H2", … to take away; default all.
        reference: a model of the same classes, the teacher say: its agreement with the ablated model is measured too.
        confidence: of the intervals.

    Raises:
        TypeError: no Backbone, batches of something else.
        ValueError: unknown layers or bands, no images, targets that are no class, NaN (the layer is named), a
            layer that is no module or is called more than once.

    Source: zeroing in the network by hook and inverse transform is ours (`method.md`).

    Examples:
        >>> from sfkd.loading import load_demo
        >>> run, samples = load_demo()
        >>> found = band_ablation(run.student, [(samples.images[:40], samples.labels[:40])], layers=["input"], levels=1)
        >>> found.bands, bool(found.top1_change[0].argmin() == 0)
        (('A', 'H1', 'V1', 'D1'), True)
    """
    for name, one in (("model", model), ("reference", reference)):
        if not isinstance(one, Backbone) and (name == "model" or one is not None):
            raise TypeError(f"{name} expects an sfkd.Backbone, got {type(one).__name__}: wrap it in sfkd.Backbone(…).")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence expects a number between 0 and 1, got {confidence!r}: 0.95 for 95 %.")
    max_levels((2, 2), wavelet, mode)  # an unknown wavelet shows before the first forward
    names = _chosen(model, layers)
    known = [band for band in band_names(levels) if band != WHOLE]
    for band in known if bands is None else bands:
        one_of("band", band, known)
    wanted = tuple(band for band in known if bands is None or band in bands)
    if not wanted:
        raise ValueError(f"there is nothing to take away: levels={levels!r}, bands={bands!r}; levels ≥ 1 has bands.")
    tally = _Tally(model, names, wanted, reference, {"wavelet": wavelet, "levels": levels, "mode": mode})
    with evaluating(model, reference), torch.no_grad():
        for images, targets in _checked(batches):
            tally.add(images, targets)
    return tally.result(confidence)


class _Intact(NamedTuple):
    """What a batch gives with nothing taken away; `reference` are the other model's answers."""

    images: Tensor
    targets: Tensor
    logits: Tensor
    reference: Tensor | None


class _Tally:
    """Sums over images, `[layers, bands]` each, in float64."""

    def __init__(
        self,
        model: Backbone,
        layers: list[str],
        bands: tuple[str, ...],
        reference: Backbone | None,
        options: dict[str, Any],
    ) -> None:
        self.model, self.layers, self.bands, self.reference, self.options = model, layers, bands, reference, options
        self.sites: dict[str, Site] = {}
        self.size: tuple[int, ...] = ()
        self.images = self.labelled = self.correct = self.together = 0
        keys = ("agreeing", "lost", "gained", "kl", "kl_square", "share", "reference_lost", "reference_gained")
        self.sums = {key: np.full((len(layers), len(bands)), np.nan) for key in keys}
        self.energy = np.zeros(len(layers))

    def add(self, images: Tensor, targets: Tensor) -> None:
        if self.size and self.size != images.shape[1:]:
            raise ValueError(f"all images need one size, got {self.size} and {tuple(images.shape[1:])}: resize them.")
        given, self.size = images, tuple(images.shape[1:])
        images = placed(self.model, given)
        self.sites = self.sites or find_sites(self.model, self.layers, images[:2])
        with captured(self.model.model, [name for name in self.layers if name != INPUT]) as outputs:
            logits = logits_of(self.model, images)
        maps = [images if name == INPUT else self.sites[name].read(outputs[name]) for name in self.layers]
        for name, x in [
            *zip(self.layers, maps, strict=True),
            ("logits", logits),
        ]:  # where NaN begins, not where it ends
            check_finite(self.model.name, name, x)
        targets = as_classes(targets, logits.shape[1]).to(logits.device)
        intact = _Intact(images, targets, logits, self._reference(given, logits))
        answers = logits.argmax(1)
        self.images += len(images)
        self.labelled += int((targets >= 0).sum())
        self.correct += int((answers == targets).sum())
        self.together += 0 if intact.reference is None else int((answers == intact.reference).sum())
        for row, x in enumerate(maps):
            self._ablate(row, x, intact)

    def _reference(self, images: Tensor, logits: Tensor) -> Tensor | None:
        if self.reference is None:
            return None
        other = logits_of(self.reference, placed(self.reference, images))
        if other.shape != logits.shape:
            raise ValueError(
                f"reference expects {logits.shape[1]} classes as the model has, got {other.shape[1]}: pass a model of the "
                "same classes."
            )
        return other.argmax(1).to(logits.device)

    def _ablate(self, row: int, x: Tensor, intact: _Intact) -> None:
        tree = decompose(x, **self.options)
        if not tree.levels:
            return
        for number, (name, band) in enumerate(tree.items()):
            energy, column = float(band.double().square().sum()), self._column(name)
            self.energy[row] += energy
            if column is None:
                continue
            alone = [b if i == number else torch.zeros_like(b) for i, (_, b) in enumerate(tree.items())]
            part = reconstruct(rebuilt(tree, alone))
            ablated = _without(self.model, intact.images, self.sites[self.layers[row]], part)
            check_finite(f"{self.model.name} without {name} of {self.layers[row]!r}", "logits", ablated)
            for key, value in {"share": energy, **_differences(intact, ablated)}.items():
                self.sums[key][row, column] = np.nan_to_num(self.sums[key][row, column]) + value

    def _column(self, band: str) -> int | None:
        name = APPROXIMATION if band.startswith(APPROXIMATION) else band
        return self.bands.index(name) if name in self.bands else None

    def result(self, confidence: float) -> BandAblation:
        if not self.images:
            raise ValueError("band_ablation saw no images: batches was empty (an iterator that is used up?).")
        if np.isnan(self.sums["kl"]).all():
            grids = ", ".join("{}×{}".format(*site.grid) for site in self.sites.values())
            raise ValueError(f"none of the layers bears the bands {', '.join(self.bands)}: their grids are {grids}.")
        kl = self.sums["kl"] / self.images
        variance = np.maximum(self.sums["kl_square"] / self.images - kl**2, 0.0) / max(self.images - 1, 1)
        share = self.sums["share"] / np.where(self.energy > 0, self.energy, 1.0)[:, None]
        nan = float("nan")
        return BandAblation(
            model=short_name(self.model),
            layers=tuple(self.layers),
            bands=self.bands,
            grids=np.array([self.sites[name].grid for name in self.layers], dtype=np.int64),
            images=self.images,
            labelled=self.labelled,
            top1=100 * self.correct / self.labelled if self.labelled else nan,
            agreeing=self.sums["agreeing"],
            lost=self.sums["lost"],
            gained=self.sums["gained"],
            kl=kl,
            kl_error=np.sqrt(variance) if self.images > 1 else np.where(np.isnan(kl), nan, np.inf),
            share=share,
            reference=None if self.reference is None else short_name(self.reference),
            reference_agreement=nan if self.reference is None else 100 * self.together / self.images,
            reference_lost=self.sums["reference_lost"],
            reference_gained=self.sums["reference_gained"],
            confidence=confidence,
            **self.options,
        )


def _without(model: Backbone, images: Tensor, site: Site, part: Tensor) -> Tensor:
    return logits_of(model, images, site, lambda x: x - part)


def _differences(intact: _Intact, ablated: Tensor) -> dict[str, float]:
    """Sums over a batch. Unlabelled images (−1) are no class's, so they are never right: neither lost nor gained."""
    before, after = intact.logits.argmax(1), ablated.argmax(1)
    log_p, log_q = F.log_softmax(intact.logits.double(), 1), F.log_softmax(ablated.double(), 1)
    kl = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1).clamp_min(0)
    sums = {"agreeing": int((before == after).sum()), "kl": float(kl.sum()), "kl_square": float(kl.square().sum())}
    for prefix, answers in (("", intact.targets), ("reference_", intact.reference)):
        if answers is not None:
            sums[f"{prefix}lost"] = int(((before == answers) & (after != answers)).sum())
            sums[f"{prefix}gained"] = int(((before != answers) & (after == answers)).sum())
    return sums


def _chosen(model: Backbone, layers: Sequence[str] | None) -> list[str]:
    if layers is None:
        return [INPUT, *model.layer_names]
    if isinstance(layers, str):
        raise TypeError(f"layers expects a list of names, got the string {layers!r}: write [{layers!r}].")
    modules = [name for name, _ in model.model.named_modules() if name]
    for name in layers:
        if name != INPUT and name not in model.layer_names and name not in modules:
            raise ValueError(unknown(f"layer of {model.name}", name, [INPUT, *model.layer_names, *modules]))
    if not layers or len(set(layers)) != len(layers):
        raise ValueError(f"layers expects different names, at least one, got {list(layers)}.")
    return list(layers)


def _checked(batches: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) < 2 or not all(isinstance(x, Tensor) for x in batch[:2]):
            raise TypeError(
                f"band_ablation expects batches of (images, targets) as tensors, got {type(batch).__name__}: a single "
                "batch goes in a list, [(images, targets)]."
            )
        images, targets = batch[0], batch[1]
        if images.ndim != 4 or targets.shape != images.shape[:1]:
            raise ValueError(
                "band_ablation expects images [B, C, H, W] with targets [B], got "
                f"{tuple(images.shape)} and {tuple(targets.shape)}."
            )
        if len(images):
            yield images, targets
