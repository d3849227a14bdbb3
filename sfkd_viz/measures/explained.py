"""What explanations of a class share: captum, images that are ready for the model, the classes to explain."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from sfkd.features import Backbone
from sfkd_viz.measures.inputs import check_finite
from sfkd_viz.measures.sites import INPUT, as_classes, logits_of, placed


def captum_attr() -> ModuleType:
    """`captum.attr`, imported where it is needed."""
    try:
        import captum.attr
    except ImportError as error:
        raise ImportError("attribution needs captum, which is not installed: pip install sfkd[analysis].") from error
    return captum.attr


def ready(model: Backbone, images: Tensor, **counts: int) -> Tensor:
    """Images as the model takes them; refused where they, or `counts` by name, are none."""
    if not isinstance(model, Backbone):
        raise TypeError(f"model expects an sfkd.Backbone, got {type(model).__name__}: wrap it in sfkd.Backbone(…).")
    if not isinstance(images, Tensor):
        raise TypeError(f"images expects a torch.Tensor [B, C, H, W], got {type(images).__name__}.")
    if images.ndim != 4 or not len(images):
        raise ValueError(f"images expects [B, C, H, W] with B ≥ 1, got {tuple(images.shape)}.")
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} expects an integer ≥ 1, got {value!r}.")
    images = placed(model, images.detach())
    check_finite(model.name, INPUT, images)
    return images


def classes_of(model: Backbone, images: Tensor, targets: Tensor | Sequence[int] | None, batch_size: int) -> Tensor:
    """The classes to explain: `targets`, and the model's own answer where there is none."""
    with torch.no_grad():
        logits = torch.cat([logits_of(model, some) for some in images.split(batch_size)])
    answers = logits.argmax(1)
    if targets is None:
        return answers
    given = torch.as_tensor(targets)
    if given.shape != answers.shape:
        raise ValueError(f"targets expects one class for each of {len(images)} images, got shape {tuple(given.shape)}.")
    given = as_classes(given, logits.shape[1]).to(answers.device)
    return torch.where(given < 0, answers, given)
