"""Pruned networks: built from a spec and the shapes of the weights that differ from it.

A pruned network is its spec and the shapes of the weights that differ, nothing else, so it is built from plain JSON
and never unpickled. Modules keep little of their own widths: convolutions count their groups, norms their channels,
and the rest follows from the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from benchbench.core.errors import ShapeError


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every entry of the state dict, a tensor of several names under each of them."""
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def differing_shapes(model: nn.Module, plain: nn.Module) -> dict[str, list[int]]:
    """The shapes of `model` that are not those of `plain`, the same architecture, as JSON values."""
    usual = shapes_of(plain)
    return {name: list(shape) for name, shape in shapes_of(model).items() if shape != usual[name]}


def resize(model: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    """Cut weights of a network to smaller shapes, in place; the values are the first along each axis.

    Args:
        shapes: name of a weight or buffer -> its new shape.

    Raises:
        ShapeError: the network has no such weight, or it is smaller than asked.
    """
    if not isinstance(shapes, Mapping) or not all(_is_shape(shape) for shape in shapes.values()):
        raise ShapeError("the shapes of a pruned network's weights are not names with lists of whole numbers")
    modules = dict(model.named_modules(remove_duplicate=False))
    holders = _holders(modules)
    for name, shape in shapes.items():
        stem, _, leaf = name.rpartition(".")
        old = getattr(modules.get(stem), leaf, None)
        if not isinstance(old, torch.Tensor) or id(old) not in holders:
            raise ShapeError(f"{name!r} is to be cut to {tuple(shape)}, and the network has no such weight")
        if tuple(old.shape) == tuple(shape):
            continue  # under another name before
        if len(old.shape) != len(shape) or any(not 1 <= n <= side for n, side in zip(shape, old.shape, strict=True)):
            raise ShapeError(f"{name!r} is to be cut to {tuple(shape)}, and the network's is {tuple(old.shape)}")
        new = old.detach()[tuple(slice(n) for n in shape)].clone()
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, requires_grad=old.requires_grad)
        holders[id(new)] = holders.pop(id(old))
        for held, key in holders[id(new)]:  # wherever it is
            held[key] = new
    if shapes:
        for module in modules.values():
            _tell_widths(module)


def resized(module: nn.Module, shapes: Mapping[str, Sequence[int]]) -> nn.Module:
    """The network itself, resized: what the configuration of an exported MONAI bundle names."""
    resize(module, shapes)
    return module


def _is_shape(item: Any) -> bool:
    return isinstance(item, (list, tuple)) and all(type(side) is int for side in item)


def _holders(modules: Mapping[str, nn.Module]) -> dict[int, list[tuple[dict[str, Any], str]]]:
    """For each weight and buffer, by its identity, the dictionaries that hold it, and under which key."""
    holders: dict[int, list[tuple[dict[str, Any], str]]] = {}
    for module in {id(m): m for m in modules.values()}.values():
        for held in (module._parameters, module._buffers):
            for key, value in held.items():
                if value is not None:
                    holders.setdefault(id(value), []).append((held, key))
    return holders


def _tell_widths(module: nn.Module) -> None:
    """Bring the numbers that a module keeps of its own widths up to date."""
    if isinstance(module, nn.modules.conv._ConvNd):
        first, second = module.weight.shape[:2]
        if module.groups > 1 and module.groups == module.in_channels:
            each = module.out_channels // module.in_channels  # outputs of an input; depthwise
            module.groups = module.in_channels = first if module.transposed else first // each
            module.out_channels = (
                first * second if module.transposed else first
            )  # weights (in, out / groups), or (out, 1)
        elif module.groups == 1:
            module.in_channels, module.out_channels = (first, second) if module.transposed else (second, first)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.GroupNorm) and module.affine:
        each = module.num_channels // module.num_groups
        module.num_channels = module.weight.numel()
        module.num_groups = 1 if module.num_groups == 1 else module.num_channels // each
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        values = module.weight if module.affine else module.running_mean
        if values is not None:
            module.num_features = values.numel()
        else:
            _learn_width(module)
    elif isinstance(module, nn.LayerNorm) and module.elementwise_affine:
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.numel()


def _learn_width(norm: Any) -> None:
    """A norm without weights keeps its width for a warning alone: it takes it from its first input."""

    def learn(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        module.num_features = inputs[0].shape[1]
        for key in [key for key, hook in module._forward_pre_hooks.items() if hook is learn]:
            del module._forward_pre_hooks[key]  # its own, should it be a copy

    norm.register_forward_pre_hook(learn)
