from __future__ import annotations

import pytest
import torch

from sfkd import DS2S, band_loss, decompose, reconstruct

GRIDS = [(8, 8, 2), (7, 9, 2), (7, 7, 1), (5, 3, 2), (1, 1, 0), (16, 16, 3)]


def trained(channels: int, levels: int) -> DS2S:
    """A DS2S with random residuals."""
    refine = DS2S(channels, levels)
    with torch.no_grad():
        for parameter in refine.parameters():
            parameter.normal_(std=0.3)
    return refine


@pytest.mark.parametrize(("height", "width", "levels"), GRIDS)
def test_starts_as_the_identity(height: int, width: int, levels: int) -> None:
    x = torch.randn(2, 4, height, width)
    bands = decompose(x, levels=levels)
    refine = DS2S(4, bands.levels)
    refined = refine(bands)
    assert refine.is_identity()
    for (name, before), (_, after) in zip(bands.items(), refined.items(), strict=True):
        assert torch.equal(before, after), name
    torch.testing.assert_close(reconstruct(refined), reconstruct(bands), rtol=0, atol=0)
    torch.testing.assert_close(reconstruct(refined), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_every_parameter_gets_a_gradient_after_one_step(levels: int) -> None:
    """At initialisation the zeroed last layer hides the first from the loss; one step must be enough to open it."""
    refine = DS2S(4, levels)
    bands = decompose(torch.randn(3, 4, 8, 8), levels=levels)
    target = decompose(torch.randn(3, 4, 8, 8), levels=levels)
    optimizer = torch.optim.SGD(refine.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        band_loss(refine(bands), target).backward()
        gradients = {name: p.grad for name, p in refine.named_parameters() if p.numel()}
        optimizer.step()
    assert not refine.is_identity()
    assert [name for name, g in gradients.items() if g is None or not g.abs().sum() > 0] == []


@pytest.mark.parametrize(("height", "width", "levels"), GRIDS)
def test_shapes_are_kept(height: int, width: int, levels: int) -> None:
    bands = decompose(torch.randn(2, 4, height, width), levels=levels)
    refined = trained(4, bands.levels)(bands)
    assert [b.shape for _, b in refined.items()] == [b.shape for _, b in bands.items()]
    assert (refined.shape, refined.wavelet, refined.mode) == (bands.shape, bands.wavelet, bands.mode)


def test_first_stage_keeps_bands_apart_and_second_joins_the_streams() -> None:
    refine = trained(4, 2)
    bands = decompose(torch.randn(2, 4, 16, 16), levels=2)
    changed = bands.replaced(bands.approximation + torch.randn_like(bands.approximation), bands.details)
    before, after = refine.stages(bands), refine.stages(changed)
    assert before.input is bands
    for (name, a), (_, b) in zip(before.within.items(), after.within.items(), strict=True):
        assert torch.equal(a, b) == (name != "A2"), name
    for (name, a), (_, b) in zip(before.across.items(), after.across.items(), strict=True):
        assert not torch.allclose(a, b), name


def test_second_stage_mixes_orientations_of_one_channel() -> None:
    refine = DS2S(4, 1)
    with torch.no_grad():
        refine.mixing[0, 2, 0, 1] = 1.0  # channel 2: horizontal += vertical
    bands = decompose(torch.randn(2, 4, 8, 8), levels=1)
    refined, detail = refine(bands).details[0], bands.details[0]
    assert torch.equal(refined.horizontal[:, 2], detail.horizontal[:, 2] + detail.vertical[:, 2])
    assert torch.equal(refined.horizontal[:, [0, 1, 3]], detail.horizontal[:, [0, 1, 3]])
    assert torch.equal(refined.vertical, detail.vertical)


def test_images_of_a_batch_do_not_meet() -> None:
    refine = trained(4, 2)
    x = torch.randn(3, 4, 8, 8)
    whole, alone = refine(decompose(x)), refine(decompose(x[1:2]))
    torch.testing.assert_close(reconstruct(whole)[1:2], reconstruct(alone))


def test_autocast_gives_float32_bands() -> None:
    bands = decompose(torch.randn(2, 4, 8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        refined = trained(4, 2)(bands)
    assert {band.dtype for _, band in refined.items()} == {torch.float32}


def test_a_zero_map_has_finite_gradients() -> None:
    x = torch.zeros(1, 4, 8, 8, requires_grad=True)
    sum(band.sum() for _, band in trained(4, 2)(decompose(x)).items()).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("channels", "levels", "message"), [(3, 2, "3 channels and 2 level.*got 4 and 2"), (4, 1, "build DS2S")]
)
def test_other_bands_are_refused(channels: int, levels: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DS2S(channels, levels)(decompose(torch.randn(2, 4, 8, 8)))


@pytest.mark.parametrize(("channels", "levels"), [(0, 1), (4, -1)])
def test_impossible_sizes_are_refused(channels: int, levels: int) -> None:
    with pytest.raises(ValueError, match="channels ≥ 1 and levels ≥ 0"):
        DS2S(channels, levels)
