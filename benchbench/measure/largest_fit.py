"""Largest patch, and largest batch, whose forecast fits a number of bytes.

Nothing is computed: sizes are tried by bisection on the forecast, on tensors without memory. The forecast is a lower
bound of what a process takes, so what it refuses is refused for certain, and what it allows has to be confirmed by a
run.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Sequence

from torch import nn

from benchbench.core.errors import BenchError, CardError, UnsupportedError
from benchbench.measure.flops.graph import measure_cost
from benchbench.measure.training_step import forecast_step

log = logging.getLogger(__name__)

STEP = 16  # voxels, between two patches' longest sides
MOST_BATCH = 1024
_SPARE = 2  # so many smaller sizes are named too, should the first not fit after all
Sides = tuple[int, ...]
Make = Callable[[Sides], nn.Module]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What fits by the forecast, the largest first; empty where nothing does."""

    sizes: tuple[Sides, ...] | tuple[int, ...]  # patches (D, H, W), or batches
    needs_bytes: int | None  # of the first one, or of the smallest that was tried where none fits
    is_all_asked: bool = False  # the first one is the largest that was tried


def patches(spatial: Sequence[int]) -> list[Sides]:
    """The patches to try: the asked one, then its sides scaled down so that the longest loses 16 voxels a time."""
    longest = max(spatial)
    smaller = [
        tuple(min(s, max(STEP, round(s * side / longest / STEP) * STEP)) for s in spatial)
        for side in range((longest - 1) // STEP * STEP, 0, -STEP)
    ]
    return list(dict.fromkeys([tuple(spatial), *smaller]))


def needed_bytes(module: nn.Module, input_shape: Sequence[int], dtype: str, phase: str) -> int:
    """The forecast of one forward, or of one training step.

    Raises:
        UnsupportedError: the network cannot be counted without values.
    """
    if phase == "train":
        return forecast_step(module, input_shape, dtype).tensor_memory_bytes
    return measure_cost(module, input_shape, dtype, run=False).tensor_memory_bytes


def largest_patch(
    make_module: Make,
    in_channels: int,
    batch: int,
    spatial: Sequence[int],
    dtype: str,
    limit_bytes: int,
    phase: str = "infer",
) -> Fit:
    """The largest patch that fits, by bisection; patches that the network refuses are passed over.

    Args:
        make_module: builds the network for a patch.
        spatial: (D, H, W) asked for: the largest that is tried.
        limit_bytes: for tensors alone, the framework left out.

    Raises:
        UnsupportedError: the network cannot be counted without values.
    """
    sizes = patches(spatial)
    forecasts: dict[int, int | None] = {}  # index -> forecast; None: refused by the network

    def needs(index: int) -> int | None:
        if index not in forecasts:
            patch = sizes[index]
            try:
                forecasts[index] = needed_bytes(make_module(patch), (batch, in_channels, *patch), dtype, phase)
            except (UnsupportedError, CardError):
                raise
            except (BenchError, RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
                log.debug("patch %s is refused: %s", patch, error)
                forecasts[index] = None
        return forecasts[index]

    left, best = list(range(len(sizes))), len(sizes)
    while left:
        middle = left[len(left) // 2]
        needed = needs(middle)
        if needed is None:
            left.remove(middle)
        elif needed <= limit_bytes:
            left, best = [i for i in left if i < middle], middle
        else:
            left = [i for i in left if i > middle]
    fitting = list(itertools.islice((i for i in range(best, len(sizes)) if needs(i) is not None), 1 + _SPARE))
    return Fit(
        sizes=tuple(sizes[i] for i in fitting),
        needs_bytes=forecasts[fitting[0]] if fitting else min((n for n in forecasts.values() if n), default=None),
        is_all_asked=bool(fitting) and fitting[0] == 0,
    )


def largest_batch(
    make_module: Make,
    in_channels: int,
    spatial: Sequence[int],
    dtype: str,
    limit_bytes: int,
    phase: str = "infer",
) -> Fit:
    """The largest batch that fits at a patch: doubled until it does not fit, then by bisection.

    Returns:
        Batches up to 1024, each an eighth below the last.

    Raises:
        UnsupportedError: the network cannot be counted without values.
    """
    module = make_module(tuple(spatial))

    def fits(batch: int) -> bool:
        needed[batch] = needed_bytes(module, (batch, in_channels, *spatial), dtype, phase)
        return needed[batch] <= limit_bytes

    needed: dict[int, int] = {}
    low, high = 0, 1  # the largest that fits is at least low and below high
    while high <= MOST_BATCH and fits(high):
        low, high = high, 2 * high
    high = min(high, MOST_BATCH + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    sizes = [low] if low else []
    while sizes and sizes[-1] > 1 and len(sizes) <= _SPARE:
        sizes.append(sizes[-1] - max(1, sizes[-1] // 8))
    return Fit(sizes=tuple(sizes), needs_bytes=needed[low or 1], is_all_asked=low == MOST_BATCH)
