"""Training curves of finished, unfinished and strange runs."""

import shutil

import numpy as np
import pytest

import sfkd_viz
from sfkd.runs import RunFolder


@pytest.fixture
def unfinished(finished_run, tmp_path):
    """A run of which no more than config.yaml and one row of metrics.csv is there."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    shutil.copyfile(finished_run.path / "config.yaml", folder.path / "config.yaml")
    folder.write_metrics(finished_run.metrics()[:1])
    return folder


def test_a_finished_run_with_teacher_and_baseline(finished_run):
    measured = sfkd_viz.training_curves(finished_run)
    assert list(measured.runs) == ["student", "baseline", "teacher"]
    assert measured.finished
    for role, folder in (("student", finished_run), ("teacher", finished_run.nested("teacher"))):
        for name, values in measured.runs[role].items():
            np.testing.assert_array_equal(values, [row[name] for row in folder.metrics()])
    for same in (finished_run.path, str(finished_run.path)):
        assert sfkd_viz.training_curves(same).name == finished_run.path.name
    table = measured.to_dataframe()
    row = table[(table.role == "student") & (table.epoch == 2) & (table.quantity == "top1")].iloc[0]
    assert row.value == finished_run.metrics()[-1]["top1"]
    assert (row.unit, row.kind) == ("%", "top-1")


def test_plot_of_an_unfinished_run(unfinished):
    fig = sfkd_viz.plot_training(unfinished.path)
    assert "not finished" in fig.layout.title.text
    assert "student: 1 of 2 epochs" in fig.layout.title.text
    fig.to_json()


def test_columns_that_nobody_foresaw(unfinished):
    (row,) = unfinished.metrics()
    more = {"weight_gffl": 0.5, "target_ratio": 1.1, "top1_without_ema": 12.0, "novel": 0.3, "bands/layers.0": 0.1}
    unfinished.write_metrics([row | more, row | more | {"epoch": 2, "novel": -0.1}])
    fig = sfkd_viz.plot_training(unfinished)
    values = {trace.name: list(trace.y) for trace in fig.data}
    assert values["novel"] == pytest.approx([0.3, -0.1])
    assert values["weight_gffl"] == [0.5, 0.5]
    assert values["student: top1_without_ema"] == [12, 12]
    assert values["target_ratio"] == pytest.approx([1.1, 1.1])
    assert "bands/layers.0" not in values
    assert len([a for a in fig.layout.annotations if a.text]) == 6
    assert fig.layout.yaxis.type == "linear"  # a loss below zero has no logarithm
    assert "bands/layers.0" in set(sfkd_viz.training_curves(unfinished).to_dataframe().quantity)


def test_plot_takes_the_ready_result_and_names_roles(finished_run):
    fig = sfkd_viz.plot_training(sfkd_viz.training_curves(finished_run))
    assert {t.name for t in fig.data} >= {"student", "student alone", "teacher", "loss", "ce", "gffl"}


def test_what_is_no_run(tmp_path, unfinished):
    with pytest.raises(TypeError, match="expects a run folder's path"):
        sfkd_viz.training_curves(3)
    with pytest.raises(ValueError, match="no run folder at"):
        sfkd_viz.training_curves(tmp_path / "nowhere")
    (unfinished.path / "metrics.csv").write_text("loss\n1.0\n")
    with pytest.raises(ValueError, match="expects a column epoch"):
        sfkd_viz.training_curves(unfinished)
    (unfinished.path / "metrics.csv").unlink()
    with pytest.raises(ValueError, match="no finished epoch yet"):
        sfkd_viz.training_curves(unfinished)
