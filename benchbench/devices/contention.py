"""Contention: whether other programs, or a hypervisor (steal time), took processor time during a measurement.

The kernel counts busy time for the whole machine, and this process knows its own. The rest is other
programs'. It disturbs only where no core is left for them, so a machine with idle cores is not marked;
in a container that sees its host's counters that is all that can be said.

Source: Linux, Documentation/filesystems/proc.rst, section 1.8 (/proc/stat).
"""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

from benchbench.devices.cpu import ROOT, read_text

FOREIGN_CORES = 0.10  # cores that other programs keep busy, from which a measurement is disturbed
STEAL_CORES = 0.05  # cores' time that a hypervisor gave to other guests
_LEAST_S = 0.2  # the kernel counts in hundredths of a second; over less nothing can be said


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The kernel's counters at one moment, seconds since boot over all cores."""

    at_s: float
    busy_s: float
    idle_s: float
    steal_s: float
    own_s: float  # of this process


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """What happened between two looks, in cores."""

    foreign_cores: float
    steal_cores: float
    idle_cores: float

    @property
    def reason(self) -> str | None:
        """What disturbed, or None."""
        if self.steal_cores > STEAL_CORES:
            return f"the hypervisor took {self.steal_cores:.2f} cores away"
        if self.foreign_cores > FOREIGN_CORES and self.idle_cores < self.foreign_cores:
            return f"other programs took {self.foreign_cores:.2f} cores and {self.idle_cores:.2f} were left idle"
        return None


def look(root: Path = ROOT, *, own_s: float | None = None, at_s: float | None = None) -> Load | None:
    """The counters now; None where the system has none."""
    line = next((line for line in (read_text(root / "proc/stat") or "").splitlines() if line.startswith("cpu ")), "")
    ticks = line.split()[1:9]
    if len(ticks) < 8 or not all(tick.isdigit() for tick in ticks):
        return None
    per_s = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
    user, nice, system, idle, iowait, irq, softirq, steal = (int(tick) / per_s for tick in ticks)
    return Load(
        at_s=time.monotonic() if at_s is None else at_s,
        busy_s=user + nice + system + irq + softirq,
        idle_s=idle + iowait,
        steal_s=steal,
        own_s=time.process_time() if own_s is None else own_s,
    )


def between(before: Load | None, after: Load | None) -> Disturbance | None:
    """What happened between two looks; None where it cannot be told."""
    if before is None or after is None or after.at_s - before.at_s < _LEAST_S:
        return None
    span = after.at_s - before.at_s
    busy, own_s = after.busy_s - before.busy_s, after.own_s - before.own_s
    return Disturbance(
        foreign_cores=max(0.0, busy - own_s) / span,
        steal_cores=max(0.0, after.steal_s - before.steal_s) / span,
        idle_cores=max(0.0, after.idle_s - before.idle_s) / span,
    )
