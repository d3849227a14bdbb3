"""Places in a network where a map can be read, changed and put back, whatever the layout of the layer's output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

import torch
from torch import Tensor

from sfkd._checks import unknown
from sfkd.features import Backbone, captured, tokens_to_map
from sfkd.wavelet import Detail, SubBands

INPUT = "input"
Layout = Literal["NCHW", "NHWC", "tokens"]


@dataclass(frozen=True)
class Site:
    """A layer whose output is a map `[B, C, H, W]` under one of three layouts; "input" is the image itself.

    Attributes:
        layout: "NCHW", "NHWC", or "tokens": `[B, prefix + H·W, C]`, row-major. Prefix tokens stay as they are.
        grid: (H, W). prefix: class tokens and registers before the patch tokens.
    """

    name: str
    layout: Layout
    grid: tuple[int, int]
    prefix: int = 0

    def read(self, output: Any) -> Tensor:
        """The map in a module's output, of which a tuple's first entry counts."""
        x = _first(output)
        if self.layout == "tokens":
            return tokens_to_map(x, self.grid, self.prefix)
        return x.permute(0, 3, 1, 2) if self.layout == "NHWC" else x

    def written(self, output: Any, x: Tensor) -> Any:
        """The module's output with the map `x` in place of its own, in the output's layout and type."""
        old = _first(output)
        new = x.to(old.dtype)
        if self.layout == "tokens":
            new = torch.cat([old[:, : self.prefix], new.flatten(2).transpose(1, 2)], 1)
        elif self.layout == "NHWC":
            new = new.permute(0, 2, 3, 1).contiguous()
        return type(output)([new, *output[1:]]) if isinstance(output, (tuple, list)) else new


def find_sites(model: Backbone, names: Sequence[str], images: Tensor) -> dict[str, Site]:
    """Sites by name, found by comparing each module's output with the map that `Backbone` captures under that name.

    All 98 families of timm 1.0.31 give maps, and 90 pass here. Refused are maps that are made from a module's output by
    reordering (Hiera, TNT), or that timm lists under no module's name (CoaT, CrossViT, Gemma4, HRNet, MViTv2, Twins), since
    putting those back needs the model's own code.

    Args:
        names: "input", or layers of the model; any module name that gives a map.
        images: one or two images, of the size that will be used.

    Raises:
        ValueError: a layer that is no module of its own, or whose module gives something else than the captured map.
    """
    inner = [name for name in names if name != INPUT]
    found = {INPUT: Site(INPUT, "NCHW", _grid(images))}
    if inner:
        view = model.capturing(inner)
        modules = dict(view.model.named_modules())
        for name in inner:
            if name not in modules:
                raise ValueError(
                    f"layer {name!r} of {model.name} is a map that timm makes, not the output of a module, so it cannot be "
                    f"replaced: {unknown('module', name, [n for n in modules if n])}"
                )
        with captured(view.model, inner) as outputs, torch.no_grad():
            features = view(images).features
        for name in inner:
            found[name] = _site(name, outputs.get(name), features[name], model.name)
    return {name: found[name] for name in names}


def logits_of(model: Backbone, images: Tensor, site: Site | None = None, change: Any = None) -> Tensor:
    """Logits `[B, K]` of a forward in which the map at `site` is replaced by `change(map)`; intact without a site.

    Images are those that `placed` returns. The hook is removed at the end, errors included.

    Raises:
        ValueError: a layer that a forward does not call exactly once.
    """
    if site is None:
        return _logits(model, images)
    with _hooked(model, site, change) as calls:
        logits = _logits(model, images)
    if len(calls) != 1:
        raise ValueError(
            f"layer {site.name!r} of {model.name} is called {len(calls)} times in a forward: name a layer that is called "
            f"once, such as {' or '.join(model.layer_names[-2:])}."
        )
    return logits


@contextmanager
def evaluating(*models: Backbone | None) -> Iterator[None]:
    """Eval mode during the block; every module is put back as it was."""
    before = [(module, module.training) for model in models if model is not None for module in model.modules()]
    for module, _ in before:
        module.training = False
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def placed(model: Backbone, images: Tensor) -> Tensor:
    """`images` with the device and type of the model's weights, normalised as these want them."""
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    return model.prepared(images if like is None else images.to(like.device, like.dtype))


def as_classes(targets: Tensor, classes: int) -> Tensor:
    """`targets`, refused where they are not classes 0 … K − 1, or −1 for unlabelled."""
    if targets.is_floating_point() or targets.is_complex() or int(targets.min()) < -1 or int(targets.max()) >= classes:
        raise ValueError(
            f"targets expects classes 0 to {classes - 1}, or −1 for unlabelled, as integers; got {targets.dtype} from "
            f"{targets.min().item()} to {targets.max().item()}."
        )
    return targets


def short_name(model: Backbone) -> str:
    """The model's name; of a folder's path its last two parts."""
    path = PurePath(model.name)
    return "/".join(path.parts[-2:]) if path.is_absolute() else model.name


def rebuilt(bands: SubBands, values: Sequence[Tensor]) -> SubBands:
    """The same tree with `values` in the order of `bands.items()`."""
    return bands.replaced(values[0], [Detail(*values[i : i + 3]) for i in range(1, len(values), 3)])


@contextmanager
def _hooked(model: Backbone, site: Site, change: Callable[[Tensor], Tensor]) -> Iterator[list[str]]:
    calls: list[str] = []

    def before(_module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        calls.append(site.name)
        return (site.written(inputs[0], change(inputs[0])), *inputs[1:])

    def after(_module: Any, _inputs: Any, output: Any) -> Any:
        calls.append(site.name)
        return site.written(output, change(site.read(output)))

    if site.name == INPUT:
        handle = model.model.register_forward_pre_hook(before)
    else:
        handle = model.model.get_submodule(site.name).register_forward_hook(after)
    try:
        yield calls
    finally:
        handle.remove()


def _logits(model: Backbone, images: Tensor) -> Tensor:
    return _first(model.model(images))


def _site(name: str, output: Any, feature: Tensor, model: str) -> Site:
    x = _first(output)
    for site in _candidates(name, x, _grid(feature)):
        found = site.read(x)
        if found.shape == feature.shape and torch.allclose(found, feature, equal_nan=True):
            return site
    came = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
    raise ValueError(
        f"layer {name!r} of {model}: expected a module that gives the map {tuple(feature.shape)} itself, as [B, C, H, W], "
        f"[B, H, W, C] or tokens [B, N, C], got {came} with other values or in another order: name another layer."
    )


def _candidates(name: str, x: Any, grid: tuple[int, int]) -> list[Site]:
    if not isinstance(x, Tensor):
        return []
    if x.ndim == 3:
        prefix = x.shape[1] - grid[0] * grid[1]
        return [Site(name, "tokens", grid, prefix)] if prefix >= 0 else []
    return [Site(name, "NCHW", grid), Site(name, "NHWC", grid)] if x.ndim == 4 else []


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, (tuple, list)) else output


def _grid(x: Tensor) -> tuple[int, int]:
    return int(x.shape[-2]), int(x.shape[-1])
