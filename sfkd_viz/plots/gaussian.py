"""Gaussian masks and what they keep."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from sfkd.fourier import MaskKind
from sfkd_viz import theme
from sfkd_viz.measures.gaussian import GaussianFilter, gaussian_filter
from sfkd_viz.measures.inputs import Channel, Feature, as_maps, named


def plot_gaussian_mask(
    feat_or_shape: Feature | tuple[int, int] | GaussianFilter | Mapping[str, Feature | GaussianFilter],
    sigma: float | tuple[float, float] = 0.25,
    *,
    kind: MaskKind = "low",
    channel: Channel = "energy",
) -> go.Figure:
    """The mask over the frequency plane, and for maps what it keeps and removes in space, with both shares of energy.

    Args:
        feat_or_shape: maps (or several by name, a row each), a shape (H, W) for the mask alone, or ready results.
        sigma: cycles/pixel; a pair for `kind="band"`. kind: "low", "high" or "band".
        channel: of the pictures: a number, "pc1" to "pc3", or "energy" (then RMS over channels).
    """
    measured = {
        name: f if isinstance(f, GaussianFilter) else gaussian_filter(_checked(f, name), sigma, kind, channel)
        for name, f in named(feat_or_shape).items()
    }
    first = next(iter(measured.values()))
    if len(measured) == 1 and first.original is None:
        return _mask_alone(first)
    if bare := [name for name, m in measured.items() if m.original is None]:
        raise ValueError(f"plot_gaussian_mask expects maps in every row, got a mask alone for {', '.join(bare)}.")
    alike = len({_kind(m) for m in measured.values()}) == 1
    words = ["mask", "map", "kept", "removed"]
    titles = [_title(name, word, m, alike) for name, m in measured.items() for word in words]
    fig = theme.panels(len(measured), 4, titles, vertical=0.3 / len(measured), horizontal=0.03)
    for row, (name, m) in enumerate(measured.items(), 1):
        _add_mask(fig, m, row)
        axis = f"coloraxis{row + 1}"
        pictures = [m.original, m.kept, m.removed]
        for column, picture in enumerate(pictures, 2):
            assert picture is not None
            heat = go.Heatmap(
                z=theme.cells(picture),
                coloraxis=axis,
                name=f"{name} {words[column - 1]}".strip(),
                hovertemplate="row %{y}, column %{x}: %{z:.3g}<extra></extra>",
            )
            fig.add_trace(heat, row, column)
            theme.square(fig, row, column)
        assert m.original is not None
        limit = float(max(np.abs(p).max() for p in pictures if p is not None)) or 1.0
        bottom = -limit if m.signed else 0.0
        fig.update_layout(
            {
                axis: {
                    "colorscale": theme.DIVERGING if m.signed else theme.SEQUENTIAL,
                    "cmin": bottom,
                    "cmax": limit,
                    "colorbar": theme.colorbar(
                        "coefficient" if m.signed else "RMS",
                        y=1 - (row - 0.5) / len(measured),
                        length=0.85 / len(measured),
                    ),
                }
            }
        )
    note = (
        "Circle: ‖f‖ = σ. Kept: Σ mask²|F|² / Σ |F|², in brackets without the zero frequency (the mean). Removed: that of "
        "1 − mask;<br>where the mask is neither 0 nor 1 the two sum to less than 100 %. "
        f"Pictures: {first.channel if len(measured) == 1 else _common(first)}; one scale a row."
    )
    note = " ".join(filter(None, (note, theme.thinned(*(m.mask.shape for m in measured.values())))))
    title = f"Gaussian mask · {_kind(first)}" if alike else "Gaussian masks"
    return theme.titled(fig, title, note, 160 + 250 * len(measured)).update_layout(margin_t=106)


def _add_mask(fig: go.Figure, m: GaussianFilter, row: int) -> None:
    rows, columns = (np.fft.fftshift(np.fft.fftfreq(n)) for n in m.mask.shape)
    heat = go.Heatmap(
        z=theme.cells(m.mask),
        x=theme.centres(columns),
        y=theme.centres(rows),
        coloraxis="coloraxis",
        name="mask",
        hovertemplate="vertical %{y:.3f}, horizontal %{x:.3f} cycles/pixel<br>G = %{z:.3f}<extra></extra>",
    )
    fig.add_trace(heat, row, 1)
    theme.square(fig, row, 1, from_top=False)
    fig.update_layout(coloraxis={"colorscale": "Viridis", "cmin": 0, "cmax": 1, "showscale": False})
    for s in m.sigma if isinstance(m.sigma, (tuple, list)) else (m.sigma,):
        if s < 0.75:
            circle = {"x0": -s, "x1": s, "y0": -s, "y1": s}
            fig.add_shape(type="circle", **circle, line={"color": "white", "width": 1.5, "dash": "dot"}, row=row, col=1)


def _mask_alone(m: GaussianFilter) -> go.Figure:
    height, width = m.mask.shape
    fig = theme.panels(1, 2, [f"mask · {height}×{width}", "along the horizontal axis"], horizontal=0.16)
    _add_mask(fig, m, 1)
    fig.update_layout(coloraxis={"showscale": True, "colorbar": theme.colorbar("mask", x=0.42)})
    columns = np.fft.fftshift(np.fft.fftfreq(width))
    fig.add_trace(go.Scatter(x=columns.astype(np.float32), y=m.mask[height // 2], mode="lines+markers", name="G"), 1, 2)
    fig.update_xaxes(title_text="frequency (cycles/pixel)", row=1, col=2)
    fig.update_yaxes(title_text="mask", range=[-0.02, 1.05], row=1, col=2)
    note = " ".join(
        filter(None, ("Circle: ‖f‖ = σ; the edge is Nyquist, 0.5 cycles/pixel.", theme.thinned(m.mask.shape)))
    )
    return theme.titled(fig, f"Gaussian mask · {_kind(m)}", note, 420)


def _kind(m: GaussianFilter) -> str:
    word = {"low": "low-pass G", "high": "high-pass 1 − G", "band": "band-pass G(σ₂) − G(σ₁)"}[m.kind]
    return f"{word} · σ = {m.sigma} cycles/pixel"


def _checked(feat: Feature | tuple[int, int], name: str) -> Feature | tuple[int, int]:
    """Maps are refused by their own name; a shape (H, W) goes on as it is."""
    return feat if isinstance(feat, (tuple, list)) else as_maps(feat, name or "feat")


def _title(name: str, word: str, m: GaussianFilter, alike: bool) -> str:
    if word == "mask":
        size = f"{m.mask.shape[0]}×{m.mask.shape[1]}"
        return " · ".join(filter(None, (name, size, "" if alike else f"{m.kind}, σ = {m.sigma}")))
    if word == "kept":
        return f"kept {_percent(m.kept_energy)} ({_percent(m.kept_energy_without_dc)})"
    return f"removed {_percent(m.removed_energy)}" if word == "removed" else word


def _percent(share: float | None) -> str:
    return "–" if share is None or math.isnan(share) else f"{100 * share:.1f} %"


def _common(m: GaussianFilter) -> str:
    return m.channel.partition(" (")[0] if m.signed else "RMS over all channels"
