"""What one process learns from the others."""

from __future__ import annotations

import torch
from torch import Tensor


def processes() -> int:
    """How many train together."""
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if together else 1


def gathered(x: Tensor) -> Tensor:
    """`x` `[B, …]` of all processes, one after the other in their order: `[P·B, …]`. For a process alone `x` itself.

    No gradient passes. All processes must call it, with equal shapes.
    """
    if processes() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(processes())]
    torch.distributed.all_gather(parts, x.contiguous())
    return torch.cat(parts)
