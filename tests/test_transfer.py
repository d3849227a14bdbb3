"""Transfer: a planted band is the band that is named, and nothing is named where nothing was planted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

import sfkd_viz
from sfkd import decompose, reconstruct
from sfkd_viz.measures.transfer import Transfer

Features = dict[str, Tensor]


def synthetic(seed: int, count: int, *, side: int = 8) -> tuple[Features, Features]:
    """Teacher and student alone, which have a part in common."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(count, 3, side, side, generator=generator)
    teacher = {
        f"t{i}": torch.randn(count, 6, side, side, generator=generator) + common.repeat(1, 2, 1, 1) for i in range(2)
    }
    alone = {f"s{i}": torch.randn(count, 3, side, side, generator=generator) + 0.5 * common for i in range(3)}
    return teacher, alone


def noisy(features: Features, seed: int, amount: float) -> Features:
    generator = torch.Generator().manual_seed(seed)
    return {name: x + amount * torch.randn(x.shape, generator=generator) for name, x in features.items()}


def planted(student: Tensor, teacher: Tensor, band: str, weight: float) -> Tensor:
    """The student's map with one of the teacher's bands mixed in."""
    theirs = dict(decompose(teacher[:, : student.shape[1]]).items())
    bands = decompose(student)
    names = iter([name for name, _ in bands.items()])

    def mixed(x: Tensor) -> Tensor:
        return x + weight * theirs[band] if next(names) == band else x

    return reconstruct(bands.map(mixed))


@pytest.mark.parametrize(("band", "name"), [("V1", "V1"), ("H2", "H2"), ("A2", "A")])
def test_a_planted_band_is_the_one_that_is_named(band: str, name: str) -> None:
    teacher, alone = synthetic(0, 512)
    distilled = noisy(alone, 1, 0.05)
    distilled["s1"] = planted(distilled["s1"], teacher["t1"], band, 2.0)
    moved = sfkd_viz.transfer(teacher, distilled, alone, block_size=32)
    at = moved.largest()
    assert at is not None
    assert (moved.alone.bands[at[0]], moved.alone.rows[at[1]], moved.alone.columns[at[2]]) == (name, "t1", "s1")
    assert moved.values[at] > 0.1
    assert moved.joint_low[at] > 0
    sentence = moved.sentence()
    assert sentence.startswith(
        "Distillation brought s1 of the student nearer to t1 of the teacher most in band " + name
    )
    assert "512 images in 16 blocks" in sentence


def test_a_band_taken_away_is_named_as_further() -> None:
    teacher, alone = synthetic(0, 512)
    distilled = noisy(alone, 1, 0.05)
    distilled["s2"] = planted(
        distilled["s2"], torch.randn(512, 3, 8, 8, generator=torch.Generator().manual_seed(99)), "D1", 3.0
    )
    moved = sfkd_viz.transfer(teacher, distilled, alone, block_size=32)
    assert "s2 of the student further from" in moved.sentence()
    assert "most in band D1 (diagonal detail, 2–4 cycles/image)" in moved.sentence()


@pytest.mark.parametrize("blocks", [6, 16])
def test_two_trainings_without_a_difference_name_nothing(blocks: int) -> None:
    """Ten pairs of students that differ by noise alone: at 95 % one of ten named is chance, three are not."""
    named, outside = 0, []
    for seed in range(10):
        teacher, alone = synthetic(seed, 32 * blocks, side=4)
        base = {name: x.clone() for name, x in alone.items()}
        first, second = noisy(base, 2 * seed + 100, 0.7), noisy(base, 2 * seed + 101, 0.7)
        moved = sfkd_viz.transfer(teacher, first, second, block_size=32, resamples=200)
        named += moved.largest() is not None
        cells = np.isfinite(moved.values)
        outside.append(((moved.low > 0) | (moved.high < 0))[cells].mean())
    assert named <= 2
    assert np.mean(outside) < 0.12  # single intervals: near the 5 % that they allow
    if not named:
        assert "No movement stands out from chance: none of" in moved.sentence()


def test_the_same_student_twice_moves_nothing_at_all() -> None:
    teacher, alone = synthetic(0, 128)
    moved = sfkd_viz.transfer(teacher, alone, alone, block_size=32)
    np.testing.assert_array_equal(moved.values, 0)
    np.testing.assert_array_equal(moved.joint_high, 0)
    assert moved.largest() is None


def test_intervals_are_paired_over_blocks_seeded_and_ordered() -> None:
    teacher, alone = synthetic(0, 256)
    distilled = noisy(alone, 1, 0.3)
    options = {"block_size": 32, "resamples": 300}
    one, again = (sfkd_viz.transfer(teacher, distilled, alone, **options) for _ in range(2))
    other = sfkd_viz.transfer(teacher, distilled, alone, seed=1, **options)
    np.testing.assert_array_equal(one.low, again.low)
    assert not np.array_equal(one.low, other.low)
    for low, value, high in ((one.low, one.values, one.high), (one.joint_low, one.values, one.joint_high)):
        assert (low <= value).all()
        assert (value <= high).all()
    assert (one.joint_low <= one.low).all()
    wide = sfkd_viz.transfer(teacher, distilled, alone, confidence=0.99, **options)
    assert (wide.high >= one.high).all()
    # the students share their images: paired intervals are far narrower than those of each alone
    plain = [cka.cross / np.sqrt(cka.own_a * cka.own_b) for cka in (one.distilled, one.alone)]
    assert (
        np.var(plain[0] - plain[1], axis=0).mean() < 0.7 * (np.var(plain[0], axis=0) + np.var(plain[1], axis=0)).mean()
    )


def test_the_standard_error_is_that_of_the_mean_over_blocks() -> None:
    """Where HSIC of the layers with themselves is the same in all blocks, CKA is a mean, and its error the textbook one."""
    teacher, alone = synthetic(0, 256)
    ready = sfkd_viz.cka(teacher, alone, block_size=32)
    flat = dataclasses.replace(ready, own_a=np.ones_like(ready.own_a), own_b=np.ones_like(ready.own_b))
    zero = dataclasses.replace(flat, cross=np.zeros_like(flat.cross))
    moved = sfkd_viz.transfer_of(flat, zero, resamples=4000)
    error = flat.cross.std(0, ddof=1) / np.sqrt(8)
    width = (moved.high - moved.values) / error
    assert width.min() > 1.9
    assert np.median(width) == pytest.approx(2.36, abs=0.5)  # Student's t with 7 degrees of freedom


@pytest.mark.parametrize(
    ("count", "words"), [(64, "Too few blocks for an interval: 64 images in 2 blocks"), (160, "coarse")]
)
def test_few_blocks_are_said_to_be_few(count: int, words: str) -> None:
    teacher, alone = synthetic(0, count)
    moved = sfkd_viz.transfer(teacher, noisy(alone, 1, 0.5), alone, block_size=32, resamples=100)
    assert words in moved.sentence()
    assert np.isnan(moved.low).all() == (count == 64)
    assert moved.to_dataframe()["moved"].dtype == bool


def test_bands_that_no_grid_bears_and_dead_layers_stay_out() -> None:
    teacher, alone = synthetic(0, 128)
    alone |= {"small": torch.randn(128, 3, 2, 2), "dead": torch.ones(128, 3, 8, 8)}
    distilled = noisy(alone, 1, 0.1) | {"dead": alone["dead"]}
    moved = sfkd_viz.transfer(teacher, distilled, alone, block_size=32, resamples=100)
    dead, small = (moved.alone.columns.index(name) for name in ("dead", "small"))
    assert np.isnan(moved.values[:, :, dead]).all()
    assert np.isnan(moved.values[1:, :, small]).all()
    finite = np.isfinite(moved.values)
    assert np.isfinite(moved.joint_low[finite]).all()
    assert f"none of {finite.sum()} movements" in moved.sentence() or f"of {finite.sum()} movements" in moved.sentence()


def test_table_has_a_row_a_cell() -> None:
    teacher, alone = synthetic(0, 128)
    moved = sfkd_viz.transfer(teacher, noisy(alone, 1, 0.1), alone, block_size=32, resamples=100)
    table = moved.to_dataframe()
    assert len(table) == moved.values.size
    row = table[(table.band == "H1") & (table.teacher == "t1") & (table.student == "s2")]
    number = moved.alone.bands.index("H1")
    assert row["transfer"].item() == pytest.approx(row["distilled"].item() - row["alone"].item())
    assert row["joint_high"].item() == moved.joint_high[number, 1, 2]


def test_mistakes_are_named() -> None:
    teacher, alone = synthetic(0, 128)
    with pytest.raises(ValueError, match="students with the same columns"):
        sfkd_viz.transfer(teacher, {"s0": alone["s0"]}, alone, block_size=32)
    with pytest.raises(ValueError, match="confidence expects"):
        sfkd_viz.transfer(teacher, alone, alone, confidence=95, block_size=32)
    with pytest.raises(ValueError, match="resamples expects"):
        sfkd_viz.transfer(teacher, alone, alone, resamples=0, block_size=32)
    ready = sfkd_viz.cka(teacher, alone, block_size=32)
    with pytest.raises(ValueError, match="on the same images, in the same blocks"):
        sfkd_viz.transfer_of(ready, sfkd_viz.cka(teacher, alone, block_size=64))
    with pytest.raises(TypeError, match="plot_transfer expects what"):
        sfkd_viz.plot_transfer(alone)


@pytest.fixture(scope="module")
def measured() -> Transfer:
    teacher, alone = synthetic(0, 256)
    distilled = noisy(alone, 1, 0.05)
    distilled["s1"] = planted(distilled["s1"], teacher["t1"], "V1", 2.0)
    return sfkd_viz.transfer(teacher, distilled, alone, block_size=32, resamples=300)


def test_plot_transfer_draws_every_band_around_zero(measured: Transfer) -> None:
    fig = sfkd_viz.plot_transfer(measured)
    assert [trace.name for trace in fig.data] == list(measured.alone.bands)
    for trace, values in zip(fig.data, measured.values, strict=True):
        np.testing.assert_allclose(trace.z, values, atol=1e-6)
    assert fig.layout.coloraxis.cmin == -fig.layout.coloraxis.cmax
    assert fig.layout.coloraxis.cmax == pytest.approx(np.abs(measured.values).max())
    number = measured.alone.bands.index("V1")
    assert fig.data[number].text[1][1] == f"{measured.values[number, 1, 1]:+.2f}*"
    stars = sum(cell.endswith("*") for trace in fig.data for row in trace.text for cell in row)
    assert stars == measured.moved.sum()
    assert "most in band V1" in fig.layout.title.text.replace("<br>", " ")
    assert len(fig.to_json()) < 60_000
    assert len(sfkd_viz.plot_transfer(measured, band="V1").data) == 1


def test_plot_transfer_with_two_blocks_has_no_stars() -> None:
    teacher, alone = synthetic(0, 64)
    fig = sfkd_viz.plot_transfer(sfkd_viz.transfer(teacher, noisy(alone, 1, 0.5), alone, block_size=32))
    assert not any(cell.endswith("*") for trace in fig.data for row in trace.text for cell in row)
    assert "Too few blocks" in fig.layout.title.text
