"""`bench run`: networks x devices to records.

The cells are counted first (`estimate`), then this machine's are measured in rounds (`local`), each process of a
network a fresh child. Each record, and until then each process's samples, is on disk before the next child starts, so
whatever stops a run, running the same command again with the same `--out` measures only what is missing. Another host
runs the same command with its cells (`remote.queue`), at the same time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from benchbench.core import records as rec
from benchbench.core.errors import CardError, ShapeError
from benchbench.core.results import Store
from benchbench.devices import jetson
from benchbench.runner.estimate import CellCost, count, estimate_s
from benchbench.runner.job import Cell
from benchbench.runner.listener import RunListener
from benchbench.runner.local import LocalRunner
from benchbench.runner.plan import plan_cells
from benchbench.runner.recorder import Recorder
from benchbench.runner.remote.queue import HostQueues
from benchbench.runner.request import RunRequest
from benchbench.runner.result import RunResult, TimeBreakdown
from benchbench.runner.schedule import RunJournal


def run(request: RunRequest, out: Path, *, fresh: bool = False, progress: RunListener) -> RunResult:
    """Measure, or predict, every network on every device.

    Args:
        request: what was asked.
        out: results folder, made if need be.
        fresh: start over there.
        progress: hears what happens.

    Raises:
        UsageError: an unknown name, a class that cannot be imported, a size that no network can take.
        NotMeasuredError: only a prediction can be had, and `require_measured`.
        StoreError: the folder cannot be written, or is not ours.
    """
    return run_cells(plan_cells(request), request, out, fresh=fresh, progress=progress)


def run_cells(
    cells: Sequence[Cell],
    request: RunRequest,
    out: Path,
    *,
    fresh: bool = False,
    progress: RunListener,
    without_weights: Mapping[str, str] | None = None,
) -> RunResult:
    """Measure, or predict, cells that are planned.

    Args:
        cells: of this machine and of others.
        request: for the time limit, the clocks and the noise floor.
        out: results folder.
        fresh: start over there.
        progress: hears what happens.
        without_weights: cell -> why its weights could not be had; given by the far side of a run, where a class that
            is not installed is a row, too, and not the end of the run.

    Raises:
        CardError: the class of a network cannot be imported.
        ShapeError: no network can take the size.
        StoreError: the folder cannot be written, or is not ours.
    """
    began = time.monotonic()
    spent = TimeBreakdown()
    with clocks(request.set_clocks and any(not c.target.host for c in cells)), Store(out, fresh=fresh) as store:
        journal = RunJournal(out, fresh=fresh)
        recorder = Recorder(store, journal, progress, cells)
        costs = count([c for c in cells if not c.target.host and c.id not in (without_weights or ())], spent)
        if without_weights is None:
            _refuse(list(costs.values()))
        else:
            costs = {key: _not_installed(cost) for key, cost in costs.items()}
            costs |= {key: CellCost(refused=("not_run", why, None)) for key, why in without_weights.items()}
        done = recorder.done
        for cell in cells:
            if earlier := store.finished(cell.id, recorder.environment(cell)):
                done[cell.id] = earlier
        reused = len(done)
        left = [c for c in cells if c.id not in done]
        todo = sorted((c for c in left if not c.target.host), key=lambda c: costs[c.id].value("macs"))
        away = [c for c in left if c.target.host]
        estimates = {c.id: estimate_s(c, costs[c.id], c.workload.protocol) for c in todo}
        planned = [(c, costs.get(c.id, CellCost()), estimates.get(c.id, 0.0)) for c in [*todo, *away]]
        progress.plan(planned, out, reused)
        with HostQueues(away, request, recorder) as others:
            runner = LocalRunner(costs, estimates, request.time_limit_s, recorder, spent, noise=request.noise)
            runner.run(todo, settled=list(done.values()))
            spent.total_s = time.monotonic() - began  # of this machine's own part
            others.join()
        if not failed(done.values()):  # else the processes that ended well are of use to the next run
            journal.close()
    banners = dict.fromkeys(c.target.banner for c in cells if c.target.banner)
    return RunResult(
        folder=out,
        records=tuple(done[c.id] for c in cells),
        reused=reused,
        spent=spent,
        banners=tuple(banners),
        hosts=tuple(queue.spent for queue in others.queues),
    )


def clocks(wanted: bool) -> contextlib.AbstractContextManager[None]:
    """A Jetson's highest clocks while it lasts, if they are wanted."""
    return jetson.clocks_set() if wanted else contextlib.nullcontext()


def _refuse(costs: Collection[CellCost]) -> None:
    """End a run in which something asked for cannot be had.

    Raises:
        CardError: the class of a network cannot be imported or built as asked.
        ShapeError: no network can take the size.
    """
    refusals = [cost.refused for cost in costs if cost.refused]
    for kind, error, _ in refusals:
        if kind == "usage":
            raise CardError(error)
    if refusals and len(refusals) == len(costs) and all(kind == "shape" for kind, _, _ in refusals):
        raise ShapeError("; ".join(dict.fromkeys(error for _, error, _ in refusals)))


def _not_installed(cost: CellCost) -> CellCost:
    """On a host, a class that is not there is no fault of the network: the row is not run, and says what is missing."""
    if cost.refused is None or cost.refused[0] != "usage":
        return cost
    why = f"over there: {cost.refused[1]}; a class of one's own has to be installed on the host, or lie in its --folder"
    return dataclasses.replace(cost, refused=("not_run", why, None))


def failed(records: Iterable[rec.Record]) -> list[rec.Record]:
    """Those that have no result."""
    return [r for r in records if not r.ok]
