"""Measurements before and after a search, by `bench run`: forecasts refuse networks, but accept none."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchbench import data
from benchbench.core import records as rec
from benchbench.core.errors import UnsupportedError
from benchbench.core.protocol import get_protocol
from benchbench.core.units import counted, format_duration
from benchbench.runner import run as runner_run
from benchbench.runner.estimate import CellCost
from benchbench.runner.job import Cell
from benchbench.runner.request import RunRequest
from benchbench.runtimes.catalogue import EAGER, get_runtime
from benchbench.search import plan as search_plan
from benchbench.search.clock import ElapsedTime
from benchbench.search.problem import SearchProblem
from benchbench.search.request import SearchRequest

LONGEST_S = 1200.0  # of a measurement, as of `bench run`
_BEFORE_SHARE = 0.2  # most of the time for one measurement before the search
_TIMED_SHARE, _LEAST_TIMED_S = 0.01, 0.5  # of the time, and at least: forwards of a network before the search
_TIMED = 2  # kinds of forwards that a process times: of a patch, and of a volume
_LEAST_LIMIT_S = 30.0  # of a measurement, most of which is the start of a process


class Measuring:
    """Measurements of one search, whose time is counted."""

    def __init__(self, request: SearchRequest, clock: ElapsedTime, tell: Callable[[str], None]) -> None:
        self.request, self.clock, self.tell = request, clock, tell

    def measure(
        self,
        networks: Sequence[Path],
        folder: Path,
        source: data.DataPlan,
        *,
        judged: bool,
        most_s: float,
        protocol: str | None = None,
    ) -> list[rec.Record]:
        """Records of networks on the device, in their order; `judged` by their Dice on `test`, too.

        Args:
            most_s: for one of them.
            protocol: None: that of the request.
        """
        start = time.monotonic()
        request = RunRequest(
            models=",".join(map(str, networks)),
            devices=(self.request.device,),
            protocol=protocol or self.request.protocol,
            phase=self.request.phase,
            runtime=(self.request.runtime,),
            threads=(self.request.threads,),
            volume=None if self.request.phase == "train" else self.request.volume or source.sides or source.patch,
            data=source.where if judged else "none",
            noise=False,
            time_limit_s=max(_LEAST_LIMIT_S, most_s),
        )
        outcome = runner_run.run(request, folder, progress=_RunProgress(self.tell))
        self.clock.measured(time.monotonic() - start)
        return list(outcome.records)

    def before(self, problem: SearchProblem, source: data.DataPlan, folder: Path) -> search_plan.Baseline:
        """The unmodified network and the smallest one of the space, with random weights.

        Raises:
            UnsupportedError: neither runs in the runtime of the search.
        """
        networks = search_plan.networks(problem, folder)
        most_s = _BEFORE_SHARE * self.request.time_s
        whole, least = self.measure(
            networks, folder, source, judged=False, most_s=most_s, protocol=self._short_protocol()
        )
        if problem.runtime != EAGER and not any(map(_has_run, (whole, least))):
            title = get_runtime(problem.runtime).title
            raise UnsupportedError(f"the unmodified network cannot be run in {title}: {whole.error}")
        return search_plan.baseline_of(problem, whole, least)

    def _short_protocol(self) -> str:
        """The protocol with fewer forwards if the search is short, for the measurements before it."""
        protocol = self.request.protocol
        timed_s = round(max(_LEAST_TIMED_S, _TIMED_SHARE * self.request.time_s), 1)
        if "timed_s" in protocol or get_protocol(protocol).timed_s <= timed_s:
            return protocol
        return f"{protocol},timed_s={timed_s:g}"

    def finalist_s(self, before_s: float) -> float:
        """Seconds to measure a finalist, estimated from the two networks that were measured before the search."""
        full, short = get_protocol(self.request.protocol), get_protocol(self._short_protocol())
        return before_s / 2 + _TIMED * full.processes * (full.timed_s - short.timed_s)


def _has_run(record: rec.Record) -> bool:
    """Whether a network ran, or could with more time or memory; with random weights its output decides nothing."""
    return record.status not in ("failed", "unsupported") or record.value("latency_s") is not None


class _RunProgress:
    """Listener of a run whose progress is one line of the search."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell

    def plan(self, cells: Sequence[tuple[Cell, CellCost, float]], folder: Path, reused: int) -> None:
        if cells:
            whole = format_duration(sum(seconds for *_, seconds in cells))
            self.tell(f"measuring {counted(len(cells), 'network')}, about {whole}")

    def begin(self, label: str, remaining_s: float, host: str = "") -> None:
        self.tell(f"measuring {label}")

    def phase(self, text: str, host: str = "") -> None: ...

    def end(self, record: rec.Record) -> None: ...
