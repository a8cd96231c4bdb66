"""Local runner: the cells of one machine to records, a fresh child for each process, in rounds."""

from __future__ import annotations

import base64
import dataclasses
import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchbench.core import records as rec
from benchbench.core.units import format_value
from benchbench.runner.child_process import WorkerFailure, run_worker
from benchbench.runner.estimate import CellCost, counted_job, forward_guess_s
from benchbench.runner.fit import find_fit, forecast_fit
from benchbench.runner.job import Cell
from benchbench.runner.record import (
    Ending,
    ending_of_failure,
    ending_of_processes,
    file_name,
    make_record,
    memory_limit_bytes,
    refusal,
)
from benchbench.runner.recorder import Recorder
from benchbench.runner.result import TimeBreakdown
from benchbench.runner.schedule import GOOD, CellProgress, ProcessResult, repeat_for, run_rounds
from benchbench.runtimes.catalogue import EAGER

log = logging.getLogger(__name__)

_PEAK_LIMIT_S = 120.0
_WANT_OF_MEMORY = ("oom", "not_run")


class LocalRunner:
    """Measures the cells of this machine."""

    def __init__(
        self,
        costs: Mapping[str, CellCost],
        estimates: Mapping[str, float],
        time_limit_s: float,
        recorder: Recorder,
        spent: TimeBreakdown,
        *,
        noise: bool = True,
    ) -> None:
        """Make it; nothing is measured yet.

        Args:
            costs: of every cell, by `count`.
            estimates: seconds that each cell may take, all its processes together.
            time_limit_s: for one child.
            recorder: gets the results.
            spent: added to.
            noise: measure one network of each setting twice, as if it were two.
        """
        self.costs, self.estimates, self.time_limit_s = costs, estimates, time_limit_s
        self.recorder, self.spent, self.noise = recorder, spent, noise
        self._peaks: dict[tuple[Any, ...], list[rec.Measurement]] = {}
        self._expected, self._took = 0.0, 0.0

    def run(self, cells: Sequence[Cell], *, settled: Sequence[rec.Record] = ()) -> None:
        """Give the recorder a record of every cell.

        Args:
            cells: of this machine, the cheapest first.
            settled: records that the run has already.
        """
        rows = [CellProgress(cell, started_at=rec.utc_now()) for cell in cells]
        to_measure = []
        for row in rows:
            if row.cell.target.profile is None and refusal(row.cell, self.costs[row.cell.id]) is None:
                for result in self.recorder.earlier(row.cell):
                    row.take(result)
                to_measure.append(row)
        for row in rows:
            if row not in to_measure:  # nothing runs: its record is made at once
                self._finish_unmeasured(row, self._left(rows))
        repeats = self._repeats(to_measure, settled) if self.noise else []

        def measure(row: CellProgress) -> ProcessResult:
            name = row.cell.label + (" (against itself)" if row.repeat_of else "")
            p = row.protocol
            n = len(row.results) + 1
            nth = f", process {n} of {p.processes}" if n <= p.processes else f", process {n}, as some were disturbed"
            nth = nth if p.max_processes > 1 else ""
            self.recorder.begin(name + nth, self._left([*to_measure, *repeats]))
            result = self._measure(row.cell, first=not row.results and row.repeat_of is None)
            if result.status in GOOD:
                self._expected += self.estimates.get(row.cell.id, 0.0) / p.processes
                self._took += result.duration_s
            return result

        def keep(row: CellProgress, result: ProcessResult) -> None:
            if row.protocol.processes > 1:
                self.recorder.keep(row.cell, result, repeat=row.repeat_of is not None)

        def finish(row: CellProgress, repeat: CellProgress | None) -> None:
            more = [*(row.noise(repeat) if repeat else []), *self._peaks.get(_setting(row.cell), [])]
            if ending_of_processes(row)[0] == "oom" and row.cell.workload.runtime == EAGER:
                more += self._fit(row.cell)
            self.recorder.finish(row.cell, make_record(row, self.costs[row.cell.id], self.recorder, more))

        for row in to_measure:
            self._measure_peak(row.cell)
        run_rounds([*to_measure, *repeats], measure, finish, keep)

    def _finish_unmeasured(self, row: CellProgress, left_s: float) -> None:
        cell, cost = row.cell, self.costs[row.cell.id]
        self.recorder.begin(cell.label, left_s)
        refused = refusal(cell, cost)
        fit = self._fit(cell) if refused and refused[0] in _WANT_OF_MEMORY and not cost.refused else []
        fit += self._forecast_fit(cell, cost)
        self.recorder.finish(cell, make_record(row, cost, self.recorder, fit))

    def _left(self, rows: Sequence[CellProgress]) -> float:
        """Seconds that the cells may still take, corrected by what has run."""
        scale = self._took / self._expected if self._expected else 1.0
        total = 0.0
        for row in rows:
            missing = max(0, row.protocol.processes - len(row.results))
            total += self.estimates.get(row.cell.id, 0.0) * missing / row.protocol.processes
        return scale * total

    def _repeats(self, rows: Sequence[CellProgress], settled: Sequence[rec.Record]) -> list[CellProgress]:
        """One repeat run for each setting of this run that has no noise floor yet."""
        known_floors = {
            (r.device.asked, r.workload.threads, r.workload.dtype, r.workload.runtime, r.workload.phase)
            for r in settled
            if r.get("noise_ratio")
        }
        groups: dict[tuple[Any, ...], list[CellProgress]] = {}
        for row in rows:
            w = row.cell.workload
            groups.setdefault((row.cell.target.device.asked, w.threads, w.dtype, w.runtime, w.phase), []).append(row)
        repeats = []
        for key, group in groups.items():
            begun = [row for row in group if self.recorder.earlier(row.cell, repeat=True)]
            if key in known_floors or not (repeat := repeat_for(begun or group, self._forward_s)):
                continue
            for result in self.recorder.earlier(repeat.cell, repeat=True):
                repeat.take(result)
            repeats.append(repeat)
        return repeats

    def _forward_s(self, cell: Cell) -> float:
        return forward_guess_s(cell, self.costs[cell.id])

    def _measure(self, cell: Cell, *, first: bool) -> ProcessResult:
        """One process of a cell."""
        start = time.monotonic()
        measurements: list[rec.Measurement] = []
        artifacts: list[rec.Artifact] = []
        ending: Ending = ("failed", "its process ended without a word", None)
        ready = False
        self.recorder.phase("starting")
        stem = file_name(cell.model.name)
        request = {"task": "measure", "jobs": [rec.to_json(dataclasses.replace(cell.job, first=first))]}
        for event in run_worker(request, limit_s=self.time_limit_s, threads=cell.workload.threads):
            if isinstance(event, WorkerFailure):
                ending = ending_of_failure(event, cell.workload.memory_limit_bytes)
                break
            kind = event["event"]
            if kind == "ready":
                ready = True
                self.spent.start_s += time.monotonic() - start
            elif kind == "tick":
                phase = event["phase"]
                self.recorder.phase(phase if "case" in phase else f"{phase} {event['count']}")
            elif kind == "measurement":
                measurements.append(rec.from_json(rec.Measurement, event["measurement"]))
            elif kind == "forwards":
                self.spent.forward_s += event["seconds"]
            elif kind == "accuracy":
                self.spent.accuracy_s += event["seconds"]
            elif kind == "picture":
                name, content = f"{stem}-{event['name']}", base64.b64decode(event["content"])
                artifacts.append(self.recorder.add_artifact("picture", name, content, title=event["title"]))
            elif kind == "cases":
                content = json.dumps(event["cases"], separators=(",", ":")).encode()
                title = f"Every case of {cell.card.title}, by name"
                artifacts.append(self.recorder.add_artifact("cases", f"{stem}-cases.json", content, title=title))
            elif kind in ("end", "refused"):
                ending = (event["status"], event["error"], event.get("traceback"))
        if not ready:
            self.spent.start_s += time.monotonic() - start
        return ProcessResult(
            status=ending[0],
            error=ending[1],
            traceback=ending[2],
            measurements=tuple(measurements),
            artifacts=tuple(artifacts),
            duration_s=round(time.monotonic() - start, 3),
        )

    def _fit(self, cell: Cell) -> list[rec.Measurement]:
        """The largest patch and batch that would have fitted."""
        self.recorder.phase("looking for what fits")
        return find_fit(cell.job, memory_limit_bytes(cell), self.time_limit_s)

    def _forecast_fit(self, cell: Cell, cost: CellCost) -> list[rec.Measurement]:
        """The largest patch that fits a device that is not at hand, where the asked one does not."""
        profile = cell.target.profile
        if profile is None or profile.memory_bytes is None or cell.workload.phase != "infer" or cost.refused:
            return []
        room = profile.memory_bytes - profile.reserve_bytes
        if cost.value("tensor_memory_bytes") <= room:
            return []
        self.recorder.phase("looking for the largest patch that fits")
        where = f"{format_value(profile.memory_bytes, 'B')} less {format_value(profile.reserve_bytes, 'B')} reserve"
        return forecast_fit(counted_job(cell), max(room, 0), f"{where} of {profile.name}", self.time_limit_s)

    def _measure_peak(self, cell: Cell) -> None:
        """What this machine can do at best in a cell's setting, once for each setting."""
        key = _setting(cell)
        if key in self._peaks or not self.noise or cell.workload.dtype == "int8":  # PyTorch has no int8 to measure
            return
        self.recorder.phase("measuring this machine's peak and memory bandwidth")
        measurements = self._peaks[key] = []
        request = {"task": "peak", "jobs": [rec.to_json(cell.job)]}
        for event in run_worker(request, limit_s=_PEAK_LIMIT_S, threads=cell.workload.threads):
            if isinstance(event, WorkerFailure):
                log.warning("this machine's peak could not be measured: %s", event.error)
            elif event["event"] == "measurement":
                measurements.append(rec.from_json(rec.Measurement, event["measurement"]))


def _setting(cell: Cell) -> tuple[Any, ...]:
    return cell.target.device.asked, cell.workload.threads, cell.workload.dtype
