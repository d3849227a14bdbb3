"""Distillers: one method a file, one contract (`base.Distiller`), one registry."""

from __future__ import annotations

import inspect
from typing import Any

from sfkd._checks import unknown
from sfkd.distillers.base import Distiller, Result
from sfkd.distillers.correlation import Correlation
from sfkd.distillers.crd import CRD
from sfkd.distillers.dist import DIST
from sfkd.distillers.dkd import DKD
from sfkd.distillers.fitnet import FitNet
from sfkd.distillers.freekd import FreeKD
from sfkd.distillers.gffl import GFFL
from sfkd.distillers.kd import KD
from sfkd.distillers.none import StudentAlone
from sfkd.distillers.ofa import OFA
from sfkd.distillers.rkd import RKD
from sfkd.distillers.sfkd import SFKD
from sfkd.distillers.spectralkd import SpectralKD
from sfkd.features import Backbone

__all__ = ["Distiller", "Result", "create_distiller", "list_distillers", "register"]

_REGISTRY: dict[str, type[Distiller]] = {}


def register(name: str, distiller: type[Distiller]) -> type[Distiller]:
    """Add a distiller under `name`; a second one of the same name raises."""
    if name in _REGISTRY:
        raise ValueError(f"a distiller named {name!r} is registered already ({_REGISTRY[name].__name__}).")
    _REGISTRY[name] = distiller
    return distiller


_METHODS: dict[str, type[Distiller]] = {
    "none": StudentAlone,
    "kd": KD,
    "fitnet": FitNet,
    "sfkd": SFKD,
    "gffl": GFFL,
    "correlation": Correlation,
    "rkd": RKD,
    "crd": CRD,
    "dkd": DKD,
    "dist": DIST,
    "ofa": OFA,
    "spectralkd": SpectralKD,
    "freekd": FreeKD,
}
for _name, _class in _METHODS.items():
    register(_name, _class)


def list_distillers() -> list[str]:
    """Names that `create_distiller` knows."""
    return list(_REGISTRY)


def distiller_options(name: str) -> dict[str, Any]:
    """Keyword options of a distiller with their defaults: its own, and by way of `**options` those of its parents."""
    if name not in _REGISTRY:
        raise ValueError(unknown("distiller", name, _REGISTRY))
    options: dict[str, Any] = {}
    for ancestor in _REGISTRY[name].__mro__:
        if "__init__" not in vars(ancestor):
            continue
        parameters = inspect.signature(vars(ancestor)["__init__"]).parameters.values()
        for parameter in parameters:
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                options.setdefault(parameter.name, parameter.default)
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return options


def create_distiller(name: str, *, student: Backbone, teacher: Backbone | None = None, **options: Any) -> Distiller:
    """The distiller `name` for a student and a frozen teacher.

    Raises:
        ValueError: unknown name or option, with the choices; a method that needs a teacher without one.

    Examples:
        >>> import torch
        >>> student, teacher = (Backbone(name, num_classes=10) for name in ("test_vit", "test_resnet"))
        >>> result = create_distiller("sfkd", student=student, teacher=teacher)(torch.randn(2, 3, 160, 160), torch.arange(2))
        >>> list(result.parts), result.loss.requires_grad
        (['ce', 'kd', 'bands', 'gffl'], True)
    """
    known = distiller_options(name)
    for option in options:
        if option not in known:
            raise ValueError(unknown(f"option of {name}", option, known))
    return _REGISTRY[name](student, teacher, **options)
