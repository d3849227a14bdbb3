"""Write docs/performance.md from the tables that speed.py and growth.py filled. Part of `make bench`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch

import sfkd_viz
from sfkd.data import create_dataset
from sfkd.loading import DEMO, load_run
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
        "a switch (`engine.compile`); 43 graph breaks at first, none now, which a test counts for every method; it takes a "
        "compiler on the machine and minutes to start, so it is off by default",
    ),
    (
        "Masks and matrices made once for each size and kept, as constants for `torch.compile`",
        "nothing is made anew in a step",
        "kept: `sfkd._constants`; traced into the graph they would have been computed in float64 at each step",
    ),
    (
        "Mixing and gate of DS2S as one 3×3 matrix an image and channel, pooled energies from 3×3 Gram matrices",
        "two passes over the details less",
        "forward 0.6, forward and backward 1.09 of what it takes now: the backward of small products; not kept",
    ),
    (
        "The identity added to DS2S's kernels instead of to its bands",
        "an addition less",
        "0.9 of that convolution, 0.003 of the step; not kept",
    ),
    (
        "At most 2²⁰ pixels at once through the models of `analyze`",
        "no difference",
        "Swin-T and ResNet18 at 224 pixels take 0.8 of their time by 64 images; kept",
    ),
    (
        "bf16",
        "half the bytes on a GPU",
        "models run in it under autocast; transforms, spectra and losses stay in float32, where half precision is refused "
        "(FFT, ptwt) or loses the small bands",
    ),
    (
        "Gradient of a correlation written out",
        "fewer passes",
        "kept: 0.3 of autograd's time for 32 × 1024; lengths of columns by squares, since `vector_norm` takes twenty times "
        "as long along the first dimension",
    ),
    (
        "Bands of at most 16 positions convolved by a product of matrices a channel",
        "the cost of a small product",
        "kept in light DS2S: forward and backward 0.2 of a depthwise convolution on 2 × 2, 0.8 on 4 × 4, 1.5 on 7 × 7",
    ),
    (
        "Light DS2S: rank 4, coarse bands only",
        "half of full DS2S's cost",
        "light",
    ),
)


# Why a row misses its target.
REASONS = {
    "step-sfkd-light": "Without DS2S the step of all stages is at 1.07 already: alignment, two transforms, two losses, most "
    "of it at 56×56.",
    "analyze": "Models of 32 pixels take 1.8 to 2.4 ms an image, both together. The measures (spectra, band energies, and "
    "the alignment of all layers of both in every band) take 0.6 to 0.9 ms, on these small maps mostly Gram matrices.",
}


def main() -> None:
    speed = pd.read_csv(TABLES / "speed.csv", keep_default_na=False)
    growth = pd.read_csv(TABLES / "growth.csv")
    save_figure(_curves(growth), DOCS / "images" / "growth.png", dpi=120)
    app = pd.read_csv(TABLES / "app.csv", keep_default_na=False).set_index("what")["median"]
    write_atomically(DOCS / "performance.md", page(speed, growth, app, gap()))


@torch.no_grad()
def gap(images: int = 2000) -> tuple[float, float, float]:
    """Of CKA of the bundled pair's layers in every band: largest difference of float32 from float64 features, mean and
    largest difference of blocks of 256 images from the full Gram matrix."""
    run = load_run(DEMO)
    assert run.teacher is not None
    tests = create_dataset(run.config.data, "test")
    pixels = torch.stack([tests[i][0] for i in range(images)])
    sides = []
    for model in (run.teacher, run.student):
        parts = [model(some).features for some in pixels.split(100)]
        sides.append({layer: torch.cat([part[layer] for part in parts]) for layer in parts[0]})
    blocks = sfkd_viz.cka(*sides).by_band
    wide = sfkd_viz.cka(*({k: x.double() for k, x in side.items()} for side in sides)).by_band
    full = sfkd_viz.cka(*sides, block_size=None).by_band
    difference = np.abs(blocks - full)
    return float(np.nanmax(np.abs(blocks - wide))), float(np.nanmean(difference)), float(np.nanmax(difference))


def page(speed: pd.DataFrame, growth: pd.DataFrame, app: pd.Series, gaps: tuple[float, float, float]) -> str:
    """The document."""
    beside = "cold start, ours over smallest page"
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

From `python app/launch.py` to its first drawn view takes {app[f"{beside} that imports torch and timm"]:.2f} of what the
smallest Gradio page with one plotly figure takes that also imports torch and timm (target 1.3), and {app[beside]:.2f} of
what the page alone takes: `make bench-app`, [app.md](app.md).

CKA of the bundled pair's layers in every band, from features of 2,000 test images in float32, differs by at most
{gaps[0]:.1e} from that in float64 (target 1e-6). Blocks of 256 images differ from the full Gram matrix by {gaps[1]:.4f} in
the mean and {gaps[2]:.3f} at most.

## Targets missed

{_missed(speed)}

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


def _missed(speed: pd.DataFrame) -> str:
    lines = [
        f"- {row.what}, against {row.floor}: {row.ratio:.2f} for {row.target}. {REASONS[row.row]}"
        for row in speed.itertuples()
        if row.target != "" and row.ratio > float(row.target)
    ]
    return "\n".join(lines) or "None."


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
        if not _has_memory(what, against):
            memory = ""
        elif rows.MB.max() - rows.MB.min() < 1:
            memory = "flat"
        else:
            memory = f"{np.polyfit(size, np.log(rows.MB.clip(lower=0.1)), 1)[0]:.2f}"
        lines.append(f"| {what} | {against} | {rows.value.min()} … {rows.value.max()} | {time:.2f} | {memory} |")
    return lines


def _has_memory(what: str, against: str) -> bool:
    """Of an analysis the peak is told beyond that of a short one, which has the same images and layers."""
    return what != "analyze" or against == "images"


def _curves(growth: pd.DataFrame) -> go.Figure:
    """A panel for each curve, time above, memory below."""
    curves = list(growth.groupby(["what", "against"], sort=False))
    titles = [f"{'terms' if what != 'analyze' else what} · {against}" for (what, against), _ in curves]
    fig = theme.panels(2, len(curves), [*titles, *[""] * len(curves)], horizontal=0.035, vertical=0.1)
    for column, (curve, rows) in enumerate(curves, 1):
        for row, unit in ((1, "ms"), (2, "MB")):
            if row == 2 and not _has_memory(*curve):
                fig.update_xaxes(visible=False, row=2, col=column)
                fig.update_yaxes(visible=False, row=2, col=column)
                continue
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
            fig.update_yaxes(theme.log_axis(rows[unit].clip(lower=0.1).to_numpy()), row=row, col=column)
    for row, text in ((1, "milliseconds"), (2, "MB")):
        fig.update_yaxes(title_text=text, row=row, col=1)
    note = (
        "Above: time. Below: what backward keeps (terms), or how far the process's peak rises (analyze). Logarithmic; 0.1 "
        "MB stands for less."
    )
    return theme.titled(fig, "Growth", note, 520).update_layout(width=1400)


if __name__ == "__main__":
    main()
