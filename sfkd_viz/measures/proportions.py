"""Intervals for proportions of images and for their paired changes."""

from __future__ import annotations

import numpy as np


def points(count: np.ndarray, of: int) -> np.ndarray:
    """100·count/of: percent, or percentage points; NaN of no images."""
    return 100 * count / of if of else np.full_like(count, np.nan)


def paired(lost: np.ndarray, gained: np.ndarray, n: int, z: float) -> tuple[np.ndarray, np.ndarray]:
    """Interval of 100·(gained − lost)/n, percentage points, from how many of n images changed each way.

    The adjusted Wald interval of Bonett and Price 2012, which stays wide where no image changed; z is the normal quantile.

    Examples:
        >>> [round(float(edge), 2) for edge in paired(np.array(0.0), np.array(0.0), 98, 1.96)]
        [-2.77, 2.77]
    """
    if not n:
        return np.full_like(lost, np.nan), np.full_like(lost, np.nan)
    down, up = (lost + 1) / (n + 2), (gained + 1) / (n + 2)
    half = z * np.sqrt((down + up - (up - down) ** 2) / (n + 2))
    return 100 * np.maximum(up - down - half, -1), 100 * np.minimum(up - down + half, 1)


def wilson(count: np.ndarray, n: int, z: float) -> tuple[np.ndarray, np.ndarray]:
    """Interval of 100·count/n, percent (Wilson 1927); z is the normal quantile.

    Examples:
        >>> [round(float(edge), 1) for edge in wilson(np.array(81.0), 100, 1.96)]
        [72.2, 87.5]
    """
    p = count / n
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # the last rounding must not make an upper edge of 100 % smaller
    return 100 * (middle - half) / (1 + z**2 / n), np.where(count == n, 100.0, 100 * (middle + half) / (1 + z**2 / n))
