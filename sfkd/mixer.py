"""An MLP-Mixer of any size in timm's registry, `sfkd_mixer`: timm's own names fix patch, width and depth.

Importing this module is what makes timm know the name; `Backbone` does.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.mlp_mixer import MlpMixer
from torch import nn

default_cfgs = generate_default_cfgs(
    {
        "sfkd_mixer": {
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "fixed_input_size": True,
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "first_conv": "stem.proj",
            "classifier": "head",
        }
    }
)


@register_model
def sfkd_mixer(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Tolstikhin et al. 2021, "MLP-Mixer", with the keywords of `timm.models.mlp_mixer.MlpMixer`. There are no weights."""
    options = {"feature_cfg": {"out_indices": 3, "feature_cls": "getter"}, **kwargs}
    return build_model_with_cfg(MlpMixer, "sfkd_mixer", pretrained, **options)
