"""Runtimes within PyTorch: the module as it is, rewritten for inference by its own class, or compiled by Inductor."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

from benchbench.core.errors import UnsupportedError, named_line

if TYPE_CHECKING:
    from torch import Tensor, nn


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


def first_call_s(network: nn.Module, x: Tensor, backend: str, dtype: str) -> float:
    """Seconds of the first forward of a compiled network, which compiles it.

    Raises:
        UnsupportedError: Inductor cannot compile it, or finds no compiler.
    """
    import contextlib

    import torch

    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    autocast = torch.autocast(backend, types[dtype]) if dtype in types else contextlib.nullcontext()
    start = time.perf_counter()
    try:
        with torch.inference_mode(), autocast:
            network(x)
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # whatever the compiler or what it calls raises
        raise UnsupportedError(f"torch.compile cannot compile it: {named_line(error)}") from error
    if backend == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
