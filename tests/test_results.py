"""docs/results.md is what the tables say; its intervals are Student's."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT, script
from scipy import stats


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/results.py, which imports others beside it."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return script("results")


@pytest.mark.filterwarnings("ignore")
def test_the_page_is_made_from_the_tables(results: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def save(_: Any, path: Path, **__: Any) -> None:
        drawn.append(path.name)

    monkeypatch.setattr(results, "DOCS", tmp_path)
    monkeypatch.setattr(results, "save_figure", save)
    monkeypatch.setattr(sys.modules["why_page"], "save_figure", save)
    results.main()
    committed = ROOT / "docs" / "results.md"
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == committed.read_text(encoding="utf-8")
    assert set(drawn) == {path.name for path in (ROOT / "docs" / "images" / "results").iterdir()}


def test_intervals_are_those_of_a_paired_t_test(results: ModuleType) -> None:
    differences = np.array([1.2, 0.4, 2.0])
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert results.paired(differences) == pytest.approx((1.2, expected.low, expected.high))
    assert results.paired(differences[:1])[0] == 1.2
    assert math.isnan(results.paired(differences[:1])[1])


def test_parts_that_do_not_help_are_named(results: ModuleType) -> None:
    worth = {"the wavelet": (0.5, -0.2, 1.0), "DS2S": (-0.2, -0.4, -0.1), "the spectral loss": (0.7, 0.4, 1.0)}
    told = results._earned(worth, worth | {"the spectral loss": (0.7, -0.1, 1.5)})
    assert "the wavelet +0.50 (-0.20 to +1.00), DS2S -0.20 (-0.40 to -0.10)" in told
    assert told.endswith(
        "The spectral loss has earned a place here. Without DS2S it is better here. Of the wavelet no difference is shown. "
        "Over paired seeds, of which there are few, the interval of the spectral loss has zero in it."
    )


def test_the_same_students_are_told(results: ModuleType) -> None:
    columns = pd.MultiIndex.from_product([["cnn-vit"], [0, 1]], names=["pair", "seed"])
    table = pd.DataFrame([[1.0, 2.0], [1.0, 2.0], [1.0, 3.0]], ["all stages", "three levels", "db2"], columns)
    assert "came of three levels as of all stages: no grid" in results._same(table)
    assert not results._same(table.drop(index="three levels"))


def test_why_names_what_moves_and_what_matters(
    results: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two methods, two seeds of a pair: `a` moves what was far, `sfkd` moves all alike."""
    page = sys.modules["why_page"]
    figures = {}
    monkeypatch.setattr(page, "save_figure", lambda fig, path, **_: figures.update({path.stem: fig}))
    alone = {"A": 0.9, "H1": 0.5, "V1": 0.6, "D1": 0.2, "all": 0.7}
    rows = []
    for seed in (0, 1):
        for method, moves in {"a": lambda x: 1 - x, "sfkd": lambda x: 0.1 + x / 100}.items():
            for band, x in alone.items():
                row = {
                    "pair": "cnn-vit",
                    "method": method,
                    "seed": seed,
                    "band": band,
                    "alone": x,
                    "movement": moves(x),
                }
                lost = {"without": -10.0 if band == "A" else -1.0, "without_alone": -2.0}
                rows.append(row | (lost if band != "all" else {}) | {"gain": 3.0 + seed})
    pd.DataFrame(rows).to_csv(tmp_path / "why.csv", index=False)
    text = page.why(tmp_path / "why.csv", tmp_path)
    assert "| a | +0.300 | D1 +0.800 | A +0.100 | A -10.0 | +3.50 |" in text
    assert "`a` -1.00, `sfkd` +1.00." in text
    assert "Over all 4 students" in text
    without = figures["bands"].data[1]
    assert list(without.y) == ["a", "sfkd", "none"]
    assert without.z[2][0] == -2.0
    assert np.ravel(figures["pairs"].data[0].z) == pytest.approx([0.9, 0.5, 0.6, 0.2])
