"""The child process in which a network runs: one request in, JSON events out, then it ends.

A network that crashes, hangs or eats the memory takes only this process with it, and a fresh process
is what makes a peak of memory mean something. Each measurement is sent the moment it is there, so a
child that dies later loses nothing that it had found. Whatever a network prints goes to stderr.

The child ends by itself when its parent is gone: the parent holds the other end of stdin.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbench import records as rec
from benchbench.errors import BenchError, CardError, ShapeError, UnsupportedError

if TYPE_CHECKING:
    from torch import nn

Emit = Callable[[dict[str, Any]], None]

OUTPUT_TOLERANCE = 0.05  # relative L2 distance to the fp32 output up to which a reduced dtype counts
_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "Cannot allocate memory",
    "NVML_SUCCESS == r INTERNAL ASSERT FAILED",  # a Jetson: the allocator fails while it asks NVML what is free
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the child is to do with one network; plain JSON on the wire."""

    model: rec.ModelSpec
    spatial: tuple[int, ...]
    batch: int
    dtype: str
    threads: int | None = None
    backend: str = "cpu"
    gpu: int = 0
    protocol: str = "quick"
    checkpoint_path: str | None = None
    data: str | None = None  # evaluate Dice on it; only with a checkpoint
    split: str | None = None
    folder: str | None = None  # of a user's card: put on the import path

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(B, C, D, H, W)."""
        return (self.batch, self.model.in_channels, *self.spatial)


def main() -> int:
    """Read one request from stdin and answer it on stdout."""
    emit = _private_stdout()
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if request["task"] == "kernels":
        from benchbench import kernel_trials

        kernel_trials.run([tuple(trial) for trial in request["trials"]], emit)
        return 0
    jobs = [rec.from_json(Job, job) for job in request["jobs"]]
    sys.path[:0] = ["", *dict.fromkeys(job.folder for job in jobs if job.folder)]
    if request["task"] == "plan":
        plan(jobs, emit)
    elif request["task"] == "audit":
        audit(jobs, request["published"], emit, full=request["full"])
    else:
        measure(jobs[0], emit)
    return 0


def _private_stdout() -> Emit:
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lock = threading.Lock()

    def emit(event: dict[str, Any]) -> None:
        with lock:
            channel.write(json.dumps(event) + "\n")
            channel.flush()

    return emit


def _end_with_parent() -> None:
    while sys.stdin.read(1):
        pass
    os._exit(1)


def plan(jobs: list[Job], emit: Emit) -> None:
    """Count every network, one after the other, without computing a forward.

    Events: `begin` {index}, then `cost` {index, measurements, layers, operators} or `refused`
    {index, kind, error}.
    """
    for index, job in enumerate(jobs):
        emit({"event": "begin", "index": index})
        try:
            emit({"event": "cost", "index": index} | _cost(job))
        except BenchError as error:
            emit({"event": "refused", "index": index, "kind": _kind(error), "error": str(error)})
        except Exception as error:  # a network may raise anything; it becomes this network's row
            emit({"event": "refused", "index": index, "kind": "failed", "error": _line(error), "traceback": _trace()})


def audit(jobs: list[Job], published: list[dict[str, float]], emit: Emit, *, full: bool) -> None:
    """Count every network by every counter, one network after the other.

    Events: `begin` {index}, then `audit` {index, result} or `refused` {index, kind, error}.
    """
    for index, (job, figures) in enumerate(zip(jobs, published, strict=True)):
        emit({"event": "begin", "index": index})
        try:
            emit({"event": "audit", "index": index, "result": _audit(job, figures, full)})
        except BenchError as error:
            emit({"event": "refused", "index": index, "kind": _kind(error), "error": str(error)})
        except Exception as error:  # a network may raise anything; it becomes this network's row
            emit({"event": "refused", "index": index, "kind": "failed", "error": _line(error), "traceback": _trace()})


def _audit(job: Job, published: dict[str, float], full: bool) -> dict[str, Any]:
    from benchbench import zoo
    from benchbench.measure import audit as auditing
    from benchbench.measure.weightless import build_without_memory

    def make() -> nn.Module:
        return zoo.build(job.model, job.spatial)

    module, weightless = (make(), False) if full else build_without_memory(make)
    found = auditing.audit(module, job.input_shape, name=job.model.name, published=published, full=full)
    return found.to_json() | {"weightless": weightless or full}


def _kind(error: BenchError) -> str:
    if isinstance(error, ShapeError):
        return "shape"
    return "usage" if isinstance(error, CardError) else "unsupported"


def _cost(job: Job) -> dict[str, Any]:
    from benchbench import zoo
    from benchbench.measure import cost as costing
    from benchbench.measure.weightless import build_without_memory

    module, _ = build_without_memory(lambda: zoo.build(job.model, job.spatial))
    try:
        cost = costing.measure_cost(module, job.input_shape, job.dtype)
    except UnsupportedError as error:
        params = sum(p.numel() for p in module.parameters())
        return {"measurements": rec.to_json(_uncounted(params, str(error))), "layers": [], "operators": []}
    return {
        "measurements": rec.to_json(cost.measurements()),
        "layers": [dataclasses.asdict(layer) for layer in costing.layers(cost, module)],
        "operators": [rec.to_json(o) for o in cost.operators],
    }


def _uncounted(params: int, why: str) -> list[rec.Measurement]:
    def without(metric: str, unit: str) -> rec.Measurement:
        return rec.Measurement(metric=metric, unit=unit, value=None, origin="analytic", method="none", reason=why)

    counted = rec.Measurement(
        metric="params", unit="parameters", value=params, origin="analytic", method="every nn.Parameter once"
    )
    return [counted, without("macs", "MAC"), without("flops", "FLOP"), without("tensor_memory_bytes", "B")]


def measure(job: Job, emit: Emit) -> None:
    """Run one network: latency, throughput, memory, and Dice if it has a checkpoint.

    Events: `ready`, `tick` {phase, count}, `measurement`, `forwards` {seconds}, `picture`, and as the last one
    `end` {status, error, traceback}.
    """
    try:
        emit({"event": "end"} | _measure(job, emit))
    except BenchError as error:
        status = "unsupported" if isinstance(error, (UnsupportedError, ShapeError)) else "failed"
        emit({"event": "end", "status": status, "error": str(error), "traceback": _trace()})
    except Exception as error:  # a network may raise anything; it becomes this network's row
        status = "oom" if isinstance(error, MemoryError) or any(t in str(error) for t in _NO_MEMORY) else "failed"
        emit({"event": "end", "status": status, "error": _line(error), "traceback": _trace()})


def _measure(job: Job, emit: Emit) -> dict[str, Any]:
    import torch

    from benchbench import zoo
    from benchbench.devices import tegra
    from benchbench.measure import latency, memory
    from benchbench.measure.watch import Watch

    shared = job.backend == "cuda" and tegra.detect() is not None  # CPU and GPU have one memory
    available = memory.system_available_bytes() if shared else None
    device = f"cuda:{job.gpu}" if job.backend == "cuda" else "cpu"
    if job.backend == "cuda":
        torch.cuda.set_device(job.gpu)
        torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32; PyTorch's default for convolutions is TF32
    if job.threads:
        torch.set_num_threads(job.threads)
    latency_protocol = latency.get_protocol(job.protocol)
    torch.manual_seed(0)
    base = memory.resident_bytes()
    module = zoo.build(job.model, job.spatial)
    if job.checkpoint_path:
        from benchbench import checkpoint

        checkpoint.load_weights(module, Path(job.checkpoint_path))
    module = module.eval().to(device)
    x = torch.randn(*job.input_shape, generator=torch.Generator().manual_seed(0)).to(device)
    forward = latency.forward_function(module, x, backend=job.backend, dtype=job.dtype)
    emit({"event": "ready"})

    watch = Watch(job.backend, job.gpu)

    def tick(phase: str, count: int) -> None:
        if phase == "timed":
            watch.between()
        emit({"event": "tick", "phase": phase, "count": count})

    try:
        peak = memory.PeakMemory(job.backend, available_before=available)
        found = latency.time_forwards(forward, latency_protocol, batch=job.batch, after_warmup=watch.begin, tick=tick)
        watch.end()
    finally:
        watch.close()
    emit({"event": "forwards", "seconds": found.forward_s})
    base_of_cpu = base if job.backend == "cpu" else None
    watched = watch.measurements(len(found.samples_s))
    for m in [*found.measurements(), *peak.measurements(base_of_cpu), *watched]:
        _send(m, emit)
    end: dict[str, Any] = {"status": "ok", "error": None}
    if doubts := [why for why in (found.unstable, watch.unstable) if why]:
        end = {"status": "unstable", "error": "; ".join(doubts)}
    if job.dtype != "fp32":
        error = _output_error(module, x, forward(), job, emit)
        if not error <= OUTPUT_TOLERANCE:  # also when it is NaN
            why = f"its output in {job.dtype} is off the fp32 output by {error:.1%} (limit {OUTPUT_TOLERANCE:.0%})"
            end = {"status": "failed", "error": f"{why}: these latencies do not count; use --dtype fp32"}
    if job.data and job.checkpoint_path:
        _dice(module, job, device, emit)
    return end


def _output_error(module: nn.Module, x: Any, out: Any, job: Job, emit: Emit) -> float:
    """Relative L2 distance of a reduced dtype's output to the fp32 one; sent as a measurement."""
    from torch.utils._pytree import tree_leaves

    from benchbench.measure.latency import forward_function

    reduced = tree_leaves(out)[0].float()
    exact = tree_leaves(forward_function(module, x, backend=job.backend)())[0].float()
    error = float((reduced - exact).norm() / exact.norm())
    finite = error == error and error != float("inf")
    _send(
        rec.Measurement(
            metric="output_rel_error",
            unit="1",
            value=error if finite else None,
            origin="measured",
            method="L2 distance to the fp32 eager output over its norm, same random input",
            reason=None if finite else "the output is not finite",
        ),
        emit,
    )
    return error


def _dice(module: nn.Module, job: Job, device: str, emit: Emit) -> None:
    from benchbench.measure.accuracy import measure_dice

    start = time.perf_counter()
    result = measure_dice(
        module,
        data=job.data or "",
        split=job.split or "test",
        spatial=job.spatial,
        dtype=job.dtype,
        device=device,
        progress=lambda done, total: emit({"event": "tick", "phase": f"Dice, case {done} of {total}", "count": done}),
    )
    for m in result.measurements:
        _send(m, emit)
    for picture in result.pictures:
        content = base64.b64encode(picture.png).decode()
        emit({"event": "picture", "name": picture.name, "title": picture.title, "content": content})
    emit({"event": "accuracy", "seconds": time.perf_counter() - start})


def _send(measurement: rec.Measurement, emit: Emit) -> None:
    emit({"event": "measurement", "measurement": rec.to_json(measurement)})


def _line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def _trace() -> str:
    return traceback.format_exc(limit=-12)


if __name__ == "__main__":
    sys.exit(main())
