"""Worker process in which a network runs: one request in, JSON events out, then it ends.

A network that crashes, hangs or eats the memory takes only this process with it, and a fresh process
is what makes a peak of memory mean something. Each measurement is sent the moment it is there, so a
child that dies later loses nothing that it had found. Whatever a network prints goes to stderr.

The child ends by itself when its parent is gone: the parent holds the other end of stdin.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbench.core import records as rec
from benchbench.core.errors import BenchError, CardError, ShapeError, UnsupportedError, is_out_of_memory, named_line
from benchbench.core.units import format_value
from benchbench.devices import cpu
from benchbench.runner.job import Job
from benchbench.runtimes.catalogue import get_runtime
from benchbench.zoo import classes

if TYPE_CHECKING:
    from torch import nn

    from benchbench.runner.model_run import ModelRun

Emit = Callable[[dict[str, Any]], None]
Request = Mapping[str, Any]


def main() -> int:
    """Read one request from stdin and answer it on stdout; the last event is `done`, unless something ends us."""
    emit = private_stdout()
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    answer(request, emit)
    emit({"event": "done"})
    return 0


def answer(request: Request, emit: Emit) -> None:
    """Do one task with each job, one after the other.

    Every event of a job has its `index`, and the first is `begin`. A job that raises ends with `refused` {status, kind,
    error, traceback}, and the next one begins.

    Args:
        request: `task`, `jobs`, and what the task needs besides.
        emit: gets the events.
    """
    if request["task"] == "kernels":
        from benchbench.runner import kernel_check

        kernel_check.run([tuple(trial) for trial in request["trials"]], emit)
        return
    for index, job in enumerate(request["jobs"]):
        _do(rec.from_json(Job, job), {**request, "index": index}, functools.partial(_emit_of, index, emit))


def _emit_of(index: int, emit: Emit, event: dict[str, Any]) -> None:
    emit({**event, "index": index})


def _do(job: Job, request: Request, emit: Emit) -> None:
    run: ModelRun | None = None
    emit({"event": "begin"})
    try:
        cpu.set_affinity(job.cores)
        if job.trusted:  # as the parent has decided
            classes.allow_import(job.model.arch, job.folder)
        if request["task"] in ("measure", "confirm"):
            run = run_of(job, emit)
            emit({"event": "end", **(run.run() if request["task"] == "measure" else run.once())})
        else:
            _TASKS[request["task"]](job, request, emit)
    except Exception as error:  # a network may raise anything; it becomes this network's row
        emit({"event": "refused", **refusal(error, run)})


def run_of(job: Job, emit: Emit) -> ModelRun:
    """The run of a network in PyTorch, or of its file without."""
    if get_runtime(job.workload.runtime).in_pytorch:
        from benchbench.runner.model_run import ModelRun

        return ModelRun(job, emit)
    from benchbench.runner.prepared_run import PreparedRun

    return PreparedRun(job, emit)


def refusal(error: Exception, run: ModelRun | None) -> dict[str, Any]:
    """Status, kind, error and traceback of what a task has raised.

    Args:
        error: what it is.
        run: the network that was to be measured; None where a network was counted only.
    """
    trace = traceback.format_exc(limit=-12)
    if isinstance(error, BenchError):
        kind = _kind(error, run)
        status = "unsupported" if kind in ("shape", "unsupported") else "failed"
        return {"status": status, "kind": kind, "error": str(error), "traceback": trace if run else None}
    status, why = _failed_run(error, run) if run else ("failed", named_line(error))
    return {"status": status, "kind": status, "error": why, "traceback": trace}


def _kind(error: BenchError, run: ModelRun | None) -> str:
    if isinstance(error, ShapeError):
        return "shape"
    if isinstance(error, CardError):
        return "usage"
    return "unsupported" if run is None or isinstance(error, UnsupportedError) else "failed"


def _failed_run(error: Exception, run: ModelRun) -> tuple[str, str]:
    """The status and the line of a network that has raised something while it ran."""
    from benchbench.measure import memory_limit
    from benchbench.measure.flops.first_layer import channels_refused

    if isinstance(error, memory_limit.LimitError):
        return "oom", str(error)
    if is_out_of_memory(error, limited=run.work.memory_limit_bytes is not None):
        return "oom", _what_was_needed(run, error)
    module = getattr(run, "module", None)  # none where its constructor has raised
    refused = channels_refused(module, run.job.input_shape) if module is not None else None
    return ("unsupported", str(refused)) if refused else ("failed", named_line(error))


def private_stdout() -> Emit:
    """What writes events to the parent; whatever else goes to stdout from now on is on stderr."""
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


def _sides(job: Job, request: Request, emit: Emit) -> None:
    """The patch that a network takes for a data set's: event `sides` {spatial}."""
    from benchbench.zoo import build as zoo_build

    emit({"event": "sides", "spatial": list(zoo_build.fitting_sides(job.model, job.workload.spatial))})


def _count(job: Job, request: Request, emit: Emit) -> None:
    """Count a network without computing a forward: event `cost` {measurements, layers, operators}."""
    from benchbench.measure.flops import graph as costing
    from benchbench.measure.flops.meta_device import build_without_memory
    from benchbench.zoo import build as zoo_build

    def make() -> nn.Module:
        return zoo_build.build(job.model, job.workload.spatial)

    module, _ = build_without_memory(make)
    try:
        module = costing.materialised(module, job.input_shape, make)
        cost = costing.measure_cost(module, job.input_shape, job.workload.dtype, make=make)
    except UnsupportedError as error:
        uncounted = costing.uncounted(module, str(error))
        emit({"event": "cost", "measurements": rec.to_json(uncounted), "layers": [], "operators": []})
        return
    training = [_training_memory(module, job)] if job.workload.phase == "train" else []
    emit(
        {
            "event": "cost",
            "measurements": rec.to_json([*cost.measurements(), *training]),
            "layers": [dataclasses.asdict(layer) for layer in costing.layers(cost, module)],
            "operators": [rec.to_json(o) for o in cost.operators],
        }
    )


def _training_memory(module: nn.Module, job: Job) -> rec.Measurement:
    from benchbench.measure.training_step import forecast_step

    try:
        return forecast_step(module, job.input_shape, job.workload.dtype).measurement()
    except UnsupportedError as error:
        return rec.Measurement.missing("train_tensor_memory_bytes", str(error))
    except Exception as error:  # what a step raises without values, it need not raise with them
        return rec.Measurement.missing("train_tensor_memory_bytes", f"it cannot be forecast: {named_line(error)}")


def _audit(job: Job, request: Request, emit: Emit) -> None:
    """Count a network by every counter: event `audit` {result}."""
    from benchbench.measure.flops import audit as auditing
    from benchbench.measure.flops.meta_device import build_without_memory
    from benchbench.zoo import build as zoo_build

    def make() -> nn.Module:
        return zoo_build.build(job.model, job.workload.spatial)

    full, published = request["full"], request["published"][request["index"]]
    module, weightless = (make(), False) if full else build_without_memory(make)
    result = auditing.audit(module, job.input_shape, name=job.model.name, published=published, full=full, make=make)
    emit({"event": "audit", "result": result.to_json() | {"weightless": weightless or full}})


def _fit(job: Job, request: Request, emit: Emit) -> None:
    """Find the largest patch, and the largest batch at the asked patch, whose forecasts stay within a limit.

    With `bare` the limit is of tensors alone, on another device, and only the patch is asked.

    Events: `fit` {what, sizes, needs_bytes, all, framework_bytes} for `patch` and `batch`.
    """
    from benchbench.measure import largest_fit as fitting
    from benchbench.measure import memory, memory_limit
    from benchbench.measure.flops.meta_device import build_without_memory
    from benchbench.zoo import build as zoo_build

    bare = request.get("bare", False)
    zoo_build.find_class(job.model.arch)
    framework = memory.resident_bytes() + memory_limit.CODE_BYTES if job.backend == "cpu" and not bare else 0
    room = request["limit_bytes"] - framework

    def make(spatial: tuple[int, ...]) -> nn.Module:
        return build_without_memory(lambda: zoo_build.build(job.model, spatial))[0]

    channels, rest = job.model.in_channels, (job.workload.dtype, room, job.workload.phase)
    for what in ("patch",) if bare else ("patch", "batch"):
        if what == "patch":
            largest = fitting.largest_patch(make, channels, job.workload.batch, job.workload.spatial, *rest)
        else:
            largest = fitting.largest_batch(make, channels, job.workload.spatial, *rest)
        emit(
            {
                "event": "fit",
                "what": what,
                "sizes": rec.to_json(largest.sizes),
                "needs_bytes": largest.needs_bytes,
                "all": largest.is_all_asked,
                "framework_bytes": framework,
            }
        )


def _prepare(job: Job, request: Request, emit: Emit) -> None:
    """Prepare a network for its runtime, in the folder `folder`."""
    from benchbench.runner.prepare import prepare_here

    prepare_here(job, Path(request["folder"]), Path(request["onnx"]) if request["onnx"] else None)


def _volume(job: Job, request: Request, emit: Emit) -> None:
    """Make the case of a cropped volume, in the folder `folder`."""
    from benchbench.runner.volume_input import make_case_here

    make_case_here(job, Path(request["folder"]))


def _evaluate(job: Job, request: Request, emit: Emit) -> None:
    """Judge cases of a data set, segmented by networks or read from label maps."""
    from benchbench.runner.evaluation.cases import evaluate_cases

    evaluate_cases(job, request, emit)


def _peak(job: Job, request: Request, emit: Emit) -> None:
    """What this machine reaches at the job's threads and dtype, whatever its network: two `measurement`s."""
    from benchbench.measure.machine_peak import measure_peak

    work = job.workload
    for m in measure_peak(work.dtype, threads=work.threads, backend=job.backend, gpu=job.gpu):
        emit({"event": "measurement", "measurement": rec.to_json(m)})


_TASKS: Mapping[str, Callable[[Job, Request, Emit], None]] = {
    "sides": _sides,
    "count": _count,
    "audit": _audit,
    "fit": _fit,
    "peak": _peak,
    "prepare": _prepare,
    "volume": _volume,
    "evaluate": _evaluate,
}


def _what_was_needed(run: ModelRun, error: BaseException) -> str:
    """One line on a network that did not fit: what it needs at least, what there was, and where it ended."""
    from benchbench.measure.flops.meta_device import build_without_memory
    from benchbench.measure.largest_fit import needed_bytes
    from benchbench.zoo import build as zoo_build

    job = run.job
    if run.limit:
        run.limit.lift()
    limit = job.workload.memory_limit_bytes
    end = f"limit {format_value(limit, 'B')}" if limit else named_line(error)
    where = f"out of memory in {run.stage}"
    try:
        module, _ = build_without_memory(lambda: zoo_build.build(job.model, job.workload.spatial))
        needed = needed_bytes(module, job.input_shape, job.workload.dtype, job.workload.phase)
    except Exception:  # whatever keeps it from being counted is said elsewhere
        return f"{where}: {end}"
    what = "weights, gradients, AdamW's moments, input" if job.workload.phase == "train" else "weights, input"
    framework = run.limit.framework_bytes if run.limit else run.base_bytes
    beside = f" beside the framework's {format_value(framework, 'B')}" if framework else ""
    return f"{where}: needs at least {format_value(needed, 'B')} for {what} and activations{beside}; {end}"


if __name__ == "__main__":
    sys.exit(main())
