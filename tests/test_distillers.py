from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfkd import Backbone, Distiller, band_loss, create_distiller, distillers, gaussian_frequency_loss, list_distillers
from sfkd.align import pair_layers
from sfkd.distillers import distiller_options, register
from sfkd.losses import kd_loss

PAIRS = [("convnext", "swin"), ("vit", "convnext"), ("mixer", "resnet"), ("convnext", "mixer"), ("swin", "vit")]
METHODS = ["none", "kd", "fitnet", "sfkd"]
TARGETS = torch.tensor([1, 7, 0, 3])
UNLABELLED = torch.full((4,), -1)

Tiny = Callable[..., Backbone]


def build(tiny: Tiny, method: str, pair: tuple[str, str] = ("convnext", "swin"), **options: Any) -> Distiller:
    teacher, student = pair
    torch.manual_seed(0)
    return create_distiller(method, student=tiny(student), teacher=tiny(teacher), **options)


def gradients(module: nn.Module) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in module.named_parameters()}


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize("method", METHODS)
def test_loss_and_gradients_between_architectures(
    tiny: Tiny, images: Tensor, method: str, pair: tuple[str, str]
) -> None:
    distiller = build(tiny, method, pair).train()
    result = distiller(images, TARGETS)
    assert result.loss.isfinite()
    assert result.logits.shape == (4, 10)
    result.loss.backward()
    of_student = gradients(distiller.student)
    assert [name for name, g in of_student.items() if g is None or not g.isfinite().all()] == []
    assert sum(float(g.abs().sum()) for g in of_student.values() if g is not None) > 0
    assert distiller.teacher is not None
    assert all(g is None for g in gradients(distiller.teacher).values())


@pytest.mark.parametrize(
    ("method", "weights", "options"),
    [
        ("none", {"ce": 0.5}, {"ce_weight": 0.5}),
        ("kd", {"ce": 0.5, "kd": 3.0}, {"ce_weight": 0.5, "kd_weight": 3.0}),
        ("fitnet", {"ce": 1.0, "kd": 2.0, "hint": 5.0}, {"kd_weight": 2.0, "hint_weight": 5.0}),
        ("sfkd", {"ce": 1.0, "kd": 2.0, "bands": 0.3, "gffl": 0.3}, {"kd_weight": 2.0, "feature_weight": 0.3}),
    ],
)
def test_loss_is_the_weighted_sum_of_its_parts(
    tiny: Tiny, images: Tensor, method: str, weights: dict[str, float], options: dict[str, float]
) -> None:
    result = build(tiny, method, **options)(images, TARGETS)
    assert set(result.parts) == set(weights)
    assert not any(part.requires_grad for part in result.parts.values())
    assert min(part.item() for part in result.parts.values()) > 0
    torch.testing.assert_close(result.loss.detach(), sum(weights[name] * part for name, part in result.parts.items()))


@torch.no_grad()
def test_parts_are_the_functions_of_the_package(tiny: Tiny, images: Tensor) -> None:
    distiller = build(tiny, "sfkd", sigma=0.15, temperature=3.0, label_smoothing=0.1).eval()
    for layer in distiller.spatial_frequency:
        nn.init.normal_(layer.refine.mixing)  # so that refined maps are not the aligned ones
        nn.init.normal_(layer.refine.excite.bias)
    result = distiller(images, TARGETS)
    student, teacher = distiller.student(images), distiller.teacher(images)
    views = distiller.inspect(images).values()
    torch.testing.assert_close(result.logits, student.logits)
    torch.testing.assert_close(result.parts["ce"], F.cross_entropy(student.logits, TARGETS, label_smoothing=0.1))
    torch.testing.assert_close(result.parts["kd"], kd_loss(student.logits, teacher.logits, temperature=3.0))
    bands = [band_loss(view.stages.across, view.target) for view in views]
    gffl = [gaussian_frequency_loss(view.refined, view.teacher, sigma=0.15) for view in views]
    torch.testing.assert_close(result.parts["bands"], torch.stack(bands).mean())
    torch.testing.assert_close(result.parts["gffl"], torch.stack(gffl).mean())


@torch.no_grad()
def test_hints_are_a_mean_over_layers_of_standardised_maps(tiny: Tiny, images: Tensor) -> None:
    distiller = build(tiny, "fitnet").train()
    result = distiller(images, TARGETS)
    student, teacher = distiller.student(images).features, distiller.teacher(images).features
    hints = []
    for (s, t), regress in zip(distiller.pairs, distiller.regressors, strict=True):
        target = teacher[t]
        target = target - target.mean((0, 2, 3), keepdim=True)
        target = target / target.std((0, 2, 3), keepdim=True, unbiased=False)
        ours = regress(student[s])
        grid = min(ours.shape[-1], target.shape[-1])
        ours, target = (F.adaptive_avg_pool2d(x, grid) for x in (ours, target))
        hints.append((ours - target).square().mean())
    torch.testing.assert_close(result.parts["hint"], torch.stack(hints).mean(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_unlabelled_images_count_for_distillation_only(tiny: Tiny, images: Tensor, method: str) -> None:
    distiller = build(tiny, method).eval()
    half = torch.tensor([1, 7, -1, -1])
    labelled, mixed, unlabelled = (distiller(images, t).parts for t in (TARGETS, half, UNLABELLED))
    assert unlabelled["ce"] == 0
    with torch.no_grad():
        torch.testing.assert_close(mixed["ce"], F.cross_entropy(distiller.student(images[:2]).logits, half[:2]))
    for name in labelled.keys() - {"ce"}:
        torch.testing.assert_close(unlabelled[name], labelled[name])


def test_without_labels_and_teacher_nothing_is_learned(tiny: Tiny, images: Tensor) -> None:
    distiller = build(tiny, "none")
    distiller(images, UNLABELLED).loss.backward()
    assert all(g is None or not g.any() for g in gradients(distiller).values())


@pytest.mark.parametrize("method", METHODS)
def test_the_teacher_stands_still(tiny: Tiny, images: Tensor, method: str) -> None:
    """Its parameters, batch-norm statistics and mode, through training mode and an optimiser step over everything."""
    distiller = build(tiny, method, ("resnet", "convnext")).train()
    teacher = distiller.teacher
    assert teacher is not None
    assert distiller.student.training
    assert not any(module.training for module in teacher.modules())
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student_before = {name: value.clone() for name, value in distiller.student.state_dict().items()}
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1, weight_decay=0.1)
    distiller(images, TARGETS).loss.backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not all(torch.equal(v, student_before[k]) for k, v in distiller.student.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    distiller.eval()
    assert not distiller.student.training
    distiller.train()
    assert not teacher.training


@pytest.mark.parametrize("method", ["fitnet", "sfkd"])
def test_every_trainable_part_gets_a_gradient_by_the_second_step(tiny: Tiny, images: Tensor, method: str) -> None:
    distiller = build(tiny, method).train()
    optimizer = torch.optim.SGD([p for p in distiller.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        distiller(images, TARGETS).loss.backward()
        optimizer.step()
    own = {n: p for n, p in distiller.named_parameters() if not n.startswith(("student.", "teacher.")) and p.numel()}
    assert own
    assert [n for n, p in own.items() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_autocast_gives_a_finite_float32_loss(tiny: Tiny, images: Tensor, method: str) -> None:
    distiller = build(tiny, method)
    with torch.autocast("cpu", torch.bfloat16):
        result = distiller(images, TARGETS)
    assert result.loss.dtype == torch.float32
    assert result.loss.isfinite()
    assert result.loss.item() == pytest.approx(build(tiny, method)(images, TARGETS).loss.item(), rel=0.05)


@pytest.mark.parametrize(("method", "own"), [("none", ()), ("kd", ()), ("fitnet", ("regressors", "standardizers"))])
def test_extra_state_is_what_belongs_to_neither_model(tiny: Tiny, method: str, own: tuple[str, ...]) -> None:
    assert {name.split(".")[0] for name in build(tiny, method).extra_state()} == set(own)


def test_extra_state_of_sfkd_has_statistics_and_refiners(tiny: Tiny) -> None:
    names = build(tiny, "sfkd").extra_state()
    assert {"spatial_frequency.0.target.standardize.mean", "spatial_frequency.0.refine.mixing"} <= names.keys()


# -- SFKD ---------------------------------------------------------------------------------------------------------------


def test_inspect_shows_every_layer_and_changes_nothing(tiny: Tiny, images: Tensor) -> None:
    distiller = build(tiny, "sfkd", width=24).train()
    before = {name: value.clone() for name, value in distiller.state_dict().items()}
    views = distiller.inspect(images)
    assert distiller.training
    assert all(torch.equal(value, before[name]) for name, value in distiller.state_dict().items())
    student, teacher = distiller.student, distiller.teacher
    assert teacher is not None
    assert distiller.pairs == pair_layers(student.layer_names, teacher.layer_names)
    assert list(views) == student.layer_names
    of_teacher = {layer.name: layer for layer in teacher.layers}
    for layer, (_, t), view in zip(student.layers, distiller.pairs, views.values(), strict=True):
        channels = min(24, of_teacher[t].channels)
        grid = tuple(map(min, layer.grid, of_teacher[t].grid))
        assert view.teacher.shape == view.student.shape == view.refined.shape == (4, channels, *grid)
        shapes = [band.shape for _, band in view.target.items()]
        for bands in view.stages:
            assert [band.shape for _, band in bands.items()] == shapes
        assert not view.refined.requires_grad
        torch.testing.assert_close(view.refined, view.student, rtol=1e-4, atol=1e-5)  # DS2S starts as the identity


def test_levels_are_clamped_to_the_common_grid(tiny: Tiny) -> None:
    distiller = build(tiny, "sfkd", ("convnext", "convnext"), levels=3)
    assert [layer.grid[0] for layer in distiller.student.layers] == [32, 16, 8, 4]
    assert distiller.clamped_levels == {"stages.0": 3, "stages.1": 3, "stages.2": 2, "stages.3": 1}
    assert distiller.asked_levels == 3


@pytest.mark.parametrize("options", [{"wavelet": "db2", "mode": "reflect"}, {"levels": 0}, {"spectrum": "log"}])
def test_sfkd_options_reach_the_loss(tiny: Tiny, images: Tensor, options: dict[str, Any]) -> None:
    default, changed = (build(tiny, "sfkd", **o)(images, TARGETS) for o in ({}, options))
    assert changed.loss.isfinite()
    assert changed.loss.item() != pytest.approx(default.loss.item(), rel=1e-4)


def test_a_collapsed_target_is_impossible(tiny: Tiny, images: Tensor) -> None:
    """The target keeps its variance whatever is trained: twenty steps on the feature terms alone."""
    distiller = build(tiny, "sfkd", ce_weight=0.0, kd_weight=0.0).train()
    optimizer = torch.optim.Adam([p for p in distiller.parameters() if p.requires_grad], lr=1e-2)
    variance = [view.teacher.var() for view in distiller.inspect(images).values()]
    distiller(images, UNLABELLED)
    first = [view.teacher.var() for view in distiller.inspect(images).values()]
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        result = distiller(images, UNLABELLED)
        result.loss.backward()
        optimizer.step()
        losses.append(result.loss.item())
    last = [view.teacher.var() for view in distiller.inspect(images).values()]
    assert losses[-1] < 0.9 * losses[0]
    assert variance != first  # the statistics of the standardisation have been seen
    torch.testing.assert_close(last, first, rtol=1e-3, atol=0)


# -- registry and mistakes ------------------------------------------------------------------------------------------------


def test_registry() -> None:
    assert list_distillers()[: len(METHODS)] == METHODS
    assert distiller_options("kd") == {"kd_weight": 1.0, "temperature": 2.0, "ce_weight": 1.0, "label_smoothing": 0.0}
    with pytest.raises(ValueError, match=r"'kd' is registered already \(KD\)"):
        register("kd", Distiller)


def test_a_registered_method_can_be_made(tiny: Tiny, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(Distiller):
        needs_teacher = False

        def __init__(self, student: Backbone, teacher: Backbone | None = None, *, strength: float = 1.0) -> None:
            super().__init__(student, teacher, ce_weight=strength)

    monkeypatch.setattr(distillers, "_REGISTRY", dict(distillers._REGISTRY))
    assert register("mine", Mine) is Mine
    distiller = create_distiller("mine", student=tiny("convnext"), strength=2.0)
    result = distiller(images, TARGETS)
    torch.testing.assert_close(result.loss.detach(), 2 * result.parts["ce"])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sfdk", {}, r"unknown distiller 'sfdk'\. Did you mean 'sfkd'.*Choices: none, kd, fitnet, sfkd"),
        ("kd", {"temprature": 1}, r"unknown option of kd 'temprature'\. Did you mean 'temperature'.*kd_weight"),
        ("kd", {"student_": 1}, "unknown option of kd"),
    ],
)
def test_unknown_names_list_the_choices(tiny: Tiny, name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(tiny, name, **options)


@pytest.mark.parametrize("method", ["kd", "fitnet", "sfkd"])
def test_a_missing_teacher_is_asked_for(tiny: Tiny, method: str) -> None:
    with pytest.raises(ValueError, match=r"distils from a teacher: pass teacher=sfkd\.Backbone"):
        create_distiller(method, student=tiny("convnext"))


@pytest.mark.parametrize(
    ("option", "message"),
    [({"wavelet": "harr"}, "unknown discrete wavelet 'harr'"), ({"mode": "same"}, "mode"), ({"sigma": 0.0}, "> 0")],
)
def test_wrong_options_of_sfkd_are_refused(tiny: Tiny, images: Tensor, option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(tiny, "sfkd", **option)(images, TARGETS)


def test_bare_modules_and_other_classes_are_refused(tiny: Tiny, images: Tensor) -> None:
    with pytest.raises(TypeError, match=r"student expects an sfkd\.Backbone, got Linear: wrap it"):
        create_distiller("none", student=nn.Linear(2, 2))
    teacher = tiny("convnext")
    teacher.model.reset_classifier(7)
    with pytest.raises(ValueError, match=r"got 10 \(student\) and 7 \(teacher\)"):
        create_distiller("kd", student=tiny("swin"), teacher=teacher)(images, TARGETS)
