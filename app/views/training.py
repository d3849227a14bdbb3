"""Curves of the run that is watched, else of the run that is open."""

from __future__ import annotations

import snippets

import sfkd_viz
from sfkd.loading import DEMO
from sfkd.runs import RunError
from sfkd_viz.measures.training import TrainingCurves
from views.base import Drawn, Look, Shown


def training(look: Look) -> Shown:
    """Loss parts, top-1, learning rate and speed."""
    if look.job is None and look.pair.run is None:
        return Shown("Models opened by name were not trained here. Start a training below, or open a run.")
    folder = look.job or look.pair.folder or DEMO
    # the run's own recipe is written when its teacher and the student alone are trained
    begun = [place for place in (folder, folder / "baseline", folder / "teacher") if (place / "config.yaml").is_file()]
    try:
        measured = sfkd_viz.training_curves(begun[0])
    except (RunError, IndexError):
        return Shown(f"{folder.name}: no epoch is finished yet.")
    figure = sfkd_viz.plot_training(measured)
    return Shown(_told(measured), (Drawn(figure, snippets.script(*snippets.training(begun[0])), "training"),))


def _told(measured: TrainingCurves) -> str:
    tops = {role: columns["top1"][-1] for role, columns in measured.runs.items() if "top1" in columns}
    words = {"teacher": "teacher", "baseline": "student alone", "student": f"student ({measured.method})"}
    told = ", ".join(f"{words[role]} {tops[role]:.1f} %" for role in words if role in tops)
    state = "after the last epoch" if measured.finished else "so far"
    return f"{measured.name}, test top-1 {state}: {told}."
