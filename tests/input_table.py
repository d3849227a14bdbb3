"""What public functions do with every kind of input: the cases of tests/test_inputs.py and of docs/reliability.md."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import sfkd
import sfkd_viz
from sfkd import losses
from sfkd.losses import dist_loss, dkd_loss, kd_loss, ofa_loss


def _maps(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _with(value: float) -> Tensor:
    x = _maps(4, 3, 8, 8)
    x[1, 2, 3, 4] = value
    return x


INPUTS: dict[str, Callable[[], Any]] = {
    "float32": lambda: _maps(4, 3, 8, 8),
    "float64": lambda: _maps(4, 3, 8, 8).double(),
    "float16": lambda: _maps(4, 3, 8, 8).half(),
    "bfloat16": lambda: _maps(4, 3, 8, 8).bfloat16(),
    "int64": (10 * _maps(4, 3, 8, 8)).long,
    "uint8": lambda: (10 * _maps(4, 3, 8, 8)).abs().byte(),
    "bool": lambda: _maps(4, 3, 8, 8) > 0,
    "complex": lambda: _maps(4, 3, 8, 8) + 1j,
    "NaN": lambda: _with(math.nan),
    "infinite": lambda: _with(math.inf),
    "huge values": lambda: 1e30 * _maps(4, 3, 8, 8),
    "zeros": lambda: torch.zeros(4, 3, 8, 8),
    "constant": lambda: torch.full((4, 3, 8, 8), 2.0),
    "no images": lambda: torch.zeros(0, 3, 8, 8),
    "no rows": lambda: torch.zeros(4, 3, 0, 8),
    "0-d": lambda: torch.tensor(1.0),
    "1-d": lambda: _maps(8),
    "2-d": lambda: _maps(8, 8),
    "3-d": lambda: _maps(3, 8, 8),
    "5-d": lambda: _maps(4, 2, 3, 8, 8),
    "1×1": lambda: _maps(4, 3, 1, 1),
    "7×13": lambda: _maps(4, 3, 7, 13),
    "one image": lambda: _maps(1, 3, 8, 8),
    "4,096 channels": lambda: _maps(4, 4096, 4, 4),
    "not contiguous": lambda: _maps(8, 8, 3, 8).permute(0, 2, 1, 3)[::2],
    "channels last": lambda: _maps(4, 3, 8, 8).to(memory_format=torch.channels_last),  # type: ignore[call-overload]
    "requires grad": lambda: _maps(4, 3, 8, 8).requires_grad_(),
    "other device": lambda: torch.empty(4, 3, 8, 8, device="meta"),
    "tokens 4×16×3": lambda: _maps(4, 16, 3),
    "logits 4×10": lambda: _maps(4, 10),
    "logits with NaN": lambda: _maps(4, 10).index_fill(1, torch.tensor([3]), math.nan),
    "numpy": lambda: _maps(4, 3, 8, 8).numpy(),
    "a list": lambda: _maps(4, 3, 8, 8).tolist(),
    "text": lambda: "maps",
    "nothing": lambda: None,
}


@lru_cache(maxsize=1)
def _model() -> sfkd.Backbone:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    nn.init.constant_(net[0].weight, 0.5)  # drawn weights, all negative once in sixteen times, would hide an infinity
    return sfkd.Backbone(net, layers=["1"], input_size=(3, 8, 8)).eval()


def _whole(x: Any) -> Tensor:
    return sfkd.reconstruct(sfkd.decompose(x, "haar", 2))


def _refined(x: Any) -> Any:
    bands = sfkd.decompose(x, "haar", 1)
    return sfkd.reconstruct(sfkd.DS2S(3, 1)(bands))


def _labelled(loss: Callable[..., Tensor]) -> Callable[[Any], Tensor]:
    return lambda x: loss(x, x, torch.arange(4))


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "decompose": lambda x: sfkd.decompose(x, "haar", 2),
    "reconstruct": _whole,
    "DS2S": _refined,
    "power_spectrum": sfkd.power_spectrum,
    "radial_profile": lambda x: sfkd.radial_profile(sfkd.power_spectrum(x)),
    "gaussian_frequency_loss": lambda x: sfkd.gaussian_frequency_loss(x, x),
    "band_loss": lambda x: sfkd.band_loss(sfkd.decompose(x, "haar", 1), sfkd.decompose(x, "haar", 1)),
    "losses.hint_loss": lambda x: losses.hint_loss(x, x),
    "losses.spectral_mse_loss": lambda x: losses.spectral_mse_loss(x, x),
    "losses.detail_band_loss": lambda x: losses.detail_band_loss(
        sfkd.decompose(x, "haar", 1), sfkd.decompose(x, "haar", 1)
    ),
    "common_grid": lambda x: sfkd.common_grid(x, x),
    "tokens_to_map": sfkd.tokens_to_map,
    "Backbone": _model(),
    "losses.kd_loss": lambda x: kd_loss(x, x),
    "losses.dkd_loss": _labelled(dkd_loss),
    "losses.dist_loss": lambda x: dist_loss(x, x),
    "losses.ofa_loss": _labelled(ofa_loss),
    "losses.rkd_loss": lambda x: losses.rkd_loss(x, x),
    "losses.correlation_loss": lambda x: losses.correlation_loss(x, x),
    "losses.infonce_loss": lambda x: losses.infonce_loss(x, x),
    "spectrum": sfkd_viz.spectrum,
    "radial_spectrum": sfkd_viz.radial_spectrum,
    "relative_amplitude": lambda x: sfkd_viz.relative_amplitude({"layer": x}),
    "subbands": sfkd_viz.subbands,
    "band_energy": sfkd_viz.band_energy,
    "gaussian_filter": sfkd_viz.gaussian_filter,
    "cka": lambda x: sfkd_viz.cka({"a": x}, {"b": x}),
    "transfer": lambda x: sfkd_viz.transfer({"a": x}, {"b": x}, {"b": x}),
    "plot_spectrum": sfkd_viz.plot_spectrum,
    "plot_radial_spectrum": sfkd_viz.plot_radial_spectrum,
    "plot_relative_amplitude": lambda x: sfkd_viz.plot_relative_amplitude({"layer": x}),
    "plot_subbands": sfkd_viz.plot_subbands,
    "plot_band_energy": lambda x: sfkd_viz.plot_band_energy({"layer": x}),
    "plot_gaussian_mask": sfkd_viz.plot_gaussian_mask,
}


@dataclass(frozen=True)
class Outcome:
    """`word`: "works", "passed on" (NaN in, NaN out), or "refused" with what was said."""

    word: str
    said: str = ""


@cache
def outcome(function: str, given: str) -> Outcome:
    """What a function does with an input. Anything but a result and a `ValueError` or `TypeError` is a defect, and raised.

    A result of finite input is finite (values so large that their squares are not may overflow).
    """
    x = INPUTS[given]()
    before = x.detach().clone() if isinstance(x, Tensor) and x.device.type == "cpu" else None
    try:
        result = FUNCTIONS[function](x)
    except (ValueError, TypeError) as error:
        return Outcome("refused", str(error))
    if before is not None and not torch.equal(x.detach().nan_to_num(), before.nan_to_num()):
        raise AssertionError(f"{function} changed its input ({given})")
    if all(tensor.isfinite().all() for tensor in _tensors(result) if tensor.is_floating_point()):
        return Outcome("works")
    if given in ("NaN", "infinite", "huge values", "logits with NaN"):
        return Outcome("passed on")
    raise AssertionError(f"{function} made {given} input NaN or infinite")


def _tensors(result: Any) -> list[Tensor]:
    """Every array in a result, of any depth."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, np.ndarray):
        return [torch.from_numpy(result)] if result.dtype.kind == "f" else []
    if is_dataclass(result) and not hasattr(result, "to_dataframe"):
        result = vars(result)
    if isinstance(result, dict):
        return [t for value in result.values() for t in _tensors(value)]
    if isinstance(result, tuple | list):
        return [t for value in result for t in _tensors(value)]
    if hasattr(result, "to_dataframe") and isinstance(result.to_dataframe(), pd.DataFrame):
        return []  # numbers of a measure may be NaN where a grid lacks a band; the docstrings say so
    return []
