"""Schedule of processes in rounds: which cell runs next, and when a cell is done.

Each round starts one fresh process of every cell that is not done; the first round goes from the cheapest network on,
later ones in random order, so that a machine that warms up or gets busy favours nobody. Interleaving has a cost:
until its last round no cell has a record. So every process that ended is kept in a journal beside the records at
once, and a run that is killed goes on from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from benchbench.core import records as rec
from benchbench.core.config import parse_json
from benchbench.core.errors import StoreError
from benchbench.core.protocol import Protocol, get_protocol
from benchbench.core.results import set_aside
from benchbench.measure.latency import unsteady
from benchbench.runner import aggregate as runner_aggregate
from benchbench.runner.job import Cell

JOURNAL = "records.unfinished"
_SEED = 7  # of the order within rounds
_TELLING_S = 0.02  # a forward shorter than this is mostly the interpreter's own time
GOOD = ("ok", "unstable")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProcessResult:
    """What one process of a cell left behind."""

    status: rec.Status
    error: str | None = None
    traceback: str | None = None
    measurements: tuple[rec.Measurement, ...] = ()
    artifacts: tuple[rec.Artifact, ...] = ()
    duration_s: Annotated[float, rec.AtLeast(0)] = 0.0

    @property
    def disturbed(self) -> bool:
        """Whether something else took the processor while it was timed."""
        return any(m.metric == "disturbed_processes" and m.value for m in self.measurements)


class CellProgress:
    """A cell on its way through the rounds."""

    def __init__(self, cell: Cell, *, started_at: str, twin_of: CellProgress | None = None) -> None:
        """Make it, with no turn taken.

        Args:
            cell: what is measured.
            started_at: ISO 8601, UTC.
            twin_of: the course of the same cell whose double this is.
        """
        self.cell, self.started_at, self.twin_of = cell, started_at, twin_of
        self.protocol: Protocol = get_protocol(cell.workload.protocol)
        self.turns: list[ProcessResult] = []
        self.repeated = 0
        self.seconds = 0.0

    def take(self, turn: ProcessResult) -> None:
        """Add a turn; a disturbed one is taken again in a later round, as often as a cell has processes."""
        self.seconds += turn.duration_s
        again = self.protocol.processes > 1 and self.repeated < self.protocol.processes
        if turn.status in GOOD and turn.disturbed and again and self.turns:
            self.repeated += 1
            return
        self.turns.append(turn)

    @property
    def failed(self) -> ProcessResult | None:
        """The turn that ended it, if one failed."""
        return next((turn for turn in self.turns if turn.status not in GOOD), None)

    @property
    def done(self) -> bool:
        """Whether no further process is needed, or allowed."""
        if self.failed:
            return True
        n, p = len(self.turns), self.protocol
        if n < p.processes:
            return False
        if n >= p.max_processes or self.seconds >= p.cell_s:
            return True
        # Looked at once, not after each: an interval that may end the search whenever it is narrow is too narrow.
        return n == p.processes and self._doubt() is None

    def _samples(self) -> tuple[str, list[list[float]]]:
        good = [turn.measurements for turn in self.turns if turn.status in GOOD]
        for metric in runner_aggregate.TIMES:
            if runs := runner_aggregate.runs_of(good, metric):
                return metric, runs
        return "", []

    def _doubt(self) -> str | None:
        _, runs = self._samples()
        return unsteady(runs, self.protocol) if runs else None

    def ending(self) -> tuple[rec.Status, str | None, str | None]:
        """Status, error and traceback of the whole cell."""
        if bad := self.failed:
            n = len(self.turns)
            nth = f"in process {n} of {self.protocol.processes}: " if n > 1 else ""
            return bad.status, f"{nth}{bad.error}", bad.traceback
        doubts = [self._doubt()]
        if self.protocol.processes == 1 or len(self.turns) == 1:
            doubts = [turn.error for turn in self.turns]
        else:  # what a single process said of its own spread is settled by the others; the rest still holds
            doubts += [turn.error for turn in self.turns if turn.status == "unstable"]
        told = "; ".join(dict.fromkeys(doubt for doubt in doubts if doubt))
        return ("unstable", told, None) if told else ("ok", None, None)

    def measurements(self) -> list[rec.Measurement]:
        """Of all turns together."""
        batch = self.cell.workload.batch
        found = runner_aggregate.merge([turn.measurements for turn in self.turns], batch=batch) if self.turns else []
        return [self._with_repeats(m) if m.metric == "disturbed_processes" and self.repeated else m for m in found]

    def _with_repeats(self, m: rec.Measurement) -> rec.Measurement:
        return dataclasses.replace(m, method=f"{m.method}; {self.repeated} disturbed processes were run again")

    def noise(self, twin: CellProgress) -> list[rec.Measurement]:
        """The noise floor that this course and its double show; nothing if either has no samples."""
        metric, own = self._samples()
        _, other = twin._samples()
        return [runner_aggregate.noise(own, other, metric)] if own and other else []


def run_rounds(
    courses: Sequence[CellProgress],
    measure: Callable[[CellProgress], ProcessResult],
    finish: Callable[[CellProgress, CellProgress | None], None],
    kept: Callable[[CellProgress, ProcessResult], None],
) -> None:
    """Take turns until every course is done.

    Args:
        courses: the cheapest first; a twin comes anywhere.
        measure: runs one process of a course.
        finish: told of each course that is done, with its double, if it has one, once that is done as well.
        kept: told of each turn as soon as it has ended.
    """
    chance = random.Random(_SEED)
    twins = {id(c.twin_of): c for c in courses if c.twin_of}
    left = list(courses)
    told: set[int] = set()

    def tell() -> None:
        for course in courses:
            twin = twins.get(id(course))
            if course.twin_of or id(course) in told or not course.done or (twin and not _over(twin, course)):
                continue
            told.add(id(course))
            finish(course, twin)

    tell()  # a journal may have finished some
    first = True
    while left := [c for c in left if not c.done and not (c.twin_of and c.twin_of.failed)]:
        if not first:
            chance.shuffle(left)
        first = False
        for course in left:
            turn = measure(course)
            kept(course, turn)
            course.take(turn)
            tell()


def _over(twin: CellProgress, partner: CellProgress) -> bool:
    return twin.done or partner.failed is not None


class RunJournal:
    """The turns of cells that have no record yet, on disk as soon as each has ended."""

    def __init__(self, folder: Path, *, fresh: bool = False) -> None:
        """Read what an earlier run left.

        Args:
            folder: of the records.
            fresh: begin anew: it is set aside as `records.unfinished.old`, `.old.2`, ...

        Raises:
            StoreError: it cannot be read, or set aside.
        """
        self.path = folder / JOURNAL
        self._turns: dict[tuple[str, str, bool], list[ProcessResult]] = {}
        self._kept: dict[str, list[ProcessResult]] = {}
        try:
            if fresh:
                set_aside([self.path])
            lines = self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else []
        except OSError as error:
            raise StoreError(f"cannot use {self.path}: {error.strerror or error}; choose another --out") from error
        for line in lines:
            with contextlib.suppress(StoreError, KeyError, TypeError):  # torn, or of another version
                item = parse_json(line, JOURNAL, StoreError)
                key = (str(item["cell"]), str(item["environment"]), bool(item["twin"]))
                self._turns.setdefault(key, []).append(rec.from_json(ProcessResult, item["turn"]))

    def turns(self, cell: str, environment: Mapping[str, Any], *, twin: bool = False) -> list[ProcessResult]:
        """What was kept of a cell under equal conditions; a failed turn is tried again."""
        found = self._turns.get((cell, rec.fingerprint(environment), twin), [])
        return [turn for turn in found if turn.status in GOOD]

    def came(self, cell: str) -> list[ProcessResult]:
        """What this run kept of a cell."""
        return list(self._kept.get(cell, ()))

    def keep(self, cell: str, environment: Mapping[str, Any], turn: ProcessResult, *, twin: bool = False) -> None:
        """Add a turn and wait until the disk has it.

        Raises:
            StoreError: the disk is full or gone.
        """
        self._kept.setdefault(cell, []).append(turn)
        item = {
            "cell": cell,
            "environment": rec.fingerprint(environment),
            "twin": twin,
            "turn": rec.to_json(turn),
        }
        try:
            with open(self.path, "ab") as file:
                file.write(rec.canonical_json(item).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(
                f"cannot write to {self.path}: {error.strerror or error}; what is finished is kept: "
                "make room and run the same command again"
            ) from error

    def close(self) -> None:
        """Everything has a record: the journal is not needed any more."""
        self.path.unlink(missing_ok=True)


def twin_for(courses: Sequence[CellProgress], forward_s: Callable[[Cell], float]) -> CellProgress | None:
    """The double of the cheapest network whose forward takes long enough to say something.

    Args:
        courses: of one device and one setting, those that will be run.
        forward_s: a guess of a forward's seconds.
    """
    if not courses:
        return None
    ordered = sorted(courses, key=lambda c: forward_s(c.cell))
    chosen = next((c for c in ordered if forward_s(c.cell) >= _TELLING_S), ordered[-1])
    return CellProgress(chosen.cell, started_at=chosen.started_at, twin_of=chosen)
