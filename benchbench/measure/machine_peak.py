"""Peak of a machine, for the roofline: most multiply-accumulates a second, and most bytes from memory.

Between them a network's time can be understood: fewer MACs help only until memory is what it waits for. Neither is
the data sheet's: both are the best that PyTorch itself reaches here, with the same threads and dtype as the networks,
so that a network's distance to the roof is its own.

Source: Williams, Waterman and Patterson 2009, "Roofline"; the triad is that of McCalpin's STREAM.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from benchbench.core.errors import first_line
from benchbench.core.records import Measurement
from benchbench.measure.flops.tracer import DTYPES
from benchbench.measure.latency import Timer, cuda_timer, wall_timer
from benchbench.measure.memory import system_available_bytes

_SECONDS = 3.0  # for everything
_COMPUTE_SHARE = 0.7
_MOST_ARRAY_BYTES, _LEAST_ARRAY_BYTES = 256 << 20, 32 << 20  # of one array; the largest caches hold some 100 MB
_ARRAY_SHARE = 1 / 16  # of the memory that is free


def measure_peak(
    dtype: str = "fp32", *, threads: int | None = None, backend: str = "cpu", gpu: int = 0, seconds: float = _SECONDS
) -> list[Measurement]:
    """Measure this machine for about three seconds.

    Args:
        threads: of the processor; None: as torch has them.

    Returns:
        `peak_macs_per_s` and `memory_bandwidth_bytes_per_s`, of origin `measured`, or null with the reason.
    """
    if backend == "cuda":
        torch.cuda.set_device(gpu)
        torch.backends.cudnn.allow_tf32 = False
    if threads:
        torch.set_num_threads(threads)
    timer = cuda_timer() if backend == "cuda" else wall_timer
    with torch.inference_mode():
        return [
            _compute(dtype, backend, timer, seconds * _COMPUTE_SHARE),
            _bandwidth(dtype, backend, timer, seconds * (1 - _COMPUTE_SHARE)),
        ]


def _shapes(backend: str) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Name -> shapes of two operands: of a matrix product, or input and weight of a 3x3x3 convolution."""
    on_gpu = backend == "cuda"
    products = (2048, 4096, 8192) if on_gpu else (512, 1024, 2048)
    convolutions = ((128, 48), (256, 32)) if on_gpu else ((32, 32), (64, 24), (128, 16))
    return {f"matrix product of {n}^3": ((n, n), (n, n)) for n in products} | {
        f"3x3x3 convolution, {c} channels, {s}^3": ((1, c, s, s, s), (c, c, 3, 3, 3)) for c, s in convolutions
    }


def _compute(dtype: str, backend: str, timer: Timer, seconds: float) -> Measurement:
    shapes = _shapes(backend)
    best, of, why = 0.0, "", ""
    tried = 0
    for name, (first, second) in sorted(shapes.items(), key=lambda item: _macs(*item[1])):
        macs = _macs(first, second)
        if best and macs / best > seconds / len(shapes):  # a dtype that is emulated: one call would take too long
            continue
        tried += 1
        try:
            a, b = (torch.randn(*shape, device=backend).to(DTYPES[dtype]) for shape in (first, second))
            took = _shortest(lambda a=a, b=b: _multiply(a, b), timer, seconds / len(shapes))  # type: ignore[misc]
        except (RuntimeError, NotImplementedError) as error:  # no kernel for this dtype
            why = first_line(error)
            continue
        if macs / took > best:
            best, of = macs / took, name
    method = f"the best of {tried} matrix products and convolutions in {dtype}, {_by(backend)}: {of}"
    if not best:
        return Measurement.of("peak_macs_per_s", None, "none", reason=f"no kernel ran: {why}")
    return Measurement.of("peak_macs_per_s", best, method)


def _macs(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    if len(first) == 2:
        return first[0] * first[1] * second[1]
    return math.prod(first) * math.prod(second) // first[1]


def _multiply(a: Tensor, b: Tensor) -> Tensor:
    return a @ b if a.ndim == 2 else functional.conv3d(a, b, padding=1)


def _bandwidth(dtype: str, backend: str, timer: Timer, seconds: float) -> Measurement:
    free = torch.cuda.mem_get_info()[0] if backend == "cuda" else system_available_bytes()
    size = min(_MOST_ARRAY_BYTES, max(_LEAST_ARRAY_BYTES, int((free or 0) * _ARRAY_SHARE)))
    count = size // DTYPES[dtype].itemsize
    a, b, c = (torch.ones(count, dtype=DTYPES[dtype], device=backend) for _ in range(3))
    took = _shortest(lambda: torch.add(b, c, alpha=3, out=a), timer, seconds)
    method = (
        f"triad a = b + 3c on arrays of {size >> 20} MiB in {dtype}, {_by(backend)}: 2 reads and 1 write each, "
        "the best of its repeats"
    )
    return Measurement.of("memory_bandwidth_bytes_per_s", 3 * count * DTYPES[dtype].itemsize / took, method)


def _shortest(call: Callable[[], object], timer: Timer, seconds: float) -> float:
    """The shortest time of a call, of as many as fit after a first one; at least two, unless one takes too long."""
    first = timer(call)
    left = seconds - first
    if left < 0:
        return first
    times: list[float] = []
    while len(times) < 2 or left > 0:
        times.append(timer(call))
        left -= max(times[-1], 1e-6)
    return min(times)


def _by(backend: str) -> str:
    return "on the GPU" if backend == "cuda" else f"{torch.get_num_threads()} threads"
