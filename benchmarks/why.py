"""Fill benchmarks/results/why.csv: which bands moved under each method and what students lose without them, on the students
that the grid trained.

make why

Needs the run folders of the grid (`sfkd benchmark configs/benchmark/short.yaml`), which are not committed, and takes those
that are there. Resumable: a run's rows are written when they are measured. `make results` draws a part of docs/results.md
from the table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from tables import read_rows, write_rows

import sfkd_viz
from sfkd import Backbone, pair_layers
from sfkd.batches import EvaluationBatches
from sfkd.config import Model
from sfkd.loading import build_model, build_teacher
from sfkd.runs import RunFolder
from sfkd.study import Run, load_study, runs_of
from sfkd_viz.analysis import Measure
from sfkd_viz.measures.ablation import BandAblation

ROOT = Path(__file__).parent.parent
TABLE = Path(__file__).parent / "results" / "why.csv"
METHODS = ("kd", "fitnet", "ofa", "gffl", "sfkd")
# without, without_alone: change of top-1, points, where the band is taken from the student, and from the one trained alone
COLUMNS = (
    *("pair", "method", "seed", "student_layer", "teacher_layer", "band", "alone", "movement", "low", "high"),
    *("without", "without_alone", "gain"),
)
IMAGES = 2560  # ten blocks
ABLATED = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default=ROOT / "configs" / "benchmark" / "short.yaml")
    study, pairs = load_study(parser.parse_args().study)
    planned = {(run.pair, run.method, run.seed): run for run in runs_of(study, pairs) if not run.variant}
    rows = read_rows(TABLE)
    done = {(row["pair"], row["method"], row["seed"]) for row in rows}
    places = {(pair, method, str(seed)): place for place, (pair, method, seed) in enumerate(planned)}
    for (pair, method, seed), run in planned.items():
        alone = planned[pair, "none", seed]
        trained = all(RunFolder(r.recipe.out).finished for r in (run, alone))
        if method not in METHODS or (pair, method, str(seed)) in done or not trained:
            continue
        rows += _measured(run, alone)
        rows.sort(key=lambda row: places[row["pair"], row["method"], row["seed"]])
        write_rows(TABLE, COLUMNS, rows)
        print(f"{pair} {method} {seed}")


def _measured(run: Run, alone: Run) -> list[dict[str, str]]:
    """Movement of every band at the layers that meet, what the student's top-1 loses without it, and the method's gain."""
    recipe, folder = run.recipe, RunFolder(run.recipe.out)
    teacher = build_teacher(recipe, folder)
    assert teacher is not None
    student, baseline = (_student(RunFolder(r.recipe.out)) for r in (run, alone))
    batches = EvaluationBatches(recipe, device=torch.device("cpu"))
    measures: list[Measure] = ["transfer", "ablation"]
    analysis = sfkd_viz.analyze(
        teacher, student, batches, baseline, measures=measures, max_images=IMAGES, samples=ABLATED, progress=False
    )
    found = analysis.transfer
    assert found is not None
    lost = [_losses(analysis.ablation[role]) for role in ("student", "baseline")]
    gain = folder.metrics()[-1]["top1"] - RunFolder(alone.recipe.out).metrics()[-1]["top1"]
    rows = []
    for own, others in pair_layers(student.layer_names, teacher.layer_names):
        at = found.alone.rows.index(others), found.alone.columns.index(own)
        for number, band in enumerate(found.alone.bands):
            values = (x[(number, *at)] for x in (found.alone.by_band, found.values, found.joint_low, found.joint_high))
            losses = (of_model.get((own, band), np.nan) for of_model in lost)
            numbers = [f"{v:.5f}" if np.isfinite(v) else "" for v in (*values, *losses)]
            named = (run.pair, run.method, str(run.seed), own, others, band)
            rows.append(dict(zip(COLUMNS, (*named, *numbers, f"{gain:.2f}"), strict=True)))
    return rows


def _losses(found: BandAblation) -> dict[tuple[str, str], float]:
    """(layer, band) → change of top-1 where it is taken away."""
    changes = found.top1_change
    return {
        (layer, band): float(changes[row, column])
        for row, layer in enumerate(found.layers)
        for column, band in enumerate(found.bands)
    }


def _student(folder: RunFolder) -> Backbone:
    return build_model(Model(run=str(folder.path)), folder.recipe()).eval()


if __name__ == "__main__":
    main()
