"""Every method on every pairing of a convolutional net, a plain and a windowed transformer and an MLP, at 32 and 224 pixels.

The plain transformer has a class token and four registers, the distilled one a second class token.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from timm.models.mlp_mixer import MlpMixer
from torch import Tensor

from sfkd import Backbone, create_distiller, list_distillers

FAMILIES = ("cnn", "vit", "swin", "mlp")
SIZES = (32, 224)
PREFIXED = [("vit", "cnn"), ("cnn", "deit"), ("deit", "vit"), ("swin", "deit")]


def build(family: str, size: int) -> Backbone:
    patch, classes = (4, 10) if size == 32 else (16, 10)
    shape: dict[str, Any] = {"img_size": size, "patch_size": patch}
    plain = {"embed_dim": 32, "depth": 4, "num_heads": 2, "num_classes": classes}
    if family == "cnn":
        dims = {"dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "patch_size": 2 if size == 32 else 4}
        model = Backbone("convnext_atto", num_classes=classes, **dims)
    elif family == "vit":
        model = Backbone("vit_tiny_patch16_224", **shape, **plain, reg_tokens=4)
    elif family == "deit":
        model = Backbone("deit_tiny_distilled_patch16_224", **shape, **plain)
    elif family == "swin":
        window = {"window_size": 4, "patch_size": 2} if size == 32 else {"window_size": 7, "patch_size": 4}
        sizes = {"embed_dim": 16, "depths": [1, 1, 2], "num_heads": [1, 2, 4], "num_classes": classes}
        model = Backbone("swin_tiny_patch4_window7_224", img_size=size, **window, **sizes)
    else:
        net = MlpMixer(num_classes=classes, embed_dim=32, num_blocks=4, **shape)
        return Backbone(net, input_size=(3, size, size))
    model.input_size = (3, size, size)
    return model


@lru_cache(maxsize=4)
def teacher_of(family: str, size: int) -> Backbone:
    torch.manual_seed(1)
    return build(family, size)


@lru_cache(maxsize=2)
def images_of(size: int) -> Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))


def trains(method: str, teacher: str, student: str, size: int) -> None:
    """A step with a labelled and an unlabelled image: finite parts, and a finite gradient for all that is trained."""
    options = {"num_samples": 12, "negatives": 16} if method == "crd" else {}
    distiller = create_distiller(method, student=build(student, size), teacher=teacher_of(teacher, size), **options)
    before = {k: v.clone() for k, v in distiller.state_dict().items() if k.startswith("teacher.")}
    result = distiller.train()(images_of(size), torch.tensor([1, 7, -1]), torch.tensor([5, 0, 11]))
    assert result.logits.shape == (3, 10)
    assert all(part.isfinite() for part in result.parts.values())
    assert all(ratio == 1 for ratio in result.target_ratios.values())
    result.loss.backward()
    trained = {k: p for k, p in distiller.named_parameters() if not k.startswith("teacher.")}
    assert [k for k, p in trained.items() if p.numel() and (p.grad is None or not p.grad.isfinite().all())] == []
    assert any(float(p.grad.abs().sum()) > 0 for p in distiller.student.parameters() if p.grad is not None)
    assert all(torch.equal(v, distiller.state_dict()[k]) for k, v in before.items())
    assert all(p.grad is None for p in teacher_of(teacher, size).parameters())


@pytest.mark.parametrize("method", list_distillers())
@pytest.mark.parametrize("student", FAMILIES)
@pytest.mark.parametrize("teacher", FAMILIES)
@pytest.mark.parametrize("size", SIZES)
def test_every_method_trains_on_every_pair(method: str, teacher: str, student: str, size: int) -> None:
    trains(method, teacher, student, size)


@pytest.mark.parametrize("method", list_distillers())
@pytest.mark.parametrize(("teacher", "student"), PREFIXED)
def test_two_class_tokens(method: str, teacher: str, student: str) -> None:
    trains(method, teacher, student, 32)


def test_the_matrix_has_the_architectures_it_says() -> None:
    models = {(family, size): build(family, size) for family in (*FAMILIES, "deit") for size in SIZES}
    assert {model.model.num_prefix_tokens for (family, _), model in models.items() if family == "vit"} == {5}
    assert {model.model.num_prefix_tokens for (family, _), model in models.items() if family == "deit"} == {2}
    grids = {key: [layer.grid[0] for layer in model.layers] for key, model in models.items()}
    assert grids["cnn", 224] == [56, 28, 14, 7]
    assert grids["vit", 224] == grids["mlp", 224] == [14, 14, 14, 14]
    assert grids["swin", 32] == [16, 8, 4]
