"""Result of a run: its records, and where its time went."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from benchbench.core import records as rec


@dataclasses.dataclass(slots=True, kw_only=True)
class TimeBreakdown:
    """Where a run's time on one machine went, in seconds; latencies contain none of it."""

    host: str = ""  # its name in `bench devices`; empty: this machine
    total_s: float = 0.0
    counting_s: float = 0.0
    start_s: float = 0.0  # worker processes' start-up: imports, building, loading
    forward_s: float = 0.0  # warm-up and timed
    accuracy_s: float = 0.0
    connect_s: float = 0.0  # from starting ssh to the host's first word
    waited_s: float = 0.0  # for another run to leave the host
    transfer_s: float = 0.0  # of weights to the host
    sent_bytes: int = 0

    @property
    def measured_s(self) -> float:
        """Inside forwards, Dice, or the networks' own start-up."""
        return self.start_s + self.forward_s + self.accuracy_s

    @property
    def share(self) -> float:
        """The part of the run that is `measured_s`."""
        return self.measured_s / self.total_s if self.total_s else 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run left behind."""

    folder: Path
    records: tuple[rec.Record, ...]  # one a cell, in the order asked
    reused: int
    spent: TimeBreakdown
    banners: tuple[str, ...]  # of predictions, to be shown above them
    hosts: tuple[TimeBreakdown, ...] = ()
