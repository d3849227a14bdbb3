"""DS2S, stage by stage."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from sfkd_viz import theme
from sfkd_viz.measures.inputs import Channel
from sfkd_viz.measures.refinement import STAGES, Refinement, decibel, ds2s
from sfkd_viz.plots.subbands import add_pyramids

_TITLES = {
    "target": "teacher's target",
    "input": "student before DS2S",
    "within": "after stage 1: within bands",
    "across": "after stage 2: across bands and streams",
}
_GAIN = "gain per band: energy after the stage / before it, dB written"
_ERROR = "distance to the target per band: ‖S − T‖² / ‖T‖²"
_BARS = {
    "input": ("before DS2S", theme.PALETTE[4]),
    "within": ("after stage 1", theme.PALETTE[0]),
    "across": ("after stage 2", theme.PALETTE[1]),
}


def plot_ds2s(
    distiller_or_run: Any, images: Any = None, layer: str | None = None, *, channel: Channel = "energy"
) -> go.Figure:
    """The teacher's target bands beside the student's before and after each stage of DS2S, and what happens per band.

    Args:
        distiller_or_run: an `sfkd` distiller, a run that has one, or a measured `Refinement` (then without images).
        images: `[B, C, H, W]`, normalised for the models.
        layer: the student's layer; default the first.
        channel: of the aligned maps: a number, "pc1" to "pc3" (of the target), or "energy".
    """
    if isinstance(distiller_or_run, Refinement):
        measured = distiller_or_run
    elif images is None:
        raise ValueError("plot_ds2s expects images [B, C, H, W] beside a distiller or run; none were given.")
    else:
        measured = ds2s(distiller_or_run, images, layer=layer, channel=channel)
    fig = theme.subplots(
        2,
        len(STAGES),
        [*(_TITLES[s] for s in STAGES), _GAIN, _ERROR],
        specs=[[{}] * len(STAGES), [{"colspan": 2}, None, {"colspan": 2}, None]],
        row_heights=[0.6, 0.4],
        horizontal_spacing=0.04,
        vertical_spacing=0.16,
    )
    # first, since plotly looks at every shape that is there when it adds one
    grey: dict[str, Any] = {"color": "#7a7f87", "width": 1, "dash": "dot"}
    fig.add_hline(y=1, line=grey, row=2, col=1, exclude_empty_subplots=False)  # type: ignore[arg-type]
    add_pyramids(fig, [measured.stages[s] for s in STAGES])
    fig.update_layout({a: {"colorbar": {"len": 0.3, "y": y}} for a, y in _bars(measured)})
    for stage, (word, colour) in _BARS.items():
        _bar(fig, measured.error[stage], word, colour, 3)
        if stage in measured.gain:  # the legend of the distances serves both
            gain = measured.gain[stage]
            _bar(fig, gain, word, colour, 1, in_legend=False, text=[_signed(g) for g in gain.values()])
    fig.update_yaxes(type="log", row=2)
    errors = np.array([value for error in measured.error.values() for value in error.values()])
    if errors.min() > 0:
        fig.update_yaxes(theme.log_axis(errors), row=2, col=3)
    target = measured.stages["target"]
    state = "trained" if measured.trained else "untrained: the identity"
    levels = f"{target.levels} of {target.asked_levels} levels fit" if target.levels < target.asked_levels else ""
    title = f"DS2S · student {measured.student_layer} against teacher {measured.teacher_layer} · {state}"
    note = " · ".join(
        filter(None, (f"{target.shape[0]}×{target.shape[1]} grid", levels, target.wavelet, target.channel))
    )
    fig = theme.titled(fig, title, note + ". Low stream: A; high stream: H, V, D. Colours compare across panels.", 680)
    return fig.update_layout(legend={"x": 0.5, "xanchor": "center", "y": -0.08, "yanchor": "top"}, barmode="group")


def _bar(
    fig: go.Figure,
    values: dict[str, float],
    name: str,
    colour: str,
    column: int,
    *,
    in_legend: bool = True,
    text: list[str] | None = None,
) -> None:
    bar = go.Bar(
        x=list(values),
        y=list(values.values()),
        name=name,
        marker_color=colour,
        showlegend=in_legend,
        text=text,
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{x}: %{y:.3g}<extra>" + name + "</extra>",
    )
    fig.add_trace(bar, 2, column)


def _signed(gain: float) -> str:
    """Decibel without a negative zero.

    Examples:
        >>> _signed(0.999), _signed(0.5)
        ('+0.0', '-3.0')
    """
    return f"{round(decibel(gain), 1) + 0.0:+.1f}"


def _bars(measured: Refinement) -> list[tuple[str, float]]:
    return [("coloraxis", 0.9), ("coloraxis2", 0.58)] if measured.stages["target"].signed else [("coloraxis", 0.75)]
