"""Latency and memory of a whole patient: sliding windows over a volume, not one patch.

What a hospital waits for is the label map of a patient, and the patch's latency times the number of windows is not
that: the windows overlap, are blended into buffers as large as the volume, and the rest is spent outside of the
network. Most of a scan is air, and windows over the box that holds the patient are a fraction of those over the
volume.

Source: the blending is MONAI's sliding_window_inference with Gaussian weights, as for Dice.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from benchbench.core.errors import UnsupportedError
from benchbench.core.protocol import Protocol
from benchbench.core.records import Measurement
from benchbench.core.units import format_shape
from benchbench.data import get_plan, load_case
from benchbench.measure.flops.tracer import autocast
from benchbench.measure.timed import time_calls
from benchbench.zoo import logits as zoo_logits

BLENDING = "gaussian"
PHANTOM = "phantom"  # what is cropped to its foreground
Sides = tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a volume is gone through."""

    patch: Sides  # (D, H, W) voxels
    batch: int  # windows in one forward
    overlap: float  # of neighbouring windows, as a share of the patch
    crop_foreground: bool = False  # windows over the box of voxels that are not 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VolumeResult:
    """Whole volumes that were timed."""

    measurements: tuple[Measurement, ...]
    unstable: str | None  # why the time is, and what to try
    spent_s: float  # for all of them, warm-up included


def windows_of(volume: Sides, patch: Sides, overlap: float) -> int:
    """How many windows cover a volume (D, H, W); a side below the patch's is padded to it.

    Source: monai.inferers, its interval between windows is int(patch * (1 - overlap)), and at least 1.
    """
    steps = [max(1, int(p * (1 - overlap))) for p in patch]
    return math.prod(1 + max(0, math.ceil((v - p) / s)) for v, p, s in zip(volume, patch, steps, strict=True))


def random_volume(channels: int, volume: Sides) -> Tensor:
    """(1, C, D, H, W) of noise."""
    return torch.randn(1, channels, *volume, generator=torch.Generator().manual_seed(0))


def phantom_volume(channels: int, volume: Sides | None = None) -> Tensor:
    """A case of the phantom, 0 outside of the head.

    Args:
        volume: (D, H, W) that it is resized to: the image linearly, what is head by the nearest voxel; None: as it is.

    Returns:
        (1, C, D, H, W).

    Raises:
        UnsupportedError: the network takes another number of channels.
    """
    check_channels(channels)
    image = torch.from_numpy(np.ascontiguousarray(load_case(PHANTOM, "test", 0).image))[None]
    if volume is None or tuple(image.shape[2:]) == tuple(volume):
        return image
    head = (image != 0).any(1, keepdim=True).float()
    resized = nn.functional.interpolate(image, size=volume, mode="trilinear", align_corners=False)
    return resized * nn.functional.interpolate(head, size=volume, mode="nearest")


def check_channels(channels: int) -> None:
    """Refuse with an UnsupportedError a network that does not take the phantom's channels."""
    plan = get_plan(PHANTOM)
    if channels != plan.in_channels:
        raise UnsupportedError(
            f"the foreground is cropped from the {PHANTOM}, which has {plan.in_channels} channels "
            f"({', '.join(plan.channels)}), and this network takes {channels}: leave --crop-foreground out"
        )


class Inference:
    """Sliding windows over one volume; each call makes the label map anew and times what is inside the network."""

    def __init__(self, module: nn.Module, x: Tensor, plan: Plan, *, backend: str = "cpu", dtype: str = "fp32") -> None:
        """Get ready."""
        self.module, self.x, self.plan, self.backend, self.dtype = module, x, plan, backend, dtype
        self.windows = 0  # of the last call
        self.left_share = 1.0  # of the voxels, after the crop
        self.total_s: list[float] = []  # of each call
        self.inside_s: list[float] = []  # of it, inside the network
        self._marks: list[tuple[Any, Any]] = []  # of a GPU's stream, around each window

    def forget(self) -> None:
        """Drop the times of earlier calls."""
        self.total_s, self.inside_s = [], []

    def __call__(self) -> Tensor:
        """(1, R, D, H, W) bool: which voxels belong to each region.

        Raises:
            UnsupportedError: the network gives no dense output, or none of the patch's size.
        """
        self.windows, self._marks = 0, []
        self.inside_s.append(0.0)
        start = time.perf_counter()
        with torch.inference_mode(), autocast(self.backend, self.dtype):
            out = self._cropped() if self.plan.crop_foreground else self._windows(self.x)
        if self.backend == "cuda":
            torch.cuda.synchronize()
            self.inside_s[-1] = sum(begin.elapsed_time(end) for begin, end in self._marks) / 1e3
        self.total_s.append(time.perf_counter() - start)
        return out

    def _cropped(self) -> Tensor:
        seen = (self.x != 0).any(1)[0]
        at = torch.nonzero(seen)  # (voxels, 3)
        if not len(at):
            return self._windows(self.x)
        first, last = at.amin(0).tolist(), at.amax(0).tolist()
        d, h, w = (slice(a, b + 1) for a, b in zip(first, last, strict=True))
        box = self.x[..., d, h, w]
        self.left_share = math.prod(box.shape[2:]) / seen.numel()
        inner = self._windows(box)
        whole = torch.zeros(*inner.shape[:2], *seen.shape, dtype=torch.bool, device=self.x.device)
        whole[..., d, h, w] = inner
        return whole

    def _windows(self, x: Tensor) -> Tensor:
        p = self.plan
        logits: Any = sliding_window_inference(x, p.patch, p.batch, self._inside, overlap=p.overlap, mode=BLENDING)
        return torch.gt(logits, 0)  # sigmoid > 0.5

    def _inside(self, window: Tensor) -> Tensor:
        self.windows += len(window)
        if self.backend == "cuda":
            marks = tuple(torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            marks[0].record()
            out = zoo_logits.logits(self.module(window), window.shape[2:])
            marks[1].record()
            self._marks.append((marks[0], marks[1]))
        else:
            start = time.perf_counter()
            out = zoo_logits.logits(self.module(window), window.shape[2:])
            self.inside_s[-1] += time.perf_counter() - start
        return out.float()


def measure_volume(
    module: nn.Module,
    x: Tensor,
    plan: Plan,
    protocol: Protocol,
    *,
    backend: str = "cpu",
    dtype: str = "fp32",
    gpu: int = 0,
    tick: Callable[[str, int], None] | None = None,
) -> VolumeResult:
    """Time whole volumes.

    Args:
        module: in eval mode, on the backend's device.
        x: (1, C, D, H, W) on the same device.

    Returns:
        `volume_latency_s`, `volume_windows`, `volume_outside_share`, `volume_peak_memory_bytes` and, of a crop,
        `volume_cropped_share`.

    Raises:
        UnsupportedError: the network gives no dense output, or none of the patch's size.
    """
    sides = tuple(x.shape[2:])
    run = Inference(module, x, plan, backend=backend, dtype=dtype)
    if backend == "cuda":
        torch.cuda.empty_cache()
    timed = time_calls(run, protocol, backend=backend, gpu=gpu, after_warmup=run.forget, tick=tick)
    (memory, *_) = timed.peak.measurements()
    how = (
        f"windows of {format_shape(plan.patch)}, overlap {plan.overlap:g}, {plan.batch} at a time, "
        f"{BLENDING} blending, from a volume of {format_shape(sides)} to its label map"
    )
    if plan.crop_foreground:
        how += f", over the box that holds the head of a {PHANTOM} case"
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
