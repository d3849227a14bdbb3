"""Studies: what is planned, run, kept, resumed, and refused."""

from __future__ import annotations

import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import CONVNEXT, ROOT

import sfkd.benchmark
from sfkd.benchmark import COLUMNS, Table, benchmark
from sfkd.cli import main
from sfkd.config import RecipeError
from sfkd.distillers import distiller_options, list_distillers
from sfkd.runs import RunFolder
from sfkd.study import load_study, runs_of

VIT = {"name": "vit_tiny_patch16_224"}
VIT |= {"kwargs": {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}}
Write = Callable[..., Path]


@pytest.fixture
def study(tmp_path: Path, data_root: Path) -> Write:
    """Writes a study of two pairs and the pairs; keywords replace keys of the study."""

    def write(name: str = "study", **changes: Any) -> Path:
        data = {"name": "torch/mnist", "root": str(data_root), "num_classes": 10, "input_size": [1, 32, 32]}
        data |= {"mean": [0.4], "std": [0.3], "train_samples": 32}
        schedule = {"epochs": 2, "batch_size": 16, "test_every": 2}
        pairs = {
            "folder": str(tmp_path / "runs"),
            "teachers_folder": str(tmp_path / "teachers"),
            "sets": {"digits": {"data": data, "schedule": schedule, "views": 2}},
            "teachers": {
                "cnn": {"set": "digits", "held_out": 16, "model": CONVNEXT, "schedule": {"epochs": 1, "batch_size": 16}}
            },
            "pairs": {
                "cnn-vit": {"teacher": "cnn", "student": VIT},
                "cnn-cnn": {"teacher": "cnn", "student": CONVNEXT},
            },
        }
        asked = {
            "pairs_file": "pairs.yaml",
            "table": str(tmp_path / "table.csv"),
            "regime": "short",
            "pairs": ["cnn-vit"],
            "seeds": [0],
            "cells": [{"method": "none"}, {"method": "kd"}],
        }
        (tmp_path / "pairs.yaml").write_text(yaml.safe_dump(pairs), encoding="utf-8")
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(asked | changes), encoding="utf-8")
        return path

    return write


def rows(tmp_path: Path) -> list[dict[str, str]]:
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_study_fills_its_table(study: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two methods on one pair: every column, and nothing done again by the same command."""
    path = study(cells=[{"method": "none"}, {"method": "fitnet", "options": {"hint_weight": 2.0}, "variant": "twice"}])
    assert main(["benchmark", str(path), "--jobs", "2", "--quiet"]) == 0
    assert "complete: " in capsys.readouterr().out
    table = rows(tmp_path)
    assert [tuple(row) for row in table] == [COLUMNS] * 2
    assert [(row["method"], row["variant"]) for row in table] == [("none", ""), ("fitnet", "twice")]
    teacher = RunFolder(tmp_path / "teachers" / "cnn")
    assert teacher.recipe().data.held_out == 16
    assert not teacher.checkpoint.exists()  # it is done, and may be kept with the project
    for row in table:
        assert (row["pair"], row["regime"], row["data"], row["seed"]) == ("cnn-vit", "short", "torch/mnist", "0")
        assert (row["teacher"], row["student"]) == ("convnext_atto", "vit_tiny_patch16_224")
        assert 0 <= float(row["top1_last"]) <= float(row["top1_best"]) <= 100
        assert float(row["step_ms"]) > 0
        assert 0 < float(row["top1_teacher"]) <= 100
    assert table[0]["extra_params"] == "0"
    assert int(table[1]["extra_params"]) > 0
    assert '"hint_weight": 2.0' in table[1]["options"]
    before = (tmp_path / "table.csv").stat().st_mtime_ns
    assert main(["benchmark", str(path), "--quiet"]) == 0
    assert (tmp_path / "table.csv").stat().st_mtime_ns == before


def test_the_plan_has_every_cell_and_evens_out_over_seeds(study: Write) -> None:
    path = study(pairs=["cnn-vit", "cnn-cnn"], seeds=[0, 1], data={"labelled": 8}, schedule={"epochs": 3})
    planned = runs_of(*load_study(path))
    assert [(run.seed, run.pair, run.method) for run in planned] == [
        (seed, pair, method) for seed in (0, 1) for pair in ("cnn-vit", "cnn-cnn") for method in ("none", "kd")
    ]
    assert len({run.key for run in planned}) == len({run.recipe.out for run in planned}) == 8
    for run in planned:
        recipe = run.recipe
        assert (recipe.data.labelled, recipe.data.train_samples, recipe.schedule.epochs) == (8, 32, 3)
        assert recipe.precompute is not None
        assert recipe.precompute.views == 2
        assert recipe.seed == run.seed
    folders = {run.recipe.precompute.folder for run in planned if run.recipe.precompute is not None}
    assert len(folders) == 1


def test_other_options_are_another_run(study: Write) -> None:
    """A default that changes, or an option, makes a new folder and a new row in place of the old one."""
    first = runs_of(*load_study(study()))[1]
    second = runs_of(*load_study(study(cells=[{"method": "kd", "options": {"temperature": 3.0}}])))[0]
    assert first.key[:-1] == second.key[:-1]
    assert first.key != second.key
    assert first.recipe.out != second.recipe.out
    assert dict(distiller_options("kd"))["temperature"] != 3.0


def test_rows_of_an_earlier_choice_are_dropped(tmp_path: Path) -> None:
    table = Table(tmp_path / "table.csv")
    keys = [("cnn-vit", "short", "kd", "", "0", options) for options in ('{"a": 1}', '{"a": 2, "b": "x, y"}')]
    for key in keys:
        table.add(key, dict.fromkeys(COLUMNS, "") | dict(zip(sfkd.benchmark._KEY, key, strict=True)))
    other = ("cnn-vit", "short", "kd", "", "1", '{"a": 1}')
    table.add(other, dict.fromkeys(COLUMNS, "") | dict(zip(sfkd.benchmark._KEY, other, strict=True)))
    table.write([other, keys[1]])
    assert list(Table(tmp_path / "table.csv").rows) == [other, keys[1]]


def test_killed_it_goes_on(study: Write, tmp_path: Path) -> None:
    """SIGKILL after the first rows: workers end with it, and the rows that are there are not made again."""
    path = study(seeds=[0, 1, 2], cells=[{"method": m} for m in ("none", "kd", "dist")])
    command = [sys.executable, "-m", "sfkd.cli", "benchmark", str(path), "--jobs", "2", "--quiet"]
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    table = tmp_path / "table.csv"
    while process.poll() is None and not (table.is_file() and len(rows(tmp_path)) >= 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = rows(tmp_path)
    assert 2 <= len(kept) < 9
    deadline = time.monotonic() + 60
    while _in_session(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _in_session(process.pid) == []
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    whole = rows(tmp_path)
    assert len(whole) == 9
    assert all(row in whole for row in kept)


def _in_session(session: int) -> list[int]:
    """Processes of a session that still run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(entry.name))
    return found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": ["cnn-vti"]}, "unknown pair 'cnn-vti'. Did you mean 'cnn-vit'"),
        ({"cells": [{"method": "kdd"}]}, "unknown distiller 'kdd'. Did you mean 'kd'"),
        ({"cells": [{"method": "kd", "options": {"temprature": 1}}]}, "unknown option of kd 'temprature'"),
        ({"cells": [{"method": "kd"}, {"method": "kd"}]}, "two cells of one method need different variants"),
        ({"seed": [0]}, "seed"),
        ({"pairs_file": "nowhere.yaml"}, "nowhere.yaml is no readable YAML file"),
    ],
)
def test_mistakes_in_a_study_are_one_line(
    study: Write, changes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", str(study(**changes))]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_run_that_fails_ends_it_and_keeps_the_rest(study: Write, tmp_path: Path) -> None:
    path = study(cells=[{"method": "none"}, {"method": "kd", "options": {"temperature": -1.0}}])
    with pytest.raises(ValueError, match="temperature expects a number > 0"):
        benchmark([path], jobs=1, progress=False)
    assert [row["method"] for row in rows(tmp_path)] == ["none"]


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "benchmark").glob("[!p]*.yaml")), ids=lambda p: p.stem)
def test_the_studies_of_the_project_can_be_planned(path: Path) -> None:
    study, pairs = load_study(path)
    assert runs_of(study, pairs)
    assert all(pairs.teacher_recipe(name).data.held_out in (None, 5000) for name in pairs.teachers)


def held_out(table: str, method: str) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """Mean top-1 over pairs and seeds of each trial of a method, and its options."""
    with (ROOT / "benchmarks" / "results" / table).open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == method]
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(row["variant"], []).append(float(row["top1_last"]))
    return (
        {variant: statistics.mean(values) for variant, values in scores.items()},
        {row["variant"]: json.loads(row["options"]) for row in rows},
    )


@pytest.mark.parametrize("method", [name for name in list_distillers() if name != "none"])
def test_defaults_are_what_tuning_chose(method: str) -> None:
    """Of every method's trials on held-out images the best; of SFKD's the better of two that were given more seeds."""
    scores, options = held_out("tuning.csv", method)
    if method == "sfkd":
        again, _ = held_out("sigma.csv", method)
        assert max(scores, key=scores.__getitem__) in again
        scores = again
    chosen = options[max(scores, key=scores.__getitem__)]
    assert {name: distiller_options(method)[name] for name in chosen} == chosen


def test_a_study_that_is_wrong_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("- 1\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"a\.yaml expects a mapping of keys, got list"):
        load_study(tmp_path / "a.yaml")
