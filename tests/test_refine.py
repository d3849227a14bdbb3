from __future__ import annotations

import pytest
import torch

from sfkd import DS2S, band_loss, decompose, reconstruct
from sfkd.refine import Variant

GRIDS = [(8, 8, 2), (7, 9, 2), (7, 7, 1), (5, 3, 2), (1, 1, 0), (16, 16, 3)]


VARIANTS = pytest.mark.parametrize("variant", ["full", "light"])


def trained(channels: int, levels: int, variant: Variant = "full") -> DS2S:
    """A DS2S with random residuals."""
    refine = DS2S(channels, levels, variant=variant)
    with torch.no_grad():
        for parameter in refine.parameters():
            parameter.normal_(std=0.3)
    return refine


@pytest.mark.parametrize("variant", ["full", "light", "off"])
@pytest.mark.parametrize(("height", "width", "levels"), GRIDS)
def test_starts_as_the_identity(height: int, width: int, levels: int, variant: Variant) -> None:
    x = torch.randn(2, 4, height, width)
    bands = decompose(x, levels=levels)
    refine = DS2S(4, bands.levels, variant=variant)
    refined = refine(bands)
    assert refine.is_identity()
    for (name, before), (_, after) in zip(bands.items(), refined.items(), strict=True):
        assert torch.equal(before, after), name
    torch.testing.assert_close(reconstruct(refined), reconstruct(bands), rtol=0, atol=0)
    torch.testing.assert_close(reconstruct(refined), x, rtol=0, atol=1e-5)


@VARIANTS
@pytest.mark.parametrize("levels", [0, 1, 2])
def test_every_parameter_gets_a_gradient_after_one_step(levels: int, variant: Variant) -> None:
    """At initialisation the zeroed last layer hides the first from the loss; one step must be enough to open it."""
    refine = DS2S(4, levels, variant=variant)
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


@VARIANTS
@pytest.mark.parametrize(("height", "width", "levels"), GRIDS)
def test_shapes_are_kept(height: int, width: int, levels: int, variant: Variant) -> None:
    bands = decompose(torch.randn(2, 4, height, width), levels=levels)
    refined = trained(4, bands.levels, variant)(bands)
    assert [b.shape for _, b in refined.items()] == [b.shape for _, b in bands.items()]
    assert (refined.shape, refined.wavelet, refined.mode) == (bands.shape, bands.wavelet, bands.mode)


@VARIANTS
def test_first_stage_keeps_bands_apart_and_second_joins_the_streams(variant: Variant) -> None:
    refine = trained(4, 2, variant)
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


def test_light_mixes_orientations_by_one_matrix_an_image_and_gates_the_approximation() -> None:
    refine = DS2S(4, 2, variant="light")
    matrix = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, -1.0]])  # H += 2V, no diagonal
    with torch.no_grad():
        refine.light.excite.bias.copy_(torch.cat([torch.tensor([0.5, 0.0, 0.0, 0.0]), matrix.flatten()]))
    bands = decompose(torch.randn(2, 4, 8, 8))
    refined = refine(bands)
    gate = 1 + torch.tanh(torch.tensor([0.5, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(refined.approximation, bands.approximation * gate[:, None, None])
    for (h, v, d), before in zip(refined.details, bands.details, strict=True):
        torch.testing.assert_close(h, before.horizontal + 2 * before.vertical)
        torch.testing.assert_close(v, before.vertical)
        assert not d.any()


@pytest.mark.parametrize(("height", "width"), [(16, 16), (24, 20), (8, 20), (9, 9)])
def test_light_convolves_the_coarsest_bands_by_combinations_of_its_kernels(height: int, width: int) -> None:
    """Bands of few positions and of many, which take two ways to one result."""
    refine = DS2S(4, 2, variant="light")
    with torch.no_grad():
        for factors in refine.light.factors:
            factors.normal_()
    bands = decompose(torch.randn(2, 4, height, width))
    stages = refine.stages(bands)
    low, high = ((f @ k).view(-1, 3, 3) for f, k in zip(refine.light.factors, refine.light.kernels, strict=True))
    kernels = {"A2": low, **dict(zip(("H2", "V2", "D2"), high.chunk(3), strict=True))}
    for (name, before), (_, after) in zip(bands.items(), stages.within.items(), strict=True):
        if name in kernels:
            convolved = [
                torch.nn.functional.conv2d(before[:, c : c + 1], kernels[name][c][None, None], padding=1)
                for c in range(4)
            ]
            torch.testing.assert_close(after, before + torch.cat(convolved, dim=1))
        else:
            assert torch.equal(after, before)


def test_light_and_off_have_few_parameters_and_none() -> None:
    count = {
        (variant, levels): sum(p.numel() for p in DS2S(128, levels, variant=variant).parameters())
        for variant in ("full", "light", "off")
        for levels in (1, 2, 3)
    }
    assert count["off", 2] == 0
    assert count["light", 1] == count["light", 2] == count["light", 3]
    assert 5 * count["light", 2] < count["full", 2]
    bands = decompose(torch.randn(2, 4, 8, 8))
    stages = DS2S(4, 2, variant="off").stages(bands)
    assert stages.input is stages.within is stages.across is bands


def test_parameters_of_full_keep_their_names() -> None:
    names = ["mixing", "low.weight", "high.0.weight", "squeeze.weight", "squeeze.bias", "excite.weight", "excite.bias"]
    assert list(DS2S(4, 1).state_dict()) == names


@VARIANTS
def test_images_of_a_batch_do_not_meet(variant: Variant) -> None:
    refine = trained(4, 2, variant)
    x = torch.randn(3, 4, 8, 8)
    whole, alone = refine(decompose(x)), refine(decompose(x[1:2]))
    torch.testing.assert_close(reconstruct(whole)[1:2], reconstruct(alone))


@VARIANTS
def test_autocast_gives_float32_bands(variant: Variant) -> None:
    bands = decompose(torch.randn(2, 4, 8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        refined = trained(4, 2, variant)(bands)
    assert {band.dtype for _, band in refined.items()} == {torch.float32}


@VARIANTS
def test_a_zero_map_has_finite_gradients(variant: Variant) -> None:
    x = torch.zeros(1, 4, 8, 8, requires_grad=True)
    sum(band.sum() for _, band in trained(4, 2, variant)(decompose(x)).items()).backward()
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


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown variant 'lite'\. Did you mean 'light'"):
        DS2S(4, 2, variant="lite")  # type: ignore[arg-type]
