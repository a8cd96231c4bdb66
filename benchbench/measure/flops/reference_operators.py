"""Reference operators whose MACs are worked out by hand, and what each counter makes of them.

The headline must be right on every one. The public counters agree on few of them: a plain convolution or linear
layer, and little else. For operators that multiply and accumulate nothing (norms, interpolation) there is no factor;
what a counter adds for them is shown instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchbench.core.audit_result import Counted
from benchbench.measure.flops import counters


class _Call(nn.Module):
    """A function of one tensor as a network."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class _Multihead(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attention(x, x, x)[0]
        return out


@dataclasses.dataclass(frozen=True, slots=True)
class Operator:
    """One operator and its count by hand."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]  # of the input
    macs: int


def _call(function: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: _Call(function)


_N = 6**3  # voxels of the input; a kernel of 3 with padding 1 keeps them
_IN = (1, 8, 6, 6, 6)
_T, _W = 20, 16  # tokens and their width
_SEQUENCE = (1, _T, _W)

#: A product of sizes each: output positions x output channels x inputs of each.
OPERATORS: tuple[Operator, ...] = (
    Operator("conv 1-D", lambda: nn.Conv1d(8, 16, 3, padding=1), (1, 8, 6), 6 * 16 * 8 * 3),
    Operator("conv 2-D", lambda: nn.Conv2d(8, 16, 3, padding=1), (1, 8, 6, 6), 36 * 16 * 8 * 9),
    Operator("conv 3-D", lambda: nn.Conv3d(8, 16, 3, padding=1), _IN, _N * 16 * 8 * 27),
    Operator("conv, no bias", lambda: nn.Conv3d(8, 16, 3, padding=1, bias=False), _IN, _N * 16 * 8 * 27),
    Operator("conv, strided", lambda: nn.Conv3d(8, 16, 2, stride=2), _IN, 27 * 16 * 8 * 8),
    Operator("conv, grouped", lambda: nn.Conv3d(8, 16, 3, padding=1, groups=4), _IN, _N * 16 * 2 * 27),
    Operator("conv, depthwise", lambda: nn.Conv3d(8, 8, 3, padding=1, groups=8), _IN, _N * 8 * 27),
    Operator("conv, dilated", lambda: nn.Conv3d(8, 4, 3, padding=2, dilation=2), _IN, _N * 4 * 8 * 27),
    # A transposed convolution spreads each input voxel over a kernel: input positions count.
    Operator("transposed conv 1-D", lambda: nn.ConvTranspose1d(8, 16, 2, stride=2), (1, 8, 6), 6 * 8 * 16 * 2),
    Operator("transposed conv 2-D", lambda: nn.ConvTranspose2d(8, 16, 2, stride=2), (1, 8, 6, 6), 36 * 8 * 16 * 4),
    Operator("transposed conv 3-D", lambda: nn.ConvTranspose3d(8, 16, 2, stride=2), _IN, _N * 8 * 16 * 8),
    Operator(
        "transposed conv, no bias",
        lambda: nn.ConvTranspose3d(8, 16, 2, stride=2, bias=False),
        _IN,
        _N * 8 * 16 * 8,
    ),
    Operator("transposed conv, stride 4", lambda: nn.ConvTranspose3d(8, 4, 4, stride=4), _IN, _N * 8 * 4 * 64),
    Operator("transposed conv, grouped", lambda: nn.ConvTranspose3d(8, 16, 2, stride=2, groups=4), _IN, _N * 8 * 4 * 8),
    Operator("linear on a sequence", lambda: nn.Linear(_W, 10), _SEQUENCE, _T * 10 * _W),
    Operator("linear, no bias", lambda: nn.Linear(_W, 10, bias=False), _SEQUENCE, _T * 10 * _W),
    Operator("bmm", _call(lambda x: torch.bmm(x, x.transpose(1, 2))), _SEQUENCE, _T * _T * _W),
    Operator("x @ y", _call(lambda x: x @ x.transpose(1, 2)), _SEQUENCE, _T * _T * _W),
    Operator("einsum", _call(lambda x: torch.einsum("bnc,bmc->bnm", x, x)), _SEQUENCE, _T * _T * _W),
    Operator(
        "einsum of two heads",
        _call(lambda x: torch.einsum("bhnc,bhmc->bhnm", x, x)),
        (1, 2, _T, _W // 2),
        2 * _T * _T * (_W // 2),
    ),
    Operator(
        "scaled_dot_product_attention",
        _call(lambda x: nn.functional.scaled_dot_product_attention(x, x, x)),
        (1, 2, _T, _W // 2),
        2 * 2 * _T * _T * (_W // 2),
    ),
    Operator(
        "MultiheadAttention in eval",
        lambda: _Multihead(_W, 2),
        _SEQUENCE,
        _T * 3 * _W * _W + 2 * _T * _T * _W + _T * _W * _W,
    ),
    Operator("interpolate", _call(lambda x: nn.functional.interpolate(x, scale_factor=2, mode="trilinear")), _IN, 0),
    Operator("Upsample", lambda: nn.Upsample(scale_factor=2, mode="nearest"), _IN, 0),
    Operator("BatchNorm3d", lambda: nn.BatchNorm3d(8), _IN, 0),
    Operator("InstanceNorm3d", lambda: nn.InstanceNorm3d(8, affine=True), _IN, 0),
    Operator("GroupNorm", lambda: nn.GroupNorm(2, 8), _IN, 0),
    Operator("LayerNorm", lambda: nn.LayerNorm(_W), _SEQUENCE, 0),
)


def check(operator: Operator, *, real: bool = False) -> dict[str, Counted]:
    """Count one operator by every counter.

    Args:
        real: on real tensors instead of tensors without memory; the headline never needs them.

    Returns:
        Counter -> what it says; its factor is on the count by hand, or, where that is 0, for each output element.
    """
    ghost = operator.make().eval().to("meta")
    x = torch.empty(operator.shape, device="meta")
    headline, facts = counters.count_torch(ghost, x)
    module, value = (operator.make().eval(), torch.zeros(operator.shape)) if real else (ghost, x)
    tallies = [headline, *(counters.count(name, module, value) for name in counters.COUNTERS[1:])]
    by_hand = operator.macs or facts.elements[""]
    return {t.counter: t.counted(by_hand) for t in tallies}
