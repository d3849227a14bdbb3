"""Grad-CAM: where in space a layer speaks for a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from sfkd.features import Backbone
from sfkd_viz.measures.explained import captum_attr, classes_of, ready
from sfkd_viz.measures.sites import Site, evaluating, find_sites, logits_of, short_name

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class GradCAM:
    """Grad-CAM of a class: where a layer speaks for it.

    Attributes:
        model: its name. layer: whose positions are shown. classes: `[B]`, the class explained in each image.
        maps: `[B, h, w]` on the layer's grid, logits, ≥ 0.
    """

    model: str
    layer: str
    classes: np.ndarray
    maps: np.ndarray

    def to_dataframe(self) -> pd.DataFrame:
        """A row an image and position: image, class, row, column, value (logits)."""
        import pandas as pd

        image, row, column = (index.ravel() for index in np.indices(self.maps.shape))
        columns = {"image": image, "class": self.classes[image], "row": row, "column": column}
        return pd.DataFrame({**columns, "value": self.maps.ravel()})


def grad_cam(
    model: Backbone,
    images: Tensor,
    layer: str | None = None,
    targets: Tensor | Sequence[int] | None = None,
    *,
    batch_size: int = 64,
) -> GradCAM:
    """Grad-CAM of a class at a layer: ReLU(Σ_c mean_xy(∂logit/∂F_c) · F_c), on the layer's grid, in logits.

    All zero where the class does not read the layer's positions: after the last block of a transformer that answers from
    its class token, or where every part is negative.

    Args:
        model, images, targets, batch_size: as in `wavelet_attribution`.
        layer: default the last that the model captures.

    Raises what `wavelet_attribution` raises.

    Source: Selvaraju et al. 2017, eq. 1 and 2, by captum's `LayerGradCam`, which sees every layout as `[B, C, H, W]` here.
    """
    images = ready(model, images, batch_size=batch_size)
    layer = model.layer_names[-1] if layer is None else layer
    with evaluating(model):
        classes = classes_of(model, images, targets, batch_size)
        maps = cam_maps(model, images, layer, classes, batch_size)
    return GradCAM(short_name(model), layer, classes.cpu().numpy(), maps)


def cam_maps(model: Backbone, images: Tensor, layer: str, classes: Tensor, batch_size: int) -> np.ndarray:
    """Maps of `grad_cam` for a model in eval mode and images that are ready for it."""
    probed = _Probed(model, find_sites(model, [layer], images[:2])[layer])
    explainer = captum_attr().LayerGradCam(probed, probed.probe)
    found = []
    for some, chosen in zip(images.split(batch_size), classes.split(batch_size), strict=True):
        # a frozen model has no other leaf that asks for a gradient
        cam = explainer.attribute(some.clone().requires_grad_(), chosen, relu_attributions=True)
        found.append(cam[:, 0].detach().float().cpu().numpy())
    return np.concatenate(found)


class _Probed(nn.Module):
    """A network whose layer passes through `probe` as a map `[B, C, H, W]`, which is the layout that captum expects."""

    def __init__(self, model: Backbone, site: Site) -> None:
        super().__init__()
        self.model, self.site, self.probe = model, site, nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return logits_of(self.model, images, self.site, self.probe)
