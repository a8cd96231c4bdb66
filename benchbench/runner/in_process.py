"""`measure_module`: measurement of a user's own network in this process.

    import benchbench
    print(benchbench.measure_module(MyNet(), (1, 4, 128, 128, 128)))

The same functions as `bench run` uses, in the calling process instead of a fresh one: the peak of
memory then includes whatever else the process holds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchbench.core.errors import DeviceError, UnsupportedError, UsageError, unknown
from benchbench.core.protocol import get_protocol
from benchbench.core.records import Measurement
from benchbench.core.units import format_shape, format_value

if TYPE_CHECKING:
    from torch import nn


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The measurements of one network; prints as a table."""

    name: str
    input_shape: tuple[int, ...]
    measurements: tuple[Measurement, ...]

    def value(self, metric: str) -> float | int | None:
        """The value of a metric such as `macs` or `latency_s`.

        Raises:
            KeyError: it was not measured.
        """
        return {m.metric: m.value for m in self.measurements}[metric]

    def __str__(self) -> str:
        rows = [
            (m.metric, ("at least " if m.bound == "at_least" else "") + format_value(m.value, m.unit), _how(m))
            for m in self.measurements
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(2)]
        lines = [f"{self.name}, input {format_shape(self.input_shape)}"]
        lines += [f"  {metric:<{widths[0]}}  {value:>{widths[1]}}  {how}" for metric, value, how in rows]
        return "\n".join(lines)


def _how(m: Measurement) -> str:
    return f"({m.origin}; {m.method})" if m.value is not None else f"({m.reason})"


def measure_module(
    module: nn.Module,
    input_shape: Sequence[int],
    *,
    device: str = "cpu",
    dtype: str = "fp32",
    protocol: str = "quick",
) -> Measured:
    """Parameters, MACs, latency, throughput and peak memory of any network.

    Args:
        module: (B, C, D, H, W) -> a tensor; moved to the device and put in eval mode.
        input_shape: of the random input.
        device: `cpu` or `cuda`.
        dtype: `fp32`, or `bf16` / `fp16` by autocast.
        protocol: `quick`, `standard` or `thorough`.

    Raises:
        UsageError: an unknown device, dtype or protocol.
        Exception: whatever the network raises on this input. Where only its count fails, the rest is measured.
    """
    import torch

    from benchbench.measure.flops.graph import measure_cost, uncounted
    from benchbench.measure.flops.tracer import DTYPES
    from benchbench.measure.latency import forward_function
    from benchbench.measure.timed import time_calls

    if device not in ("cpu", "cuda"):
        raise UsageError(unknown("device", device, ("cpu", "cuda")))
    if dtype not in DTYPES:
        raise UsageError(unknown("dtype", dtype, DTYPES))
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("cuda is asked for and PyTorch sees no GPU; use device='cpu'")
    cost: list[Measurement] | None
    why = ""
    try:
        cost = measure_cost(module, input_shape, dtype).measurements()
    except UnsupportedError as error:
        cost, why = None, str(error)
    module = module.eval().to(device)
    x = torch.randn(*input_shape, generator=torch.Generator().manual_seed(0)).to(device)
    forward = forward_function(module, x, backend=device, dtype=dtype)
    timed = time_calls(forward, get_protocol(protocol), backend=device, batch=input_shape[0])
    return Measured(
        name=type(module).__name__,
        input_shape=tuple(input_shape),
        measurements=(
            *(uncounted(module, why) if cost is None else cost),
            *timed.latency.measurements(),
            *timed.peak.measurements(),
        ),
    )
