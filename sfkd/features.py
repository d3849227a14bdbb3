"""Any model as logits and named maps `[B, C, H, W]`, without touching its code.

timm models give their own intermediates (`forward_intermediates`); every other module, and every layer that timm does
not list, is read by forward hooks that live for one call.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sfkd._checks import unknown
from sfkd.weights import create_model

DEFAULT_LAYERS = 4


class Output(NamedTuple):
    """What a `Backbone` returns: `logits` `[B, K]` and `features`, name → `[B, C, H, W]` in depth order."""

    logits: Tensor
    features: dict[str, Tensor]


class Layer(NamedTuple):
    """A layer that can be captured, as seen at the model's input size. `reduction` is input height over map height."""

    name: str
    channels: int
    grid: tuple[int, int]
    reduction: float


class Normalization(NamedTuple):
    """Mean and standard deviation that were taken off an image's channels, on a scale of 0 … 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Backbone(nn.Module):
    """A model that returns its logits and the maps of chosen layers.

    Args:
        model: a timm name (`"resnet18"`, `"hf-hub:…"`, `"local-dir:…"`), or any `nn.Module` that returns logits `[B, K]`.
        pretrained: download weights (timm names only; `local-dir:` weights are always read).
        num_classes: classes of the head; None keeps the model's own.
        layers: names of the layers to capture. Default for timm models: the last map of every stage (the last four
            where there are more), and for plain transformers and MLPs the ends of four equal parts of their depth (our
            choice). Any module name works. Required for other modules.
        input_size: `(C, H, W)` of an `nn.Module` that is not timm's; timm models know theirs.
        num_prefix_tokens: class tokens and registers before the patch tokens; None reads the model's own, else 0.
        **model_kwargs: passed to `timm.create_model`.

    Raises:
        ValueError: unknown model or layer, with the nearest names. WeightsError: weights that cannot be had.

    Examples:
        >>> model = Backbone("resnet18", num_classes=10)
        >>> [layer.name for layer in model.layers]
        ['layer1', 'layer2', 'layer3', 'layer4']
    """

    def __init__(
        self,
        model: str | nn.Module,
        *,
        pretrained: bool = False,
        num_classes: int | None = None,
        layers: Sequence[str] | None = None,
        input_size: tuple[int, int, int] | None = None,
        num_prefix_tokens: int | None = None,
        **model_kwargs: Any,
    ) -> None:
        super().__init__()
        if isinstance(model, str):
            self.model = create_model(model, pretrained=pretrained, num_classes=num_classes, **model_kwargs)
            self.name = model.removeprefix("local-dir:")
        elif isinstance(model, nn.Module):
            if pretrained or num_classes is not None or model_kwargs:
                raise ValueError(
                    "pretrained, num_classes and model keywords belong to timm names; an nn.Module is taken as it is."
                )
            self.model, self.name = model, type(model).__name__
        else:
            raise TypeError(f"Backbone expects a timm name or an nn.Module, got {type(model).__name__}.")
        self.input_size = tuple(input_size) if input_size else _input_size(self.model)
        prefix = getattr(self.model, "num_prefix_tokens", 0) if num_prefix_tokens is None else num_prefix_tokens
        self._prefix_tokens = int(prefix)
        self._listed = _listed_layers(self.model)
        self._names = self._choose(layers)
        self.normalization = self.own_normalization = _normalization(self.model, self.input_size[0])
        self.register_buffer("_scale", None, persistent=False)
        self.register_buffer("_shift", None, persistent=False)

    _scale: Tensor | None
    _shift: Tensor | None

    @property
    def layer_names(self) -> list[str]:
        """Names of the captured layers, in depth order."""
        return list(self._names)

    @property
    def layers(self) -> list[Layer]:
        """Name, channels, grid and reduction of the captured layers, measured by one forward of zeros."""
        height = self.input_size[1]
        return [Layer(name, c, (h, w), height / h) for name, (c, h, w) in self._measured[1].items()]

    def capturing(self, layers: Sequence[str]) -> Backbone:
        """The same model, its weights shared, with other layers captured."""
        other = copy.copy(self)
        other._names = self._choose(layers)
        other.__dict__.pop("_measured", None)
        return other

    @property
    def num_classes(self) -> int:
        """Classes of the logits, measured by the same forward."""
        return self._measured[0]

    @cached_property
    def _measured(self) -> tuple[int, dict[str, tuple[int, ...]]]:
        """Number of classes, and `(C, H, W)` by layer."""
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                reference = next(self.parameters(), torch.zeros(()))
                zeros = torch.zeros(1, *self.input_size, device=reference.device, dtype=reference.dtype)
                logits, features = self(zeros)
        finally:
            self.train(was_training)
        return logits.shape[1], {name: tuple(f.shape[1:]) for name, f in features.items()}

    def expect(self, given: Normalization, own: Normalization | None = None) -> None:
        """Take images that were normalised by `given` from now on, and bring them to what the weights were trained with.

        Args:
            given: becomes `normalization`.
            own: of the weights; default what timm's configuration says, or `given` where that says nothing.
        """
        self.own_normalization = own or self.own_normalization or given
        self.normalization = given
        (mean, std), (own_mean, own_std) = (torch.tensor(n)[:, :, None, None] for n in (given, self.own_normalization))
        same = given == self.own_normalization
        self._scale, self._shift = (None, None) if same else (std / own_std, (mean - own_mean) / own_std)

    def prepared(self, images: Tensor) -> Tensor:
        """`images` as the weights want them; see `expect`.

        Raises:
            TypeError: no tensor of floating-point numbers, or of other ones than the weights.
            ValueError: other dimensions or channels than the model's, or on another device.
        """
        if not torch.compiler.is_compiling():
            self._check(images)
        if self._scale is None or self._shift is None:
            return images
        return images * self._scale.to(images) + self._shift.to(images)

    def _check(self, images: Tensor) -> None:
        if not isinstance(images, Tensor):
            raise TypeError(f"{self.name} expects images as a torch.Tensor, got {type(images).__name__}.")
        if images.ndim != 4 or images.shape[1] != self.input_size[0] or 0 in images.shape[2:]:
            raise ValueError(
                f"{self.name} expects images [B, {self.input_size[0]}, H, W], got shape {tuple(images.shape)}."
            )
        weight = next(self.model.parameters(), None)
        if weight is None:
            return
        if images.device != weight.device:
            raise ValueError(
                f"{self.name} is on {weight.device}, the images on {images.device}: images.to({str(weight.device)!r})."
            )
        converts = torch.is_autocast_enabled(images.device.type)
        if not images.is_floating_point() or not (converts or images.dtype == weight.dtype):
            raise TypeError(
                f"{self.name} expects normalised images of its weights' type, {weight.dtype}, got {images.dtype}: "
                "images.to(…), or torch.autocast."
            )

    def predict(self, images: Tensor) -> Tensor:
        """Logits `[B, K]` of `images` `[B, C, H, W]`, without the maps."""
        return _first(self.model(self.prepared(images)))

    def forward(self, images: Tensor) -> Output:
        """Logits and maps of `images` `[B, C, H, W]`."""
        images = self.prepared(images)
        if all(name in self._listed for name in self._names):
            return self._timm_intermediates(images)
        return self._hooked(images)

    def _timm_intermediates(self, images: Tensor) -> Output:
        indices = [self._listed.index(name) for name in self._names]
        final, maps = self.model.forward_intermediates(images, indices=indices, output_fmt="NCHW")  # type: ignore[operator]
        return Output(self.model.forward_head(final), dict(zip(self._names, maps, strict=True)))  # type: ignore[operator]

    def _hooked(self, images: Tensor) -> Output:
        with captured(self.model, self._names) as outputs:
            logits = _first(self.model(images))
        return Output(logits, {name: self._as_map(name, outputs.get(name), images) for name in self._names})

    def _as_map(self, name: str, output: Any, images: Tensor) -> Tensor:
        """A hooked output as `[B, C, H, W]`."""
        output = _first(output)
        if not isinstance(output, Tensor) or output.ndim not in (3, 4) or len(output) != len(images):
            came = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"layer {name!r} of {self.name} gives no map: expected [B, C, H, W] or [B, N, C] with B = {len(images)}, "
                f"got {came}."
            )
        if output.ndim == 4:
            return output.permute(0, 3, 1, 2) if getattr(self.model, "output_fmt", "NCHW") == "NHWC" else output
        tokens = output.shape[1] - self._prefix_tokens
        grid = _grid(tokens, (int(images.shape[-2]), int(images.shape[-1])))
        return tokens_to_map(output, grid=grid, num_prefix_tokens=self._prefix_tokens)

    def _choose(self, layers: Sequence[str] | None) -> tuple[str, ...]:
        if layers is None:
            if not self._listed:
                raise ValueError(
                    f"{self.name} lists no layers of its own: pass layers=[…], module names from model.named_modules()."
                )
            return tuple(_default_layers(self._listed, self.model))
        if isinstance(layers, str):
            raise TypeError(f"layers expects a list of names, got the string {layers!r}: write [{layers!r}].")
        modules = [name for name, _ in self.model.named_modules() if name]
        known = self._listed if all(name in self._listed for name in layers) else modules
        for name in layers:
            if name not in known:
                raise ValueError(unknown(f"layer of {self.name}", name, [*self._listed, *modules]))
        if not layers or len(set(layers)) != len(layers):
            raise ValueError(f"layers expects different names, at least one, got {list(layers)}.")
        return tuple(sorted(layers, key=known.index))


@contextlib.contextmanager
def captured(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Outputs of the named modules during the block, by name; the hooks are removed at its end, errors included."""
    outputs: dict[str, Any] = {}
    modules = dict(model.named_modules())
    handles = []
    try:
        for name in names:
            handles.append(
                modules[name].register_forward_hook(lambda _m, _i, out, name=name: outputs.update({name: _copy(out)}))
            )
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, (tuple, list)) else output


def _copy(output: Any) -> Any:
    """A copy, because the next layer may work in place (ReLU, `x += shortcut`)."""
    if isinstance(output, (tuple, list)):
        return tuple(map(_copy, output))
    return output.clone() if isinstance(output, Tensor) else output


def tokens_to_map(tokens: Tensor, grid: tuple[int, int] | None = None, num_prefix_tokens: int = 0) -> Tensor:
    """Patch tokens `[B, N, C]` as a map `[B, C, H, W]`, prefix tokens (class token, registers) dropped.

    Args:
        tokens: row-major over the grid after `num_prefix_tokens` prefix tokens.
        grid: (H, W); None takes the square, and refuses where N − prefix is none.

    Examples:
        >>> tokens_to_map(torch.zeros(2, 197, 8), num_prefix_tokens=1).shape
        torch.Size([2, 8, 14, 14])
    """
    if not isinstance(tokens, Tensor) or tokens.ndim != 3:
        came = f"shape {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else type(tokens).__name__
        raise ValueError(f"tokens_to_map expects tokens [B, N, C], got {came}.")
    count = tokens.shape[1] - num_prefix_tokens
    if grid is None:
        side = math.isqrt(max(count, 0))
        grid = (side, side)
    height, width = grid
    if height * width != count or count < 1:
        raise ValueError(
            f"tokens_to_map expects N = H·W + prefix tokens, got N = {tokens.shape[1]} with "
            f"num_prefix_tokens={num_prefix_tokens} for a {height}×{width} grid: {_repair(tokens.shape[1])}"
        )
    return tokens[:, num_prefix_tokens:].transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], height, width)


def _repair(tokens: int) -> str:
    for prefix in range(6):
        side = math.isqrt(max(tokens - prefix, 0))
        if side > 1 and side * side == tokens - prefix:
            return f"pass num_prefix_tokens={prefix} for a {side}×{side} grid."
    return "pass grid=(H, W) and num_prefix_tokens."


def _grid(tokens: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """The grid of `tokens` patches with the image's aspect ratio; one that `tokens_to_map` refuses where there is none."""
    rows, columns = image_size
    pairs = [(height, tokens // height) for height in range(1, tokens + 1) if tokens % height == 0]
    fitting = [(h, w) for h, w in pairs if abs(h * columns - w * rows) < max(image_size)]  # within one patch
    nearest = (math.isqrt(max(tokens, 0) * rows // columns), math.isqrt(max(tokens, 0) * columns // rows))
    return min(fitting, key=lambda pair: abs(pair[0] * columns - pair[1] * rows), default=nearest)


def _input_size(model: nn.Module) -> tuple[int, int, int]:
    if not hasattr(model, "pretrained_cfg"):
        raise ValueError(f"{type(model).__name__} does not say its input size: pass input_size=(C, H, W).")
    from timm.models import get_model_input_config

    channels, height, width = get_model_input_config(model)["input_size"]
    return channels, height, width


def _normalization(model: nn.Module, channels: int) -> Normalization | None:
    """What timm's configuration of a model says of its images; None where it does not fit its channels."""
    config = getattr(model, "pretrained_cfg", None) or {}
    mean, std = tuple(config.get("mean") or ()), tuple(config.get("std") or ())
    return Normalization(mean, std) if len(mean) == len(std) == channels else None


def _listed_layers(model: nn.Module) -> list[str]:
    """Layers that timm's own intermediates give, in depth order; empty where there is no such interface."""
    if not hasattr(model, "forward_intermediates") or not hasattr(model, "feature_info"):
        return []
    names = [info["module"] for info in _feature_info(model)]
    # some models list several maps under one module (CoaT, CrossViT): the second is "name:2"
    return [name if (n := names[:i].count(name)) == 0 else f"{name}:{n + 1}" for i, name in enumerate(names)]


def _feature_info(model: nn.Module) -> list[dict[str, Any]]:
    info = model.feature_info
    return info if isinstance(info, list) else list(getattr(info, "info", info))  # type: ignore[arg-type]


def _default_layers(listed: list[str], model: nn.Module) -> list[str]:
    if len(listed) <= DEFAULT_LAYERS:
        return listed
    info = _feature_info(model)
    plain = len({(i["num_chs"], i["reduction"]) for i in info}) == 1
    if plain:
        return [listed[round((i + 1) * len(listed) / DEFAULT_LAYERS) - 1] for i in range(DEFAULT_LAYERS)]
    return listed[-DEFAULT_LAYERS:]
