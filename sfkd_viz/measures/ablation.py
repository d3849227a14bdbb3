"""Which bands a network's answer rests on: each band of a layer taken away inside the network, and what that changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sfkd._checks import one_of, unknown
from sfkd.features import Backbone, captured
from sfkd.wavelet import Mode, decompose, max_levels, reconstruct
from sfkd_viz.measures.blocks import WHOLE, band_names
from sfkd_viz.measures.inputs import check_finite
from sfkd_viz.measures.matrices import APPROXIMATION
from sfkd_viz.measures.proportions import paired, points, wilson
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
from sfkd_viz.measures.subbands import band_columns

if TYPE_CHECKING:
    import pandas as pd

_ROUNDING = 1e-12  # float32 keeps about 1e-14 of a map's energy in a band that is empty
Quantity = Literal["top1", "agreement", "reference", "kl"]


@dataclass(frozen=True)
class BandAblation:
    """What a network loses with each band of each layer; arrays are `[layers, bands]`, NaN where a grid lacks the band.

    Attributes:
        model: its name. layers: "input" and layers of the model. bands: "A" (approximation at the coarsest level that a
            layer's grid bears), "H2" … "D1". grids: `[layers, 2]`, (H, W).
        images: how many were seen. labelled: how many of them have a target. top1: of the intact model on these, percent.
        agreeing: images on which the model still gives the intact model's answer.
        lost, gained: labelled images that turn wrong, that turn right.
        kl: KL(intact ‖ ablated) of the class probabilities, nats, mean over images. kl_error: its standard error.
        share: of the band in the layer's energy.
        reference: name of the other model (the teacher, say); None without one.
        reference_agreement: of the intact model with it, percent. reference_lost, reference_gained: images on which the
            agreement with it ends, and begins.
        wavelet, levels, mode: of `sfkd.decompose`, as asked for. confidence: of all intervals.
    """

    model: str
    layers: tuple[str, ...]
    bands: tuple[str, ...]
    grids: np.ndarray
    images: int
    labelled: int
    top1: float
    agreeing: np.ndarray
    lost: np.ndarray
    gained: np.ndarray
    kl: np.ndarray
    kl_error: np.ndarray
    share: np.ndarray
    reference: str | None
    reference_agreement: float
    reference_lost: np.ndarray
    reference_gained: np.ndarray
    wavelet: str
    levels: int
    mode: Mode
    confidence: float

    @property
    def top1_change(self) -> np.ndarray:
        """Change of top-1, percentage points; NaN without targets."""
        return points(self.gained - self.lost, self.labelled)

    @property
    def agreement(self) -> np.ndarray:
        """Images on which the answer stays that of the intact model, percent."""
        return points(self.agreeing, self.images)

    @property
    def reference_change(self) -> np.ndarray:
        """Change of the agreement with the reference, percentage points; NaN without one."""
        return points(self.reference_gained - self.reference_lost, self.images)

    @property
    def kl_per_share(self) -> np.ndarray:
        """KL over share of energy, nats: a small band on which much rests has much of it. NaN for an empty band."""
        return np.divide(self.kl, self.share, out=np.full_like(self.kl, np.nan), where=self.share > _ROUNDING)

    @property
    def matters(self) -> np.ndarray:
        """Whether the joint interval of the change of top-1 excludes zero; without targets, that of the agreement 100 %."""
        low, high = self.interval("top1" if self.labelled else "agreement", joint=True)
        return (low > 0) | (high < (0 if self.labelled else 100))

    def interval(self, quantity: Quantity, *, joint: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """From and to, in the quantity's unit, at `confidence` over images.

        "top1" and "reference" (paired changes): Bonett and Price 2012, adjusted Wald, which gives an interval to a band
        that changed no image, too. "agreement": Wilson 1927. "kl": mean ± z standard errors, not below zero.

        Args:
            joint: widened (Bonferroni) so as to hold for all bands and layers at once, which a largest one needs.
        """
        one_of("quantity", quantity, get_args(Quantity))
        tests = max(int(np.isfinite(self.kl).sum()), 1) if joint else 1
        z = NormalDist().inv_cdf(1 - (1 - self.confidence) / (2 * tests))
        if quantity == "top1":
            return paired(self.lost, self.gained, self.labelled, z)
        if quantity == "reference":
            return paired(self.reference_lost, self.reference_gained, self.images, z)
        if quantity == "agreement":
            return wilson(self.agreeing, self.images, z)
        return np.maximum(self.kl - z * self.kl_error, 0.0), self.kl + z * self.kl_error

    def costliest(self, *, details: bool = False) -> tuple[int, int] | None:
        """Layer and band (numbers) that cost most top-1, or agreement without targets, of those whose joint interval
        says that they cost any; None where there is none.

        Args:
            details: of detail bands alone; the approximation, which holds most of the energy, usually costs most.
        """
        change = self.top1_change if self.labelled else self.agreement - 100
        cost = np.where(self.matters, -change, 0.0)
        if details and APPROXIMATION in self.bands:
            cost[:, self.bands.index(APPROXIMATION)] = 0.0
        layer, band = np.unravel_index(int(cost.argmax()), cost.shape)
        return (int(layer), int(band)) if cost.max() > 0 else None

    def sentence(self) -> str:
        """In plain words: the band whose loss costs most, the detail that does, or that none matters beyond chance."""
        at, level = self.costliest(), f"{100 * self.confidence:g} %"
        cells = f"{int(np.isfinite(self.kl).sum())} bands of {len(self.layers)} layer{'s' * (len(self.layers) > 1)}"
        seen = f"{self.labelled if self.labelled else self.images:,} images"
        if at is None:
            what = "costs top-1 beyond its joint" if self.labelled else "changes an answer beyond its"
            return f"None of {cells} {what} {level} interval ({seen})."
        cost = self._cost(at, f"{level} joint interval ")
        told = [f"Of {cells}, {self._describe(at)} costs most when taken away: {cost}; {seen}."]
        detail = self.costliest(details=True)
        if detail is None:
            told.append("No detail costs anything beyond its joint interval.")
        elif detail != at:
            told.append(f"Of the details, {self._describe(detail)} costs most: {self._cost(detail)}.")
        weight = np.where(self.matters, np.nan_to_num(self.kl_per_share), 0.0)
        layer, band = np.unravel_index(int(weight.argmax()), weight.shape)
        if (layer, band) not in (at, detail):
            told.append(
                f"For its share of the energy {self._describe((int(layer), int(band)))} weighs most: "
                f"{self._cost((int(layer), int(band)))}."
            )
        return " ".join(told)

    def to_dataframe(self) -> pd.DataFrame:
        """A row a layer and band that its grid bears: changes (percentage points), agreement (%), KL (nats), intervals."""
        import pandas as pd

        columns: dict[str, np.ndarray] = {"share": self.share}
        for name, values in (
            ("top1", self.top1_change),
            ("agreement", self.agreement),
            ("reference", self.reference_change),
            ("kl", self.kl),
        ):
            low, high = self.interval(name)  # type: ignore[arg-type]
            named = name if name in ("agreement", "kl") else f"{name}_change"
            columns |= {named: values, f"{named}_low": low, f"{named}_high": high}
        columns |= {"kl_per_share": self.kl_per_share, "matters": self.matters}
        rows = [
            {"layer": layer, "band": band, **{name: values[i, j] for name, values in columns.items()}}
            for i, layer in enumerate(self.layers)
            for j, band in enumerate(self.bands)
            if np.isfinite(self.kl[i, j])
        ]
        return pd.DataFrame(rows)

    def _describe(self, at: tuple[int, int]) -> str:
        name, share = self.bands[at[1]], self.share[at]
        kind = "approximation" if name == APPROXIMATION else f"{band_columns(name)['orientation']} detail"
        return f"{name} of {self.layers[at[0]]} ({kind}, {100 * share:.2g} % of the layer's energy)"

    def _cost(self, at: tuple[int, int], word: str = "") -> str:
        quantity: Quantity = "top1" if self.labelled else "agreement"
        low, high = (edge[at] for edge in self.interval(quantity, joint=True))
        kl = f"KL {self.kl[at]:.2g} nats"
        if self.labelled:
            change = f"top-1 {self.top1_change[at]:+.1f} points of {self.top1:.1f} %"
            return f"{change} ({word}{low:+.1f} to {high:+.1f}), {kl}"
        return f"{self.agreement[at]:.1f} % of the answers stay ({word}{low:.1f} to {high:.1f}), {kl}"


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
        TypeError: no Backbone, batches of something else. ValueError: unknown layers or bands, no images, targets that
        are no class, NaN (the layer is named), a layer that is no module or is called more than once.

    Source: zeroing in the network by hook and inverse transform is ours (`method.md`).
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
        images, self.size = placed(self.model, images), tuple(images.shape[1:])
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
        intact = _Intact(images, targets, logits, self._reference(images, logits))
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
