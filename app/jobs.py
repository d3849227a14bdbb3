"""Trainings as processes of their own: begun, watched, stopped, and found again by whoever looks at the runs folder.

A job's files lie beside the runs, in `.jobs/NAME/`: `recipe.yaml`, `job.json` (who it is) and `log.txt` (what it said).
What is known of it while it trains is read from the run folder, so neither a page nor the app needs to live on.
`.jobs/lock` names the one that has the device; trainings take the machine's first, so there is one lock. A process is known
by its number and the time of its start, since numbers are given again.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil
import yaml
from messages import UserError
from runs_root import RunsRoot

State = Literal["running", "stopping", "stopped", "failed", "finished"]
KILL_AFTER = 20.0  # seconds that a training has to end at its next step
_LOG_LINES = 30
_LOG_BYTES = 16384


@dataclass(frozen=True)
class Job:
    """A training process.

    Attributes:
        name: of its run. pid, started: its number, and when it began (seconds of the epoch, as psutil tells).
        device: that it has. download: whether it may fetch weights and data.
        asked: when it was first asked to stop, None if it was not.
    """

    name: str
    pid: int
    started: float
    device: str
    download: bool
    asked: float | None = None

    @property
    def alive(self) -> bool:
        """Whether this very process runs."""
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.started and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


@dataclass(frozen=True)
class Part:
    """One of the trainings of a run.

    Attributes:
        role: "teacher", "baseline" or "student". epochs: in all. share: of its steps that are done, 0 to 1.
        progress: what it last told (see `sfkd.runs`), empty before its first step; None where it is not trained now.
    """

    role: str
    epochs: int
    share: float
    progress: dict[str, float] | None = None


@dataclass(frozen=True)
class Watched:
    """How a job is. `log` is the end of what it said; `written` changes with what there is to draw."""

    name: str
    state: State
    parts: list[Part]
    log: str
    written: str


class Jobs:
    """The trainings under a runs root."""

    def __init__(self, runs: RunsRoot) -> None:
        self.runs = runs
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def _place(self) -> Path:
        return self.runs.root / ".jobs"

    def names(self) -> list[str]:
        """Jobs that left a record, the latest first."""
        records = [path for path in self._place.glob("*/job.json") if self._is_job(path.parent.name)]
        return [path.parent.name for path in sorted(records, key=lambda path: -path.stat().st_mtime_ns)]

    def running(self) -> Job | None:
        """The job that has the device."""
        job = _read(self._lock)
        return job if job is not None and job.alive else None

    def start(self, name: str, recipe: dict[str, Any], *, device: str, download: bool) -> Job:
        """Train a recipe whose `out` is the run's folder; one of the same name that was stopped goes on.

        Args:
            device: that a training takes, in words. download: whether weights may be fetched.

        Raises:
            UserError: the device is taken, the name is no name, or is that of another run.
        """
        folder = self.runs.folder(name)
        with self._alone():
            holder = self.running()
            if holder is not None:
                raise UserError(
                    f"{holder.name} is being trained on {holder.device} since {_clock(holder.started)} (process "
                    f"{holder.pid}). Wait for its end, or stop it; two at once would slow both."
                )
            place = self._place / name
            again = place / "recipe.yaml"
            if folder.exists() and not again.is_file():
                raise UserError(f"There is a run {name} already, which was not started here: choose another name.")
            if again.is_file() and yaml.safe_load(again.read_text(encoding="utf-8")) != recipe and folder.exists():
                raise UserError(f"There is a run {name} of another recipe already: choose another name.")
            place.mkdir(parents=True, exist_ok=True)
            _write(again, yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
            return self._spawn(name, place, device, download=download)

    def go_on(self, name: str) -> Job:
        """Start a job that ended before its run was trained, as it was.

        Raises:
            UserError: it runs, or its run is trained, or another has the device.
        """
        job = self._job(name)
        if self.watch(name).state == "finished":
            raise UserError(f"{name} is trained already.")
        recipe = yaml.safe_load((self._place / name / "recipe.yaml").read_text(encoding="utf-8"))
        return self.start(name, recipe, device=job.device, download=job.download)

    def stop(self, name: str) -> None:
        """Ask a job to end at its next step, with a checkpoint; if it has not by the second time, end it.

        Raises:
            UserError: it does not run.
        """
        job = self._job(name)
        if not job.alive:
            raise UserError(f"{name} is not being trained.")
        overdue = job.asked is not None and time.time() - job.asked > KILL_AFTER
        _write(self._place / name / "job.json", json.dumps(asdict(replace(job, asked=job.asked or time.time()))))
        os.kill(job.pid, signal.SIGKILL if overdue else signal.SIGTERM)

    def watch(self, name: str) -> Watched:
        """How a job is."""
        job, folder = self._job(name), self.runs.folder(name)
        if name in self._children:
            self._children[name].poll()  # a child that has ended stays a zombie until it is asked
        alive = job.alive
        recipe = yaml.safe_load((self._place / name / "recipe.yaml").read_text(encoding="utf-8"))
        parts = list(_parts(folder, recipe, alive=alive))
        log = _tail(self._place / name / "log.txt")
        written = ":".join(f"{part.role}{_rows(_folder_of(folder, part.role))}" for part in parts)
        return Watched(name, _state(job, folder, alive=alive), parts, log, written)

    # -- inside -------------------------------------------------------------------------------------------------------

    @property
    def _lock(self) -> Path:
        return self._place / "lock"

    def _spawn(self, name: str, place: Path, device: str, *, download: bool) -> Job:
        command = [sys.executable, "-m", "sfkd.cli", "train", str(place / "recipe.yaml"), "--quiet"]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if not download:
            environment |= {"HF_HUB_OFFLINE": "1"}
        with (place / "log.txt").open("ab") as log:
            # its own session, so that what ends the app does not end the training
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        self._children[name] = child
        process = psutil.Process(child.pid)
        if device == "cpu":
            process.nice(5)  # the page answers while it trains
        job = Job(name, child.pid, process.create_time(), device, download)
        for path in (self._lock, place / "job.json"):
            _write(path, json.dumps(asdict(job)))
        return job

    def _job(self, name: str) -> Job:
        job = _read(self._place / name / "job.json") if self._is_job(name) else None
        if job is None:
            raise UserError(f"No training {name!r} was started from this app.")
        return job

    def _is_job(self, name: str) -> bool:
        try:
            self.runs.folder(name)
        except UserError:
            return False
        return (self._place / name / "job.json").is_file()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One start at a time, of all apps that look at this runs folder."""
        self._place.mkdir(parents=True, exist_ok=True)
        with (self._place / "guard").open("w") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            yield


def _parts(folder: Path, recipe: dict[str, Any], *, alive: bool) -> Iterator[Part]:
    teacher = recipe.get("teacher") or {}
    epochs = int((recipe.get("schedule") or {}).get("epochs", 10))
    planned = {"student": epochs}
    if recipe.get("baseline"):
        planned = {"baseline": epochs, **planned}
    if teacher.get("schedule") is not None:
        planned = {"teacher": int(teacher["schedule"].get("epochs", 10)), **planned}
    training = alive
    for role, count in planned.items():
        place = _folder_of(folder, role)
        if (place / "student" / "model.safetensors").is_file():
            yield Part(role, count, 1.0)
            continue
        told = (_json(place / "progress.json") or {}) if training else None
        share = _rows(place) / count
        if told:
            share = max(share, (told.get("epoch", 1) - 1 + told.get("step", 0) / max(told.get("steps", 1), 1)) / count)
        yield Part(role, count, min(share, 1.0), told)
        training = False  # they train one after another


def _folder_of(folder: Path, role: str) -> Path:
    return folder if role == "student" else folder / role


def _rows(folder: Path) -> int:
    """Epochs that a run wrote."""
    try:
        return max(len((folder / "metrics.csv").read_text(encoding="utf-8").splitlines()) - 1, 0)
    except OSError:
        return 0


def _state(job: Job, folder: Path, *, alive: bool) -> State:
    if alive:
        return "running" if job.asked is None else "stopping"
    if (folder / "student" / "model.safetensors").is_file():
        return "finished"
    return "failed" if job.asked is None else "stopped"


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(log.stat().st_size - _LOG_BYTES, 0))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-_LOG_LINES:])


def _read(path: Path) -> Job | None:
    try:
        return Job(**(_json(path) or {}))
    except TypeError:
        return None


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M", time.localtime(seconds))
