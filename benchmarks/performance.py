"""Write docs/performance.md from the tables that speed.py and growth.py filled. Part of `make bench`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sfkd.runs import write_atomically
from sfkd_viz import save_figure, theme

ROOT = Path(__file__).parent.parent
TABLES, DOCS = Path(__file__).parent / "results", ROOT / "docs"

# Way, what was expected, and the row of speed.csv or the sentence that tells what came.
WAYS = (
    (
        "Project before transforming: 1×1 convolutions to at most `width` channels, then wavelets, spectra and DS2S",
        "cost falls with the channels, 4× at ResNet18's last stage",
        "kept: the transforms see 128 channels instead of up to 768",
    ),
    (
        "One decomposition of student and teacher, shared by both losses",
        "the spectral loss needs no transform of its own",
        "kept: `views` decomposes once; the refined map is reconstructed once",
    ),
    ("Haar as sums and differences, with a hand-written backward", "0.3 of ptwt", "haar"),
    (
        "GFFL's filtered complex energy by circulant matrices instead of FFTs, on grids up to 64",
        "1.5 of two rfft2",
        "gffl",
    ),
    (
        "rfft2 with Hermitian weights where spectra are needed (amplitude, log)",
        "half of fft2",
        "kept for these; the complex form needs no spectrum",
    ),
    (
        "Transforms of `analyze` as matrices along each axis, band Gram matrices summed to that of the map",
        "one product for all bands of a small map",
        "analyze",
    ),
    (
        "No autograd on the teacher's side, its maps detached at once",
        "no graph kept",
        "kept; a test looks for the graph",
    ),
    (
        "Variance of standardised channels in two passes instead of `torch.var_mean`",
        "the same",
        "var_mean over (0, 2, 3) took six times as long on the CPU; two passes kept",
    ),
    ("A teacher that runs once (`precompute`)", "the student's own step and a little", "precomputed"),
    (
        "`torch.compile` of the step",
        "fused elementwise work",
        "a switch (`engine.compile`); no graph break, which a test counts; it takes a compiler on the machine and a "
        "minute to start, so it is off by default",
    ),
    (
        "Light DS2S: rank 4, coarse bands only",
        "half of full DS2S's cost",
        "light",
    ),
)


def main() -> None:
    speed = pd.read_csv(TABLES / "speed.csv", keep_default_na=False)
    growth = pd.read_csv(TABLES / "growth.csv")
    save_figure(_curves(growth), DOCS / "images" / "growth.png", dpi=120)
    write_atomically(DOCS / "performance.md", page(speed, growth))


def page(speed: pd.DataFrame, growth: pd.DataFrame) -> str:
    """The document."""
    machines = ", ".join(dict.fromkeys(speed.machine))
    commits = ", ".join(f"`{commit}`" for commit in dict.fromkeys(speed.commit))
    return f"""# Performance

Made by `make bench` from `benchmarks/results/speed.csv` and `growth.csv`; `make bench ARGS="haar-2-56 gffl-56"` measures
rows again. Each row is a ratio of two things timed in turn in one process (`benchmarks/interleaved.py`): the median of
paired ratios, with quartiles. Machine: {machines}. Commit {commits}. A ratio above its target is bold.

{_table(speed)}

"KD step" is a step of logit distillation with the same models and batch: Swin-T → ResNet18, 224 pixels, batch 8. On the same
machine OFA-KD's own code costs 1.24 of its KD step and 1.63 M parameters (measured once by us; not repeated by this
command). Memory is the sum of all tensors that backward keeps. pytorch_wavelets 1.3.0 imports a module that setuptools
dropped in version 81; its rows are measured where an older one is at hand.

## Ways tried

| way | expected | came |
|-|-|-|
{chr(10).join(f"| {way} | {expected} | {_outcome(came, speed)} |" for way, expected, came in WAYS)}

## Growth

![Time and memory against size](images/growth.png)

| what | against | from … to | time grows as n^ | memory grows as n^ |
|-|-|-|-|-|
{chr(10).join(_exponents(growth))}

Exponents are least-squares slopes over all points of a curve in logarithms. What the [paper-scale recipes](scale.md) would
take is reckoned on a page of its own.
"""


def _table(speed: pd.DataFrame) -> str:
    lines = ["| what | floor or rival | ratio | target | ms | parameters beside the student | MB kept for backward |"]
    lines.append("|" + "-|" * 7)
    for row in speed.itertuples():
        text = f"{row.ratio:.2f} ({row.low:.2f}–{row.high:.2f})"
        missed = row.target != "" and row.ratio > float(row.target)
        cells = [row.what, row.floor, f"**{text}**" if missed else text, row.target, f"{row.ours_ms:.4g}"]
        lines.append(f"| {' | '.join(map(str, [*cells, _whole(row.parameters), _whole(row.megabytes)]))} |")
    return "\n".join(lines)


def _whole(value: object) -> str:
    return "" if value == "" else f"{float(str(value)):,.0f}"


def _outcome(came: str, speed: pd.DataFrame) -> str:
    """The sentence, or the ratios of the rows whose name begins so."""
    rows = {
        "haar": ["haar-2-56", "haar-3-56", "haar-2-16", "haar-3-16"],
        "gffl": ["gffl-56", "gffl-16"],
        "analyze": ["analyze"],
        "precomputed": ["precomputed"],
        "light": ["step-sfkd-light", "step-sfkd-full"],
    }.get(came)
    if rows is None:
        return came
    found = speed.set_index("row")
    return "; ".join(
        f"{found.loc[name, 'what']}: {found.loc[name, 'ratio']:.2f}" for name in rows if name in found.index
    )


def _exponents(growth: pd.DataFrame) -> list[str]:
    lines = []
    for (what, against), rows in growth.groupby(["what", "against"], sort=False):
        size = np.log(rows.value)
        time = np.polyfit(size, np.log(rows.ms.clip(lower=0.01)), 1)[0]
        flat = rows.MB.max() - rows.MB.min() < 30
        memory = (
            "flat" if what == "analyze" and flat else f"{np.polyfit(size, np.log(rows.MB.clip(lower=0.1)), 1)[0]:.2f}"
        )
        lines.append(f"| {what} | {against} | {rows.value.min()} … {rows.value.max()} | {time:.2f} | {memory} |")
    return lines


def _curves(growth: pd.DataFrame) -> go.Figure:
    """A panel for each curve, time above, memory below."""
    curves = list(growth.groupby(["what", "against"], sort=False))
    titles = [f"{'terms' if what != 'analyze' else what} · {against}" for (what, against), _ in curves]
    fig = theme.panels(2, len(curves), [*titles, *[""] * len(curves)], horizontal=0.035, vertical=0.1)
    for column, (_, rows) in enumerate(curves, 1):
        for row, unit in ((1, "ms"), (2, "MB")):
            line = go.Scatter(
                x=rows.value,
                y=rows[unit].clip(lower=0.1),
                mode="lines+markers",
                showlegend=False,
                line={"color": theme.PALETTE[row - 1]},
            )
            fig.add_trace(line, row, column)
            fig.update_xaxes(
                type="log", tickvals=list(rows.value), ticktext=[str(v) for v in rows.value], row=row, col=column
            )
            fig.update_yaxes(type="log", row=row, col=column)
    for row, text in ((1, "milliseconds"), (2, "MB")):
        fig.update_yaxes(title_text=text, row=row, col=1)
    note = (
        "Above: time. Below: what backward keeps (terms), or how far the process's peak rises (analyze). Logarithmic."
    )
    return theme.titled(fig, "Growth", note, 520).update_layout(width=1400)


if __name__ == "__main__":
    main()
