"""Models by timm name, from a hub or a folder, and their weights: safetensors alone, nothing is unpickled."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from torch import Tensor, nn

from sfkd._checks import unknown


class WeightsError(OSError):
    """Weights that were asked for could not be had."""


def create_model(name: str, *, pretrained: bool, num_classes: int | None, **kwargs: Any) -> nn.Module:
    """A model by its timm name, `hf-hub:…` or `local-dir:…`; what timm cannot build, and weights that cannot be had, in one
    line.

    Args:
        pretrained: download weights; those of `local-dir:` are always read.
        num_classes: of the head; None leaves it as it is.
        **kwargs: of `timm.create_model`.

    Raises:
        ValueError: an unknown name or option. WeightsError: weights that are missing, foreign, or no safetensors.
    """
    import timm

    import sfkd.mixer  # noqa: F401  # a name of its own in timm's registry

    for file in _weight_files(kwargs):
        if not file.endswith(".safetensors"):
            raise WeightsError(f"weights are read from safetensors files alone, not unpickled: {file!r} is none.")
    if name.startswith("local-dir:"):
        return _create_local(Path(name.removeprefix("local-dir:")), num_classes, **kwargs)
    if num_classes is not None:
        kwargs["num_classes"] = num_classes
    if not name.startswith("hf-hub:") and not timm.is_model(name.partition(".")[0]):
        raise ValueError(unknown("timm model", name, timm.list_models()))
    asks_hub = pretrained or name.startswith("hf-hub:")
    try:
        with _hub_offline_without_network() if asks_hub else contextlib.nullcontext():
            return timm.create_model(name, pretrained=pretrained, **kwargs)
    except (TypeError, AssertionError, KeyError) as error:
        raise ValueError(f"timm could not build {name!r} with {kwargs}: {error}") from error
    except (OSError, RuntimeError) as error:  # huggingface_hub and httpx raise many kinds, all under these two
        if not asks_hub:
            raise ValueError(f"timm could not build {name!r} with {kwargs}: {error}") from error
        reason = str(error).partition("\n")[0].rstrip(".")
        raise WeightsError(
            f"weights of {name!r} could not be downloaded (no network, or unknown to the hub; {reason}): "
            "pass pretrained=False for random weights, or local-dir:PATH for weights on this disk."
        ) from error


def _weight_files(kwargs: dict[str, Any]) -> list[str]:
    """Files that timm would take weights from, as its options name them."""
    configs = (kwargs.get(name) for name in ("pretrained_cfg", "pretrained_cfg_overlay"))
    named = [kwargs.get("checkpoint_path"), *(c.get("file") for c in configs if isinstance(c, dict))]
    return [str(file) for file in named if file]


@contextlib.contextmanager
def _hub_offline_without_network() -> Iterator[None]:
    """Without a network, weights in the local cache still load and others fail at once, not after a minute of retries."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    try:
        constants.HF_HUB_OFFLINE = before or not _resolves(urlsplit(constants.ENDPOINT).hostname or "")
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _resolves(host: str) -> bool:
    if getproxies():  # names are then the proxy's to resolve
        return True
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True


def _create_local(path: Path, num_classes: int | None, **kwargs: Any) -> nn.Module:
    """A model from timm's `local-dir:` layout; safetensors only, nothing is unpickled."""
    import timm

    weights = path / "model.safetensors"
    for file in (path / "config.json", weights):
        if not file.is_file():
            raise WeightsError(f"{path} is no exported model: {file.name} is missing.")
    state = read_safetensors(weights)
    try:
        with torch.device("meta"):  # the description may ask for more than a memory holds
            described = timm.create_model(f"local-dir:{path}", pretrained=False, **kwargs)
        _check_fit(described, state, str(weights))
        model = timm.create_model(f"local-dir:{path}", pretrained=False, **kwargs)
    except (ValueError, LookupError, RuntimeError, TypeError, AttributeError, AssertionError, ArithmeticError) as error:
        raise WeightsError(f"{path} cannot be read as an exported timm model: {error}") from error
    load_weights(model, state, str(weights))
    if num_classes is not None and num_classes != model.num_classes:
        model.reset_classifier(num_classes)  # type: ignore[operator]
    return model


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, on the CPU; a damaged file is a WeightsError."""
    import safetensors
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is no readable safetensors file: {error}") from error


def load_weights(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load `state` strictly; a name or shape that does not fit is one clear line."""
    _check_fit(module, state, source)
    module.load_state_dict(state)


def _check_fit(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    wanted = module.state_dict()
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    shapes = [
        f"{k}: the model wants {tuple(wanted[k].shape)}, the file has {tuple(state[k].shape)}"
        for k in wanted.keys() & state.keys()
        if wanted[k].shape != state[k].shape
    ]
    problems = [f"missing {missing[0]} ({len(missing)} in all)"] if missing else []
    problems += [f"unexpected {extra[0]} ({len(extra)} in all)"] if extra else []
    problems += [f"{sorted(shapes)[0]} ({len(shapes)} in all)"] if shapes else []
    if problems:
        raise WeightsError(f"{source} does not fit {type(module).__name__}: {'; '.join(problems)}.")
