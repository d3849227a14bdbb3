"""What distillation moved: alignment of the distilled student with the teacher, minus that of the student alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sfkd.wavelet import Mode
from sfkd_viz.measures.blocks import BLOCK, WHOLE, HSICStream
from sfkd_viz.measures.cka import CKA, as_layers, cka_of, ratio
from sfkd_viz.measures.inputs import Feature

if TYPE_CHECKING:
    import pandas as pd

FEWEST, FEW = 4, 8  # blocks: below the first no interval, below the second a coarse one


@dataclass(frozen=True)
class Transfer:
    """Movement of alignment per band and layer pair, with bootstrap intervals over blocks of images.

    Attributes:
        distilled, alone: `CKA` of the teacher with each student, on the same blocks.
        low, high: `[bands, rows, columns]`, interval of each cell taken alone at `confidence`.
        joint_low, joint_high: intervals that hold for all cells at once at `confidence` (max-statistic): with a hundred
            cells some five lie outside their own 95 % interval by chance, outside the joint one hardly ever any.
            All four are NaN with fewer than 4 blocks.
        confidence, resamples, seed: of the bootstrap.

    The intervals are over images, for these two trained students. Two trainings that differ in their seed alone differ, too,
    and with many images nearly every cell lies outside its interval: whether a method moves a band takes several seeds.
    """

    distilled: CKA
    alone: CKA
    low: np.ndarray
    high: np.ndarray
    joint_low: np.ndarray
    joint_high: np.ndarray
    confidence: float
    resamples: int
    seed: int

    @property
    def values(self) -> np.ndarray:
        """Movement, `[bands, rows, columns]`: positive where distillation brought the student nearer to the teacher."""
        return self.distilled.by_band - self.alone.by_band

    @property
    def moved(self) -> np.ndarray:
        """`[bands, rows, columns]`, whether the joint interval excludes zero."""
        return (self.joint_low > 0) | (self.joint_high < 0)

    @property
    def blocks(self) -> int:
        return len(self.alone.counts)

    def largest(self) -> tuple[int, int, int] | None:
        """Band, row and column of the largest movement whose joint interval excludes zero; None where there is none.

        A band of its own goes before "all", which holds every band.
        """
        size = np.where(self.moved, np.abs(self.values), 0.0)
        bands = [number for number, band in enumerate(self.alone.bands) if band != WHOLE]
        for chosen in (bands, [self.alone.bands.index(WHOLE)]):
            if chosen and size[chosen].max() > 0:
                number, row, column = np.unravel_index(int(size[chosen].argmax()), size[chosen].shape)
                return chosen[int(number)], int(row), int(column)
        return None

    def sentence(self) -> str:
        """In plain words: the largest movement beyond its joint interval, or that there is none."""
        at, images = self.largest(), f"{self.alone.images:,} images in {self.blocks} block{'s' * (self.blocks > 1)}"
        if self.blocks < FEWEST:
            return f"Too few blocks for an interval: {images}; {FEWEST} are needed, so nothing is said to have moved."
        few = f" With fewer than {FEW} blocks intervals are coarse and wide: measure more images."
        coarse = few if self.blocks < FEW else ""
        cells, level = int(np.isfinite(self.values).sum()), f"{100 * self.confidence:g} %"
        if at is None:
            return (
                f"No movement stands out from chance: none of {cells} movements of alignment (layer pairs × bands) lies "
                f"outside its joint {level} interval ({images}).{coarse}"
            )
        _, row, column = at
        cka, value = self.alone, self.values[at]
        direction = "nearer to" if value > 0 else "further from"
        return (
            f"Distillation brought {cka.columns[column]} of the student {direction} {cka.rows[row]} of the teacher most in "
            f"{describe_band(cka, *at)}: alignment {cka.by_band[at]:.2f} alone, {self.distilled.by_band[at]:.2f} "
            f"distilled, {value:+.2f} ({level} joint interval over images {self.joint_low[at]:+.2f} to "
            f"{self.joint_high[at]:+.2f}); {int(self.moved.sum())} of {cells} movements lie outside theirs ({images}). "
            f"Another training seed may move other bands.{coarse}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row a band and layer pair: band, teacher, student, alone, distilled, transfer, intervals, moved."""
        table = self.alone.to_dataframe().rename(columns={"a": "teacher", "b": "student", "cka": "alone"})
        table["distilled"] = self.distilled.by_band.ravel()
        table["transfer"] = self.values.ravel()
        for name in ("low", "high", "joint_low", "joint_high", "moved"):
            table[name] = getattr(self, name).ravel()
        return table


def describe_band(cka: CKA, number: int, row: int, column: int) -> str:
    """A band of a pair in words: "band H2 (horizontal detail, 2–4 cycles/image)"."""
    name = cka.bands[number]
    kind = {"a": "all frequencies", "A": "approximation", "H": "horizontal detail", "V": "vertical detail"}
    cycles = cka.cycles(name, row, column)
    reach = f", {cycles[0]:g}–{cycles[1]:g} cycles/image" if cycles else ""
    return f"band {name} ({kind.get(name[0], 'diagonal detail')}{reach})"


def transfer(
    teacher: Feature | Mapping[str, Feature],
    distilled: Feature | Mapping[str, Feature],
    alone: Feature | Mapping[str, Feature],
    *,
    wavelet: str = "haar",
    levels: int = 2,
    mode: Mode = "symmetric",
    block_size: int = BLOCK,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Transfer:
    """CKA(teacher, distilled student) − CKA(teacher, student alone), per band and layer pair, with intervals.

    Args:
        teacher, distilled, alone: features in memory of the same images, as in `cka`; both students with the same layers.
        wavelet, levels, mode, block_size: as in `cka`.
        confidence, resamples, seed: see `transfer_of`.

    Raises:
        ValueError: what `cka` refuses; students of unlike layers.

    Source: ours, of CKA as in `cka` and intervals as in `transfer_of`.

    Examples:
        >>> maps, noise = np.random.default_rng(0).normal(size=(2, 96, 3, 8, 8))
        >>> moved = transfer(maps, distilled=maps + noise, alone=noise, block_size=12)
        >>> moved.values.shape, bool((moved.joint_low > 0).all())
        ((8, 1, 1), True)
    """
    pairs = [("teacher", "student"), ("teacher", "baseline")]
    stream = HSICStream(pairs, wavelet=wavelet, levels=levels, mode=mode, block_size=block_size)
    features = {"teacher": teacher, "student": distilled, "baseline": alone}
    stream.update({role: as_layers(f, role.replace("baseline", "student")) for role, f in features.items()})
    stream.flush()
    return transfer_of(*(cka_of(stream, pair) for pair in pairs), confidence=confidence, resamples=resamples, seed=seed)


def transfer_of(
    distilled: CKA, alone: CKA, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Transfer:
    """`Transfer` of two ready `CKA` results on the same blocks.

    Symmetric bootstrap-t over blocks: the same blocks are drawn for both students (paired); each cell's difference is
    divided by its standard error, taken anew in every resample from the blocks' influence on it; the quantile of |t|
    gives the cell's interval, the quantile of max |t| over all cells the joint one. A plain percentile interval ignores
    that the standard error is itself estimated, and with the ten or so blocks of a small test set names movements that
    are noise.

    Args:
        distilled, alone: CKA of one teacher with both students.
        confidence: of the intervals. resamples: number of bootstrap draws. seed: of the draws.

    Source: Hall 1988 (bootstrap-t); Westfall and Young 1993 (max-statistic). Blocks as the unit are `method.md`'s.
    """
    _comparable(distilled, alone)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence expects a number between 0 and 1, got {confidence!r}: 0.95 for 95 %.")
    if isinstance(resamples, bool) or resamples < 1:
        raise ValueError(f"resamples expects an integer ≥ 1, got {resamples!r}.")
    values, error = _difference(distilled, alone, alone.weights)
    blocks = len(alone.counts)
    if blocks < FEWEST:
        nan = np.full_like(values, np.nan)
        return Transfer(distilled, alone, nan, nan, nan, nan, confidence, resamples, seed)
    draws = np.random.default_rng(seed).multinomial(blocks, np.full(blocks, 1 / blocks), size=resamples)
    t = np.empty((resamples, *values.shape))
    for number, drawn in enumerate(draws):
        again, its_error = _difference(distilled, alone, alone.weights, drawn)
        t[number] = _studentised(np.abs(again - values), its_error)
    t = np.where(np.isnan(values), 0.0, np.nan_to_num(t, nan=np.inf, posinf=np.inf))
    own = np.quantile(t, confidence, axis=0, method="higher")
    joint = np.quantile(t.reshape(resamples, -1).max(1), confidence, method="higher")
    low, high = (values - own * error, values + own * error)
    return Transfer(
        distilled, alone, low, high, values - joint * error, values + joint * error, confidence, resamples, seed
    )


def _difference(
    distilled: CKA, alone: CKA, weights: np.ndarray, drawn: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Difference of the two CKAs over blocks drawn so many times, and its standard error by the delta method."""
    times = np.ones(len(weights)) if drawn is None else drawn
    parts = [_influence(cka, weights, times) for cka in (distilled, alone)]
    influence = parts[0][1] - parts[1][1]
    correction = len(weights) / (len(weights) - 1) if len(weights) > 1 else np.nan
    return parts[0][0] - parts[1][0], np.sqrt(correction * np.tensordot(times, influence**2, 1))


def _influence(cka: CKA, weights: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """CKA over blocks drawn `times`, and how much each block moves it, `[blocks, …]`: xy/√(XX·YY) − CKA/2·(xx/XX + yy/YY).

    Capitals are the sums of the small letters.
    """
    parts = [weights[:, None, None, None] * part for part in (cka.cross, cka.own_a, cka.own_b)]
    cross, own_a, own_b = (np.tensordot(times, part, 1) for part in parts)
    value = ratio(cross, own_a, own_b)
    with np.errstate(divide="ignore", invalid="ignore"):  # NaN where the value is
        share = parts[0] / np.sqrt(own_a * own_b) - value / 2 * (parts[1] / own_a + parts[2] / own_b)
    return value, share


def _studentised(size: np.ndarray, error: np.ndarray) -> np.ndarray:
    """size / error; 0 where both are zero, as in a cell that distillation left as it was."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(size == 0, 0.0, size / error)


def _comparable(distilled: CKA, alone: CKA) -> None:
    for name in ("rows", "columns", "bands", "wavelet", "mode"):
        if getattr(distilled, name) != getattr(alone, name):
            raise ValueError(
                f"transfer compares students with the same {name}, got {getattr(distilled, name)} and "
                f"{getattr(alone, name)}: measure both with the same layers and options."
            )
    if not np.array_equal(distilled.counts, alone.counts):
        raise ValueError(
            "transfer is paired over blocks: measure both students on the same images, in the same blocks."
        )
    if not np.array_equal(distilled.grids, alone.grids):
        raise ValueError("transfer compares students with the same grids: they are two trainings of one architecture.")
