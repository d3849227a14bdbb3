from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers import INDEX, TARGETS, UNLABELLED, Tiny, build
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from sfkd import (
    DS2S,
    Backbone,
    Distiller,
    Output,
    band_loss,
    create_distiller,
    decompose,
    distillers,
    gaussian_frequency_loss,
    list_distillers,
)
from sfkd.align import Moments, TeacherTarget, pair_layers
from sfkd.distillers import distiller_options, register
from sfkd.distillers.aligned import target_ratio
from sfkd.distillers.gffl import GFFL
from sfkd.distillers.sfkd import SFKD
from sfkd.losses import infonce_loss, kd_loss

PAIRS = [("convnext", "swin"), ("vit", "convnext"), ("mixer", "resnet"), ("convnext", "mixer"), ("swin", "vit")]
PARTS = {  # of each method beside cross-entropy, with the weight that an option gives it
    "none": {},
    "kd": {"kd": {"kd_weight": 3.0}},
    "fitnet": {"kd": {"kd_weight": 2.0}, "hint": {"hint_weight": 5.0}},
    "sfkd": {"kd": {"kd_weight": 2.0}, "bands": {"feature_weight": 0.3}, "gffl": {"feature_weight": 0.3}},
    "gffl": {"kd": {"kd_weight": 2.0}, "gffl": {"feature_weight": 0.3}},
    "correlation": {"kd": {"kd_weight": 2.0}, "correlation": {"correlation_weight": 0.3}},
    "rkd": {"kd": {"kd_weight": 0.5}, "rkd": {"rkd_weight": 0.3}},
    "crd": {"kd": {"kd_weight": 2.0}, "crd": {"crd_weight": 0.3}},
    "dkd": {"kd": {"kd_weight": 0.5}, "dkd": {"dkd_weight": 0.3}},
    "dist": {"kd": {"kd_weight": 0.5}, "dist": {"dist_weight": 0.3}},
    "ofa": {"kd": {"kd_weight": 0.5}, "ofa": {"ofa_weight": 0.3}, "exits": {"exit_weight": 0.1}},
    "spectralkd": {"kd": {"kd_weight": 2.0}, "spectrum": {"feature_weight": 0.3}},
    "freekd": {"kd": {"kd_weight": 2.0}, "details": {"feature_weight": 0.3}},
}
METHODS = list(PARTS)
TAUGHT = METHODS[1:]
LAYERWISE = ["fitnet", "sfkd", "gffl", "spectralkd", "freekd"]
ALIGNED = LAYERWISE[1:]
WITHOUT_PARTS = ["none", "kd", "dkd", "dist", "rkd"]  # nothing of their own is trained
# a fresh mixer's logits are all alike, and relations of fresh tiny nets so near that a first step leads away
AT_REST = {("dist", ("mixer", "resnet")), ("rkd", ("convnext", "swin"))}


def gradients(module: nn.Module) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def test_every_method_of_the_registry_is_tested() -> None:
    assert list_distillers() == METHODS


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize("method", METHODS)
def test_training_between_architectures(tiny: Tiny, images: Tensor, method: str, pair: tuple[str, str]) -> None:
    """Finite parts, a gradient for every weight of student and method, none for the teacher, and a loss that falls."""
    distiller = build(tiny, method, pair, ce_weight=float(method == "none")).train()
    trained = {name: p for name, p in distiller.named_parameters() if not name.startswith("teacher.")}
    own = {name: p for name, p in trained.items() if not name.startswith("student.") and p.numel()}
    assert bool(own) == (method not in WITHOUT_PARTS)
    optimizer = torch.optim.Adam(trained.values(), lr=2e-3)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        result = distiller(images, TARGETS, INDEX)
        assert result.logits.shape == (4, 10)
        assert all(part.isfinite() for part in result.parts.values())
        result.loss.backward()
        optimizer.step()
        losses.append(result.loss.item())
    if (method, pair) not in AT_REST:
        assert losses[-1] < losses[0]
    # by now zero-initialised parts have moved and no longer hide those before them
    assert [n for n, p in trained.items() if p.numel() and (p.grad is None or not p.grad.isfinite().all())] == []
    if method != "freekd":  # a constant is no detail, and the smallest grids have none
        assert [n for n, p in own.items() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert sum(float(p.grad.abs().sum()) for p in distiller.student.parameters() if p.grad is not None) > 0
    if distiller.teacher is not None:
        assert all(g is None for g in gradients(distiller.teacher).values())


@pytest.mark.parametrize("method", TAUGHT)
def test_the_own_terms_alone_reach_the_student(tiny: Tiny, images: Tensor, method: str) -> None:
    distiller = build(tiny, method, ce_weight=0.0, kd_weight=float(method == "kd")).train()
    result = distiller(images, UNLABELLED, INDEX)
    result.loss.backward()
    assert result.parts["ce"] == 0
    assert sum(float(p.grad.abs().sum()) for p in distiller.student.parameters() if p.grad is not None) > 0


@pytest.mark.parametrize("method", METHODS)
def test_loss_is_the_weighted_sum_of_its_parts(tiny: Tiny, images: Tensor, method: str) -> None:
    options = {option: weight for parts in PARTS[method].values() for option, weight in parts.items()}
    weights = {"ce": 0.5} | {name: weight for name, parts in PARTS[method].items() for weight in parts.values()}
    result = build(tiny, method, ce_weight=0.5, **options)(images, TARGETS, INDEX)
    assert result.parts.keys() == weights.keys()
    tensors = [*result.parts.values(), *result.layers.values(), *result.target_ratios.values()]
    assert not any(x.requires_grad for x in tensors)
    assert min(part.item() for part in result.parts.values()) > 0
    torch.testing.assert_close(result.loss.detach(), sum(weights[name] * part for name, part in result.parts.items()))
    assert result.weights == {}


@pytest.mark.parametrize("method", METHODS)
def test_precomputed_teacher_outputs_give_the_same_result(tiny: Tiny, images: Tensor, method: str) -> None:
    """Of the maps only those of `teacher_layers`."""
    live, fed = (build(tiny, method).eval() for _ in range(2))
    if live.teacher is None:
        return
    with torch.no_grad():
        output = live.teacher(images)
    known = Output(output.logits, {name: output.features[name] for name in fed.teacher_layers})
    fed.teacher.forward = None  # it must not be asked
    expected, found = live(images, TARGETS, INDEX), fed(images, TARGETS, INDEX, known)
    assert torch.equal(expected.loss, found.loss)
    assert all(torch.equal(part, found.parts[name]) for name, part in expected.parts.items())


@pytest.mark.parametrize("method", METHODS)
def test_shares_of_classes_generalise_labels(tiny: Tiny, images: Tensor, method: str) -> None:
    """Whole shares are labels, rows of zeros are unlabelled, and mixed ones weigh the cross-entropy."""
    distiller = build(tiny, method, label_smoothing=0.1).eval()
    half = torch.tensor([1, 7, -1, -1])
    shares = F.one_hot(half.clamp_min(0), 10) * (half >= 0)[:, None].float()
    by_label, by_share = (distiller(images, t, INDEX) for t in (half, shares))
    for name, part in by_label.parts.items():
        torch.testing.assert_close(by_share.parts[name], part)
    mixed = distiller(images, 0.7 * F.one_hot(TARGETS, 10) + 0.3 * F.one_hot(TARGETS.flip(0), 10), INDEX)
    a, b = (F.cross_entropy(mixed.logits, t, label_smoothing=0.1).detach() for t in (TARGETS, TARGETS.flip(0)))
    torch.testing.assert_close(mixed.parts["ce"], 0.7 * a + 0.3 * b)
    largest = distiller(images, TARGETS, INDEX)  # where a term needs one class it is the largest share
    for name in mixed.parts.keys() - {"ce"}:
        torch.testing.assert_close(mixed.parts[name], largest.parts[name])


@pytest.mark.parametrize("method", METHODS)
def test_one_image_and_images_without_content(tiny: Tiny, images: Tensor, method: str) -> None:
    distiller = build(tiny, method).train()
    for batch in (images[:1], torch.zeros(4, 1, 32, 32)):
        distiller.zero_grad()
        result = distiller(batch, TARGETS[: len(batch)], INDEX[: len(batch)])
        result.loss.backward()
        assert result.loss.isfinite()
        assert all(p.grad.isfinite().all() for p in distiller.parameters() if p.grad is not None)


@torch.no_grad()
@pytest.mark.parametrize("comparison", ["error", "correlation"])
def test_parts_are_the_functions_of_the_package(tiny: Tiny, images: Tensor, comparison: Any) -> None:
    options = {"sigma": 0.15, "comparison": comparison}
    distiller = build(tiny, "sfkd", ds2s="full", temperature=3.0, label_smoothing=0.1, **options).eval()
    for layer in distiller.spatial_frequency:
        nn.init.normal_(layer.refine.mixing)  # so that refined maps are not the aligned ones
        nn.init.normal_(layer.refine.excite.bias)
    result = distiller(images, TARGETS)
    student, teacher = distiller.student(images), distiller.teacher(images)
    views = distiller.inspect(images).values()
    torch.testing.assert_close(result.logits, student.logits)
    torch.testing.assert_close(result.parts["ce"], F.cross_entropy(student.logits, TARGETS, label_smoothing=0.1))
    torch.testing.assert_close(result.parts["kd"], kd_loss(student.logits, teacher.logits, temperature=3.0))
    bands = [band_loss(view.stages.across, view.target, comparison=comparison) for view in views]
    gffl = [gaussian_frequency_loss(view.refined, view.teacher, **options) for view in views]
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
    """With the teacher's first choice in place of the label, where a term needs one."""
    distiller = build(tiny, method).eval()
    half = torch.tensor([1, 7, -1, -1])
    with torch.no_grad():
        guess = half.abs() if distiller.teacher is None else distiller.teacher(images).logits.argmax(1)
        student = distiller.student(images[:2]).logits
    filled = torch.where(half < 0, guess, half)
    mixed, named, unlabelled = (distiller(images, t, INDEX).parts for t in (half, filled, UNLABELLED))
    assert unlabelled["ce"] == 0
    torch.testing.assert_close(mixed["ce"], F.cross_entropy(student, half[:2]).detach())
    for name in mixed.keys() - {"ce"}:
        assert unlabelled[name].isfinite()
        torch.testing.assert_close(mixed[name], named[name])


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
    distiller(images, TARGETS, INDEX).loss.backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not all(torch.equal(v, student_before[k]) for k, v in distiller.student.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    distiller.eval()
    assert not distiller.student.training
    distiller.train()
    assert not teacher.training


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_autocast_gives_a_finite_float32_loss(tiny: Tiny, images: Tensor, method: str) -> None:
    distiller = build(tiny, method)
    with torch.autocast("cpu", torch.bfloat16):
        result = distiller(images, TARGETS, INDEX)
    assert result.loss.dtype == torch.float32
    assert result.loss.isfinite()
    assert result.loss.item() == pytest.approx(build(tiny, method)(images, TARGETS, INDEX).loss.item(), rel=0.1)


@pytest.mark.parametrize(("method", "own"), [("none", ()), ("kd", ()), ("fitnet", ("regressors", "standardizers"))])
def test_extra_state_is_what_belongs_to_neither_model(tiny: Tiny, method: str, own: tuple[str, ...]) -> None:
    assert {name.split(".")[0] for name in build(tiny, method).extra_state()} == set(own)


def test_extra_state_of_sfkd_has_statistics_and_refiners(tiny: Tiny) -> None:
    names = build(tiny, "sfkd").extra_state()
    assert {
        "spatial_frequency.0.target.standardize.mean",
        "spatial_frequency.0.refine.light.excite.bias",
    } <= names.keys()


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


# -- options of methods that compare maps ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", LAYERWISE)
def test_ramps_scale_the_feature_terms_with_progress(tiny: Tiny, images: Tensor, method: str) -> None:
    weight = "hint_weight" if method == "fitnet" else "feature_weight"
    distiller = build(tiny, method, warmup=0.2, decay=0.4, kd_weight=1.0, **{weight: 1.0}).eval()
    weights = []
    for progress in (0.0, 0.05, 0.2, 0.5, 0.6, 0.7, 1.0):
        distiller.progress = progress
        result = distiller(images, TARGETS)
        rest = result.parts["ce"] + result.parts["kd"]
        own = sum(part for name, part in result.parts.items() if name not in ("ce", "kd"))
        weights.append(((result.loss - rest) / own).item())
    assert weights == pytest.approx([0, 0.25, 1, 1, 1, 0.75, 0], abs=1e-5)
    plain = build(tiny, method)
    plain.progress = 1.0
    assert plain.ramp == 1.0


@pytest.mark.parametrize("method", LAYERWISE)
def test_layers_can_be_chosen(tiny: Tiny, images: Tensor, method: str) -> None:
    """Each pair alone, then two of them: the part is their mean, and its layers are logged by the student's name."""
    (part,) = set(PARTS[method]) - {"kd", "bands"}
    student, teacher = tiny("swin").layer_names, tiny("convnext").layer_names
    chosen = [[student[0], teacher[2]], [student[2], teacher[0]]]

    def found(layers: list[list[str]]) -> tuple[Distiller, Any]:
        distiller = build(tiny, method, layers=layers)
        for name, p in distiller.named_parameters():  # the same for the same shape, in whatever order they are made
            if not name.startswith(("student.", "teacher.")):
                nn.init.constant_(p, 0.01)
        return distiller, distiller.eval()(images, TARGETS)

    each = [found([pair])[1].parts[part] for pair in chosen]
    distiller, both = found(chosen)
    assert distiller.teacher_layers == [teacher[2], teacher[0]]
    torch.testing.assert_close(both.parts[part], torch.stack(each).mean())
    for (name, _), value in zip(chosen, each, strict=True):
        torch.testing.assert_close(both.layers[f"{part}/{name}"], value)
    with pytest.raises(ValueError, match=r"unknown captured layer of the teacher 'head'.*captured with `layers:`"):
        build(tiny, method, layers=[[student[0], "head"]])


def test_teacher_layers_are_those_that_terms_read(tiny: Tiny) -> None:
    last, all_paired = ["stages.3"], ["stages.0", "stages.2", "stages.3"]
    expected = dict.fromkeys(LAYERWISE, all_paired) | dict.fromkeys(["rkd", "crd", "correlation"], last)
    assert {m: build(tiny, m).teacher_layers for m in METHODS} == {m: expected.get(m, []) for m in METHODS}


def test_sfkd_compares_the_last_layers_by_default(tiny: Tiny) -> None:
    distiller = create_distiller("sfkd", student=tiny("swin"), teacher=tiny("convnext"))
    assert distiller.pairs == [(distiller.student.layer_names[-1], "stages.3")]
    assert distiller.teacher_layers == ["stages.3"]


@pytest.mark.parametrize("shares", [{"warmup": -0.1}, {"decay": 1.1}, {"warmup": 0.6, "decay": 0.5}])
def test_impossible_ramps_are_refused(tiny: Tiny, shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="shares of the training, each ≥ 0 and together at most 1"):
        build(tiny, "fitnet", **shares)


@torch.no_grad()
@pytest.mark.parametrize(("mask", "sigma"), [("low", [0.1, 0.2, 0.4]), ("band", [[0.1, 0.2], [0.1, 0.3], [0.2, 0.3]])])
@pytest.mark.parametrize("method", ["sfkd", "gffl"])
def test_each_layer_may_have_its_own_filter(
    tiny: Tiny, images: Tensor, method: str, mask: str, sigma: list[Any]
) -> None:
    distiller = build(tiny, method, sigma=sigma, mask=mask, spectrum="log", comparison="error").eval()
    result = distiller(images, TARGETS)
    views = build(tiny, "sfkd").inspect(images)  # DS2S is the identity, and alignments are seeded alike
    for (layer, view), width in zip(views.items(), sigma, strict=True):
        if method == "sfkd":
            expected = gaussian_frequency_loss(view.refined, view.teacher, sigma=width, mask=mask, spectrum="log")
            torch.testing.assert_close(result.layers[f"gffl/{layer}"], expected)
        assert distiller.frequency_losses[layer].sigma == width
    one = sigma[0] if mask == "low" else tuple(sigma[0])
    assert {loss.sigma for loss in build(tiny, method, sigma=one, mask=mask).frequency_losses.values()} == {one}
    with pytest.raises(ValueError, match=r"one for each of the 3 layer pair\(s\) .*, got 2"):
        build(tiny, method, sigma=sigma[:2] if mask == "low" else [[0.1, 0.2]] * 2, mask=mask)


@torch.no_grad()
@pytest.mark.parametrize("spectral_loss", ["mse", "infonce"])
def test_the_papers_ablation_of_gffl(tiny: Tiny, images: Tensor, spectral_loss: str) -> None:
    distiller = build(tiny, "sfkd", spectral_loss=spectral_loss).eval()
    result = distiller(images, TARGETS)
    assert set(result.parts) == {"ce", "kd", "bands", spectral_loss}
    loss = {"mse": F.mse_loss, "infonce": infonce_loss}[spectral_loss]
    for layer, view in distiller.inspect(images).items():
        torch.testing.assert_close(result.layers[f"{spectral_loss}/{layer}"], loss(view.refined, view.teacher))


def test_without_a_spectral_loss_the_bands_alone_are_left(tiny: Tiny, images: Tensor) -> None:
    with_both, alone = (build(tiny, "sfkd", spectral_loss=loss)(images, TARGETS) for loss in ("gffl", "none"))
    assert set(alone.parts) == {"ce", "kd", "bands"}
    torch.testing.assert_close(alone.parts["bands"], with_both.parts["bands"])
    weight = distiller_options("sfkd")["feature_weight"]
    torch.testing.assert_close(alone.loss, with_both.loss - weight * with_both.parts["gffl"])


@torch.no_grad()
def test_band_weights_reach_the_band_loss(tiny: Tiny, images: Tensor) -> None:
    """Also where a layer was clamped and lacks the band."""
    weights = {"A": 0.5, "H2": 3.0, "D": 0.1}
    distiller = build(tiny, "sfkd", ("convnext", "convnext"), band_weights=weights).eval()
    assert distiller.clamped_levels["stages.3"] == 1
    result = distiller(images, TARGETS)
    for layer, view in distiller.inspect(images).items():
        expected = band_loss(view.stages.across, view.target, weights=weights, comparison="correlation")
        torch.testing.assert_close(result.layers[f"bands/{layer}"], expected)
        if layer == "stages.3":
            named = band_loss(view.stages.across, view.target, weights={"A1": 0.5, "D1": 0.1}, comparison="correlation")
            torch.testing.assert_close(expected, named)


@pytest.mark.parametrize("variant", ["light", "off"])
def test_lighter_refinements_can_be_inspected(tiny: Tiny, images: Tensor, variant: str) -> None:
    distiller = build(tiny, "sfkd", ds2s=variant)
    view = distiller.inspect(images)["layers.0"]
    for stage in view.stages[1:]:
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(stage.items(), view.stages.input.items(), strict=True))
    names = {name for name, _ in distiller.named_parameters() if ".refine." in name}
    assert bool(names) == (variant == "light")


def test_pca_is_fitted_to_the_teachers_maps_and_saved(tiny: Tiny, images: Tensor) -> None:
    distiller = build(tiny, "sfkd", width=16, reduction="pca")
    assert distiller.fit_batches == 32
    before = {name: value.clone() for name, value in distiller.state_dict().items()}
    with torch.no_grad():
        outputs = [distiller.teacher(images), distiller.teacher(images.flip(0) + 1)]
    distiller.fit(iter(outputs))
    changed = {name for name, value in distiller.state_dict().items() if not torch.equal(value, before[name])}
    wide = [i for i, (_, t) in enumerate(distiller.matched) if t.channels > 16]
    assert changed == {f"spatial_frequency.{i}.target.projection" for i in wide}
    assert changed <= distiller.extra_state().keys()
    for i in wide:
        moments = Moments(distiller.matched[i][1].channels)
        for output in outputs:
            moments.add(output.features[distiller.pairs[i][1]])
        alone = TeacherTarget(len(moments.mean), 16)
        alone.fit(moments)
        assert torch.equal(distiller.spatial_frequency[i].target.projection, alone.projection)
    with pytest.raises(ValueError, match="pass at least one batch"):
        distiller.fit(iter([]))
    for options in ({"width": 16}, {"reduction": "pca", "width": 64}):
        plain = build(tiny, "gffl", **options)
        assert plain.fit_batches == 0
        state = {name: value.clone() for name, value in plain.state_dict().items()}
        plain.fit(iter(outputs))
        assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())


def test_uncertainty_weights(tiny: Tiny, images: Tensor) -> None:
    """L = λ Σ (exp(−s) L + s), so dL/ds = λ (1 − exp(−s) L); and no weight decay pulls s to 0."""
    weighed = {"feature_weight": 0.3, "kd_weight": 1.0}
    distiller = build(tiny, "sfkd", weighting="uncertainty", **weighed).eval()
    fixed = build(tiny, "sfkd", **weighed).eval()(images, TARGETS)
    start = distiller(images, TARGETS)
    torch.testing.assert_close(start.loss, fixed.loss)
    assert start.parts["uncertainty"] == 0
    with torch.no_grad():
        distiller.log_variances.copy_(torch.tensor([0.7, -0.4]))
    result = distiller(images, TARGETS)
    weights = {name: 0.3 * math.exp(-s) for name, s in (("bands", 0.7), ("gffl", -0.4))}
    assert {name: weight.item() for name, weight in result.weights.items()} == pytest.approx(weights)
    assert result.parts["uncertainty"].item() == pytest.approx(0.3)
    total = sum({"ce": 1, "kd": 1, "uncertainty": 0.3, **weights}[name] * part for name, part in result.parts.items())
    torch.testing.assert_close(result.loss.detach(), total)
    result.loss.backward()
    expected = [0.3 - weights[name] * result.parts[name].item() for name in weights]
    assert distiller.log_variances.grad.tolist() == pytest.approx(expected, rel=1e-5)
    groups = create_optimizer_v2(distiller, opt="adamw", lr=1e-3, weight_decay=0.1).param_groups
    (decay,) = {g["weight_decay"] for g in groups if any(p is distiller.log_variances for p in g["params"])}
    assert decay == 0


# -- the target ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ALIGNED)
def test_a_fixed_target_has_ratio_one(tiny: Tiny, images: Tensor, method: str) -> None:
    distiller = build(tiny, method).train()
    ratios = distiller(images, TARGETS).target_ratios
    assert list(ratios) == distiller.student.layer_names
    assert all(ratio == 1 for ratio in ratios.values())


def test_ratio_is_that_of_variances_without_the_means_of_channels() -> None:
    x = torch.randn(4, 3, 8, 8)
    assert target_ratio(2 * x + 5, x).item() == pytest.approx(4, rel=1e-5)
    wide, bands = torch.cat([x, 3 * x], dim=1), decompose(x)
    assert target_ratio(wide, x).item() == pytest.approx(10, rel=1e-5)
    assert target_ratio(decompose(0.5 * x), bands).item() == pytest.approx(0.25, rel=1e-5)
    assert target_ratio(torch.zeros_like(x), torch.zeros_like(x)) == 1
    assert target_ratio(torch.ones_like(x), x).item() == pytest.approx(0, abs=1e-6)
    half = target_ratio(x.bfloat16(), x)
    assert half.dtype == torch.float32


class Planted(SFKD):
    """What must not be done: a trained refiner on the teacher's side."""

    def __init__(self, student: Backbone, teacher: Backbone | None = None, **options: Any) -> None:
        super().__init__(student, teacher, **options)
        self.planted = nn.ModuleList(DS2S(pair.target.channels, pair.levels) for pair in self.spatial_frequency)

    def refine_target(self, target: Any, layer: str) -> Any:
        return self.planted[[s for s, _ in self.pairs].index(layer)](target)


class PlantedMaps(GFFL):
    """The same on maps."""

    def __init__(self, student: Backbone, teacher: Backbone | None = None, **options: Any) -> None:
        super().__init__(student, teacher, **options)
        self.gain = nn.Parameter(torch.ones(()))

    def refine_target(self, target: Any, layer: str) -> Any:
        return self.gain * target


@pytest.mark.parametrize("method", [Planted, PlantedMaps])
def test_a_planted_refiner_of_the_teachers_side_is_seen(tiny: Tiny, images: Tensor, method: type[Any]) -> None:
    options = {"ce_weight": 0.0, "kd_weight": 0.0, "comparison": "error", "normalized": True}
    distiller = method(tiny("swin"), tiny("convnext"), **options).train()
    optimizer = torch.optim.Adam([p for p in distiller.parameters() if p.requires_grad], lr=0.05)
    ratios = []
    for _ in range(15):
        optimizer.zero_grad()
        result = distiller(images, UNLABELLED)
        result.loss.backward()
        optimizer.step()
        ratios.append(min(ratio.item() for ratio in result.target_ratios.values()))
    assert ratios[0] == pytest.approx(1)
    assert ratios[-1] < 0.5


class Refusing(TorchDispatchMode):
    """Fails at operations that the host waits for a device to finish."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        refused = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "aten.equal", "unique")
        assert not any(name in str(func) for name in refused), func
        return func(*args, **kwargs or {})


@pytest.mark.parametrize(
    "options",
    [
        {"ds2s": "light", "weighting": "uncertainty", "warmup": 0.1, "decay": 0.1},
        {"ds2s": "off", "spectral_loss": "infonce", "band_weights": {"A": 1, "H1": 0.5}},
        {"spectral_loss": "mse", "reduction": "pca", "width": 16},
        {"sigma": [0.1, 0.2, 0.3], "mask": "high", "spectrum": "amplitude"},
    ],
)
def test_options_of_sfkd_wait_for_nothing(tiny: Tiny, images: Tensor, options: dict[str, Any]) -> None:
    distiller = build(tiny, "sfkd", **options).train()
    distiller(images, TARGETS)  # masks are made once
    with Refusing():
        distiller(images, TARGETS).loss.backward()
    planted = Planted(tiny("swin"), tiny("convnext"))
    with Refusing():
        planted(images, TARGETS).loss.backward()
    with Refusing(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        bool(images.sum() > 0)


# -- registry and mistakes ------------------------------------------------------------------------------------------------


def test_registry() -> None:
    assert distiller_options("kd") == {"kd_weight": 4.0, "temperature": 1.0, "ce_weight": 1.0, "label_smoothing": 0.0}
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


@pytest.mark.parametrize("method", TAUGHT)
def test_a_missing_teacher_is_asked_for(tiny: Tiny, method: str) -> None:
    with pytest.raises(ValueError, match=r"distils from a teacher: pass teacher=sfkd\.Backbone"):
        create_distiller(method, student=tiny("convnext"))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"wavelet": "harr"}, "unknown discrete wavelet 'harr'"),
        ({"mode": "same"}, "mode"),
        ({"sigma": 0.0}, "> 0"),
        ({"mask": "mid"}, "unknown kind 'mid'"),
        ({"spectrum": "phase"}, "unknown spectrum 'phase'"),
        ({"ds2s": "none"}, "unknown variant 'none'"),
        ({"spectral_loss": "l1"}, "unknown spectral_loss 'l1'"),
        ({"weighting": "learned"}, "unknown weighting 'learned'"),
        ({"reduction": "svd"}, "unknown reduction 'svd'"),
        ({"band_weights": {"H3": 1.0}}, "unknown band 'H3'.*up to 2"),
    ],
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


SPECIAL: list[dict[str, Any]] = [
    {"spectrum": "amplitude", "mask": "band", "sigma": (0.1, 0.3)},
    {"spectrum": "log", "mask": "high"},
    {"spectral_loss": "infonce", "ds2s": "light"},
    {"spectral_loss": "mse", "weighting": "uncertainty", "ds2s": "off"},
]


@pytest.mark.parametrize(("method", "options"), [*((m, {}) for m in METHODS), *(("sfkd", o) for o in SPECIAL)])
def test_a_compiler_takes_the_whole_step(tiny: Tiny, images: Tensor, method: str, options: dict[str, Any]) -> None:
    """Without one graph break, which `fullgraph` refuses, to the same loss."""
    plain, compiled = (build(tiny, method, **options).train() for _ in range(2))
    torch.compiler.reset()
    torch.manual_seed(1)  # of stochastic depth
    found = torch.compile(compiled, backend="eager", fullgraph=True)(images, TARGETS, INDEX)
    found.loss.backward()
    torch.manual_seed(1)
    torch.testing.assert_close(found.loss, plain(images, TARGETS, INDEX).loss, rtol=1e-4, atol=1e-4)
    assert any(p.grad is not None for p in compiled.student.parameters())
