"""Attribution in the wavelet domain: closed forms, completeness, planted bands, every layout; Grad-CAM by hand."""

import builtins
import copy

import numpy as np
import pytest
import torch
from torch import nn

import sfkd_viz
from sfkd import Backbone, decompose, reconstruct
from sfkd.features import Normalization
from sfkd_viz.measures.attribution import spread
from sfkd_viz.measures.sites import rebuilt


class Linear(nn.Module):
    """Logits linear in the image, behind an identity that can be named as a layer."""

    def __init__(self, size=8):
        super().__init__()
        self.same = nn.Identity()
        self.weight = nn.Parameter(torch.randn(5, 2, size, size))
        self.bias = nn.Parameter(torch.randn(5))

    def forward(self, images):
        return torch.einsum("bchw,kchw->bk", self.same(images), self.weight) + self.bias


def linear(size=8):
    return Backbone(Linear(size), layers=["same"], input_size=(2, size, size))


def bands_of(x, wavelet="haar", levels=2):
    return dict(decompose(x, wavelet, levels).items())


def test_a_linear_network_has_a_closed_form():
    model, x = linear(), torch.randn(3, 2, 8, 8)
    baseline, classes = torch.randn(2, 8, 8), torch.tensor([1, 4, 0])
    result = sfkd_viz.wavelet_attribution(model, x, classes, baseline=baseline, steps=2)
    weights, change = bands_of(model.model.weight[classes].detach()), bands_of(x - baseline)
    # Haar is orthonormal: the weight of a coefficient is the coefficient of the weight
    expected = np.stack([(weights[b] * change[b]).sum((1, 2, 3)).numpy() for b in result.bands], 1)
    np.testing.assert_allclose(result.values, expected, atol=1e-4)
    in_space = (weights["V1"] * change["V1"]).sum(1).numpy().repeat(2, 1).repeat(2, 2) / 4
    np.testing.assert_allclose(result.maps[:, result.bands.index("V1")], in_space, atol=1e-5)
    np.testing.assert_allclose(result.delta, 0, atol=1e-4)
    assert result.baseline == "given"
    assert result.bands == ("A2", "H2", "V2", "D2", "H1", "V1", "D1")


def test_a_layer_that_is_the_identity_equals_the_input():
    model, x = linear(), torch.randn(3, 2, 8, 8)
    at_input = sfkd_viz.wavelet_attribution(model, x, layer="input", steps=4)
    at_layer = sfkd_viz.wavelet_attribution(model, x, layer="same", baseline="zero", steps=4)
    np.testing.assert_allclose(at_layer.values, at_input.values, atol=1e-5)
    np.testing.assert_allclose(at_layer.maps, at_input.maps, atol=1e-5)
    assert (at_input.baseline, at_layer.baseline) == ("zero", "zero")
    np.testing.assert_allclose(at_layer.baseline_logit, model.model.bias.detach()[at_layer.classes], atol=1e-6)


@pytest.mark.parametrize("band", ["A2", "H2", "V1", "D1"])
def test_the_planted_band_is_named(band):
    model, x = linear(), torch.randn(6, 2, 8, 8)
    tree = decompose(model.model.weight.detach(), "haar", 2)
    with torch.no_grad():
        kept = [v if name == band else torch.zeros_like(v) for name, v in tree.items()]
        model.model.weight.copy_(reconstruct(rebuilt(tree, kept)))
    result = sfkd_viz.wavelet_attribution(model, x, steps=4)
    np.testing.assert_allclose(result.share[:, result.bands.index(band)], 1, atol=1e-5)
    assert result.sentence().startswith(f"{band} of input carries most: 100 %")


@pytest.mark.parametrize(
    ("name", "layer"),
    # an untrained ConvNeXt has no biases: its first layer norm makes zero an ill-posed start
    [("resnet", "input"), ("vit", "input"), ("convnext", "stages.1"), ("swin", "layers.1"), ("vit", "blocks.1")],
)
def test_parts_sum_to_the_logit_difference(tiny, name, layer, images):
    model = tiny(name).eval()
    result = sfkd_viz.wavelet_attribution(model, images, layer=layer, batch_size=16)
    assert result.completeness_error.max() < 0.05
    difference = result.logit - result.baseline_logit
    np.testing.assert_allclose(result.values.sum(1) - difference, result.delta, atol=1e-12)
    np.testing.assert_allclose(result.maps.sum((2, 3)), result.values, atol=1e-4)
    with torch.no_grad():
        logits = model(images).logits
    np.testing.assert_array_equal(result.classes, logits.argmax(1))
    np.testing.assert_allclose(result.logit, logits.max(1).values, atol=1e-5)
    assert np.abs(difference).min() > 1e-6


def test_it_equals_gradients_averaged_by_hand(tiny, images):
    """The transform is linear, so the average gradient of the pixels, transformed back by autograd, gives the same."""
    model = tiny("vit").eval()
    result = sfkd_viz.wavelet_attribution(model, images, torch.tensor([3, 1, 4, 1]), wavelet="db2", steps=7)
    nodes, weights = np.polynomial.legendre.leggauss(7)
    total = torch.zeros_like(images)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        x = (node * images).float().requires_grad_()
        model(x).logits[range(4), [3, 1, 4, 1]].sum().backward()
        total += float(weight) * x.grad
    tree = decompose(images, "db2", 2)
    for number, (name, _) in enumerate(tree.items()):
        alone = [v if i == number else torch.zeros_like(v) for i, (_, v) in enumerate(tree.items())]
        expected = (reconstruct(rebuilt(tree, alone)) * total).sum((1, 2, 3))
        np.testing.assert_allclose(result.values[:, result.bands.index(name)], expected, rtol=1e-3, atol=1e-5)


def test_more_steps_come_nearer_and_the_sentence_says_when_they_are_too_few():
    class Sharp(nn.Module):
        def forward(self, x):
            total = x.sum((1, 2, 3))
            return torch.stack([torch.sigmoid(30 * (total - 0.83)), torch.zeros_like(total)], 1)

    model = Backbone(nn.Sequential(Sharp()), layers=["0"], input_size=(1, 4, 4))
    x = torch.full((1, 1, 4, 4), 1 / 12)
    few, many = (sfkd_viz.wavelet_attribution(model, x, [0], steps=s, levels=1, cam_layer="input") for s in (3, 200))
    assert abs(many.delta[0]) < 1e-3 < abs(few.delta[0])
    assert few.completeness_error[0] > 0.05
    assert "raise steps" in few.sentence()
    assert "raise steps" not in many.sentence()
    assert "raise steps" in sfkd_viz.plot_attribution(few).layout.title.text


class Normed(nn.Module):
    """A layer norm over channels follows the layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(2, 16, 1)
        self.weight = nn.Parameter(torch.randn(5, 16, 8, 8))

    def forward(self, images):
        x = nn.functional.layer_norm(self.layer(images).permute(0, 2, 3, 1), (16,))
        return torch.einsum("bhwc,kchw->bk", x, self.weight)


def test_a_layer_starts_from_channel_means_since_zero_is_ill_posed_before_a_layer_norm():
    model, x = Backbone(Normed(), layers=["layer"], input_size=(2, 8, 8)), 1000 * torch.randn(5, 2, 8, 8)
    with torch.no_grad():
        model.model.layer.bias.normal_(0, 3000)  # as features are: not centred
        means = model.model.layer(x).mean((0, 2, 3))[:, None, None].expand(16, 8, 8)
    mean = sfkd_viz.wavelet_attribution(model, x, layer="layer", batch_size=3)
    given = sfkd_viz.wavelet_attribution(model, x, layer="layer", baseline=means)
    np.testing.assert_allclose(mean.values, given.values, atol=1e-4)
    assert (mean.baseline, given.baseline) == ("mean", "given")
    assert mean.completeness_error.max() < 0.05
    zero = sfkd_viz.wavelet_attribution(model, x, layer="layer", baseline="zero")
    assert zero.completeness_error.max() > 0.5


def test_batch_size_bounds_forwards_and_changes_nothing(tiny, images):
    model = tiny("resnet").eval()
    sizes = []
    handle = model.model.register_forward_hook(lambda _m, inputs, _o: sizes.append(len(inputs[0])))
    small = sfkd_viz.wavelet_attribution(model, images, batch_size=3, steps=5)
    handle.remove()
    assert max(sizes) == 3
    large = sfkd_viz.wavelet_attribution(model, images, batch_size=64, steps=5)
    np.testing.assert_allclose(small.values, large.values, atol=1e-6)
    np.testing.assert_allclose(small.cam, large.cam, atol=1e-6)


def test_images_of_another_normalization_are_brought_to_the_models_own(tiny, images):
    plain = tiny("resnet").eval()
    model = copy.deepcopy(plain)
    model.expect(Normalization((0.2,), (0.5,)), Normalization((0.4,), (0.25,)))
    for layer in ("input", "layer2"):
        found = sfkd_viz.wavelet_attribution(model, images, layer=layer, steps=4)
        expected = sfkd_viz.wavelet_attribution(plain, model.prepared(images), layer=layer, steps=4)
        np.testing.assert_allclose(found.values, expected.values, atol=1e-6)
        np.testing.assert_allclose(found.cam, expected.cam, atol=1e-6)


def test_unlabelled_images_explain_the_models_own_answer():
    model, x = linear(), torch.randn(4, 2, 8, 8)
    own = sfkd_viz.wavelet_attribution(model, x, steps=2)
    mixed = sfkd_viz.wavelet_attribution(model, x, torch.tensor([-1, 2, -1, 2]), steps=2)
    np.testing.assert_array_equal(mixed.classes, [own.classes[0], 2, own.classes[2], 2])


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(("name", "layer"), [("convnext", "stages.2"), ("swin", "layers.2"), ("vit", "blocks.1")])
def test_grad_cam_equals_a_hand_computation(tiny, name, layer, frozen, images):
    model = tiny(name).eval().requires_grad_(not frozen)
    classes = torch.tensor([0, 7, 2, 9])
    kept = {}

    def keep(_module, _inputs, output):
        kept["x"] = output
        output.retain_grad()

    handle = model.model.get_submodule(layer).register_forward_hook(keep)
    logits = model.model(images.clone().requires_grad_())
    handle.remove()
    logits.gather(1, classes[:, None]).sum().backward()
    x, gradient = kept["x"].detach(), kept["x"].grad
    if name == "vit":  # [B, 1 + 64, C]
        x, gradient = (t[:, 1:].transpose(1, 2).reshape(4, -1, 8, 8) for t in (x, gradient))
    if name == "swin":  # [B, H, W, C]
        x, gradient = (t.permute(0, 3, 1, 2) for t in (x, gradient))
    expected = (gradient.mean((2, 3), keepdim=True) * x).sum(1).clamp_min(0)
    found = sfkd_viz.grad_cam(model, images, layer, classes)
    np.testing.assert_allclose(found.maps, expected, atol=1e-6, rtol=1e-4)
    assert found.maps.max() > 0
    assert (found.layer, list(found.classes)) == (layer, [0, 7, 2, 9])
    table = found.to_dataframe()
    at = table[(table.image == 2) & (table.row == 1) & (table.column == 0)]
    assert (at["class"].item(), at["value"].item()) == (2, found.maps[2, 1, 0])


def test_spreading_keeps_sums_and_places_coefficients_where_they_were():
    for wavelet, level, side in (("haar", 2, 7), ("db2", 1, 8), ("db2", 2, 16), ("bior2.2", 2, 15)):
        tree = decompose(torch.zeros(1, side, side), wavelet, level)
        count = tree.approximation.shape[-1]
        coefficients = np.random.default_rng(0).normal(size=(2, count, count))
        found = spread(coefficients, tree.levels, (side, side), wavelet)
        np.testing.assert_allclose(found.sum((1, 2)), coefficients.sum((1, 2)), atol=1e-9)
    # a coefficient in the middle lies where its own wavelet has its mass
    for wavelet in ("haar", "db2", "sym4", "bior2.2"):
        tree = decompose(torch.zeros(1, 64, 64), wavelet, 2)
        unit = torch.zeros_like(tree.approximation)
        unit[0, 9, 9] = 1
        mass = reconstruct(tree.replaced(unit, tree.details))[0].square().sum(0).numpy()
        where = spread(unit.numpy().astype(float), 2, (64, 64), wavelet)[0].sum(0)
        centre, expected = (np.average(np.arange(64), weights=m) for m in (where, mass))
        assert abs(centre - expected) < 3


def test_training_mode_gradients_and_hooks_are_left_alone(tiny, images):
    model = tiny("resnet").train()
    sfkd_viz.wavelet_attribution(model, images, layer="layer2", steps=2)
    assert all(p.grad is None for p in model.parameters())
    assert model.model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with torch.no_grad():
        assert np.abs(sfkd_viz.wavelet_attribution(model, images, steps=2).values).max() > 0


def test_grids_that_bear_no_level_have_one_band(images):
    model = Backbone("test_resnet", in_chans=1, num_classes=10, layers=["layer4"])
    result = sfkd_viz.wavelet_attribution(model.eval(), images, layer="layer4", baseline="zero", steps=8)
    assert result.bands[0].startswith("A")
    assert result.completeness_error.max() < 0.05
    one = Backbone(
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 3)), layers=["0"], input_size=(1, 32, 32)
    )
    result = sfkd_viz.wavelet_attribution(one, images, layer="0", baseline="zero", steps=2)
    assert (result.bands, result.maps.shape) == (("A0",), (4, 1, 1, 1))
    np.testing.assert_allclose(result.delta, 0, atol=1e-5)


def test_bfloat16(tiny, images):
    model = tiny("convnext").eval()
    exact = sfkd_viz.wavelet_attribution(model, images, [1, 2, 3, 4], steps=8)
    half = sfkd_viz.wavelet_attribution(model.to(torch.bfloat16), images, [1, 2, 3, 4], steps=8)
    np.testing.assert_allclose(half.values, exact.values, atol=0.05 * np.abs(exact.values).max())


def test_table():
    model, x = linear(), torch.randn(2, 2, 8, 8)
    result = sfkd_viz.wavelet_attribution(model, x, [1, 3], steps=2, levels=1)
    table = result.to_dataframe()
    assert len(table) == 8
    assert list(table["band"][:4]) == ["A1", "H1", "V1", "D1"]
    np.testing.assert_allclose(table["attribution"], result.values.ravel())
    np.testing.assert_allclose(table.groupby("image")["logit_difference"].first(), result.logit - result.baseline_logit)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"layer": "nope"}, ValueError, "unknown layer"),
        ({"steps": 0}, ValueError, "steps expects an integer ≥ 1"),
        ({"batch_size": True}, ValueError, "batch_size"),
        ({"baseline": torch.zeros(1, 3, 3)}, ValueError, r"baseline expects a map \(2, 8, 8\)"),
        ({"baseline": "blur"}, ValueError, "unknown baseline 'blur'"),
        ({"targets": [0, 1]}, ValueError, "one class for each of 3 images"),
        ({"targets": [0, 1, 5]}, ValueError, "0 to 4"),
        ({"wavelet": "nope"}, ValueError, "unknown discrete wavelet"),
        ({"images": torch.randn(2, 8, 8)}, ValueError, r"\[B, C, H, W\]"),
        ({"images": np.zeros((1, 2, 8, 8))}, TypeError, "ndarray"),
        ({"images": torch.full((3, 2, 8, 8), float("nan"))}, ValueError, "'input'.*NaN"),
        ({"model": nn.Identity()}, TypeError, r"wrap it in sfkd\.Backbone"),
    ],
)
def test_mistakes(changes, error, match):
    given = {"model": linear(), "images": torch.randn(3, 2, 8, 8)} | changes
    with pytest.raises(error, match=match):
        sfkd_viz.wavelet_attribution(**given)


def test_without_captum_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.startswith("captum"):
            raise ImportError("No module named 'captum'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install sfkd\[analysis\]"):
        sfkd_viz.grad_cam(linear(), torch.randn(1, 2, 8, 8))


def test_the_figure_shows_one_image_by_its_numbers():
    model, x = linear(16), torch.randn(3, 2, 16, 16)
    result = sfkd_viz.wavelet_attribution(model, x, [1, 4, 0], steps=2)
    fig = sfkd_viz.plot_attribution(result, 1, classes=["a", "b", "c", "d", "boot"])
    traces = {trace.name: trace for trace in fig.data}
    np.testing.assert_allclose(traces["attribution"].y, result.values[1], rtol=1e-5)
    np.testing.assert_allclose(traces["H2"].z, result.maps[1, 1], atol=1e-6)
    np.testing.assert_allclose(traces["picture"].z, x[1].mean(0), atol=1e-6)
    np.testing.assert_allclose(traces["Grad-CAM"].z, result.cam[1], atol=1e-6)
    assert {traces[band].coloraxis for band in result.bands} == {"coloraxis"}
    assert fig.layout.coloraxis.cmin == -fig.layout.coloraxis.cmax
    assert all(trace.z.dtype == np.float32 for trace in fig.data if trace.type == "heatmap")
    assert "image 1, boot" in fig.layout.title.text
    with pytest.raises(ValueError, match="0 to 2"):
        sfkd_viz.plot_attribution(result, 3)
    with pytest.raises(TypeError, match="wavelet_attribution"):
        sfkd_viz.plot_attribution(x)


@pytest.mark.parametrize("levels", [0, 1, 3])
def test_the_figure_takes_any_number_of_bands(levels):
    result = sfkd_viz.wavelet_attribution(linear(16), torch.randn(1, 2, 16, 16), steps=2, levels=levels)
    assert len(sfkd_viz.plot_attribution(result).data) == 3 + len(result.bands)
