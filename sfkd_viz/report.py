"""An analysis as one HTML page that opens offline: the sentence first, then every figure."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from sfkd.runs import write_atomically
from sfkd_viz import plots, theme
from sfkd_viz.measures.inputs import WORDS

if TYPE_CHECKING:
    from sfkd_viz.analysis import Analysis
    from sfkd_viz.measures.transfer import Transfer

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #2a2f36; --ground: #ffffff; --line: #d5d9de; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e6e8eb; --ground: #16191d; --line: #454b54; }} }}
body {{ font: 15px/1.5 Inter, "Helvetica Neue", Arial, sans-serif; color: var(--ink); background: var(--ground);
  max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }}
.sentence {{ font-size: 1.2rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: right; padding: .2rem .7rem; border-bottom: 1px solid var(--line); }}
.table {{ overflow-x: auto; }}
.plotly-graph-div {{ margin: 2rem 0; }}
</style>
<script>{plotly}</script></head><body>
<h1>{title}</h1>
<p class="sentence">{sentence}</p>
<p>{facts}</p>
{body}
<script>
const templates = {templates};
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.querySelectorAll(".js-plotly-plot").forEach(
  figure => Plotly.relayout(figure, {{template: templates[dark.matches ? "dark" : "light"]}}));
dark.addEventListener("change", follow);
if (dark.matches) follow();
</script></body></html>
"""


def write_report(analysis: Analysis, path: str | Path, *, title: str = "What distillation moved") -> Path:
    """Write the page: plotly.js inside once, so that nothing is fetched; light or dark as the reader's system."""
    path = Path(path)
    body = [fig.to_html(full_html=False, include_plotlyjs=False) for fig in _figures(analysis)]
    if analysis.transfer is not None:
        body.insert(1, _largest_movements(analysis.transfer))
    models = ", ".join(f"{WORDS[role]}: {name}" for role, name in analysis.models.items())
    facts = f"{models}. {analysis.images:,} images, {analysis.wavelet} wavelet, {analysis.levels} levels."
    templates = {"light": theme.TEMPLATE.to_plotly_json(), "dark": theme.DARK.to_plotly_json()}
    page = _PAGE.format(
        title=html.escape(title),
        sentence=html.escape(analysis.sentence()),
        facts=html.escape(facts),
        body="\n".join(body),
        templates=json.dumps(templates),
        plotly=get_plotlyjs(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page)
    return path


def _figures(analysis: Analysis) -> Iterator[go.Figure]:
    """The transfer map first, then what it is made of."""
    if analysis.transfer is not None:
        yield plots.plot_transfer(analysis.transfer)
    for alignment in analysis.cka.values():
        yield plots.plot_cka(alignment)
    for role, spectra in analysis.spectra.items():
        fig = plots.plot_radial_spectrum({html.escape(layer): spectrum for layer, spectrum in spectra.items()})
        yield _headed(fig, role)
    for role, energies in analysis.band_energy.items():
        yield _headed(plots.plot_band_energy({html.escape(layer): energy for layer, energy in energies.items()}), role)
    for role, ablation in analysis.ablation.items():
        yield _headed(plots.plot_band_ablation(ablation), role)
    for role, attribution in analysis.attribution.items():
        yield _headed(plots.plot_attribution(attribution), role)


def _headed(fig: go.Figure, role: str) -> go.Figure:
    return fig.update_layout(title_text=f"{WORDS[role].capitalize()} · {fig.layout.title.text}")


def _largest_movements(transfer: Transfer, rows: int = 10) -> str:
    table = transfer.to_dataframe().dropna(subset=["transfer"])
    table = table.loc[table["transfer"].abs().sort_values(ascending=False).index].head(rows)
    table["moved"] = table["moved"].map({True: "yes", False: "no"})
    heads = {
        **{name: name for name in ("band", "teacher", "student", "grid", "alone", "distilled")},
        **{"transfer": "movement", "joint_low": "joint interval from", "joint_high": "to", "moved": "beyond it"},
    }
    signed = dict.fromkeys(("movement", "joint interval from", "to"), "{:+.3f}".format)
    shown = table[list(heads)].rename(columns=heads)
    text = shown.to_html(index=False, border=0, float_format="{:.3f}".format, formatters=signed)
    return f'<h2>Largest movements</h2><div class="table">{text}</div>'
