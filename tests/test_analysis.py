"""`analyze`: one pass, any batches, many processes, stopped, saved; and the command with its report."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ROOT
from torch import Tensor, nn

import sfkd_viz
from sfkd import Backbone
from sfkd import cli as sfkd_cli
from sfkd.features import Normalization
from sfkd.runs import RunFolder
from sfkd_viz.analysis import Analysis
from sfkd_viz.cli import register
from sfkd_viz.measures.ablate import band_ablation
from sfkd_viz.report import write_report

COUNT = 600


def network(channels: int, stride: int, seed: int) -> Backbone:
    torch.manual_seed(seed)
    first = nn.Conv2d(1, channels, 3, padding=1)
    second = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)
    net = nn.Sequential(first, nn.ReLU(), nn.Dropout(0.5), second, nn.Flatten(), nn.LazyLinear(3))
    net(torch.zeros(1, 1, 8, 8))
    return Backbone(net, layers=["0", "3"], input_size=(1, 8, 8))


@pytest.fixture(scope="module")
def models() -> dict[str, Backbone]:
    return {"teacher": network(4, 1, 0), "student": network(3, 2, 1), "baseline": network(3, 2, 2)}


def pictures(count: int = COUNT) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, 1, 8, 8, generator=generator), torch.arange(count) % 3


def batches(size: int, count: int = COUNT) -> Iterator[tuple[Tensor, Tensor]]:
    """Can be walked once."""
    images, targets = pictures(count)
    return zip(images.split(size), targets.split(size), strict=True)


def measure(models: dict[str, Backbone], loader: Any = None, **options: Any) -> Analysis:
    loader = batches(100) if loader is None else loader
    return sfkd_viz.analyze(
        models["teacher"], models["student"], loader, models.get("baseline"), progress=False, **options
    )


@pytest.fixture(scope="module")
def analysis(models: dict[str, Backbone]) -> Analysis:
    return measure(models)


def same(a: Analysis, b: Analysis, **tolerance: float) -> None:
    """Equal in every number."""
    tables = [x.to_dataframe() for x in (a, b)]
    np.testing.assert_array_equal(
        *(t[["measure", "model", "layer", "teacher_layer", "band"]].fillna("") for t in tables)
    )
    for column in ("value", "low", "high"):
        np.testing.assert_allclose(
            *(t[column].astype(float) for t in tables), **({"rtol": 1e-12, "atol": 1e-12} | tolerance)
        )


def features(model: Backbone, images: Tensor) -> dict[str, Tensor]:
    model.eval()
    with torch.no_grad():
        return model(images).features


def test_every_measure_is_that_of_the_features_in_memory(models: dict[str, Backbone], analysis: Analysis) -> None:
    images, _ = pictures()
    maps = {role: features(model, images) for role, model in models.items()}
    assert (analysis.images, analysis.complete) == (COUNT, True)
    for role, layers in maps.items():
        for layer, x in layers.items():
            np.testing.assert_allclose(analysis.spectra[role][layer].power, sfkd_viz.spectrum(x).power, rtol=1e-4)
            expected = sfkd_viz.band_energy(x)
            assert analysis.band_energy[role][layer].share == pytest.approx(expected.share, rel=1e-4)
            assert analysis.band_energy[role][layer].levels == expected.levels
    for role in ("student", "baseline"):
        expected_cka = sfkd_viz.cka(maps["teacher"], maps[role])
        np.testing.assert_allclose(analysis.cka[role].by_band, expected_cka.by_band, atol=1e-6)
        assert analysis.cka[role].counts.tolist() == [256, 256, 88]
    moved = sfkd_viz.transfer(maps["teacher"], maps["student"], maps["baseline"])
    assert analysis.transfer is not None
    np.testing.assert_allclose(analysis.transfer.values, moved.values, atol=1e-6)


@pytest.mark.parametrize("size", [1, 33, 600])
def test_batch_size_changes_nothing(models: dict[str, Backbone], analysis: Analysis, size: int) -> None:
    same(measure(models, batches(size)), analysis)


def test_a_teacher_planted_as_student_is_what_transfer_names(models: dict[str, Backbone]) -> None:
    teacher = models["teacher"]
    planted = network(4, 1, 3)
    planted.model[0].load_state_dict(teacher.model[0].state_dict())
    moved = measure({"teacher": teacher, "student": planted, "baseline": network(4, 1, 4)}, batches(128, 1280))
    assert moved.transfer is not None
    at = moved.transfer.largest()
    assert at is not None
    assert (moved.transfer.alone.rows[at[1]], moved.transfer.alone.columns[at[2]]) == ("0", "0")
    assert moved.cka["student"].values[0, 0] == pytest.approx(1, abs=1e-6)
    assert moved.sentence() == moved.transfer.sentence()


def test_models_are_left_as_they_were(models: dict[str, Backbone]) -> None:
    student = models["student"]
    student.train()
    student.model[2].eval()
    measure(models, max_images=64)
    assert student.model[0].training
    assert not student.model[2].training
    assert not student.model[0]._forward_hooks
    student.eval()


def test_without_a_baseline_there_is_no_transfer(models: dict[str, Backbone]) -> None:
    pair = {role: models[role] for role in ("teacher", "student")}
    found = measure(pair, max_images=300)
    assert found.images == 300
    assert found.transfer is None
    assert list(found.cka) == ["student"]
    assert re.search(r"of the student is nearest to \w+ of the teacher: CKA", found.sentence())
    with pytest.raises(ValueError, match="pass baseline="):
        measure(pair, measures=["transfer"])


def test_measures_and_layers_can_be_chosen(models: dict[str, Backbone]) -> None:
    found = measure(models, measures=["spectrum"], layers={"student": ["0"]}, max_images=3)
    assert found.cka == {}
    assert found.band_energy == {}
    assert {role: list(layers) for role, layers in found.spectra.items()} == {
        "teacher": ["0", "3"],
        "student": ["0"],
        "baseline": ["0"],
    }
    assert "3 images" in found.sentence()


def test_chosen_layers_see_images_as_the_weights_want_them(models: dict[str, Backbone]) -> None:
    given, own = Normalization((0.0,), (1.0,)), Normalization((0.5,), (0.5,))
    shifted = Backbone(_copy(models["student"]), layers=["0", "3"], input_size=(1, 8, 8))
    shifted.expect(given, own)
    pair = {"teacher": models["teacher"], "student": shifted}
    found = measure(pair, measures=["spectrum"], layers={"student": ["0"]}, max_images=8)
    x = features(shifted, pictures(8)[0])["0"]
    np.testing.assert_allclose(found.spectra["student"]["0"].power, sfkd_viz.spectrum(x).power, rtol=1e-5)
    assert shifted.layer_names == ["0", "3"]


def test_ablation_and_attribution_on_the_first_images(models: dict[str, Backbone], tmp_path: Path) -> None:
    found = measure(models, batches(30, 100), measures=["ablation", "attribution"], samples=70, levels=1)
    images, targets = pictures(100)
    assert list(found.ablation) == ["student", "baseline"]
    assert {result.images for result in found.ablation.values()} == {70}
    alone = band_ablation(models["student"], [(images[:70], targets[:70])], reference=models["teacher"], levels=1)
    np.testing.assert_allclose(found.ablation["student"].kl, alone.kl, rtol=1e-4, atol=1e-9)
    assert list(found.attribution) == ["teacher", "student", "baseline"]
    assert found.attribution["teacher"].values.shape[0] == 16
    assert alone.sentence() in found.sentence()
    loaded = sfkd_viz.load_analysis(found.save(tmp_path / "found"))
    np.testing.assert_array_equal(loaded.ablation["student"].kl, found.ablation["student"].kl)
    np.testing.assert_array_equal(loaded.attribution["teacher"].values, found.attribution["teacher"].values)
    page = write_report(found, tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("Plotly.newPlot") - page[: page.index("<h1>")].count("Plotly.newPlot") == 2 + 3


def test_max_images_reads_no_further(models: dict[str, Backbone]) -> None:
    walked = batches(100)
    assert measure(models, walked, max_images=250, measures=["band_energy"]).images == 250
    assert len(list(walked)) == 3


def test_stopping_keeps_whole_blocks(models: dict[str, Backbone]) -> None:
    asked = []

    def stop() -> bool:
        asked.append(None)
        return len(asked) > 2

    found = measure(models, stop=stop)
    assert (found.images, found.complete) == (512, False)
    assert found.sentence().startswith("Stopped after 512 images. ")
    same(found, measure(models, max_images=512))
    with pytest.raises(ValueError, match="before the first block"):
        measure(models, stop=lambda: True)


def test_a_keyboard_interrupt_keeps_what_was_seen(models: dict[str, Backbone]) -> None:
    def interrupted(after: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield from list(batches(100))[:after]
        raise KeyboardInterrupt

    found = measure(models, interrupted(4))
    assert (found.images, found.complete) == (256, False)
    with pytest.raises(KeyboardInterrupt):
        measure(models, interrupted(2))


def test_memory_does_not_grow_with_the_images(models: dict[str, Backbone], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held between two batches: the numbers of one block, in the same memory for the next."""
    from sfkd_viz.measures.blocks import HSICStream

    held = []
    update = HSICStream.update

    def watched(self: HSICStream, *arguments: Any) -> None:
        update(self, *arguments)
        rows = [part for one in self._held.values() for part in one.rows.values()]
        held.append((sum(part.numel() for part in rows), [part.data_ptr() for part in rows]))

    monkeypatch.setattr(HSICStream, "update", watched)
    measure(models, batches(64, 1024))
    assert len({size for size, _ in held[3:]}) == 1
    assert all(places == held[3][1] for _, places in held[3:])
    # each layer on each grid where it meets another: the teacher's two on both, a student's on its own
    assert held[-1][0] == 256 * (4 * (64 + 16) * 2 + 2 * (3 * 64 + 3 * 16))


def test_bfloat16_models_and_integer_free_inputs(models: dict[str, Backbone], analysis: Analysis) -> None:
    half = {
        role: Backbone(_copy(model).bfloat16(), layers=["0", "3"], input_size=(1, 8, 8))
        for role, model in models.items()
    }
    found = measure(half, measures=["cka"])
    np.testing.assert_allclose(found.cka["student"].by_band, analysis.cka["student"].by_band, atol=0.05)


def _copy(model: Backbone) -> nn.Module:
    import copy

    return copy.deepcopy(model.model)


def test_timm_families(tiny: Callable[..., Backbone]) -> None:
    images = torch.randn(8, 1, 32, 32)
    found = sfkd_viz.analyze(
        tiny("convnext"),
        tiny("vit"),
        [(images, torch.zeros(8))],
        tiny("vit"),
        measures=["cka", "transfer"],
        progress=False,
    )
    assert found.cka["student"].values.shape == (4, 4)
    assert "Too few blocks" in found.sentence()
    assert found.models["student"] == "vit_tiny_patch16_224"


def test_nan_is_refused_by_the_name_of_the_layer(models: dict[str, Backbone]) -> None:
    images, targets = pictures(8)
    images[5] = float("nan")
    with pytest.raises(ValueError, match="layer '0' of teacher has 256 NaN"):
        measure(models, [(images, targets)])


@pytest.mark.parametrize(
    ("loader", "options", "error", "message"),
    [
        ([], {}, ValueError, "saw no images"),
        ([torch.zeros(4, 1, 8, 8)], {}, TypeError, r"batches of \(images, targets"),
        ([(torch.zeros(4, 8, 8), torch.zeros(4))], {}, ValueError, r"images \[B, C, H, W\]"),
        ([(torch.zeros(4, 1, s, s), torch.zeros(4)) for s in (8, 6)], {}, ValueError, "all images need one size"),
        ([(torch.zeros(3, 1, 8, 8), torch.zeros(3))], {}, ValueError, "4 images at least"),
        (None, {"measures": ["spectra"]}, ValueError, "unknown measure 'spectra'. Did you mean 'spectrum'"),
        (None, {"measures": []}, ValueError, "measures expects one at least"),
        (None, {"measures": "cka"}, TypeError, r"write \['cka'\]"),
        (None, {"layers": {"pupil": ["0"]}}, ValueError, "unknown role in layers 'pupil'"),
        (None, {"layers": {"student": ["stage9"]}}, ValueError, "unknown layer of"),
        (None, {"max_images": 0}, ValueError, "max_images expects"),
        (None, {"wavelet": "harr"}, ValueError, "unknown discrete wavelet"),
    ],
)
def test_mistakes_are_named(
    models: dict[str, Backbone], loader: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        measure(models, loader, **options)


def test_a_model_that_is_no_backbone_is_named(models: dict[str, Backbone]) -> None:
    with pytest.raises(TypeError, match=r"student expects an sfkd\.Backbone, got Linear"):
        sfkd_viz.analyze(models["teacher"], nn.Linear(1, 1), batches(100))


# -- files ------------------------------------------------------------------------------------------------------------


def test_saved_and_loaded_it_is_the_same(analysis: Analysis, tmp_path: Path) -> None:
    written = analysis.save(tmp_path / "deep" / "found.npz")
    assert written == tmp_path / "deep" / "found.json"
    assert sorted(path.name for path in written.parent.iterdir()) == ["found.json", "found.npz"]
    for path in (written, written.with_suffix(".npz"), written.with_suffix("")):
        loaded = sfkd_viz.load_analysis(path)
        same(loaded, analysis, rtol=0, atol=0)
    assert loaded.sentence() == analysis.sentence()
    assert type(loaded.transfer) is type(analysis.transfer)
    assert loaded.cka["student"].rows == analysis.cka["student"].rows
    assert json.loads(written.read_text(encoding="utf-8"))["format"] == "sfkd analysis"


def test_measured_again_it_is_the_same_file_and_the_same_figure(
    models: dict[str, Backbone], analysis: Analysis, tmp_path: Path
) -> None:
    """To the byte."""
    for name, found in (("one", analysis), ("two", measure(models))):
        found.save(tmp_path / name)
        assert found.transfer is not None
        sfkd_viz.save_figure(sfkd_viz.plot_transfer(found.transfer), tmp_path / f"{name}.html")
    for suffix in (".json", ".npz", ".html"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


def test_infinite_and_missing_numbers_survive(models: dict[str, Backbone], tmp_path: Path) -> None:
    few = measure(models, max_images=40)
    assert few.transfer is not None
    loaded = sfkd_viz.load_analysis(few.save(tmp_path / "few"))
    same(loaded, few, rtol=0, atol=0)
    assert loaded.transfer is not None
    assert np.isnan(loaded.transfer.low).all()


@pytest.mark.parametrize("damage", ["json", "npz", "missing", "foreign", "version", "unknown", "array", "type"])
def test_damaged_and_foreign_files_are_named(analysis: Analysis, tmp_path: Path, damage: str) -> None:
    path = analysis.save(tmp_path / "found")
    text = path.read_text(encoding="utf-8")
    arrays = path.with_suffix(".npz")
    if damage == "json":
        path.write_text(text[: len(text) // 2], encoding="utf-8")
    elif damage == "npz":
        arrays.write_bytes(arrays.read_bytes()[:-500])
    elif damage == "missing":
        arrays.unlink()
    elif damage == "foreign":
        path.write_text('{"a": 1}', encoding="utf-8")
    elif damage == "version":
        path.write_text(text.replace('"version": 1', '"version": 9'), encoding="utf-8")
    elif damage == "unknown":
        path.write_text(text.replace('"result": "CKA"', '"result": "system"'), encoding="utf-8")
    elif damage == "array":
        with zipfile.ZipFile(arrays, "w") as file:
            file.writestr("x.npy", b"cos\nsystem\n(S'true'\ntR.")
    else:
        path.write_text(text.replace('"result": "Spectrum"', '"result": "BandEnergy"'), encoding="utf-8")
    words = "is missing" if damage == "missing" else "cannot be read as an analysis"
    with pytest.raises(ValueError, match=words):
        sfkd_viz.load_analysis(path)


def test_object_arrays_are_not_unpickled(analysis: Analysis, tmp_path: Path) -> None:
    path = analysis.save(tmp_path / "found")
    np.savez(path.with_suffix(".npz"), **{"x": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(ValueError, match="cannot be read"):
        sfkd_viz.load_analysis(path)


# -- processes --------------------------------------------------------------------------------------------------------

PROCESS = """
import sys
import torch
sys.path.insert(0, sys.argv[4])
import test_analysis as t

rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
torch.set_num_threads(1)
models = {"teacher": t.network(4, 1, 0), "student": t.network(3, 2, 1), "baseline": t.network(3, 2, 2)}
for count in (600, 100):
    t.measure(models, t.batches(50, count)).save(f"{folder}/{rank}-{count}")
if rank == 0:
    from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
    data = TensorDataset(*t.pictures(8))
    try:
        t.measure(models, DataLoader(data, sampler=DistributedSampler(data)))
    except ValueError as error:
        assert "divided already" in str(error)
    else:
        raise AssertionError("a sharded loader was taken")
asked = iter(range(9))
stopped = t.measure(models, t.batches(50, 1200), stop=lambda: next(asked) == 1 and rank == world - 1)
assert not stopped.complete and stopped.images == 256 * world, stopped.images
"""


def test_two_processes_find_what_one_does(models: dict[str, Backbone], tmp_path: Path) -> None:
    """600 images: three blocks for two processes; 100: one block, so that one process has none."""
    command = [sys.executable, "-W", "ignore", "-c", PROCESS]
    where = ["2", str(tmp_path), str(Path(__file__).parent)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = [subprocess.Popen([*command, str(rank), *where], env=environment) for rank in range(2)]
    assert [process.wait(timeout=300) for process in started] == [0, 0]
    for count in (600, 100):
        one = measure(models, batches(50, count))
        first, second = (sfkd_viz.load_analysis(tmp_path / f"{rank}-{count}") for rank in range(2))
        same(first, second, rtol=0, atol=0)
        same(first, one)
        np.testing.assert_array_equal(first.cka["student"].cross, one.cka["student"].cross)


# -- report and command -----------------------------------------------------------------------------------------------


def test_the_report_opens_offline_and_starts_with_the_sentence(analysis: Analysis, tmp_path: Path) -> None:
    page = write_report(analysis, tmp_path / "report.html", title="<b>run</b>").read_text(encoding="utf-8")
    assert page.count("plotly.js v") == 1
    assert re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", page) == []
    body = page[page.index("<h1>") :]
    assert body.startswith("<h1>&lt;b&gt;run&lt;/b&gt;</h1>")
    assert body.index('class="sentence"') < body.index("Plotly.newPlot")
    figures = body.count("Plotly.newPlot")
    assert figures == 1 + 2 + 3 + 3  # transfer, two alignments, three spectra, three energies
    assert body.count("<h2>Largest movements</h2>") == 1
    assert "prefers-color-scheme: dark" in page


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`sfkd` with `analyze` registered, as the installed entry point does."""

    class Point:
        @staticmethod
        def load() -> Callable[[Any], None]:
            return register

    monkeypatch.setattr(sfkd_cli, "entry_points", lambda group: [Point] if group == "sfkd.commands" else [])
    return lambda *arguments: sfkd_cli.main([str(argument) for argument in arguments])


def test_the_entry_point_is_declared() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["sfkd.commands"] == {"analyze": f"{register.__module__}:{register.__name__}"}


def test_analyze_on_the_command_line(
    finished_run: RunFolder, command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command("analyze", finished_run.path, "--out", out, "--images", 20, "--batch-size", 6, "--quiet") == 0
    said = capsys.readouterr().out.splitlines()
    found = sfkd_viz.load_analysis(out / "analysis")
    assert found.images == 20
    assert found.transfer is not None
    assert said[0] == found.sentence()
    assert (out / "report.html").is_file()
    run = shutil.copytree(finished_run.path, tmp_path / "run")
    assert command("analyze", run, "--images", 8, "--quiet") == 0
    assert (run / "analysis" / "report.html").is_file()


@pytest.mark.parametrize("option", [("--images", 0), ("--batch-size", 0), ("--root", "/nowhere")])
def test_a_mistake_on_the_command_line_is_one_line(
    finished_run: RunFolder, command: Callable[..., int], option: tuple[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("analyze", finished_run.path, *option, "--quiet") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
