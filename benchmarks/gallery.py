"""Draw docs/gallery.md: every plot of sfkd_viz from the bundled run, with the lines that make it.

make gallery
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import sfkd_viz
from sfkd.runs import write_atomically

DOCS = Path(__file__).parent.parent / "docs"
IMAGES = DOCS / "images" / "gallery"
MOST_BYTES = 120_000

SETUP = """\
import sfkd, sfkd_viz

demo = sfkd.load_demo()
images, targets = demo.samples.images, demo.samples.labels
teacher = demo.run.teacher(images).features
alone = demo.run.baseline(images).features
student = demo.run.student(images).features
maps = {"teacher": teacher["stages.1"], "student alone": alone["layers.0"], "student": student["layers.0"]}
"""

# name of the plot → what it answers, and the lines that end in `fig = …`
ENTRIES: dict[str, tuple[str, str]] = {
    "plot_spectrum": (
        "Where in the frequency plane is the energy of a layer?",
        "fig = sfkd_viz.plot_spectrum(maps)",
    ),
    "plot_radial_spectrum": (
        "How is it spread over frequency, whatever the direction?",
        'fig = sfkd_viz.plot_radial_spectrum({"teacher stages.0": teacher["stages.0"], **maps}, unit="cycles/image")',
    ),
    "plot_relative_amplitude": (
        "Which layers let high frequencies through (Park and Kim, ICLR 2022)?",
        "fig = sfkd_viz.plot_relative_amplitude(teacher)",
    ),
    "plot_subbands": (
        "What do the wavelet sub-bands of one image look like?",
        'one = {name: layer[:1] for name, layer in maps.items()}\nfig = sfkd_viz.plot_subbands(one, channel="pc1")',
    ),
    "plot_band_energy": (
        "How is the energy of each layer shared among them?",
        "fig = sfkd_viz.plot_band_energy(teacher)",
    ),
    "plot_gaussian_mask": (
        "What does the Gaussian filter of the frequency loss keep, and what does it remove?",
        "fig = sfkd_viz.plot_gaussian_mask(maps, sigma=0.25)",
    ),
    "plot_ds2s": (
        "What does each stage of DS2S do to the student's bands?",
        'fig = sfkd_viz.plot_ds2s(demo.run, images, layer="layers.0")',
    ),
    "plot_training": ("How did training go?", "fig = sfkd_viz.plot_training(demo.run)"),
    "plot_cka": (
        "Which layers of teacher and student see the images alike, and in which bands?",
        'fig = sfkd_viz.plot_cka(teacher, student, block_size=40, names=("teacher", "student"))',
    ),
    "plot_transfer": (
        "Which of that did distillation bring, against the student trained alone?",
        "measured = sfkd_viz.transfer(teacher, student, alone, block_size=40)\nfig = sfkd_viz.plot_transfer(measured)",
    ),
    "plot_band_ablation": (
        "Which bands does the student need?",
        "measured = sfkd_viz.band_ablation(demo.run.student, [(images, targets)])\n"
        "fig = sfkd_viz.plot_band_ablation(measured)",
    ),
    "plot_attribution": (
        "Which bands of one image speak for its class, and where?",
        "measured = sfkd_viz.wavelet_attribution(demo.run.student, images[:1], targets[:1])\n"
        "fig = sfkd_viz.plot_attribution(measured, classes=demo.samples.classes)",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="names of plots; the page is written for all of them")
    only = parser.parse_args().only
    missing = [name for name in sfkd_viz.__all__ if name.startswith("plot_") and name not in ENTRIES]
    if missing:
        print(f"not in the gallery yet: {', '.join(missing)}")
    IMAGES.mkdir(parents=True, exist_ok=True)
    scope: dict[str, Any] = {}
    with torch.no_grad():
        exec(SETUP, scope)
        for name, (_, code) in ENTRIES.items():
            if only and name not in only:
                continue
            exec(code, scope)
            size = _save(scope["fig"], IMAGES / f"{name}.png")
            print(f"{name}: {size / 1000:.0f} kB")
    write_atomically(DOCS / "gallery.md", page())


def page() -> str:
    """The gallery as Markdown."""
    parts = [
        "# Gallery",
        "Every plot of `sfkd_viz`, made from the bundled run by `make gallery` (`benchmarks/gallery.py`). Any figure "
        'becomes a file with `sfkd_viz.save_figure(fig, "figure.pdf")` (HTML, PNG, SVG, PDF, or CSV of what is drawn), is '
        "sized for a paper's column by `sfkd_viz.theme.paper(fig, columns=1)`, and goes on a dark ground by "
        "`sfkd_viz.theme.dark(fig)`. All examples begin with",
        f"```python\n{SETUP}```",
    ]
    for name, (question, code) in ENTRIES.items():
        parts += [f"## `{name}`", question, f"```python\n{code}\n```", f"![{name}](images/gallery/{name}.png)"]
    return "\n\n".join(parts) + "\n"


def _save(fig: Any, path: Path) -> int:
    """A PNG of 256 colours, which figures do not miss."""
    with tempfile.TemporaryDirectory() as folder:
        drawn = sfkd_viz.save_figure(fig, Path(folder) / "figure.png", dpi=115)
        with Image.open(drawn) as image:
            small = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    small.save(buffer, "png", optimize=True)
    if buffer.tell() > MOST_BYTES:
        raise SystemExit(f"{path.name} takes {buffer.tell()} bytes, more than {MOST_BYTES}: draw less.")
    path.write_bytes(buffer.getvalue())
    return buffer.tell()


if __name__ == "__main__":
    main()
