"""Training curves."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from sfkd_viz import theme
from sfkd_viz.measures.inputs import WORDS
from sfkd_viz.measures.training import ROLES, TrainingCurves, kind_of, training_curves

_PANELS = {
    "loss": ("loss parts of the student, unweighted", "loss"),
    "top-1": ("test top-1", "top-1 (%)"),
    "lr": ("learning rate", "lr"),
    "speed": ("speed", "images/s"),
    "weight": ("weights of the loss parts", "weight"),
    "ratio": ("variance of the target / of the raw target", "ratio"),
}


def plot_training(run: Any) -> go.Figure:
    """Loss parts, top-1, learning rate and speed of a run against the epoch, with its baseline and teacher.

    Columns that a method adds are drawn too: loss parts, weights ("weight_…") and target ratios; values per layer
    ("part/layer") are left to `training_curves(run).to_dataframe()`.

    Args:
        run: path of a run folder, finished or not, a loaded run, or measured `TrainingCurves`.
    """
    measured = run if isinstance(run, TrainingCurves) else training_curves(run)
    drawn = _drawn(measured)
    kinds = [kind for kind in _PANELS if kind in {k for k, _, _ in drawn}]
    rows = (len(kinds) + 1) // 2
    fig = theme.panels(rows, 2, [_PANELS[kind][0] for kind in kinds], horizontal=0.1, vertical=0.34 / rows)
    counts: dict[str, int] = {}
    for kind, role, column in drawn:
        row, place = divmod(kinds.index(kind), 2)
        of_role = kind in ("top-1", "lr", "speed")
        i = ROLES.index(role) if of_role else counts.get(kind, 0)
        counts[kind] = i + 1
        stroke = theme.stroke(i)
        if of_role and column not in ("top1", "lr", "images_per_second"):
            stroke["dash"] = "dot"
        fig.add_trace(_line(measured, (kind, role, column), stroke, of_role=of_role), row + 1, place + 1)
    for i, kind in enumerate(kinds):
        row, place = divmod(i, 2)
        values = np.concatenate([measured.runs[role][column] for k, role, column in drawn if k == kind])
        values = values[~np.isnan(values)]
        logarithmic = kind in ("loss", "lr") and len(values) and (values > 0).all()
        axis = theme.log_axis(values) if logarithmic else {"type": "linear"}
        fig.update_yaxes(axis, title_text=_PANELS[kind][1], row=row + 1, col=place + 1)
        if i + 2 >= len(kinds):  # nothing below
            fig.update_xaxes(title_text="epoch", row=row + 1, col=place + 1)
    states = [f"{WORDS[role]}: {measured.written(role)} of {measured.epochs[role]} epochs" for role in measured.runs]
    title = f"Training · {measured.name} · {measured.method}" + ("" if measured.finished else " · not finished")
    legend = {"orientation": "v", "x": 1.02, "xanchor": "left", "y": 1, "yanchor": "top", "tracegroupgap": 14}
    return theme.titled(fig, title, " · ".join(states), 170 + 250 * rows).update_layout(legend=legend)


def _drawn(measured: TrainingCurves) -> list[tuple[str, str, str]]:
    """(kind, role, column) of every line."""
    lines = []
    for role in ROLES:
        for column in measured.runs.get(role, {}):
            kind = kind_of(column)
            per_layer, other_run = "/" in column, role != "student" and kind not in ("top-1", "lr", "speed")
            if column not in ("epoch", "seconds") and not per_layer and not other_run:
                lines.append((kind, role, column))
    return lines


def _line(
    measured: TrainingCurves, which: tuple[str, str, str], stroke: dict[str, Any], *, of_role: bool
) -> go.Scatter:
    kind, role, column = which
    plain = column in ("top1", "lr", "images_per_second")
    word = WORDS[role] if plain else f"{WORDS[role]}: {column}" if of_role else column
    group = "runs" if of_role else kind
    titles = {"runs": "runs", "loss": "loss parts", "weight": "weights", "ratio": "target ratio"}
    return go.Scatter(
        x=measured.runs[role]["epoch"].astype(np.float32),
        y=measured.runs[role][column].astype(np.float32),
        name=word,
        mode="lines+markers",
        line=stroke,
        marker={"size": 5},
        legendgroup=group,
        legendgrouptitle={"text": titles[group]},
        showlegend=not of_role or kind == "top-1",
        hovertemplate="epoch %{x}: %{y:.4g}<extra>" + word + "</extra>",
    )
