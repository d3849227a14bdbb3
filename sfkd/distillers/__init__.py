"""Distillers: one method a file, one contract (`base.Distiller`), one registry."""

from __future__ import annotations

import inspect
from typing import Any

from sfkd._checks import unknown
from sfkd.distillers.base import Distiller, Result
from sfkd.distillers.fitnet import FitNet
from sfkd.distillers.kd import KD
from sfkd.distillers.none import StudentAlone
from sfkd.distillers.sfkd import SFKD
from sfkd.features import Backbone

__all__ = ["Distiller", "Result", "create_distiller", "list_distillers", "register"]

_REGISTRY: dict[str, type[Distiller]] = {}


def register(name: str, distiller: type[Distiller]) -> type[Distiller]:
    """Add a distiller under `name`; a second one of the same name raises."""
    if name in _REGISTRY:
        raise ValueError(f"a distiller named {name!r} is registered already ({_REGISTRY[name].__name__}).")
    _REGISTRY[name] = distiller
    return distiller


for _name, _class in {"none": StudentAlone, "kd": KD, "fitnet": FitNet, "sfkd": SFKD}.items():
    register(_name, _class)


def list_distillers() -> list[str]:
    """Names that `create_distiller` knows."""
    return list(_REGISTRY)


def distiller_options(name: str) -> dict[str, Any]:
    """Keyword options of a distiller with their defaults."""
    if name not in _REGISTRY:
        raise ValueError(unknown("distiller", name, _REGISTRY))
    parameters = inspect.signature(_REGISTRY[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def create_distiller(name: str, *, student: Backbone, teacher: Backbone | None = None, **options: Any) -> Distiller:
    """The distiller `name` for a student and a frozen teacher.

    Raises:
        ValueError: unknown name or option, with the choices; a method that needs a teacher without one.
    """
    known = distiller_options(name)
    for option in options:
        if option not in known:
            raise ValueError(unknown(f"option of {name}", option, known))
    return _REGISTRY[name](student, teacher, **options)
