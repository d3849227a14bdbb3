"""Write docs/transfer.md: what distillation moved in the bundled run, on all test images, beside what a seed moves.

make transfer

Analyses the bundled run and saves that beside it; trains the student alone with two more seeds, the recipe unchanged, and
measures how far these lie apart. Resumable: what is finished is left as it is. Half an hour on two CPU cores.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import sfkd_viz
from sfkd import Backbone
from sfkd.config import Recipe
from sfkd.data import create_dataset
from sfkd.loading import DEMO, Run, load_run
from sfkd.runs import write_atomically
from sfkd.train import train
from sfkd_viz.analysis import Analysis
from sfkd_viz.measures.ablation import BandAblation
from sfkd_viz.measures.transfer import Transfer

ROOT = Path(__file__).parent.parent
DOCS, SAVED = ROOT / "docs", DEMO / "analysis" / "analysis"
SEEDS = (1, 2)
ABLATED, GRAM = 1024, 2000  # images
MOST_BYTES = 300_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="where Fashion-MNIST lies, if not where the recipe says")
    parser.add_argument("--runs", type=Path, default=Path("runs/transfer"), help="where the other seeds are trained")
    args = parser.parse_args()
    run = load_run(DEMO)
    data = dataclasses.replace(run.config.data, root=args.root) if args.root else run.config.data
    recipe = dataclasses.replace(run.config, data=data)
    analysis = _analysis(run, recipe)
    between = [_between_seeds(run, recipe, seed, args.runs) for seed in SEEDS]
    assert analysis.transfer is not None
    figure = sfkd_viz.plot_transfer(analysis.transfer)
    sfkd_viz.save_figure(figure, DOCS / "images" / "transfer.png", dpi=115)
    write_atomically(DOCS / "transfer.md", page(analysis, between, _gap(run, recipe)))
    print(analysis.sentence())


def _analysis(run: Run, recipe: Recipe) -> Analysis:
    """Of the bundled run, measured once and saved beside it."""
    if SAVED.with_suffix(".json").is_file():
        return sfkd_viz.load_analysis(SAVED)
    assert run.teacher is not None
    measures = [*sfkd_viz.analysis.STREAMING, "ablation"]
    analysis = sfkd_viz.analyze(
        run.teacher, run.student, _images(recipe), run.baseline, measures=measures, samples=ABLATED
    )
    saved = analysis.save(SAVED)
    size = sum(path.stat().st_size for path in (saved, saved.with_suffix(".npz")))
    if size > MOST_BYTES:
        raise SystemExit(f"the analysis takes {size:,} bytes, more than {MOST_BYTES:,}: measure less.")
    return analysis


def _between_seeds(run: Run, recipe: Recipe, seed: int, runs: Path) -> Transfer:
    """The student alone of another seed in the place of the distilled one."""
    saved = runs / f"seed{seed}"
    if saved.with_suffix(".json").is_file():
        found = sfkd_viz.load_analysis(saved).transfer
    else:
        alone = recipe.baseline_recipe()
        assert alone is not None
        folder = train(dataclasses.replace(alone, seed=seed, out=str(runs / f"alone-seed{seed}")), say=lambda _: None)
        assert run.teacher is not None
        other = load_run(folder.path).student
        analysis = sfkd_viz.analyze(run.teacher, other, _images(recipe), run.baseline, measures=["transfer"])
        analysis.save(saved)
        found = analysis.transfer
    assert found is not None
    return found


def _images(recipe: Recipe) -> DataLoader[Any]:
    dataset: Any = create_dataset(recipe.data, "test")
    return DataLoader(dataset, batch_size=256)


def _gap(run: Run, recipe: Recipe) -> tuple[float, float]:
    """Largest difference of CKA in blocks to that of the full Gram matrix: whole maps, and any band."""
    dataset = create_dataset(recipe.data, "test")
    images = torch.stack([dataset[number][0] for number in range(GRAM)])
    assert run.teacher is not None
    teacher, student = (dict(_features(model, images)) for model in (run.teacher, run.student))
    full, blocks = (sfkd_viz.cka(teacher, student, block_size=size) for size in (None, 256))
    gap = np.abs(full.by_band - blocks.by_band)
    return float(np.abs(full.values - blocks.values).max()), float(np.nanmax(gap))


@torch.no_grad()
def _features(model: Backbone, images: Tensor) -> Iterator[tuple[str, Tensor]]:
    parts = [model.eval()(some).features for some in images.split(250)]
    return ((name, torch.cat([part[name] for part in parts])) for name in parts[0])


def page(analysis: Analysis, between: list[Transfer], gap: tuple[float, float]) -> str:
    """The document; every number and every sentence with one is made from the measurements."""
    moved = analysis.transfer
    assert moved is not None
    largest = _largest(moved)
    within = [max(abs(seed.values[at]) for seed in between) for at in largest]
    beyond = sum(abs(moved.values[at]) > other for at, other in zip(largest, within, strict=True))
    finite = np.isfinite(moved.values)
    spread = np.median(np.abs(moved.values[finite]))
    seeds = np.median([np.abs(seed.values[finite]) for seed in between])
    ablation = analysis.ablation["student"]
    return f"""# What distillation moved in the bundled run

Made by `make transfer` (`benchmarks/transfer.py`) from the weights in `sfkd/demo` and all
{analysis.images:,} test images of Fashion-MNIST; the analysis is saved in `sfkd/demo/analysis/` and opens with
`sfkd_viz.load_analysis(sfkd.loading.DEMO / "analysis" / "analysis")`. What is measured is defined in
[measures.md](measures.md#transfer).

> {moved.sentence()}

![Transfer map](images/transfer.png)

Red: distillation brought the pair of layers nearer together in that band than training alone did; blue: further apart. A
star: the joint 95 % interval excludes zero. Intervals are over blocks of 256 images, for these two trained students.

## Largest movements, and what another seed moves

The interval answers whether more test images would change the number, not whether another training would. For that the
student alone was trained twice more (seeds {" and ".join(map(str, SEEDS))}, the recipe unchanged) and put in the place of
the distilled student: the last columns are that movement, of a student that saw no teacher, in the same cell. Distilled and
alone share seed 0, thus their start and the order of their images; those of other seeds share neither, so that this is a
severe comparison.

{_table(moved, between, largest, ablation)}

**{beyond} of these {len(largest)} movements are larger than both seeds' movements in the same cell.** Over all
{int(finite.sum())} cells the median size is {spread:.3f} for distillation and {seeds:.3f} for another seed;
{int(moved.moved.sum())} cells lie outside their joint interval for distillation, {_moved(between)} for another seed. So a
star says that two students differ, and nearly any two do; what a method moves can be said only over several seeds.

## Does it matter?

{ablation.sentence()} The column "cost" above is the change of top-1 where that band of that layer is set to zero inside the
distilled student, on the first {ablation.images:,} test images, with its joint interval; it is given where the pair meets on
the student's own grid, since elsewhere the band has another name there.

## How exact it is

CKA is summed over blocks of 256 images. On the first {GRAM:,} images the full Gram matrix gives values that differ by
{gap[0]:.4f} at most for whole maps and by {gap[1]:.4f} in any band.
"""


def _largest(moved: Transfer, count: int = 10) -> list[tuple[int, int, int]]:
    size = np.nan_to_num(np.abs(moved.values))
    order = np.argsort(size, axis=None)[::-1][:count]
    return [tuple(int(n) for n in np.unravel_index(at, size.shape)) for at in order]  # type: ignore[misc]


def _table(
    moved: Transfer, between: list[Transfer], largest: list[tuple[int, int, int]], ablation: BandAblation
) -> str:
    heads = ["band", "cycles/image", "teacher", "student", "alone", "distilled", "movement", "joint 95 % interval"]
    heads += [f"seed {seed}" for seed in SEEDS] + ["cost, points of top-1"]
    rows = [f"| {' | '.join(heads)} |", "|" + "-|" * len(heads)]
    for at in largest:
        number, row, column = at
        cka = moved.alone
        cycles = cka.cycles(cka.bands[number], row, column)
        assert cycles is not None
        cells = [
            *(cka.bands[number], f"{cycles[0]:g}–{cycles[1]:g}", cka.rows[row], cka.columns[column]),
            *(f"{cka.by_band[at]:.3f}", f"{moved.distilled.by_band[at]:.3f}", f"**{moved.values[at]:+.3f}**"),
            f"{moved.joint_low[at]:+.3f} … {moved.joint_high[at]:+.3f}",
            *(f"{seed.values[at]:+.3f}" for seed in between),
            _cost(moved, ablation, at),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _cost(moved: Transfer, ablation: BandAblation, at: tuple[int, int, int]) -> str:
    number, row, column = at
    band, layer = moved.alone.bands[number], moved.alone.columns[column]
    if band not in ablation.bands:
        return "—"
    i, j = ablation.layers.index(layer), ablation.bands.index(band)
    if tuple(ablation.grids[i]) != tuple(moved.alone.grids[row, column]):
        return "—"
    low, high = ablation.interval("top1", joint=True)
    return f"{ablation.top1_change[i, j]:+.1f} ({low[i, j]:+.1f} … {high[i, j]:+.1f})"


def _moved(between: list[Transfer]) -> str:
    return " and ".join(str(int(seed.moved.sum())) for seed in between)


if __name__ == "__main__":
    main()
