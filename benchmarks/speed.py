"""Measure what docs/performance.md claims: `make bench`; names of rows as arguments measure these again.

Every row is a ratio against a named floor or rival, both timed in turn in one process (`interleaved.py`), on one thread.
Results go to benchmarks/results/speed.csv, a row written when it is measured; the page is made from it.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import ptwt
import pywt
import torch
from interleaved import Ratio, ratio
from tables import read_rows, write_rows
from torch import Tensor

import sfkd_viz
from sfkd import Backbone, create_distiller, decompose, list_distillers, reconstruct
from sfkd.distillers import Distiller
from sfkd.dry_run import kept_for_backward
from sfkd.loading import DEMO, load_run
from sfkd.losses import gaussian_frequency_loss

TABLE = Path(__file__).parent / "results" / "speed.csv"
COLUMNS = (
    "row",
    "what",
    "floor",
    "target",
    "ratio",
    "low",
    "high",
    "ours_ms",
    "floor_ms",
    "parameters",
    "megabytes",
    "rounds",
    "machine",
    "commit",
)
PAIR = ("swin_tiny_patch4_window7_224", "resnet18")


class Missing(RuntimeError):
    """A rival that is not installed."""


@dataclass(frozen=True)
class Row:
    """What is measured against what; `target` is the ratio that it should not exceed."""

    what: str
    floor: str
    target: float | None
    measure: Callable[[], Ratio]
    weigh: Callable[[], tuple[int, float]] | None = None  # parameters beside the student, MB that backward keeps


def rows() -> dict[str, Row]:
    found = {}
    for method in [m for m in list_distillers() if m not in ("none", "kd")]:
        target = 1.10 if method == "sfkd" else None
        found[f"step-{method}"] = Row(
            f"{method} step", "KD step", target, partial(_step, method), partial(_weight, method)
        )
    found["step-kd"] = Row(
        "KD step",
        "student's own step",
        None,
        lambda: ratio(_stepper("kd"), _stepper("none"), seconds=60),
        partial(_weight, "kd"),
    )
    for variant, target in (("light", 1.08), ("full", None), ("off", None)):
        options = {"layers": None, "ds2s": variant}
        measure, weigh = partial(_step, "sfkd", **options), partial(_weight, "sfkd", **options)
        what = f"sfkd step, all stages, DS2S {variant}"
        found[f"step-sfkd-{variant}"] = Row(what, "KD step", target, measure, weigh)
    found["precomputed"] = Row("sfkd step, teacher's outputs at hand", "student's own step", 1.25, _precomputed)
    for name in (*PAIR, "deit_tiny_patch16_224"):
        found[f"features-{name.partition('_')[0]}"] = Row(
            f"maps of {name}", "plain forward", 1.03, partial(_features, name)
        )
    for shape in SHAPES:
        label, side = "×".join(map(str, shape)), shape[-1]
        for levels in (2, 3):
            what = f"Haar decompose, {levels} levels, {label}"
            for floor, short in FLOORS.items():
                target = None if floor == "a copy" else 0.35
                measure = partial(_decompose, shape, levels, floor)
                found[f"haar-{levels}-{side}{short}"] = Row(what, floor, target, measure)
        for floor, short in FLOORS.items():
            target = None if floor == "a copy" else 0.35
            what = f"Haar reconstruct, 2 levels, {label}"
            found[f"haar-back-{side}{short}"] = Row(what, floor, target, partial(_reconstruct, shape, floor))
        what = f"GFFL forward and backward, {label}"
        found[f"gffl-{side}"] = Row(what, "rfft2 of both maps", 1.5, partial(_gffl, shape))
    found["analyze"] = Row("analyze, bundled pair, 2,000 images", "the two bare forwards", 1.20, _analyze_bundled)
    found["analyze-224"] = Row(
        "analyze, Swin-T and ResNet18, 256 images", "the two bare forwards", 1.20, _analyze_large
    )
    found["cka"] = Row("CKA of all layer pairs, 2,000 images", "full Gram matrices in float64", 0.5, _cka)
    found["import"] = Row("import sfkd_viz and torch", "import torch", 1.1, _import)
    return found


SHAPES = ((32, 64, 56, 56), (32, 256, 16, 16))
FLOORS = {"ptwt": "", "pytorch_wavelets": "-pw", "a copy": "-copy"}


# -- training steps ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 3, 224, 224, generator=generator), torch.arange(8), torch.arange(8)


def _distiller(method: str, **options: Any) -> Distiller:
    torch.manual_seed(0)
    teacher, student = (Backbone(name, num_classes=100) for name in PAIR)
    if method == "crd":
        options["num_samples"] = 50_000
    return create_distiller(method, student=student, teacher=teacher, **options).train()


def _stepper(method: str, *, fed: bool = False, **options: Any) -> Callable[[], object]:
    distiller = _distiller(method, **options)
    optimizer = torch.optim.SGD([p for p in distiller.parameters() if p.requires_grad], lr=1e-3)
    outputs = None
    if fed:
        assert distiller.teacher is not None
        with torch.no_grad():
            outputs = distiller.teacher(_batch()[0])

    def step() -> None:
        result = distiller(*_batch(), outputs)
        optimizer.zero_grad(set_to_none=True)
        result.loss.backward()
        optimizer.step()

    return step


def _weight(method: str, **options: Any) -> tuple[int, float]:
    distiller = _distiller(method, **options)
    kept: dict[int, int] = {}
    with kept_for_backward(kept, distiller):
        distiller(*_batch())
    return distiller.count_parameters()["beside"], sum(kept.values()) / 1e6


def _step(method: str, **options: Any) -> Ratio:
    return ratio(_stepper(method, **options), _stepper("kd"), seconds=60)


def _precomputed() -> Ratio:
    return ratio(_stepper("sfkd", fed=True), _stepper("none"), seconds=60)


# -- features and transforms ------------------------------------------------------------------------------------------


@torch.no_grad()
def _features(name: str) -> Ratio:
    model, images = Backbone(name).eval(), _batch()[0]
    return ratio(lambda: model(images), lambda: model.model(images), seconds=40)


def _maps(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _decompose(shape: tuple[int, ...], levels: int, floor: str) -> Ratio:
    x = _maps(shape)
    if floor == "a copy":
        theirs: Callable[[], object] = x.clone
    elif floor == "ptwt":
        haar = pywt.Wavelet("haar")
        theirs = partial(ptwt.wavedec2, x, haar, level=levels, mode="symmetric")
    else:
        theirs = partial(_rival().DWTForward(J=levels, wave="haar", mode="symmetric"), x)
    return ratio(lambda: decompose(x, "haar", levels), theirs)


def _reconstruct(shape: tuple[int, ...], floor: str) -> Ratio:
    x = _maps(shape)
    bands = decompose(x, "haar", 2)
    if floor == "a copy":
        theirs: Callable[[], object] = x.clone
    elif floor == "ptwt":
        haar = pywt.Wavelet("haar")
        theirs = partial(ptwt.waverec2, ptwt.wavedec2(x, haar, level=2, mode="symmetric"), haar)
    else:
        transformed = _rival().DWTForward(J=2, wave="haar", mode="symmetric")(x)
        theirs = partial(_rival().DWTInverse(wave="haar", mode="symmetric"), transformed)
    return ratio(lambda: reconstruct(bands), theirs)


def _rival() -> Any:
    """pytorch_wavelets, which is no requirement of ours: 1.3.0 needs a setuptools that still has pkg_resources."""
    try:
        return import_module("pytorch_wavelets")
    except ImportError as error:
        raise Missing('pip install pytorch_wavelets "setuptools<81" to measure this row') from error


def _gffl(shape: tuple[int, ...]) -> Ratio:
    student, teacher = _maps(shape).requires_grad_(), _maps(shape, 1)

    def ours() -> None:
        student.grad = None
        gaussian_frequency_loss(student, teacher).backward()

    def floor() -> None:
        torch.fft.rfft2(student.detach(), norm="ortho")
        torch.fft.rfft2(teacher, norm="ortho")

    return ratio(ours, floor)


# -- analysis ---------------------------------------------------------------------------------------------------------


def _analyze_bundled() -> Ratio:
    run = load_run(DEMO)
    assert run.teacher is not None
    return _analyze(run.teacher, run.student, [_maps((100, 1, 32, 32), i) for i in range(20)])


def _analyze_large() -> Ratio:
    torch.manual_seed(0)
    teacher, student = (Backbone(name, num_classes=10).eval() for name in PAIR)
    return _analyze(teacher, student, [_maps((32, 3, 224, 224), i) for i in range(8)])


@torch.no_grad()
def _analyze(teacher: Backbone, student: Backbone, images: list[Tensor]) -> Ratio:
    batches = [(some, torch.zeros(len(some), dtype=torch.long)) for some in images]

    def ours() -> None:
        sfkd_viz.analyze(teacher, student, batches, progress=False)

    def floor() -> None:
        for some in images:
            for model in (teacher, student):
                model.model(some)

    return ratio(ours, floor, seconds=60, least=3)


def _cka() -> Ratio:
    """Maps of a small pair, so that 2,000 of each fit in memory for the floor."""
    shapes = {"a": (2000, 24, 16, 16), "b": (2000, 48, 8, 8), "c": (2000, 96, 4, 4)}
    one, other = (
        {name: _maps(shape, i + 3 * side) for i, (name, shape) in enumerate(shapes.items())} for side in range(2)
    )

    def floor() -> None:
        grams = [[_centred(x.double().flatten(1)) for x in side.values()] for side in (one, other)]
        for a in grams[0]:
            for b in grams[1]:
                float((a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt())

    return ratio(lambda: sfkd_viz.cka(one, other, levels=0), floor, seconds=60, least=5)


def _centred(x: Tensor) -> Tensor:
    gram = x @ x.T
    return gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()


def _import() -> Ratio:
    def run(code: str) -> None:
        subprocess.run([sys.executable, "-c", code], check=True)

    return ratio(lambda: run("import torch, sfkd_viz"), lambda: run("import torch"), seconds=60, least=9)


# -- table ------------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help="names of rows; default those that the table lacks")
    asked = parser.parse_args().rows
    torch.set_num_threads(1)
    known, todo = {row["row"]: row for row in read_rows(TABLE)}, rows()
    for name in asked or [name for name in todo if name not in known]:
        row = todo[name]
        try:
            found = row.measure()
        except Missing as missing:
            print(f"{name}: left out, {missing}", flush=True)
            continue
        known[name] = _cells(name, row, found)
        write_rows(TABLE, COLUMNS, [known[n] for n in todo if n in known])
        print(f"{name}: {found}", flush=True)


def _cells(name: str, row: Row, found: Ratio) -> dict[str, str]:
    numbers = (f"{found.median:.3f}", f"{found.low:.3f}", f"{found.high:.3f}", f"{1000 * found.ours:.2f}")
    parameters, megabytes = (f"{n:.0f}" for n in row.weigh()) if row.weigh else ("", "")
    rest = (f"{1000 * found.floor:.2f}", parameters, megabytes, str(found.rounds), _machine(), _commit())
    target = "" if row.target is None else f"{row.target:g}"
    return dict(zip(COLUMNS, (name, row.what, row.floor, target, *numbers, *rest), strict=True))


@lru_cache(maxsize=1)
def _machine() -> str:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return f"{names[0] if names else platform.machine()}, one thread of {os.cpu_count()}"


@lru_cache(maxsize=1)
def _commit() -> str:
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    main()
