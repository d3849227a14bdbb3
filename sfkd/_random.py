"""Randomness as a function of where a training is, so that nothing of a generator's state has to be saved."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_generators(*numbers: int) -> None:
    """Make what Python, NumPy and torch draw next, on the CPU, a function of `numbers` (each ≥ 0).

    Examples:
        >>> seed_generators(1, 2)
        >>> first = torch.rand(1)
        >>> seed_generators(1, 2)
        >>> torch.equal(torch.rand(1), first)
        True
    """
    a, b, c = np.random.SeedSequence(numbers).generate_state(3).tolist()
    random.seed(a)
    np.random.seed(b)
    torch.default_generator.manual_seed(c)  # torch.manual_seed costs a hundred times more where CUDA sleeps


def seed_device(device: torch.device, *numbers: int) -> None:
    """The same, and for `device` too."""
    seed_generators(*numbers)
    if device.type != "cpu":
        torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(4)[3]))


def permutation(count: int, *numbers: int) -> torch.Tensor:
    """A random order of 0 … count − 1 `[count]`, a function of `numbers` alone."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))
