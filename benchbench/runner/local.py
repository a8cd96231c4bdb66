"""Local runner: the cells of one machine to records, a fresh child for each process, in rounds.

The same here and at the far side of a connection: what differs is the desk that the records go to.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from benchbench import data
from benchbench.core import records as rec
from benchbench.core.errors import CheckpointError, command, data_flags
from benchbench.core.units import format_shape, format_value
from benchbench.devices import cpu, cuda
from benchbench.devices import forecast as devices_forecast
from benchbench.runner import reference as runner_reference
from benchbench.runner.child_process import WorkerFailure, run_worker
from benchbench.runner.estimate import CellCost, TimeBreakdown, counted_job, forward_guess_s
from benchbench.runner.fit import find_fit, forecast_fit
from benchbench.runner.plan import Cell, label
from benchbench.runner.schedule import GOOD, CellProgress, ProcessResult, RunJournal, run_rounds, twin_for
from benchbench.zoo import checkpoint

log = logging.getLogger(__name__)

#: What PyTorch and MONAI take before there is a network: 320 MB resident, PyTorch 2.13 CPU on x86-64.
FRAMEWORK_BYTES = 320_000_000
#: What it takes at least; only what exceeds this as well is refused without a try where a limit is enforced.
LEAST_FRAMEWORK_BYTES = 200_000_000
_ROOF_LIMIT_S = 120.0
_WANT_OF_MEMORY = ("oom", "not_run")


class ArtifactSink(Protocol):
    """Where files beside a record go: a Store, or the other end of a connection."""

    def add_artifact(self, kind: str, name: str, content: bytes, *, title: str = "") -> rec.Artifact:
        """Keep a file."""


class RunListener(Protocol):
    """Where rows go, and what happens is told."""

    def begin(self, label: str, remaining_s: float, lane: str = "") -> None:
        """A process of a cell starts."""

    def phase(self, text: str, lane: str = "") -> None:
        """What it does now."""

    def finish(self, cell: Cell, record: rec.Record) -> None:
        """A cell has its record."""

    def send_turn(self, cell: Cell, turn: ProcessResult) -> None:
        """A process of a cell has ended, where the journal is kept elsewhere."""


class LocalRunner:
    """Measures the cells of this machine, here or at the far side of a connection."""

    def __init__(
        self,
        costs: Mapping[str, CellCost],
        estimates: Mapping[str, float],
        time_limit_s: float,
        desk: RunListener,
        spent: TimeBreakdown,
        *,
        noise: bool = True,
    ) -> None:
        """Make it; nothing is measured yet.

        Args:
            costs: of every cell, by `count`.
            estimates: seconds that each cell may take, all its processes together.
            time_limit_s: for one child.
            desk: told what happens, and given the records.
            spent: added to.
            noise: measure one network of each setting twice, as if it were two.
        """
        self.costs, self.estimates, self.time_limit_s = costs, estimates, time_limit_s
        self.desk, self.spent, self.noise = desk, spent, noise
        self._roofs: dict[tuple[Any, ...], list[rec.Measurement]] = {}
        self._expected, self._took = 0.0, 0.0

    def run(
        self,
        cells: Sequence[Cell],
        environment_of: Callable[[Cell], Mapping[str, Any]],
        keeper: ArtifactSink,
        journal: RunJournal | None,
        *,
        settled: Sequence[rec.Record] = (),
        turns_of: Callable[[Cell], Sequence[ProcessResult]] | None = None,
    ) -> None:
        """Give the desk a record of every cell.

        Args:
            cells: of this machine, the cheapest first.
            environment_of: the conditions of a cell.
            keeper: of files beside the records.
            journal: of processes that have ended; None where the desk sends them on.
            settled: records that the run has already.
            turns_of: processes that have ended before, where there is no journal here.
        """
        courses, open_courses = [], []
        for cell in cells:
            course = CellProgress(cell, started_at=rec.utc_now())
            if _refusal(cell, self.costs[cell.id]) is None and cell.target.profile is None:
                before = journal.turns(cell.id, environment_of(cell)) if journal else []
                for turn in before or (turns_of(cell) if turns_of else []):
                    course.take(turn)
                open_courses.append(course)
            courses.append(course)
        for course in courses:
            if course not in open_courses:  # nothing runs: its row is made at once
                self.desk.begin(label(course.cell), self._left(courses))
                env, cost = environment_of(course.cell), self.costs[course.cell.id]
                refusal = _refusal(course.cell, cost)
                fit = self._fit(course.cell) if refusal and refusal[0] in _WANT_OF_MEMORY and not cost.refused else []
                fit += self._forecast_fit(course.cell, cost)
                self.desk.finish(course.cell, make_record(course, cost, env, keeper, fit))
        twins = self._twins(open_courses, settled, environment_of, journal) if self.noise else []

        def measure(course: CellProgress) -> ProcessResult:
            name = label(course.cell) + (" (against itself)" if course.twin_of else "")
            p = course.protocol
            nth = f", process {len(course.turns) + 1} of {p.processes}" if p.max_processes > 1 else ""
            self.desk.begin(name + nth, self._left([*open_courses, *twins]))
            turn = self._turn(course, keeper)
            share = self.estimates.get(course.cell.id, 0.0) / p.processes
            if turn.status in GOOD:
                self._expected, self._took = self._expected + share, self._took + turn.duration_s
            return turn

        def kept(course: CellProgress, turn: ProcessResult) -> None:
            if course.protocol.processes == 1:
                return
            twin = course.twin_of is not None
            if journal:
                journal.keep(course.cell.id, environment_of(course.cell), turn, twin=twin)
            elif not twin:
                self.desk.send_turn(course.cell, turn)

        def finish(course: CellProgress, twin: CellProgress | None) -> None:
            env = environment_of(course.cell)
            more = [*(course.noise(twin) if twin else []), *self._roofs.get(_roof_key(course.cell), [])]
            if course.ending()[0] == "oom":
                more += self._fit(course.cell)
            record = make_record(course, self.costs[course.cell.id], env, keeper, more)
            self.desk.finish(course.cell, record)

        for course in open_courses:
            self._measure_roof(course.cell)
        run_rounds([*open_courses, *twins], measure, finish, kept)

    def _left(self, courses: Sequence[CellProgress]) -> float:
        """Seconds that the courses may still take, corrected by what has run."""
        scale = self._took / self._expected if self._expected else 1.0
        total = 0.0
        for course in courses:
            missing = max(0, course.protocol.processes - len(course.turns))
            total += self.estimates.get(course.cell.id, 0.0) * missing / course.protocol.processes
        return scale * total

    def _twins(
        self,
        courses: Sequence[CellProgress],
        settled: Sequence[rec.Record],
        environment_of: Callable[[Cell], Mapping[str, Any]],
        journal: RunJournal | None,
    ) -> list[CellProgress]:
        """One double for each setting of this run that has no noise floor yet."""
        known_floors = {
            (r.device.asked, r.workload.threads, r.workload.dtype, r.workload.phase)
            for r in settled
            if r.get("noise_ratio")
        }
        groups: dict[tuple[Any, ...], list[CellProgress]] = {}
        for course in courses:
            w = course.cell.workload
            groups.setdefault((course.cell.target.device.asked, w.threads, w.dtype, w.phase), []).append(course)
        twins = []
        for key, group in groups.items():
            begun = [c for c in group if journal and journal.turns(c.cell.id, environment_of(c.cell), twin=True)]
            if key in known_floors or not (twin := twin_for(begun or group, self._forward_s)):
                continue
            if journal:
                for turn in journal.turns(twin.cell.id, environment_of(twin.cell), twin=True):
                    twin.take(turn)
            twins.append(twin)
        return twins

    def _forward_s(self, cell: Cell) -> float:
        return forward_guess_s(cell, self.costs[cell.id])

    def _turn(self, course: CellProgress, keeper: ArtifactSink) -> ProcessResult:
        start = time.monotonic()
        found: list[rec.Measurement] = []
        artifacts: list[rec.Artifact] = []
        first = not course.turns and course.twin_of is None
        status, error, trace = _in_child(
            course.cell, self.time_limit_s, found, artifacts, keeper, self.desk, self.spent, first=first
        )
        return ProcessResult(
            status=status,
            error=error,
            traceback=trace,
            measurements=tuple(found),
            artifacts=tuple(artifacts),
            duration_s=round(time.monotonic() - start, 3),
        )

    def _fit(self, cell: Cell) -> list[rec.Measurement]:
        """The largest patch and batch that would have fitted."""
        self.desk.phase("looking for what fits")
        return find_fit(cell.job(), memory_limit_bytes(cell), self.time_limit_s)

    def _forecast_fit(self, cell: Cell, cost: CellCost) -> list[rec.Measurement]:
        """The largest patch that fits a device that is not at hand, where the asked one does not."""
        profile = cell.target.profile
        if profile is None or profile.memory_bytes is None or cell.workload.phase != "infer" or cost.refused:
            return []
        room = profile.memory_bytes - profile.reserve_bytes
        if cost.value("tensor_memory_bytes") <= room:
            return []
        self.desk.phase("looking for the largest patch that fits")
        where = f"{format_value(profile.memory_bytes, 'B')} less {format_value(profile.reserve_bytes, 'B')} reserve"
        return forecast_fit(counted_job(cell), max(room, 0), f"{where} of {profile.name}", self.time_limit_s)

    def _measure_roof(self, cell: Cell) -> None:
        """What this machine can do at best in a cell's setting, once for each setting."""
        key = _roof_key(cell)
        if key in self._roofs or not self.noise:
            return
        self.desk.phase("measuring this machine's peak and memory bandwidth")
        found = self._roofs[key] = []
        request = {"task": "roof", "jobs": [rec.to_json(dataclasses.asdict(cell.job()))]}
        for event in run_worker(request, limit_s=_ROOF_LIMIT_S, threads=cell.workload.threads):
            if isinstance(event, WorkerFailure):
                log.warning("this machine's peak could not be measured: %s", event.error)
            elif event["event"] == "measurement":
                found.append(rec.from_json(rec.Measurement, event["measurement"]))


def _roof_key(cell: Cell) -> tuple[Any, ...]:
    return cell.target.device.asked, cell.workload.threads, cell.workload.dtype


def make_record(
    course: CellProgress,
    cost: CellCost,
    env: Mapping[str, Any],
    keeper: ArtifactSink,
    more: Sequence[rec.Measurement] = (),
) -> rec.Record:
    """The record of one cell, whatever became of it.

    Args:
        course: of the cell, done; or without a turn, where nothing is to be run.
        cost: of the cell, by `count`.
        env: the conditions.
        keeper: of files beside the record.
        more: measurements that no single process made.
    """
    cell, w = course.cell, course.cell.workload
    found = list(cost.measurements)
    artifacts = []
    if cost.layers:
        content = json.dumps({"modules": list(cost.layers)}, separators=(",", ":")).encode()
        title = f"Parameters and MACs of each module of {cell.card.title}"
        name = f"{_file_name(cell.spec.name)}-layers.json"
        artifacts.append(keeper.add_artifact("layers", name, content, title=title))
    artifacts += _training(cell, keeper)
    refusal = None if course.turns else _refusal(cell, cost)
    ending: Ending
    if refusal is not None:
        ending = refusal
    elif cell.target.profile is not None:
        tensors = int(cost.value("tensor_memory_bytes")) or None
        is_complete = not any(m.metric == "macs" and m.bound for m in cost.measurements)
        found += devices_forecast.predict(cost.operators, cell.target.profile, w, tensors, is_complete=is_complete)
        ending = ("ok", None, None)
    else:
        ending = course.ending()
        found += course.measurements()
        artifacts += [artifact for turn in course.turns for artifact in turn.artifacts]
    found += more
    if not any(m.metric == "dice" for m in found):
        found += _dice_from_elsewhere(cell, ending[0])
    found += cell.card.published_measurements(cell.spec.in_channels, cell.spec.out_channels, w.spatial)
    return rec.Record(
        model=cell.spec,
        workload=w,
        device=cell.target.device,
        environment=env,
        status=ending[0],
        error=ending[1],
        traceback=ending[2],
        started_at=course.started_at,
        duration_s=round(course.seconds, 3),
        measurements=tuple(found),
        artifacts=tuple(artifacts),
        recipe=cell.card.compression,
    )


def _training(cell: Cell, keeper: ArtifactSink) -> list[rec.Artifact]:
    """How a cell's weights were trained, for the report: budget and curves, where their sidecar is at hand."""
    if cell.checkpoint_path is None:
        return []
    try:
        told = checkpoint.read_sidecar(cell.checkpoint_path).train
    except CheckpointError:  # older weights that came over a connection have none
        return []
    kept = {key: told[key] for key in ("budget", "steps_done", "curve", "validation") if key in told}
    if not {"budget", "steps_done", "curve"} <= set(kept):
        return []
    content = json.dumps(kept, separators=(",", ":")).encode()
    name, title = f"{_file_name(cell.spec.name)}-training.json", f"How the weights of {cell.card.title} were trained"
    return [keeper.add_artifact("training", name, content, title=title)]


Ending = tuple[rec.Status, str | None, str | None]  # status, error, traceback


def _refusal(cell: Cell, cost: CellCost) -> Ending | None:
    """Why a cell is not even started, if so."""
    if cost.refused:
        kind, error, trace = cost.refused
        if kind == "away":
            return ("not_run", error, None)
        return ("unsupported" if kind in ("shape", "unsupported") else "failed", error, trace)
    w = cell.workload
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


def memory_limit_bytes(cell: Cell) -> int:
    """What a cell's process may take at most: what is free, or less where a limit is asked for."""
    on_gpu = cell.target.backend == "cuda"
    free = cuda.memory_bytes(cell.target.index)[0] if on_gpu else cpu.available_memory_bytes()
    asked = cell.workload.memory_limit_bytes
    return free if asked is None else min(asked, free)


def _in_child(
    cell: Cell,
    time_limit_s: float,
    found: list[rec.Measurement],
    artifacts: list[rec.Artifact],
    keeper: ArtifactSink,
    progress: RunListener,
    spent: TimeBreakdown,
    *,
    first: bool = True,
) -> Ending:
    start = time.monotonic()
    ready = False
    ending: Ending = ("failed", "its process ended without a word", None)
    progress.phase("starting")
    job = dataclasses.replace(cell.job(), first=first)
    request_json = {"task": "measure", "jobs": [rec.to_json(dataclasses.asdict(job))]}
    for event in run_worker(request_json, limit_s=time_limit_s, threads=cell.workload.threads):
        if isinstance(event, WorkerFailure):
            limit = cell.workload.memory_limit_bytes
            if limit is not None and event.status == "failed":  # a library that cannot bear a failed allocation
                return ("oom", f"{event.error}, under its memory limit of {format_value(limit, 'B')}", event.stderr)
            return (event.status, event.error, event.stderr or None)
        kind = event["event"]
        if kind == "ready":
            ready = True
            spent.start_s += time.monotonic() - start
        elif kind == "tick":
            progress.phase(event["phase"] if "case" in event["phase"] else f"{event['phase']} {event['count']}")
        elif kind == "measurement":
            found.append(rec.from_json(rec.Measurement, event["measurement"]))
        elif kind == "forwards":
            spent.forward_s += event["seconds"]
        elif kind == "accuracy":
            spent.accuracy_s += event["seconds"]
        elif kind == "picture":
            name = f"{_file_name(cell.spec.name)}-{event['name']}"
            content = base64.b64decode(event["content"])
            artifacts.append(keeper.add_artifact("picture", name, content, title=event["title"]))
        elif kind == "cases":
            content = json.dumps(event["cases"], separators=(",", ":")).encode()
            name, title = f"{_file_name(cell.spec.name)}-cases.json", f"Every case of {cell.card.title}, by name"
            artifacts.append(keeper.add_artifact("cases", name, content, title=title))
        elif kind == "end":
            ending = (event["status"], event["error"], event.get("traceback"))
    if not ready:
        spent.start_s += time.monotonic() - start
    return ending


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in text)


def _dice_from_elsewhere(cell: Cell, status: str) -> list[rec.Measurement]:
    """Dice of a network that was not evaluated here: from reference records, or the reason why there is none."""
    w = cell.workload
    earlier = runner_reference.find_dice(cell.spec, w)
    if earlier:
        return earlier
    if cell.card.task != "segmentation":
        why = "a classifier: it has no dense output, so no Dice"
    elif w.phase == "train":
        why = "training steps are timed: nothing is evaluated"
    elif w.data is None:
        plan = data.get_plan("phantom")
        own = f"{cell.spec.in_channels} in, {cell.spec.out_channels} out"
        its = f"{plan.in_channels} in, {plan.out_channels} out"
        why = (
            "no data set asked for"
            if own == its
            else f"{plan.name} has other channels ({its}) than this network ({own})"
        )
    elif cell.checkpoint_path and cell.data_where is None:
        why = f"not evaluated: {w.data.partition(':')[0]} lies on this machine, and the network runs on another"
    elif cell.checkpoint_path:
        why = (
            "not evaluated: nothing runs on a profile" if cell.target.profile else f"not evaluated: the row is {status}"
        )
    else:
        why = f"no checkpoint for {w.data} at {format_shape(w.spatial)}: " + (
            "here every case is a test case, so add --checkpoint with weights that were trained elsewhere"
            if ":all" in w.data
            else f"make one with '{_command_to_train(cell.spec.name, w)}', then add --checkpoint with the file that it "
            "names"
        )
    return [rec.Measurement(metric="dice", unit="1", value=None, origin="measured", method="none", reason=why)]


def _command_to_train(name: str, work: rec.Workload) -> str:
    """The command that trains a network for some work; how empty regions are judged is none of training's."""
    words = data_flags(str(work.data))
    words = words[: words.index("--empty-rule")] if "--empty-rule" in words else words
    return command("train", name, *words, "--spatial", *work.spatial)
