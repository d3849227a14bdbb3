"""How a map's energy is shared among its sub-bands, a row a feature."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from sfkd.wavelet import Mode
from sfkd_viz import theme
from sfkd_viz.measures.blocks import WHOLE, band_names
from sfkd_viz.measures.inputs import Feature, measured
from sfkd_viz.measures.matrices import APPROXIMATION
from sfkd_viz.measures.subbands import BandEnergy, band_energy

_FLOOR = 1e-6
_MOST_WRITTEN = 16  # bands; cells of more are too narrow to write in


def plot_band_energy(
    feat: Feature | BandEnergy | Mapping[str, Feature | BandEnergy],
    wavelet: str = "haar",
    levels: int = 2,
    *,
    mode: Mode = "symmetric",
) -> go.Figure:
    """Heat map of the share of energy in each sub-band, features from the first down, one log₁₀ colour scale.

    Args:
        feat: a feature, a measured `BandEnergy`, or several by name, such as the layers of a model.
        wavelet, levels, mode: of `sfkd.decompose`; a grid that bears fewer levels leaves the finer names' cells empty.

    Raises:
        ValueError: results of different wavelets, whose bands are not the same.
    """
    energies = measured(feat, lambda f: band_energy(f, wavelet, levels, mode), BandEnergy, default="feature")
    if len({energy.wavelet for energy in energies.values()}) > 1:
        raise ValueError(
            "plot_band_energy expects results of one wavelet, whose bands compare; got "
            + ", ".join(f"{name}: {energy.wavelet}" for name, energy in energies.items())
        )
    first, count = next(iter(energies.values())), len(energies)
    energies = {name: energies[name] for name in np.array(list(energies), dtype=object)[theme.evenly(count)]}
    bands = [band for band in band_names(max(1, *(e.levels for e in energies.values()))) if band != WHOLE]
    shares = np.array([[_share(energy, band) for band in bands] for energy in energies.values()])
    written = len(bands) <= _MOST_WRITTEN
    heat = go.Heatmap(
        z=np.log10(np.maximum(shares, _FLOOR)).astype(np.float32),
        x=bands,
        y=list(energies),
        name="band energy",
        coloraxis="coloraxis",
        text=[[_percent(s) if written else "" for s in row] for row in shares],
        texttemplate="%{text}",
        textfont={"size": 11},
        customdata=(100 * shares).astype(np.float32),
        hoverongaps=False,
        hovertemplate="%{x} of %{y}: %{customdata:.4g} % of the energy<extra></extra>",
    )
    fig = go.Figure(heat)
    finite = shares[np.isfinite(shares)]
    bottom = float(np.log10(max(finite.min(), _FLOOR)))
    fig.update_layout(
        coloraxis={
            "colorscale": theme.SEQUENTIAL,
            "cmin": min(bottom, -1.0),
            "cmax": 0.0,
            "colorbar": theme.colorbar("log₁₀ share of energy"),
        }
    )
    fig.update_xaxes(showgrid=False, type="category", title_text="sub-band")
    fig.update_yaxes(showgrid=False, type="category", autorange="reversed")
    note = (
        "Percent of the energy of all bands. A: approximation at the coarsest level that the grid bears; H, V, D: "
        "horizontal, vertical, diagonal detail, 1 the finest.<br>Empty: the grid does not bear the band. Levels are octaves "
        "of each grid, so H1 of 56×56 and of 14×14 are different frequencies in the image."
    )
    if len(energies) < count:
        note += f" {count} features drawn as {len(energies)}, evenly chosen."
    height = 190 + 34 * min(len(energies), 24)
    fig = theme.titled(fig, f"Energy per sub-band · {first.wavelet}", note, height)
    return fig.update_layout(margin_t=112)


def _share(energy: BandEnergy, band: str) -> float:
    name = f"A{energy.levels}" if band == APPROXIMATION else band
    return energy.share.get(name, float("nan"))


def _percent(share: float) -> str:
    """Two digits; nothing for a band that is not there.

    Examples:
        >>> [_percent(share) for share in (1.0, 0.456, 0.0456, 1e-9, float("nan"))]
        ['100', '46', '4.6', '<0.001', '']
    """
    percent = 100 * share
    if np.isnan(percent):
        return ""
    return f"{percent:.0f}" if percent >= 9.95 else "<0.001" if 0 < percent < 0.001 else f"{percent:.2g}"
