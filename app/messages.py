"""What goes wrong, in plain words for the person at the page or the prompt."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")


class UserError(Exception):
    """A message for the person at the page or the prompt, in plain words."""


class MissingWeights(UserError):
    """Pretrained weights could not be had; the page offers random ones."""


def readable(function: Callable[..., T]) -> Callable[..., T]:
    """Mistakes of a caller become a `UserError` with their message; anything else is logged and said to be ours."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> T:
        try:
            return function(*args, **kwargs)
        except UserError:
            raise
        except OSError as error:
            # of a file of this machine the page says the name, not where it lies
            said = f"{Path(error.filename).name}: {error.strerror}" if error.filename else str(error)
            raise UserError(said) from error
        except (ValueError, TypeError) as error:
            raise UserError(str(error)) from error
        except Exception as error:
            log.exception("unexpected error in %s", function.__name__)
            raise UserError("Something went wrong here; the terminal that runs the app has the details.") from error

    return wrapped
