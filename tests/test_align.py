from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sfkd import common_grid, pair_layers
from sfkd.align import ChannelStandardize, Moments, StudentProjection, TeacherTarget, choose_pairs


def batches(count: int, channels: int = 3) -> list[torch.Tensor]:
    """Batches whose means and spreads differ."""
    return [(i + 1) * torch.randn(4, channels, 5, 6) + 3 * i - 7 for i in range(count)]


def test_running_statistics_are_those_of_all_seen_batches() -> None:
    standardize = ChannelStandardize(3)
    seen = batches(6)
    for x in seen:
        standardize(x)
    everything = torch.cat(seen).transpose(0, 1).flatten(1)
    torch.testing.assert_close(standardize.mean, everything.mean(1))
    torch.testing.assert_close(standardize.variance, everything.var(1, unbiased=False))


def test_statistics_are_exponential_after_the_window() -> None:
    standardize = ChannelStandardize(3, window=2)
    for x in (seen := batches(3)):
        standardize(x)
    means = [x.mean((0, 2, 3)) for x in seen]
    torch.testing.assert_close(standardize.mean, ((means[0] + means[1]) / 2 + means[2]) / 2)


def test_the_output_is_standard_and_eval_moves_nothing() -> None:
    standardize = ChannelStandardize(3)
    (x,) = batches(1)
    y = standardize(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(y.var((0, 2, 3), unbiased=False), torch.ones(3), rtol=0, atol=1e-4)
    state = {k: v.clone() for k, v in standardize.state_dict().items()}
    assert torch.equal(standardize.eval()(x), y)
    standardize(x + 100)
    assert all(torch.equal(v, state[k]) for k, v in standardize.state_dict().items())


def test_a_large_mean_costs_no_digits() -> None:
    """E[x²] − mean² would be 10⁸ − 10⁸ here, and float32 has seven digits."""
    standardize = ChannelStandardize(3)
    x = 1e4 + torch.randn(8, 3, 5, 6)
    standardize(x)
    expected = x.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(standardize.variance.double(), expected.var(1, correction=0), rtol=1e-4, atol=0)
    torch.testing.assert_close(standardize.mean.double(), expected.mean(1), rtol=1e-6, atol=0)


def test_processes_are_combined_by_the_law_of_total_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = batches(2)
    other = ChannelStandardize(3)
    other(theirs)
    sent = torch.stack([other.mean, other.variance])[None]
    monkeypatch.setattr("sfkd.align.gathered", lambda x: torch.cat([x, sent]))
    standardize = ChannelStandardize(3)
    standardize(ours)
    everything = torch.cat([ours, theirs]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(standardize.mean, everything.mean(1))
    torch.testing.assert_close(standardize.variance, everything.var(1, correction=0))


def test_half_precision_is_standardised_in_float32() -> None:
    assert ChannelStandardize(3)(torch.randn(2, 3, 4, 4).bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("channels", [8, 24])
def test_nothing_on_the_teachers_side_is_trainable(channels: int) -> None:
    target = TeacherTarget(channels, 8)
    x = torch.randn(2, channels, 6, 6, requires_grad=True)
    assert list(target.parameters()) == []
    assert not target(x).requires_grad


@pytest.mark.parametrize(("channels", "width", "out"), [(8, 8, 8), (5, 8, 5), (24, 8, 8)])
def test_only_wider_teachers_are_projected(channels: int, width: int, out: int) -> None:
    target = TeacherTarget(channels, width)
    assert target.channels == out
    assert target(torch.randn(2, channels, 4, 4)).shape == (2, out, 4, 4)
    assert (target.projection is not None) == (channels > width)


def test_the_projection_is_orthonormal_and_seeded() -> None:
    projection = TeacherTarget(24, 8).projection
    assert projection is not None
    rows = projection[:, :, 0, 0]
    torch.testing.assert_close(rows @ rows.T, torch.eye(8), rtol=0, atol=1e-6)
    torch.manual_seed(99)
    again, other = TeacherTarget(24, 8).projection, TeacherTarget(24, 8, seed=1).projection
    assert torch.equal(projection, again)
    assert not torch.equal(projection, other)


def test_the_projection_acts_on_standardised_channels() -> None:
    target = TeacherTarget(24, 8)
    x = torch.randn(3, 24, 4, 4) * 5 + 2
    out = target(x)
    assert target.projection is not None
    expected = torch.einsum("oc,bchw->bohw", target.projection[:, :, 0, 0], target.standardize.eval()(x))
    torch.testing.assert_close(out, expected)


def test_moments_of_batches_of_unlike_size_are_those_of_all() -> None:
    seen = [x[: i + 1] for i, x in enumerate(batches(4))]
    moments = Moments(3)
    for x in seen:
        moments.add(x)
    everything = torch.cat(seen).transpose(0, 1).flatten(1).double()
    assert moments.count == everything.shape[1]
    torch.testing.assert_close(moments.mean, everything.mean(1))
    torch.testing.assert_close(moments.covariance, torch.cov(everything, correction=0))


def test_processes_fit_to_the_moments_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [Moments(3), Moments(3), Moments(3)]
    first, second = batches(2)
    for moments, seen in zip(parts, ([first], [second[:3]], [first, second[:3]]), strict=True):
        for x in seen:
            moments.add(x)
    a, b, both = parts
    sent = {0: b.count, 1: b.mean, 2: b.covariance}
    monkeypatch.setattr("sfkd.align.processes", lambda: 2)
    monkeypatch.setattr("sfkd.align.gathered", lambda x: torch.cat([x, sent[x.ndim - 1][None]]))
    together = a.of_all_processes(torch.device("cpu"))
    assert together.count == both.count
    torch.testing.assert_close(together.mean, both.mean)
    torch.testing.assert_close(together.covariance, both.covariance)


def test_fitted_projection_is_that_of_numpys_svd() -> None:
    x = (
        torch.einsum("oc,bchw->bohw", torch.randn(6, 6), torch.randn(8, 6, 5, 5)) * torch.arange(1, 7)[:, None, None]
        + 3
    )
    target, moments = TeacherTarget(6, 3), Moments(6)
    for batch in x.split(2):
        moments.add(batch)
    target.fit(moments)
    rows = x.transpose(0, 1).flatten(1).numpy().astype(np.float64)
    standard = (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 1e-5)
    components = np.linalg.svd(standard, full_matrices=False)[0][:, :3].T
    components *= np.sign(np.take_along_axis(components, np.abs(components).argmax(1)[:, None], axis=1))
    assert target.projection is not None
    np.testing.assert_allclose(target.projection[:, :, 0, 0], components, atol=1e-5)
    again = TeacherTarget(6, 3)
    again.load_state_dict(target.state_dict())
    assert torch.equal(again.eval()(x), target.eval()(x))


def test_student_projection_treats_images_alone() -> None:
    project = StudentProjection(5, 8)
    x = torch.randn(3, 5, 4, 4)
    assert project(x).shape == (3, 8, 4, 4)
    torch.testing.assert_close(project(x)[1:2], project(x[1:2]))


def test_common_grid_is_the_smaller_one_by_averaging() -> None:
    a, b = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4)
    small, same = common_grid(a, b)
    assert same is b
    torch.testing.assert_close(small, a.unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean((3, 5)))
    assert [tuple(x.shape) for x in common_grid(b, a)] == [(2, 5, 4, 4), (2, 3, 4, 4)]
    crossed = common_grid(torch.randn(1, 1, 8, 3), torch.randn(1, 1, 5, 6))
    assert [tuple(x.shape[-2:]) for x in crossed] == [(5, 3), (5, 3)]


def test_averaging_aliases_as_the_documentation_says() -> None:
    wave = torch.cos(2 * math.pi * 8 * torch.arange(56, dtype=torch.float64) / 56).expand(1, 1, 56, 56)
    small, _ = common_grid(wave, torch.zeros(1, 1, 14, 14))
    amplitude = torch.fft.rfft(small[0, 0, 0]).abs() / 7
    assert amplitude.argmax() == 6
    assert amplitude[6].item() == pytest.approx(0.56, abs=0.01)


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (4, 4, [0, 1, 2, 3]),
        (3, 4, [0, 2, 3]),
        (4, 3, [0, 1, 1, 2]),
        (1, 4, [3]),
        (4, 1, [0, 0, 0, 0]),
        (2, 4, [1, 3]),
        (4, 2, [0, 0, 1, 1]),
        (2, 5, [2, 4]),  # 2.5 up to 3
        (4, 6, [1, 2, 4, 5]),  # 1.5 up to 2, 4.5 up to 5
    ],
)
def test_layers_are_paired_by_depth(student: int, teacher: int, expected: list[int]) -> None:
    pairs = pair_layers([f"s{i}" for i in range(student)], [f"t{i}" for i in range(teacher)])
    assert pairs == [(f"s{i}", f"t{j}") for i, j in enumerate(expected)]


@pytest.mark.parametrize("student", range(1, 9))
@pytest.mark.parametrize("teacher", range(1, 9))
def test_the_last_meets_the_last_and_order_is_kept(student: int, teacher: int) -> None:
    met = [int(t) for _, t in pair_layers([str(i) for i in range(student)], [str(i) for i in range(teacher)])]
    assert met == sorted(met)
    assert met[-1] == teacher - 1


def test_no_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="layers on both sides, got 0 and 2"):
        pair_layers([], ["a", "b"])


def test_chosen_pairs_are_taken_in_their_order() -> None:
    pairs = choose_pairs(["a", "b", "c"], ["x", "y"], [["c", "x"], ("a", "x")])
    assert pairs == [("c", "x"), ("a", "x")]
    assert choose_pairs(["a", "b"], ["x", "y"], None) == pair_layers(["a", "b"], ["x", "y"])
    assert choose_pairs(["a", "b"], ["x", "y", "z"], "last") == [("b", "z")]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([["z", "x"]], r"unknown captured layer of the student 'z'\. Choices: a, b\. .*captured with `layers:`"),
        ([["a", "yy"]], r"unknown captured layer of the teacher 'yy'\. Did you mean 'y'\? .*Backbone\(…, layers="),
        ([], "at least one and each layer of the student once"),
        ([["a", "x"], ["a", "y"]], "each layer of the student once"),
        (5, "expects pairs .* got 5"),
        ([5], "expects pairs"),
        ("first", "or 'last', got 'first'"),
        (["ax"], "expects pairs .*the student has a, b, the teacher x, y"),
        ([["a", "x", "y"]], "expects pairs"),
    ],
)
def test_wrong_pairs_are_refused(layers: list[list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_pairs(["a", "b"], ["x", "y"], layers)
