"""The analysis that lies beside the bundled run is that of its weights, and docs/transfer.md tells what it holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from torch.utils.data import DataLoader

import sfkd_viz
from sfkd.data import create_dataset
from sfkd.loading import DEMO, load_run
from sfkd_viz.analysis import Analysis

FASHION = Path("/usr/share/datasets/fashion-mnist")
PAGE = ROOT / "docs" / "transfer.md"


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return sfkd_viz.load_analysis(DEMO / "analysis" / "analysis.json")


def test_it_is_small_whole_and_of_the_whole_test_set(analysis: Analysis) -> None:
    assert sum(path.stat().st_size for path in (DEMO / "analysis").iterdir()) < 300_000
    assert (analysis.images, analysis.complete) == (10_000, True)
    assert analysis.transfer is not None
    assert analysis.transfer.blocks == 40  # 39 of 256 images, and 16 left over
    assert set(analysis.models) == {"teacher", "student", "baseline"}
    for figure in (
        sfkd_viz.plot_transfer(analysis.transfer),
        sfkd_viz.plot_band_ablation(analysis.ablation["student"]),
    ):
        assert len(figure.data) > 0


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_it_is_that_of_the_bundled_weights(analysis: Analysis) -> None:
    """Its first block, measured again."""
    run = load_run(DEMO)
    assert run.teacher is not None
    loader = DataLoader(create_dataset(run.config.data, "test"), batch_size=128)
    again = sfkd_viz.analyze(
        run.teacher, run.student, loader, run.baseline, measures=["cka"], max_images=256, progress=False
    )
    for role in ("student", "baseline"):
        saved, now = analysis.cka[role], again.cka[role]
        assert (saved.rows, saved.columns, saved.bands) == (now.rows, now.columns, now.bands)
        first = saved.cross[0] / np.sqrt(saved.own_a[0] * saved.own_b[0])
        np.testing.assert_allclose(first, now.by_band, atol=1e-3)


def test_the_page_tells_what_it_holds(analysis: Analysis) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert analysis.transfer is not None
    assert f"> {analysis.transfer.sentence()}" in page
    assert analysis.ablation["student"].sentence() in page
    table = analysis.transfer.to_dataframe().dropna(subset=["transfer"])
    largest = table.loc[table["transfer"].abs().idxmax()]
    row = next(line for line in page.splitlines() if line.startswith("| band"))
    first = page.splitlines()[page.splitlines().index(row) + 2]
    assert first.startswith(f"| {largest['band']} |")
    assert f"**{largest['transfer']:+.3f}**" in first
