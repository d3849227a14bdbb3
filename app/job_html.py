"""A training as the page tells of it: HTML."""

from __future__ import annotations

import html
import math

from jobs import Part, Watched

_STATES = {
    "running": "is being trained",
    "stopping": "was asked to stop and ends at its next step",
    "stopped": "was stopped; started again under the same name it goes on",
    "failed": "ended with an error; the last lines it said are below",
    "finished": "is trained",
}
_ROLES = {"teacher": "teacher", "baseline": "student alone", "student": "distilled student"}


def told(watched: Watched) -> str:
    """State, every part with its progress, speed and time left, and the log where something went wrong."""
    parts = "".join(_part(part) for part in watched.parts)
    log = ""
    if watched.state == "failed" and watched.log:
        log = f"<pre tabindex='0' aria-label='End of the log'>{html.escape(watched.log)}</pre>"
    state = f"<b>{html.escape(watched.name)}</b> {_STATES[watched.state]}."
    return f"<div class='job' role='status'>{state}<ol>{parts}</ol>{log}</div>"


def duration(seconds: float) -> str:
    """Time left, in words.

    >>> duration(95.0), duration(5400.0), duration(7.2)
    ('1:35 min', '1:30 h', '7 s')
    """
    if not math.isfinite(seconds):
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}:{whole % 60:02d} min" if whole < 3600 else f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def _part(part: Part) -> str:
    name = _ROLES[part.role]
    bar = f"<progress max='1' value='{part.share:.4f}' aria-label='Progress of the {name}'></progress>"
    return f"<li><span>{name}</span>{bar}<span>{_words(part)}</span></li>"


def _words(part: Part) -> str:
    if part.share >= 1:
        return f"{part.epochs} epochs, done"
    now = part.progress
    if now is None:
        return (
            f"{part.share * part.epochs:.3g} of {part.epochs} epochs"
            if part.share
            else f"{part.epochs} epochs, waiting"
        )
    if not now:
        return f"{part.epochs} epochs, starting"
    said = [
        f"epoch {now.get('epoch', 0):.0f} of {part.epochs}, step {now.get('step', 0):.0f} of {now.get('steps', 0):.0f}"
    ]
    if "loss" in now:
        said.append(f"loss {now['loss']:.3f}")
    if "images_per_second" in now:
        said.append(f"{now['images_per_second']:.0f} images/s")
    if "seconds_left" in now:
        said.append(f"{duration(now['seconds_left'])} left")
    return " · ".join(said)
