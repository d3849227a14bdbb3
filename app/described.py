"""What is known of a pair without its models: names, layers, and the header of the page as HTML. Needs no torch."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sfkd.loading import Run


@dataclass(frozen=True)
class Described:
    """A pair in plain values.

    Attributes:
        key: what `Pairs` opens. models: role of `settings.MODELS` → name in figures, the distilled student last.
        layers: layer pairs as the page names them. header: HTML.
    """

    key: str
    models: dict[str, str]
    layers: list[str]
    header: str


def header_of_run(run: Run, name: str) -> str:
    """Models, data and top-1 of a run."""
    config, tops = run.config, run.top1
    rows = [
        ("teacher", "teacher", run.teacher, config.teacher),
        ("baseline", "student alone", run.baseline, config.student),
        ("student", f"student ({config.method.name})", run.student, config.student),
    ]
    shown = [
        (word, spec.name or Path(model.name).name, f"{tops[role]:.1f} %" if role in tops else "")
        for role, word, model, spec in rows
        if model is not None and spec is not None
    ]
    data = f"{config.data.name}, {config.data.input_size[1]} px · percentages: top-1 on its test set · {name}"
    return f"{_cards(shown)}<p class='data'>{html.escape(data)}</p>"


def header_of_names(models: dict[str, str], *, pretrained: bool) -> str:
    """Two timm models: role → name."""
    weights = "pretrained weights" if pretrained else "random weights: this shows architectures, not training"
    badge = f"<span class='badge{'' if pretrained else ' warn'}'>{weights}</span>"
    cards = _cards([(role, name, "") for role, name in models.items()])
    return f"{cards}<p class='data'>{badge} DS2S is untrained here: the identity.</p>"


def _cards(models: list[tuple[str, str, str]]) -> str:
    """Role, name and top-1 of each model."""
    cells = [
        f"<li class='card'><b>{role}</b><span class='top1'>{top1}</span><span class='name'>{name}</span></li>"
        for role, name, top1 in (map(html.escape, model) for model in models)
    ]
    return f"<ul class='cards'>{''.join(cells)}</ul>"
