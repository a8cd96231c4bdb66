"""Error message for a network whose first layer takes other channels than it was fed."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchbench.core.errors import ShapeError
from benchbench.measure.flops.meta_device import without_memory

_PLANE = 4  # axes of what has its channels second: (B, C, H, W) and more


def channels_refused(module: nn.Module, input_shape: Sequence[int]) -> ShapeError | None:
    """What to say of a network whose forward has failed, if its first layer takes other channels than it was fed.

    Its forward is followed on a copy without memory up to there, so this is for when it has failed anyhow.

    Returns:
        None: it failed for another reason, or its first layer cannot be found.
    """
    fed = int(input_shape[1])
    first: list[tuple[str, str, int, int | None]] = []

    def note(name: str, layer: nn.Module, args: tuple[Any, ...]) -> None:
        first.append((name, type(layer).__name__, _takes(layer), _given(layer, args)))

    with contextlib.suppress(Exception):  # it has failed before; only how far it comes is of interest
        ghost = without_memory(module, "meta").eval()
        for name, layer in ghost.named_modules():
            if _is_layer(layer) and _takes(layer):
                layer.register_forward_pre_hook(lambda layer, args, name=name: note(name, layer, args))
        with torch.no_grad():
            ghost(torch.empty(tuple(input_shape), device="meta"))
    if not first:
        return None
    name, kind, takes, given = first[0]
    if given != fed or takes == fed:
        return None
    where = f"{name} ({kind})" if name else f"a {kind}"
    channels = f"{takes} channel{'s' * (takes != 1)}"
    return ShapeError(
        f"the network's first layer, {where}, takes {channels}, and {fed} were fed: add --in-channels {takes}, "
        f"take a data set of {channels}, or in Python give an input of {channels}"
    )


def _is_layer(module: nn.Module) -> bool:
    """Whether it is a layer of PyTorch's own, or a class made from one that computes as that does."""
    layer_class = next((base for base in type(module).__mro__ if base.__module__.startswith("torch.nn.")), nn.Module)
    return layer_class is not nn.Module and layer_class is not nn.Sequential


def _takes(layer: nn.Module) -> int:
    """The channels that a layer insists on; 0: any, or it is no such layer."""
    if next(layer.parameters(recurse=False), None) is None and getattr(layer, "running_mean", None) is None:
        return 0
    names = ("in_channels", "num_features", "num_channels", "in_features")
    channels = next((getattr(layer, name) for name in names if hasattr(layer, name)), 0)
    return channels if isinstance(channels, int) else 0


def _given(layer: nn.Module, args: tuple[Any, ...]) -> int | None:
    """The channels of what a layer is called with; None: they cannot be told."""
    x = args[0] if args else None
    if not isinstance(x, Tensor) or not x.ndim:
        return None
    if hasattr(layer, "in_features"):
        return int(x.shape[-1])
    return int(x.shape[1]) if x.ndim >= _PLANE else None
