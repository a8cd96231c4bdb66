"""`bench audit`: audits of networks, and a record of each; nothing is computed or measured.

One child process audits all networks. One that takes its process with it becomes a row, and the next
ones get a new child. The records of an audit have the protocol `audit` and the device `none`, so that
none of them is ever taken for a measurement.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchbench.core import records as rec
from benchbench.core.audit_result import AuditResult
from benchbench.core.errors import CardError, ShapeError, UsageError
from benchbench.core.results import Store
from benchbench.core.units import format_shape
from benchbench.devices.environment import environment
from benchbench.runner.child_process import WorkerFailure, run_worker
from benchbench.runner.job import Job
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import classes

DEVICE = rec.Device(kind="none", name="counted from the graph", basis="profile", asked="none")
_START_S = 60.0  # for a child to import PyTorch and MONAI on a slow disk
_LIMIT_S = {False: 30.0, True: 1200.0}  # for each network, counted without values, or run at full size


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AuditOutcome:
    """One network: its audit, or why there is none."""

    card: zoo_cards.Card
    job: Job
    result: AuditResult | None = None
    weightless: bool = True  # built without memory for its weights
    kind: str | None = None  # of the refusal: usage | shape | unsupported | failed
    error: str | None = None
    traceback: str | None = None
    duration_s: float = 0.0

    @property
    def counted(self) -> bool:
        """Whether the headline could be had."""
        return self.result is not None and self.result.macs is not None

    @property
    def why_not(self) -> str | None:
        """Why there is no headline."""
        return self.error if self.result is None else self.result.counter("torch").reason


def run(
    models: str,
    *,
    shape: Sequence[int] | None = None,
    in_channels: int | None = None,
    out_channels: int | None = None,
    full: bool = False,
    trust: bool = False,
    out: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[AuditOutcome]:
    """Audit every network that is asked for.

    Args:
        models: as for `bench run`.
        shape: (B, C, D, H, W) for all of them; None: one input of each card's own size.
        trust: import the class that weights name, also where it is not of benchbench.
        out: results folder for a record of each; None: none are kept.

    Raises:
        UsageError: an unknown name, a class that cannot be imported, a size that no network can take.
        StoreError: the folder cannot be written, or is not ours.
    """
    cards = zoo_cards.find_cards(models, trust=trust)
    if shape and in_channels not in (None, shape[1]):
        raise UsageError(f"--in-channels {in_channels} is not the {shape[1]} of --input: give one of them")
    cards = zoo_cards.with_channels(cards, in_channels, out_channels)
    jobs = [_job(card, shape) for card in cards]
    if out is None:
        return _all(cards, jobs, full, tell, lambda _: None)
    with Store(out) as store:
        return _all(cards, jobs, full, tell, _Kept(store))


class _Kept:
    """Writes the record of each audit as soon as it is done.

    Refusals of the size wait for another row: where they are all there is, the size is wrong and nothing is recorded.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._where = environment(None)
        self._waiting: list[AuditOutcome] = []
        self._any = False  # written

    def __call__(self, row: AuditOutcome) -> None:
        if row.kind == "usage":
            return
        self._waiting.append(row)
        self._any = self._any or row.kind != "shape"
        if not self._any:
            return
        for waiting in self._waiting:
            self._store.append(_record(waiting, self._store, self._where))
        self._waiting.clear()


def _job(card: zoo_cards.Card, shape: Sequence[int] | None) -> Job:
    batch, channels, *spatial = shape or (1, card.in_channels, *card.spatial)
    return Job(
        model=card.spec(in_channels=channels),
        workload=rec.Workload(batch=batch, spatial=tuple(spatial), protocol="audit"),
        folder=card.folder,
        trusted=classes.may_import(card.arch),
    )


def _all(
    cards: Sequence[zoo_cards.Card],
    jobs: Sequence[Job],
    full: bool,
    tell: Callable[[str], None],
    keep: Callable[[AuditOutcome], None],
) -> list[AuditOutcome]:
    rows: list[AuditOutcome] = []
    while len(rows) < len(jobs):
        done = len(rows)
        for row in _some(cards[done:], jobs[done:], full, tell):
            keep(row)
            rows.append(row)
    refused = [row for row in rows if row.kind]
    for row in refused:
        if row.kind == "usage":
            raise CardError(str(row.error))
    if refused and len(refused) == len(rows) and all(row.kind == "shape" for row in refused):
        raise ShapeError("; ".join(dict.fromkeys(str(row.error) for row in refused)))
    return rows


def _some(
    cards: Sequence[zoo_cards.Card], jobs: Sequence[Job], full: bool, tell: Callable[[str], None]
) -> Iterator[AuditOutcome]:
    """The audits up to the first network that ends the child, each as soon as it is done."""
    request = {
        "task": "audit",
        "full": full,
        "jobs": [rec.to_json(job) for job in jobs],
        "published": [_published(card, job) for card, job in zip(cards, jobs, strict=True)],
    }
    done = 0
    start = time.monotonic()

    def outcome(**fields: Any) -> AuditOutcome:
        return AuditOutcome(card=cards[done], job=jobs[done], duration_s=round(time.monotonic() - start, 3), **fields)

    for event in run_worker(request, limit_s=_START_S + _LIMIT_S[full] * len(jobs)):
        if isinstance(event, WorkerFailure):
            if done < len(jobs):  # else all are known: how it ended says nothing of them
                error = f"while it was counted, {event.error.replace('; a longer one: --time-limit', '')}"
                yield outcome(kind="failed", error=error, traceback=event.stderr)
            return
        match event["event"]:
            case "begin":
                start = time.monotonic()
                tell(f"[{event['index'] + 1}/{len(jobs)}] {cards[done].name} {format_shape(jobs[done].input_shape)}")
            case "audit":
                result = event["result"]
                yield outcome(result=rec.from_json(AuditResult, result), weightless=result["weightless"])
                done += 1
            case "refused":
                yield outcome(kind=event["kind"], error=event["error"], traceback=event.get("traceback"))
                done += 1
    if not done:  # else the same network would be tried for ever
        yield outcome(kind="failed", error="its process ended without a word while counted")


def _published(card: zoo_cards.Card, job: Job) -> dict[str, float]:
    """The paper's figures, if they are for this very input."""
    if job.workload.batch != 1:
        return {}
    figures = card.published_measurements(job.model.in_channels, job.model.out_channels, job.workload.spatial)
    return {m.metric: float(m.value) for m in figures if m.metric in ("macs", "params") and m.value is not None}


def _record(row: AuditOutcome, store: Store, where: Mapping[str, Any]) -> rec.Record:
    job = row.job
    measurements = row.card.published_measurements(job.model.in_channels, job.model.out_channels, job.workload.spatial)
    artifacts: tuple[rec.Artifact, ...] = ()
    status: rec.Status = "unsupported" if row.kind in ("shape", "unsupported") else "failed"
    if row.result:
        measurements = [*row.result.measurements(), *measurements]
        content = json.dumps(row.result.to_json(), separators=(",", ":")).encode()
        name = "".join(c if c.isalnum() or c in "-_" else "-" for c in row.card.name)
        title = f"What each counter says of {row.card.title}"
        artifacts = (store.add_artifact("audit", f"{name}-audit.json", content, title=title),)
        status = "ok" if row.counted else "unsupported"
    return rec.Record(
        model=job.model,
        workload=job.workload,
        device=DEVICE,
        environment=where,
        status=status,
        error=None if row.counted else row.why_not,
        traceback=row.traceback or None,
        started_at=rec.utc_now(),
        duration_s=row.duration_s,
        measurements=tuple(measurements),
        artifacts=artifacts,
        recipe=row.card.compression,
    )


def to_json(row: AuditOutcome) -> dict[str, Any]:
    """The audit as its artifact holds it; of a network without one, its name, input and the reason."""
    if row.result is not None:
        return row.result.to_json()
    return {"model": row.card.name, "input": list(row.job.input_shape), "reason": row.error}
