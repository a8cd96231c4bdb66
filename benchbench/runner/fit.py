"""Largest patch and batch within a memory limit: forecast in one child, confirmed in others.

The forecast is a lower bound, so the size that it allows is tried for real: one forward, or training step, in a child
under the limit. Where that fails the next smaller one is tried, three times at most. An answer without confirmation
still excludes what is larger, by the forecast, so it is told as "at most".
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from benchbench.core import records as rec
from benchbench.core.units import format_shape, format_value
from benchbench.runner.child_process import WorkerFailure, run_worker
from benchbench.runner.estimate import count_path, keep_count, read_count
from benchbench.runner.job import Job

Size = tuple[int, ...] | int
METRICS = {"patch": "largest_patch_voxels", "batch": "largest_batch"}


def find_fit(job: Job, limit_bytes: int, time_limit_s: float) -> list[rec.Measurement]:
    """Find what fits; starts a child for the forecast and up to three for each confirmation.

    Args:
        job: that does not fit; its patch is the largest that is tried.
        limit_bytes: of the process, or of the GPU's allocator.
        time_limit_s: for each child.

    Returns:
        `largest_patch_voxels` at the job's batch, and `largest_batch` at its patch: measured where a run has
        confirmed them, analytic and "at most" where none did, and null with the reason where nothing fits.
    """
    request = {"task": "fit", "jobs": [rec.to_json(job)], "limit_bytes": limit_bytes}
    offers, why = _offers(request, time_limit_s, job.workload.threads)
    measurements = {offer["what"]: _confirmed(job, offer, limit_bytes, time_limit_s) for offer in offers}
    return [measurements.get(what) or rec.Measurement.missing(metric, why) for what, metric in METRICS.items()]


def forecast_fit(job: Job, limit_bytes: int, where: str, time_limit_s: float) -> list[rec.Measurement]:
    """The largest patch that fits a device that is not at hand: by the forecast alone, so at most that.

    Args:
        job: that does not fit; its patch is the largest that is tried.
        limit_bytes: for tensors.
        where: `8.59 GB less 1.61 GB reserve of rtx-4090`.
        time_limit_s: for the child.

    Returns:
        `largest_patch_voxels`, predicted, or null with the reason.
    """
    request = {"task": "fit", "jobs": [rec.to_json(job)], "limit_bytes": limit_bytes, "bare": True}
    path = count_path(rec.to_json(job), f"patch in {limit_bytes} B")
    offer, why = read_count(path), "every patch is refused by the network"
    if offer is None:
        offers, none = _offers(request, time_limit_s)
        if offers:
            (offer,) = offers
            keep_count(path, offer)
        else:
            why = none
    if offer is None or not offer["sizes"]:
        if offer and offer["needs_bytes"]:
            why = f"the smallest patch needs at least {format_value(offer['needs_bytes'], 'B')}; limit {where}"
        return [rec.Measurement.missing(METRICS["patch"], why, "predicted")]
    size = tuple(offer["sizes"][0])
    method = f"the forecast of tensors allows {_text(size)} in {where}, and excludes the next larger one"
    method += "; scratch memory of kernels is not in it; sides in steps of 16 voxels"
    return [_measurement("patch", size, origin="predicted", method=method, bound="at_most")]


def _offers(
    request: dict[str, Any], time_limit_s: float, threads: int | None = None
) -> tuple[list[dict[str, Any]], str]:
    """What the forecast allows, by a child; and why there is no more of it."""
    offers, why = [], "the search ended without a word"
    for event in run_worker(request, limit_s=time_limit_s, threads=threads):
        if isinstance(event, WorkerFailure):
            why = f"while it was searched, {event.error}"
        elif event["event"] == "fit":
            offers.append(event)
        elif event["event"] == "refused":
            why = event["error"]
    return offers, why


def _confirmed(job: Job, offer: dict[str, Any], limit_bytes: int, time_limit_s: float) -> rec.Measurement:
    what, limit = offer["what"], format_value(limit_bytes, "B")
    sizes: list[Size] = [tuple(size) if what == "patch" else size for size in offer["sizes"]]
    if not sizes:
        least = offer["needs_bytes"]
        framework = offer["framework_bytes"]
        needs = f"needs at least {format_value(least, 'B')}" if least else "needs more"
        beside = f" beside the framework's {format_value(framework, 'B')}" if framework else ""
        smallest = "the smallest patch" if what == "patch" else "a batch of 1"
        return rec.Measurement.missing(METRICS[what], f"{smallest} {needs}{beside}; limit {limit}")
    failed: list[Size] = []
    for size in sizes:
        ending, error = _try(_sized(job, what, size), limit_bytes, time_limit_s)
        if ending == "oom":
            failed.append(size)
        elif ending == "ok":
            return _measured(what, size, failed, limit, is_open=offer["all"] and not failed)
        else:
            return rec.Measurement.missing(
                METRICS[what], f"the forecast allows {_text(size)}, and its run ended as {ending}: {error}"
            )
    least = failed[-1]
    return _measurement(
        what,
        least,
        origin="analytic",
        method=f"the forecast allows {_text(sizes[0])} in {limit}, and runs at {_listed(failed)} did not fit",
        bound="at_most",
    )


def _sized(job: Job, what: str, size: Size) -> Job:
    if isinstance(size, int):
        return job.with_work(batch=size)
    return job.with_work(spatial=size)


def _try(job: Job, limit_bytes: int, time_limit_s: float) -> tuple[str, str | None]:
    """How one run under the limit ends."""
    job = dataclasses.replace(job, checkpoint_path=None, data_where=None, first=False)
    job = job.with_work(memory_limit_bytes=limit_bytes)
    ending: tuple[str, str | None] = ("failed", "its process ended without a word")
    request = {"task": "confirm", "jobs": [rec.to_json(job)]}
    for event in run_worker(request, limit_s=time_limit_s, threads=job.workload.threads):
        if isinstance(event, WorkerFailure):
            crashed = event.status == "failed"  # a library that cannot bear a failed allocation takes the process along
            return ("oom" if crashed else event.status, event.error)
        if event["event"] in ("end", "refused"):
            ending = (event["status"], event["error"])
    return ending


def _measured(what: str, size: Size, failed: Sequence[Size], limit: str, *, is_open: bool) -> rec.Measurement:
    how = f"{_text(size)} ran in {limit}"
    gap = isinstance(size, int) and bool(failed) and failed[-1] != size + 1
    if failed:
        how += f", {_listed(failed)} did not fit"
    if is_open:
        how += ", and no larger one was tried"
    elif not failed:
        how += ", and the forecast excludes the next larger one"
    steps = "; sides in steps of 16 voxels" if what == "patch" else ""
    return _measurement(
        what,
        size,
        origin="measured",
        method=f"bisection on the forecast, confirmed by a run: {how}{steps}",
        bound="at_least" if is_open or gap else None,
    )


def _measurement(
    what: str, size: Size, *, origin: rec.Origin, method: str, bound: str | None = None
) -> rec.Measurement:
    value = size if isinstance(size, int) else math.prod(size)
    return rec.Measurement.of(METRICS[what], value, method, origin, bound=bound)


def _text(size: Size) -> str:
    return f"batch {size}" if isinstance(size, int) else f"patch {format_shape(size)}"


def _listed(sizes: Sequence[Size]) -> str:
    return ", ".join(_text(size) for size in sizes)
