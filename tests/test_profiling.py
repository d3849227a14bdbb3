"""`sfkd train --profile`: real steps, named parts, a trace that opens, and nothing changed by it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from sfkd import cli
from sfkd.config import Recipe
from sfkd.profiling import profile_training
from sfkd.runs import RunFolder
from sfkd.train import train


def test_parts_and_trace(tmp_path: Path, recipe: Callable[..., Recipe], distilled: dict[str, Any]) -> None:
    said: list[str] = []
    made = recipe(tmp_path / "run", **distilled)
    parts = profile_training(made, steps=2, say=said.append)
    names = {"data", "student forward", "teacher forward", "loss terms", "cross-entropy", "backward", "optimizer"}
    assert {part.name for part in parts} == names
    assert all(part.cpu_ms > 0 for part in parts)
    folder = tmp_path / "run" / "profile"
    rows = list(csv.DictReader((folder / "parts.csv").read_text().splitlines()))
    assert {row["name"] for row in rows} == names
    trace = json.loads((folder / "trace.json").read_text())
    seen = [event["name"] for event in trace["traceEvents"] if str(event.get("name", "")).startswith("part: ")]
    assert seen.count("part: backward") >= 2  # steps
    assert any("trace.json" in line for line in said)


def test_parts_hold_what_is_in_them(tmp_path: Path, recipe: Callable[..., Recipe], distilled: dict[str, Any]) -> None:
    """Feature terms are most of the terms' time; without a teacher there are neither terms nor a teacher."""
    found = {part.name for part in profile_training(recipe(tmp_path / "run"), steps=1, say=lambda _: None)}
    assert found.isdisjoint({"teacher forward", "loss terms"})


def test_a_profiled_recipe_trains_as_if_nothing_had_been(
    tmp_path: Path, recipe: Callable[..., Recipe], distilled: dict[str, Any], finished_run: RunFolder
) -> None:
    made = recipe(tmp_path / "run", **distilled)
    profile_training(made, steps=1, say=lambda _: None)
    folder = train(made, progress=False, say=lambda _: None)
    for name, value in folder_weights(folder).items():
        assert torch.equal(value, folder_weights(finished_run)[name])


def folder_weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder.student / "model.safetensors")


def test_on_the_command_line(tmp_path: Path, recipe_values: Callable[..., dict[str, Any]], capsys: Any) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_values(tmp_path / "run")))
    assert cli.main(["train", str(path), "--profile"]) == 0
    assert "student forward" in capsys.readouterr().out
    assert (tmp_path / "run" / "profile" / "trace.json").is_file()
    assert not (tmp_path / "run" / "student").exists()
