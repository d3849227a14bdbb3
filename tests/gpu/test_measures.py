"""Measures on CUDA find what they find on the CPU. The authors had no GPU: nothing here has run yet."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch

import sfkd_viz
from sfkd import Backbone
from sfkd_viz.analysis import Analysis

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


@pytest.fixture
def analyses(tiny: Callable[..., Backbone]) -> dict[str, Analysis]:
    models = [tiny(name).eval() for name in ("convnext", "swin", "swin")]
    images, targets = torch.randn(300, 1, 32, 32), torch.arange(300) % 10
    measures = ["spectrum", "band_energy", "cka", "transfer", "ablation", "attribution"]
    loader = list(zip(images.split(50), targets.split(50), strict=True))
    found = {}
    for device in ("cpu", "cuda"):
        teacher, student, alone = copy.deepcopy(models)
        found[device] = sfkd_viz.analyze(
            teacher, student, loader, alone, measures=measures, samples=8, device=device, progress=False
        )
    return found


def test_an_analysis_is_that_of_the_cpu(analyses: dict[str, Analysis]) -> None:
    cpu, cuda = analyses["cpu"], analyses["cuda"]
    for role, layers in cpu.spectra.items():
        for layer, spectrum in layers.items():
            np.testing.assert_allclose(cuda.spectra[role][layer].share, spectrum.share, rtol=1e-2, atol=1e-6)
            assert cuda.band_energy[role][layer].share == pytest.approx(cpu.band_energy[role][layer].share, rel=1e-3)
    for role, alignment in cpu.cka.items():
        np.testing.assert_allclose(cuda.cka[role].by_band, alignment.by_band, atol=1e-3)
    np.testing.assert_allclose(cuda.ablation["student"].kl, cpu.ablation["student"].kl, rtol=1e-2, atol=1e-6)
    np.testing.assert_allclose(cuda.attribution["student"].values, cpu.attribution["student"].values, atol=1e-3)


def test_features_on_the_gpu_are_measured() -> None:
    x = torch.randn(8, 3, 8, 8)
    for measure in (sfkd_viz.spectrum, sfkd_viz.radial_spectrum):
        np.testing.assert_allclose(measure(x.cuda()).share, measure(x).share, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(sfkd_viz.cka(x.cuda(), x).by_band, 1, atol=1e-5)
