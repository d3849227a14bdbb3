"""What the page shows, as plain values in and figures or text out. Knows nothing of gradio."""

from __future__ import annotations

import html
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import torch
from cache import Cache
from messages import MissingWeights, UserError, readable
from pictures import ALL_SAMPLES, Pictures

import sfkd_viz
from sfkd import Backbone, create_distiller, load_demo, load_run, pair_layers
from sfkd.distillers.sfkd import SFKD
from sfkd.features import Output
from sfkd.loading import DEMO, Run, load_pictures, model_transform
from sfkd.runs import RunFolder

BUNDLED = "bundled"
VIEWS = ("Sub-bands", "Spectra", "Gaussian masks", "DS2S")
CHANNELS = {
    "mean energy": "energy",
    "principal component 1": "pc1",
    "principal component 2": "pc2",
    "principal component 3": "pc3",
    "one channel": None,
}


@dataclass(frozen=True)
class Pair:
    """Models side by side, by role in display order, and the SFKD distiller that joins teacher and student."""

    key: str
    models: dict[str, Backbone]
    distiller: SFKD
    trained: bool
    run: Run | None
    note: str

    @property
    def layers(self) -> list[str]:
        """Layer pairs as the page names them."""
        return [f"{student} ↔ {teacher}" for student, teacher in self.distiller.pairs]

    def layer_of(self, role: str, choice: str) -> str:
        """The layer of a model in a layer pair."""
        student, teacher = choice.split(" ↔ ")
        return teacher if role == "teacher" else student


class Microscope:
    """Everything behind one running app: the pairs that are open, the features that were computed.

    Args:
        run: folder to open first; None opens the bundled pair.
        runs_root: folder whose finished runs are offered.
        device: where features are computed.
    """

    def __init__(self, *, run: Path | None = None, runs_root: Path | None = None, device: str = "cpu") -> None:
        self.runs_root, self.device = runs_root, device
        self._first_run = run
        self._pairs: Cache[Pair] = Cache(4)
        self._outputs: Cache[Output] = Cache(24)
        self.pictures = Pictures()
        self._computing = threading.Lock()
        try:
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"device {device!r} is not available here: {str(error).splitlines()[0]}") from error
        self.first = BUNDLED if run is None else _run_key(run)
        self.pair(self.first)

    # -- pairs --------------------------------------------------------------------------------------------------------

    @readable
    def runs(self) -> dict[str, str]:
        """Finished runs to choose from: what the page shows → key."""
        choices = {"bundled pair": BUNDLED}
        if self._first_run is not None:
            choices[self._first_run.name] = _run_key(self._first_run)
        root = self.runs_root
        if root is not None and root.is_dir():
            for config in sorted(root.glob("*/config.yaml")):
                folder = config.parent
                inside = folder.resolve().is_relative_to(root.resolve())
                if inside and RunFolder(folder).finished and RunFolder(folder).recipe().teacher is not None:
                    choices.setdefault(folder.name, _run_key(folder))
        return choices

    @readable
    def pair(self, key: str) -> Pair:
        """The open pair of a key that `runs` or `open_names` gave."""
        return self._pairs.get_or(key, lambda: self._open(key))

    @readable
    def open_names(self, teacher: str, student: str, *, pretrained: bool) -> str:
        """Open any two timm names; random weights unless `pretrained`. Returns the key."""
        teacher, student = teacher.strip(), student.strip()
        if not teacher or not student:
            raise UserError("Type two timm model names, such as resnet18 and swin_tiny_patch4_window7_224.")
        key = f"timm|{teacher}|{student}|{pretrained}"
        self.pair(key)
        return key

    def _open(self, key: str) -> Pair:
        kind, _, rest = key.partition("|")
        if kind in (BUNDLED, "run"):
            return self._open_run(key, DEMO if kind == BUNDLED else Path(rest))
        if kind != "timm":
            raise UserError("This pair is not known here: choose a run or type two model names.")
        teacher, student, pretrained = rest.split("|")
        return self._open_names(key, teacher, student, pretrained == "True")

    def _open_run(self, key: str, path: Path) -> Pair:
        if key != BUNDLED and path not in self._allowed_runs():
            raise UserError("That run is not under the runs folder of this app.")
        run = load_demo().run if key == BUNDLED else load_run(path)
        if run.teacher is None:
            raise UserError(f"{path.name} was trained without a teacher: there is nothing to compare.")
        models = {
            "teacher": run.teacher,
            "student alone": run.baseline,
            f"student ({run.config.method.name})": run.student,
        }
        distiller = run.distiller if isinstance(run.distiller, SFKD) else _untrained(run.student, run.teacher)
        present = {role: model.to(self.device) for role, model in models.items() if model is not None}
        return Pair(key, present, distiller.to(self.device), isinstance(run.distiller, SFKD), run, _describe_run(run))

    def _allowed_runs(self) -> set[Path]:
        return {Path(key.partition("|")[2]) for key in self.runs().values() if key != BUNDLED} | (
            {self._first_run.resolve()} if self._first_run is not None else set()
        )

    def _open_names(self, key: str, teacher: str, student: str, pretrained: bool) -> Pair:
        from sfkd import WeightsError

        models = {}
        for role, name in (("teacher", teacher), ("student", student)):
            if name.startswith(("local-dir:", "hf-hub:")):
                raise UserError(f"{name}: the page opens timm names only; open a run folder with --run.")
            try:
                torch.manual_seed(0)
                models[role] = Backbone(name, pretrained=pretrained).eval().to(self.device)
            except WeightsError as error:
                raise MissingWeights(str(error)) from error
        pair_layers(models["student"].layer_names, models["teacher"].layer_names)
        distiller = _untrained(models["student"], models["teacher"]).to(self.device)
        weights = "pretrained weights" if pretrained else "random weights: this shows architectures, not training"
        cards = _cards([(role, model.name, "") for role, model in models.items()])
        note = f"{cards}<div class='data'>{_badge(weights, warn=not pretrained)} DS2S is untrained here: the identity.</div>"
        return Pair(key, models, distiller, False, None, note)

    # -- features -----------------------------------------------------------------------------------------------------

    @readable
    def outputs(self, key: str, source: str) -> dict[str, Output]:
        """Logits and features of every model of a pair on a source."""
        pair = self.pair(key)
        return {role: self._output(pair, role, model, source) for role, model in pair.models.items()}

    def _output(self, pair: Pair, role: str, model: Backbone, source: str) -> Output:
        def compute() -> Output:
            transform = model_transform(model)
            images = torch.stack([transform(picture) for picture in self.pictures.of(source)]).to(self.device)
            with self._computing, torch.no_grad():
                parts = [model(part) for part in images.split(32)]
            features = {name: torch.cat([p.features[name] for p in parts]).cpu() for name in parts[0].features}
            return Output(torch.cat([p.logits for p in parts]).cpu(), features)

        return self._outputs.get_or((pair.key, role, source), compute)

    # -- what the page shows ------------------------------------------------------------------------------------------

    @readable
    def verdict(self, key: str, source: str) -> str:
        """What the models say about the image, as HTML."""
        pair = self.pair(key)
        classes = load_pictures().classes
        said = []
        for role, output in self.outputs(key, source).items():
            probabilities = output.logits.softmax(1)
            if len(probabilities) > 1:
                continue
            confidence, label = probabilities[0].max(0)
            name = (
                classes[int(label)]
                if pair.run is not None and len(probabilities[0]) == len(classes)
                else f"class {label}"
            )
            said.append(f"<b>{html.escape(role)}</b>: {html.escape(name)} {100 * confidence:.0f} %")
        kind, _, name = source.partition(":")
        if source == ALL_SAMPLES:
            truth = f"mean over all {len(load_pictures().images)} sample images"
        elif kind == "test":
            truth = f"test image, label “{classes[load_pictures().labels[int(name)]]}”"
        else:
            truth = {"photo": f"photograph “{name}”", "upload": "your picture"}.get(kind, "")
        return f"<div class='verdict'>{html.escape(truth)}{' · ' if said else ''}{' · '.join(said)}</div>"

    @readable
    def draw(
        self,
        view: str,
        key: str,
        source: str,
        layer: str,
        *,
        wavelet: str = "haar",
        levels: int = 2,
        channel: str = "mean energy",
        channel_number: int = 0,
        sigma: float = 0.25,
        dark: bool = False,
    ) -> list[go.Figure]:
        """The figures of a view: one, or for "Spectra" the maps and the radial profiles."""
        pair = self.pair(key)
        if layer not in pair.layers:
            layer = pair.layers[0]
        chosen: Any = CHANNELS.get(channel, "energy")
        chosen = int(channel_number) if chosen is None else chosen
        if view == "DS2S":
            figures = [self._draw_ds2s(pair, source, layer, chosen)]
        else:
            maps = {
                f"{role} · {pair.layer_of(role, layer)}": output.features[pair.layer_of(role, layer)]
                for role, output in self.outputs(key, source).items()
            }
            if view == "Sub-bands":
                figures = [sfkd_viz.plot_subbands(maps, wavelet, int(levels), chosen)]
            elif view == "Spectra":
                figures = [sfkd_viz.plot_spectrum(maps), sfkd_viz.plot_radial_spectrum(maps)]
            elif view == "Gaussian masks":
                figures = [sfkd_viz.plot_gaussian_mask(maps, float(sigma), channel=chosen)]
            else:
                raise UserError(f"There is no view {view!r}.")
        return [_for_page(figure, dark) for figure in figures]

    def _draw_ds2s(self, pair: Pair, source: str, layer: str, channel: Any) -> go.Figure:
        from sfkd_viz.measures.refinement import refinement_of

        outputs = list(self.outputs(pair.key, source).values())
        student_layer, teacher_layer = layer.split(" ↔ ")
        module = pair.distiller.spatial_frequency[pair.layers.index(layer)]
        with self._computing, torch.no_grad():
            student, teacher = outputs[-1].features[student_layer], outputs[0].features[teacher_layer]
            view = module(student.to(self.device), teacher.to(self.device))
        measured = refinement_of(
            view,
            student_layer=student_layer,
            teacher_layer=teacher_layer,
            trained=pair.trained and not module.refine.is_identity(),  # type: ignore[operator, union-attr]
            asked_levels=pair.distiller.asked_levels,
            channel=channel,
        )
        return sfkd_viz.plot_ds2s(measured)


def _run_key(folder: Path) -> str:
    return f"run|{folder.resolve()}"


def wavelets() -> list[str]:
    """Wavelets offered, short filters first."""
    return ["haar", "db2", "db3", "db4", "sym2", "sym3", "sym4", "coif1", "bior1.3", "bior2.2", "bior3.1", "rbio2.2"]


def _untrained(student: Backbone, teacher: Backbone) -> SFKD:
    torch.manual_seed(0)
    distiller = create_distiller("sfkd", student=student, teacher=teacher).eval()
    assert isinstance(distiller, SFKD)
    return distiller


def _describe_run(run: Run) -> str:
    """The header of a run, as HTML."""
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
    data = f"{config.data.name}, {config.data.input_size[1]} px · test top-1 · run {run.path.name}"
    return f"{_cards(shown)}<div class='data'>{html.escape(data)}</div>"


def _cards(models: list[tuple[str, str, str]]) -> str:
    """Role, name and top-1 of each model, as HTML."""
    cells = [
        f"<div class='card'><b>{role}</b><span class='top1'>{top1}</span><br>{name}</div>"
        for role, name, top1 in (map(html.escape, model) for model in models)
    ]
    return f"<div class='cards'>{''.join(cells)}</div>"


def _badge(text: str, *, warn: bool) -> str:
    return f"<span class='badge{' warn' if warn else ''}'>{html.escape(text)}</span>"


def _for_page(figure: go.Figure, dark: bool) -> go.Figure:
    """Transparent, with ink and grid of the page's theme."""
    ink, grid = ("#e6e8eb", "#454b54") if dark else ("#2a2f36", "#d5d9de")
    axis = {"gridcolor": grid, "zerolinecolor": grid, "linecolor": grid}
    figure.update_layout(paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", font_color=ink)
    figure.update_xaxes(**axis)
    return figure.update_yaxes(**axis)
