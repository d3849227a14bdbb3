"""The pictures of docs/app.md and the README: every view of the app in Chromium, light and dark.

PYTHONPATH=app:tests python benchmarks/app_pictures.py [VIEW …]. What a picture shows is an address that can be opened.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from app_page import CHROMIUM, FLAGS, Visit
from app_process import running
from catalogue import CARDS
from PIL import Image
from playwright.sync_api import sync_playwright

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "images"

QUERIES = {
    "Overview": "",
    "Sub-bands": "view=sub-bands&image=photo:cat",
    "Spectra": "view=spectra&image=mean:64",
    "Gaussian masks": "view=gaussian-masks&image=photo:cat&sigma=0.12",
    "DS2S": "view=ds2s&image=mean:64",
    "CKA": "view=cka",
    "Attribution": "view=attribution&image=test:8",
    "Ablation": "view=ablation",
    "Training": "view=training",
}
assert list(QUERIES) == list(CARDS)


def main(views: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for view in views or QUERIES:
            for theme in ("light", "dark"):
                visit = Visit(browser, address, "&".join(filter(None, (QUERIES[view], f"__theme={theme}"))))
                _keep(_taken(visit, view), PICTURES / "app" / f"{view.lower().replace(' ', '-')}-{theme}.png")
                visit.close()
        if not views:
            _keep(Image.open(PICTURES / "app" / "overview-light.png"), PICTURES / "app.png")
        browser.close()


def _taken(visit: Visit, view: str) -> Image.Image:
    """The whole page, once all figures of the view are drawn."""
    page = visit.page
    page.wait_for_function(
        """labels => (figures => figures.length === labels.length && figures.every((figure, i) =>
            figure.dataset.drawn && figure.getAttribute('aria-busy') === 'false'
            && figure.getAttribute('aria-label').startsWith(labels[i])))(
            [...document.querySelectorAll('figure')].filter(figure => figure.offsetParent))""",
        arg=list(CARDS[view].figures),
    )
    page.mouse.move(1, 1)
    return Image.open(io.BytesIO(page.screenshot(full_page=True, animations="disabled")))


def _keep(picture: Image.Image, path: Path) -> None:
    """As a PNG of 256 colours, a third of the bytes; chosen so that rare ones, such as those of a bar of colours, stay."""
    path.parent.mkdir(parents=True, exist_ok=True)
    few = picture.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    print(f"{path.relative_to(PICTURES)}: {path.stat().st_size // 1000} kB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
