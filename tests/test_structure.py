"""Imports run one way; nothing unpickles, nothing phones home. Imports inside functions and under TYPE_CHECKING count."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ROOT

SOURCES = sorted(path for folder in ("sfkd", "sfkd_viz", "app") for path in (ROOT / folder).rglob("*.py"))

# Low to high. A module imports what stands on a lower line; inside a folder of modules they may meet.
ORDER = [
    {"_checks", "_constants", "_distributed", "_random", "mixer"},
    {"wavelet", "weights"},
    {"fourier"},
    {"refine", "features"},
    {"losses", "align"},
    {"distillers"},
    {"config"},
    {"transforms"},
    {"data", "runs"},
    {"precompute"},
    {"batches"},
    {"loading"},
    {"watch", "engine"},
    {"train"},
    {"dry_run", "profiling", "study"},
    {"benchmark"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}

# Below this name → nothing below these names may be imported; every line that matches a module applies.
_GRADIO = {"launch", "serving", "ui", "trainer", "components", "wiring", "alerts"}
_WITHOUT_GRADIO = {
    path.stem for path in (ROOT / "app").iterdir() if path.suffix == ".py" or path.name == "views"
} - _GRADIO
FORBIDDEN = {
    "sfkd": {"plotly", "gradio", "sfkd_viz", "app", "matplotlib"},
    "sfkd.config": {"sfkd.distillers"},
    "sfkd.data": {"sfkd.distillers"},
    "sfkd.runs": {"sfkd.distillers"},
    "sfkd_viz": {"gradio", "app"},
    "sfkd_viz.measures": {"plotly", "sfkd_viz.plots", "sfkd_viz.theme"},
    **{f"app.{name}": {"gradio", *_GRADIO, *(f"app.{other}" for other in _GRADIO)} for name in _WITHOUT_GRADIO},
}
NETWORK = {
    *("requests", "httpx", "httpx2", "aiohttp", "urllib3", "urllib.request", "http.client", "ftplib", "smtplib"),
    *("socket", "xmlrpc", "websocket", "websockets", "huggingface_hub"),
}
TELEMETRY = {"sentry_sdk", "posthog", "segment", "analytics", "opentelemetry", "wandb", "mlflow", "comet_ml", "neptune"}
PICKLE = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
# the one place that asks timm for weights looks first whether there is a network, so as not to wait for one
NETWORK_ALLOWED = {"sfkd.weights": {"socket", "urllib.request", "huggingface_hub"}}
UNPICKLING = {("torch", "load"), ("torch", "package"), ("np", "load"), ("numpy", "load"), ("pd", "read_pickle")}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, module: str, is_package: bool = False) -> Iterator[str]:
    """Dotted names that a source imports: `from a import b` gives "a.b", `import_module("a.b")` too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".") + ["__init__"] * is_package
                base = ".".join([*parts[: -node.level], *filter(None, [base])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            argument = node.args[0] if node.args else None
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield argument.value


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def problems(source: str, module: str, is_package: bool = False) -> list[str]:
    """What a source with this module name does that it should not, a line each."""
    tree = ast.parse(source)
    found = []
    for name in imports(tree, module, is_package):
        banned = {b for prefix, names in FORBIDDEN.items() if within(module, prefix) for b in names}
        banned |= TELEMETRY | PICKLE | (NETWORK - NETWORK_ALLOWED.get(module, set()))
        found += [f"{module} imports {name}: {b} is not for it" for b in banned if within(name, b)]
        found += _against_the_order(name, module)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in UNPICKLING:
                found.append(f"{module} uses {node.value.id}.{node.attr}: it can unpickle")
        elif isinstance(node, ast.ImportFrom) and node.module in ("torch", "numpy"):
            found += [f"{module} imports load from {node.module}" for alias in node.names if alias.name == "load"]
    return found


def _against_the_order(name: str, module: str) -> list[str]:
    top, _, inner = module.partition(".")
    if top != "sfkd" or not inner or not within(name, "sfkd"):
        return []
    here = inner.partition(".")[0]
    there = name.split(".")[1] if "." in name else ""
    if here not in LEVEL:
        return [f"{module} has no place in the order of sfkd's modules: give it one in ORDER"]
    if there not in LEVEL:
        return [f"{module} imports {name} through the package: name the module that defines it"]
    if here != there and LEVEL[there] >= LEVEL[here]:
        return [f"{module} imports {name}, which does not stand below it"]
    return []


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_run_one_way(path: Path) -> None:
    assert problems(path.read_text(encoding="utf-8"), module_name(path), path.name == "__init__.py") == []


def test_every_module_of_the_core_has_a_place() -> None:
    found = {path.stem for path in (ROOT / "sfkd").glob("*.py")} - {"__init__"}
    assert found | {"distillers", "losses"} == set(LEVEL)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sfkd.losses", "def f():\n    from plotly import graph_objects"),
        ("sfkd.wavelet", "from sfkd.fourier import power_spectrum"),
        ("sfkd.align", "from . import losses"),
        ("sfkd.runs", "if TYPE_CHECKING:\n    from sfkd.distillers.base import Distiller"),
        ("sfkd.data", "from sfkd import runs"),
        ("sfkd.config", "from sfkd.distillers import list_distillers"),
        ("sfkd.train", "import sfkd"),
        ("sfkd.train", "from sfkd import Backbone"),
        ("sfkd.distillers.kd", "from ..config import Recipe"),
        ("sfkd.new", "from sfkd.wavelet import decompose"),
        ("sfkd_viz.measures.spectrum", "import plotly.graph_objects as go"),
        ("sfkd_viz.measures.spectrum", "from sfkd_viz import theme"),
        ("sfkd_viz.measures.inputs", "from ..plots import plot_spectrum"),
        ("sfkd_viz.plots.spectrum", "from importlib import import_module\nimport_module('gradio')"),
        ("app.engine", "import gradio as gr"),
        ("app.views.maps", "from app.ui import build"),
        ("app.launch", "import requests"),
        ("sfkd.runs", "import socket"),
        ("sfkd.runs", "import torch\ntorch.load('x')"),
        ("sfkd.runs", "from torch import load"),
        ("app.ui", "import pickle"),
    ],
)
def test_a_planted_mistake_is_found(module: str, source: str) -> None:
    assert problems(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sfkd.losses", "from sfkd.wavelet import SubBands"),
        ("sfkd.distillers.kd", "from sfkd.distillers.base import Distiller"),
        ("sfkd.weights", "import socket"),
        ("sfkd_viz.plots.spectrum", "from sfkd_viz.measures.spectrum import spectrum\nimport plotly"),
        ("app.ui", "import gradio as gr\nfrom app import engine"),
    ],
)
def test_what_is_allowed_is_not_found(module: str, source: str) -> None:
    assert problems(source, module) == []
