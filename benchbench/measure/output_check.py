"""Check of outputs and state: outputs that are numbers, and a network that stays the same.

Equal inputs must give equal outputs, whether a forward is the first or the hundredth; a network that counts its
forwards, or leaves dropout on, is another network each time. A few thousand values of an output, looked at between
forwards, and one sum for each tensor of the state are enough to see that. PyTorch is imported for outputs that are
tensors alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchbench.measure.memory import storage_bytes

if TYPE_CHECKING:
    from torch import Tensor, nn

_KEPT = 4096  # values of an output
#: Relative distance of two outputs of equal input: what kernels that sum in another order may differ by.
_SAME = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 1e-2, "int8": 1e-3}


class OutputCheck:
    """Looks at outputs between forwards; holds a few thousand values of the first one."""

    def __init__(self, dtype: str = "fp32") -> None:
        """Look for the first time at the next output, computed in that type."""
        self.dtype = dtype
        self.output_bytes = 0  # of the first output, what it shares with the input included
        self.bad_share = 0.0  # of its values, those that are NaN or infinite
        self.changed: float | None = None  # relative distance to the first output, once that is too large
        self._first: npt.NDArray[np.float32] | None = None
        self._looked = 0

    def look(self, output: Any) -> None:
        """An output is there: the first, second, fourth, eighth and so on are looked at."""
        self._looked += 1
        if self._looked & (self._looked - 1):
            return
        parts = [output] if isinstance(output, np.ndarray) else _tensors(output)
        if not parts:
            return
        sample = np.concatenate([_sample(part) for part in parts])
        if self._first is None:
            arrays = isinstance(output, np.ndarray)
            self.output_bytes = output.nbytes if arrays else storage_bytes(parts)
            self.bad_share = bad_share(parts)
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


def _tensors(output: Any) -> list[Tensor]:
    from benchbench.zoo import logits as zoo_logits

    return zoo_logits.tensors(output)


def bad_share(parts: Sequence[Any]) -> float:
    """Share of the values of arrays or tensors that are NaN or infinite; a sum tells at once where there are none."""
    if all(math.isfinite(float(part.sum())) for part in parts if _is_floating(part)):
        return 0.0
    bad = sum(_bad(part) for part in parts)
    return float(bad / sum(math.prod(part.shape) for part in parts))


def _is_floating(part: Any) -> bool:
    return bool(part.dtype.kind == "f" if isinstance(part, np.ndarray) else part.is_floating_point())


def _bad(part: Any) -> int:
    if isinstance(part, np.ndarray):
        return int((~np.isfinite(part)).sum())
    import torch

    return sum(int((~torch.isfinite(some)).sum().item()) for some in torch.split(part.flatten(), 1 << 20))


def _sample(part: Any) -> npt.NDArray[np.float32]:
    """At most some thousand values, evenly over an array or a tensor."""
    step = max(1, math.ceil(math.prod(part.shape) / _KEPT))
    if isinstance(part, np.ndarray):
        return np.array(part.reshape(-1)[::step], np.float32)
    return np.asarray(part.detach().flatten()[::step].float().cpu().numpy())


def _distance(now: npt.NDArray[np.float32], first: npt.NDArray[np.float32]) -> float:
    """Relative L2 distance; what is not a number in both is equal."""
    if now.shape != first.shape:
        return math.inf
    same = (now == first) | (np.isnan(now) & np.isnan(first))
    if same.all():
        return 0.0
    size = max(float(np.linalg.norm(first[~np.isnan(first)])), 1e-12)
    distance = float(np.linalg.norm((now - first)[~same])) / size
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
    import torch

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
