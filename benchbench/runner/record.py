"""Record of one cell: its status, its measurements and the files beside it.

A row's status is decided here alone: by a refusal before anything runs, or by how its processes ended.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchbench import data
from benchbench.core import qualification
from benchbench.core import records as rec
from benchbench.core.errors import BenchError, CheckpointError, command, training_flags
from benchbench.core.units import counted, format_shape, format_value
from benchbench.devices import cpu, cuda
from benchbench.devices import forecast as devices_forecast
from benchbench.measure.volume import windows_of
from benchbench.runner import reference as runner_reference
from benchbench.runner.child_process import WorkerFailure
from benchbench.runner.estimate import CellCost
from benchbench.runner.job import Cell
from benchbench.runner.recorder import Recorder
from benchbench.runner.schedule import CellProgress
from benchbench.runtimes import calibration, catalogue
from benchbench.zoo import checkpoint

#: What PyTorch and MONAI take before there is a network: 320 MB resident, PyTorch 2.13 CPU on x86-64.
FRAMEWORK_BYTES = 320_000_000
#: What it takes at least; only what exceeds this as well is refused without a try where a limit is enforced.
LEAST_FRAMEWORK_BYTES = 200_000_000

Ending = tuple[rec.Status, str | None, str | None]  # status, error, traceback


def make_record(
    progress: CellProgress, cost: CellCost, recorder: Recorder, more: Sequence[rec.Measurement] = ()
) -> rec.Record:
    """The record of one cell, whatever became of it.

    Args:
        progress: of the cell, done; or without a process, where nothing is to be run.
        cost: of the cell, by `count`.
        recorder: takes the files beside the record, and knows the conditions.
        more: measurements that no single process made.
    """
    cell, w = progress.cell, progress.cell.workload
    measurements = list(cost.measurements)
    artifacts = []
    if cost.layers:
        content = json.dumps({"modules": list(cost.layers)}, separators=(",", ":")).encode()
        title = f"Parameters and MACs of each module of {cell.card.title}"
        name = f"{file_name(cell.model.name)}-layers.json"
        artifacts.append(recorder.add_artifact("layers", name, content, title=title))
    artifacts += _training(cell, recorder)
    status, error, trace = ending(progress, cost)
    if cell.target.profile is not None and status == "ok":
        tensors = int(cost.value("tensor_memory_bytes")) or None
        is_complete = not any(m.metric == "macs" and m.bound for m in cost.measurements)
        measurements += devices_forecast.predict(
            cost.operators, cell.target.profile, w, tensors, is_complete=is_complete
        )
        measurements += _patient_forecast(w, measurements)
    measurements += progress.measurements()
    artifacts += [artifact for result in progress.results for artifact in result.artifacts]
    measurements += more
    if not any(m.metric == "dice" for m in measurements):
        measurements += _dice_from_elsewhere(cell, status)
    measurements += cell.card.published_measurements(cell.model.in_channels, cell.model.out_channels, w.spatial)
    return rec.Record(
        model=cell.model,
        workload=w,
        device=cell.target.device,
        environment=recorder.environment(cell),
        status=status,
        error=error,
        traceback=trace,
        started_at=progress.started_at,
        duration_s=round(progress.seconds, 3),
        measurements=tuple(measurements),
        artifacts=tuple(artifacts),
        recipe=cell.card.compression,
        rounds=progress.rounds,
    )


def _patient_forecast(work: rec.Workload, measurements: Sequence[rec.Measurement]) -> list[rec.Measurement]:
    """What a whole patient takes where one forward is forecast: so many forwards as windows cover the volume."""
    if work.volume is None or work.overlap is None:
        return []
    if work.crop_foreground:
        why = "how much of a volume the box of the patient holds is not known without the case"
        return [rec.Measurement.missing("volume_latency_s", why, "predicted")]
    windows = windows_of(work.volume, work.spatial, work.overlap)
    how = f"windows of {format_shape(work.spatial)}, overlap {work.overlap:g}, over {format_shape(work.volume)}"
    found = [rec.Measurement.of("volume_windows", windows, how, "analytic")]
    patch = next((m for m in measurements if m.metric == "latency_s" and m.origin == "predicted"), None)
    if patch is None or patch.value is None or patch.interval is None:
        why = patch.reason if patch and patch.reason else "no forward is forecast"
        return [*found, rec.Measurement.missing("volume_latency_s", why, "predicted")]
    forwards = -(-windows // work.batch)
    low, high = patch.interval
    seconds = rec.Measurement.of(
        "volume_latency_s",
        forwards * float(patch.value),
        f"{patch.method}; {counted(forwards, 'forward')} of {windows} {how}; cutting and stitching are not in it",
        "predicted",
        interval=(forwards * low, forwards * high),
        bound=patch.bound,
        source=patch.source,
    )
    return [*found, seconds]


def _training(cell: Cell, recorder: Recorder) -> list[rec.Artifact]:
    """How a cell's weights were trained, for the report: budget and curves, where their sidecar is at hand."""
    if cell.job.checkpoint_path is None:
        return []
    try:
        training = checkpoint.read_sidecar(Path(cell.job.checkpoint_path)).train
    except CheckpointError:  # older weights that came over a connection have none
        return []
    shown = {key: training[key] for key in ("budget", "steps_done", "curve", "validation") if key in training}
    if not {"budget", "steps_done", "curve"} <= set(shown):
        return []
    content = json.dumps(shown, separators=(",", ":")).encode()
    name, title = f"{file_name(cell.model.name)}-training.json", f"How the weights of {cell.card.title} were trained"
    return [recorder.add_artifact("training", name, content, title=title)]


def ending(progress: CellProgress, cost: CellCost) -> Ending:
    """Status, error and traceback of a cell.

    Args:
        progress: with all its processes; without one, where the cell was refused or is only forecast.
        cost: of the cell.
    """
    if not progress.results:
        return refusal(progress.cell, cost) or ("ok", None, None)
    return ending_of_processes(progress)


def ending_of_processes(progress: CellProgress) -> Ending:
    """How processes that have run end their cell: by the first that failed, else by doubts about the samples."""
    if bad := progress.failed:
        n = len(progress.results)
        nth = f"in process {n} of {progress.protocol.processes}: " if n > 1 else ""
        return bad.status, f"{nth}{bad.error}", bad.traceback
    doubts = [progress.doubt()]
    if progress.protocol.processes == 1 or len(progress.results) == 1:
        doubts = [result.error for result in progress.results]
    else:  # what a single process said of its own spread is settled by the others; the rest still holds
        doubts += [result.error for result in progress.results if result.status == "unstable"]
    why = "; ".join(dict.fromkeys(doubt for doubt in doubts if doubt))
    return ("unstable", why, None) if why else ("ok", None, None)


def ending_of_failure(failure: WorkerFailure, limit_bytes: int | None) -> Ending:
    """How a process that ended by itself counts; under a memory limit a library may not bear a failed allocation."""
    error = failure.error
    if limit_bytes is None or failure.status != "failed":
        return failure.status, error, failure.stderr or None
    return "oom", f"{error}, under its memory limit of {format_value(limit_bytes, 'B')}", failure.stderr


def refusal(cell: Cell, cost: CellCost) -> Ending | None:
    """Why a cell is not even started, if so."""
    if cost.refused:
        kind, error, trace = cost.refused
        if kind == "not_run":
            return ("not_run", error, None)
        return ("unsupported" if kind in ("shape", "unsupported") else "failed", error, trace)
    w = cell.workload
    if why := _impossible(cell):
        return ("unsupported", why, None)
    needed = int(cost.value("train_tensor_memory_bytes" if w.phase == "train" else "tensor_memory_bytes"))
    if cell.target.backend is None or not needed:
        return None
    if cell.target.backend == "cpu":
        needed += FRAMEWORK_BYTES if w.memory_limit_bytes is None else LEAST_FRAMEWORK_BYTES
    limit = memory_limit_bytes(cell)
    if needed <= limit:
        return None
    if w.memory_limit_bytes is not None and limit == w.memory_limit_bytes:
        return (
            "oom",
            f"needs at least {format_value(needed, 'B')} of memory and its limit is {format_value(limit, 'B')}: "
            "not started; take a smaller --spatial or --batch-size, or a larger --memory-limit",
            None,
        )
    return (
        "not_run",
        f"needs at least {format_value(needed, 'B')} of memory and {format_value(limit, 'B')} is free: "
        "close other programs, or take a smaller --spatial or --batch-size",
        None,
    )


def _impossible(cell: Cell) -> str | None:
    """Why a cell's runtime or precision cannot be had on its device, before anything is tried."""
    w, backend = cell.workload, cell.target.backend
    if backend is None:
        plain = w.runtime == "eager" and w.dtype != "int8"
        return None if plain else "forecasts are of eager PyTorch: leave --runtime out, and int8"
    try:
        catalogue.check(w.runtime, w.dtype, backend)
        if w.dtype == "int8":
            calibration.calibration_patches(cell.job.data_where, w.spatial)
    except BenchError as error:
        return str(error)
    return None


def memory_limit_bytes(cell: Cell) -> int:
    """What a cell's process may take at most: what is free, or less where a limit is asked for."""
    on_gpu = cell.target.backend == "cuda"
    free = cuda.memory_bytes(cell.target.index)[0] if on_gpu else cpu.available_memory_bytes()
    limit = cell.workload.memory_limit_bytes
    return free if limit is None else min(limit, free)


def file_name(text: str) -> str:
    """A name of a network as part of a file's name."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in text)


def _dice_from_elsewhere(cell: Cell, status: str) -> list[rec.Measurement]:
    """Dice of a network that was not evaluated here: from reference records, or the reason why there is none."""
    w = cell.workload
    plain = w.runtime == "eager" and w.dtype != "int8"  # of another runtime, the Dice would be of another output
    earlier = runner_reference.find_dice(cell.model, w) if plain else []
    if earlier:
        return earlier
    if cell.card.task != "segmentation":
        why = qualification.NOT_DENSE
    elif w.phase == "train":
        why = "training steps are timed: nothing is evaluated"
    elif w.data is None:
        plan = data.get_plan("phantom")
        channels = f"{cell.model.in_channels} in, {cell.model.out_channels} out"
        needed = f"{plan.in_channels} in, {plan.out_channels} out"
        why = (
            "no data set asked for"
            if channels == needed
            else f"{plan.name} has other channels ({needed}) than this network ({channels})"
        )
    elif cell.job.checkpoint_path and cell.job.data_where is None:
        why = f"not evaluated: {w.data.partition(':')[0]} lies on this machine, and the network runs on another"
    elif cell.job.checkpoint_path:
        why = (
            "not evaluated: nothing runs on a profile" if cell.target.profile else f"not evaluated: the row is {status}"
        )
    else:
        why = f"no checkpoint for {w.data} at {format_shape(w.spatial)}: " + (
            "here every case is a test case, so add --checkpoint with weights that were trained elsewhere"
            if ":all" in w.data
            else f"make one with '{_command_to_train(cell.model.name, w)}', then add --checkpoint with the file that "
            "it names"
        )
    return [rec.Measurement.missing("dice", why, "measured")]


def _command_to_train(name: str, work: rec.Workload) -> str:
    """The command that trains a network for some work."""
    return command("train", name, *training_flags(str(work.data)), "--spatial", *work.spatial)
