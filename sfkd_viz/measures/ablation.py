"""Which bands a network's answer rests on: what `band_ablation` finds, with intervals, and in words."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from sfkd._checks import one_of
from sfkd.wavelet import Mode
from sfkd_viz.measures.matrices import APPROXIMATION
from sfkd_viz.measures.proportions import paired, points, wilson
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
