"""Band ablation: planted bands are found, numbers equal direct computation, the network is left as it was."""

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import sfkd_viz
from sfkd import Backbone, decompose, reconstruct
from sfkd.features import Normalization
from sfkd_viz.measures.proportions import paired
from sfkd_viz.measures.sites import find_sites, logits_of

RNG = np.random.default_rng(2)


def only(x, band, levels=2, wavelet="haar"):
    """The part of maps in one band, by name."""
    tree = decompose(x, wavelet, levels)
    kept = dict(tree.items())
    values = [v if name == band else torch.zeros_like(v) for name, v in kept.items()]
    triples = [type(tree.details[0])(*values[i : i + 3]) for i in range(1, len(values), 3)]
    return reconstruct(tree.replaced(values[0], triples))


class OneBand(nn.Module):
    """Logits that read one band of its only layer and nothing else."""

    def __init__(self, band, layout="NCHW", prefix=0, wrapped=False):
        super().__init__()
        self.band, self.layout, self.prefix, self.wrapped = band, layout, prefix, wrapped
        self.output_fmt = "NHWC" if layout == "NHWC" else "NCHW"
        self.layer = _Laid(layout, prefix, wrapped)
        self.weight = nn.Parameter(torch.randn(5, 3, 8, 8))
        self.bias = nn.Parameter(torch.tensor([1e-3, 0, 0, 0, 0]))

    def forward(self, images):
        x = self.layer(images)
        x = x[0] if self.wrapped else x
        if self.layout == "NHWC":
            x = x.permute(0, 3, 1, 2)
        if self.layout == "tokens":
            assert torch.equal(x[:, : self.prefix], torch.full_like(x[:, : self.prefix], 7.0))
            x = x[:, self.prefix :].transpose(1, 2).reshape(len(x), 3, 8, 8)
        return torch.einsum("bchw,kchw->bk", only(x, self.band), self.weight) + self.bias


class _Laid(nn.Module):
    def __init__(self, layout, prefix, wrapped):
        super().__init__()
        self.layout, self.prefix, self.wrapped = layout, prefix, wrapped

    def forward(self, x):
        if self.layout == "NHWC":
            x = x.permute(0, 2, 3, 1).contiguous()
        if self.layout == "tokens":
            x = torch.cat([x.new_full((len(x), self.prefix, 3), 7.0), x.flatten(2).transpose(1, 2)], 1)
        return (x, "mask") if self.wrapped else x


def backbone(model, prefix=0):
    return Backbone(model, layers=["layer"], input_size=(3, 8, 8), num_prefix_tokens=prefix)


def planted(band, count=64, **changes):
    """A network that reads one band, and images labelled with its own answers."""
    model = backbone(OneBand(band, **changes), changes.get("prefix", 0))
    images = torch.randn(count, 3, 8, 8)
    with torch.no_grad():
        return model, images, model.model(images).argmax(1)


@pytest.mark.parametrize("band", ["A2", "H2", "V2", "D2", "H1", "V1", "D1"])
def test_the_planted_band_is_named_and_no_other_changes_anything(band):
    model, images, targets = planted(band)
    result = sfkd_viz.band_ablation(model, [(images, targets)], layers=["layer"])
    at = result.bands.index(band.replace("A2", "A"))
    others = [i for i in range(7) if i != at]
    assert result.top1 == 100
    # without its band the bias alone answers: the first class
    expected = 100 * float((targets == 0).float().mean()) - 100
    assert result.top1_change[0, at] == pytest.approx(expected)
    assert result.kl[0, at] > 0.1
    np.testing.assert_allclose(result.kl[0, others], 0, atol=1e-9)
    assert (result.agreement[0, others] == 100).all()
    assert not result.matters[0, others].any()
    assert result.costliest() == (0, at)
    assert result.bands[at] + " of layer" in result.sentence().partition("costs most")[0]


@pytest.mark.parametrize(
    "layout", [{"layout": "NHWC"}, {"layout": "tokens"}, {"layout": "tokens", "prefix": 2}, {"wrapped": True}]
)
def test_every_layout_says_the_same(layout):
    torch.manual_seed(3)
    plain = sfkd_viz.band_ablation(*batched(planted("V1", 16)), layers=["layer"])
    torch.manual_seed(3)
    laid = sfkd_viz.band_ablation(*batched(planted("V1", 16, **layout)), layers=["layer"])
    for name in ("top1_change", "agreement", "kl", "share"):
        np.testing.assert_allclose(getattr(laid, name), getattr(plain, name), atol=1e-6)


def batched(case):
    model, images, targets = case
    return model, [(images, targets)]


def test_numbers_equal_a_direct_computation(tiny, images):
    model, teacher = tiny("resnet"), tiny("convnext")
    x, targets = (
        images.repeat(3, 1, 1, 1) + torch.randn(12, 1, 32, 32),
        torch.tensor([0, 1, 2, 3, -1, -1, 4, 5, 6, 7, 8, 9]),
    )
    model.eval(), teacher.eval()
    with torch.no_grad():
        intact, other = model.model(x), teacher.model(x).argmax(1)
        ablated = model.model(x - only(x, "H1"))
    targets[:4] = intact.argmax(1)[:4]
    targets[6] = ablated.argmax(1)[6]
    result = sfkd_viz.band_ablation(
        model, [(x[:5], targets[:5]), (x[5:], targets[5:])], layers=["input"], bands=["H1"], reference=teacher
    )
    seen = targets >= 0
    before, after = (intact.argmax(1) == targets)[seen], (ablated.argmax(1) == targets)[seen]
    p, q = torch.softmax(intact.double(), 1).numpy(), torch.softmax(ablated.double(), 1).numpy()
    kl = stats.entropy(p, q, axis=1)
    assert (result.images, result.labelled) == (12, 10)
    assert result.top1 == pytest.approx(100 * float(before.float().mean()))
    assert result.top1_change[0, 0] == pytest.approx(100 * float((after.float() - before.float()).mean()))
    assert result.agreement[0, 0] == pytest.approx(100 * float((intact.argmax(1) == ablated.argmax(1)).float().mean()))
    assert result.kl[0, 0] == pytest.approx(kl.mean(), rel=1e-4)
    assert result.kl_error[0, 0] == pytest.approx(stats.sem(kl), rel=1e-4)
    assert result.share[0, 0] == pytest.approx(sfkd_viz.band_energy(x).share["H1"])
    with_other = [(logits.argmax(1) == other).float().mean() for logits in (intact, ablated)]
    assert result.reference_agreement == pytest.approx(100 * float(with_other[0]))
    assert result.reference_change[0, 0] == pytest.approx(100 * float(with_other[1] - with_other[0]))
    assert result.kl_per_share[0, 0] == pytest.approx(result.kl[0, 0] / result.share[0, 0])


def test_images_of_another_normalization_are_brought_to_each_models_own(tiny, images):
    """A pair shares its images; each model sees them as its weights want them, the reference too."""
    given = Normalization((0.2,), (0.5,))
    plain = tiny("resnet").eval(), tiny("convnext").eval()
    model, teacher = copy.deepcopy(plain[0]), copy.deepcopy(plain[1])
    model.expect(given, Normalization((0.4,), (0.25,)))
    teacher.expect(given, Normalization((0.6,), (1.0,)))
    result = sfkd_viz.band_ablation(model, [(images, torch.arange(4))], layers=["input", "layer2"], reference=teacher)
    prepared = model.prepared(images)
    expected = sfkd_viz.band_ablation(plain[0], [(prepared, torch.arange(4))], layers=["input", "layer2"])
    assert not torch.equal(prepared, images)
    np.testing.assert_allclose(result.kl, expected.kl, rtol=1e-4)
    np.testing.assert_allclose(result.share, expected.share, rtol=1e-5)
    with torch.no_grad():
        same = plain[0](prepared).logits.argmax(1) == plain[1](teacher.prepared(images)).logits.argmax(1)
    assert result.reference_agreement == pytest.approx(100 * float(same.float().mean()))


@pytest.mark.parametrize("name", ["convnext", "swin", "vit", "mixer", "resnet"])
def test_every_family_is_ablated_where_its_map_is(tiny, name, images):
    model = tiny(name)
    result = sfkd_viz.band_ablation(model, [(images, torch.full((4,), -1))], levels=2)
    assert result.layers == ("input", *model.layer_names)
    for row, layer in enumerate(model.layers, 1):
        assert tuple(result.grids[row]) == layer.grid
    # the last stage: what follows it, recomputed from the ablated map by timm's own head
    model.eval()
    last = model.layer_names[-1]
    with torch.no_grad():
        feature = model(images).features[last]
        tree = decompose(feature, "haar", 2)
        detail = only(feature, "V1", tree.levels)
        inner = model.model
        new = feature - detail
        if name == "vit":
            return  # its class token alone is read: see the next test
        if name == "mixer":
            logits = inner.forward_head(inner.norm(new.flatten(2).transpose(1, 2)))
        elif name == "swin":
            logits = inner.forward_head(inner.norm(new.permute(0, 2, 3, 1)))
        else:
            logits = inner.forward_head(inner.norm_pre(new) if name == "convnext" else new)
        site = find_sites(model, [last], images)[last]
        torch.testing.assert_close(logits_of(model, images, site, lambda x: x - detail), logits)


def test_a_class_token_that_is_read_alone_needs_no_patches_of_its_last_block(tiny, images):
    result = sfkd_viz.band_ablation(tiny("vit"), [(images, torch.full((4,), -1))], layers=["blocks.1", "blocks.3"])
    assert (result.kl[1] == 0).all()
    assert (result.kl[0] > 0).any()


def test_an_empty_band_changes_nothing(tiny):
    model = tiny("resnet").eval()
    flat = torch.randn(4, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    result = sfkd_viz.band_ablation(model, [(flat, torch.zeros(4, dtype=torch.long))], layers=["input"])
    details = [result.bands.index(f"{letter}{level}") for letter in "HVD" for level in (1, 2)]
    assert (result.kl[0, details] < 1e-12).all()
    assert (result.share[0, details] < 1e-12).all()
    assert result.kl[0, 0] > 1e-6
    assert np.isnan(result.kl_per_share[0, details]).all()


def test_odd_grids_are_cropped_exactly_and_small_ones_lack_bands():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.odd, self.one, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Linear(4, 5)

        def forward(self, x):
            return self.head(self.one(self.odd(x)).flatten(1))

    model = Backbone(Pooled(), layers=["odd", "one"], input_size=(3, 7, 7)).eval()
    x = torch.randn(6, 3, 7, 7)
    result = sfkd_viz.band_ablation(model, [(x, torch.arange(6) % 5)], levels=2)
    assert np.isnan(result.kl[2]).all()  # 1×1
    assert np.isfinite(result.kl[:2]).all()
    assert set(result.to_dataframe()["layer"]) == {"input", "odd"}
    with torch.no_grad():
        inner = model.model
        logits = inner.head((inner.odd(x) - only(inner.odd(x), "A2")).mean((2, 3)))
        kl = stats.entropy(torch.softmax(inner(x), 1), torch.softmax(logits, 1), axis=1).mean()
    assert result.kl[1, 0] == pytest.approx(kl, rel=1e-4)
    with pytest.raises(ValueError, match=r"none of the layers bears.*1×1"):
        sfkd_viz.band_ablation(model, [(x, torch.zeros(6, dtype=torch.long))], layers=["one"])


def test_bfloat16_is_transformed_in_float32(tiny, images):
    model = tiny("convnext").eval()
    exact = sfkd_viz.band_ablation(model, [(images, torch.zeros(4, dtype=torch.long))])
    half = sfkd_viz.band_ablation(model.to(torch.bfloat16), [(images, torch.zeros(4, dtype=torch.long))])
    np.testing.assert_allclose(half.share, exact.share, atol=0.01)
    assert next(model.parameters()).dtype is torch.bfloat16


@pytest.mark.parametrize("sizes", [(12,), (5, 7), (1,) * 12])
def test_batches_do_not_matter(tiny, sizes):
    model = tiny("resnet")
    x, y = torch.randn(12, 1, 32, 32, generator=torch.Generator().manual_seed(4)), torch.arange(12) % 10
    result = sfkd_viz.band_ablation(model, zip(x.split(sizes), y.split(sizes), strict=True), layers=["input", "layer3"])
    whole = sfkd_viz.band_ablation(model, [(x, y)], layers=["input", "layer3"])
    for name in ("kl", "kl_error", "share", "lost", "gained"):
        np.testing.assert_allclose(getattr(result, name), getattr(whole, name), rtol=1e-3, atol=1e-9)


def test_unlabelled_images_count_for_agreement_alone():
    model, images, targets = planted("H2")
    result = sfkd_viz.band_ablation(model, [(images, torch.full_like(targets, -1))], layers=["layer"])
    assert result.labelled == 0
    assert np.isnan(result.top1)
    assert np.isnan(result.top1_change).all()
    assert result.costliest() == (0, result.bands.index("H2"))
    assert "of the answers stay" in result.sentence()
    mixed = sfkd_viz.band_ablation(
        model, [(images, torch.where(torch.arange(64) < 8, targets, -1))], layers=["layer"], bands=["H2"]
    )
    assert (mixed.labelled, mixed.images) == (8, 64)
    assert mixed.top1_change[0, 0] == pytest.approx(100 * float((targets[:8] == 0).float().mean()) - 100)


def test_nothing_matters_where_nothing_is_read():
    model, images, targets = planted("H2")
    result = sfkd_viz.band_ablation(model, [(images, targets)], layers=["layer"], bands=["V2", "D1"])
    assert result.costliest() is None
    assert result.sentence().startswith("None of 2 bands of 1 layer costs top-1 beyond its joint 95 % interval")


def test_intervals_are_those_of_the_literature():
    model, images, targets = planted("V2", 40)
    result = sfkd_viz.band_ablation(model, [(images, targets)], layers=["layer"])
    at = result.bands.index("V2")
    low, high = result.interval("agreement")
    same = int(result.agreeing[0, at])
    expected = stats.binomtest(same, 40).proportion_ci(0.95, method="wilson")
    assert (low[0, at], high[0, at]) == pytest.approx((100 * expected.low, 100 * expected.high))
    # Bonett and Price 2012: a count of one is added to each discordant cell, of two to the total
    down, up = (result.lost[0, at] + 1) / 42, (result.gained[0, at] + 1) / 42
    half = stats.norm.ppf(0.975) * np.sqrt((down + up - (up - down) ** 2) / 42)
    low, high = result.interval("top1")
    assert (low[0, at], high[0, at]) == pytest.approx((max(-100, 100 * (up - down - half)), 100 * (up - down + half)))
    joint_low, joint_high = result.interval("top1", joint=True)
    assert (joint_high - joint_low > high - low)[0].sum() >= 6
    low, high = result.interval("kl", joint=True)
    z = stats.norm.ppf(1 - 0.05 / 14)
    assert high[0, at] - result.kl[0, at] == pytest.approx(z * result.kl_error[0, at])


def test_the_paired_interval_covers_as_it_says():
    rng = np.random.default_rng(0)
    draws = rng.multinomial(200, [0.10, 0.06, 0.84], size=4000)  # lost, gained, same
    low, high = paired(draws[:, 0].astype(float), draws[:, 1].astype(float), 200, 1.96)
    covered = ((low <= -4) & (high >= -4)).mean()
    assert 0.935 < covered < 0.975


def test_hooks_and_modes_are_restored_on_errors(tiny, images):
    model = tiny("resnet").train()
    model.model.layer1.eval()

    def batches():
        yield images, torch.zeros(4, dtype=torch.long)
        raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        sfkd_viz.band_ablation(model, batches(), layers=["input", "layer2"], levels=1)
    with pytest.raises(ZeroDivisionError):
        logits_of(model, images, find_sites(model, ["layer2"], images)["layer2"], lambda x: x * (1 // 0))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert model.model.training
    assert not model.model.layer1.training
    assert model.model.layer2.training


def test_layers_that_cannot_be_replaced_are_refused_by_name():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.odd, self.head = nn.Conv2d(3, 3, 1), _Strange(), nn.Linear(3, 5)

        def forward(self, x):
            return self.head(self.odd(self.shared(self.shared(x)))["map"].mean((2, 3)))

    x, y = torch.randn(2, 3, 8, 8), torch.zeros(2, dtype=torch.long)
    model = Backbone(Twice(), layers=["shared"], input_size=(3, 8, 8))
    with pytest.raises(ValueError, match="'shared' of Twice is called 2 times"):
        sfkd_viz.band_ablation(model, [(x, y)], layers=["shared"])
    with pytest.raises(ValueError, match="'odd' of Twice gives no map"):
        sfkd_viz.band_ablation(model, [(x, y)], layers=["odd"])


class _Strange(nn.Module):
    def forward(self, x):
        return {"map": x}


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"layers": ["layer9"]}, ValueError, "unknown layer of .*'layer9'.*layer"),
        ({"layers": "layer1"}, TypeError, r"write \['layer1'\]"),
        ({"layers": []}, ValueError, "at least one"),
        ({"bands": ["H3"]}, ValueError, "unknown band 'H3'"),
        ({"levels": 0}, ValueError, "nothing to take away"),
        ({"wavelet": "nope"}, ValueError, "unknown discrete wavelet"),
        ({"confidence": 95}, ValueError, "between 0 and 1"),
        ({"reference": nn.Identity()}, TypeError, "reference expects an sfkd.Backbone"),
    ],
)
def test_mistakes_in_options(tiny, images, changes, error, match):
    with pytest.raises(error, match=match):
        sfkd_viz.band_ablation(tiny("resnet"), [(images, torch.zeros(4, dtype=torch.long))], **changes)


@pytest.mark.parametrize(
    ("batches", "error", "match"),
    [
        ([], ValueError, "no images"),
        ((torch.zeros(2, 1, 32, 32), torch.zeros(2)), TypeError, r"\[\(images, targets\)\]"),
        ([(torch.zeros(2, 1, 32, 32), torch.zeros(3, dtype=torch.long))], ValueError, "targets"),
        ([(torch.zeros(2, 1, 32, 32), torch.zeros(2))], ValueError, "float32"),
        ([(torch.zeros(2, 1, 32, 32), torch.tensor([3, 10]))], ValueError, "0 to 9"),
        ([(torch.full((2, 1, 32, 32), float("nan")), torch.tensor([3, 1]))], ValueError, "'input'.*NaN"),
        ([(torch.zeros(1, 1, s, s), torch.tensor([1])) for s in (32, 64)], ValueError, "one size"),
    ],
)
def test_mistakes_in_batches(tiny, batches, error, match):
    with pytest.raises(error, match=match):
        sfkd_viz.band_ablation(tiny("resnet"), batches, layers=["input"])


def test_a_network_without_backbone_or_with_other_classes_is_refused(tiny, images):
    with pytest.raises(TypeError, match=r"wrap it in sfkd\.Backbone"):
        sfkd_viz.band_ablation(nn.Identity(), [])
    fewer = Backbone("test_resnet", in_chans=1, num_classes=4)
    with pytest.raises(ValueError, match="10 classes as the model has, got 4"):
        sfkd_viz.band_ablation(tiny("resnet"), [(images, torch.zeros(4, dtype=torch.long))], reference=fewer)


def test_the_figure_shows_the_numbers_and_stars_what_matters():
    model, images, targets = planted("V1")
    result = sfkd_viz.band_ablation(model, [(images, targets)], layers=["layer", "input"])
    fig = sfkd_viz.plot_band_ablation(result)
    change, kl = fig.data
    np.testing.assert_allclose(change.z, result.top1_change, atol=1e-4)
    np.testing.assert_allclose(kl.z, result.kl, atol=1e-5)
    assert change.z.dtype == kl.z.dtype == np.float32
    assert list(change.x) == list(result.bands)
    assert list(change.y) == ["layer · 8×8", "input · 8×8"]
    assert fig.layout.coloraxis.cmin == -fig.layout.coloraxis.cmax
    assert fig.layout.coloraxis2.cmin == 0
    at = result.bands.index("V1")
    assert change.text[0][at].endswith("*")
    assert not change.text[0][0].endswith("*")
    assert "joint" in change.customdata[0][at]
    assert "V1 of layer" in fig.layout.title.text
    with pytest.raises(TypeError, match="band_ablation"):
        sfkd_viz.plot_band_ablation(images)


def test_the_figure_without_targets_shows_agreement():
    model, images, targets = planted("V1")
    result = sfkd_viz.band_ablation(model, [(images, torch.full_like(targets, -1))], layers=["layer"])
    fig = sfkd_viz.plot_band_ablation(result)
    np.testing.assert_allclose(fig.data[0].z, result.agreement - 100, atol=1e-4)
    assert "answers" in fig.layout.annotations[0].text
