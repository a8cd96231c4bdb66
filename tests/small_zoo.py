"""Networks of the zoo with fewer channels and layers: every operator and way of a channel, in less time."""

from __future__ import annotations

import dataclasses

from benchbench.core.records import ModelSpec
from benchbench.zoo import cards

_NARROW_VIT = {"hidden_size": 96, "mlp_dim": 192, "num_heads": 4}
_NNUNET = [8, 16, 24, 32, 40, 40]

FEWER = {
    "e1d3": {"base_filters": 12},
    "mednext_b": {"base_filters": 8, "blocks": [1] * 9},
    "mednext_s": {"base_filters": 8, "blocks": [1] * 9},
    "nnunet": {"filters": _NNUNET},
    "nnunet_resenc_m": {"filters": _NNUNET, "blocks": [1, 2, 1, 1, 1, 2]},
    "segformer3d": {"depths": [1, 1, 1, 1]},
    "segresnet": {"init_filters": 16, "blocks_down": [1, 2, 1, 1]},
    "swin_unetr": {"feature_size": 12, "depths": (2, 1, 1, 1)},
    "transbts": {"mlp_dim": 512, "layers": 2},
    "transunet": {"num_layers": 4, **_NARROW_VIT},
    "transvw": {"base_filters": 8},
    "unet3d": {"base_filters": 8},
    "unetr": _NARROW_VIT,
    "unetr_pp": {"depths": [1, 2, 1, 1]},
    "vit3d": {"num_layers": 2, **_NARROW_VIT},
    "vit_autoenc": {"num_layers": 2, **_NARROW_VIT},
}


def small_spec(name: str, *, in_channels: int = 4, out_channels: int = 3) -> ModelSpec:
    """The network of a card with the values of `FEWER` in place of its own."""
    spec = cards.get_card(name).spec(in_channels=in_channels, out_channels=out_channels)
    return dataclasses.replace(spec, kwargs={**spec.kwargs, **FEWER.get(name, {})})
