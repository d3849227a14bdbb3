"""Checks shared by the public functions: what was expected, what came, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import torch
from torch import Tensor


def as_real_maps(x: Tensor, caller: str, *, min_dims: int = 2) -> Tensor:
    """`x` as a real floating tensor of at least `min_dims` dimensions; half precision and integers become float32."""
    real(x, caller)
    if x.ndim < min_dims:
        raise ValueError(
            f"{caller} expects [..., H, W], got {x.ndim} dimension(s) of shape {tuple(x.shape)}: "
            "token sequences go through sfkd.tokens_to_map first."
        )
    if x.numel() == 0:
        raise ValueError(f"{caller} expects a non-empty tensor, got shape {tuple(x.shape)}.")
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def real(x: Tensor, caller: str) -> None:
    """Refuse what is no tensor of real values."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{caller} expects a torch.Tensor, got {type(x).__name__}: use torch.as_tensor(x) first.")
    if x.is_complex():
        raise TypeError(f"{caller} expects real values, got {x.dtype}: pass x.abs(), x.real or x.imag.")
    if x.is_meta:
        raise TypeError(f"{caller} expects values, got a tensor on the meta device, which has none.")


def same_shape(a: Tensor, b: Tensor, caller: str) -> None:
    """Refuse two tensors whose shapes differ, since broadcasting would hide the mistake, and what `real` refuses."""
    real(a, caller)
    real(b, caller)
    if a.shape != b.shape:
        raise ValueError(
            f"{caller} expects equal shapes, got {tuple(a.shape)} and {tuple(b.shape)}: "
            "bring both to common channels and a common grid first (sfkd.align does)."
        )


def unknown(kind: str, name: object, choices: Iterable[str], *, shown: int = 12) -> str:
    """The one line for a name that does not exist: nearest first, then the choices."""
    choices = list(choices)
    near = difflib.get_close_matches(str(name), choices, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    listed = ", ".join(choices[:shown]) + (f", … ({len(choices)} in all)" if len(choices) > shown else "")
    return f"unknown {kind} {name!r}.{hint} Choices: {listed}."


def one_of(kind: str, value: str, choices: Iterable[str]) -> str:
    """`value` if it is among `choices`."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(unknown(kind, value, choices))
    return value
