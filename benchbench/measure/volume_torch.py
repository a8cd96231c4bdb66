"""A network in PyTorch over a whole volume: as a forward of arrays on a CPU, by MONAI's inferer on a GPU.

The arrays of a CPU are tensors without a copy, so that eager PyTorch is stitched as every other runtime is. On a GPU
the volume, the windows and the buffer stay in the GPU's memory, and so MONAI's function does the stitching.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchbench.measure.flops.tracer import autocast
from benchbench.measure.sliding_windows import Array, Forward
from benchbench.measure.volume import BLENDING, Inference, Plan
from benchbench.zoo import logits as zoo_logits


def forward_of_arrays(module: nn.Module, dtype: str = "fp32") -> Forward:
    """A module in eval mode on the CPU as a forward of arrays.

    Args:
        dtype: `fp32`, or autocast to `bf16` / `fp16`.
    """

    def forward(windows: Array) -> Array:
        with torch.inference_mode(), autocast("cpu", dtype):
            out = zoo_logits.logits(module(torch.from_numpy(windows)), windows.shape[2:])
            return np.asarray(out.float().numpy())

    return forward


class GpuInference(Inference):
    """Sliding windows over one volume in the memory of a GPU."""

    def __init__(self, module: nn.Module, x: Array, plan: Plan, *, device: str, dtype: str = "fp32") -> None:
        """Move the volume there.

        Args:
            module: in eval mode, on the device.
            x: (C, D, H, W).
            device: `cuda:0`; a CPU in tests alone.
        """
        super().__init__(lambda windows: windows, x, plan)
        self.module, self.device, self.dtype = module, device, dtype
        self._volume = torch.from_numpy(x)[None].to(device)
        self._marks: list[tuple[Any, Any]] = []  # of the GPU's stream, around each window

    def __call__(self) -> Tensor:
        """The label map, in the GPU's memory.

        Raises:
            UnsupportedError: the network gives no dense output, or none of the patch's size.
        """
        self.windows, self._marks = 0, []
        self.inside_s.append(0.0)
        start = time.perf_counter()
        with torch.inference_mode(), autocast(self.device.partition(":")[0], self.dtype):
            out = self._box() if self.plan.crop_foreground else self._windows(self._volume)
        if out.is_cuda:
            torch.cuda.synchronize()
            self.inside_s[-1] = sum(begin.elapsed_time(end) for begin, end in self._marks) / 1e3
        self.total_s.append(time.perf_counter() - start)
        return out[0]

    def _box(self) -> Tensor:
        seen = (self._volume != 0).any(1)[0]
        at = torch.nonzero(seen)  # (voxels, 3)
        if not len(at):
            return self._windows(self._volume)
        first, last = at.amin(0).tolist(), at.amax(0).tolist()
        box: tuple[Any, ...] = (..., *(slice(a, b + 1) for a, b in zip(first, last, strict=True)))
        inner = self._windows(self._volume[box])
        self.left_share = inner.shape[-3:].numel() / seen.numel()
        whole = torch.zeros(*inner.shape[:-3], *seen.shape, dtype=inner.dtype, device=inner.device)
        whole[box] = inner
        return whole

    def _windows(self, x: Tensor) -> Tensor:
        """(1, K, D, H, W) bool, or of exclusive labels (1, D, H, W)."""
        from monai.inferers import sliding_window_inference  # here, since a CPU has no need of it in its memory

        p = self.plan
        logits: Any = sliding_window_inference(x, p.patch, p.batch, self._one, overlap=p.overlap, mode=BLENDING)
        return logits.argmax(1).to(torch.uint8) if p.exclusive else torch.gt(logits, 0)  # sigmoid > 0.5

    def _one(self, window: Tensor) -> Tensor:
        self.windows += len(window)
        if not window.is_cuda:
            start = time.perf_counter()
            out = zoo_logits.logits(self.module(window), window.shape[2:])
            self.inside_s[-1] += time.perf_counter() - start
            return out.float()
        marks = tuple(torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        marks[0].record()
        out = zoo_logits.logits(self.module(window), window.shape[2:])
        marks[1].record()
        self._marks.append((marks[0], marks[1]))
        return out.float()
