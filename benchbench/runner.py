"""`bench run`: networks x devices -> records, each network in a fresh process, the cheapest first.

First one child counts every network (no forward is computed), which gives the order, the estimate,
and the memory below which a network is not even started. Then one child a network measures. Each
record is on disk before the next child starts, so whatever stops a run, running the same command
again with the same `--out` measures only what is missing. Another host does the same with its cells
over there (`benchbench.agent`), at the same time.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import json
import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from benchbench import data, fleet, known
from benchbench import records as rec
from benchbench.cells import Cell, Request, label, plan_cells
from benchbench.child import Death, talk
from benchbench.devices import cpu, cuda, tegra_clocks
from benchbench.devices.environment import environment
from benchbench.errors import CardError, ShapeError
from benchbench.forecast import predict
from benchbench.store import Store
from benchbench.units import format_shape, format_value

log = logging.getLogger(__name__)

#: What PyTorch and MONAI take before there is a network: 320 MB resident, PyTorch 2.13 CPU on x86-64.
FRAMEWORK_BYTES = 320_000_000
#: For the first estimate only; corrected by the networks that have run. Eager fp32 on one AVX-512 core
#: reaches 8 to 28 GMAC/s over the zoo, an H100 some thousands.
_MACS_PER_S = {"cpu": 14e9, "cuda": 2e12}
_START_S = 7.0
_PLAN_LIMIT_S = 600.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What the counting child found of one cell."""

    measurements: tuple[rec.Measurement, ...] = ()
    layers: tuple[Mapping[str, Any], ...] = ()
    operators: tuple[rec.OperatorCost, ...] = ()
    refused: tuple[str, str, str | None] | None = None  # kind, error, traceback

    def value(self, metric: str) -> float:
        """The value of an analytic metric, 0 where there is none."""
        return next((m.value for m in self.measurements if m.metric == metric and m.value is not None), 0)


@dataclasses.dataclass(slots=True, kw_only=True)
class Spent:
    """Where a run's time went, in seconds."""

    total_s: float = 0.0
    counting_s: float = 0.0
    start_s: float = 0.0  # children's start-up: imports, building, loading
    forward_s: float = 0.0  # warm-up and timed
    accuracy_s: float = 0.0

    @property
    def share(self) -> float:
        """The part of the run that was inside forwards, Dice, or the networks' own start-up."""
        return (self.start_s + self.forward_s + self.accuracy_s) / self.total_s if self.total_s else 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run left behind."""

    folder: Path
    records: tuple[rec.Record, ...]  # one a cell, in the order asked
    reused: int
    spent: Spent
    banners: tuple[str, ...]
    visits: tuple[fleet.Visit, ...] = ()  # one a host


class Keeper(Protocol):
    """Where files beside a record go: a Store, or the other end of a connection."""

    def add_artifact(self, kind: str, name: str, content: bytes, *, title: str = "") -> rec.Artifact:
        """Keep a file."""


class Progress(Protocol):
    """How a run tells what it does; every method may be ignored.

    A lane is another host's name; several run at the same time as this machine's cells, which have none.
    """

    def plan(self, cells: Sequence[tuple[str, float]], folder: Path, reused: int) -> None:
        """(label, estimated seconds) of each cell to come."""

    def begin(self, label: str, remaining_s: float, lane: str = "") -> None:
        """A cell starts; so much is left of the whole run, or of the lane."""

    def phase(self, text: str, lane: str = "") -> None:
        """What the running cell does now."""

    def end(self, record: rec.Record) -> None:
        """A cell is done and on disk."""


def run(request: Request, out: Path, *, fresh: bool = False, progress: Progress) -> Outcome:
    """Measure, or predict, every network on every device.

    Args:
        request: what was asked.
        out: results folder, made if need be.
        fresh: start over there.
        progress: told what happens.

    Raises:
        UsageError: an unknown name, a class that cannot be imported, a size that no network can take.
        NotMeasuredError: only a prediction can be had, and `require_measured`.
        StoreError: the folder cannot be written, or is not ours.
    """
    began = time.monotonic()
    spent = Spent()
    cells = plan_cells(request)
    with clocks(request.set_clocks and any(not c.target.host for c in cells)), Store(out, fresh=fresh) as store:
        environments = {c.target.device.asked: _environment(c) for c in cells}
        _warn(environments)
        costs = count([c for c in cells if c.target.host is None], spent)
        _refuse(list(costs.values()))
        done: dict[str, rec.Record] = {}
        for cell in cells:
            earlier = store.finished(cell.id, environments[cell.target.device.asked])
            if earlier:
                done[cell.id] = earlier
        reused = len(done)
        left = [c for c in cells if c.id not in done]
        todo = sorted((c for c in left if not c.target.host), key=lambda c: costs[c.id].value("macs"))
        away = [c for c in left if c.target.host]
        estimates = {c.id: estimate_s(c, costs[c.id], request.protocol) for c in todo}
        progress.plan([(label(c), estimates.get(c.id, 0.0)) for c in [*todo, *away]], out, reused)
        desk = _Desk(store, progress, done)
        expected, took = 0.0, 0.0
        others = fleet.Fleet(away, request.time_limit_s, set_clocks=request.set_clocks, listener=desk)
        with others:
            for position, cell in enumerate(todo):
                scale = took / expected if expected else 1.0
                desk.begin(label(cell), scale * sum(estimates[c.id] for c in todo[position:]))
                start = time.monotonic()
                env = environments[cell.target.device.asked]
                record = measure_cell(cell, costs[cell.id], env, store, request.time_limit_s, desk, spent)
                desk.finish(cell, record)
                if record.status in ("ok", "unstable"):
                    expected, took = expected + estimates[cell.id], took + time.monotonic() - start
            spent.total_s = time.monotonic() - began  # of this machine's own part
            others.join()
    banners = dict.fromkeys(c.target.banner for c in cells if c.target.banner)
    return Outcome(
        folder=out,
        records=tuple(done[c.id] for c in cells),
        reused=reused,
        spent=spent,
        banners=tuple(banners),
        visits=tuple(lane.visit for lane in others.lanes),
    )


def _environment(cell: Cell) -> dict[str, Any]:
    """Of this machine, or as a host told it."""
    target = cell.target
    if target.environment is not None:
        return dict(target.environment)
    return environment(target.backend, cell.workload.threads, cuda_index=target.index)


class _Desk:
    """Where the rows of this machine and of every host's thread come together, one at a time."""

    def __init__(self, store: Store, progress: Progress, done: dict[str, rec.Record]) -> None:
        self.store, self.progress, self.done = store, progress, done
        self._lock = threading.Lock()

    def plan(self, cells: Sequence[tuple[str, float]], folder: Path, reused: int) -> None:
        with self._lock:
            self.progress.plan(cells, folder, reused)

    def begin(self, label: str, remaining_s: float, lane: str = "") -> None:
        with self._lock:
            self.progress.begin(label, remaining_s, *([lane] if lane else []))

    def phase(self, text: str, lane: str = "") -> None:
        with self._lock:
            self.progress.phase(text, *([lane] if lane else []))

    def end(self, record: rec.Record) -> None:
        with self._lock:
            self.progress.end(record)

    def finish(self, cell: Cell, record: rec.Record) -> None:
        with self._lock:
            self.store.append(record)
            self.done[cell.id] = record
            self.progress.end(record)

    def deliver(self, cell: Cell, record: rec.Record, contents: Sequence[fleet.Content]) -> None:
        with self._lock:
            kept = [self.store.add_artifact(c.kind, c.name, c.content, title=c.title) for c in contents]
        self.finish(cell, dataclasses.replace(record, artifacts=tuple(kept)))

    def absent(self, cell: Cell, why: str, known: Sequence[rec.Measurement]) -> None:
        cost = Cost(measurements=tuple(known), refused=("away", why, None))
        self.finish(cell, measure_cell(cell, cost, _environment(cell), self.store, 0.0, self, Spent()))


def clocks(wanted: bool) -> contextlib.AbstractContextManager[None]:
    """A Jetson's highest clocks while it lasts, if they are wanted."""
    return tegra_clocks.clocks_set() if wanted else contextlib.nullcontext()


def _warn(environments: Mapping[str, Mapping[str, Any]]) -> None:
    for asked, env in environments.items():
        if others := env.get("gpu_processes"):
            log.warning("%s: %d other program(s) compute on this GPU; the figures are of a shared one", asked, others)


def count(cells: Sequence[Cell], spent: Spent) -> dict[str, Cost]:
    """Parameters, MACs, layers and operators of every cell, from one child; nothing is computed.

    A network that kills the child is passed over, and counting goes on behind it in a new child.
    """
    start = time.monotonic()
    by_job: dict[str, list[Cell]] = {}
    for cell in cells:
        job = dataclasses.replace(cell.job(), threads=None, backend="cpu", checkpoint_path=None, data=None)
        by_job.setdefault(rec.canonical_json(rec.to_json(job)), []).append(cell)
    jobs = [json.loads(text) for text in by_job]
    found: list[Cost] = []
    while len(found) < len(jobs):
        found += _count_some(jobs[len(found) :])
    spent.counting_s += time.monotonic() - start
    return {cell.id: cost for cost, group in zip(found, by_job.values(), strict=True) for cell in group}


def _refuse(found: Sequence[Cost]) -> None:
    """End a run in which something asked for cannot be had.

    Raises:
        CardError: the class of a network cannot be imported or built as asked.
        ShapeError: no network can take the size.
    """
    refusals = [cost.refused for cost in found if cost.refused]
    for kind, error, _ in refusals:
        if kind == "usage":
            raise CardError(error)
    if refusals and len(refusals) == len(found) and all(kind == "shape" for kind, _, _ in refusals):
        raise ShapeError("; ".join(dict.fromkeys(error for _, error, _ in refusals)))


def _count_some(jobs: Sequence[Any]) -> list[Cost]:
    found: list[Cost] = []
    for event in talk({"task": "plan", "jobs": jobs}, limit_s=_PLAN_LIMIT_S):
        if isinstance(event, Death):
            found.append(Cost(refused=("failed", f"while it was counted, {event.error}", event.stderr)))
        elif event["event"] == "refused":
            found.append(Cost(refused=(event["kind"], event["error"], event.get("traceback"))))
        elif event["event"] == "cost":
            found.append(
                Cost(
                    measurements=tuple(rec.from_json(rec.Measurement, m) for m in event["measurements"]),
                    layers=tuple(event["layers"]),
                    operators=tuple(rec.from_json(rec.OperatorCost, o) for o in event["operators"]),
                )
            )
    return found


def estimate_s(cell: Cell, cost: Cost, protocol: str) -> float:
    """A first guess of the seconds that a cell will take."""
    if cell.target.backend is None:
        return 0.1
    from benchbench.measure.latency import get_protocol

    rate = _MACS_PER_S[cell.target.backend] * (cell.workload.threads or 1)
    forward = max(cost.value("macs") / rate, 1e-3)
    p = get_protocol(protocol)
    forwards = max(p.warmup_s, forward) + max(p.timed_s, p.min_repeats * forward)
    cases = 0
    if cell.checkpoint_path and cell.workload.data:
        cases = data.get_plan(cell.workload.data).splits[cell.workload.split or "test"]
    return _START_S + forwards + cases * (forward + 1.0)


def measure_cell(
    cell: Cell,
    cost: Cost,
    env: Mapping[str, Any],
    keeper: Keeper,
    time_limit_s: float,
    progress: Progress,
    spent: Spent,
) -> rec.Record:
    """The record of one cell, whatever becomes of it.

    Args:
        cell: of this machine.
        cost: of it, by `count`.
        env: the conditions.
        keeper: of files beside the record.
        time_limit_s: for its child.
        progress: told what happens; begun and ended by the caller.
        spent: added to.
    """
    started = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
    start = time.monotonic()
    w = cell.workload
    found = list(cost.measurements)
    artifacts = []
    if cost.layers:
        content = json.dumps({"modules": list(cost.layers)}, separators=(",", ":")).encode()
        title = f"Parameters and MACs of each module of {cell.card.title}"
        artifacts.append(
            keeper.add_artifact("layers", f"{_file_name(cell.spec.name)}-layers.json", content, title=title)
        )
    refusal = _refusal(cell, cost)
    ending: Ending
    if refusal is not None:
        ending = refusal
    elif cell.target.profile is not None:
        tensors = int(cost.value("tensor_memory_bytes")) or None
        found += predict.predict(cost.operators, cell.target.profile, w, tensors)
        ending = ("ok", None, None)
    else:
        ending = _in_child(cell, time_limit_s, found, artifacts, keeper, progress, spent)
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
        started_at=started,
        duration_s=round(time.monotonic() - start, 3),
        measurements=tuple(found),
        artifacts=tuple(artifacts),
    )


Ending = tuple[rec.Status, str | None, str | None]  # status, error, traceback


def _refusal(cell: Cell, cost: Cost) -> Ending | None:
    """Why a cell is not even started, if so."""
    if cost.refused:
        kind, error, trace = cost.refused
        if kind == "away":
            return ("not_run", error, None)
        return ("unsupported" if kind in ("shape", "unsupported") else "failed", error, trace)
    needed = int(cost.value("tensor_memory_bytes"))
    if cell.target.backend is None or not needed:
        return None
    if cell.target.backend == "cuda":
        free = cuda.memory_bytes(cell.target.index)[0]
    else:
        needed += FRAMEWORK_BYTES
        free = cpu.available_memory_bytes()
    if needed <= free:
        return None
    return (
        "not_run",
        f"needs at least {format_value(needed, 'B')} of memory and {format_value(free, 'B')} is free: "
        "close other programs, or take a smaller --spatial",
        None,
    )


def _in_child(
    cell: Cell,
    time_limit_s: float,
    found: list[rec.Measurement],
    artifacts: list[rec.Artifact],
    keeper: Keeper,
    progress: Progress,
    spent: Spent,
) -> Ending:
    start = time.monotonic()
    ready = False
    ending: Ending = ("failed", "its process ended without a word", None)
    progress.phase("starting")
    request_json = {"task": "measure", "jobs": [rec.to_json(dataclasses.asdict(cell.job()))]}
    for event in talk(request_json, limit_s=time_limit_s, threads=cell.workload.threads):
        if isinstance(event, Death):
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
    earlier = known.find_dice(cell.spec, w)
    if earlier:
        return earlier
    if cell.card.task != "segmentation":
        why = "a classifier: it has no dense output, so no Dice"
    elif w.data is None:
        plan = data.get_plan("phantom")
        why = (
            f"no data set asked for, or it has other channels than this network "
            f"({cell.spec.in_channels} in, {cell.spec.out_channels} out; "
            f"{plan.name}: {plan.in_channels} in, {plan.out_channels} out)"
        )
    elif cell.checkpoint_path:
        why = (
            "not evaluated: nothing runs on a profile" if cell.target.profile else f"not evaluated: the row is {status}"
        )
    else:
        sides = " ".join(map(str, w.spatial))
        why = (
            f"no checkpoint for {w.data} at {format_shape(w.spatial)}: make one with "
            f"'bench train {cell.spec.name} --data {w.data} --spatial {sides}', "
            "then add --checkpoint with the file that it names"
        )
    return [rec.Measurement(metric="dice", unit="1", value=None, origin="measured", method="none", reason=why)]


def failed(records: Iterable[rec.Record]) -> list[rec.Record]:
    """Those that have no result."""
    return [r for r in records if r.status not in ("ok", "unstable")]
