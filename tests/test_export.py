"""Figures as files and as tables, and the habits that all figures share."""

import json
import re
import struct
import threading

import numpy as np
import plotly.graph_objects as go
import pytest
from choreographer.browsers.chromium import Chromium
from helpers import ROOT
from plotly.subplots import make_subplots

import sfkd_viz
from sfkd.loading import DEMO
from sfkd_viz import theme

RNG = np.random.default_rng(2)
needs_browser = pytest.mark.skipif(Chromium.find_browser(skip_local=False) is None, reason="no browser here")


@pytest.fixture(scope="module")
def figure():
    return sfkd_viz.plot_radial_spectrum({"a": RNG.normal(size=(2, 8, 8)), "b": RNG.normal(size=(2, 4, 4))})


@needs_browser
@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<svg"), ("pdf", b"%PDF")])
def test_images_by_the_browser_that_is_there(figure, tmp_path, suffix, start):
    before = set(threading.enumerate())
    path = sfkd_viz.save_figure(theme.paper(figure), tmp_path / f"figure.{suffix}", dpi=96)
    assert path.read_bytes().startswith(start)
    for left in set(threading.enumerate()) - before:  # the browser's end is awaited by threads of choreographer
        left.join(timeout=20)
        assert not left.is_alive()
    if suffix == "png":
        width, _ = struct.unpack(">II", path.read_bytes()[16:24])
        assert width == round(83 / 25.4 * 96)


def test_html_is_self_contained(figure, tmp_path):
    text = sfkd_viz.save_figure(figure, tmp_path / "figure.html").read_text(encoding="utf-8")
    assert len(text) > 1_000_000  # plotly.js itself
    assert "<script src=" not in text
    assert re.search(r'<(script|link|img|iframe)[^<>]* (src|href)="http', text) is None


def test_no_browser_is_one_clear_line(figure, tmp_path, monkeypatch):
    monkeypatch.setattr(Chromium, "find_browser", lambda **_: None)
    with pytest.raises(RuntimeError, match=r"looked for Chrome, Chromium.*apt install chromium.*BROWSER_PATH"):
        sfkd_viz.save_figure(figure, tmp_path / "figure.png")
    monkeypatch.setattr(Chromium, "find_browser", lambda **_: str(tmp_path / "gone"))
    with pytest.raises(RuntimeError, match="gone is no file"):
        sfkd_viz.save_figure(figure, tmp_path / "figure.svg")


@pytest.mark.parametrize(
    ("name", "dpi", "message"),
    [
        ("figure.bmp", 96, r"ends in \.html, \.png, \.svg, \.pdf, \.csv, got 'figure.bmp'"),
        ("figure", 96, "ends in"),
        ("no/figure.png", 96, "a folder that exists"),
        ("figure.png", 0, "dpi > 0"),
    ],
)
def test_mistakes_are_refused(figure, tmp_path, name, dpi, message):
    with pytest.raises(ValueError, match=message):
        sfkd_viz.save_figure(figure, tmp_path / name, dpi=dpi)
    with pytest.raises(TypeError, match="expects a plotly Figure"):
        sfkd_viz.save_figure({}, tmp_path / "figure.html")


def test_data_of_lines(figure, tmp_path):
    table = sfkd_viz.figure_data(figure)
    a = table[table.trace == "a (8×8)"]
    np.testing.assert_array_equal(a.x, figure.data[0].x)
    np.testing.assert_array_equal(a.y, figure.data[0].y)
    assert set(table.panel) == {"Radial energy spectrum"}
    assert set(table.x_title) == {"frequency (cycles/image: compares content across grids)"}
    lines = sfkd_viz.save_figure(figure, tmp_path / "figure.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + len(table)


def test_data_of_heat_maps_names_panels_and_places():
    maps = {"a": RNG.normal(size=(4, 6)), "b": RNG.normal(size=(8, 8))}
    fig = sfkd_viz.plot_spectrum(maps)
    table = sfkd_viz.figure_data(fig)
    a = table[table.panel.str.startswith("a · 4×6")].pivot(index="y", columns="x", values="value")
    np.testing.assert_allclose(a.to_numpy(), fig.data[0].z)
    np.testing.assert_allclose(a.columns, np.fft.fftshift(np.fft.fftfreq(6)), atol=1e-7)
    assert set(table.value_title) == {"log₁₀ share of energy"}
    bands = sfkd_viz.figure_data(sfkd_viz.plot_subbands(np.eye(8), levels=1))
    assert bands.groupby("trace").size().to_dict() == dict.fromkeys(("A1", "H1", "V1", "D1"), 16)
    assert bands[bands.trace == "D1"].x.min() == 4.5


def test_data_of_bars_with_errors_and_of_unknown_traces():
    fig = make_subplots(1, 2, subplot_titles=["left", "right"])
    fig.add_trace(go.Bar(x=["u", "v"], y=[1, 2], error_y={"array": [0.1, 0.2]}, name="bars"), 1, 2)
    fig.add_trace(go.Scatter(y=[5, 6], name="hidden", visible="legendonly"), 1, 1)
    table = sfkd_viz.figure_data(fig)
    assert list(table.panel) == ["right", "right"]
    assert list(table.error_down) == [0.1, 0.2]
    with pytest.raises(TypeError, match="got 'pie'"):
        sfkd_viz.figure_data(go.Figure(go.Pie(values=[1, 2])))


@pytest.mark.parametrize(("columns", "millimetres"), [(1, 83), (2, 175)])
def test_paper_is_a_column_wide_and_moves_the_title(figure, columns, millimetres):
    printed = theme.paper(figure, columns=columns)
    assert printed.layout.width == round(millimetres / 25.4 * 96)
    assert printed.layout.title.text is None
    assert printed.layout.meta["caption"] == figure.layout.title.text
    assert printed.layout.font.size == pytest.approx(7 * 96 / 72)
    assert figure.layout.width is None
    with pytest.raises(ValueError, match="columns=1"):
        theme.paper(figure, columns=3)


def test_on_paper_cells_hold_only_what_fits_and_legends_go_below():
    x = {f"layer {i}": RNG.normal(size=(8, 2, 8, 8)) for i in range(4)}
    fig = sfkd_viz.plot_cka(x, x, levels=1)
    one, two = theme.paper(fig), theme.paper(fig, columns=2)
    assert {cell for row in one.data[0].text for cell in row} == {""}
    assert [list(row) for row in two.data[0].text] == [list(row) for row in fig.data[0].text]
    assert one.data[0].textfont.size < one.layout.font.size
    demo = sfkd_viz.plot_training(DEMO)
    assert demo.layout.legend.orientation == "v"
    printed = theme.paper(demo)
    assert (printed.layout.legend.orientation, printed.layout.legend.yanchor) == ("h", "top")
    assert printed.layout.legend.y < 0
    assert printed.layout.margin.b > theme.paper(demo, columns=2).layout.margin.b


def test_dark_changes_the_template_alone(figure):
    dark = theme.dark(figure)
    assert dark.layout.template.layout.paper_bgcolor != figure.layout.template.layout.paper_bgcolor
    assert dark.layout.title.text == figure.layout.title.text
    assert dark.data == figure.data


def test_cells_are_area_means():
    z = RNG.normal(size=(6, 9))
    np.testing.assert_allclose(theme.cells(z, most=3)[:, 0], z[:, :3].reshape(3, 2, 3).mean((1, 2)), rtol=1e-5)
    odd = RNG.normal(size=(5, 5))
    assert theme.cells(odd, most=3).mean() == pytest.approx(odd.mean(), rel=1e-4)
    assert theme.cells(odd).dtype == np.float32
    np.testing.assert_array_equal(theme.cells(odd), odd.astype(np.float32))
    np.testing.assert_allclose(theme.centres(np.arange(6), most=3), [0.5, 2.5, 4.5])
    assert theme.thinned((256, 256)) == ""
    assert theme.thinned((512, 300), (8, 8)) == "512×300 drawn as 256×256 area means."


@pytest.mark.parametrize(
    "plot", [sfkd_viz.plot_spectrum, sfkd_viz.plot_subbands, sfkd_viz.plot_gaussian_mask], ids=lambda p: p.__name__
)
def test_large_maps_make_small_json_and_the_title_says_so(plot):
    fig = plot(RNG.normal(size=(600, 520)))
    cells: dict[str, int] = {}
    for trace in fig.data:
        if trace.type == "heatmap":
            assert trace.z.dtype == np.float32
            cells[trace.xaxis] = cells.get(trace.xaxis, 0) + trace.z.size
    assert max(cells.values()) <= 256 * 256
    assert "600×520 drawn as 256×256 area means" in fig.layout.title.text
    # four bytes a cell, in base64 whose slashes are escaped
    assert len(fig.to_json()) < sum(cells.values()) * 7 + 30_000
    assert not [v for v in _typed(json.loads(fig.to_json())) if v == "f8"]


def _typed(node):
    if isinstance(node, dict):
        yield from [node["dtype"]] if "bdata" in node else []
        for inner in node.values():
            yield from _typed(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from _typed(inner)


@pytest.mark.parametrize("name", [name for name in sfkd_viz.__all__ if name.startswith("plot_")])
def test_every_plot_is_in_the_gallery(name):
    docs = ROOT / "docs"
    assert f"sfkd_viz.{name}(" in (docs / "gallery.md").read_text(encoding="utf-8")
    assert 1_000 < (docs / "images" / "gallery" / f"{name}.png").stat().st_size < 120_000
