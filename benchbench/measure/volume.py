"""Latency and memory of a whole patient: sliding windows over a volume, not one patch.

What a hospital waits for is the label map of a patient, and the patch's latency times the number of windows is not
that: the windows overlap, are blended into buffers as large as the volume, and the rest is spent outside of the
network. Most of a scan is air, and windows over the box that holds the patient are a fraction of those over the
volume.

On a CPU the windows are `measure.sliding_windows`, equal for every runtime and without PyTorch, which is imported here
to resize a case alone. On a GPU a network in PyTorch has MONAI's (`measure.volume_torch`).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from benchbench.core.errors import UnsupportedError
from benchbench.core.protocol import Protocol
from benchbench.core.records import Measurement
from benchbench.core.units import format_shape
from benchbench.data import get_plan, load_case
from benchbench.data.foreground import LEAST_ZERO, foreground_box, zero_share
from benchbench.measure.sliding_windows import Forward, SlidingWindows, starts
from benchbench.measure.timed import time_calls

BLENDING = "gaussian"
PHANTOM = "phantom"  # what is cropped to its foreground where there is no data set
Sides = tuple[int, ...]
Array = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a volume is gone through."""

    patch: Sides  # (D, H, W) voxels
    batch: int = 1  # windows in one forward
    overlap: float  # of neighbouring windows, as a share of the patch
    crop_foreground: bool = False  # windows over the box of voxels that are not 0
    exclusive: bool = False  # a voxel has one label, the largest logit; else one of each region, by its sign
    whole_batches: bool = False  # the network takes no smaller batch


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VolumeResult:
    """Whole volumes that were timed."""

    measurements: tuple[Measurement, ...]
    unstable: str | None  # why the time is, and what to try
    spent_s: float  # for all of them, warm-up included


def windows_of(volume: Sides, patch: Sides, overlap: float) -> int:
    """How many windows cover a volume (D, H, W); a side below the patch's is padded to it."""
    return math.prod(len(starts(max(v, p), p, overlap)) for v, p in zip(volume, patch, strict=True))


def random_volume(channels: int, volume: Sides) -> Array:
    """(C, D, H, W) of noise."""
    return np.random.default_rng(0).standard_normal((channels, *volume), np.float32)


def foreground_case(where: str, channels: int, volume: Sides | None = None) -> Array:
    """The first test case of a data set, whose background is 0.

    Args:
        where: what finds the data set.
        channels: that the network takes.
        volume: (D, H, W) that it is resized to: the image linearly, what is not 0 by the nearest voxel; None: as it is.

    Returns:
        (C, D, H, W).

    Raises:
        UnsupportedError: the network takes another number of channels, or the background is not 0.
        DataError: it cannot be read.
    """
    check_channels(where, channels)
    case = load_case(where, "test", 0)
    share = zero_share(case.image)
    if share < LEAST_ZERO:
        raise UnsupportedError(
            f"there is no background to crop: {share:.1%} of the voxels of {case.id} are exactly 0, and at least "
            f"{LEAST_ZERO:.0%} have to be; leave --crop-foreground out"
        )
    image = np.ascontiguousarray(case.image, np.float32)
    return image if volume is None or image.shape[1:] == tuple(volume) else _resized(image, volume)


def _resized(image: Array, volume: Sides) -> Array:
    """An image whose background is still exactly 0."""
    import torch
    from torch.nn.functional import interpolate

    x = torch.from_numpy(image)[None]
    lit = (x != 0).any(1, keepdim=True).float()
    resized = interpolate(x, size=volume, mode="trilinear", align_corners=False)
    return np.asarray((resized * interpolate(lit, size=volume, mode="nearest"))[0].numpy())


def check_channels(where: str, channels: int) -> None:
    """Refuse with an UnsupportedError a network that does not take a data set's channels."""
    plan = get_plan(where)
    if channels != plan.in_channels:
        raise UnsupportedError(
            f"the foreground is cropped from a case of {plan.name}, which has {plan.in_channels} channels "
            f"({', '.join(plan.channels)}), and this network takes {channels}: leave --crop-foreground out"
        )


class Inference:
    """Sliding windows over one volume; each call makes the label map anew and times what is inside the network."""

    def __init__(self, forward: Forward, x: Array, plan: Plan) -> None:
        """Get ready.

        Args:
            forward: the network, (B, C, D, H, W) -> logits (B, K, D, H, W).
            x: (C, D, H, W).
        """
        self.x, self.plan, self._forward = x, plan, forward
        self.windows = 0  # of the last call
        self.left_share = 1.0  # of the voxels, after the crop
        self.total_s: list[float] = []  # of each call
        self.inside_s: list[float] = []  # of it, inside the network
        self._sliding = SlidingWindows(
            plan.patch,
            overlap=plan.overlap,
            batch=plan.batch,
            whole_batches=plan.whole_batches,
            exclusive=plan.exclusive,
        )

    @property
    def sides(self) -> Sides:
        """(D, H, W) of the volume."""
        return tuple(self.x.shape[1:])

    def forget(self) -> None:
        """Drop the times of earlier calls."""
        self.total_s, self.inside_s = [], []

    def __call__(self) -> Any:
        """The label map, as `SlidingWindows.label` gives it; 0 or False outside of the box.

        Raises:
            UnsupportedError: the network gives no dense output, or none of the patch's size.
        """
        self.inside_s.append(0.0)
        start = time.perf_counter()
        box = foreground_box(self.x) if self.plan.crop_foreground else None
        if box is None:
            self.windows = windows_of(self.sides, self.plan.patch, self.plan.overlap)
            label = self._sliding.label(self._inside, self.x)
        else:
            label = self._cropped(self.x[(slice(None), *box)], box)
        self.total_s.append(time.perf_counter() - start)
        return label

    def _cropped(self, inner: Array, box: tuple[slice, ...]) -> npt.NDArray[Any]:
        sides = inner.shape[1:]
        self.windows = windows_of(sides, self.plan.patch, self.plan.overlap)
        self.left_share = math.prod(sides) / math.prod(self.sides)
        label = self._sliding.label(self._inside, inner)
        whole = np.zeros((*label.shape[:-3], *self.sides), label.dtype)
        at: tuple[Any, ...] = (..., *box)
        whole[at] = label
        return whole

    def _inside(self, windows: Array) -> Array:
        start = time.perf_counter()
        out = self._forward(windows)
        self.inside_s[-1] += time.perf_counter() - start
        return out


def measure_volume(
    run: Inference,
    protocol: Protocol,
    *,
    of: str = "noise",
    backend: str = "cpu",
    gpu: int = 0,
    tick: Callable[[str, int], None] | None = None,
) -> VolumeResult:
    """Time whole volumes.

    Args:
        run: goes through one.
        of: what the volume is, for the method.

    Returns:
        `volume_latency_s`, `volume_windows`, `volume_outside_share`, `volume_peak_memory_bytes` and, of a crop,
        `volume_cropped_share`.

    Raises:
        UnsupportedError: the network gives no dense output, or none of the patch's size.
    """
    plan, sides = run.plan, run.sides
    if backend == "cuda":
        import torch

        torch.cuda.empty_cache()
    timed = time_calls(run, protocol, backend=backend, gpu=gpu, after_warmup=run.forget, tick=tick)
    (memory, *_) = timed.peak.measurements()
    how = (
        f"windows of {format_shape(plan.patch)}, overlap {plan.overlap:g}, {plan.batch} at a time, "
        f"{BLENDING} blending, from a volume of {format_shape(sides)} ({of}) to its label map"
    )
    if plan.crop_foreground:
        how += ", over the box of the voxels that are not 0"
    counted = f"{how}; the whole volume has {windows_of(sides, plan.patch, plan.overlap)}"
    seconds = timed.latency.measurements("volume_latency_s")[0]
    outside = max(0.0, 1 - sum(run.inside_s) / sum(run.total_s))
    measurements = [
        dataclasses.replace(seconds, method=f"{seconds.method}; {how}"),
        Measurement.of("volume_windows", run.windows, counted if plan.crop_foreground else how),
        Measurement.of("volume_outside_share", outside, "1 - time inside the network / total, over the timed volumes"),
        Measurement.of("volume_peak_memory_bytes", memory.value or 0, f"{memory.method}; {how}"),
    ]
    if plan.crop_foreground:
        measurements.append(
            Measurement.of("volume_cropped_share", run.left_share, "share of the voxels that the box holds")
        )
    return VolumeResult(
        measurements=tuple(measurements), unstable=timed.latency.unstable, spent_s=timed.latency.spent_s
    )
