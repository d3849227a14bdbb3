"""How time and memory grow: benchmarks/results/growth.csv, for docs/performance.md. Part of `make bench`.

Training: SFKD's feature terms of one layer pair, forward and backward; memory is what backward keeps. Analysis: the
streaming measures of `analyze` on random images, each in a process of its own; memory is how far its peak rises above that
of a short analysis.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import sfkd_viz
from sfkd import Backbone
from sfkd.distillers.sfkd import SpatialFrequencyLayer
from sfkd.dry_run import kept_for_backward
from sfkd.features import Layer
from sfkd.losses import band_loss, gaussian_frequency_loss
from sfkd.runs import write_atomically

TABLE = Path(__file__).parent / "results" / "growth.csv"


class Curve(NamedTuple):
    """What grows, against what, the values tried."""

    what: str
    against: str
    values: tuple[int, ...]


TERMS = (
    Curve("feature terms of a layer", "side of the map", (8, 16, 32, 64, 128)),
    Curve("feature terms of a layer", "channels", (16, 32, 64, 128, 256)),
    Curve("feature terms of a layer", "levels", (1, 2, 3, 4)),
    Curve("feature terms of a layer", "batch", (4, 8, 16, 32)),
)
ANALYSIS = (
    Curve("analyze", "images", (500, 1000, 2000, 4000, 8000)),
    Curve("analyze", "side of the image", (32, 64, 128)),
    Curve("analyze", "layers of each model", (1, 2, 4, 8)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    child = parser.parse_args().child
    torch.set_num_threads(1)
    if child:
        print(json.dumps(_analysis(**json.loads(child))))
        return
    rows = pd.DataFrame([*_of_terms(), *_of_analysis()])
    write_atomically(TABLE, rows.to_csv(index=False))


def _of_terms() -> Iterator[dict[str, Any]]:
    names = {"side of the map": "side", "channels": "channels", "levels": "levels", "batch": "batch"}
    for curve in TERMS:
        for value in curve.values:
            yield _row(curve, value, *_terms(**{names[curve.against]: value}))


def _terms(*, side: int = 32, channels: int = 64, levels: int = 2, batch: int = 8) -> tuple[float, float]:
    """Seconds of forward and backward, MB that backward keeps."""
    torch.manual_seed(0)
    layer = SpatialFrequencyLayer(
        Layer("student", channels, (side, side), 4.0),
        Layer("teacher", channels, (side, side), 4.0),
        width=channels,
        normalized=False,
        wavelet="haar",
        levels=levels,
        mode="symmetric",
        ds2s="full",
    ).train()
    student = torch.randn(batch, channels, side, side, requires_grad=True)
    teacher = torch.randn(batch, channels, side, side)
    kept: dict[int, int] = {}

    def loss() -> Tensor:
        view = layer(student, teacher)
        return band_loss(view.stages.across, view.target) + gaussian_frequency_loss(view.refined, view.teacher)

    with kept_for_backward(kept, layer):
        loss().backward()
    return _seconds(lambda: loss().backward()), sum(kept.values()) / 1e6


def _seconds(call: Any) -> float:
    """Median of at least five calls and a second."""
    call()
    times: list[float] = []
    while len(times) < 5 or sum(times) < 1:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _of_analysis() -> Iterator[dict[str, Any]]:
    names = {"images": "images", "side of the image": "side", "layers of each model": "layers"}
    for curve in ANALYSIS:
        for value in curve.values:
            asked = json.dumps({names[curve.against]: value})
            found = subprocess.run(
                [sys.executable, __file__, "--child", asked], capture_output=True, text=True, check=True
            )
            yield _row(curve, value, *json.loads(found.stdout))


def _analysis(*, images: int = 1000, side: int = 32, layers: int = 4) -> tuple[float, float]:
    """Seconds of the measures (the forwards left out), and MB of this process's peak beyond what it began with."""
    torch.manual_seed(0)
    kwargs = {"img_size": side, "patch_size": 4, "embed_dim": 32, "depth": 8, "num_heads": 2}
    blocks = [f"blocks.{number}" for number in np.linspace(0, 7, layers).round().astype(int)]
    teacher, student = (
        Backbone("vit_tiny_patch16_224", in_chans=1, num_classes=10, layers=blocks, **kwargs).eval() for _ in range(2)
    )

    def batches(count: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        for _ in range(0, count, 50):
            yield torch.randn(50, 1, side, side, generator=generator), torch.zeros(50, dtype=torch.long)

    sfkd_viz.analyze(teacher, student, batches(300), progress=False)  # imports, caches
    before = _peak()
    began = time.perf_counter()
    sfkd_viz.analyze(teacher, student, batches(images), progress=False)
    whole = time.perf_counter() - began
    began = time.perf_counter()
    with torch.no_grad():
        for some, _ in batches(images):
            for model in (teacher, student):
                model.model(some)
    return whole - (time.perf_counter() - began), _peak() - before


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _row(curve: Curve, value: int, seconds: float, megabytes: float) -> dict[str, Any]:
    found = {"what": curve.what, "against": curve.against, "value": value}
    print(f"{curve.what}, {curve.against} {value}: {1000 * seconds:.1f} ms, {megabytes:.1f} MB", flush=True)
    return found | {"ms": f"{1000 * seconds:.2f}", "MB": f"{megabytes:.2f}"}


if __name__ == "__main__":
    main()
