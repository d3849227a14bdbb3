"""Many visitors at once, each on a walk of its own through the views, speaking as the page does; every answer is checked.

What a visitor gets must be what it asked for: the address that comes back, the picture and the pair in every figure, and for
one answer in eight every number, against the same view drawn in this process.
"""

from __future__ import annotations

import base64
import json
import random
import statistics
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from catalogue import CARDS
from engine import Engine
from runs_root import RunsRoot
from settings import CHANNELS, WAVELETS, Settings
from work import Work

QUICK = [view for view in CARDS if view not in ("Ablation", "Attribution", "Training")]
_CHECKED = 8  # one answer in so many is drawn again and compared


@dataclass
class Visitor:
    """One page: its session, and what happened to it."""

    client: httpx.Client
    number: int
    draws: dict[str, int]
    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    kept: list[tuple[Settings, list[str]]] = field(default_factory=list)

    def walk(self, until: float, layers: list[str]) -> None:
        """Change something, look, and again, until a time."""
        chance, shown = random.Random(self.number), ""
        settings = Settings(layer=layers[0])
        session = f"visitor{self.number}"
        while time.monotonic() < until:
            settings = _another(settings, chance, layers)
            begun = time.monotonic()
            try:
                found = self._draw(session, shown, settings)
            except (httpx.HTTPError, KeyError, ValueError) as error:
                self.errors.append(f"{type(error).__name__}: {error}")
                continue
            self.seconds.append(time.monotonic() - begun)
            shown = self._check(settings, found, layers)
            time.sleep(chance.uniform(0.2, 1.0))

    def _draw(self, session: str, shown: str, settings: Settings) -> dict[str, Any]:
        values = (vars(settings) | {"image": {"source": settings.image, "own": None}}).values()
        body = {
            "data": [time.monotonic() * 1000, *values, shown],
            "fn_index": self.draws["draw"],
            "session_hash": session,
        }
        answer = self.client.post("gradio_api/run/predict", json=body)
        answer.raise_for_status()
        found = _outputs(answer.json()["data"])
        return found if "ticket" not in found else self._follow(session, found["ticket"])

    def _follow(self, session: str, ticket: str) -> dict[str, Any]:
        body = {"data": [ticket], "fn_index": self.draws["follow"], "session_hash": session}
        self.client.post("gradio_api/queue/join", json=body).raise_for_status()
        found: dict[str, Any] = {}
        with self.client.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as events:
            for line in events.iter_lines():
                event = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                if event.get("msg") == "process_completed":
                    if not event["success"]:
                        raise ValueError(str(event["output"]))
                    found = _outputs(event["output"]["data"])
                if event.get("msg") == "close_stream":
                    break
        return found

    def _check(self, settings: Settings, found: dict[str, Any], layers: list[str]) -> str:
        expected = settings.brief(["teacher", "alone", "student"], layers).query()
        if found.get("address") != expected:
            self.errors.append(f"asked for {expected}, got {found.get('address')}")
        for figure in found["figures"]:
            if figure["query"] != expected:
                self.errors.append(f"asked for {expected}, got the figure of {figure['query']}")
        if len(self.seconds) % _CHECKED == 0:
            self.kept.append((settings, [json.dumps(figure["data"]) for figure in found["figures"]]))
        return expected


def visit(address: str, *, visitors: int, seconds: float) -> dict[str, Any]:
    """Let so many visitors walk for so long; counts, seconds and mistakes."""
    client = httpx.Client(base_url=address, timeout=120, limits=httpx.Limits(max_connections=4 * visitors))
    draws = _events(client)
    engine = Engine(RunsRoot(Path("runs")), "cpu")
    layers = engine.describe("bundled").layers
    people = [Visitor(client, number, draws) for number in range(visitors)]
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=person.walk, args=(until, layers)) for person in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client.close()
    mixed = [error for person in people for error in _wrong(engine, person)]
    times = sorted(second for person in people for second in person.seconds)
    return {
        "answers": len(times),
        "errors": sum(len(person.errors) for person in people) + len(mixed),
        "checked": sum(len(person.kept) for person in people),
        "median": statistics.median(times),
        "p95": times[int(0.95 * (len(times) - 1))],
        "first": [*(error for person in people for error in person.errors), *mixed][:3],
    }


def draw(address: str, session: str, settings: Settings) -> dict[str, Any]:
    """What one page gets that asks for these settings: figures and address."""
    with httpx.Client(base_url=address, timeout=120) as client:
        return Visitor(client, 0, _events(client))._draw(session, "", settings)


def _events(client: httpx.Client) -> dict[str, int]:
    """Number of each event of the page by its name."""
    return {event["api_name"]: event["id"] for event in client.get("config").json()["dependencies"]}


def _another(settings: Settings, chance: random.Random, layers: list[str]) -> Settings:
    """The settings with one thing changed, as a visitor would."""
    changes: dict[str, Any] = {
        "view": chance.choice(QUICK),
        "image": chance.choice([f"test:{chance.randrange(240)}", "photo:cat", "photo:rocket", "mean:24"]),
        "layer": chance.choice(layers),
        "wavelet": chance.choice(WAVELETS[:4]),
        "sigma": chance.randrange(2, 71) / 100,
        "channel": chance.choice([channel for channel in CHANNELS if CHANNELS[channel]]),
    }
    name = chance.choice(list(changes))
    changed = replace(settings, **{name: changes[name]})
    return changed if changed != settings else _another(settings, chance, layers)


def _outputs(data: list[Any]) -> dict[str, Any]:
    """Figures, address and ticket among an event's outputs; those that it leaves alone are updates without a value."""
    found: dict[str, Any] = {"figures": []}
    given = [value for value in data if isinstance(value, str) and value]
    for value in given:
        if value.startswith("{"):
            found["figures"].append(json.loads(value))
    plain = [value for value in given if not value.startswith(("{", "<"))]
    if len(plain) == 1:
        found["address" if found["figures"] else "ticket"] = plain[0]
    elif found["figures"]:
        found["address"] = ""
    return found


def _wrong(engine: Engine, person: Visitor) -> list[str]:
    """Which of a visitor's kept answers are not what this process draws."""
    wrong = []
    for settings, figures in person.kept:
        sheet = engine.show(settings, Work())
        expected = [json.loads(figure)["data"] for figure in sheet.figures if figure]
        if not all(_same(json.loads(a), b) for a, b in zip(figures, expected, strict=True)):
            wrong.append(f"other numbers in {sheet.query}")
    return wrong


def _same(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> bool:
    return len(a) == len(b) and all(
        np.allclose(_array(x[key]), _array(y[key]), atol=1e-3, equal_nan=True)
        for x, y in zip(a, b, strict=True)
        for key in ("z", "y")
        if isinstance(x.get(key), dict)
    )


def _array(values: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(values["bdata"]), dtype=values["dtype"])
