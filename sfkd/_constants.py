"""Values that depend on sizes and options alone, such as masks and matrices of a transform."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

import torch

T_co = TypeVar("T_co", covariant=True)


class Constant(Protocol[T_co]):
    """A function whose results are kept."""

    def __call__(self, *args: Any, **options: Any) -> T_co: ...

    def cache_clear(self) -> None: ...


def constant(function: Callable[..., T_co]) -> Constant[T_co]:
    """Make a value once for each set of arguments; `torch.compile` takes it as it is, where it would trace what made it."""
    made = functools.lru_cache(maxsize=128)(function)

    @torch.compiler.assume_constant_result
    @functools.wraps(function)
    def kept(*args: Any, **options: Any) -> T_co:
        return made(*args, **options)

    kept.cache_clear = made.cache_clear  # type: ignore[attr-defined]
    return cast("Constant[T_co]", kept)
