"""The rival methods: published values of their losses, and each of them on pairs of unlike architectures."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import INDEX, TARGETS, UNLABELLED, Tiny, build, interrupted, quietly
from torch import Tensor, nn
from torch.nn import functional as F

from sfkd import Backbone, Distiller, create_distiller, distillers, list_distillers, load_run
from sfkd.align import pooled
from sfkd.distillers import distiller_options
from sfkd.distillers.crd import _drawn
from sfkd.distillers.kd import KD
from sfkd.losses import (
    contrastive_loss,
    correlation_loss,
    detail_band_loss,
    dist_loss,
    dkd_loss,
    gaussian_frequency_loss,
    infonce_loss,
    kd_loss,
    ofa_loss,
    rkd_loss,
    spectral_mse_loss,
)
from sfkd.wavelet import decompose

PUBLISHED = {
    key: torch.from_numpy(value)
    for key, value in np.load(Path(__file__).parent / "reference" / "published_losses.npz").items()
}
RIVALS = ["gffl", "correlation", "rkd", "crd", "dkd", "dist", "ofa", "spectralkd", "freekd"]
OWN_PARTS = {
    **{name: {name} for name in RIVALS},
    **{"ofa": {"ofa", "exits"}, "spectralkd": {"spectrum"}, "freekd": {"details"}},
}


def noise(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    values = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return values[0], values[1]


# -- losses -------------------------------------------------------------------------------------------------------------


def published_loss(key: str) -> Tensor:
    """The loss that a key of the reference file names, with the parameters in it."""
    logits = [PUBLISHED[f"logits_{role}"] for role in ("student", "teacher")]
    of = {name: float(value) for name, value in re.findall(r"_([a-zT]+)([\d.]+)(?=_|$)", key)}
    match key.partition("_")[0]:
        case "dkd":
            options = {"alpha": of["alpha"], "beta": of["beta"], "temperature": of["T"]}
            return dkd_loss(*logits, PUBLISHED["target"], **options)
        case "dist":
            return dist_loss(*logits, **of)
        case "ofa":
            return ofa_loss(*logits, PUBLISHED["target"], eps=of["eps"], temperature=of["T"])
        case "rkd":
            weights = {"distance_only": (1, 0), "angle_only": (0, 1)}.get(key[4:]) or (of["d"], of["a"])
            features = [PUBLISHED[f"feat_{role}"] for role in ("student", "teacher")]
            return rkd_loss(*features, distance_weight=weights[0], angle_weight=weights[1])
        case _:
            return correlation_loss(PUBLISHED["embed_student"], PUBLISHED["embed_teacher"])


KEYS = [key for key in PUBLISHED if key.startswith(("dkd", "dist", "ofa", "rkd", "correlation"))]


def test_all_published_values_are_used() -> None:
    assert len(KEYS) == 2 + 3 + 3 + 3 + 1


@pytest.mark.parametrize("key", KEYS)
def test_losses_equal_the_published_implementations(key: str) -> None:
    assert published_loss(key).item() == pytest.approx(PUBLISHED[key].item(), rel=2e-6)


def test_contrast_is_the_published_formula() -> None:
    positive, negative = (x.exp() / 20 for x in (noise(5)[0], noise(5, 7, seed=1)[0]))
    share = 7 / 20
    expected = (positive / (positive + share)).log().sum() + (share / (negative + share)).log().sum()
    loss = contrastive_loss(positive.log(), negative.log(), num_samples=20)
    torch.testing.assert_close(loss, -expected / 5)
    left_out = torch.cat([negative.log()[:, :-1], torch.full((5, 1), -torch.inf, dtype=torch.float64)], dim=1)
    one_less = contrastive_loss(positive.log(), left_out, num_samples=20)
    torch.testing.assert_close(loss - one_less, -(share / (negative[:, -1] + share)).log().mean())


@pytest.mark.parametrize("shape", [(8, 8), (7, 9), (5, 4)])
def test_spectral_mse_against_numpy(shape: tuple[int, int]) -> None:
    student, teacher = noise(2, 3, *shape)
    difference = np.fft.rfft2((student - teacher).numpy(), norm="ortho")
    expected = np.stack([difference.real, difference.imag]) ** 2
    assert spectral_mse_loss(student, teacher).item() == pytest.approx(expected.mean(), rel=1e-9)
    whole = spectral_mse_loss(student, teacher, hermitian=True)
    torch.testing.assert_close(2 * whole, F.mse_loss(student, teacher))


def test_detail_bands_by_hand() -> None:
    student, teacher = (decompose(x, levels=2) for x in noise(2, 3, 8, 8))
    bands = [
        (s - t).abs().mean()
        for (name, s), (_, t) in zip(student.items(), teacher.items(), strict=True)
        if name[0] in "HVD"
    ]
    torch.testing.assert_close(detail_band_loss(student, teacher), sum(bands) / 6)


def test_ofa_without_enhancement_is_the_cross_entropy_with_the_teacher() -> None:
    student, teacher = noise(6, 10)
    target = torch.arange(6)
    expected = F.cross_entropy(student / 2, (teacher / 2).softmax(1))
    torch.testing.assert_close(ofa_loss(student, teacher, target, eps=1.0, temperature=2.0), expected)


def test_dkd_with_the_classical_weight_is_kd() -> None:
    """KD = TCKD + (1 − p_y)·NCKD (the paper's reformulation), here with one p_y for all samples."""
    student, teacher = noise(4, 10)
    teacher = teacher[:1].expand(4, 10)
    target = torch.full((4,), 3)
    beta = 1 - teacher.softmax(1)[0, 3].item()
    torch.testing.assert_close(
        dkd_loss(student, teacher, target, alpha=1, beta=beta, temperature=1),
        kd_loss(student, teacher, temperature=1),
    )


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_rkd_ignores_scale_shift_and_rotation(scale: float) -> None:
    x, other = noise(6, 8)
    rotation = torch.linalg.qr(other.T @ other).Q
    assert rkd_loss(scale * x @ rotation + 3, x).item() == pytest.approx(0, abs=1e-12)


def test_infonce_by_hand() -> None:
    student, teacher = noise(3, 2, 2, 2)
    s, t = (x.flatten(1).numpy() for x in (student, teacher))
    cosine = (s / np.linalg.norm(s, axis=1, keepdims=True)) @ (t / np.linalg.norm(t, axis=1, keepdims=True)).T
    expected = [-np.log(np.exp(cosine[i, i] / 0.5) / np.exp(cosine[i] / 0.5).sum()) for i in range(3)]
    assert infonce_loss(student, teacher, temperature=0.5).item() == pytest.approx(np.mean(expected), rel=1e-12)
    assert infonce_loss(5 * student, teacher / 3).item() == pytest.approx(infonce_loss(student, teacher).item())


LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[int, ...]]] = {
    "dkd": (lambda s, t: dkd_loss(s, t, torch.arange(len(s)) % 3), (4, 5)),
    "dist": (dist_loss, (4, 5)),
    "ofa": (lambda s, t: ofa_loss(s, t, torch.arange(len(s)) % 3, eps=1.3), (4, 5)),
    "rkd": (rkd_loss, (4, 5)),
    "correlation": (correlation_loss, (4, 5)),
    "infonce": (infonce_loss, (4, 2, 3, 2)),
    "contrastive": (lambda s, t: contrastive_loss(s[:, 0], s[:, 1:] + t[:, 1:], num_samples=9), (4, 5)),
    "spectral": (spectral_mse_loss, (4, 2, 6, 5)),
    "details": (lambda s, t: detail_band_loss(decompose(s), decompose(t)), (4, 2, 8, 8)),
}
EACH = pytest.mark.parametrize("name", LOSSES)


@EACH
def test_gradcheck(name: str) -> None:
    loss, shape = LOSSES[name]
    student, teacher = noise(*shape)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), student.requires_grad_())


@EACH
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_gives_the_float32_loss(name: str, dtype: torch.dtype, autocast: bool) -> None:
    loss, shape = LOSSES[name]
    student, teacher = (x.to(dtype) for x in noise(*shape))
    if name == "contrastive":  # adds its inputs, which no loss does
        teacher = torch.zeros_like(teacher)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = loss(student, teacher)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(student.double(), teacher.double()).item(), rel=1e-5)


def degenerate(shape: tuple[int, ...]) -> dict[str, tuple[Tensor, Tensor]]:
    student, teacher = (x.float() for x in noise(*shape))
    return {
        "the same on both sides": (teacher.clone(), teacher),
        "student of zeros": (torch.zeros(shape), teacher),
        "teacher of zeros": (student, torch.zeros(shape)),
        "nothing but zeros": (torch.zeros(shape), torch.zeros(shape)),
        "one student sample repeated": (student[:1].repeat(shape[0], *[1] * (len(shape) - 1)), teacher),
        "all values alike": (torch.full(shape, 0.3), teacher),
        "two equal samples": (torch.cat([student[:1], student[:-1]]), teacher),
        "a batch of one": (student[:1], teacher[:1]),
        "large values": (1e4 * student, -1e4 * teacher),
    }


@EACH
@pytest.mark.parametrize("case", degenerate((2, 1)))
def test_degenerate_inputs_give_a_finite_loss_and_gradient(name: str, case: str) -> None:
    loss, shape = LOSSES[name]
    student, teacher = degenerate(shape)[case]
    student.requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    if case == "a batch of one" and name in ("rkd", "correlation", "infonce"):
        assert value == 0
    if case == "the same on both sides" and name not in ("ofa", "contrastive", "infonce"):
        assert value.item() == pytest.approx(0, abs=1e-5)


def test_a_head_of_zeros_gets_a_bounded_gradient_from_dist() -> None:
    student = torch.zeros(8, 10, requires_grad=True)
    dist_loss(student, torch.randn(8, 10)).backward()
    assert student.grad is not None
    assert 0 < student.grad.abs().max() < 50


def test_without_levels_there_is_no_detail() -> None:
    student = torch.randn(1, 2, 2, 2, requires_grad=True)
    value = detail_band_loss(decompose(student), decompose(torch.randn(1, 2, 2, 2)))
    value.backward()
    assert value == 0
    assert student.grad is not None  # all processes reduce the same gradients
    assert not student.grad.any()


Z = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dkd_loss(Z, Z[:, :2], torch.zeros(2).long()), "dkd_loss expects equal shapes"),
        (
            lambda: dkd_loss(Z, Z, torch.zeros(3).long()),
            r"one whole number per sample as target, \[2\], got torch.int64",
        ),
        (lambda: ofa_loss(Z, Z, torch.zeros(2)), "got torch.float32 of shape"),
        (lambda: dkd_loss(Z[:, :1], Z[:, :1], torch.zeros(2).long()), "at least two classes"),
        (lambda: ofa_loss(Z, Z, torch.zeros(2).long(), eps=0), "eps expects a number > 0, got 0"),
        (lambda: dist_loss(Z, Z, tau=-1), "tau expects a number > 0"),
        (lambda: dist_loss(Z[None], Z[None]), r"dist_loss expects logits \[B, K\]"),
        (lambda: rkd_loss(Z, Z[:1]), r"with the same B, got shapes \(2, 3\) and \(1, 3\)"),
        (lambda: rkd_loss(Z[..., None, None], Z), "pool maps over their grid first"),
        (lambda: correlation_loss(Z, Z[:, :2]), "correlation_loss expects equal shapes"),
        (lambda: contrastive_loss(Z[:, 0], Z[:1], num_samples=3), r"\[B\] and \[B, K\] with K ≥ 1"),
        (lambda: contrastive_loss(Z[:, 0], Z, num_samples=0), "size of the training set"),
        (lambda: infonce_loss(Z, Z[:1]), "infonce_loss expects equal shapes"),
        (lambda: infonce_loss(Z, Z, temperature=0), "temperature expects a number > 0, got 0"),
        (lambda: spectral_mse_loss(Z, Z[:1]), "spectral_mse_loss expects equal shapes"),
        (lambda: detail_band_loss(decompose(Z), decompose(Z, levels=0).map(lambda x: x[:1])), "equal shapes"),
    ],
)
def test_errors_say_what_to_do(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# -- distillers -----------------------------------------------------------------------------------------------------------


def test_all_rivals_are_registered() -> None:
    assert set(RIVALS) < set(list_distillers())


@torch.no_grad()
def test_parts_are_the_functions_of_the_package(tiny: Tiny, images: Tensor) -> None:
    def parts(method: str, **options: Any) -> tuple[Any, Any, Any, dict[str, Tensor]]:
        distiller = build(tiny, method, **options).eval()
        assert distiller.teacher is not None
        result = distiller(images, TARGETS, INDEX)
        return distiller, distiller.student(images), distiller.teacher(images), result.parts

    _, s, t, found = parts("dkd", alpha=2.0, beta=3.0, temperature=1.5)
    expected = dkd_loss(s.logits, t.logits, TARGETS, alpha=2.0, beta=3.0, temperature=1.5)
    torch.testing.assert_close(found["dkd"], expected)
    torch.testing.assert_close(found["kd"], kd_loss(s.logits, t.logits, temperature=1.5))
    _, s, t, found = parts("dist", beta=2.0, gamma=0.5, temperature=3.0)
    torch.testing.assert_close(found["dist"], dist_loss(s.logits, t.logits, beta=2.0, gamma=0.5, tau=3.0))
    method, s, t, found = parts("ofa", eps=1.4, temperature=2.0)
    each = [ofa_loss(x, t.logits, TARGETS, eps=1.4, temperature=2.0) for x in (s.logits, *exits(method, s.features))]
    torch.testing.assert_close(found["ofa"], each[0])
    torch.testing.assert_close(found["exits"], torch.stack(each[1:]).sum())
    method, s, t, found = parts("rkd", distance_weight=2.0, angle_weight=3.0)
    (*_, last_s), (*_, last_t) = s.features.values(), t.features.values()
    expected = rkd_loss(last_s.mean((2, 3)), last_t.mean((2, 3)), distance_weight=2.0, angle_weight=3.0)
    torch.testing.assert_close(found["rkd"], expected)
    method, s, t, found = parts("correlation")
    target = F.conv2d(pooled(last_t)[:, :, None, None], torch.eye(64)[:, :, None, None]).flatten(1) / math.sqrt(
        1 + 1e-5
    )
    torch.testing.assert_close(found["correlation"], correlation_loss(method.embed(pooled(last_s)), target))
    for name, part, distance in [
        ("gffl", "gffl", lambda a, b: gaussian_frequency_loss(a, b, sigma=0.25)),
        ("spectralkd", "spectrum", spectral_mse_loss),
        ("freekd", "details", lambda a, b: detail_band_loss(decompose(a, levels=3), decompose(b, levels=3))),
    ]:
        method, s, t, found = parts(name)
        layers = zip(method.pairs, method.aligned, strict=True)
        maps = [pair.align(s.features[own], t.features[other]) for (own, other), pair in layers]
        torch.testing.assert_close(found[part], torch.stack([distance(*pair) for pair in maps]).mean())


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("gffl", {"sigma": 0.1}),
        ("gffl", {"mask": "high"}),
        ("gffl", {"spectrum": "log"}),
        ("gffl", {"width": 16}),
        ("spectralkd", {"hermitian": True}),
        ("freekd", {"wavelet": "db2"}),
        ("freekd", {"levels": 1}),
    ],
)
def test_options_reach_the_distance(tiny: Tiny, images: Tensor, method: str, options: dict[str, Any]) -> None:
    (part,) = OWN_PARTS[method]
    default, changed = (build(tiny, method, **o).eval()(images, TARGETS).parts[part] for o in ({}, options))
    assert changed.isfinite()
    assert changed.item() != pytest.approx(default.item(), rel=1e-3)


def exits(distiller: Any, features: dict[str, Tensor]) -> list[Tensor]:
    return [leave(x) for leave, x in zip(distiller.exits, features.values(), strict=True)]


# -- options --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", RIVALS)
def test_options_of_kd_are_options_of_every_rival(tiny: Tiny, method: str) -> None:
    assert {"ce_weight", "label_smoothing", "kd_weight", "temperature"} <= distiller_options(method).keys()
    distiller = build(tiny, method, ce_weight=0.1, label_smoothing=0.2, kd_weight=0.3, temperature=5.0)
    assert isinstance(distiller, KD)
    found = (distiller.ce_weight, distiller.label_smoothing, distiller.kd_weight, distiller.temperature)
    assert found == (0.1, 0.2, 0.3, 5.0)
    with pytest.raises(ValueError, match=f"unknown option of {method} 'temprature'"):
        build(tiny, method, temprature=5.0)


def test_options_are_those_of_the_class_before_those_of_its_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(KD):
        def __init__(self, student: Backbone, teacher: Any = None, *, temperature: float = 9.0, **options: Any) -> None:
            super().__init__(student, teacher, temperature=temperature, **options)

    class Closed(KD):
        def __init__(self, student: Backbone, teacher: Any = None, *, mine: int = 1) -> None:
            super().__init__(student, teacher)

    monkeypatch.setattr(distillers, "_REGISTRY", {"mine": Mine, "closed": Closed})
    expected = {"temperature": 9.0, "kd_weight": 4.0, "ce_weight": 1.0, "label_smoothing": 0.0}
    assert distiller_options("mine") == expected
    assert distiller_options("closed") == {"mine": 1}


def test_other_classes_are_refused(tiny: Tiny, images: Tensor) -> None:
    teacher = tiny("convnext")
    teacher.model.reset_classifier(7)
    for method in ("dkd", "dist", "ofa"):
        distiller = create_distiller(method, student=tiny("swin"), teacher=teacher)
        with pytest.raises(ValueError, match=r"got 10 \(student\) and 7 \(teacher\)"):
            distiller(images, TARGETS)


# -- CRD's memory ---------------------------------------------------------------------------------------------------------


def memories(distiller: Distiller) -> list[Tensor]:
    return [value.clone() for name, value in distiller.extra_state().items() if name.startswith("memory_")]


def test_memory_moves_in_the_rows_of_index_alone(tiny: Tiny, images: Tensor) -> None:
    distiller = build(tiny, "crd", momentum=0.25).train()
    before = memories(distiller)
    embedded = []
    for embed in (distiller.embed_student, distiller.embed_teacher):
        embed.register_forward_hook(lambda _m, _i, out: embedded.append(F.normalize(out.detach(), dim=1)))
    distiller(images, TARGETS, INDEX)
    others = [i for i in range(20) if i not in INDEX.tolist()]
    for old, new, vectors in zip(before, memories(distiller), embedded, strict=True):
        assert torch.equal(old[others], new[others])
        torch.testing.assert_close(new[INDEX], F.normalize(0.25 * old[INDEX] + 0.75 * vectors, dim=1))


def test_memory_rests_in_eval_mode(tiny: Tiny, images: Tensor) -> None:
    distiller = build(tiny, "crd").eval()
    before = {name: value.clone() for name, value in distiller.extra_state().items()}
    distiller(images, TARGETS, INDEX)
    assert all(value.equal(before[name]) or value.isnan().all() for name, value in distiller.extra_state().items())


def test_a_sample_that_comes_twice_is_remembered_once(tiny: Tiny) -> None:
    order, index = torch.tensor([1, 0, 2, 3]), torch.tensor([4, 4, 7, 8])
    own, others = F.normalize(torch.randn(2, 4, 128), dim=2)
    a, b = build(tiny, "crd").train(), build(tiny, "crd").train()
    start = a.memory_student[4].clone()
    a._contrast(own, others, index)
    b._contrast(own[order], others[order], index)
    for one, other in zip(memories(a), memories(b), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(a.memory_student[4], F.normalize(start + (own[0] + own[1]) / 2, dim=0))


def test_the_constant_is_that_of_the_first_batch(tiny: Tiny, images: Tensor) -> None:
    distiller = build(tiny, "crd").train()
    assert distiller.log_constants.isnan().all()
    distiller(images, TARGETS, INDEX)
    first = distiller.log_constants.clone()
    assert first.isfinite().all()
    distiller(images.flip(0), TARGETS, INDEX)
    assert torch.equal(distiller.log_constants, first)


@torch.no_grad()
@pytest.mark.parametrize("autocast", [False, True])
def test_contrast_with_the_memories_by_hand(tiny: Tiny, autocast: bool) -> None:
    """Also that noise moves on by one step, and that autocast does not reach the scores."""
    distiller = build(tiny, "crd", contrast_temperature=0.2).train()
    own, others = F.normalize(torch.randn(2, 4, 128), dim=2)
    embedders = (distiller.embed_student, distiller.embed_teacher)
    for embed, vectors in zip(embedders, (own, others), strict=True):
        embed.register_forward_hook(lambda _m, _i, _o, vectors=vectors: vectors)
    counter = distiller.counter.clone()
    noise = _drawn(counter, 64, 20)
    directions = [(own, distiller.memory_teacher.clone()), (others, distiller.memory_student.clone())]
    expected, constants = torch.zeros(()), []
    for vectors, memory in directions:
        scores = (vectors @ memory.T / 0.2).exp()
        partner = scores[torch.arange(4), INDEX]
        rest = torch.where(INDEX[:, None] == noise, 0.0, scores[:, noise])
        constants.append(20 * torch.cat([partner[:, None], rest], dim=1).mean())
        expected += contrastive_loss((partner / constants[-1]).log(), (rest / constants[-1]).log(), num_samples=20)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = distiller(torch.randn(4, 1, 32, 32), TARGETS, INDEX).parts["crd"]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(distiller.log_constants, torch.stack(constants).log())
    assert distiller.counter == counter + 1


def test_noise_is_uniform_new_at_each_step_and_a_function_of_the_count() -> None:
    draws = [_drawn(torch.tensor(2**31 + step), 16384, 10) for step in range(8)]
    assert torch.equal(draws[3], _drawn(torch.tensor(2**31 + 3), 16384, 10))
    assert not torch.equal(draws[0], draws[1])
    counts = torch.bincount(torch.cat(draws), minlength=10).double()
    expected = 8 * 16384 / 10
    chi_squared = ((counts - expected) ** 2 / expected).sum().item()
    assert len(counts) == 10
    assert 0.9 < chi_squared < 30  # 9 degrees of freedom: one in a thousand on either side
    neighbours = torch.corrcoef(torch.stack([draws[0][:-1], draws[0][1:]]).double())[0, 1]
    assert abs(neighbours) < 4 / math.sqrt(16384)


@torch.no_grad()
def test_a_sample_is_no_noise_to_itself(tiny: Tiny, images: Tensor) -> None:
    distiller = build(tiny, "crd").eval()
    scores = distiller._scores(torch.randn(4, 128), distiller.memory_teacher, INDEX, torch.arange(20))[1]
    assert scores.isinf().nonzero().tolist() == [[i, int(number)] for i, number in enumerate(INDEX)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": None}, "pass num_samples, their number, at least 2; got None"),
        ({"num_samples": 1}, "got 1"),
        ({"negatives": 0}, "negatives ≥ 1"),
        ({"momentum": 1.0}, "momentum < 1"),
        ({"contrast_temperature": 0.0}, "contrast_temperature > 0"),
    ],
)
def test_wrong_options_of_crd_are_refused(tiny: Tiny, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(tiny, "crd", **options)


def test_crd_asks_for_the_index(tiny: Tiny, images: Tensor) -> None:
    with pytest.raises(ValueError, match="call the distiller with index"):
        build(tiny, "crd")(images, TARGETS)


def test_a_run_fills_in_the_number_of_samples_resumes_and_opens(
    tmp_path: Path, recipe: Callable[..., Any], distilled: dict[str, Any]
) -> None:
    teacher = {key: value for key, value in distilled["teacher"].items() if key != "schedule"}
    crd = {"teacher": teacher, "method": {"name": "crd", "options": {"negatives": 32, "width": 16}}}
    whole = quietly(recipe(tmp_path / "whole", **crd))
    assert whole.recipe().method.options["num_samples"] == 64
    state = load_run(whole.path).distiller.state_dict()
    assert state["memory_student"].shape == (64, 16)
    assert not state["log_constants"].isnan().any()
    quietly(recipe(tmp_path / "whole", **crd))  # the same recipe, still without the number

    interrupted(recipe(tmp_path / "killed", **crd))
    resumed = load_run(quietly(recipe(tmp_path / "killed", **crd)).path).distiller.state_dict()
    own = [name for name in state if not name.startswith("teacher.")]  # the teacher's random weights are the seed's
    assert all(torch.equal(resumed[name], state[name]) for name in own)


PROCESS = """
import sys
import torch
from torch import nn
from sfkd import Backbone, create_distiller
from sfkd.align import ChannelStandardize, Moments

rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if world > 1:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
torch.set_num_threads(1)
torch.manual_seed(0)
nets = [nn.Sequential(nn.Conv2d(1, c, 3), nn.Flatten(), nn.Linear(c * 36, 5)) for c in (4, 6)]
student, teacher = (Backbone(net, layers=["0"], input_size=(1, 8, 8)) for net in nets)
distiller = create_distiller("crd", student=student, teacher=teacher, num_samples=12, negatives=16, width=4).train()
images = torch.randn(3, 4, 1, 8, 8)
losses, standardize, moments = [], ChannelStandardize(1), Moments(1)
for step, batch in enumerate(images):
    index = (torch.arange(4) * 2 + step) % 12
    mine = slice(rank * 4 // world, (rank + 1) * 4 // world)
    standardize(batch[mine] + step)
    moments.add(batch[mine] + step)
    losses.append(distiller(batch[mine], torch.zeros(4, dtype=torch.long)[mine], index[mine]).parts["crd"])
state = [distiller.memory_student, distiller.memory_teacher, distiller.log_constants, distiller.counter]
moments = moments.of_all_processes(torch.device("cpu"))
state += [standardize.mean, standardize.variance, moments.mean, moments.covariance]
from safetensors.torch import save_file
save_file(dict(zip("abcdefgh", state), losses=torch.stack(losses)), f"{folder}/{world}-{rank}.safetensors")
if world > 1:
    torch.distributed.barrier()  # or the first to go may break the other's last exchange
    torch.distributed.destroy_process_group()
"""


def test_two_processes_remember_and_measure_what_one_does(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    command = [sys.executable, "-W", "ignore", "-c", PROCESS]
    runs = [(0, 1), (0, 2), (1, 2)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([*command, str(rank), str(world), str(tmp_path)], env=environment) for rank, world in runs
    ]
    assert [process.wait(timeout=300) for process in started] == [0, 0, 0]
    one, first, second = (load_file(tmp_path / f"{world}-{rank}.safetensors") for rank, world in runs)
    for name in "abcdefgh":
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], one[name])
    torch.testing.assert_close((first["losses"] + second["losses"]) / 2, one["losses"])


def test_exits_fit_any_module(images: Tensor) -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    student, teacher = (Backbone(net, layers=["0"], input_size=(1, 32, 32)) for _ in range(2))
    assert student.num_classes == 3
    assert create_distiller("ofa", student=student, teacher=teacher)(images, UNLABELLED).loss.isfinite()
