"""The measures as endpoints with names: plain values in, tables (lists of rows) out.

Every endpoint takes `run`, the name of a run under the runs root, empty for the bundled pair. `image` is a source as in the
page's address: "test:3", "photo:cat", or "mean:240" for so many samples. `layer` is a layer pair as `/describe` lists them,
empty for the first.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from messages import UserError
from microscope import Microscope
from settings import BUNDLED, Settings
from work import Work

if TYPE_CHECKING:
    from views import Look

Rows = list[dict[str, Any]]


class Api:
    """What the endpoints of an app do. Docstrings are their descriptions."""

    def __init__(self, microscope: Microscope) -> None:
        self._microscope = microscope

    def runs(self) -> list[str]:
        """Names of the runs that can be asked for."""
        return list(self._microscope.runs.finished())

    def describe(self, run: str = "") -> dict[str, Any]:
        """Models by role, and layer pairs, of a run."""
        described = self._microscope.engine.describe(_settings(run).pair)
        return {"models": described.models, "layers": described.layers}

    def transfer(self, run: str = "", image: str = "mean:240", wavelet: str = "haar", levels: int = 2) -> Rows:
        """What distillation moved: a row a band and layer pair, with intervals. Needs a student trained alone."""
        found = self._alignment(_settings(run, image=image, wavelet=wavelet, levels=levels))
        if not hasattr(found, "alone"):
            raise UserError("This run has no student trained alone: ask for /cka.")
        return _rows(found.to_dataframe())

    def cka(
        self, run: str = "", model: str = "student", image: str = "mean:240", wavelet: str = "haar", levels: int = 2
    ) -> Rows:
        """Alignment of the teacher's layers (a) with those of the student, or of the student "alone" (b), per band."""
        found = self._alignment(_settings(run, image=image, wavelet=wavelet, levels=levels))
        students = {"student": found.distilled, "alone": found.alone} if hasattr(found, "alone") else {"student": found}
        if model not in students:
            raise UserError(f"model expects one of {', '.join(students)}, got {model!r}.")
        return _rows(students[model].to_dataframe())

    def band_energy(
        self, run: str = "", image: str = "test:0", layer: str = "", wavelet: str = "haar", levels: int = 2
    ) -> Rows:
        """Energy of each sub-band and its share, of every model of a layer pair."""
        import sfkd_viz

        look = self._look(_settings(run, image=image, layer=layer, wavelet=wavelet, levels=levels))
        return [
            {"model": name, **row}
            for name, maps in self._maps(look).items()
            for row in _rows(sfkd_viz.band_energy(maps, wavelet, levels).to_dataframe())
        ]

    def radial_spectrum(self, run: str = "", image: str = "test:0", layer: str = "") -> Rows:
        """Power and share of energy per ring of the frequency plane, of every model of a layer pair."""
        import sfkd_viz

        return [
            {"model": name, **row}
            for name, maps in self._maps(self._look(_settings(run, image=image, layer=layer))).items()
            for row in _rows(sfkd_viz.radial_spectrum(maps).to_dataframe())
        ]

    def relative_amplitude(self, run: str = "", model: str = "student", image: str = "test:0") -> Rows:
        """Relative log amplitude of every layer of a model ("teacher", "student" or "alone"), after Park and Kim."""
        import sfkd_viz

        look = self._look(_settings(run, image=image, model=model))
        output = look.measured.output(look.pair, look.settings.model, image, look.work)
        return _rows(sfkd_viz.relative_amplitude(output.features).to_dataframe())

    def gaussian(self, run: str = "", image: str = "test:0", layer: str = "", sigma: float = 0.25) -> Rows:
        """Shares of energy that a Gaussian low-pass of width sigma (cycles/pixel) keeps and removes, of every model."""
        import sfkd_viz

        rows = []
        for name, maps in self._maps(self._look(_settings(run, image=image, layer=layer, sigma=sigma))).items():
            found = sfkd_viz.gaussian_filter(maps, sigma)
            shares = (found.kept_energy, found.kept_energy_without_dc, found.removed_energy)
            rows.append({"model": name, **dict(zip(("kept", "kept_without_mean", "removed"), shares, strict=True))})
        return rows

    def ds2s(self, run: str = "", image: str = "test:0", layer: str = "") -> Rows:
        """Energy, gain and distance to the target of each band after each stage of DS2S, of a layer pair."""
        look = self._look(_settings(run, image=image, layer=layer))
        settings = look.settings
        return _rows(
            look.measured.refinement(look.pair, image, settings.layer, settings.component, look.work).to_dataframe()
        )

    def attribution(  # noqa: PLR0917
        self,
        run: str = "",
        model: str = "student",
        image: str = "test:0",
        site: str = "input",
        layer: str = "",
        wavelet: str = "haar",
        levels: int = 2,
    ) -> Rows:
        """Parts of a model's logit by band of the image (site "input") or of its layer of the pair (site "layer")."""
        look = self._look(
            _settings(run, model=model, image=image, site=site, layer=layer, wavelet=wavelet, levels=levels)
        )
        settings = look.settings
        where = "input" if site == "input" else look.pair.layer_of(settings.model, settings.layer)
        return _rows(look.measured.attribution(look.pair, where, settings, look.work).to_dataframe())

    def ablation(
        self, run: str = "", model: str = "student", image: str = "mean:120", wavelet: str = "haar", levels: int = 2
    ) -> Rows:
        """What a model loses without each band of each layer, on so many samples ("mean:16" at least)."""
        look = self._look(_settings(run, model=model, image=image, wavelet=wavelet, levels=levels))
        source = look.measured.many(look.pair, image, look.work)
        return _rows(look.measured.ablation(look.pair, source, look.settings, look.work).to_dataframe())

    def training(self, run: str = "") -> Rows:
        """Every number that the trainings of a run wrote, a row an epoch and quantity."""
        import sfkd_viz
        from sfkd.loading import DEMO

        return _rows(sfkd_viz.training_curves(self._look(_settings(run)).pair.folder or DEMO).to_dataframe())

    def _look(self, settings: Settings) -> Look:
        look = self._microscope.engine.look(settings, Work())
        for name in ("layer", "model"):
            asked, found = getattr(settings, name), getattr(look.settings, name)
            if asked and asked != found:
                there = look.pair.described.layers if name == "layer" else list(look.pair.models)
                raise UserError(f"{name} expects one of {', '.join(there)}, got {asked!r}.")
        return look

    def _alignment(self, settings: Settings) -> Any:
        look = self._look(settings)
        source = look.measured.many(look.pair, settings.image, look.work)
        return look.measured.alignment(look.pair, source, look.settings, look.work)

    def _maps(self, look: Look) -> dict[str, Any]:
        return look.measured.maps(look.pair, look.settings.image, look.settings.layer, look.work)


def _settings(run: str, **asked: Any) -> Settings:
    """Settings of an endpoint's arguments.

    Raises:
        UserError: a value that is none of its argument's.
    """
    settings = Settings(pair=f"run|{run}" if run else BUNDLED, **asked)
    valid = settings.valid()
    if wrong := [name for name in asked if getattr(settings, name) != getattr(valid, name)]:
        raise UserError(f"{wrong[0]} has no value {asked[wrong[0]]!r}.")
    if valid.pair != settings.pair:
        raise UserError(f"There is no run {run!r}.")
    return settings


def _rows(table: Any) -> Rows:
    """A data frame as JSON's types; what is not finite as null."""
    return json.loads(table.to_json(orient="records"))
