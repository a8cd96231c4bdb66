"""Worker process in which a network runs: one request in, JSON events out, then it ends.

A network that crashes, hangs or eats the memory takes only this process with it, and a fresh process
is what makes a peak of memory mean something. Each measurement is sent the moment it is there, so a
child that dies later loses nothing that it had found. Whatever a network prints goes to stderr.

The child ends by itself when its parent is gone: the parent holds the other end of stdin.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchbench.core import records as rec
from benchbench.core.errors import BenchError, CardError, ShapeError, UnsupportedError, is_out_of_memory, named_line
from benchbench.core.units import format_value
from benchbench.devices import cpu
from benchbench.zoo import classes

if TYPE_CHECKING:
    from torch import nn

    from benchbench.runner.model_run import ModelRun

Emit = Callable[[dict[str, Any]], None]


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
    folder: str | None = None  # of a user's card: put at the end of the import path
    trusted: bool = True  # its class is of benchbench, or a person has named it
    phase: str = "infer"  # or `train`: one step of training
    volume: tuple[int, ...] | None = None  # (D, H, W) of a whole patient, by sliding windows
    overlap: float = 0.5  # of them
    crop_foreground: bool = False
    memory_limit_bytes: int | None = None  # of the process
    cores: tuple[int, ...] = ()  # that it may use; empty: as it is started
    first: bool = True  # the first process of its cell, which also evaluates what is the same in each

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(B, C, D, H, W)."""
        return (self.batch, self.model.in_channels, *self.spatial)


def main() -> int:
    """Read one request from stdin and answer it on stdout; the last event is `done`, unless something ends us."""
    emit = _private_stdout()
    answer(json.loads(sys.stdin.readline()), emit)
    emit({"event": "done"})
    return 0


def answer(request: dict[str, Any], emit: Emit) -> None:
    """Do what is asked.

    Args:
        request: `task` and what it needs.
        emit: gets the events.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if request["task"] == "kernels":
        from benchbench.runner import kernel_trials

        kernel_trials.run([tuple(trial) for trial in request["trials"]], emit)
        return
    jobs = [rec.from_json(Job, job) for job in request["jobs"]]
    if request["task"] == "plan":
        plan(jobs, emit)
    elif request["task"] == "audit":
        audit(jobs, request["published"], emit, full=request["full"])
    elif request["task"] == "fit":
        fit(jobs[0], request["limit_bytes"], emit, bare=request.get("bare", False))
    elif request["task"] == "sides":
        sides(jobs, emit)
    elif request["task"] == "roof":
        roof(jobs[0], emit)
    else:
        measure(jobs[0], emit, once=request["task"] == "confirm")


def _vouch(job: Job) -> None:
    """Let the job's class be imported, as the parent has decided."""
    if job.trusted:
        classes.vouch(job.model.arch, job.folder)


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


def sides(jobs: list[Job], emit: Emit) -> None:
    """The patch that each network takes for a data set's; a network that takes none near it is left out."""
    from benchbench.zoo import build as zoo_build

    for index, job in enumerate(jobs):
        emit({"event": "begin", "index": index})
        _vouch(job)
        with contextlib.suppress(Exception, SystemExit):  # of a user's own constructor, too: its row will tell
            emit({"event": "sides", "index": index, "spatial": list(zoo_build.fitting_sides(job.model, job.spatial))})


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
            line = named_line(error)
            emit({"event": "refused", "index": index, "kind": "failed", "error": line, "traceback": _trace()})


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
            line = named_line(error)
            emit({"event": "refused", "index": index, "kind": "failed", "error": line, "traceback": _trace()})


def _audit(job: Job, published: dict[str, float], full: bool) -> dict[str, Any]:
    from benchbench.measure.flops import audit as auditing
    from benchbench.measure.flops.meta_device import build_without_memory
    from benchbench.zoo import build as zoo_build

    _vouch(job)

    def make() -> nn.Module:
        return zoo_build.build(job.model, job.spatial)

    module, weightless = (make(), False) if full else build_without_memory(make)
    found = auditing.audit(module, job.input_shape, name=job.model.name, published=published, full=full, make=make)
    return found.to_json() | {"weightless": weightless or full}


def _kind(error: BenchError) -> str:
    if isinstance(error, ShapeError):
        return "shape"
    return "usage" if isinstance(error, CardError) else "unsupported"


def _cost(job: Job) -> dict[str, Any]:
    from benchbench.measure.flops import graph as costing
    from benchbench.measure.flops.meta_device import build_without_memory
    from benchbench.zoo import build as zoo_build

    _vouch(job)

    def make() -> nn.Module:
        return zoo_build.build(job.model, job.spatial)

    module, _ = build_without_memory(make)
    try:
        module = costing.materialised(module, job.input_shape, make)
        cost = costing.measure_cost(module, job.input_shape, job.dtype, make=make)
    except UnsupportedError as error:
        found = costing.uncounted(module, str(error))
        return {"measurements": rec.to_json(found), "layers": [], "operators": []}
    training = [_training_memory(module, job)] if job.phase == "train" else []
    return {
        "measurements": rec.to_json([*cost.measurements(), *training]),
        "layers": [dataclasses.asdict(layer) for layer in costing.layers(cost, module)],
        "operators": [rec.to_json(o) for o in cost.operators],
    }


def _training_memory(module: nn.Module, job: Job) -> rec.Measurement:
    from benchbench.measure.training_step import forecast_step

    try:
        return forecast_step(module, job.input_shape, job.dtype).measurement()
    except UnsupportedError as error:
        return _without("train_tensor_memory_bytes", "B", str(error))
    except Exception as error:  # what a step raises without values, it need not raise with them
        return _without("train_tensor_memory_bytes", "B", f"it cannot be forecast: {named_line(error)}")


def _without(metric: str, unit: str, why: str) -> rec.Measurement:
    return rec.Measurement(metric=metric, unit=unit, value=None, origin="analytic", method="none", reason=why)


def fit(job: Job, limit_bytes: int, emit: Emit, *, bare: bool = False) -> None:
    """Find the largest patch, and the largest batch at the asked patch, whose forecasts stay within a limit.

    `bare`: the limit is of tensors alone, on another device, and only the patch is asked.

    Events: `fit` {what, sizes, needs_bytes, all, framework_bytes} for `patch` and `batch`, or `refused` {kind, error}.
    """
    from benchbench.measure import largest_fit as fitting
    from benchbench.measure import memory, memory_limit
    from benchbench.measure.flops.meta_device import build_without_memory
    from benchbench.zoo import build as zoo_build

    _vouch(job)
    zoo_build.find_class(job.model.arch)
    framework = memory.resident_bytes() + memory_limit.CODE_BYTES if job.backend == "cpu" and not bare else 0
    room = limit_bytes - framework

    def make(spatial: tuple[int, ...]) -> nn.Module:
        return build_without_memory(lambda: zoo_build.build(job.model, spatial))[0]

    channels, rest = job.model.in_channels, (job.dtype, room, job.phase)
    try:
        for what in ("patch",) if bare else ("patch", "batch"):
            if what == "patch":
                found = fitting.largest_patch(make, channels, job.batch, job.spatial, *rest)
            else:
                found = fitting.largest_batch(make, channels, job.spatial, *rest)
            emit(
                {
                    "event": "fit",
                    "what": what,
                    "sizes": rec.to_json(found.sizes),
                    "needs_bytes": found.needs_bytes,
                    "all": found.is_all_asked,
                    "framework_bytes": framework,
                }
            )
    except BenchError as error:
        emit({"event": "refused", "kind": _kind(error), "error": str(error)})
    except Exception as error:  # a network may raise anything
        emit({"event": "refused", "kind": "failed", "error": named_line(error), "traceback": _trace()})


def roof(job: Job, emit: Emit) -> None:
    """Measure what this machine reaches at the job's threads and dtype, whatever its network.

    Events: two `measurement`s, then `end` {status, error}.
    """
    cpu.set_affinity(job.cores)
    from benchbench.measure.machine_peak import measure_roof

    try:
        for m in measure_roof(job.dtype, threads=job.threads, backend=job.backend, gpu=job.gpu):
            emit({"event": "measurement", "measurement": rec.to_json(m)})
        emit({"event": "end", "status": "ok", "error": None})
    except Exception as error:  # a broken library may raise anything
        emit({"event": "end", "status": "failed", "error": named_line(error), "traceback": _trace()})


def measure(job: Job, emit: Emit, *, once: bool = False) -> None:
    """Run one network: time and memory of a forward or a training step, a whole volume, and Dice.

    Events: `ready`, `tick` {phase, count}, `measurement`, `forwards` {seconds}, `picture`, and as the last one
    `end` {status, error, traceback}.

    Args:
        job: what to do.
        emit: gets the events.
        once: only see whether it runs: one forward, or two training steps, without any measurement.
    """
    from benchbench.measure import memory_limit
    from benchbench.runner.model_run import ModelRun

    cpu.set_affinity(job.cores)
    _vouch(job)
    visit = ModelRun(job, emit)
    try:
        emit({"event": "end"} | _measure(visit, once))
    except BenchError as error:
        status = "unsupported" if isinstance(error, (UnsupportedError, ShapeError)) else "failed"
        emit({"event": "end", "status": status, "error": str(error), "traceback": _trace()})
    except memory_limit.LimitError as error:
        emit({"event": "end", "status": "oom", "error": str(error), "traceback": _trace()})
    except Exception as error:  # a network may raise anything; it becomes this network's row
        trace = _trace()
        if is_out_of_memory(error, limited=job.memory_limit_bytes is not None):
            emit({"event": "end", "status": "oom", "error": _what_was_needed(visit, error), "traceback": trace})
        else:
            status, why = _failed(visit, error)
            emit({"event": "end", "status": status, "error": why, "traceback": trace})


def _failed(visit: ModelRun, error: Exception) -> tuple[str, str]:
    """The status and the line of a network that has raised something."""
    from benchbench.measure.flops.first_layer import channels_refused

    module = getattr(visit, "module", None)  # none where its constructor has raised
    refused = channels_refused(module, visit.job.input_shape) if module is not None else None
    return ("unsupported", str(refused)) if refused else ("failed", named_line(error))


def _measure(visit: ModelRun, once: bool) -> dict[str, Any]:
    return visit.once() if once else visit.run()


def _what_was_needed(visit: ModelRun, error: BaseException) -> str:
    """One line on a network that did not fit: what it needs at least, what there was, and where it ended."""
    from benchbench.measure.flops.meta_device import build_without_memory
    from benchbench.measure.largest_fit import needed_bytes
    from benchbench.zoo import build as zoo_build

    job = visit.job
    if visit.limit:
        visit.limit.lift()
    end = f"limit {format_value(job.memory_limit_bytes, 'B')}" if job.memory_limit_bytes else named_line(error)
    where = f"out of memory in {visit.stage}"
    try:
        module, _ = build_without_memory(lambda: zoo_build.build(job.model, job.spatial))
        needed = needed_bytes(module, job.input_shape, job.dtype, job.phase)
    except Exception:  # whatever keeps it from being counted is said elsewhere
        return f"{where}: {end}"
    what = "weights, gradients, AdamW's moments, input" if job.phase == "train" else "weights, input"
    own = visit.limit.framework_bytes if visit.limit else visit.base_bytes
    beside = f" beside the framework's {format_value(own, 'B')}" if own else ""
    return f"{where}: needs at least {format_value(needed, 'B')} for {what} and activations{beside}; {end}"


def _trace() -> str:
    return traceback.format_exc(limit=-12)


if __name__ == "__main__":
    sys.exit(main())
