"""Maps of one layer pair: sub-bands, spectra, Gaussian masks, DS2S."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import snippets
from messages import UserError
from settings import ALL_BANDS
from torch import Tensor

import sfkd_viz
from sfkd_viz.measures.refinement import decibel
from sfkd_viz.measures.subbands import BandImages
from views.base import Drawn, Look, Shown, compared, retitled


def sub_bands(look: Look) -> Shown:
    """The pyramid of every model."""
    s, maps = look.settings, _maps_of_channel(look)
    measured = {name: sfkd_viz.subbands(x, s.wavelet, s.levels, s.component) for name, x in maps.items()}  # type: ignore[arg-type]
    one = {} if s.band in (ALL_BANDS, "whole") else {name: _only(images, s.band) for name, images in measured.items()}
    figure = sfkd_viz.plot_subbands(one or measured)
    details = {
        role: 100
        * (1 - sum(v for band, v in sfkd_viz.band_energy(x, s.wavelet, s.levels).share.items() if band[0] == "A"))
        for role, x in zip(look.pair.models, maps.values(), strict=True)
    }
    answer = compared(f"Share of energy in the details of {s.layer}", details, look.pair.names, "{:.0f} %")
    call = snippets.one_band(s) if one else snippets.all_bands(s)
    pyramids = Drawn(figure, snippets.script(*snippets.maps(look.pair, s), *call), "sub-bands")
    return Shown(answer, (pyramids, _over_depth(look)))


def _over_depth(look: Look) -> Drawn:
    """How every layer of the chosen model shares its energy among the bands."""
    s, name = look.settings, look.pair.names[look.settings.model]
    output = look.measured.output(look.pair, s.model, s.image, look.work)
    figure = sfkd_viz.plot_band_energy(output.features, s.wavelet, s.levels)
    title = retitled(figure, "Energy per sub-band", f"Energy per sub-band · {name}")
    call = f'figure = sfkd_viz.plot_band_energy(features["{name}"], "{s.wavelet}", {s.levels})'
    return Drawn(figure, snippets.script(*snippets.features(look.pair, s.image), call, title), "band-energy")


def spectra(look: Look) -> Shown:
    """Over the plane, over rings, and over depth."""
    s, pair, maps = look.settings, look.pair, _maps(look)
    planes = {name: sfkd_viz.spectrum(x) for name, x in maps.items()}
    rings = {name: sfkd_viz.radial_spectrum(plane) for name, plane in planes.items()}
    centres = {
        role: float((ring.frequency * ring.share).sum()) for role, ring in zip(pair.models, rings.values(), strict=True)
    }
    answer = compared(f"Mean frequency of the energy in {s.layer}", centres, pair.names, "{:.2f} cycles/image")
    depth = sfkd_viz.plot_relative_amplitude(look.measured.output(pair, s.model, s.image, look.work).features)
    title = retitled(depth, "over depth", f"over depth · {pair.names[s.model]}")
    on_maps, on_features = snippets.maps(pair, s), snippets.features(pair, s.image)
    calls = {
        "spectrum": [*on_maps, "figure = sfkd_viz.plot_spectrum(maps)"],
        "radial-spectrum": [*on_maps, "figure = sfkd_viz.plot_radial_spectrum(maps)"],
        "relative-amplitude": [
            *on_features,
            f'figure = sfkd_viz.plot_relative_amplitude(features["{pair.names[s.model]}"])',
            title,
        ],
    }
    drawn = (sfkd_viz.plot_spectrum(planes), sfkd_viz.plot_radial_spectrum(rings), depth)
    figures = tuple(
        Drawn(figure, snippets.script(*lines), name) for figure, (name, lines) in zip(drawn, calls.items(), strict=True)
    )
    return Shown(answer, figures)


def gaussian(look: Look) -> Shown:
    """What the mask keeps and removes."""
    s, maps = look.settings, _maps_of_channel(look)
    measured = {name: sfkd_viz.gaussian_filter(x, s.sigma, channel=s.component) for name, x in maps.items()}  # type: ignore[arg-type]
    kept = {
        role: 100 * float(np.nan_to_num(filtered.kept_energy or 0.0))
        for role, filtered in zip(look.pair.models, measured.values(), strict=True)
    }
    answer = compared(
        f"σ = {s.sigma:g} cycles/pixel keeps of the energy of {s.layer}", kept, look.pair.names, "{:.1f} %"
    )
    call = f"figure = sfkd_viz.plot_gaussian_mask(maps, {s.sigma:g}, channel={snippets.channel(s)})"
    python = snippets.script(*snippets.maps(look.pair, s), call)
    return Shown(answer, (Drawn(sfkd_viz.plot_gaussian_mask(measured), python, "gaussian-mask"),))


def ds2s(look: Look) -> Shown:
    """Both streams, stage by stage."""
    s, pair = look.settings, look.pair
    measured = look.measured.refinement(pair, s.image, s.layer, s.component, look.work)
    before, after = (
        {band: e for band, e in measured.error[stage].items() if np.isfinite(e)} for stage in ("input", "across")
    )
    if not measured.trained:
        own = [layer for layer, joint in pair.joints.items() if joint.own]
        elsewhere = f" The run trained that of {', '.join(own)}." if own and s.layer not in own else ""
        answer = f"DS2S is untrained here and passes the bands on as they are.{elsewhere}"
    elif before:
        band = max(before, key=lambda b: before[b] - after[b])
        gain = decibel(measured.gain["within"][band]), decibel(measured.gain["across"][band])
        answer = (
            f"DS2S helps {band} of {s.layer} most: its distance to the teacher's goes from {before[band]:.2f} to "
            f"{after[band]:.2f} of the target's energy; stage 1 changes its energy by {gain[0]:+.1f} dB, stage 2 by "
            f"{gain[1]:+.1f} dB."
        )
    else:
        answer = "The teacher's target is zero on this image."
    python = snippets.script(*snippets.ds2s(pair, s))
    return Shown(answer, (Drawn(sfkd_viz.plot_ds2s(measured), python, "ds2s"),))


def _maps(look: Look) -> dict[str, Tensor]:
    return look.measured.maps(look.pair, look.settings.image, look.settings.layer, look.work)


def _maps_of_channel(look: Look) -> dict[str, Tensor]:
    """The maps, for views of one channel; refused where one of them lacks it."""
    s, maps = look.settings, _maps(look)
    fewest = min(x.shape[1] for x in maps.values())
    if isinstance(s.component, int) and s.component >= fewest:
        raise UserError(
            f"All maps of {s.layer} have channels 0 to {fewest - 1}, not {s.component}: choose one of these."
        )
    return maps


def _only(images: BandImages, band: str) -> BandImages:
    """One band of a pyramid; the approximation at whatever level the grid bears; all where the grid lacks it."""
    kept: dict[str, Any] = {name: x for name, x in images.bands.items() if name == band or name[0] == band}
    return replace(images, bands=kept or images.bands)
