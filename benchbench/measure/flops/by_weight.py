"""MACs of a forward by the weight that they grow with, for the cost of a network with fewer channels.

A weight is known by its storage, not by the module that is running: in a network whose blocks have several names, as
MONAI's DynUNet, the innermost module cannot be told.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchbench.measure.flops import rules
from benchbench.measure.flops.meta_device import without_memory
from benchbench.measure.flops.tracer import graph_settings, run_forward

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WeightCost:
    """What one weight is used for in a forward."""

    weight: str  # its first name; empty: products of activations, and of several weights
    macs: int
    output_values: int  # of the largest tensor that an operator makes with it


def costs_by_weight(module: nn.Module, input_shape: Sequence[int]) -> list[WeightCost]:
    """The MACs of one forward in eval mode, on `meta`, or on fake CPU tensors where that fails.

    Args:
        module: left as it is; a copy without memory is traced.
        input_shape: (B, C, D, H, W).

    Raises:
        UnsupportedError: the forward depends on values.
    """
    with graph_settings():
        try:
            return _on(without_memory(module, "meta"), torch.empty(*input_shape, device="meta"))
        except Exception as error:  # a network that makes CPU tensors
            log.debug("traced on fake tensors: %s", error)
        with FakeTensorMode(allow_non_fake_inputs=True):
            return _on(without_memory(module, "cpu"), torch.empty(*input_shape))


def _on(ghost: nn.Module, x: Tensor) -> list[WeightCost]:
    uses = _Uses(ghost)
    with uses:
        run_forward(ghost, x)
    return [
        WeightCost(weight=weight, macs=macs, output_values=uses.outputs[weight])
        for weight, macs in sorted(uses.macs.items())
    ]


class _Uses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the MACs of each operator under the only kernel among its arguments."""

    def __init__(self, ghost: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs: dict[str, int] = {}
        self.outputs: dict[str, int] = {}
        self._names = {_storage(value): name for name, value in ghost.named_parameters() if value.ndim > 1}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        made = [value for value in tree_leaves(out) if isinstance(value, Tensor)]
        if made and not func.is_view and (macs := rules.macs_of(func, args, kwargs, out)):
            used = {_storage(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
            weights = [self._names[key] for key in used if key in self._names]
            weight = weights[0] if len(weights) == 1 else ""
            self.macs[weight] = self.macs.get(weight, 0) + macs
            self.outputs[weight] = max(self.outputs.get(weight, 0), made[0].numel())
        return out


def _storage(value: Tensor) -> int:
    return int(value.untyped_storage()._cdata)
