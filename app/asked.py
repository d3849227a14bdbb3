"""One request of a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from settings import Settings


@dataclass(frozen=True)
class Asked:
    """Who asks, when by the clock of that page (milliseconds), for what, and what else the event sends along.

    Requests of one page may be answered in another order than they were made; the later one counts.
    """

    visitor: str
    at: float
    settings: Settings
    more: tuple[Any, ...] = ()
