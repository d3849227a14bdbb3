"""Trainings that the page starts: real processes on generated data, and what is known of them."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import job_html
import jobs
import psutil
import pytest
import yaml
from helpers import ROOT
from jobs import Job, Jobs, Part, Watched
from messages import UserError
from microscope import Microscope
from recipes import Recipes, Wish
from runs_root import RunsRoot

ENOUGH = 240  # seconds; a loaded machine is slow, not wrong


@pytest.fixture
def recipes(tmp_path, recipe_values, distilled):
    """A folder with a recipe that trains a teacher, the student alone and the distilled one in seconds, and a broken one."""
    folder = tmp_path / "configs"
    folder.mkdir()
    values = recipe_values(tmp_path / "nowhere", **distilled)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values))
    (folder / "broken.yaml").write_text(yaml.safe_dump(values | {"data": values["data"] | {"root": "/nowhere"}}))
    return Recipes(folder)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A runs root whose jobs are ended with the test."""
    root = tmp_path / "runs"
    root.mkdir()
    children = []
    spawn = subprocess.Popen

    def remembered(*args, **options):
        children.append(spawn(*args, **options))
        return children[-1]

    monkeypatch.setattr(jobs.subprocess, "Popen", remembered)
    yield RunsRoot(root)
    for child in children:
        child.kill()
        child.wait()


def until(done, what):
    """Wait for something, for a long time at most."""
    end = time.monotonic() + ENOUGH
    while not done():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def start(jobs_, recipes, name, recipe="tiny", **wish):
    made = recipes.made(Wish(recipe, name, **wish), jobs_.runs.folder(name))
    return jobs_.start(name, made, device="cpu", download=False)


def test_a_training_runs_alone_is_found_again_and_ends(runs, recipes):
    first = Jobs(runs)
    job = start(first, recipes, "mine")
    assert job.alive
    assert os.getsid(job.pid) == job.pid, "its own session"
    assert psutil.Process(job.pid).nice() == 5
    with pytest.raises(UserError, match=rf"mine is being trained on cpu since \d\d:\d\d \(process {job.pid}\)"):
        start(first, recipes, "other")
    again = Jobs(runs)  # an app that was started anew
    assert again.running() == job
    assert again.names() == ["mine"]
    assert again.watch("mine").state == "running"
    until(lambda: first.watch("mine").state != "running", "the end")
    watched = again.watch("mine")
    assert watched.state == "finished", watched.log
    assert [(part.role, part.share) for part in watched.parts] == [("teacher", 1), ("baseline", 1), ("student", 1)]
    assert again.running() is None
    assert list(runs.finished()) == ["mine"]
    assert "is trained" in job_html.told(watched)
    with pytest.raises(UserError, match="is trained already"):
        again.go_on("mine")


def test_a_training_is_stopped_and_goes_on(runs, recipes):
    app = Jobs(runs)
    job = start(app, recipes, "long", epochs=100000)

    def training():
        return next((part for part in app.watch("long").parts if part.progress), None)

    until(training, "progress")
    part = training()
    assert part.progress.keys() >= {"epoch", "step", "steps", "loss", "images_per_second", "seconds_left"}
    assert 0 < part.share < 1
    assert "images/s" in job_html.told(app.watch("long"))
    app.stop("long")
    assert app.watch("long").state in ("stopping", "stopped")
    until(lambda: app.watch("long").state == "stopped", "the stop")
    assert not job.alive
    assert (runs.root / "long" / part.role / "checkpoint.safetensors").is_file()
    with pytest.raises(UserError, match="is not being trained"):
        app.stop("long")
    again = app.go_on("long")
    assert again.pid != job.pid
    until(lambda: "going on after epoch" in app.watch("long").log, "going on")
    app.stop("long")
    until(lambda: app.watch("long").state == "stopped", "the second stop")


def test_what_went_wrong_is_shown(runs, recipes):
    app = Jobs(runs)
    start(app, recipes, "broken", recipe="broken")
    until(lambda: app.watch("broken").state == "failed", "the end")
    told = job_html.told(app.watch("broken"))
    assert "ended with an error" in told
    assert "/nowhere" in app.watch("broken").log
    assert "Traceback" not in app.watch("broken").log
    assert app.running() is None


def test_one_that_does_not_end_is_ended(runs, recipes, monkeypatch):
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    child = jobs.subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"deaf\n"
    child.stdout.close()
    app, place = Jobs(runs), runs.root / ".jobs" / "deaf"
    place.mkdir(parents=True)
    job = Job("deaf", child.pid, psutil.Process(child.pid).create_time(), "cpu", download=False)
    (place / "job.json").write_text(json.dumps(asdict(job)))
    (place / "recipe.yaml").write_text("{}")
    app.stop("deaf")
    app.stop("deaf")
    assert app.watch("deaf").state == "stopping"
    monkeypatch.setattr(jobs, "KILL_AFTER", 0)
    app.stop("deaf")
    assert child.wait(30) == -signal.SIGKILL
    assert app.watch("deaf").state == "stopped"


def test_another_process_with_the_number_of_a_job_is_not_it(runs, recipes):
    app = Jobs(runs)
    place = runs.root / ".jobs" / "old"
    place.mkdir(parents=True)
    old = Job("old", os.getpid(), psutil.Process().create_time() - 100, "cpu", download=False)
    (place / "job.json").write_text(json.dumps(asdict(old)))
    (place / "recipe.yaml").write_text("{}")
    (runs.root / ".jobs" / "lock").write_text(json.dumps(asdict(old)))
    assert app.running() is None
    assert app.watch("old").state == "failed"
    with pytest.raises(UserError, match="is not being trained"):
        app.stop("old")
    assert psutil.pid_exists(os.getpid())


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"name": "x"}', "null"])
def test_a_damaged_lock_holds_nobody(runs, content):
    (runs.root / ".jobs").mkdir()
    (runs.root / ".jobs" / "lock").write_text(content)
    assert Jobs(runs).running() is None


def test_runs_that_were_not_started_here_are_left_alone(runs, recipes, finished_run, tmp_path):
    finished_run.export(runs.root / "theirs")
    with pytest.raises(UserError, match="was not started here"):
        start(Jobs(runs), recipes, "theirs")
    (runs.root / "out").symlink_to(tmp_path)
    for name in ("out", "../x", "", ".jobs", "a/b"):
        with pytest.raises(UserError):
            start(Jobs(runs), recipes, name)
    for name in ("theirs", "..", "nowhere"):
        with pytest.raises(UserError, match="was started from this app"):
            Jobs(runs).watch(name)


def test_a_name_keeps_its_recipe(runs, recipes):
    place = runs.root / ".jobs" / "mine"
    place.mkdir(parents=True)
    (place / "recipe.yaml").write_text(
        yaml.safe_dump(recipes.made(Wish("tiny", "mine", epochs=3), runs.folder("mine")))
    )
    (runs.root / "mine").mkdir()
    with pytest.raises(UserError, match="of another recipe"):
        start(Jobs(runs), recipes, "mine", epochs=4)


def test_a_wish_becomes_a_recipe(recipes, runs, tmp_path):
    made = recipes.made(Wish("tiny", "mine", "test_resnet", "vit_tiny_patch16_224", 7), runs.folder("mine"))
    assert made["out"] == str(runs.root / "mine")
    assert made["teacher"] == {"name": "test_resnet", "schedule": {"epochs": 1, "batch_size": 16}}
    assert made["student"] == {"name": "vit_tiny_patch16_224", "kwargs": {"img_size": [32, 32]}}
    assert made["schedule"]["epochs"] == 7
    values = yaml.safe_load((recipes.folder / "tiny.yaml").read_text())
    values["data"]["download"] = True
    (recipes.folder / "far.yaml").write_text(yaml.safe_dump(values))
    assert "download" not in recipes.made(Wish("far", "x"), runs.folder("x"))["data"]
    assert recipes.made(Wish("far", "x", download=True), runs.folder("x"))["data"]["download"]


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (Wish("nowhere", "x"), "Choose one of the recipes"),
        (Wish("../configs/tiny", "x"), "Choose one of the recipes"),
        (Wish("tiny", "x", teacher="local-dir:/etc"), "timm names only"),
        (Wish("tiny", "x", student="resnet81"), "timm knows no model 'resnet81'"),
        (Wish("tiny", "x", epochs=-3), "schedule.epochs"),
    ],
)
def test_a_wish_that_cannot_be_is_one_message(recipes, runs, wish, message):
    with pytest.raises(UserError, match=message):
        recipes.made(wish, runs.folder(wish.name))


def test_the_page_s_recipes_hold():
    recipes = Recipes(ROOT / "configs")
    assert recipes.names()[0] == "demo"
    for name in recipes.names():
        assert recipes.made(Wish(name, "x"), jobs.Path("runs/x"))["out"] == "runs/x"


def test_a_training_is_told_part_by_part():
    progress = {"epoch": 2, "step": 17, "steps": 156, "loss": 1.23, "images_per_second": 410.0, "seconds_left": 95.0}
    parts = [Part("teacher", 6, 1.0), Part("baseline", 4, 0.3, progress), Part("student", 4, 0.0)]
    told = job_html.told(Watched("<b>", "running", parts, "", ""))
    assert "&lt;b&gt;" in told
    assert "6 epochs, done" in told
    assert "epoch 2 of 4, step 17 of 156 · loss 1.230 · 410 images/s · 1:35 min left" in told
    assert "4 epochs, waiting" in told
    assert "starting" in job_html.told(Watched("x", "running", [Part("student", 4, 0.0, {})], "", ""))
    failed = job_html.told(Watched("x", "failed", [], "<script>", ""))
    assert "&lt;script&gt;" in failed


def test_the_microscope_trains_and_watches(runs, recipes, monkeypatch):
    started = []
    monkeypatch.setattr(Jobs, "start", lambda self, *args, **options: started.append((args, options)))
    microscope = Microscope(runs, recipes.folder)
    microscope.train(Wish("tiny", "mine"))
    ((name, recipe), options) = started[0]
    assert (name, recipe["out"], options["download"]) == ("mine", str(runs.root / "mine"), False)
    assert options["device"]
