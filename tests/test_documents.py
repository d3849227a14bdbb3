"""What the documents say is done as they say it: every Python block runs, every command line is one, the site is built."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from helpers import ROOT
from packaging.requirements import Requirement

import sfkd
import sfkd_viz
from sfkd import cli
from sfkd.runs import RunFolder

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SHORT = [
    *("data.name=torch/mnist", "data.train_samples=64", "schedule.epochs=1", "schedule.batch_size=16"),
    *("teacher.schedule.epochs=1", "teacher.schedule.batch_size=16"),
]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


def named(paths: list[Path], language: str) -> list[Path]:
    return [path for path in paths if blocks(path, language)]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished_run: RunFolder) -> Path:
    """A folder with the recipes, and a small finished run as runs/mine."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(finished_run.path, tmp_path / "runs" / "mine")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", named(DOCUMENTS, "python"), ids=lambda path: path.name)
def test_python_blocks_run(path: Path, workplace: Path) -> None:
    """One after the other, in one namespace; those that talk to a running app are tested with the app."""
    values: dict[str, object] = {"__name__": "document"}
    for block in blocks(path, "python"):
        if "gradio_client" not in block:
            exec(compile(block, str(path), "exec"), values)


def commands(*paths: Path) -> Iterator[str]:
    for path in paths:
        for block in blocks(path, "sh"):
            lines = block.replace("\\\n", " ").splitlines()
            yield from (part.strip() for line in lines for part in re.split(r"&&|\s+# .*$", line) if part.strip())


def test_every_command_line_is_one() -> None:
    known = {"sfkd", "make", "pip", "python", "python3", ".", "conda", "torchrun", "accelerate", "nox"}
    for command in commands(*DOCUMENTS):
        assert shlex.split(command)[0] in known, command


@pytest.mark.parametrize("command", [c for c in commands(*DOCUMENTS) if c.startswith("make ")])
def test_make_knows_its_targets(command: str) -> None:
    subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("command", [c for c in commands(*DOCUMENTS) if c.startswith("pip install")])
def test_pip_finds_what_it_is_told(command: str) -> None:
    words = shlex.split(command)
    assert (ROOT / words[words.index("-c") + 1]).is_file()
    project = Requirement(words[words.index("-e") + 1].replace(".[", "sfkd["))
    assert project.extras <= set(requirements())


def requirements() -> dict[str, list[str]]:
    import tomllib

    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


@pytest.mark.parametrize("command", [c for c in commands(ROOT / "README.md") if c.startswith("sfkd ")])
def test_commands_of_the_readme_run(command: str, workplace: Path, data_root: Path) -> None:
    """Trainings are made short and get small data, everything else is run as it stands."""
    name, *arguments = shlex.split(command)[1:]
    if name == "train" and "--dry-run" not in arguments:
        shutil.rmtree("runs/mine")
        arguments += [*SHORT, f"data.root={data_root}"]
    assert cli.main([name, *arguments]) == 0
    for out in (argument.removeprefix("out=") for argument in arguments if argument.startswith("out=")):
        assert (workplace / out / "student" / "model.safetensors").is_file()


def test_other_commands_name_files_and_recipes_that_are_there() -> None:
    for command in commands(*DOCUMENTS):
        for word in shlex.split(command):
            if word.startswith(("configs/", "app/", "benchmarks/")):
                assert (ROOT / word).is_file(), command


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built with warnings as errors: links, anchors and cross-references lead somewhere."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    return folder


def test_every_page_is_in_the_site(site: Path) -> None:
    listed = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    pages = {p for entry in listed for p in ([entry] if isinstance(entry, str) else next(iter(entry.values())))}
    assert pages == {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    for page in pages:
        assert (site / page).with_suffix(".html").is_file()


def test_every_public_name_has_its_reference(site: Path) -> None:
    found = {name.rpartition(".")[2] for path in site.glob("reference/*.html") for name in _anchors(path)}
    for package in (sfkd, sfkd_viz):
        for name in package.__all__:
            assert name in found or name in ("losses",), f"{package.__name__}.{name} is in no page of docs/reference"


def _anchors(path: Path) -> list[str]:
    return re.findall(r'id="(sfkd[\w.]*)"', path.read_text(encoding="utf-8"))


def test_the_site_asks_for_nothing_of_other_machines(site: Path) -> None:
    for path in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)=\"(https?://[^\"]+)\"",
            path.read_text(encoding="utf-8"),
        )
        assert loaded == [], path.name
