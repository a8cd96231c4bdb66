"""Snapshot of a device's sensors: temperature, clock, throttling.

Two looks, before and after the timed forwards, make a row's conditions. What a board counts of its own
throttling is cumulative since boot, so only the difference of two looks says anything; the totals do not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One look; empty or None is what the device does not tell."""

    temperatures_c: Mapping[str, float] = dataclasses.field(default_factory=dict)  # zone, verbatim -> degrees
    cpu_hz: float | None = None  # the fastest core
    gpu_hz: float | None = None
    #: Counter, verbatim -> events since boot; empty: it has none, and tells only `slowed_by`; None: it tells neither.
    throttle_counts: Mapping[str, int] | None = None
    slowed_by: tuple[str, ...] = ()  # what holds it back at this moment

    @property
    def hottest(self) -> tuple[str, float] | None:
        """The hottest zone and its temperature."""
        return max(self.temperatures_c.items(), key=lambda item: item[1]) if self.temperatures_c else None


def throttled(before: Snapshot, after: Snapshot) -> dict[str, int]:
    """What was counted between two looks, and what held the device back at either: name -> events.

    A state without a counter (a cooling device that is on) is one event.
    """
    earlier, later = before.throttle_counts or {}, after.throttle_counts or {}
    counted = {name: later[name] - earlier.get(name, 0) for name in later if later[name] > earlier.get(name, 0)}
    return counted | dict.fromkeys([*before.slowed_by, *after.slowed_by], 1)
