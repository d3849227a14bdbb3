"""How fast the app is, and whether sixteen visitors get what they ask for: make bench-app [ARGS="server load"].

Writes benchmarks/results/app.csv (a row a number, with its quartiles) and the tables of docs/app.md. Parts: `server` (time
of every control in every view, and the size of what is sent), `browser` (a slider released to a figure drawn, memory),
`start` (from a cold process, beside the smallest Gradio page with a plotly figure; from a warm one), `load`, `tables`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from app_page import CHROMIUM, FLAGS
from app_process import free_port, running
from app_visitors import visit
from catalogue import CARDS
from engine import Engine
from playwright.sync_api import Browser, Page, sync_playwright
from runs_root import RunsRoot
from settings import CHANNELS, Settings
from work import Work

from sfkd.runs import write_atomically

ROOT = Path(__file__).resolve().parent.parent
TABLE, DOCUMENT = ROOT / "benchmarks" / "results" / "app.csv", ROOT / "docs" / "app.md"
WIDE = "timm|resnet18|swin_tiny_patch4_window7_224|random"  # first layers of 56×56
SMALLEST = """
import sys
{imports}
import gradio as gr
import plotly.graph_objects as go

with gr.Blocks(analytics_enabled=False) as page:
    gr.Plot(go.Figure(go.Scatter(y=[1, 3, 2])))
page.launch(server_name="127.0.0.1", server_port=int(sys.argv[1]), share=False, ssr_mode=False, quiet=True, _frontend=False)
"""
AIMS = {
    "slider to figure": "≤ 350 ms",
    "zoom kept, 1 for yes": "1",
    "memory over 200 changes": "no growth",
    "nodes over 200 changes": "no growth",
    "cold start, ours over smallest page": "≤ 1.3",
    "first view of a warm server, ours": "≤ 3 s",
    "16 visitors: errors": "0",
}
Rows = Iterator[dict[str, Any]]


def main() -> None:
    parts: dict[str, Callable[[], Rows]] = {"server": server, "browser": browser, "start": start, "load": load}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=", ".join([*parts, "tables"]))
    asked = parser.parse_args().parts or list(parts)
    for name in asked:
        if name == "tables":
            continue
        before = pd.read_csv(TABLE, keep_default_na=False) if TABLE.is_file() else pd.DataFrame()
        rows = []
        for row in parts[name]():
            print(" ".join(map(str, row.values())), flush=True)
            rows.append({"part": name, **row, "machine_load": f"{os.getloadavg()[0]:.1f}"})
        others = before[before.part != name] if len(before) else before
        write_atomically(TABLE, pd.concat([others, pd.DataFrame(rows)]).to_csv(index=False))
    tables()


# -- parts ------------------------------------------------------------------------------------------------------------


def server() -> Rows:
    """Milliseconds of the engine for each control of each view, features and measures at hand, nothing drawn before."""
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(RunsRoot(Path(folder)), "cpu", kept=0)
        for view in CARDS:
            for pair in ("bundled", WIDE):
                if pair == WIDE and view not in ("Sub-bands", "Spectra", "Gaussian masks", "DS2S"):
                    continue
                image = "mean:16" if view == "Ablation" else "test:0"  # how it is drawn does not hang on how many
                yield from _controls(engine, Settings(view=view, pair=pair, image=image))


def _controls(engine: Engine, settings: Settings) -> Rows:
    look = engine.look(settings, Work())
    settings, named = look.settings, "bundled" if settings.pair == "bundled" else "56×56"
    sizes = [len(figure) for figure in engine.show(settings, Work()).figures]
    assert all(sizes)
    yield _row("sent", settings.view, named, "kB of JSON", [sum(sizes) / 1000])
    controls = {"view": [settings.view], **_values(look.pair.described.layers, list(look.pair.models))}
    for control, values in controls.items():
        if control not in {*CARDS[settings.view].follows, "view"}:
            continue
        changed = [replace(settings, **{control: value}).valid() for value in values]
        for one in changed:
            engine.show(one, Work())  # what is measured slowly is measured once, and kept
        times, worked = [], []
        for one in changed * -(-15 // len(changed)):
            begun, began = time.perf_counter(), time.thread_time()
            engine.show(one, Work())
            times.append(1000 * (time.perf_counter() - begun))
            worked.append(1000 * (time.thread_time() - began))
        yield _row(control, settings.view, named, "ms", times)
        yield _row(control, settings.view, named, "ms of CPU", worked)


def _values(layers: list[str], models: list[str]) -> dict[str, list[Any]]:
    return {
        "layer": layers,
        "wavelet": ["haar", "db2"],
        "levels": [1, 2],
        "band": ["A", "H1"],
        "channel": [channel for channel in CHANNELS if CHANNELS[channel] in ("energy", "pc1")],
        "sigma": [n / 100 for n in range(10, 25)],
        "model": models,
    }


def browser() -> Rows:
    """A slider released to a figure drawn in Chromium, and what two hundred changes leave behind."""
    with _served() as (address, chromium):
        _, teacher, student, weights = WIDE.split("|")
        query = f"view=gaussian-masks&image=photo:cat&teacher={teacher}&student={student}&weights={weights}"
        page = _page(chromium, f"{address}?{query}")
        page.wait_for_function("() => document.querySelector('.badge.warn')", timeout=180_000)
        page.wait_for_function(_DRAWN, arg="σ = 0.25 ", timeout=180_000)
        page.evaluate("() => Plotly.relayout(sfkdPlot(), {'xaxis2.range': [10, 40], 'yaxis2.range': [40, 10]})")
        times = [page.evaluate(_SLIDE, 0.1 + 0.01 * step) for step in range(40)]
        yield _row("slider to figure", "Gaussian masks", "2×4 of 56×56", "ms", times)
        zoom = page.evaluate("() => sfkdPlot()._fullLayout.xaxis2.range")
        yield _row("zoom kept, 1 for yes", "Gaussian masks", "2×4 of 56×56", "", [float(zoom == [10, 40])])
        before = _held(page)
        for step in range(200):
            page.evaluate(_SLIDE, 0.1 + 0.01 * (step % 50))
        after = _held(page)
        yield _row("memory over 200 changes", "Gaussian masks", "2×4 of 56×56", "MB", [(after[0] - before[0]) / 1e6])
        yield _row("nodes over 200 changes", "Gaussian masks", "2×4 of 56×56", "DOM nodes", [after[1] - before[1]])


def start() -> Rows:
    """From a cold process to the first figure, beside the smallest pages that draw one; and from a warm server."""
    ours = "ours"
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        sides = {ours: [sys.executable, "app/launch.py", "--no-browser", "--port"]}
        for name, imports in (
            ("smallest page", ""),
            ("smallest page that imports torch and timm", "import torch, timm"),
        ):
            script = Path(folder) / f"{len(sides)}.py"
            script.write_text(SMALLEST.replace("{imports}", imports))
            sides[name] = [sys.executable, str(script)]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        cold: dict[str, list[float]] = {name: [] for name in sides}
        warm: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(6):
            for name in list(sides)[:: 1 if number % 2 else -1]:
                # what ours loads behind the first view is loaded twelve seconds later
                began, then = _from_cold(chromium, sides[name], settle=12 * (name == ours))
                cold[name].append(began)
                warm[name].extend(then)
        chromium.close()
    for name, seconds in cold.items():
        yield _row(f"cold start, {name}", "Overview", "bundled", "s", seconds)
        if name != ours:
            ratios = [a / b for a, b in zip(cold[ours], seconds, strict=True)]
            yield _row(f"cold start, ours over {name}", "Overview", "bundled", "ratio", ratios)
        yield _row(f"first view of a warm server, {name}", "Overview", "bundled", "s", warm[name])


def load() -> Rows:
    """Sixteen visitors for a minute."""
    with _served() as (address, _):
        found = visit(address, visitors=16, seconds=60)
    for error in found.pop("first"):
        print(error, file=sys.stderr)
    units = {"answers": "in 60 s", "errors": "", "checked": "answers, number by number", "median": "s", "p95": "s"}
    for name, value in found.items():
        yield _row(f"16 visitors: {name}", "all quick ones", "bundled", units[name], [float(value)])


# -- what they share --------------------------------------------------------------------------------------------------

_DRAWN = """title => [...document.querySelectorAll('figure')].some(figure => figure.offsetParent
    && figure.getAttribute('aria-busy') === 'false' && figure.querySelector('.title').textContent.includes(title)
    && (window.sfkdPlot = () => figure.querySelector('.plot')))"""
_SLIDE = """async sigma => {
    const input = document.querySelector('#sigma input[type=range]'), figure = sfkdPlot().closest('figure');
    const drawn = new Promise(done => figure.addEventListener('sfkd:drawn', function on() {
        if (!figure.querySelector('.title').textContent.includes(`σ = ${Number(sigma.toFixed(2))} `)) return;
        figure.removeEventListener('sfkd:drawn', on); requestAnimationFrame(() => done(performance.now())) }));
    Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(input, sigma.toFixed(2));
    const begun = performance.now();
    input.dispatchEvent(new Event('input', {bubbles: true}));
    return await drawn - begun }"""


class _served:
    """A warm app and a Chromium: (address, browser)."""

    def __enter__(self) -> tuple[str, Browser]:
        self.folder = tempfile.TemporaryDirectory()
        self.app = running(Path(self.folder.name))
        address = self.app.__enter__()
        self.playwright = sync_playwright().start()
        self.chromium = self.playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = _page(self.chromium, f"{address}?view=sub-bands")
        page.wait_for_function(_DRAWN, arg="Wavelet sub-bands", timeout=180_000)
        page.context.close()
        return address, self.chromium

    def __exit__(self, *_: object) -> None:
        self.chromium.close()
        self.playwright.stop()
        self.app.__exit__(None, None, None)
        self.folder.cleanup()


def _page(chromium: Browser, address: str) -> Page:
    page = chromium.new_context(viewport={"width": 1366, "height": 900}).new_page()
    page.goto(address)
    return page


def _from_cold(chromium: Browser, command: list[str], *, settle: float) -> tuple[float, list[float]]:
    """Seconds from the start of a process to its figure in a browser, and, `settle` later, from opening the page to it."""
    port, begun = free_port(), time.perf_counter()
    with subprocess.Popen(
        [*command, str(port)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            while not _answers(port):
                time.sleep(0.02)
            _first_figure(chromium, port)
            cold = time.perf_counter() - begun
            time.sleep(settle)
            return cold, [_first_figure(chromium, port) for _ in range(2)]
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
    except OSError:
        return False
    return True


def _first_figure(chromium: Browser, port: int) -> float:
    """Seconds from the server's answer to the figure, with nothing in the browser's cache."""
    page = chromium.new_context(viewport={"width": 1366, "height": 900}).new_page()
    page.goto(f"http://127.0.0.1:{port}/", wait_until="commit")
    begun = time.perf_counter()
    page.wait_for_selector(".js-plotly-plot .main-svg", timeout=120_000)
    seconds = time.perf_counter() - begun
    page.context.close()
    return seconds


def _held(page: Page) -> tuple[float, float]:
    """Bytes and DOM nodes that the page holds, garbage collected."""
    client = page.context.new_cdp_session(page)
    client.send("HeapProfiler.collectGarbage")
    client.send("Performance.enable")
    found = {metric["name"]: metric["value"] for metric in client.send("Performance.getMetrics")["metrics"]}
    client.detach()
    return found["JSHeapUsedSize"], found["Nodes"]


def _row(what: str, view: str, of: str, unit: str, values: list[float]) -> dict[str, Any]:
    low, median, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    numbers = {"median": f"{median:.4g}", "low": f"{low:.4g}", "high": f"{high:.4g}"}
    return {"what": what, "view": view, "of": of, "unit": unit, **numbers, "repeats": len(values)}


def tables() -> None:
    """Put the tables of docs/app.md in the place of those that are there."""
    text, rows = DOCUMENT.read_text(encoding="utf-8"), pd.read_csv(TABLE, keep_default_na=False)
    for name in ("controls", "rest"):
        shown = rows[(rows.part == "server") == (name == "controls")]
        told = _controls_table(shown) if name == "controls" else _table(shown)
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, _, after = text.partition(begin)
        text = f"{before}{begin}\n\n{told}\n\n{end}{after.partition(end)[2]}"
    write_atomically(DOCUMENT, text)


def _controls_table(rows: pd.DataFrame) -> str:
    """A line a view, a column a control: median (quartiles)."""
    words = {"sent": "kB sent", "view": "opened"}
    controls = [c for c in (*words, *_values([], [])) if c in set(rows.what)]
    lines = ["| view, pair | " + " | ".join(words.get(c, c) for c in controls) + " |"]
    lines.append("|---" * (len(controls) + 1) + "|")
    for (view, of), some in rows.groupby(["view", "of"], sort=False):
        cells = {(row.what, row.unit): row for row in some.itertuples()}
        told = [_cell(cells.get((c, "ms")), cells.get((c, "ms of CPU"))) for c in controls if c != "sent"]
        lines.append(f"| {view}, {of} | {cells['sent', 'kB of JSON'].median:.0f} | " + " | ".join(told) + " |")
    return "\n".join(lines)


def _cell(passed: Any, worked: Any) -> str:
    return "" if passed is None else f"{worked.median:.0f}, {passed.median:.0f} ({passed.low:.0f}–{passed.high:.0f})"


def _table(rows: pd.DataFrame) -> str:
    lines = ["| | median | quartiles | repeats | aim |", "|---|---|---|---|---|"]
    for row in rows.itertuples():
        spread = f"{row.low:g}–{row.high:g}" if row.repeats > 1 else ""
        aim = AIMS.get(row.what, "")
        lines.append(f"| {row.what} ({row.of}) | {row.median:g} {row.unit} | {spread} | {row.repeats} | {aim} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
