"""Run studies: teachers first, then every run that its table lacks, in as many processes as there are cores to use.

The table is written again after every run, so a kill loses the runs that were under way, and these go on from their last
checkpoint.
"""

from __future__ import annotations

import csv
import io
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from sfkd.config import Recipe
from sfkd.runs import RunFolder, write_atomically
from sfkd.study import Pairs, Run, load_study, runs_of
from sfkd.train import train

COLUMNS = (
    *("pair", "regime", "data", "teacher", "student", "method", "variant", "seed"),
    *("top1_last", "top1_best", "top1_teacher", "seconds", "step_ms", "extra_params", "options", "commit"),
)
_KEY = ("pair", "regime", "method", "variant", "seed", "options")
Row = dict[str, str]


class Table:
    """Rows of finished runs in a CSV file, in the order in which their studies name them."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.rows: dict[tuple[str, ...], Row] = {}
        if self.path.is_file():
            with self.path.open(newline="", encoding="utf-8") as file:
                self.rows = {tuple(row[name] for name in _KEY): row for row in csv.DictReader(file)}

    def add(self, key: tuple[str, ...], row: Row) -> None:
        """Keep a row; rows of the same cell with other options, an earlier choice of defaults, are dropped."""
        self.rows = {k: r for k, r in self.rows.items() if k[:-1] != key[:-1]} | {key: row}

    def write(self, order: Sequence[tuple[str, ...]]) -> None:
        """Write the file: the rows of `order` first."""
        places = {key: i for i, key in enumerate(order)}
        keys = sorted(self.rows, key=lambda key: places.get(key, len(places)))
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows[key] for key in keys)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, text.getvalue())


def benchmark(paths: Sequence[str | Path], *, jobs: int | None = None, progress: bool = True) -> list[Path]:
    """Run the studies in these files; what their tables have already is left as it is.

    Args:
        paths: YAML files, see `sfkd.study`.
        jobs: processes, of one thread each; default one a core.

    Returns:
        The tables.

    Raises:
        RecipeError: a study that is wrong. What `train` raises, for the first run that fails; finished rows are kept.
    """
    jobs = jobs or os.cpu_count() or 1
    studies = [load_study(path) for path in paths]
    tables = {study.table: Table(study.table) for study, _ in studies}
    planned = [(study.table, run) for study, pairs in studies for run in runs_of(study, pairs)]
    missing = [(table, run) for table, run in planned if run.key not in tables[table].rows]
    recipes = _teachers(studies, [run.teacher for _, run in missing])
    order = {table: [run.key for name, run in planned if name == table] for table in tables}
    tasks = [_Task(recipe.out, _trained, (recipe,)) for recipe in recipes]
    with _Pool(jobs) as pool:
        for _ in tqdm(pool.finished(tasks), "teachers", len(tasks), disable=not progress or not tasks):
            pass
        first = {run.teacher: (table, run) for table, run in reversed(missing)}
        # one run of each teacher goes ahead, for it computes the outputs that the others read
        for part in (list(first.values()), [x for x in missing if x not in first.values()]):
            tasks = [_Task((table, run), _measured, (run,)) for table, run in part]
            for (table, run), row in tqdm(pool.finished(tasks), "runs", len(tasks), disable=not progress or not tasks):
                tables[table].add(run.key, row)
                tables[table].write(order[table])
    return [table.path for table in tables.values()]


def _teachers(studies: Iterable[tuple[Any, Pairs]], wanted: Iterable[str]) -> list[Recipe]:
    """Recipes of the teachers that are wanted and not trained yet."""
    wanted = set(wanted)
    recipes = {name: pairs.teacher_recipe(name) for _, pairs in studies for name in pairs.teachers if name in wanted}
    return [recipe for recipe in recipes.values() if not RunFolder(recipe.out).finished]


def _trained(recipe: Recipe) -> None:
    train(recipe, progress=False, say=_silent).checkpoint.unlink(missing_ok=True)


def _measured(run: Run) -> Row:
    """Train one run and read its row."""
    recipe = run.recipe
    folder = train(recipe, progress=False, say=_silent)
    folder.checkpoint.unlink(missing_ok=True)
    rows, environment = folder.metrics(), folder.environment()
    tests = [row["top1"] for row in rows if "top1" in row]
    epoch = min(rows, key=lambda row: row["seconds"])
    steps = epoch["images_per_second"] * epoch["seconds"] / environment["global_batch"]
    assert recipe.teacher is not None
    return {
        "pair": run.pair,
        "regime": run.regime,
        "data": recipe.data.name,
        "teacher": RunFolder(str(recipe.teacher.run)).recipe().student.name,
        "student": recipe.student.name,
        "method": run.method,
        "variant": run.variant,
        "seed": str(run.seed),
        "top1_last": f"{tests[-1]:.2f}",
        "top1_best": f"{max(tests):.2f}",
        "top1_teacher": f"{environment['teacher_top1']:.2f}",
        "seconds": f"{sum(row['seconds'] for row in rows):.1f}",
        "step_ms": f"{1000 * epoch['seconds'] / steps:.1f}",
        "extra_params": str(environment["parameters"]["beside"]),
        "options": run.options,
        "commit": (environment["commit"] or "")[:12],
    }


@dataclass(frozen=True)
class _Task:
    """A call in another process, and what to call its result by."""

    name: Any
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class _Pool:
    """Processes of one thread each."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        context = get_context("spawn")  # torch's threads do not survive a fork
        self.executor = ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(os.getpid(),))

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.executor.shutdown(wait=kind is None, cancel_futures=True)

    def finished(self, tasks: Sequence[_Task]) -> Iterable[tuple[Any, Any]]:
        """(name, result) of the tasks as they are done; the first that fails ends it."""
        under_way: dict[Future[Any], Any] = {}
        waiting = list(tasks)
        while waiting or under_way:
            while waiting and len(under_way) < self.jobs:
                task = waiting.pop(0)
                under_way[self.executor.submit(task.function, *task.arguments)] = task.name
            done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                yield under_way.pop(future), future.result()


def _begin(parent: int) -> None:
    """One thread, no GPU, and an end when the parent has ended."""
    torch.set_num_threads(1)
    os.environ["ACCELERATE_USE_CPU"] = "true"

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _silent(_: str) -> None:
    """What runs side by side say is not for one terminal."""
