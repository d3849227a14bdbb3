"""Ratios that a noisy machine cannot bend much: both sides are timed in turn, in one process, many times.

pytest-benchmark and asv time one thing after the other; on a machine whose other tenants come and go a ratio of such times
says more about them than about the code.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

Call = Callable[[], object]


class Ratio(NamedTuple):
    """Ours over the floor: median of paired ratios, quartiles, and the median of each side in seconds."""

    median: float
    low: float
    high: float
    ours: float
    floor: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


def ratio(
    ours: Call, floor: Call, *, seconds: float = 10.0, least: int = 7, clock: Callable[[], float] = time.perf_counter
) -> Ratio:
    """Time `ours` and `floor` in turn for about so many seconds, each going first every other round.

    A first call of each warms caches and is not counted.
    """
    ours()
    floor()
    times: list[tuple[float, float]] = []
    began = time.perf_counter()
    while len(times) < least or time.perf_counter() - began < seconds:
        order = (ours, floor) if len(times) % 2 else (floor, ours)
        taken = {id(call): _timed(call, clock) for call in order}
        times.append((taken[id(ours)], taken[id(floor)]))
    ratios = sorted(a / b for a, b in times)
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(median, low, high, *(statistics.median(side) for side in zip(*times, strict=True)), len(times))


def _timed(call: Call, clock: Callable[[], float]) -> float:
    before = clock()
    call()
    return clock() - before
