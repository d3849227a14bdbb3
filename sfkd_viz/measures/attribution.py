"""Which bands of an image, or of a hidden layer, speak for a class: integrated gradients in the wavelet domain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pywt
import torch
from torch import Tensor

from sfkd._checks import one_of
from sfkd.features import Backbone, captured
from sfkd.wavelet import Mode, decompose, reconstruct
from sfkd_viz.measures.cam import cam_maps
from sfkd_viz.measures.explained import captum_attr, classes_of, ready
from sfkd_viz.measures.inputs import check_finite
from sfkd_viz.measures.sites import INPUT, Site, evaluating, find_sites, logits_of, rebuilt, short_name
from sfkd_viz.measures.subbands import band_columns

if TYPE_CHECKING:
    import pandas as pd

ENOUGH = 0.05  # completeness error up to which the sum counts as complete


@dataclass(frozen=True)
class WaveletAttribution:
    """Attribution of a class's logit to the bands of the input or of a layer, in logits.

    Attributes:
        model: its name. layer: "input" or a layer. bands: "A2", "H2", … "D1", coarsest first.
        classes: `[B]`, the class explained in each image.
        values: `[B, bands]`, each band's part of `logit − baseline_logit`.
        maps: `[B, bands, H, W]` on the layer's grid, the parts of a band's coefficients where they lie; sums to `values`.
        logit, baseline_logit: `[B]`, of the class, for the image and for the baseline in its layer's place.
        pictures: `[B, H, W]`, the images, mean over channels. cam: `[B, h, w]`, Grad-CAM of the class at `cam_layer`, ≥ 0.
        baseline: where the path started: "zero", "mean" or "given".
        wavelet, levels, mode: of `sfkd.decompose`; levels as computed. steps: of the integral.
    """

    model: str
    layer: str
    bands: tuple[str, ...]
    classes: np.ndarray
    values: np.ndarray
    maps: np.ndarray
    logit: np.ndarray
    baseline_logit: np.ndarray
    pictures: np.ndarray
    cam: np.ndarray
    cam_layer: str
    baseline: Literal["zero", "mean", "given"]
    wavelet: str
    levels: int
    mode: Mode
    steps: int

    @property
    def delta(self) -> np.ndarray:
        """`[B]`, Σ_b values − (logit − baseline_logit): zero for the exact integral; tells whether `steps` were enough."""
        return self.values.sum(1) - (self.logit - self.baseline_logit)

    @property
    def completeness_error(self) -> np.ndarray:
        """`[B]`, |delta| / |logit − baseline_logit|; not over Σ |values|, where parts that cancel would hide an error."""
        scale = np.abs(self.logit - self.baseline_logit)
        return np.divide(np.abs(self.delta), scale, out=np.where(self.delta == 0, 0.0, np.inf), where=scale > 0)

    @property
    def share(self) -> np.ndarray:
        """`[B, bands]`, |values| over their sum; 0 where nothing is attributed."""
        size = np.abs(self.values)
        total = size.sum(1, keepdims=True)
        return np.divide(size, total, out=np.zeros_like(size), where=total > 0)

    def sentence(self) -> str:
        """In plain words: the band that carries most, and whether the parts add up."""
        mean, count, error = self.share.mean(0), len(self.values), self.completeness_error
        seen = f"{count} image{'s' * (count > 1)}"
        if not self.values.any():
            return f"Nothing is attributed to {self.layer}: the class does not depend on it ({seen})."
        band, off = int(mean.argmax()), int((error > ENOUGH).sum())
        difference = (self.logit - self.baseline_logit).mean()
        adds = (
            f"In {off} of {count} the parts miss the logit difference by more than {100 * ENOUGH:.0f} %: raise steps."
            if off
            else f"The parts miss the logit difference by at most {100 * float(error.max()):.2g} %."
        )
        return (
            f"{self.bands[band]} of {self.layer} carries most: {100 * mean[band]:.0f} % of what is attributed, "
            f"{self.values[:, band].mean():+.2f} of {difference:+.2f} logits (mean of {seen}). {adds}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """A row an image and band: image, class, band, level, orientation; attribution, logit_difference, delta (logits)."""
        import pandas as pd

        difference, delta = self.logit - self.baseline_logit, self.delta
        rows = [
            {
                "image": image,
                "class": int(self.classes[image]),
                **band_columns(band),
                "attribution": self.values[image, number],
                "logit_difference": difference[image],
                "delta": delta[image],
            }
            for image in range(len(self.values))
            for number, band in enumerate(self.bands)
        ]
        return pd.DataFrame(rows)


def wavelet_attribution(
    model: Backbone,
    images: Tensor,
    targets: Tensor | Sequence[int] | None = None,
    *,
    layer: str = INPUT,
    wavelet: str = "haar",
    levels: int = 2,
    mode: Mode = "symmetric",
    baseline: Tensor | Literal["zero", "mean"] | None = None,
    steps: int = 64,
    cam_layer: str | None = None,
    batch_size: int = 64,
) -> WaveletAttribution:
    """Integrated gradients of a class's logit with respect to the sub-bands c of the input or of a layer.

    a_i = (c_i − c'_i) · ∫₀¹ ∂f/∂c_i (c' + α (c − c')) dα, f: coefficients → inverse transform → rest of the network → logit;
    summed over each band, and over channels in space, where a coefficient's part is spread evenly over the positions
    nearest to it. Prefix tokens stay those of the image, so nothing is attributed to them.

    Completeness, Σ a_i = logit − baseline_logit, holds up to the error of the integral: see `delta` and
    `completeness_error`. Nothing is raised on it; the sentence and the plot say where it exceeds 5 %.

    Args:
        model: put into eval mode meanwhile.
        images: `[B, C, H, W]`, normalised for the model.
        targets: `[B]`, the classes to explain; default, and where −1, the model's own answer.
        layer: "input" or a layer of the model, as in `band_ablation`.
        wavelet, levels, mode: of `sfkd.decompose`.
        baseline: where the path starts: "zero", the default for the input (for normalised images their mean colour), with
            nothing in any band; "mean", the default for a layer: each channel's mean over the images given and all
            positions, with nothing in any detail; or a map `[C, H, W]` or `[B, C, H, W]` of your own. Zero is ill-posed
            before a layer norm, which maps every multiple of a map to the same values: the whole difference then lies at
            the very start of the path, and no number of steps completes the sum.
        steps: of Gauss-Legendre quadrature along the path.
        cam_layer: of the Grad-CAM beside it; default the layer itself, for the input the last layer that is captured.
        batch_size: most images in a forward, steps counted.

    Raises:
        TypeError: no Backbone, no tensor.
        ValueError: unknown layer, targets that are no class, a baseline of another shape, NaN (the layer is
            named).
        ImportError: captum is missing.

    Source: Sundararajan et al. 2017 (integrated gradients, completeness); Selvaraju et al. 2017 (Grad-CAM); both by captum.
    Gradients in the wavelet domain of the input: Kasmi et al. 2024 (WAM, arXiv 2410.01482). Of hidden layers, and the
    baselines: ours.
    """
    images = ready(model, images, steps=steps, batch_size=batch_size)
    if baseline is None:
        baseline = "zero" if layer == INPUT else "mean"
    if cam_layer is None:
        cam_layer = model.layer_names[-1] if layer == INPUT else layer
    with evaluating(model):
        classes = classes_of(model, images, targets, batch_size)
        cam = cam_maps(model, images, cam_layer, classes, batch_size)
        site = find_sites(model, [layer], images[:2])[layer]
        origin = _origin(baseline, model, site, images, batch_size)
        integral = _Integral(model, site, {"wavelet": wavelet, "levels": levels, "mode": mode}, steps, batch_size)
        chunks = zip(*(x.split(batch_size) for x in (images, origin, classes)), strict=True)
        parts = [integral.of(*chunk) for chunk in chunks]
    bands = parts[0].bands
    values, maps, logit, baseline_logit = (
        np.concatenate(arrays) for arrays in zip(*(p.arrays for p in parts), strict=True)
    )
    return WaveletAttribution(
        model=short_name(model),
        layer=layer,
        bands=bands,
        classes=classes.cpu().numpy(),
        values=values,
        maps=maps,
        logit=logit,
        baseline_logit=baseline_logit,
        pictures=images.float().mean(1).cpu().numpy(),
        cam=cam,
        cam_layer=cam_layer,
        baseline="given" if isinstance(baseline, Tensor) else baseline,
        wavelet=wavelet,
        levels=int(bands[0][1:]),
        mode=mode,
        steps=steps,
    )


class _Parts(NamedTuple):
    bands: tuple[str, ...]
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class _Integral:
    """Integrated gradients of some images."""

    model: Backbone
    site: Site
    decomposing: dict[str, Any]
    steps: int
    batch_size: int

    def of(self, images: Tensor, origin: Tensor, classes: Tensor) -> _Parts:
        """Band names; values, maps, logit and baseline logit."""
        x = _map_at(self.model, self.site, images)
        check_finite(self.model.name, self.site.name, x)
        tree, start = decompose(x, **self.decomposing), decompose(origin, **self.decomposing)
        names, ends = zip(*tree.items(), strict=True)

        def logits(*given: Tensor) -> Tensor:
            *coefficients, some = given
            there = reconstruct(rebuilt(tree, coefficients))
            return logits_of(self.model, some, self.site, lambda _: there.clone())  # the network may work in place

        found = (
            captum_attr()
            .IntegratedGradients(logits)
            .attribute(
                tuple(ends),
                tuple(band for _, band in start.items()),
                classes,
                images,
                n_steps=self.steps,
                internal_batch_size=self.batch_size,
            )
        )
        maps = np.stack(
            [
                spread(a.sum(1).double().cpu().numpy(), int(name[1:]), tree.shape, self.decomposing["wavelet"])
                for name, a in zip(names, found, strict=True)
            ],
            1,
        )
        with torch.no_grad():
            at_ends = [logits_of(self.model, images), logits(*(band for _, band in start.items()), images)]
        of_class = [end.double().gather(1, classes[:, None])[:, 0].cpu().numpy() for end in at_ends]
        return _Parts(names, (maps.sum((2, 3)), maps.astype(np.float32), *of_class))


def spread(coefficients: np.ndarray, level: int, shape: tuple[int, int], wavelet: str) -> np.ndarray:
    """Coefficients `[B, h, w]` of a level on the grid (H, W), each in equal parts on the positions nearest to it.

    A coefficient k lies at 2^level·k + (2^level − 1)(3 − L)/2, the middle of its support (L: the filter's length); one whose
    middle is outside goes to the border. Sums are kept.

    Examples:
        >>> spread(np.array([[[4.0]]]), 1, (2, 2), "haar")[0]
        array([[1., 1.],
               [1., 1.]])
    """
    rows, columns = (
        _spreading(side, count, level, pywt.Wavelet(wavelet).dec_len)
        for side, count in zip(shape, coefficients.shape[1:], strict=True)
    )
    return rows @ coefficients @ columns.T


def _spreading(side: int, count: int, level: int, length: int) -> np.ndarray:
    """`[side, count]`, columns sum to 1."""
    step, first = 2**level, (2**level - 1) * (3 - length) / 2
    nearest = np.clip(np.rint((np.arange(side) - first) / step), 0, count - 1).astype(int)
    weights = (nearest[:, None] == np.arange(count)).astype(float)
    for k in np.flatnonzero(weights.sum(0) == 0):
        weights[int(np.clip(np.rint(step * k + first), 0, side - 1)), k] = 1
    return weights / weights.sum(0)


def _origin(
    baseline: Tensor | Literal["zero", "mean"], model: Backbone, site: Site, images: Tensor, batch_size: int
) -> Tensor:
    """The baseline of each image as a map."""
    x, count = _map_at(model, site, images[:1])[0], len(images)
    if isinstance(baseline, Tensor):
        if baseline.shape not in (x.shape, (count, *x.shape)):
            raise ValueError(
                f"baseline expects a map {tuple(x.shape)}, or {count} of them, got {tuple(baseline.shape)}."
            )
        return baseline.detach().to(x.device, x.dtype).expand(count, *x.shape)
    if one_of("baseline", baseline, ("zero", "mean")) == "zero":
        return torch.zeros_like(x).expand(count, *x.shape)
    sums = [_map_at(model, site, some).double().mean((2, 3)).sum(0) for some in images.split(batch_size)]
    mean = torch.stack(sums).sum(0) / count
    return mean.to(x.dtype)[:, None, None].expand(count, *x.shape)


def _map_at(model: Backbone, site: Site, images: Tensor) -> Tensor:
    if site.name == INPUT:
        return images
    with captured(model.model, [site.name]) as outputs, torch.no_grad():
        logits_of(model, images)
    return site.read(outputs[site.name])
