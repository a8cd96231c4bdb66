"""`bench evaluate`: Dice and surface distances of networks, ensembles and label maps, with nothing timed.

Each case is on disk once it is judged, and each subject's record before the next one begins, so whatever stops an
evaluation, running the same command again with the same `--out` judges only what is missing.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchbench.core import records as rec
from benchbench.core.errors import DataError, StoreError
from benchbench.core.results import Store
from benchbench.devices.environment import environment
from benchbench.devices.resolve import resolve
from benchbench.runner.evaluation.cases import is_case, map_slice, read_slice, tables_of
from benchbench.runner.evaluation.journal import CaseJournal
from benchbench.runner.evaluation.plan import Subject, plan_subjects
from benchbench.runner.evaluation.processes import judge
from benchbench.runner.evaluation.request import EvaluateRequest
from benchbench.runner.record import file_name
from benchbench.training import evaluate as judging
from benchbench.training.case_pictures import Slice, chosen_cases, picture

log = logging.getLogger(__name__)

#: Called with the share of all cases that is done, 0 to 1, and what is being done.
Progress = Callable[[float, str], None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """What an evaluation left behind."""

    folder: Path
    records: tuple[rec.Record, ...]  # one a subject, in the order asked
    reused: int  # subjects that were evaluated before


def evaluate(
    request: EvaluateRequest, out: Path, *, fresh: bool = False, progress: Progress | None = None
) -> EvaluationResult:
    """Evaluate everything that was asked for, or what is missing of it in the folder.

    Args:
        request: what was asked.
        out: results folder, made if need be.
        fresh: start over there.
        progress: told after each case.

    Raises:
        UsageError: as `plan_subjects` does; what fails later is a row.
        StoreError: the folder cannot be written, or is not ours.
    """
    target = resolve(request.device)
    subjects = plan_subjects(request, target)
    conditions = environment(target.backend, request.threads, cuda_index=target.index)
    with Store(out, fresh=fresh) as store:
        journal = CaseJournal(out, fresh=fresh)
        done = {s.cell: earlier for s in subjects if (earlier := store.finished(s.cell, conditions))}
        reused, left = len(done), [s for s in subjects if s.cell not in done]
        total, before = sum(len(s.indices) for s in left), 0
        for subject in left:
            tell = _teller(subject, before, total, progress)
            record = _Judging(subject, request, store, journal, conditions, tell).record()
            store.append(record)
            done[subject.cell] = record
            before += len(subject.indices)
        if all(record.ok for record in done.values()):  # else the cases that were judged are of use to the next run
            journal.close()
    return EvaluationResult(folder=out, records=tuple(done[s.cell] for s in subjects), reused=reused)


def _teller(subject: Subject, before: int, total: int, progress: Progress | None) -> Callable[[int], None]:
    """Tells how many cases of a subject are done."""

    def tell(done: int) -> None:
        if progress:
            progress((before + done) / total, f"{subject.model.name}, case {done} of {len(subject.indices)}")

    return tell


class _Judging:
    """The evaluation of one subject."""

    def __init__(
        self,
        subject: Subject,
        request: EvaluateRequest,
        store: Store,
        journal: CaseJournal,
        conditions: Mapping[str, Any],
        tell: Callable[[int], None],
    ) -> None:
        self.subject, self.request, self.store, self.journal, self.tell = subject, request, store, journal, tell
        self.conditions = conditions
        self.regions = len(subject.plan.regions)
        earlier = journal.cases(subject.cell, conditions)
        self.cases = {i: earlier[i] for i in subject.indices if i in earlier and is_case(earlier[i], self.regions)}
        self.unread: dict[int, str] = {}
        self.params: rec.Measurement | None = None
        self.failure: tuple[rec.Status, str, str | None] | None = None
        self.fault: StoreError | None = None  # of this side: no row, but the end of the command

    def record(self) -> rec.Record:
        """Judge what is left, and make the record."""
        subject = self.subject
        started_at, start = rec.utc_now(), time.monotonic()
        judge(
            subject,
            [i for i in subject.indices if i not in self.cases],
            self._hear,
            slices=str(self.journal.slices(subject.cell)),
            workers=self.request.workers,
            threads=self.request.threads,
        )
        if self.fault:
            raise self.fault
        measurements: tuple[rec.Measurement, ...] = ()
        artifacts: tuple[rec.Artifact, ...] = ()
        if not self.failure:
            try:
                measurements, artifacts = self._results()
            except DataError as error:
                self.failure = ("failed", str(error), None)
        status, why, trace = self.failure or ("ok", None, None)
        return rec.Record(
            model=subject.model,
            workload=subject.workload,
            device=subject.target.device,
            environment=self.conditions,
            status=status,
            error=why,
            traceback=trace,
            started_at=started_at,
            duration_s=round(time.monotonic() - start, 3),
            measurements=tuple(filter(None, (self.params, *measurements))),
            artifacts=artifacts,
            recipe=subject.recipe,
        )

    def _hear(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "measurement":
            self.params = rec.from_json(rec.Measurement, event["measurement"])
        elif kind == "case":
            case = event["case"]
            try:
                self.journal.keep(self.subject.cell, self.conditions, case)
            except StoreError as error:
                self.fault = error
                raise
            self.cases[case["index"]] = case
            self.tell(len(self.cases) + len(self.unread))
        elif kind == "unreadable":
            log.warning("left out of the Dice: %s", event["error"])
            self.unread[event["index"]] = event["error"]
            self.tell(len(self.cases) + len(self.unread))
        elif kind in ("end", "refused") and event["status"] != "ok":
            self.failure = self.failure or (event["status"], event["error"], event.get("traceback"))

    def _results(self) -> tuple[tuple[rec.Measurement, ...], tuple[rec.Artifact, ...]]:
        subject, plan = self.subject, self.subject.plan
        cases = [self.cases[i] for i in sorted(self.cases)]
        unread = [f"{judging.case_name(plan, subject.split, i)} ({self.unread[i]})" for i in sorted(self.unread)]
        method = judging.method_of(plan, subject.split, subject.how, len(cases), unread)
        if subject.seen:
            method += f"; {subject.seen} of the cases were in its training, so this is no test"
        tables = tables_of(cases)
        found, values = judging.summarise(tables, [case["id"] for case in cases], plan, method)
        stem = file_name(subject.model.name)
        content = json.dumps(values, separators=(",", ":")).encode()
        title = f"Every case of {subject.model.name}, by name"
        artifacts = [self.store.add_artifact("cases", f"{stem}-cases.json", content, title=title)]
        return (*found, *self._counts(len(cases), unread)), (*self._pictures(cases, tables["dice"], stem), *artifacts)

    def _counts(self, judged: int, unread: list[str]) -> list[rec.Measurement]:
        """Over how many cases the means are, and what should be known of these."""
        subject = self.subject
        asked = subject.plan.splits[subject.split]
        counts = [rec.Measurement.of("evaluated_cases", judged, f"of {asked} {subject.split} cases")]
        if asked > judged:
            why = "; ".join(filter(None, [subject.lacking, *(f"cannot be read: {text}" for text in unread)]))
            counts.append(rec.Measurement.of("missing_cases", asked - judged, why))
        if subject.seen:
            how = "cases that the weights were trained on or chosen by: their Dice is no test"
            counts.append(rec.Measurement.of("training_cases", subject.seen, how))
        return counts

    def _pictures(self, cases: list[dict[str, Any]], dice: judging.Table, stem: str) -> list[rec.Artifact]:
        means = judging.means(dice)
        made = []
        for name, place in chosen_cases(means).items():
            shown = self._slice(cases[place]["index"])
            if shown is not None:
                drawn = picture(name, float(means[place]), len(cases), shown, self.subject.plan)
                made.append(self.store.add_artifact("picture", f"{stem}-{drawn.name}", drawn.png, title=drawn.title))
        return made

    def _slice(self, index: int) -> Slice | None:
        """What the picture of a case shows; None where it cannot be had any more."""
        subject = self.subject
        if not subject.maps:
            return read_slice(self.journal.slices(subject.cell), index)
        path = Path(subject.maps[subject.plan.ids[subject.split][index]])
        try:
            return map_slice(subject.plan, subject.split, index, path)
        except DataError as error:
            log.warning("no picture: %s", error)
            return None
