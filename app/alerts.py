"""Mistakes as messages on the page."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import gradio as gr
from messages import UserError, readable

T = TypeVar("T")


def told(function: Callable[..., T]) -> Callable[..., T]:
    """What goes wrong as a message in a corner of the page, without a traceback."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> T:
        try:
            return readable(function)(*args, **kwargs)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return wrapped
