"""Runtimes within PyTorch: the module as it is, rewritten for inference by its own class, or compiled by Inductor."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from benchbench.core.errors import UnsupportedError

if TYPE_CHECKING:
    from torch import nn


def in_runtime(module: nn.Module, runtime: str) -> nn.Module:
    """What is called in the place of a module.

    Args:
        module: in eval mode.
        runtime: `eager`, `eager-optimized` or `compile`.

    Raises:
        UnsupportedError: the network offers no form that is rewritten for inference.
    """
    import torch

    if runtime == "eager-optimized":
        offer = getattr(module, "for_inference", None)
        if not callable(offer):
            raise UnsupportedError(
                f"{type(module).__name__} has no form that is rewritten for inference (no method for_inference)"
            )
        try:
            form: nn.Module = offer()
        except ValueError as error:  # of a network that is not as its class builds it
            raise UnsupportedError(str(error)) from error
        return form
    if runtime == "compile":
        return cast("nn.Module", torch.compile(module, dynamic=False))
    return module
