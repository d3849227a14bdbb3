"""What one visitor looks at, as one value, and that value as the query of the page's address."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import urlencode

from catalogue import CARDS
from messages import UserError

BUNDLED = "bundled"
JOIN = " ↔ "  # between the layers of a pair, student first
VIEWS = tuple(CARDS)
CHANNELS: dict[str, str | None] = {
    "mean energy": "energy",
    "principal component 1": "pc1",
    "principal component 2": "pc2",
    "principal component 3": "pc3",
    "one channel": None,
}
WAVELETS = ("haar", "db2", "db3", "db4", "sym2", "sym3", "sym4", "coif1", "bior1.3", "bior2.2", "bior3.1", "rbio2.2")
MOST_LEVELS = 4
SIGMAS = (0.02, 0.7)
MOST_SAMPLES = 240
ALL_BANDS = "all bands"
MODELS = {"teacher": "teacher", "alone": "student alone", "student": "distilled student"}
SITES = ("input", "layer")
_NUMBER = 4095  # of the highest channel that an address may name
_IMAGE = re.compile(r"(test|mean):\d{1,5}|photo:[a-z]{1,32}|upload:[\w-]{16,64}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)


def bands(levels: int) -> list[str]:
    """Choices of the band control: all, the whole map, the approximation, details coarsest first."""
    return [ALL_BANDS, "whole", "A", *(f"{letter}{level}" for level in range(levels, 0, -1) for letter in "HVD")]


@dataclass(frozen=True)
class Settings:
    """Every choice on the page, in plain values; equal settings show equal figures.

    Attributes:
        view: of `VIEWS`.
        pair: "bundled", "run|NAME" (under the runs root) or "timm|TEACHER|STUDENT|random" or "…|pretrained".
        image: a source of `Pictures`: "test:3", "photo:cat", "mean:240", "upload:TOKEN".
        layer: "student layer ↔ teacher layer"; one that the pair lacks stands for its first.
        wavelet, levels: of `sfkd.decompose`. band: of `bands`.
        channel: of `CHANNELS`; number: the channel where that is "one channel". sigma: cycles/pixel.
        model: of `MODELS`, in views that show one; one that the pair lacks stands for its last.
        site: of `SITES`, where attribution looks.
        job: name of the run that the training view watches.
    """

    view: str = VIEWS[0]
    pair: str = BUNDLED
    image: str = "test:0"
    layer: str = ""
    wavelet: str = "haar"
    levels: int = 2
    band: str = ALL_BANDS
    channel: str = "mean energy"
    number: int = 0
    sigma: float = 0.25
    model: str = "student"
    site: str = "input"
    job: str = ""

    @property
    def component(self) -> str | int:
        """The channel as the measures take it."""
        chosen = CHANNELS[self.channel]
        return self.number if chosen is None else chosen

    @property
    def one_band(self) -> str | None:
        """The band as `plot_cka` and `plot_transfer` take it: None for all of them."""
        return {ALL_BANDS: None, "whole": "all"}.get(self.band, self.band)

    @staticmethod
    def of(values: Mapping[str, Any]) -> Settings:
        """Settings of a page's values, in which anything may stand: what is of no use is left at its default, numbers that
        are too small or too large become the nearest."""
        sound = {}
        for name, usual in vars(Settings()).items():
            value = values.get(name)
            try:
                sound[name] = usual if value is None else type(usual)(value)
            except (TypeError, ValueError, OverflowError):
                sound[name] = usual
        sound["number"] = min(max(sound["number"], 0), _NUMBER)
        if math.isfinite(sound["sigma"]):
            sound["sigma"] = min(max(sound["sigma"], SIGMAS[0]), SIGMAS[1])
        return Settings(**sound).valid()

    def valid(self) -> Settings:
        """These settings with a default in place of every value that is none of its control's."""
        default = Settings()
        checked = {
            "view": self.view in VIEWS,
            "pair": pair_of(self.pair) is not None,
            "image": bool(_IMAGE.fullmatch(self.image)),
            "layer": len(self.layer) < 200,
            "wavelet": self.wavelet in WAVELETS,
            "levels": 1 <= self.levels <= MOST_LEVELS,
            "channel": self.channel in CHANNELS and 0 <= self.number <= _NUMBER,
            "sigma": SIGMAS[0] <= self.sigma <= SIGMAS[1],
            "model": self.model in MODELS,
            "site": self.site in SITES,
            "job": not self.job or bool(_NAME.fullmatch(self.job)),
        }
        sound = replace(self, **{name: getattr(default, name) for name, holds in checked.items() if not holds})
        sound = sound if CHANNELS[sound.channel] is None else replace(sound, number=0)
        return sound if sound.band in bands(sound.levels) else replace(sound, band=default.band)

    def of_pair(self, models: Sequence[str], layers: Sequence[str]) -> Settings:
        """These settings with a layer and a model that the pair has."""
        layer = self.layer if self.layer in layers else layers[0]
        return replace(self, layer=layer, model=self.model if self.model in models else models[-1])

    def brief(self, models: Sequence[str], layers: Sequence[str]) -> Settings:
        """These settings with nothing said of a layer and a model that the pair would show anyway."""
        layer = "" if self.layer == layers[0] else self.layer
        return replace(self, layer=layer, model=Settings().model if self.model == models[-1] else self.model)

    def query(self) -> str:
        """The address's query: what differs from the defaults, in plain words."""
        usual = _said(Settings())
        return urlencode({k: v for k, v in _said(self).items() if v != usual.get(k)}, safe=":,")

    @staticmethod
    def read(query: Mapping[str, str]) -> tuple[Settings, list[str]]:
        """Settings of a query, and the names of what it said that cannot be used and was left at its default."""
        asked: dict[str, Any] = {}
        refused: list[str] = []
        for name, text in query.items():
            if name.startswith("__"):  # Gradio's own
                continue
            try:
                asked |= _READ[name](text, query)
            except (KeyError, ValueError):
                refused.append(name)
        settings = Settings(**asked)
        valid = settings.valid()
        changed = [f.name for f in fields(valid) if getattr(valid, f.name) != getattr(settings, f.name)]
        refused += [name for name in changed if name != "number"]  # which is part of the channel
        return valid, list(dict.fromkeys(refused))


def pair_of(key: str) -> tuple[str, ...] | None:
    """The parts of a pair's key; None where it is none."""
    kind, *rest = key.split("|")
    if kind == BUNDLED and not rest:
        return (kind,)
    if kind == "run" and len(rest) == 1 and _NAME.fullmatch(rest[0]):
        return (kind, *rest)
    if kind == "timm" and len(rest) == 3 and all(_NAME.fullmatch(name) for name in rest[:2]):
        return (kind, *rest) if rest[2] in ("random", "pretrained") else None
    return None


def key_of_names(teacher: str, student: str, *, pretrained: bool) -> str:
    """Key of two timm names; nothing is opened."""
    teacher, student = teacher.strip(), student.strip()
    if not teacher or not student:
        raise UserError("Type two timm model names, such as resnet18 and swin_tiny_patch4_window7_224.")
    key = "|".join(("timm", teacher, student, "pretrained" if pretrained else "random"))
    if pair_of(key) is None:
        raise UserError("The page opens timm names only, such as resnet18; open a run folder with --run.")
    return key


def _slug(text: str) -> str:
    return text.lower().replace(" ", "-")


def _said(settings: Settings) -> dict[str, str]:
    kind, *rest = settings.pair.split("|")
    pair = dict(zip({"run": ["run"], "timm": ["teacher", "student", "weights"]}.get(kind, []), rest, strict=False))
    return {
        "view": _slug(settings.view),
        **pair,
        "image": settings.image,
        "layer": settings.layer.replace(JOIN, ","),
        "wavelet": settings.wavelet,
        "levels": str(settings.levels),
        "band": settings.band,
        "channel": str(settings.component),
        "sigma": f"{settings.sigma:g}",
        "model": settings.model,
        "site": settings.site,
        "job": settings.job,
    }


def _names(_: str, query: Mapping[str, str]) -> dict[str, Any]:
    return {"pair": "|".join(("timm", query["teacher"], query["student"], query.get("weights", "random")))}


def _channel(text: str, _: Mapping[str, str]) -> dict[str, Any]:
    if text.isascii() and text.isdigit():
        return {"channel": "one channel", "number": int(text)}
    return {"channel": {channel: label for label, channel in CHANNELS.items()}[text]}


_READ: dict[str, Callable[[str, Mapping[str, str]], dict[str, Any]]] = {
    "view": lambda text, _: {"view": {_slug(view): view for view in VIEWS}[text]},
    "run": lambda text, _: {"pair": f"run|{text}"},
    "teacher": _names,
    "student": _names,
    "weights": _names,
    "image": lambda text, _: {"image": text},
    "layer": lambda text, _: {"layer": text.replace(",", JOIN)},
    "wavelet": lambda text, _: {"wavelet": text},
    "levels": lambda text, _: {"levels": int(text)},
    "band": lambda text, _: {"band": text},
    "channel": _channel,
    "sigma": lambda text, _: {"sigma": float(text)},
    "model": lambda text, _: {"model": text},
    "site": lambda text, _: {"site": text},
    "job": lambda text, _: {"job": text},
}
