"""MONAI's own networks under the names that its bundles give them, with nothing added.

Networks that came in from a bundle are built by these names.
"""

from monai.networks.nets import (
    UNETR,
    AttentionUnet,
    BasicUNet,
    DynUNet,
    MedNeXt,
    SegResNet,
    SegResNetDS,
    SwinUNETR,
    UNet,
    VNet,
)

__all__ = [
    "UNETR",
    "AttentionUnet",
    "BasicUNet",
    "DynUNet",
    "MedNeXt",
    "SegResNet",
    "SegResNetDS",
    "SwinUNETR",
    "UNet",
    "VNet",
]
