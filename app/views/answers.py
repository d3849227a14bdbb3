"""What a model's answer rests on: bands that speak for it on one image, bands that it cannot do without."""

from __future__ import annotations

import snippets
from measured import ABLATED

import sfkd_viz
from sfkd.loading import load_pictures
from views.base import Drawn, Look, Shown, retitled


def attribution(look: Look) -> Shown:
    """Integrated gradients in the wavelet domain of the input, or of the chosen layer."""
    s, pair = look.settings, look.pair
    layer = "input" if s.site == "input" else pair.layer_of(s.model, s.layer)
    measured = look.measured.attribution(pair, layer, s, look.work)
    classes = load_pictures().classes if pair.labelled else None
    figure = sfkd_viz.plot_attribution(measured, classes=classes, name=pair.names[s.model])
    several = s.image.startswith("mean:")
    shown = "test image 0" if several else look.measured.pictures.describe(s.image).partition(",")[0]
    title = retitled(figure, "image 0", shown)
    first = " The first of the images is explained." if several else ""
    python = snippets.script(*snippets.attribution(pair, s, layer), title)
    return Shown(f"{measured.sentence()}{first}", (Drawn(figure, python, "attribution"),))


def ablation(look: Look) -> Shown:
    """Each band of each layer taken away."""
    s, pair = look.settings, look.pair
    stored = None if s.image.startswith("mean:") else look.measured.stored(pair)
    role = {"alone": "baseline"}.get(s.model, s.model)
    if stored is not None and (stored.wavelet, stored.levels) == (s.wavelet, s.levels) and role in stored.ablation:
        measured = stored.ablation[role]
        python = snippets.stored(pair, f'ablation = analysis.ablation["{role}"]')
    else:
        source = look.measured.many(pair, s.image, look.work, ABLATED)
        measured = look.measured.ablation(pair, source, s, look.work)
        python = snippets.ablation(pair, source, s)
    name = pair.names[s.model]
    figure = sfkd_viz.plot_band_ablation(measured, name=name)
    call = f'figure = sfkd_viz.plot_band_ablation(ablation, name="{name}")'
    note = (
        "Rows from the input down, a column a band. Left: blue, the answer suffers without the band. Right: how far the "
        "probabilities move. * beyond the joint interval over images. Point at a cell for shares of energy."
    )
    return Shown(measured.sentence(), (Drawn(figure, snippets.script(*python, call), "ablation", note),))
