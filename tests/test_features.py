from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from helpers import TINY
from torch import Tensor, nn

import sfkd.weights
from sfkd import Backbone, WeightsError, tokens_to_map
from sfkd.features import Normalization, captured

FAMILIES = {
    "resnet18": {},
    TINY["convnext"]["name"]: TINY["convnext"]["kwargs"],
    TINY["swin"]["name"]: TINY["swin"]["kwargs"],
    "vit_tiny_patch16_224": {"img_size": 32, "patch_size": 4, "embed_dim": 32, "depth": 6, "num_heads": 2},
    "deit_tiny_distilled_patch16_224": {"img_size": 32, "patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2},
    "mixer_s16_224": {"img_size": 32},
    "test_efficientnet": {},
    "densenet121": {"growth_rate": 8, "block_config": (2, 2, 2, 2)},
}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Backbone:
    return Backbone(request.param, num_classes=10, **FAMILIES[request.param]).eval()


def rgb(size: tuple[int, int] = (32, 32)) -> Tensor:
    return torch.randn(2, 3, *size)


# -- timm models ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_logits_are_the_models_own(family: Backbone) -> None:
    images = rgb()
    torch.testing.assert_close(family(images).logits, family.model(images))


@torch.no_grad()
def test_maps_are_as_described(family: Backbone) -> None:
    family.input_size = (3, 32, 32)
    features = family(rgb()).features
    assert list(features) == family.layer_names == [layer.name for layer in family.layers]
    assert 3 <= len(features) <= 4
    for layer in family.layers:
        assert features[layer.name].shape == (2, layer.channels, *layer.grid)
        assert layer.reduction == 32 / layer.grid[0]
    assert all(a.grid[0] >= b.grid[0] for a, b in zip(family.layers, family.layers[1:], strict=False))


@torch.no_grad()
def test_hooks_on_the_same_layers_see_the_same_maps(family: Backbone) -> None:
    """timm's intermediates against plain hooks, channels-last outputs and tokens put on their grid."""
    images = rgb()
    ours, hooked = family(images), family._hooked(images)
    torch.testing.assert_close(hooked.logits, ours.logits)
    for name, feature in ours.features.items():
        torch.testing.assert_close(hooked.features[name], feature)


@torch.no_grad()
def test_resnet_maps_are_those_of_features_only() -> None:
    ours = Backbone("resnet18").eval()
    theirs = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3, 4)).eval()
    theirs.load_state_dict(ours.model.state_dict(), strict=False)
    images = rgb()
    for a, b in zip(ours(images).features.values(), theirs(images), strict=True):
        torch.testing.assert_close(a, b)


@torch.no_grad()
def test_swin_maps_are_its_stages_channels_first(tiny: Callable[..., Backbone]) -> None:
    backbone = tiny("swin").eval()
    images = torch.randn(2, 1, 32, 32)
    with captured(backbone.model, ["layers.1"]) as outputs:
        features = backbone(images).features
    assert features["layers.1"].shape == (2, 32, 8, 8)
    torch.testing.assert_close(features["layers.1"], outputs["layers.1"].permute(0, 3, 1, 2))


@torch.no_grad()
def test_vit_maps_are_patch_tokens_row_by_row() -> None:
    backbone = Backbone("vit_tiny_patch16_224", num_classes=10, **FAMILIES["vit_tiny_patch16_224"]).eval()
    with captured(backbone.model, ["blocks.5"]) as outputs:
        features = backbone(rgb()).features
    tokens = outputs["blocks.5"]
    assert tokens.shape == (2, 65, 32)
    torch.testing.assert_close(features["blocks.5"][:, :, 3, 5], tokens[:, 1 + 3 * 8 + 5])


def test_default_layers_are_stage_ends_or_quarters_of_the_depth() -> None:
    plain = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 1}
    assert Backbone("vit_tiny_patch16_224", **plain, depth=12).layer_names == [f"blocks.{i}" for i in (2, 5, 8, 11)]
    assert Backbone("vit_tiny_patch16_224", **plain, depth=3).layer_names == [f"blocks.{i}" for i in range(3)]
    assert Backbone("test_resnet").layer_names == ["layer1", "layer2", "layer3", "layer4"]


def test_gradients_reach_images_through_maps_and_logits(tiny: Callable[..., Backbone]) -> None:
    images = torch.randn(2, 1, 32, 32, requires_grad=True)
    output = tiny("swin")(images)
    for value in (output.logits, *output.features.values()):
        (gradient,) = torch.autograd.grad(value.square().sum(), images, retain_graph=True)
        assert gradient.abs().sum() > 0


def test_training_mode_computes_what_the_bare_model_computes(tiny: Callable[..., Backbone]) -> None:
    backbone = tiny("resnet").train()
    images = torch.randn(4, 1, 32, 32)
    torch.testing.assert_close(backbone(images).logits, backbone.model(images))


def test_measuring_layers_leaves_mode_and_statistics_alone(tiny: Callable[..., Backbone]) -> None:
    backbone = tiny("resnet").train()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    assert len(backbone.layers) == 4
    assert backbone.training
    assert backbone.model.training
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())


@torch.no_grad()
def test_capturing_other_layers_shares_the_model_and_its_normalization(tiny: Callable[..., Backbone]) -> None:
    backbone = tiny("resnet").eval()
    backbone.expect(Normalization((0.0,), (1.0,)), Normalization((0.5,), (0.5,)))
    assert len(backbone.layers) == 4
    other = backbone.capturing(["layer2.0", "conv1"])
    assert (other.layer_names, other.model) == (["conv1", "layer2.0"], backbone.model)
    assert [layer.name for layer in other.layers] == ["conv1", "layer2.0"]
    images = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(other(images).logits, backbone(images).logits)
    assert backbone.layer_names == ["layer1", "layer2", "layer3", "layer4"]
    with pytest.raises(ValueError, match="unknown layer of test_resnet 'layer9'"):
        backbone.capturing(["layer9"])


@torch.no_grad()
def test_images_need_not_be_square(tiny: Callable[..., Backbone]) -> None:
    maps = tiny("convnext").eval()(torch.randn(2, 1, 32, 64)).features
    assert [tuple(m.shape[-2:]) for m in maps.values()] == [(32, 64), (16, 32), (8, 16), (4, 8)]
    names = ["blocks.1", "blocks.3.mlp"]
    wide = tiny("vit", img_size=(16, 64), layers=names).eval()
    assert {tuple(m.shape) for m in wide(torch.randn(2, 1, 16, 64)).features.values()} == {(2, 32, 4, 16)}


@torch.no_grad()
def test_two_maps_of_one_module_have_two_names() -> None:
    backbone = Backbone("coat_tiny", num_classes=2, img_size=32).eval()
    assert backbone.layer_names == ["serial_blocks1", *(f"parallel_blocks{n}" for n in ("", ":2", ":3"))]
    backbone.input_size = (3, 32, 32)
    assert [layer.grid for layer in backbone.layers] == [(8, 8), (4, 4), (2, 2), (1, 1)]


@torch.no_grad()
def test_inner_modules_of_timm_models_come_in_depth_order(tiny: Callable[..., Backbone]) -> None:
    backbone = tiny("vit", layers=["blocks.2.mlp", "blocks.0", "blocks.0.attn"]).eval()
    assert backbone.layer_names == ["blocks.0", "blocks.0.attn", "blocks.2.mlp"]
    images = torch.randn(2, 1, 32, 32)
    with captured(backbone.model, backbone.layer_names) as outputs:
        output = backbone(images)
    torch.testing.assert_close(output.logits, backbone.model(images))
    for name, feature in output.features.items():
        torch.testing.assert_close(feature, tokens_to_map(outputs[name], num_prefix_tokens=1))


@torch.no_grad()
def test_windows_are_no_map(tiny: Callable[..., Backbone]) -> None:
    backbone = tiny("swin", layers=["layers.0.blocks.0.attn"]).eval()
    with pytest.raises(
        ValueError, match=r"'layers\.0\.blocks\.0\.attn' of swin.* gives no map.*B = 2, got shape \(32,"
    ):
        backbone(torch.randn(2, 1, 32, 32))


# -- any other module -------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """A convolution, an in-place activation and a head; fails when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 6, 2, stride=2))
        self.head = nn.Linear(6, 10)
        self.fails = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        if self.fails:
            raise RuntimeError("planted")
        return self.head(x.mean((2, 3)))


class Tokens(nn.Module):
    """Gives `count` tokens whatever the image."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.tokens, self.head = nn.Identity(), nn.Linear(4, 10)
        self.values = nn.Parameter(torch.randn(1, count, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.tokens(self.values.expand(len(x), -1, -1))
        return self.head(tokens.mean(1)), tokens


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_hooked_maps_of_a_plain_module() -> None:
    model = Plain()
    backbone = Backbone(model, layers=["body.2", "body.0"], input_size=(3, 32, 32))
    assert backbone.layer_names == ["body.0", "body.2"]
    assert [(layer.channels, layer.grid, layer.reduction) for layer in backbone.layers] == [
        (4, (32, 32), 1),
        (6, (16, 16), 2),
    ]
    images = rgb()
    output = backbone(images)
    torch.testing.assert_close(output.logits, model(images))
    torch.testing.assert_close(output.features["body.2"], model.body(images))
    assert hooks(model) == 0


def test_a_later_in_place_operation_does_not_change_a_map() -> None:
    model = Plain()
    images = rgb()
    features = Backbone(model, layers=["body.0"], input_size=(3, 32, 32))(images).features
    torch.testing.assert_close(features["body.0"], model.body[0](images))
    assert features["body.0"].min() < 0


def test_hooks_are_removed_when_forward_raises() -> None:
    model = Plain()
    backbone = Backbone(model, layers=["body.0"], input_size=(3, 32, 32))
    model.fails = True
    with pytest.raises(RuntimeError, match="planted"):
        backbone(rgb())
    assert hooks(model) == 0


def test_hooks_are_removed_when_a_name_is_wrong() -> None:
    model = Plain()
    with pytest.raises(KeyError), captured(model, ["body.0", "nowhere"]):
        pass
    assert hooks(model) == 0


@pytest.mark.parametrize(
    ("count", "prefix", "size", "grid"),
    [(64, 0, (32, 32), (8, 8)), (65, 1, (32, 32), (8, 8)), (36, 0, (64, 32), (9, 4)), (32, 0, (32, 64), (4, 8))],
)
def test_hooked_tokens_take_the_images_aspect(count: int, prefix: int, size: tuple[int, int], grid) -> None:
    model = Tokens(count)
    backbone = Backbone(model, layers=["tokens"], input_size=(3, *size), num_prefix_tokens=prefix)
    output = backbone(rgb(size))
    torch.testing.assert_close(output.logits, model(rgb(size))[0])
    expected = model.values[:, prefix:].transpose(1, 2).reshape(1, 4, *grid).expand(2, -1, -1, -1)
    torch.testing.assert_close(output.features["tokens"], expected)


@pytest.mark.parametrize(
    ("count", "size", "message"),
    [
        (65, (32, 32), "pass num_prefix_tokens=1 for a 8×8 grid"),
        (30, (32, 32), "pass num_prefix_tokens=5 for a 5×5 grid"),
        (20, (32, 32), "pass num_prefix_tokens=4 for a 4×4 grid"),
        (49, (64, 32), "got N = 49"),
    ],
)
def test_tokens_that_do_not_fit_the_image_are_refused(count: int, size: tuple[int, int], message: str) -> None:
    """Some token counts with class tokens also factor into a near-square; that grid would be silently wrong."""
    backbone = Backbone(Tokens(count), layers=["tokens"], input_size=(3, *size))
    with pytest.raises(ValueError, match=message):
        backbone(rgb(size))


# -- tokens -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("grid", [None, (4, 9)])
def test_tokens_to_map_drops_the_prefix_and_keeps_row_order(prefix: int, grid: tuple[int, int] | None) -> None:
    tokens = torch.randn(2, 36 + prefix, 8)
    image = tokens_to_map(tokens, grid, prefix)
    rows, columns = grid or (6, 6)
    assert image.shape == (2, 8, rows, columns)
    assert torch.equal(image[:, :, 2, 3], tokens[:, prefix + 2 * columns + 3])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: tokens_to_map(torch.zeros(2, 197, 8)),
            "got N = 197 with num_prefix_tokens=0.*: pass num_prefix_tokens=1 for a 14×14 grid",
        ),
        (lambda: tokens_to_map(torch.zeros(2, 201, 8)), "pass num_prefix_tokens=5 for a 14×14 grid"),
        (lambda: tokens_to_map(torch.zeros(2, 36, 8), (5, 7)), "for a 5×7 grid"),
        (lambda: tokens_to_map(torch.zeros(2, 32, 8)), r"pass grid=\(H, W\)"),
        (lambda: tokens_to_map(torch.zeros(2, 1, 8), num_prefix_tokens=1), "got N = 1"),
        (lambda: tokens_to_map(torch.zeros(2, 8, 4, 4)), r"tokens \[B, N, C\], got shape \(2, 8, 4, 4\)"),
        (lambda: tokens_to_map([1, 2]), "got list"),
    ],
)
def test_tokens_that_fit_no_grid(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# -- mistakes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Backbone("resnet81"), ValueError, r"unknown timm model 'resnet81'\. Did you mean 'resnet18'"),
        (
            lambda: Backbone("test_resnet", layers=["layer9"]),
            ValueError,
            "unknown layer of test_resnet 'layer9'. Did you mean 'layer",
        ),
        (lambda: Backbone("test_resnet", layers=[""]), ValueError, "unknown layer"),
        (lambda: Backbone("test_resnet", layers=[]), ValueError, "at least one"),
        (lambda: Backbone("test_resnet", layers=["layer1", "layer1"]), ValueError, "different names"),
        (lambda: Backbone("test_resnet", layers="layer1"), TypeError, r"write \['layer1'\]"),
        (lambda: Backbone("test_resnet", wings=2), ValueError, "could not build 'test_resnet'.*wings"),
        (lambda: Backbone(Plain(), layers=["body.0"]), ValueError, r"pass input_size=\(C, H, W\)"),
        (lambda: Backbone(Plain(), input_size=(3, 8, 8)), ValueError, r"Plain lists no layers.*pass layers="),
        (lambda: Backbone(Plain(), num_classes=3), ValueError, "belong to timm names"),
        (lambda: Backbone(3), TypeError, r"timm name or an nn\.Module, got int"),
    ],
)
def test_errors_say_what_to_do(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@torch.no_grad()
def test_a_layer_that_gives_no_map() -> None:
    backbone = Backbone(Plain(), layers=["head"], input_size=(3, 32, 32))
    with pytest.raises(ValueError, match=r"layer 'head' of Plain gives no map.*got shape \(2, 10\)"):
        backbone(rgb())


@pytest.mark.parametrize("name", ["test_resnet", "hf-hub:timm/no_such_model"])
def test_missing_weights_fail_at_once_without_a_network(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    attempts: list[object] = []

    def refused(*address: object, **_: object) -> None:
        attempts.append(address)
        raise OSError("the network was asked")

    monkeypatch.setattr(sfkd.weights, "_resolves", lambda host: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)
    with pytest.raises(WeightsError, match=f"weights of '{name}' could not be downloaded.*pass pretrained=False"):
        Backbone(name, pretrained=True)
    assert attempts == []
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_a_model_that_has_no_weights_says_so() -> None:
    with pytest.raises(WeightsError, match="No pretrained weights exist for densenet264d"):
        Backbone("densenet264d", pretrained=True)


# -- normalisation -----------------------------------------------------------------------------------------------------


def test_images_are_brought_to_the_normalisation_of_the_weights(tiny: Callable[..., Backbone]) -> None:
    """One photograph, normalised for another model: logits and maps are those of the native normalisation."""
    pixels = torch.rand(2, 1, 32, 32)
    given, own = Normalization((0.5,), (0.25,)), Normalization((0.3,), (0.4,))
    images, native = ((pixels - n.mean[0]) / n.std[0] for n in (given, own))
    model = tiny("convnext").eval()
    plain = model(native)
    model.expect(given, own)
    assert (model.normalization, model.own_normalization) == (given, own)
    adapted = model(images)
    torch.testing.assert_close(adapted.logits, plain.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(adapted.features["stages.3"], plain.features["stages.3"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.predict(images), plain.logits, rtol=1e-4, atol=1e-4)
    assert not any("_scale" in name for name in model.state_dict())


def test_equal_normalisations_cost_nothing(tiny: Callable[..., Backbone], images: Tensor) -> None:
    model = tiny("vit")
    model.expect(Normalization((0.2,), (0.3,)), Normalization((0.2,), (0.3,)))
    assert model.prepared(images) is images


def test_timm_says_what_pretrained_weights_expect() -> None:
    model = Backbone("resnet18", num_classes=2)
    assert model.normalization == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    model.expect(Normalization((0.5,) * 3, (0.5,) * 3))
    assert model.own_normalization == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert Backbone("resnet18", in_chans=1).normalization is None
