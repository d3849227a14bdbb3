"""How many threads torch computes with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

ALL = torch.get_num_threads()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads, in this thread of Python alone.

    One for the measures of a view: they are thousands of small steps, and threads that meet after each of them are slower
    than a single one, ten times on a machine that does something else besides. `ALL` for the forwards of models.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
