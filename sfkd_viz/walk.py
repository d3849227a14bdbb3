"""One walk over a data set for `analyze`: images in fixed blocks, sums per layer, on one process or on many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfkd.features import Backbone
from sfkd.wavelet import Mode
from sfkd_viz.measures.blocks import BLOCK, HSICStream
from sfkd_viz.measures.cka import CKA, cka_of
from sfkd_viz.measures.inputs import WORDS, check_finite
from sfkd_viz.measures.spectrum import Spectrum
from sfkd_viz.measures.subbands import BandEnergy
from sfkd_viz.measures.sums import LayerSums

# images and pixels a forward, so that the loader's batch size cannot change a rounding; in a larger one a processor's cache
# no longer holds what a layer makes (Swin-T at 224 pixels takes a fifth longer by 64 images than by 16)
_IMAGES, _PIXELS = 64, 2**20
_ALIGNED = {"cka", "transfer"}


def at_once(images: Tensor) -> int:
    """How many of images `[N, C, H, W]` go through a model at once."""
    return max(1, min(_IMAGES, _PIXELS // (images.shape[-2] * images.shape[-1])))


class Walk:
    """The sums of one pass; a block of images is counted when it is done, never in part.

    Args:
        models: role → model, in eval mode; the teacher first.
        wanted: names of measures. keep: how many images to keep, with their targets, in `kept`.
        wavelet, levels, mode: of `sfkd.decompose`.
    """

    def __init__(
        self, models: dict[str, Backbone], wanted: Sequence[str], *, keep: int, wavelet: str, levels: int, mode: Mode
    ) -> None:
        self.models, self.wanted, self.keep = models, set(wanted), keep
        self.decomposing: dict[str, Any] = {"wavelet": wavelet, "levels": levels, "mode": mode}
        self.pairs = [("teacher", role) for role in models if role != "teacher"]
        self.stream = HSICStream(self.pairs, **self.decomposing)
        self.images = 0
        self.kept: tuple[Tensor, Tensor] | None = None
        self._blocks = 0
        self._sums: dict[tuple[str, str], LayerSums] = {}  # of the block under way
        self._power: dict[tuple[str, str], np.ndarray] = {}  # (role, layer) → sum over images
        self._energy: dict[tuple[str, str], np.ndarray] = {}
        self._bands: dict[tuple[str, str], list[str]] = {}
        self._channels: dict[tuple[str, str], int] = {}
        self._rank, self._processes = _place()

    def run(
        self, loader: Iterable[Any], *, max_images: int | None, progress: bool, stop: Callable[[], bool] | None
    ) -> bool:
        """Walk the loader once; whether its end, or `max_images`, was reached."""
        from tqdm import tqdm

        self._refuse_sharded(loader)
        total, complete = _total(loader, max_images), True
        with tqdm(total=total, unit="image", desc="analyze", disable=not progress or self._rank != 0) as bar:
            try:
                for number, (images, targets) in enumerate(_in_blocks(loader, max_images)):
                    if stop is not None and number % self._processes == 0 and self._any(stop()):
                        complete = False
                        break
                    if number % self._processes == self._rank:
                        self._measure(images)
                    elif not self._channels:  # shapes, should no block come to this process
                        self._look(images[:1])
                    self._keep(images, targets)
                    self.images, self._blocks = self.images + len(images), self._blocks + 1
                    bar.update(len(images))
            except KeyboardInterrupt:
                if self._processes > 1 or not self._blocks:
                    raise
                complete = False
        if not self._blocks:
            raise ValueError("analyze saw no images: the loader gave none, or it was stopped before the first block.")
        if self._processes > 1:
            self._gather()
        return complete

    def alignment(self) -> dict[str, CKA]:
        """CKA of the teacher with each other model, by role."""
        if not self.wanted & _ALIGNED:
            return {}
        return {
            role: cka_of(self.stream, (teacher, role), names=(WORDS[teacher], WORDS[role]))
            for teacher, role in self.pairs
        }

    def spectra(self) -> dict[str, dict[str, Spectrum]]:
        """Mean spectra by role and layer."""
        found: dict[str, dict[str, Spectrum]] = {}
        for (role, layer), total in self._power.items():
            found.setdefault(role, {})[layer] = Spectrum(total / self.images, self.images, self._channels[role, layer])
        return found

    def energies(self) -> dict[str, dict[str, BandEnergy]]:
        """Mean band energies by role and layer."""
        found: dict[str, dict[str, BandEnergy]] = {}
        for (role, layer), totals in self._energy.items():
            bands = self._bands[role, layer]
            energy = dict(zip(bands, (totals / self.images).tolist(), strict=True))
            share = dict(zip(bands, (totals / (totals.sum() or 1.0)).tolist(), strict=True))
            levels = int(bands[0].removeprefix("A"))
            found.setdefault(role, {})[layer] = BandEnergy(energy, share, self.decomposing["wavelet"], levels)
        return found

    @torch.no_grad()
    def _measure(self, images: Tensor) -> None:
        self._sums = {}
        aligned = bool(self.wanted & _ALIGNED)
        for some in images.split(at_once(images)):
            features = self._features(some)
            named = {(role, layer): x for role, maps in features.items() for layer, x in maps.items()}
            self._sums = self._sums or {key: self._empty(x) for key, x in named.items()}
            if aligned:
                self.stream.update(features, self._seen)
            for key, x in named.items():
                self._sums[key].add_power(x)
                if not (aligned and self.stream.compares_own_grid(key)):
                    self._sums[key].add_energy(x)
        self.stream.flush()
        self._count(self._sums)

    def _seen(self, key: tuple[str, str], bands: dict[str, Tensor]) -> None:
        """The bands of a layer that meets another on its own grid: they need not be computed again for their energies."""
        self._sums[key].add_bands(bands)

    def _features(self, images: Tensor) -> dict[str, dict[str, Tensor]]:
        features = {}
        for role, model in self.models.items():
            like = next((p for p in model.parameters() if p.is_floating_point()), images)
            maps = model(images.to(like.device, like.dtype)).features
            for layer, x in maps.items():
                if not self.wanted & _ALIGNED:  # else the stream looks
                    check_finite(role, layer, x)
                self._channels[role, layer] = x.shape[1]
            features[role] = {layer: x.float().contiguous() for layer, x in maps.items()}
        return features

    def _empty(self, x: Tensor) -> LayerSums:
        return LayerSums(x, power="spectrum" in self.wanted, energy="band_energy" in self.wanted, **self.decomposing)

    def _count(self, sums: dict[tuple[str, str], LayerSums]) -> None:
        for key, found in sums.items():
            power, energy = found.power, found.energy
            if power is not None:
                self._power[key] = self._power.get(key, 0.0) + power
            if energy:
                self._energy[key] = self._energy.get(key, 0.0) + np.array(list(energy.values()))
                self._bands[key] = list(energy)

    @torch.no_grad()
    def _look(self, image: Tensor) -> None:
        features = self._features(image)
        self.stream.look(features)
        self._count({(role, layer): self._empty(x) for role, maps in features.items() for layer, x in maps.items()})

    def _keep(self, images: Tensor, targets: Tensor) -> None:
        have = 0 if self.kept is None else len(self.kept[0])
        if have < self.keep:
            new = images[: self.keep - have].clone(), targets[: self.keep - have].clone()
            self.kept = (
                new if self.kept is None else (torch.cat([self.kept[0], new[0]]), torch.cat([self.kept[1], new[1]]))
            )

    def _gather(self) -> None:
        """Replace this process's sums by those of all."""
        for table in (self._power, self._energy):
            for key in table:
                table[key] = _summed(table[key])
        if self.wanted & _ALIGNED:
            self.stream.merge(self._blocks, self._rank, self._processes, _summed)

    def _any(self, said: bool) -> bool:
        return said if self._processes == 1 else bool(_summed(np.array([float(said)]))[0] > 0)

    def _refuse_sharded(self, loader: Iterable[Any]) -> None:
        if self._processes == 1:
            return
        from accelerate.data_loader import DataLoaderDispatcher, DataLoaderShard
        from torch.utils.data import DistributedSampler

        sharded = isinstance(loader, (DataLoaderShard, DataLoaderDispatcher))
        if sharded or isinstance(getattr(loader, "sampler", None), DistributedSampler):
            raise ValueError(
                "on many processes analyze expects the whole loader on each, got one that is divided already: pass it as "
                "it was before accelerator.prepare, without a DistributedSampler."
            )


def _in_blocks(loader: Iterable[Any], max_images: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and targets in blocks of 256, whatever the batches."""
    held: list[tuple[Tensor, Tensor]] = []
    count, room = 0, float("inf") if max_images is None else max_images
    for batch in loader:
        images, targets = _checked(batch)
        images, targets = images[: int(min(room, len(images)))], targets[: int(min(room, len(images)))]
        room -= len(images)
        while len(images):
            taken = min(BLOCK - count, len(images))
            held.append((images[:taken], targets[:taken]))
            images, targets, count = images[taken:], targets[taken:], count + taken
            if count == BLOCK:
                yield _joined(held)
                held, count = [], 0
        if room <= 0:
            break
    if held:
        yield _joined(held)


def _checked(batch: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(batch, (tuple, list)) or len(batch) < 2 or not all(isinstance(x, Tensor) for x in batch[:2]):
        raise TypeError(f"the loader expects batches of (images, targets, …) as tensors, got {type(batch).__name__}.")
    images, targets = batch[0], batch[1]
    if images.ndim != 4 or len(images) != len(targets):
        raise ValueError(
            f"the loader expects images [B, C, H, W] with B targets, got {tuple(images.shape)} and {tuple(targets.shape)}."
        )
    return images, targets


def _joined(held: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    shapes = {tuple(images.shape[1:]) for images, _ in held}
    if len(shapes) > 1:
        raise ValueError(f"all images need one size, got {' and '.join(map(str, sorted(shapes)))}: resize them.")
    return torch.cat([images for images, _ in held]), torch.cat([targets for _, targets in held])


def _total(loader: Iterable[Any], max_images: int | None) -> int | None:
    """How many images there will be, where the loader knows."""
    try:
        known = len(loader.dataset)  # type: ignore[attr-defined]
    except (AttributeError, TypeError):
        return max_images
    return known if max_images is None else min(known, max_images)


def _place() -> tuple[int, int]:
    """Number of this process, and of all."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def _summed(values: np.ndarray) -> np.ndarray:
    """Sum over all processes, float64."""
    import torch.distributed as dist

    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    total = torch.as_tensor(values, dtype=torch.float64).clone().to(device)
    dist.all_reduce(total)
    return total.cpu().numpy()
