"""Times of an architecture in a runtime that a search's own process cannot hold: by a worker of the runner.

A file that OpenVINO or ONNX Runtime reads takes tens of seconds to make, most of them in the export to ONNX. A time
does not depend on the values of the weights, so a proposal is prepared and timed as its architecture alone, with
random weights: once in a process, however often it is trained, and its file is kept for the next one.
"""

from __future__ import annotations

import dataclasses
import functools
import json

from benchbench.core import records as rec
from benchbench.core.errors import UnsupportedError
from benchbench.devices import cpu
from benchbench.runner.child_process import WorkerFailure, run_worker
from benchbench.runner.job import Job
from benchbench.runtimes.catalogue import get_runtime

_PROTOCOL = "quick,timed_s=0.3,warmup_s=0.5"  # to steer the search, not to report
_LIMIT_S = 300.0  # of a preparation and its timing
_KEPT = 1024  # architectures


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeTimes:
    """What one patch takes."""

    median_s: float
    least_s: float
    energy_j: float | None  # None: no counter can be read


def architecture_job(
    spec: rec.ModelSpec, spatial: tuple[int, ...], runtime: str, *, threads: int | None, alone: bool
) -> Job:
    """The job that times an architecture on this CPU, whatever its weights.

    Args:
        spec: of the network; a checkpoint that it names is left out.
        spatial: (D, H, W) of the patch, voxels.
        threads: None: all usable cores.
        alone: whether no other worker searches on this machine, so that the timing may be bound to the first cores.
    """
    count = threads or cpu.usable_cores()
    return Job(
        model=dataclasses.replace(spec, checkpoint=None),
        workload=rec.Workload(spatial=spatial, threads=count, runtime=runtime, protocol=_PROTOCOL),
        cores=cpu.cores_for(count) if alone else (),
        first=False,  # outputs are compared when the finalists are measured, with their own weights
    )


def time_in_worker(job: Job) -> RuntimeTimes:
    """Prepare a network for its runtime, or take what was prepared, and time it; what was timed is remembered.

    Raises:
        UnsupportedError: it cannot be prepared, or run; one line with the reason.
    """
    return _timed(rec.canonical_json(rec.to_json(job)))


@functools.lru_cache(maxsize=_KEPT)
def _timed(job: str) -> RuntimeTimes:
    request = {"task": "measure", "jobs": [json.loads(job)]}
    work = rec.from_json(Job, request["jobs"][0]).workload
    found: dict[str, rec.Measurement] = {}
    why = "its process ended without a word"
    for event in run_worker(request, limit_s=_LIMIT_S, threads=work.threads):
        if isinstance(event, WorkerFailure):
            why = event.error
        elif event["event"] == "measurement":
            measurement = rec.from_json(rec.Measurement, event["measurement"])
            found[measurement.metric] = measurement
        elif event["event"] in ("end", "refused"):
            why = "" if event["status"] in ("ok", "unstable") else str(event["error"])
    latency = found.get("latency_s")
    if why or latency is None or latency.value is None:
        raise UnsupportedError(f"it cannot be timed in {get_runtime(work.runtime).title}: {why or 'it has no latency'}")
    energy = found.get("energy_j")
    return RuntimeTimes(
        median_s=float(latency.value),
        least_s=min(map(float, (*latency.values, latency.value))),
        energy_j=float(energy.value) if energy and energy.value is not None else None,
    )
