"""Reckon what the recipes at paper scale would take, from counted FLOPs and bytes: make scale writes docs/scale.md.

Counts one training step of each recipe on the CPU, for KD and for SFKD. Everything else on the
page is arithmetic with the assumptions that it states.
"""

from __future__ import annotations

import dataclasses
import io
import time
from pathlib import Path
from typing import Any, NamedTuple

import skimage.data
import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from sfkd.config import Method, Recipe, load_recipe
from sfkd.distillers import distiller_options
from sfkd.loading import build_distiller, build_model
from sfkd.runs import write_atomically
from sfkd.transforms import train_transform

ROOT = Path(__file__).parent.parent
RECIPES = ("cifar100_cnn", "cifar100_vit", "imagenet_cnn", "imagenet_vit")
SAMPLES = {"torch/cifar100": 50_000, "torch/imagenet": 1_281_167}
IMAGES = 8


class Card(NamedTuple):
    """A GPU: dense bf16 FLOP/s and bytes/s of its data sheet, bytes/s to its neighbours and between nodes of eight."""

    flops: float
    memory: float
    inside: float
    between: float


CARDS = {
    "A100 80 GB": Card(312e12, 2.0e12, 300e9, 25e9),
    "H100 SXM": Card(989e12, 3.35e12, 450e9, 50e9),
}
FLOPS_REACHED, BYTES_REACHED, LINK_REACHED = 0.35, 0.6, 0.7
COUNTS = (1, 8, 64)


class Cost(NamedTuple):
    """Of a step, an image: FLOPs, bytes read and written by all kernels, unfused; parameters that are trained."""

    flops: float
    moved: float
    trained: int


class _Bytes(TorchDispatchMode):
    """Sums the bytes of every tensor that a kernel reads or writes; views cost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
            self.total += sum(x.numel() * x.element_size() for x in tensors)
        return result


def main() -> None:
    costs = {}
    for name in RECIPES:
        recipe = load_recipe(ROOT / "configs" / f"{name}.yaml")
        for method in ("kd", "sfkd"):
            costs[name, method] = _counted(recipe, method)
            print(name, method, costs[name, method])
    write_atomically(ROOT / "docs" / "scale.md", page(costs, _loading()))


def _counted(recipe: Recipe, method: str) -> Cost:
    """Count a step in float32 and halve its bytes, as bf16 would; the loss's float32 part is counted too small by it."""
    options = {} if "num_samples" not in distiller_options(method) else {"num_samples": 2 * IMAGES}
    recipe = dataclasses.replace(recipe, method=Method(name=method, options=options))
    models = [dataclasses.replace(m, pretrained=False) for m in (recipe.student, recipe.teacher) if m is not None]
    student, teacher = (build_model(model, recipe) for model in models)
    distiller = build_distiller(recipe, student, teacher).train()
    images = torch.randn(IMAGES, *recipe.data.input_size)
    targets = torch.arange(IMAGES)
    with FlopCounterMode(display=False) as flops, _Bytes() as moved:
        distiller(images, targets, targets).loss.backward()
    trained = sum(p.numel() for p in distiller.parameters() if p.requires_grad)
    return Cost(flops.get_total_flops() / IMAGES, moved.total / 2 / IMAGES, trained)


# -- page -------------------------------------------------------------------------------------------------------------


def page(costs: dict[tuple[str, str], Cost], loading: float) -> str:
    """The document."""
    lines, hours = [], []
    for name in RECIPES:
        recipe = load_recipe(ROOT / "configs" / f"{name}.yaml")
        kd, sfkd = costs[name, "kd"], costs[name, "sfkd"]
        lines.append(
            f"| {name} | {_models(recipe)} | {kd.flops / 1e9:.1f} | {sfkd.flops / 1e9:.1f} ({sfkd.flops / kd.flops:.3f}) "
            f"| {kd.moved / 1e9:.2f} | {sfkd.moved / 1e9:.2f} ({sfkd.moved / kd.moved:.2f}) | {sfkd.trained / 1e6:.1f} M |"
        )
        for card_name, card in CARDS.items():
            cells = [_hours(recipe, kd, sfkd, card, count) for count in COUNTS]
            hours.append(f"| {name} | {card_name} | " + " | ".join(cells) + " |")
    return f"""# At paper scale

Nobody has trained these recipes with this code: there was no GPU. This page reckons what they would take.
`make scale` (`benchmarks/scale.py`) counts one step of each on the CPU and writes it.

## Counted

Of a training step, forward and backward, an image. FLOPs are those of matrix products and convolutions (a multiply-add is
two); bytes are those of every tensor that a kernel reads or writes, at two bytes a number, nothing fused: an upper bound of
the traffic, which `engine.compile` lowers.

| recipe | pair | GFLOP, KD | GFLOP, SFKD (over KD) | GB, KD | GB, SFKD (over KD) | trained parameters |
|-|-|-|-|-|-|-|
{chr(10).join(lines)}

## Reckoned

Hours of a whole run, KD → SFKD, tests and start left out:

| recipe | card | {" | ".join(f"{n} GPU" + "s" * (n > 1) for n in COUNTS)} |
|-|-|{"-|" * len(COUNTS)}
{chr(10).join(hours)}

A step takes the longer of arithmetic and traffic, and then the exchange of gradients, not overlapped:

    step = max(FLOPs / (a · peak), bytes / (b · bandwidth)) + 2 · 4 · P · (n − 1) / n / (c · link)

with the batch of the recipe on each GPU, and P trained parameters whose float32 gradients n GPUs reduce in a ring. Of the
data sheets:

| card | bf16, dense | memory | between the GPUs of a node | between nodes of eight, a GPU |
|-|-|-|-|-|
{chr(10).join(_sheet(name, card) for name, card in CARDS.items())}

The shares that are reached, a = {FLOPS_REACHED:g}, b = {BYTES_REACHED:g} and c = {LINK_REACHED:g}, are **assumptions**:
usual for such models with channels-last, not measured here. Traffic, not arithmetic, rules {_ruled(costs)} of
these steps: what SFKD adds are small operations on large maps, so `engine.compile` is worth trying first.

Not in it: reading images. An H100 would take {_images_per_second(costs)} images/s; one core of the machine that wrote this
page decodes and augments {loading:.0f} JPEGs of 500×375 a second. So it is the loading of data that limits these students:
count cores, or keep a smaller copy.

On more GPUs the global batch grows with n. The published schedules were made for 8 GPUs (a global batch of
{_published_batch()} in `imagenet_cnn`): set `schedule.accumulate` or the lr anew for other numbers; every run prints both.
"""


def _hours(recipe: Recipe, kd: Cost, sfkd: Cost, card: Card, count: int) -> str:
    batch, images = recipe.schedule.batch_size, SAMPLES[recipe.data.name] * recipe.schedule.epochs
    hours = [_step(cost, card, batch, count) * images / (batch * count) / 3600 for cost in (kd, sfkd)]
    return f"{hours[0]:.2g} → {hours[1]:.2g}"


def _ruled(costs: dict[tuple[str, str], Cost]) -> str:
    steps = [_alone(cost, card) for cost in costs.values() for card in CARDS.values()]
    return f"{sum(traffic > arithmetic for arithmetic, traffic in steps)} of {len(steps)}"


def _alone(cost: Cost, card: Card) -> tuple[float, float]:
    """Seconds an image of arithmetic and of traffic."""
    return cost.flops / (FLOPS_REACHED * card.flops), cost.moved / (BYTES_REACHED * card.memory)


def _step(cost: Cost, card: Card, batch: int, count: int) -> float:
    """Seconds of a step on each of so many GPUs."""
    here = batch * max(_alone(cost, card))
    link = card.inside if count <= 8 else card.between
    return here + 2 * 4 * cost.trained * (count - 1) / count / (LINK_REACHED * link)


def _models(recipe: Recipe) -> str:
    assert recipe.teacher is not None
    return f"{recipe.teacher.name.partition('.')[0]} → {recipe.student.name}"


def _sheet(name: str, card: Card) -> str:
    inside, between = (f"{speed / 1e9:.0f} GB/s" for speed in (card.inside, card.between))
    return f"| {name} | {card.flops / 1e12:.0f} TFLOP/s | {card.memory / 1e12:.2f} TB/s | {inside} | {between} |"


def _images_per_second(costs: dict[tuple[str, str], Cost]) -> str:
    speeds = [
        1 / _step(costs[name, "sfkd"], CARDS["H100 SXM"], recipe.schedule.batch_size, 1) * recipe.schedule.batch_size
        for name in RECIPES
        for recipe in [load_recipe(ROOT / "configs" / f"{name}.yaml")]
    ]
    return f"{min(speeds):,.0f}–{max(speeds):,.0f}"


def _published_batch() -> int:
    return 8 * load_recipe(ROOT / "configs" / "imagenet_cnn.yaml").schedule.batch_size


def _loading() -> float:
    """JPEGs of 500×375, ImageNet's usual size, that one core decodes and augments in a second."""
    file = io.BytesIO()
    Image.fromarray(skimage.data.coffee()).resize((500, 375)).save(file, "JPEG", quality=90)
    recipe = load_recipe(ROOT / "configs" / "imagenet_cnn.yaml")
    transform, count = train_transform(recipe.data), 200
    began = time.perf_counter()
    for _ in range(count):
        file.seek(0)
        transform(Image.open(file).convert("RGB"))
    return count / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
