"""Features and the slow measures of a pair, computed once for all visitors and kept within bounds."""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from cache import Cache
from messages import UserError
from pairs import Pair
from pictures import Pictures
from settings import Settings
from threads import ALL, threads
from torch import Tensor
from work import Work

import sfkd_viz
from sfkd import Backbone
from sfkd.features import Output
from sfkd.loading import DEMO, load_pictures, model_transform
from sfkd_viz.analysis import Analysis
from sfkd_viz.measures.refinement import Refinement, refinement_of

FORWARD = 32
MOST_BYTES = 2**30  # of one model's features
FEWEST_IMAGES = 16  # alignment and ablation of fewer say nothing
ALL_SAMPLES = len(load_pictures().images)
ABLATED = 120  # a forward of each image for every band and layer
SAMPLES_BYTES = 2**27  # of one model's features, where nobody said of how many images
STEPS = 64


class Measured:
    """What has been computed: outputs by model and picture, results by what they were measured on."""

    def __init__(self, pictures: Pictures, device: str) -> None:
        self.pictures, self.device = pictures, device
        self._outputs: Cache[Output] = Cache(2 * MOST_BYTES, _bytes)
        self._results: Cache[Any] = Cache(2**28, _bytes)
        self._computing = threading.Lock()  # some models are captured by hooks, which two forwards would share
        self._slow = threading.Lock()

    def images(self, model: Backbone, source: str) -> Tensor:
        """Pictures of a source as a model wants them, on its device."""
        transform = model_transform(model)
        return torch.stack([transform(picture) for picture in self.pictures.of(source)]).to(self.device)

    def output(self, pair: Pair, role: str, source: str, work: Work) -> Output:
        """Logits and features of one model of a pair on a source."""
        return self._outputs.get_or(
            (pair.content, role, source), lambda: self._forward(pair, role, source, work), work.go_on
        )

    def _forward(self, pair: Pair, role: str, source: str, work: Work) -> Output:
        model, name = pair.models[role], pair.names[role]
        images = self.images(model, source)
        parts: list[Output] = []
        for number, some in enumerate(images.split(FORWARD)):
            work.at(f"Features of the {name}", number * FORWARD / len(images))
            with self._computing, threads(ALL), torch.no_grad():
                found = model(some)
            parts.append(Output(found.logits.cpu(), {layer: f.cpu() for layer, f in found.features.items()}))
            if _bytes(parts[0]) * len(images) > MOST_BYTES * len(some):
                raise UserError(f"The features of {len(images)} images of {name} fill over 1 GiB: choose fewer images.")
        features = {layer: torch.cat([p.features[layer] for p in parts]) for layer in parts[0].features}
        return Output(torch.cat([p.logits for p in parts]), features)

    def many(self, pair: Pair, source: str, work: Work, most: int = ALL_SAMPLES) -> str:
        """The source where it is images enough, else that of the first samples: `most`, fewer where the maps are large."""
        kind, _, number = source.partition(":")
        if kind == "mean" and int(number) >= FEWEST_IMAGES:
            return source
        one = max(_bytes(self.output(pair, role, "test:0", work)) for role in pair.models)
        return f"mean:{min(max(SAMPLES_BYTES // one, FEWEST_IMAGES), most)}"

    def maps(self, pair: Pair, source: str, layer: str, work: Work) -> dict[str, Tensor]:
        """Name in figures → maps of a layer pair, of every model."""
        return {
            f"{name} · {pair.layer_of(role, layer)}": self.output(pair, role, source, work).features[
                pair.layer_of(role, layer)
            ]
            for role, name in pair.names.items()
        }

    def refinement(self, pair: Pair, source: str, layer: str, channel: Any, work: Work) -> Refinement:
        """DS2S of a layer pair on a source."""
        student, teacher = (
            self.output(pair, role, source, work).features[pair.layer_of(role, layer)]
            for role in ("student", "teacher")
        )
        joint = pair.joints[layer]
        with self._computing, torch.no_grad():
            view = joint.module(student.to(self.device), teacher.to(self.device))
        return refinement_of(
            view,
            student_layer=pair.layer_of("student", layer),
            teacher_layer=pair.layer_of("teacher", layer),
            trained=joint.own and not joint.module.refine.is_identity(),
            asked_levels=joint.asked_levels,
            channel=channel,
        )

    def alignment(self, pair: Pair, source: str, settings: Settings, work: Work) -> Any:
        """`Transfer` where there is a student trained alone, else the `CKA` of teacher and student."""

        bands: dict[str, Any] = {"wavelet": settings.wavelet, "levels": settings.levels}

        def measure() -> Any:
            features = {role: self.output(pair, role, source, work).features for role in pair.models}
            options = {**bands, "block_size": block_of(source)}
            with work.turn(self._slow), threads(ALL):
                work.at("Alignment of all layers and bands")
                if "alone" not in features:
                    names = ("teacher", "student")
                    return sfkd_viz.cka(*(features[name] for name in names), names=names, **options)
                return sfkd_viz.transfer(features["teacher"], features["student"], features["alone"], **options)

        return self._results.get_or(("alignment", pair.content, source, *bands.values()), measure, work.go_on)

    def ablation(self, pair: Pair, source: str, settings: Settings, work: Work) -> Any:
        """`BandAblation` of one model; of a student with the teacher as reference, where both know the classes."""
        role, levels = settings.model, settings.levels
        bands: dict[str, Any] = {"wavelet": settings.wavelet, "levels": levels}
        reference = pair.models["teacher"] if role != "teacher" and pair.labelled else None

        def measure() -> Any:
            model = pair.models[role]
            images, targets = self.images(model, source), targets_of(pair, source)
            batches = list(zip(images.split(FORWARD), targets.split(FORWARD), strict=True))
            forwards = len(batches) * (1 + (len(model.layer_names) + 1) * (3 * levels + 1))
            words = f"Ablation of the {pair.names[role]}: every band of every layer on {len(images)} images"
            with work.turn(self._slow), self._own(model, work, words, forwards) as own:
                return sfkd_viz.band_ablation(own, batches, reference=copy.deepcopy(reference), **bands)

        return self._results.get_or(("ablation", pair.content, role, source, *bands.values()), measure, work.go_on)

    def attribution(self, pair: Pair, layer: str, settings: Settings, work: Work) -> Any:
        """`WaveletAttribution` of the first image, for the model's own answer."""
        role, source = settings.model, settings.image
        bands: dict[str, Any] = {"wavelet": settings.wavelet, "levels": settings.levels}

        def measure() -> Any:
            image = self.images(pair.models[role], source)[:1]
            words, forwards = f"Attribution of the {pair.names[role]} to the bands of {layer}", -(-STEPS // FORWARD) + 5
            with work.turn(self._slow), self._own(pair.models[role], work, words, forwards) as own:
                return sfkd_viz.wavelet_attribution(own, image, layer=layer, steps=STEPS, batch_size=FORWARD, **bands)

        key = ("attribution", pair.content, role, source, layer, *bands.values())
        return self._results.get_or(key, measure, work.go_on)

    @contextmanager
    def _own(self, model: Backbone, work: Work, words: str, forwards: int) -> Iterator[Backbone]:
        """A copy that tells `work` of each of its forwards: measures that hook a model disturb its other users."""
        with self._computing:  # no copy of a hook that a forward has set for itself
            own = copy.deepcopy(model)
        done = 0

        def tell(*_: object) -> None:
            nonlocal done
            work.at(words, min(done / forwards, 1.0))
            done += 1

        own.model.register_forward_pre_hook(tell)
        with threads(ALL):
            yield own

    def stored(self, pair: Pair) -> Analysis | None:
        """What `sfkd analyze` left in the run's folder."""
        path = analysis_of(pair)
        if path is None or not path.is_file():
            return None
        key = ("stored", pair.content, path.stat().st_mtime_ns)
        return self._results.get_or(key, lambda: sfkd_viz.load_analysis(path))


def analysis_of(pair: Pair) -> Any:
    """Where `sfkd analyze` leaves what it found on a run; None for models without one."""
    return None if pair.run is None else (pair.folder or DEMO) / "analysis" / "analysis.json"


def block_of(source: str) -> int:
    """Images a block of the alignment: a tenth of them, 8 at least, so that a few hundred give an interval.

    Our choice; `sfkd analyze` takes 256 on thousands.
    """
    return min(max(int(source.partition(":")[2]) // 10, 8), 256)


def targets_of(pair: Pair, source: str) -> Tensor:
    """Labels of sample images, −1 where they are no classes of the pair."""
    count = int(source.partition(":")[2])
    return torch.tensor(load_pictures().labels[:count]) if pair.labelled else torch.full((count,), -1)


def _bytes(value: Any) -> int:
    """Bytes of the arrays in a result, however nested."""
    if isinstance(value, Tensor | np.ndarray):
        return int(value.nbytes)
    if isinstance(value, dict):
        return sum(_bytes(v) for v in value.values())
    if isinstance(value, tuple | list):
        return sum(_bytes(v) for v in value)
    if is_dataclass(value):
        return sum(_bytes(getattr(value, f.name)) for f in fields(value))
    return sys.getsizeof(value)
