"""Check of outputs and state: outputs that are numbers, and a network that stays the same.

Equal inputs must give equal outputs, whether a forward is the first or the hundredth; a network that counts its
forwards, or leaves dropout on, is another network each time. A few thousand values of an output, looked at between
forwards, and one sum for each tensor of the state are enough to see that.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchbench.measure.memory import storage_bytes
from benchbench.zoo import logits as zoo_logits

_KEPT = 4096  # values of an output
#: Relative distance of two outputs of equal input: what kernels that sum in another order may differ by.
_SAME = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 1e-2}


class OutputCheck:
    """Looks at outputs between forwards; holds a few thousand values of the first one."""

    def __init__(self, dtype: str = "fp32") -> None:
        """Look for the first time at the next output, computed in that type."""
        self.dtype = dtype
        self.output_bytes = 0  # of the first output, what it shares with the input included
        self.bad_share = 0.0  # of its values, those that are NaN or infinite
        self.changed: float | None = None  # relative distance to the first output, once that is too large
        self._first: Tensor | None = None
        self._looked = 0

    def look(self, output: Any) -> None:
        """An output is there: the first, second, fourth, eighth and so on are looked at."""
        self._looked += 1
        if self._looked & (self._looked - 1):
            return
        tensors = zoo_logits.tensors(output)
        if not tensors:
            return
        sample = torch.cat([_sample(t) for t in tensors])
        if self._first is None:
            self.output_bytes = storage_bytes(tensors)
            self.bad_share = bad_share(tensors)
            self._first = sample
        elif self.changed is None:
            distance = _distance(sample, self._first)
            self.changed = distance if distance > _SAME[self.dtype] else None

    @property
    def unstable(self) -> str | None:
        """Why the row is unstable."""
        if self.changed is None:
            return None
        by = f"they differ by {self.changed:.1%}" if math.isfinite(self.changed) else "some became NaN or infinite"
        return f"equal inputs gave different outputs ({by}): is dropout, or a state that it keeps, on in eval mode?"


def bad_share(tensors: list[Tensor]) -> float:
    """Share of values that are NaN or infinite; a sum tells at once where there are none."""
    if all(math.isfinite(float(t.sum())) for t in tensors if t.is_floating_point()):
        return 0.0
    parts = (part for t in tensors for part in torch.split(t.flatten(), 1 << 20))
    bad = sum(int((~torch.isfinite(part)).sum().item()) for part in parts)
    return bad / sum(t.numel() for t in tensors)


def _sample(tensor: Tensor) -> Tensor:
    flat = tensor.detach().flatten()
    return flat[:: max(1, math.ceil(len(flat) / _KEPT))].float().cpu()


def _distance(now: Tensor, first: Tensor) -> float:
    """Relative L2 distance; what is not a number in both is equal."""
    if now.shape != first.shape:
        return math.inf
    same = (now == first) | (now.isnan() & first.isnan())
    if bool(same.all()):
        return 0.0
    distance = float((now - first)[~same].norm() / first[~first.isnan()].norm().clamp_min(1e-12))
    return distance if math.isfinite(distance) else math.inf


@dataclasses.dataclass(frozen=True, slots=True)
class TensorChecksums:
    """Checksums of a network's parameters and buffers, by name."""

    sums: Mapping[str, str]

    @classmethod
    def of(cls, module: nn.Module) -> TensorChecksums:
        """Of a network as it is now."""
        tensors = dict([*module.named_parameters(), *module.named_buffers()])
        return cls({name: _sums(tensor.detach()) for name, tensor in tensors.items()})

    def changed(self, module: nn.Module) -> list[str]:
        """Names of the tensors that are not what they were, and of those that have come or gone."""
        now = TensorChecksums.of(module).sums
        return [name for name in dict.fromkeys([*self.sums, *now]) if self.sums.get(name) != now.get(name)]


def _sums(tensor: Tensor) -> str:
    """Sum, and weighted sum of some values, as text, in which NaN is equal to NaN."""
    if not tensor.numel():
        return ""
    flat = tensor.flatten()
    some = flat[:: max(1, math.ceil(len(flat) / _KEPT))].double().cpu()
    weights = torch.arange(1, len(some) + 1, dtype=torch.float64)
    return f"{float(flat.sum())!r} {float((some * weights).sum())!r}"


def changed_state(names: list[str]) -> str | None:
    """Why a row is unstable whose network changed these tensors; None if there are none."""
    if not names:
        return None
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"it changes its own state between forwards ({names[0]!r}{more}): each forward is of another network"
