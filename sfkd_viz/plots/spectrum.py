"""Pictures of Fourier energy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import plotly.graph_objects as go

from sfkd.fourier import FrequencyUnit
from sfkd_viz import theme
from sfkd_viz.measures.inputs import Feature, measured, reading
from sfkd_viz.measures.spectrum import RadialSpectrum, Spectrum, radial_spectrum, spectrum

Quantity = Literal["power", "share"]
_FLOOR = 1e-12
_AXIS = {
    "cycles/image": "frequency (cycles/image: compares content across grids)",
    "cycles/pixel": "frequency (cycles/pixel: compares filters, not content, across grids)",
    "pi": "frequency (×π rad/pixel: compares filters, not content, across grids)",
}


def plot_spectrum(
    feat: Feature | Spectrum | Mapping[str, Feature | Spectrum], *, quantity: Quantity | None = None
) -> go.Figure:
    """Heat map of the mean power spectrum, zero frequency in the middle, log₁₀ colour scale shared by all panels.

    Args:
        feat: a feature (`[H, W]`, `[C, H, W]` or `[B, C, H, W]`, torch or numpy), a measured `Spectrum`, or several by
            name, drawn side by side.
        quantity: "power" (the default for one) or "share" of the total energy (the default for several, whose scales
            differ).

    Examples:
        >>> plot_spectrum(np.eye(8)).layout.height
        420
    """
    quantity = quantity or ("share" if isinstance(feat, Mapping) else "power")
    spectra = measured(feat, spectrum, Spectrum)
    logs = {
        name: np.log10(np.maximum(theme.cells(_values(s, quantity)), _FLOOR, dtype=np.float32))
        for name, s in spectra.items()
    }
    # cells far below the rest, such as exact zeros, would eat the whole scale
    top = max(float(z.max()) for z in logs.values())
    bottom = max(min(float(np.percentile(z, 1)) for z in logs.values()), top - 10)
    fig = theme.panels(1, len(logs), [_panel_title(n, s) for n, s in spectra.items()], horizontal=0.07)
    for column, (name, s) in enumerate(spectra.items(), 1):
        rows_f, columns_f = s.frequencies
        heat = go.Heatmap(
            z=logs[name],
            x=theme.centres(columns_f),
            y=theme.centres(rows_f),
            coloraxis="coloraxis",
            name=name or "spectrum",
            hovertemplate="vertical %{y:.3f}, horizontal %{x:.3f} cycles/pixel<br>log₁₀ %{z:.2f}<extra></extra>",
        )
        fig.add_trace(heat, 1, column)
        theme.square(fig, 1, column, hidden=False, from_top=False)
        fig.update_xaxes(title_text="horizontal (cycles/pixel)", row=1, col=column)
        fig.update_yaxes(showticklabels=column == 1, row=1, col=column)  # all panels reach from −0.5 to 0.5
    fig.update_yaxes(title_text="vertical (cycles/pixel)", row=1, col=1)
    word = "share of energy" if quantity == "share" else "mean power |FFT|²"
    fig.update_layout(
        coloraxis={
            "colorscale": theme.SEQUENTIAL,
            "cmin": bottom,
            "cmax": top,
            "colorbar": theme.colorbar(f"log₁₀ {word}"),
        }
    )
    note = "Zero frequency in the middle; the edge is Nyquist, 0.5 cycles/pixel of that map."
    if not isinstance(feat, (Mapping, Spectrum)):
        note += f" Input read as {reading(feat)}."
    note = " ".join(filter(None, (note, theme.thinned(*(s.power.shape for s in spectra.values())))))
    return theme.titled(fig, f"Energy spectrum: {word} per frequency", note, 420)


def plot_radial_spectrum(
    features: Feature | RadialSpectrum | Spectrum | Mapping[str, Feature | RadialSpectrum | Spectrum],
    *,
    unit: FrequencyUnit = "cycles/image",
    quantity: Quantity = "share",
) -> go.Figure:
    """Energy per ring of the frequency plane, overlaid, log scale; dotted lines mark each grid's Nyquist frequency.

    Args:
        features: features, spectra or radial spectra by name (or one).
        unit: "cycles/image" where grids differ, "cycles/pixel" or "pi"; ready results keep their own.
        quantity: "share" of a map's energy in each ring (they sum to 1), or mean "power" in the ring.
    """
    profiles = measured(
        features, lambda f: radial_spectrum(f, unit=unit), RadialSpectrum, taken=(Spectrum,), default="feature"
    )
    units = {p.unit for p in profiles.values()}
    if len(units) > 1:
        raise ValueError(f"radial spectra in different units cannot share an axis: {', '.join(sorted(units))}.")
    (unit,) = units
    fig = go.Figure()
    for i, (name, profile) in enumerate(profiles.items()):
        values = np.maximum(profile.share if quantity == "share" else profile.power, _FLOOR)
        stroke = theme.stroke(i)
        fig.add_trace(
            go.Scatter(
                x=profile.frequency.astype(np.float32),
                y=values.astype(np.float32),
                name=f"{name} ({profile.shape[0]}×{profile.shape[1]})",
                mode="lines+markers",
                line=stroke,
                marker={"size": 5},
                hovertemplate="%{x:.3g} → %{y:.3g}<extra>" + name + "</extra>",
            )
        )
        fig.add_vline(x=_nyquist(profile), line={"color": stroke["color"], "width": 1, "dash": "dot"})
    word = "share of energy in the ring" if quantity == "share" else "mean power per coefficient"
    fig.update_xaxes(title_text=_AXIS[unit])
    fig.update_yaxes(theme.log_axis(np.concatenate([trace.y for trace in fig.data])), title_text=word)
    note = "Rings are one cycle/image wide. Dotted: Nyquist of each grid; beyond it only the corners of the plane."
    return theme.titled(fig, "Radial energy spectrum", note, 440)


def _values(measured: Spectrum, quantity: Quantity) -> np.ndarray:
    return measured.share if quantity == "share" else measured.power


def _panel_title(name: str, measured: Spectrum) -> str:
    height, width = measured.power.shape
    size = f"{height}×{width}, {measured.channels} ch" + (f", {measured.images} images" if measured.images > 1 else "")
    return f"{name} · {size}" if name else size


def _nyquist(profile: RadialSpectrum) -> float:
    return {"cycles/image": max(profile.shape) / 2, "cycles/pixel": 0.5, "pi": 1.0}[profile.unit]
