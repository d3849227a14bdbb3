"""The app without a browser: plain values in, figures and messages out; and its command line."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from cache import Cache
from callbacks import BUNDLED, VIEWS, Microscope
from messages import MissingWeights, UserError
from pictures import ALL_SAMPLES
from PIL import Image

import sfkd.features
import sfkd_viz
from sfkd import load_demo

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("test_resnet.r160_in1k", "test_vit.r160_in1k")


@pytest.fixture(scope="module")
def microscope(tmp_path_factory):
    return Microscope(runs_root=tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("source", ["test:3", "photo:cat", ALL_SAMPLES])
def test_every_view_of_the_bundled_pair(microscope, view, source):
    for layer in microscope.pair(BUNDLED).layers:
        figures = microscope.draw(view, BUNDLED, source, layer)
        assert all(isinstance(f, go.Figure) and f.data and f.layout.height for f in figures)


def test_the_page_draws_what_a_script_draws(microscope):
    demo = load_demo()
    image = demo.samples.images[3:4]
    layer = microscope.pair(BUNDLED).layers[0]
    student_layer, teacher_layer = layer.split(" ↔ ")
    (figure,) = microscope.draw("Sub-bands", BUNDLED, "test:3", layer, wavelet="db2", levels=1, channel="one channel")
    maps = {
        "teacher": demo.run.teacher(image).features[teacher_layer],
        "alone": demo.run.baseline(image).features[student_layer],
        "student": demo.run.student(image).features[student_layer],
    }
    expected = sfkd_viz.plot_subbands(maps, "db2", 1, 0)
    assert len(figure.data) == len(expected.data) == 12
    for drawn, wanted in zip(figure.data, expected.data, strict=True):
        np.testing.assert_allclose(drawn.z, wanted.z, atol=1e-4)


def test_controls_change_the_figure(microscope):
    def drawn(view, **options):
        return microscope.draw(view, BUNDLED, "test:0", microscope.pair(BUNDLED).layers[0], **options)[0]

    assert len(drawn("Sub-bands", levels=1).data) < len(drawn("Sub-bands", levels=3).data)
    assert "db2" in drawn("Sub-bands", wavelet="db2").layout.title.text
    assert "0.1" in drawn("Gaussian masks", sigma=0.1).layout.title.text
    assert "component 2" in drawn("DS2S", channel="principal component 2").layout.title.text
    assert drawn("Spectra", dark=True).layout.font.color != drawn("Spectra").layout.font.color


def test_verdict_names_label_and_models(microscope):
    said = microscope.verdict(BUNDLED, "test:0")
    assert all(word in said for word in ("T shirt", "teacher", "student alone", "student (sfkd)", "%"))


def test_two_timm_names_with_random_weights(microscope):
    key = microscope.open_names(*SMALL, pretrained=False)
    pair = microscope.pair(key)
    assert all(word in pair.note for word in ("random weights", *SMALL))
    (figure,) = microscope.draw("DS2S", key, "photo:coffee", pair.layers[-1])
    assert "untrained: the identity" in figure.layout.title.text
    assert len(microscope.draw("Spectra", key, "photo:coffee", pair.layers[0])) == 2


def test_missing_weights_are_told_apart(microscope, monkeypatch):
    monkeypatch.setattr(sfkd.features, "_resolves", lambda host: False)
    with pytest.raises(MissingWeights, match="pretrained=False"):
        microscope.open_names("resnet18", SMALL[1], pretrained=True)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("resnet81", "vit_tiny_patch16_224"), "unknown timm model 'resnet81'. Did you mean"),
        (("", "resnet18"), "Type two timm model names"),
        (("local-dir:/etc", "resnet18"), "timm names only"),
    ],
)
def test_bad_names_are_one_message(microscope, names, message):
    with pytest.raises(UserError, match=message):
        microscope.open_names(*names, pretrained=False)


def test_uploads(microscope, tmp_path):
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(picture)
    source = microscope.pictures.upload(str(picture))
    assert microscope.draw("Spectra", BUNDLED, source, microscope.pair(BUNDLED).layers[0])
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    with pytest.raises(UserError, match="cannot be read as a picture"):
        microscope.pictures.upload(str(text))
    with pytest.raises(UserError, match="upload it again"):
        microscope.pictures.of("upload:0000")


def test_pictures_of_too_many_pixels_are_refused(microscope, tmp_path):
    Image.new("1", (8000, 8000)).save(tmp_path / "big.png")
    with pytest.raises(UserError, match="at most 50 million"):
        microscope.pictures.upload(str(tmp_path / "big.png"))


def test_runs_come_from_the_runs_folder_only(finished_run, tmp_path):
    (tmp_path / "inside").symlink_to(finished_run.path)
    microscope = Microscope(runs_root=tmp_path)
    assert list(microscope.runs()) == ["bundled pair"]
    with pytest.raises(UserError, match="not under the runs folder"):
        microscope.pair(f"run|{finished_run.path}")
    microscope = Microscope(runs_root=finished_run.path.parent)
    key = microscope.runs()[finished_run.path.name]
    assert microscope.draw("Sub-bands", key, "test:0", microscope.pair(key).layers[0])


def test_a_mistake_of_ours_is_no_traceback(microscope, monkeypatch):
    monkeypatch.setattr(sfkd_viz, "plot_spectrum", lambda *_: 1 / 0, raising=False)
    with pytest.raises(UserError, match="the terminal that runs the app"):
        microscope.draw("Spectra", BUNDLED, "test:0", microscope.pair(BUNDLED).layers[0])


def test_cache_is_bounded_and_keeps_the_latest():
    cache = Cache(2)
    for key in "abc":
        cache.put(key, key)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (None, "b", "c")
    cache.get("b")
    cache.put("d", "d")
    assert cache.get("c") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "nowhere"], "no run folder at .*nowhere: pass a folder"),
        (["--run", "docs"], "docs is no run folder: config.yaml is missing"),
        (["--device", "warp"], "device 'warp' is not available here"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message):
    command = [sys.executable, "app/launch.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert re.search(message, done.stderr)
    assert done.stderr.count("\n") == 1
