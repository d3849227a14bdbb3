"""Every view without a browser: answers, figures, the Python under them; pairs and pictures."""

import base64
import json
import re
from dataclasses import replace

import numpy as np
import opening
import plotly.graph_objects as go
import pytest
import torch
from catalogue import CARDS
from engine import Engine
from messages import MissingWeights, UserError
from payload import payload
from PIL import Image
from runs_root import RunsRoot
from settings import ALL_BANDS, BUNDLED, VIEWS, Settings, bands
from views import SHOW, Drawn
from work import Stopped, Work

import sfkd.weights
import sfkd_viz
from sfkd.train import train

SMALL = "timm|test_resnet.r160_in1k|test_vit.r160_in1k|random"


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return Engine(RunsRoot(tmp_path_factory.mktemp("runs")), "cpu")


@pytest.fixture
def shown(monkeypatch):
    """Figures that a script showed."""
    figures = []
    monkeypatch.setattr(go.Figure, "show", lambda figure, *_, **__: figures.append(figure))
    return figures


def drawn(engine, **choices):
    settings = Settings(**choices).valid()
    return SHOW[settings.view](engine.look(settings, Work()))


def decoded(values):
    """An array as plotly sends it, or as it is."""
    if not isinstance(values, dict):
        return values
    flat = np.frombuffer(base64.b64decode(values["bdata"]), dtype=values["dtype"])
    return flat.reshape([int(n) for n in str(values.get("shape", len(flat))).split(",")])


def same_numbers(a, b):
    assert len(a.data) == len(b.data)
    for one, other in zip(a.data, b.data, strict=True):
        for key in ("z", "x", "y"):
            mine, its = (decoded(trace[key]) if key in trace else None for trace in (one, other))
            if mine is None or np.asarray(mine).dtype.kind not in "fi":
                assert str(mine) == str(its)
            else:
                np.testing.assert_allclose(mine, its, atol=1e-4, rtol=1e-3)


def words(text):
    """A text without its numbers, of which another processor may round the last digit otherwise."""
    return re.sub(r"[-+]?\d[\d.,]*", "#", text)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("image", ["test:3", "photo:cat", "mean:24"])
def test_every_view_of_the_bundled_pair(engine, view, image):
    found = drawn(engine, view=view, image=image)
    assert found.answer.endswith(".")
    assert len(found.figures) == len(CARDS[view].figures)
    for figure in found.figures:
        assert figure.figure.data
        assert figure.figure.layout.height
        assert len(figure.figure.to_json()) < 1_000_000


@pytest.mark.parametrize(
    "choices",
    [
        *({"view": view} for view in VIEWS),
        {
            "view": "Sub-bands",
            "band": "H1",
            "channel": "one channel",
            "number": 3,
            "wavelet": "db2",
            "image": "photo:cat",
        },
        {"view": "Gaussian masks", "sigma": 0.1, "channel": "principal component 1", "image": "mean:40"},
        {"view": "Overview", "image": "mean:40", "band": "A", "wavelet": "sym2", "levels": 1},
        {"view": "CKA", "band": "H2", "image": "mean:40"},
        {"view": "Attribution", "site": "layer", "model": "teacher", "layer": "layers.1 ↔ stages.2"},
        {"view": "Ablation", "model": "teacher", "levels": 1, "image": "mean:16"},
        {"view": "DS2S", "pair": SMALL, "image": "photo:coffee"},
        {"view": "Spectra", "pair": SMALL, "image": "photo:coffee", "model": "teacher"},
        {"view": "Overview", "pair": SMALL, "image": "mean:16"},
        {"view": "Ablation", "pair": SMALL, "image": "mean:16", "levels": 1},
        {"view": "Attribution", "pair": SMALL},
    ],
    ids=lambda choices: "-".join(str(value) for value in choices.values()),
)
def test_the_python_under_a_figure_makes_it_again(engine, shown, choices):
    for figure in drawn(engine, **choices).figures:
        shown.clear()
        exec(compile(figure.python, figure.name, "exec"), {})
        (again,) = shown
        assert again.layout.title.text == figure.figure.layout.title.text
        same_numbers(again, figure.figure)


def test_controls_change_the_figure(engine):
    def title(**choices):
        return drawn(engine, **choices).figures[0].figure.layout.title.text

    def traces(**choices):
        return len(drawn(engine, **choices).figures[0].figure.data)

    assert traces(view="Sub-bands", levels=1) < traces(view="Sub-bands", levels=3)
    assert traces(view="Sub-bands", band="A") == 3
    assert "db2" in title(view="Sub-bands", wavelet="db2")
    assert "0.1" in title(view="Gaussian masks", sigma=0.1)
    assert "layers.1" in title(view="DS2S", layer="layers.1 ↔ stages.2")
    assert "teacher" in title(view="Attribution", model="teacher")
    assert traces(view="Overview", band="H1") == 1
    assert drawn(engine, view="CKA", band="A").answer != drawn(engine, view="CKA").answer


def test_a_sheet_says_what_models_and_labels_say(engine):
    sheet = engine.show(Settings(view="Sub-bands", image="test:0"), Work())
    assert all(word in sheet.verdict for word in ("T shirt", "teacher", "student alone", "student (sfkd)", "%"))
    assert "mean over 24 sample images" in engine.show(Settings(view="Sub-bands", image="mean:24"), Work()).verdict
    assert sheet.query == "view=sub-bands"


def test_equal_settings_are_drawn_once(engine, monkeypatch):
    settings = Settings(view="Spectra", image="test:7")
    first = engine.show(settings, Work())
    monkeypatch.setitem(SHOW, "Spectra", None)
    assert engine.show(settings, Work()) is first


def test_what_cannot_be_shown_is_said_in_the_view(engine):
    sheet = engine.show(Settings(view="Sub-bands", channel="one channel", number=500), Work())
    assert "All maps of layers.0 ↔ stages.0 have channels 0 to 23, not 500" in sheet.answer
    assert "role='alert'" in sheet.answer
    assert sheet.figures == ("", "")
    assert "were not trained here" in engine.show(Settings(view="Training", pair=SMALL), Work()).answer


def test_a_mistake_of_ours_is_no_traceback(engine, monkeypatch):
    monkeypatch.setattr(sfkd_viz, "plot_spectrum", lambda *_: 1 / 0, raising=False)
    sheet = engine.show(Settings(view="Spectra", image="test:9"), Work())
    assert "the terminal that runs the app" in sheet.answer


def test_a_stopped_view_stops(engine):
    work = Work()
    work.stop()
    with pytest.raises(Stopped):
        engine.show(Settings(view="Ablation", levels=3), work)


def test_progress_is_told_while_it_measures(engine):
    told = []

    class Told(Work):
        def at(self, words, share=None):
            told.append((words, share))
            super().at(words, share)

    engine.show(Settings(view="Ablation", image="mean:16", levels=1, wavelet="db2"), Told())
    shares = [share for words, share in told if words.startswith("Ablation of the student (sfkd)")]
    assert len(shares) == 1 + 4 * 4
    assert shares == sorted(shares)
    assert 0 <= shares[0] < shares[-1] <= 1


def test_a_payload_leaves_colours_to_the_page_and_keeps_the_title_for_exports():
    figure = go.Figure(go.Scatter(y=np.arange(3.0)))
    figure.update_layout(title_text="Head<br><span style='x'>how <i>to</i><br>read</span>", height=400, margin_t=96)
    text = payload(Drawn(figure, "code", "name"), Settings(), "sigma=0.1", "σ − 𝜎 × label")
    assert text.isascii()
    plain = json.loads(text)
    assert plain["label"] == "σ − 𝜎 × label"
    assert (plain["title"], plain["note"]) == ("Head", "how to read")
    assert "title" not in plain["layout"]
    assert "template" not in plain["layout"]
    assert plain["layout"]["height"] == 400 - (96 - plain["layout"]["margin"]["t"])
    assert plain["full"] == {"title": {"text": figure.layout.title.text}, "margin": {"t": 96}, "height": 400}
    assert plain["data"][0]["y"]["dtype"] == "f8"


def test_the_table_of_a_figure(engine):
    name, text = engine.table(Settings(view="Spectra"), 1)
    assert name == "radial-spectrum.csv"
    header, *rows = text.splitlines()
    assert header.startswith("panel,trace,type,x,y")
    assert len(rows) > 20


def test_the_stored_first_page_is_the_one_that_would_be_drawn(engine):
    stored = opening.stored()
    assert stored is not None, "python app/opening.py makes it again"
    now = opening.make(engine, BUNDLED)
    for figure, expected in zip(stored.figures, now.figures, strict=True):
        old, new = json.loads(figure), json.loads(expected)
        same_numbers(*(go.Figure(f["data"], f["layout"]) for f in (old, new)))
        assert words(json.dumps(old | {"data": 0})) == words(json.dumps(new | {"data": 0}))
    plain = [
        replace(page, figures=(), answer=words(page.answer), verdict=words(page.verdict)) for page in (stored, now)
    ]
    assert plain[0] == plain[1], "python app/opening.py makes it again"


def test_a_first_page_of_another_run_is_not_used(monkeypatch):
    monkeypatch.setattr(opening, "fingerprint", lambda: "other")
    assert opening.stored() is None


def test_two_timm_names_with_random_weights(engine):
    described = engine.describe(SMALL)
    assert all(word in described.header for word in ("random weights", "test_resnet.r160_in1k", "test_vit.r160_in1k"))
    assert described.models == {"teacher": "teacher", "student": "student"}
    assert "untrained here" in drawn(engine, view="DS2S", pair=SMALL).answer
    assert "no student trained alone" in drawn(engine, view="Overview", pair=SMALL, image="mean:16").answer


def test_a_run_that_compared_the_last_layers_alone_shows_them_all(tmp_path, recipe, finished_run):
    """DS2S of the layers that it left out is told to be new, in the Python too."""
    teacher = {"run": str(finished_run.nested("teacher").path)}
    described = recipe(tmp_path / "last", teacher=teacher, method={"name": "sfkd"}, schedule={"epochs": 1})
    train(described, progress=False, say=lambda _: None)
    engine = Engine(RunsRoot(tmp_path), "cpu")
    layers = engine.describe("run|last").layers
    assert layers[:2] == ["layers.0 ↔ stages.0", "layers.1 ↔ stages.2"]
    assert engine.show(Settings(view="Spectra", pair="run|last", layer=layers[0]), Work()).figures[0]
    other, last = (engine.show(Settings(view="DS2S", pair="run|last", layer=layer), Work()) for layer in layers[::2])
    assert f"untrained here and passes the bands on as they are. The run trained that of {layers[2]}." in other.answer
    assert "untrained" not in last.answer
    python = [drawn(engine, view="DS2S", pair="run|last", layer=layer).figures[0].python for layer in layers[::2]]
    assert ["run.distiller" in script for script in python] == [False, True]
    assert ["layers=None" in script for script in python] == [True, False]


def test_missing_weights_are_told_apart_and_links_fetch_none(engine, monkeypatch):
    monkeypatch.setattr(sfkd.weights, "_resolves", lambda host: False)
    key = "timm|resnet18|test_vit.r160_in1k|pretrained"
    with pytest.raises(UserError, match="A link does not fetch weights"):
        engine.describe(key)
    with pytest.raises(MissingWeights, match="pretrained=False"):
        engine.describe(key, download=True)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("timm|resnet81|resnet18|random", "unknown timm model 'resnet81'. Did you mean"),
        ("timm|vit_gigantic_patch14_clip_224|resnet18|random", "1.8 billion parameters; the page opens"),
        ("run|nowhere", "no finished run 'nowhere'"),
        ("/etc", "choose a run or type two model names"),
    ],
)
def test_bad_pairs_are_one_message(engine, key, message):
    with pytest.raises(UserError, match=message):
        engine.describe(key)


def test_a_finished_run_is_opened_by_name(finished_run):
    engine = Engine(RunsRoot(finished_run.path.parent), "cpu")
    sheet = engine.show(Settings(view="Sub-bands", pair=f"run|{finished_run.path.name}"), Work())
    assert sheet.figures[0]
    assert f"run={finished_run.path.name}" in sheet.query


def test_the_python_of_a_run_names_its_folder(finished_run, shown):
    engine = Engine(RunsRoot(finished_run.path.parent), "cpu")
    settings = Settings(view="Sub-bands", pair=f"run|{finished_run.path.name}")
    figure = SHOW["Sub-bands"](engine.look(settings, Work())).figures[0]
    exec(compile(figure.python, "run", "exec"), {})
    same_numbers(shown[0], figure.figure)


def test_an_analysis_beside_a_run_is_shown_and_read_again_when_it_changes(finished_run, tmp_path, shown, data_root):
    run = finished_run.export(tmp_path / "mine")
    engine = Engine(RunsRoot(tmp_path), "cpu")
    settings = Settings(pair="run|mine")
    before = engine.show(settings, Work())
    opened = sfkd.load_run(run.path)
    images = [(np.random.default_rng(i).normal(size=(32, 1, 32, 32)).astype("f4"), np.zeros(32)) for i in range(4)]
    batches = [tuple(torch.from_numpy(a) for a in batch) for batch in images]
    found = sfkd_viz.analyze(opened.teacher, opened.student, batches, opened.baseline, progress=False)
    found.save(run.path / "analysis" / "analysis")
    after = engine.show(settings, Work())
    assert before.answer != after.answer
    assert "128 images" in after.answer
    (figure,) = SHOW["Overview"](engine.look(settings, Work())).figures
    assert "load_analysis" in figure.python
    exec(compile(figure.python, "run", "exec"), {})
    same_numbers(shown[0], figure.figure)
    assert engine.show(replace(settings, image="mean:40"), Work()).answer != after.answer


def test_uploads(engine, tmp_path):
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(picture)
    own = engine.pictures.upload(str(picture))
    assert not picture.exists(), "Gradio would hand the file to whoever names it"
    assert own.uri.startswith("data:image/jpeg;base64,")
    assert engine.pictures.own(own.source) == own
    assert engine.pictures.own("test:0") is None
    sheet = engine.show(Settings(view="Spectra", image=own.source).valid(), Work())
    assert sheet.figures[0]
    assert "your picture" in sheet.verdict
    with pytest.raises(UserError, match="upload it again"):
        engine.pictures.of("upload:aaaaaaaaaaaaaaaaaaaa")


def test_the_python_of_an_upload_reads_the_visitor_s_file(engine, tmp_path, shown, monkeypatch):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(
        tmp_path / "picture.png"
    )
    own = engine.pictures.upload(str(tmp_path / "picture.png"))
    figure = drawn(engine, view="Sub-bands", image=own.source).figures[0]
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(
        tmp_path / "picture.png"
    )
    monkeypatch.chdir(tmp_path)
    exec(compile(figure.python, "upload", "exec"), {})
    same_numbers(shown[0], figure.figure)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.png", b"not a picture", "cannot be read as a picture"),
        ("picture.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot be read as a picture"),
        ("empty.png", b"", "cannot be read as a picture"),
    ],
)
def test_what_is_no_picture_is_refused(engine, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        engine.pictures.upload(str(tmp_path / name))
    assert not (tmp_path / name).exists()


def test_pictures_of_too_many_pixels_are_refused(engine, tmp_path):
    Image.new("1", (8000, 8000)).save(tmp_path / "big.png")
    with pytest.raises(UserError, match="at most 50 million"):
        engine.pictures.upload(str(tmp_path / "big.png"))


def test_bands_of_the_control_are_those_of_the_measures(engine):
    measured = engine.measured.alignment(engine.pairs.pair(BUNDLED), "mean:40", Settings(), Work())
    assert {ALL_BANDS, *measured.alone.bands[1:], "whole"} == set(bands(2))


def test_measures_of_a_view_take_one_thread_and_forwards_all(monkeypatch, tmp_path):
    """Threads that meet after each of a thousand small steps made a view ten times slower beside another program."""
    engine, seen, before = Engine(RunsRoot(tmp_path), "cpu"), {}, torch.get_num_threads()
    monkeypatch.setattr("measured.ALL", 3)
    measure, view = sfkd_viz.gaussian_filter, Settings(view="Gaussian masks", image="test:7")

    def measured(*args, **options):
        seen["measure"] = torch.get_num_threads()
        return measure(*args, **options)

    monkeypatch.setattr(sfkd_viz, "gaussian_filter", measured)
    model = engine.look(view, Work()).pair.models["teacher"]
    model.register_forward_pre_hook(lambda *_: seen.update(forward=torch.get_num_threads()))
    engine.show(view, Work())
    assert seen == {"measure": 1, "forward": 3}
    assert torch.get_num_threads() == before


def test_how_many_samples_are_taken_where_nobody_said(engine, monkeypatch):
    look = engine.look(Settings(), Work())
    many = engine.measured.many
    assert many(look.pair, "test:0", look.work) == "mean:240"
    assert many(look.pair, "photo:cat", look.work, 120) == "mean:120"
    assert many(look.pair, "mean:40", look.work) == "mean:40"
    monkeypatch.setattr("measured.SAMPLES_BYTES", 2**22)
    source = many(look.pair, "test:0", look.work)
    assert 16 <= int(source.partition(":")[2]) < 120
    monkeypatch.setattr("measured.SAMPLES_BYTES", 1)
    assert many(look.pair, "mean:2", look.work) == "mean:16"
