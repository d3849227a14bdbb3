"""The Python under every figure: what the page did, in lines that run as pasted where the app was started."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from measured import FORWARD, STEPS, block_of
from pairs import Pair
from pictures import UPLOAD_SIDE
from settings import Settings

from sfkd.loading import DEMO

# module, name in it (empty: the module itself), in the order of the lines; a blank line goes between groups
_IMPORTS = (
    (("dataclasses", "replace"),),
    (("torch", ""), ("PIL", "Image"), ("PIL", "ImageOps")),
    (
        ("sfkd", ""),
        ("sfkd_viz", ""),
        ("sfkd.loading", "DEMO"),
        ("sfkd.loading", "load_pictures"),
        ("sfkd.loading", "model_transform"),
        ("sfkd_viz.measures.refinement", "refinement_of"),
    ),
)


def script(*lines: str) -> str:
    """A whole script: the imports that its lines need, and its figure shown."""
    body = [*lines, "figure.show()"]
    return "\n".join([*_imports("\n".join(body)), *body]) + "\n"


def maps(pair: Pair, settings: Settings) -> list[str]:
    """Lines that give `maps`: name in the figure → maps of the layer pair."""
    layers = {name: pair.layer_of(role, settings.layer) for role, name in pair.names.items()}
    return [
        *features(pair, settings.image),
        f"layers = {_dict(layers)}",
        'maps = {f"{name} · {layer}": features[name][layer] for name, layer in layers.items()}',
    ]


def features(pair: Pair, source: str) -> list[str]:
    """Lines that give `features`: name of a model → layer → maps."""
    return [
        *opened(pair, source),
        "",
        "",
        "def look(model):",
        "    images = torch.stack([model_transform(model)(picture) for picture in pictures])",
        "    with torch.no_grad():",
        f"        parts = [model(some).features for some in images.split({FORWARD})]",
        "    return {layer: torch.cat([part[layer] for part in parts]) for layer in model.layer_names}",
        "",
        "",
        "features = {name: look(model) for name, model in models.items()}",
    ]


def opened(pair: Pair, source: str) -> list[str]:
    """Lines that give `models` by name, and `pictures`; and `run` where there is one."""
    kind, _, name = source.partition(":")
    pictures = {
        "mean": [f"pictures = load_pictures().images[:{name}]"],
        "photo": [f'pictures = [load_pictures().photographs["{name}"]]'],
        "test": [f"pictures = [load_pictures().images[{name}]]"],
        "upload": [
            'pictures = [ImageOps.exif_transpose(Image.open("picture.png")).convert("RGB")]  # the file that you uploaded',
            f"pictures[0].thumbnail(({UPLOAD_SIDE}, {UPLOAD_SIDE}))",
        ],
    }[kind]
    return [*_models(pair), *pictures]


def alignment(pair: Pair, source: str, settings: Settings, *, transfer: bool) -> list[str]:
    """Lines that measure `transfer`, or `cka` where there is no student trained alone."""
    roles = ("teacher", "student", "alone") if transfer else ("teacher", "student")
    given = ", ".join(f'features["{pair.names[role]}"]' for role in roles)
    name = "transfer" if transfer else "cka"
    options = f'wavelet="{settings.wavelet}", levels={settings.levels}, block_size={block_of(source)}'
    options += "" if transfer else ', names=("teacher", "student")'
    return [*features(pair, source), f"{name} = sfkd_viz.{name}({given}, {options})"]


def stored(pair: Pair, line: str) -> list[str]:
    """Lines that read `analysis`, what `sfkd analyze` left in the run's folder, and one that takes a part of it."""
    path = (
        'DEMO / "analysis" / "analysis.json"'
        if pair.folder is None
        else f'"{_path(pair.folder)}/analysis/analysis.json"'
    )
    return [f"analysis = sfkd_viz.load_analysis({path})", line]


def one_band(settings: Settings) -> list[str]:
    """Lines that draw one sub-band of `maps`."""
    band = settings.band
    return [
        f"measured = {{name: sfkd_viz.subbands(x, {_bands(settings)}) for name, x in maps.items()}}",
        "",
        "",
        "def one(images):",
        f'    kept = {{name: x for name, x in images.bands.items() if name == "{band}" or name[0] == "{band}"}}',
        "    return replace(images, bands=kept or images.bands)",
        "",
        "",
        "figure = sfkd_viz.plot_subbands({name: one(images) for name, images in measured.items()})",
    ]


def all_bands(settings: Settings) -> list[str]:
    """A line that draws the sub-bands of `maps`."""
    return [f"figure = sfkd_viz.plot_subbands(maps, {_bands(settings)})"]


def ds2s(pair: Pair, settings: Settings) -> list[str]:
    """Lines that draw DS2S of a layer pair."""
    student = pair.layer_of("student", settings.layer)
    names = {role: f'models["{name}"]' for role, name in pair.names.items()}
    options = f"student={names['student']}, teacher={names['teacher']}, layers=None"
    made = ["torch.manual_seed(0)", f'distiller = sfkd.create_distiller("sfkd", {options}).eval()']
    own = pair.joints[settings.layer].own
    return [
        *opened(pair, settings.image),
        *(["distiller = run.distiller"] if own else made),
        "",
        "",
        "def look(model):",
        "    return model(torch.stack([model_transform(model)(picture) for picture in pictures]))",
        "",
        "",
        "with torch.no_grad():",
        f'    view = distiller.views(look({names["student"]}), look({names["teacher"]}))["{student}"]',
        "measured = refinement_of(",
        "    view,",
        f'    student_layer="{student}",',
        f'    teacher_layer="{pair.layer_of("teacher", settings.layer)}",',
        f"    trained={own},",
        "    asked_levels=distiller.asked_levels,",
        f"    channel={channel(settings)},",
        ")",
        "figure = sfkd_viz.plot_ds2s(measured)",
    ]


def ablation(pair: Pair, source: str, settings: Settings) -> list[str]:
    """Lines that measure `ablation`."""
    count = int(source.partition(":")[2])
    reference = ['reference = models["teacher"]'] if settings.model != "teacher" and pair.labelled else []
    options = f'wavelet="{settings.wavelet}", levels={settings.levels}' + (", reference=reference" if reference else "")
    return [
        *opened(pair, source),
        f'model = models["{pair.names[settings.model]}"]',
        "images = torch.stack([model_transform(model)(picture) for picture in pictures])",
        f"targets = torch.tensor({f'load_pictures().labels[:{count}]' if pair.labelled else f'[-1] * {count}'})",
        f"batches = zip(images.split({FORWARD}), targets.split({FORWARD}), strict=True)",
        *reference,
        f"ablation = sfkd_viz.band_ablation(model, batches, {options})",
    ]


def attribution(pair: Pair, settings: Settings, layer: str) -> list[str]:
    """Lines that explain the first image."""
    name = pair.names[settings.model]
    classes = "classes=load_pictures().classes, " if pair.labelled else ""
    options = (
        f'layer="{layer}", wavelet="{settings.wavelet}", levels={settings.levels}, steps={STEPS}, batch_size={FORWARD}'
    )
    return [
        *opened(pair, settings.image),
        f'model = models["{name}"]',
        "image = torch.stack([model_transform(model)(picture) for picture in pictures[:1]])",
        f"measured = sfkd_viz.wavelet_attribution(model, image, {options})",
        f'figure = sfkd_viz.plot_attribution(measured, {classes}name="{name}")',
    ]


def training(folder: Path) -> list[str]:
    """A line that draws the curves of a run."""
    return [f"figure = sfkd_viz.plot_training({'DEMO' if folder == DEMO else repr(_path(folder))})"]


def channel(settings: Settings) -> str:
    """The channel as an argument."""
    return f'"{settings.component}"' if isinstance(settings.component, str) else str(settings.component)


def _bands(settings: Settings) -> str:
    return f'"{settings.wavelet}", {settings.levels}, {channel(settings)}'


def _models(pair: Pair) -> list[str]:
    if pair.run is not None:
        run = "sfkd.load_demo().run" if pair.folder is None else f'sfkd.load_run("{_path(pair.folder)}")'
        parts = {"teacher": "run.teacher", "alone": "run.baseline", "student": "run.student"}
        models = ", ".join(f'"{name}": {parts[role]}' for role, name in pair.names.items())
        return [f"run = {run}", f"models = {{{models}}}"]
    _, *names, weights = pair.described.key.split("|")
    lines = ["models = {}"]
    for role, name in zip(pair.names.values(), names, strict=True):
        made = f'sfkd.Backbone("{name}", pretrained={weights == "pretrained"})'
        lines += ["torch.manual_seed(0)", f'models["{role}"] = {made}.eval()']
    return lines


def _imports(body: str) -> list[str]:
    lines: list[str] = []
    for group in _IMPORTS:
        used = [(module, name) for module, name in group if re.search(rf"(?<![\w.\"]){name or module}\b", body)]
        modules = list(dict.fromkeys(module for module, _ in used))
        lines += [_import(module, [name for m, name in used if m == module]) for module in modules]
        lines += [""] * bool(used)
    return lines


def _import(module: str, names: Sequence[str]) -> str:
    return f"import {module}" if names == [""] else f"from {module} import {', '.join(names)}"


def _path(folder: Path) -> str:
    return folder.as_posix().replace("\\", "/").replace('"', '\\"')


def _dict(values: dict[str, str]) -> str:
    return "{" + ", ".join(f'"{key}": "{value}"' for key, value in values.items()) + "}"
