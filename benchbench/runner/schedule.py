"""Schedule of processes in rounds: which cell runs next, and when a cell is done.

Each round starts one fresh process of every cell that is not done; the first round goes from the cheapest network on,
later ones in random order, so that a machine that warms up or gets busy favours nobody. Interleaving has a cost:
until its last round no cell has a record. So every process that ended is kept in a journal beside the records at
once, and a run that is killed goes on from there.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from benchbench.core import records as rec
from benchbench.core.protocol import Protocol, get_protocol
from benchbench.measure.latency import unsteady
from benchbench.runner import aggregate as runner_aggregate
from benchbench.runner.job import Cell
from benchbench.runner.journal import CellJournal

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
    round: str = ""  # when its round began, ISO 8601, UTC; empty: of an older benchbench

    @property
    def disturbed(self) -> bool:
        """Whether something else took the processor while it was timed."""
        return any(m.metric == "contended_processes" and m.value for m in self.measurements)


class CellProgress:
    """A cell on its way through the rounds."""

    def __init__(self, cell: Cell, *, started_at: str, repeat_of: CellProgress | None = None) -> None:
        """Make it, before its first process.

        Args:
            cell: what is measured.
            started_at: ISO 8601, UTC.
            repeat_of: the same cell, which this one measures a second time for the noise floor (A/A).
        """
        self.cell, self.started_at, self.repeat_of = cell, started_at, repeat_of
        self.protocol: Protocol = get_protocol(cell.workload.protocol)
        self.results: list[ProcessResult] = []
        self.repeated = 0
        self.seconds = 0.0

    def take(self, result: ProcessResult) -> None:
        """Add a process; a disturbed one is run again in a later round, as often as a cell has processes."""
        self.seconds += result.duration_s
        again = self.protocol.processes > 1 and self.repeated < self.protocol.processes
        if result.status in GOOD and result.disturbed and again and self.results:
            self.repeated += 1
            return
        self.results.append(result)

    @property
    def failed(self) -> ProcessResult | None:
        """The process that ended it, if one failed."""
        return next((result for result in self.results if result.status not in GOOD), None)

    @property
    def done(self) -> bool:
        """Whether no further process is needed, or allowed."""
        if self.failed:
            return True
        n, p = len(self.results), self.protocol
        if n < p.processes:
            return False
        if n >= p.max_processes or self.seconds >= p.cell_s:
            return True
        # Judged once, not after each process: stopping as soon as an interval is narrow makes it too narrow.
        return n == p.processes and self.doubt() is None

    @property
    def rounds(self) -> tuple[str, ...]:
        """When the round of each process began; empty where none tells."""
        found = tuple(result.round for result in self.results)
        return found if any(found) else ()

    def _samples(self) -> tuple[str, list[list[float]]]:
        good = [result.measurements for result in self.results if result.status in GOOD]
        for metric in runner_aggregate.TIMES:
            if runs := runner_aggregate.runs_of(good, metric):
                return metric, runs
        return "", []

    def doubt(self) -> str | None:
        """Why the times of its processes are not steady, and what to try; None where they are."""
        _, runs = self._samples()
        return unsteady(runs, self.protocol) if runs else None

    def measurements(self) -> list[rec.Measurement]:
        """Of all processes together."""
        batch = self.cell.workload.batch
        processes = [result.measurements for result in self.results]
        merged = runner_aggregate.merge(processes, batch=batch) if processes else []
        return [self._with_repeats(m) if m.metric == "contended_processes" and self.repeated else m for m in merged]

    def _with_repeats(self, m: rec.Measurement) -> rec.Measurement:
        return dataclasses.replace(m, method=f"{m.method}; {self.repeated} disturbed processes were run again")

    def noise(self, repeat: CellProgress) -> list[rec.Measurement]:
        """The noise floor that this cell and its repeat run show; nothing if either has no samples."""
        metric, own = self._samples()
        _, other = repeat._samples()
        return [runner_aggregate.noise(own, other, metric)] if own and other else []


def run_rounds(
    cells: Sequence[CellProgress],
    measure: Callable[[CellProgress], ProcessResult],
    finish: Callable[[CellProgress, CellProgress | None], None],
    keep: Callable[[CellProgress, ProcessResult], None],
) -> None:
    """Run one process of each cell in turn until every cell is done.

    Args:
        cells: the cheapest first; a repeat run comes anywhere.
        measure: runs one process of a cell.
        finish: called with each cell that is done, and its repeat run, if it has one, once that is done as well.
        keep: called with each process as soon as it has ended.
    """
    chance = random.Random(_SEED)
    repeats = {id(c.repeat_of): c for c in cells if c.repeat_of}
    left = list(cells)
    finished: set[int] = set()

    def finish_those_done() -> None:
        for progress in cells:
            repeat = repeats.get(id(progress))
            waits = repeat and not (repeat.done or progress.failed)
            if progress.repeat_of or id(progress) in finished or not progress.done or waits:
                continue
            finished.add(id(progress))
            finish(progress, repeat)

    finish_those_done()  # a journal may have finished some
    first = True
    while left := [c for c in left if not c.done and not (c.repeat_of and c.repeat_of.failed)]:
        if not first:
            chance.shuffle(left)
        first = False
        began = rec.utc_now()
        for progress in left:
            result = dataclasses.replace(measure(progress), round=began)
            keep(progress, result)
            progress.take(result)
            finish_those_done()


class RunJournal:
    """The processes of cells that have no record yet, on disk as soon as each has ended."""

    def __init__(self, folder: Path, *, fresh: bool = False) -> None:
        """Read what an earlier run left.

        Args:
            folder: of the records.
            fresh: begin anew: it is set aside as `records.unfinished.old`, `.old.2`, ...

        Raises:
            StoreError: it cannot be read, or set aside.
        """
        self._results: dict[tuple[str, str, bool], list[ProcessResult]] = {}
        self._journal = CellJournal(folder / JOURNAL, self._take, fresh=fresh)

    def _take(self, key: tuple[str, str], item: Any) -> None:
        result = rec.from_json(ProcessResult, item["result"])
        self._results.setdefault((*key, bool(item["repeat"])), []).append(result)

    def results(self, cell: str, environment: Mapping[str, Any], *, repeat: bool = False) -> list[ProcessResult]:
        """What was kept of a cell under equal conditions; a process that failed is run again."""
        results = self._results.get((cell, rec.fingerprint(environment), repeat), [])
        return [result for result in results if result.status in GOOD]

    def keep(self, cell: str, environment: Mapping[str, Any], result: ProcessResult, *, repeat: bool = False) -> None:
        """Add a process and wait until the disk has it.

        Raises:
            StoreError: the disk is full or gone.
        """
        self._journal.keep(cell, environment, repeat=repeat, result=rec.to_json(result))

    def close(self) -> None:
        """Everything has a record: the journal is not needed any more."""
        self._journal.close()


def repeat_for(cells: Sequence[CellProgress], forward_s: Callable[[Cell], float]) -> CellProgress | None:
    """A repeat run of the cheapest network whose forward takes long enough to say something.

    Args:
        cells: of one device and one setting, those that will be run.
        forward_s: a guess of a forward's seconds.
    """
    if not cells:
        return None
    ordered = sorted(cells, key=lambda c: forward_s(c.cell))
    chosen = next((c for c in ordered if forward_s(c.cell) >= _TELLING_S), ordered[-1])
    return CellProgress(chosen.cell, started_at=chosen.started_at, repeat_of=chosen)
