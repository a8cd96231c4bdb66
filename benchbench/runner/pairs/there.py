"""Comparison measured on another machine: both sides go over ssh, and the whole measurement runs there as one job.

So no forward waits for the connection. Sets come back as they end: if the connection breaks, what was found before is
a result, and Ctrl-C has the other side end as it would here, with the blocks of the last set.
"""

from __future__ import annotations

import binascii
import contextlib
import dataclasses
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchbench.core import records as rec
from benchbench.core.errors import DeviceError
from benchbench.core.paired_result import PairedResult, Spent
from benchbench.core.paired_times import ProcessSet
from benchbench.devices.hosts import Host
from benchbench.runner.pairs.here import SetsSoFar
from benchbench.runner.pairs.measure import Keep, Progress
from benchbench.runner.pairs.order import ROLES
from benchbench.runner.pairs.plan import PairPlan
from benchbench.runner.remote import weights
from benchbench.runner.remote.queue import cell_to_json
from benchbench.runner.remote.ssh import Connection, ConnectionLost, printable

log = logging.getLogger(__name__)

_WORDS = ("devices", "pairs")
_END_S = 60.0  # from Ctrl-C to the last word of the other side


def measure_there(plan: PairPlan, *, progress: Progress | None = None, keep: Keep | None = None) -> PairedResult:
    """Measure one comparison on the machine of its sides.

    Args:
        plan: with a host.
        progress: hears how far it is.
        keep: gets each set as soon as it has come.

    Raises:
        DeviceError: that machine refuses, or the connection was lost before a set had ended.
        KeyboardInterrupt: before anything was measured.
    """
    host = plan.host
    assert host is not None
    job = _Job(plan, host, progress, keep)
    with Connection(host, _WORDS) as connection:
        connection.send(_request(plan))
        try:
            lost = job.listen(connection)
        except KeyboardInterrupt:
            lost = None
            job.interrupted = True
            with contextlib.suppress(KeyboardInterrupt):  # a second one waits for nothing
                connection.end_input()
                job.listen(connection, _END_S)
    if job.result is not None:
        return job.result
    if job.so_far.times.sets:
        return job.so_far.result(lost=None if job.interrupted else lost, interrupted=job.interrupted)
    if job.interrupted:
        raise KeyboardInterrupt(f"nothing was measured on {host.name} yet")
    raise DeviceError(f"{lost or f'{host.name} ended without a word'}; nothing was measured")


def _request(plan: PairPlan) -> dict[str, Any]:
    settings = plan.settings
    return {
        "asked": plan.sides[0].cell.target.device.asked,
        "cells": [cell_to_json(side.cell) for side in plan.sides],
        "python": [side.python for side in plan.sides],
        "mode": settings.mode,
        "priority": "high" if settings.ahead else "normal",
        "margin": settings.margin,
        "time_limit_s": settings.time_limit_s,
    }


class _Job:
    """What is known here of a comparison that runs on another machine."""

    def __init__(self, plan: PairPlan, host: Host, progress: Progress | None, keep: Keep | None) -> None:
        self.plan, self.host, self.progress, self.keep = plan, host, progress, keep
        self.so_far = SetsSoFar(plan)
        self.interrupted = False
        self.result: PairedResult | None = None

    def listen(self, connection: Connection, limit_s: float = math.inf) -> str | None:
        """Hear the other side to its end; how it ended, where that was too early."""
        for event in connection.events(limit_s):
            if isinstance(event, ConnectionLost):
                return event.error
            try:
                self._hear(event, connection)
            except (KeyError, TypeError, ValueError, binascii.Error) as error:
                log.debug("from %s: %r", self.host.url, event)
                return f"{self.host.url} sent what this benchbench cannot read ({event['event']}: {error})"
        return None

    def _hear(self, event: Mapping[str, Any], connection: Connection) -> None:
        kind = event["event"]
        if kind == "waiting":
            self._tell(0.0, f"another run has {self.host.name}: waiting for its end")
        elif kind == "need":
            cells = [side.cell for side in self.plan.sides]
            paths = {c.model.checkpoint: c.job.checkpoint_path for c in cells if c.job.checkpoint_path}
            for digest in event["sha256"]:
                for message in weights.messages(Path(paths[digest])):
                    connection.send(message)
        elif kind == "step":
            self._tell(float(event["used"]), str(event["text"]))
        elif kind == "set":
            one, spent = rec.from_json(ProcessSet, event["set"]), rec.from_json(Spent, event["spent"])
            found = {role: [rec.from_json(rec.Measurement, m) for m in event["measurements"][role]] for role in ROLES}
            self.so_far.add(one, found, spent)
            if self.keep:
                self.keep(one, found, spent)
        elif kind == "result":
            self.result = self._checked(rec.from_json(PairedResult, event["result"]))

    def _tell(self, used: float, text: str) -> None:
        if self.progress:
            self.progress(min(max(used, 0.0), 1.0), text)

    def _checked(self, result: PairedResult) -> PairedResult:
        """The result, with the machine's address in both records, as in those of a run.

        Raises:
            ValueError: it is of something else.
        """
        asked = [(side.cell.model, side.cell.workload) for side in self.plan.sides]
        if [(side.model, side.workload) for side in (result.a, result.b)] != asked:
            raise ValueError("a comparison that was not asked for")
        a, b = (
            dataclasses.replace(record, environment={**record.environment, "host": self.host.place})
            for record in (result.a, result.b)
        )
        return dataclasses.replace(
            result,
            a=a,
            b=b,
            labels=self.plan.labels,
            error=None if result.error is None else printable(result.error),
            repeated=tuple(map(printable, result.repeated)),
            condition_differences=tuple(map(printable, result.condition_differences)),
        )
