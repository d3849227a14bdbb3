"""Transforms as matrices against the functions that they stand for, and the sums that are made of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import sfkd_viz
from sfkd import decompose
from sfkd_viz.measures import matrices
from sfkd_viz.measures.matrices import REST, Bands, along_axes, pieces
from sfkd_viz.measures.sums import LayerSums

CPU = torch.device("cpu")


def written(bands: Bands, x: Tensor) -> dict[str, Tensor]:
    rows = {
        name: torch.full((len(x), x.shape[1] * cells), torch.nan, dtype=x.dtype) for name, cells in bands.cells.items()
    }
    bands.write(x, rows)
    return rows


@pytest.mark.parametrize("mode", ["symmetric", "reflect", "periodic", "zero", "constant"])
@pytest.mark.parametrize("wavelet", ["haar", "db2", "bior2.2"])
@pytest.mark.parametrize("grid", [(56, 40), (17, 23), (14, 14), (7, 9), (32, 16), (4, 4), (2, 2), (1, 1), (1, 30)])
def test_bands_are_those_of_decompose(grid: tuple[int, int], wavelet: str, mode: matrices.Mode) -> None:
    """Large grids level by level, small ones at once, and large ones whose coarser levels are small."""
    x = torch.randn(2, 3, *grid, dtype=torch.float64)
    for levels in (0, 1, 3):
        bands = Bands(grid, wavelet, levels, mode, dtype=torch.float64, device=CPU)
        tree, rows = decompose(x, wavelet, levels, mode), written(bands, x)
        assert bands.levels == tree.levels
        names = [name for name in rows if name != REST]
        assert len(names) == (1 + 3 * tree.levels if tree.levels else 0)
        for name, band in tree.items():
            if tree.levels:
                found = rows["A" if name.startswith("A") else name]
                torch.testing.assert_close(found, band.flatten(1), rtol=1e-9, atol=1e-9)
        products = sum(rows[name] @ rows[name].T for name in bands.whole)
        torch.testing.assert_close(products, x.flatten(1) @ x.flatten(1).T, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("grid", "wavelet", "whole"),
    [
        ((8, 8), "haar", {"A", "H2", "V2", "D2", "H1", "V1", "D1"}),
        ((14, 14), "haar", {REST, "H1", "V1", "D1"}),  # 14 halves once
        ((7, 7), "haar", {REST}),
        ((8, 8), "db2", {REST}),
        ((1, 1), "haar", {REST}),
    ],
)
def test_the_whole_map_is_made_of_orthonormal_bands_as_far_as_there_are(
    grid: tuple[int, int], wavelet: str, whole: set[str]
) -> None:
    bands = Bands(grid, wavelet, 2, "symmetric", dtype=torch.float32, device=CPU)
    assert set(bands.whole) == whole
    assert (REST in bands.cells) == (REST in whole)
    if REST in whole:
        assert bands.cells[REST] == (49 if grid == (14, 14) else grid[0] * grid[1])


@pytest.mark.parametrize("grid", [(9, 5), (40, 30)])
def test_a_product_along_both_axes_is_the_same_on_small_and_large_grids(grid: tuple[int, int]) -> None:
    x, rows, columns = torch.randn(2, 3, *grid), torch.randn(4, grid[0]), torch.randn(6, grid[1])
    expected = torch.einsum("ah,bchw,dw->bcad", rows, x, columns)
    torch.testing.assert_close(along_axes(x, rows, columns), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(along_axes(x[0, 0], rows, columns), expected[0, 0], rtol=1e-4, atol=1e-4)


def test_pieces_cover_a_batch_once() -> None:
    x = torch.arange(7.0).expand(2**17, 7).T  # four of these fill a piece
    assert [(p.start, p.stop) for p in pieces(x)] == [(0, 4), (4, 7)]
    assert [p.stop for p in pieces(torch.zeros(3, 2**20))] == [1, 2, 3]


@pytest.mark.parametrize("grid", [(8, 8), (7, 9), (9, 8), (1, 1), (1, 6), (2, 5)])
def test_sums_are_those_of_the_measures_of_all_images(grid: tuple[int, int]) -> None:
    x = 3 + torch.randn(10, 4, *grid)
    sums = LayerSums(x, power=True, energy=True, wavelet="haar", levels=2, mode="symmetric")
    for some in x.split(3):
        sums.add_power(some)
        sums.add_energy(some)
    assert sums.power is not None
    np.testing.assert_allclose(sums.power / 10, sfkd_viz.spectrum(x.double()).power, rtol=1e-5, atol=1e-5)
    expected = sfkd_viz.band_energy(x.double()).energy
    assert list(sums.energy) == list(expected)
    assert {name: total / 10 for name, total in sums.energy.items()} == pytest.approx(expected, rel=1e-5)


def test_what_is_not_wanted_is_not_summed() -> None:
    x = torch.randn(2, 3, 8, 8)
    sums = LayerSums(x, power=False, energy=False, wavelet="haar", levels=2, mode="symmetric")
    sums.add_power(x)
    sums.add_energy(x)
    assert (sums.power, sums.energy) == (None, {})


def test_many_images_lose_no_digits() -> None:
    """A float32 sum over 20 million numbers would be off by 5e-4."""
    x = 1 + torch.rand(64, 96, 56, 56)
    sums = LayerSums(x, power=True, energy=True, wavelet="haar", levels=2, mode="symmetric")
    sums.add_power(x)
    sums.add_energy(x)
    exact = float(x.double().square().sum()) / 96
    assert sums.power is not None
    assert sums.power.sum() == pytest.approx(exact, rel=2e-6)
    assert sum(sums.energy.values()) == pytest.approx(exact, rel=2e-6)
