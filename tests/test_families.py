"""Every family of timm through `Backbone`: maps at its own input size, logits its own, bands that can be taken away or a
line that says why not.
"""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models import list_modules

from sfkd import Backbone
from sfkd_viz.measures.sites import find_sites, logits_of, placed

# the smallest model of each family (module) of timm 1.0.31
TABLE = """
    beit=beit_base_patch16_224 byoanet=halonet_h1 byobnet=test_byobnet cait=cait_xxs24_224 coat=coat_tiny
    convit=convit_tiny convmixer=convmixer_768_32 convnext=test_convnext cpubone=cpubone_nano
    crossvit=crossvit_tiny_240 csatv2=csatv2 cspnet=cs3darknet_focus_s cspnext=cspnext_tiny davit=davit_tiny
    deepseek_vit=deepseek_vit_412m deit=deit_tiny_patch16_224 densenet=densenet121 dla=dla46x_c dpn=dpn48b
    edgenext=edgenext_xx_small efficientformer=efficientformer_l1 efficientformer_v2=efficientformerv2_s0
    efficientnet=test_efficientnet efficientvim=efficientvim_m1 efficientvit_mit=efficientvit_b0
    efficientvit_msra=efficientvit_m0 eva=vit_tiny_patch16_dinov3_qkvb fasternet=fasternet_t0 fastvit=fastvit_t8
    focalnet=focalnet_tiny_srf gcvit=gcvit_xxtiny gemma4_vit=gemma4_vit_167m ghostnet=ghostnet_050
    hardcorenas=hardcorenas_b hgnet=hgnetv2_b0 hiera=hiera_tiny_224 hieradet_sam2=sam2_hiera_tiny
    hrnet=hrnet_w18_small iformer=iformer_t inception_next=inception_next_atto
    inception_resnet_v2=inception_resnet_v2 inception_v3=inception_v3 inception_v4=inception_v4
    lcnetv2=lcnetv2_small levit=levit_128s lowformer=lowformer_b0 mambaout=test_mambaout maxxvit=test_coatnet
    metaformer=poolformerv2_s12 mlp_mixer=gmlp_ti16_224 mobilenetv3=mobilenetv3_small_050
    mobilenetv5=mobilenetv5_base mobilevit=mobilevit_xxs mvitv2=mvitv2_tiny
    naflexvit=naflexvit_base_patch16_parfac_gap nasnet=nasnetalarge nest=nest_tiny nextvit=nextvit_small
    nfnet=test_nfnet pit=pit_ti_224 pnasnet=pnasnet5large pvt_v2=pvt_v2_b0 qwen3_vit=qwen3_vit_88m rdnet=rdnet_tiny
    regnet=regnetx_002 repghost=repghostnet_050 repvit=repvit_m1 res2net=res2next50 resnest=resnest14d
    resnet=test_resnet resnetv2=resnetv2_18 rexnet=rexnet_100 selecsls=selecsls42 senet=legacy_seresnet18
    sequencer=sequencer2d_s shvit=shvit_s1 sknet=skresnet18 starnet=starnet_s050 swiftformer=swiftformer_xs
    swin_transformer=swin_tiny_patch4_window7_224 swin_transformer_v2=swinv2_tiny_window8_256
    swin_transformer_v2_cr=swinv2_cr_tiny_224 tiny_vit=tiny_vit_5m_224 tnt=tnt_s_legacy_patch16_224
    tresnet=tresnet_m twins=twins_svt_small vgg=vgg11 visformer=visformer_tiny vision_transformer=test_vit
    vision_transformer_hybrid=vit_tiny_r_s16_p8_224 vision_transformer_relpos=test_vit_relpos
    vision_transformer_sam=samvit_base_patch16_224 vitamin=vitamin_small_224 volo=volo_d1_224
    vovnet=ese_vovnet19b_slim_dw xception=legacy_xception xception_aligned=xception41p xcit=xcit_nano_12_p8_224
"""
SMALLEST = dict(pair.split("=") for pair in TABLE.split())
NAMES = """
    byobnet coat convnext crossvit edgenext efficientnet hrnet levit mambaout maxxvit mobilevit nfnet pit resnet starnet
    swiftformer vision_transformer vision_transformer_relpos xcit
"""
QUICK = NAMES.split()
# whose layers are no outputs of modules, or come in another order: their maps can be seen, but not be replaced
FIXED = {"coat", "crossvit", "gemma4_vit", "hiera", "hrnet", "mvitv2", "tnt", "twins"}
LATER = [family for family in list_modules() if family not in QUICK]


def smallest(family: str) -> str:
    """The family's smallest model; of a family that is new, the one with the fewest parameters."""
    if family in SMALLEST:
        return SMALLEST[family]

    def size(name: str) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in timm.create_model(name).parameters())

    return min(timm.list_models(module=family), key=size)


def check(family: str) -> None:
    backbone = Backbone(smallest(family)).eval()
    images = torch.randn(1, *backbone.input_size)
    with torch.no_grad():
        logits, maps = backbone(images)
        torch.testing.assert_close(logits, backbone.predict(images), rtol=1e-3, atol=1e-3)
        assert list(maps) == backbone.layer_names
        assert 3 <= len(maps) <= 4
        for name, x in maps.items():
            assert x.ndim == 4, name
            assert len(x) == 1, name
            assert torch.isfinite(x).all(), name
            assert max(x.shape[-2:]) <= max(images.shape[-2:]), name
        ready = placed(backbone, images)
        if family in FIXED:
            with pytest.raises(
                ValueError, match=r"^layer '\S+' of \S+( is a map that timm makes|: expected a module)[^\n]*$"
            ):
                find_sites(backbone, backbone.layer_names, ready)
            return
        last = backbone.layer_names[-1]
        site = find_sites(backbone, backbone.layer_names, ready)[last]
        again = logits_of(backbone, ready, site, lambda x: x.clone())
        torch.testing.assert_close(again, logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", QUICK)
def test_maps_of_small_families(family: str) -> None:
    check(family)


@pytest.mark.long
@pytest.mark.parametrize("family", LATER)
def test_maps_of_every_other_family(family: str) -> None:
    check(family)
