"""Training step: its seconds and peak memory, and a forecast of both.

A step is what training does with each batch: forward by autocast, loss, backward, AdamW. The data are random, since
time and memory do not depend on them. A step holds what a forward does not: every activation that the backward will
read, a gradient for each weight, and AdamW's two moments.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from benchbench.core.errors import UnsupportedError, first_line
from benchbench.core.records import Measurement
from benchbench.measure.flops.graph import PEAK_METHOD
from benchbench.measure.flops.meta_device import without_memory
from benchbench.measure.flops.tracer import Tracer, autocast, is_of_values
from benchbench.measure.latency import Latency
from benchbench.measure.memory import PeakMemory, weights_bytes
from benchbench.training.losses import dice_bce
from benchbench.training.torch_runtime import fp32_where_bf16_is_wrong
from benchbench.zoo import logits as of_networks

_LR = 1e-4  # small, so that hundreds of steps on noise stay finite: what is not would be slower
_MOMENTS = 2  # of AdamW, one value each for every trained parameter


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepForecast:
    """What one training step needs at least, once AdamW has its moments."""

    tensor_memory_bytes: int
    peak_at: str  # the operator at which the peak stands

    def measurement(self) -> Measurement:
        """`train_tensor_memory_bytes`, of origin `analytic`."""
        method = f"{PEAK_METHOD} in forward and backward, with gradients and AdamW's moments, at {self.peak_at}"
        return Measurement.of(
            "train_tensor_memory_bytes", self.tensor_memory_bytes, method, "analytic", bound="at_least"
        )


class TrainingStep:
    """One step of training, ready to be called again and again."""

    def __init__(self, module: nn.Module, x: Tensor, *, backend: str = "cpu", dtype: str = "fp32") -> None:
        """Put a network into training mode, and make its optimiser.

        Args:
            module: on the backend's device; its weights are changed by each step.
            x: (B, C, D, H, W) on the same device.
            dtype: `fp32`, or autocast to `bf16` / `fp16`; fp16 with its loss scaled.

        Raises:
            UnsupportedError: fp16 on a CPU, or a network without anything to train.
        """
        if dtype == "fp16" and backend != "cuda":
            raise UnsupportedError("training in fp16 needs a GPU, whose gradients are scaled: take bf16 or fp32")
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        if not self.parameters:
            raise UnsupportedError("the network has no parameter that can be trained")
        self.module, self.x, self.backend, self.dtype = module.train(), x, backend, dtype
        self.optimiser = torch.optim.AdamW(self.parameters, lr=_LR)
        self.scaler = torch.amp.GradScaler(backend, enabled=dtype == "fp16")
        self.targets: list[Tensor] = []  # of each output; made in the first step
        self.loss: Tensor | None = None  # of the last step

    def __call__(self) -> None:
        """Forward, loss, backward, update; returns when all is done.

        Raises:
            UnsupportedError: no output depends on what can be trained.
        """
        self.optimiser.zero_grad(set_to_none=True)
        with autocast(self.backend, self.dtype):
            outputs = trained_outputs(self.module(self.x))
        if not self.targets:
            generator = torch.Generator(self.x.device).manual_seed(0)
            self.targets = [random_target(out, generator) for out in outputs]
        loss = step_loss(outputs, self.targets)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.loss = loss.detach()
        if self.backend == "cuda":
            torch.cuda.synchronize()

    @contextlib.contextmanager
    def ready(self) -> Iterator[Callable[[], None]]:
        """Inside, the step goes around the kernels that are known to be wrong, as training does."""
        with fp32_where_bf16_is_wrong(self.module):
            yield self

    def is_finite(self) -> bool:
        """Whether the last step had a loss that is a number."""
        return self.loss is None or math.isfinite(self.loss.item())


def train_memory(peak: PeakMemory, base_bytes: int | None = None) -> list[Measurement]:
    """`train_peak_memory_bytes` from a watch that began before the first step, and what comes with it."""
    whole, *parts = peak.measurements(base_bytes)
    return of_steps([dataclasses.replace(whole, metric="train_peak_memory_bytes"), *parts])


def train_time(latency: Latency, dtype: str) -> list[Measurement]:
    """`train_step_s` and `warmup_s` from timed steps."""
    seconds, warmup = latency.measurements("train_step_s")
    how = f"forward, loss, backward and AdamW in {dtype}, random data"
    return [dataclasses.replace(seconds, method=f"{seconds.method}; {how}"), *of_steps([warmup])]


def of_steps(forwards: Sequence[Measurement]) -> list[Measurement]:
    """Measurements whose method speaks of forwards, where each of them was a training step."""
    return [dataclasses.replace(m, method=m.method.replace("forward", "training step")) for m in forwards]


def forecast_step(module: nn.Module, input_shape: Sequence[int], dtype: str = "fp32") -> StepForecast:
    """Trace one training step on tensors without memory.

    Returns:
        The most that lives at once in forward and backward: weights, input, target, saved activations and
        gradients; with AdamW's two moments, which live throughout from the second step on.

    Raises:
        UnsupportedError: the forward depends on values, or nothing can be trained.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        ghost = without_memory(module, "cpu").train()
        x = torch.empty(*input_shape)
    tracer = Tracer("the loss")
    tracer.hold(x)
    try:
        with fake, tracer.modules, tracer:
            with autocast("cpu", dtype):
                outputs = trained_outputs(ghost(x))
            targets = [random_target(out) for out in outputs]
            step_loss(outputs, targets).backward()  # type: ignore[no-untyped-call]
    except (RuntimeError, NotImplementedError) as error:
        if not is_of_values(error):
            raise
        raise UnsupportedError(
            f"the memory of training cannot be forecast: the step depends on values ({first_line(error)})"
        ) from error
    trained = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
    return StepForecast(
        tensor_memory_bytes=tracer.peak_bytes + weights_bytes(module) + _MOMENTS * trained, peak_at=tracer.peak_at
    )


def trained_outputs(out: Any) -> list[Tensor]:
    """The tensors of an output that a loss can be of.

    Raises:
        UnsupportedError: none of them depends on what can be trained.
    """
    outputs = [t for t in of_networks.answers(out) if t.requires_grad and t.is_floating_point()]
    if not outputs:
        raise UnsupportedError("no output of the network depends on its parameters in training mode")
    return outputs


def random_target(out: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A target for an output: binary volumes for a segmentation, one class a row for a classifier, else numbers."""
    if out.ndim == 2:
        return torch.randint(out.shape[1], (out.shape[0],), generator=generator, device=out.device)
    chance = torch.rand(out.shape, generator=generator, device=out.device)
    return chance.lt_(0.5) if out.ndim == 5 else chance


def step_loss(outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """The mean over outputs of soft Dice plus cross-entropy (a classifier: cross-entropy; else: mean square)."""
    functions: dict[int, Callable[..., Tensor]] = {5: dice_bce, 2: functional.cross_entropy}
    losses = [
        functions.get(out.ndim, functional.mse_loss)(out.float(), target)
        for out, target in zip(outputs, targets, strict=True)
    ]
    return torch.stack(losses).mean()
