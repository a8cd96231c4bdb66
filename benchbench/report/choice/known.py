"""What is known of a row, quantity by quantity, and whether that is enough to say that a limit is kept.

A limit is kept, or missed, only where the whole interval of what is known lies on one side of it. What a data sheet
forecasts can rule a row out, since it is a lower bound of a time; it never shows that a limit is kept.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping
from typing import Literal

from benchbench.core import records as rec
from benchbench.core import statistics as core_statistics
from benchbench.core.units import format_value
from benchbench.report import reliability
from benchbench.report.cells import bounded_text, finite, range_text, tier_of, valid

Quantity = Literal["time", "memory", "file", "energy", "dice"]
Verdict = Literal["kept", "not sure", "missed", "not known"]

#: Quantity -> (what it is called, unit, the flag that limits it).
QUANTITIES: Mapping[Quantity, tuple[str, str, str]] = {
    "time": ("time", "s", "--max-latency"),
    "memory": ("peak memory", "B", "--max-memory"),
    "file": ("file", "B", "--max-file"),
    "energy": ("energy", "J", "--max-energy"),
    "dice": ("Dice", "1", "--min-dice"),
}
_FLOAT_BYTES = 4  # of a parameter in a file of weights

#: Start of a forecast's method -> what it is called; the first alone is checked on that very device.
TIERS: Mapping[str, str] = {
    "calibrated": "calibrated forecast",
    "scaled": "forecast scaled from another device",
    "datasheet": "data-sheet forecast",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What a row has to keep."""

    quantity: Quantity
    value: float  # the most, in the unit of the quantity; of Dice the least

    def __str__(self) -> str:
        """`time at most 1 s`."""
        title, unit, _ = QUANTITIES[self.quantity]
        side = "at least" if self.quantity == "dice" else "at most"
        return f"{title} {side} {format_value(self.value, unit)}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KnownFigure:
    """One quantity of a row: a number between two others, or why there is none."""

    quantity: Quantity
    measurement: rec.Measurement | None = None
    low: float = math.nan  # what it may be, at least
    high: float = math.nan  # and at most; infinite where the number is a bound
    of: str = ""  # what the number is of: `one patient`, `one patch`, `the weights alone`
    reason: str = ""  # why there is no number

    @property
    def value(self) -> float | None:
        """The number itself."""
        return None if self.measurement is None else float(self.measurement.value or 0.0)

    @property
    def tier(self) -> str:
        """Of a forecast: `calibrated`, `scaled` or `datasheet`; empty of anything else."""
        m = self.measurement
        if m is None or m.origin != "predicted":
            return ""
        return tier_of(m)

    @property
    def origin(self) -> str:
        """Where the number comes from, in words."""
        if self.measurement is None:
            return ""
        words = {"reference": "measured earlier, elsewhere", "analytic": "counted, not measured"}
        origin = self.measurement.origin
        return TIERS[self.tier] if self.tier else words.get(origin, origin)

    @property
    def decides(self) -> bool:
        """Whether it can show that a limit is kept."""
        return (
            self.measurement is not None
            and self.measurement.bound is None
            and self.tier in ("", "calibrated")
            and math.isfinite(self.high)
        )

    @property
    def text(self) -> str:
        """`10.6 ms`, `at least 1.16 ms`, or a dash."""
        return "-" if self.measurement is None else bounded_text(self.measurement)

    @property
    def span(self) -> str:
        """The interval and what kind of one it is, or nothing."""
        return "" if self.measurement is None else range_text(self.measurement)

    @property
    def phrase(self) -> str:
        """`10.6 ms (95 % CI 10.3 to 11.3 ms, measured)`; of a forecast `9.4 to 170 ms (data-sheet forecast)`."""
        if self.tier and self.span:  # one number of a forecast would look like a promise
            return f"{self.span} ({self.origin})"
        inside = ", ".join(filter(None, (self.span, self.origin)))
        return f"{self.text} ({inside})" if inside else self.text

    def against(self, limit: float) -> Verdict:
        """Whether the limit is kept, as far as that is known."""
        if self.measurement is None:
            return "not known"
        least = self.quantity == "dice"
        if self.high < limit if least else self.low > limit:
            return "missed"
        kept = self.low >= limit if least else self.high <= limit
        return "kept" if kept and self.decides else "not sure"

    def excess(self, limit: float) -> float:
        """How far it is beyond the limit, as a factor; of Dice, by how much it is below; infinite where not known."""
        if self.value is None:
            return math.inf
        return limit - self.value if self.quantity == "dice" else self.value / limit


def missing(quantity: Quantity, reason: str) -> KnownFigure:
    """Nothing is known, and why."""
    return KnownFigure(quantity=quantity, reason=reason)


def time_metric(records: list[rec.Record]) -> str:
    """The time that rows are judged by: of a patient where any has one, else of a patch."""
    return "volume_latency_s" if any(finite(valid(r, "volume_latency_s")) for r in records) else "latency_s"


def known_of(record: rec.Record, time: str, dice: rec.Measurement | None) -> dict[Quantity, KnownFigure]:
    """What a row says of every quantity.

    Args:
        record: a finished row.
        time: `volume_latency_s` or `latency_s`.
        dice: its Dice, perhaps of a record of the same network that ran elsewhere.
    """
    whole = time == "volume_latency_s"
    return {
        "time": _measured("time", valid(record, time), "one patient" if whole else "one patch"),
        "memory": _memory(record, whole=whole),
        "file": _file(record),
        "energy": _measured("energy", valid(record, "energy_j"), "one forward"),
        "dice": _dice(dice),
    }


def _measured(quantity: Quantity, m: rec.Measurement | None, of: str) -> KnownFigure:
    if m is None or finite(m) is None:
        return missing(quantity, (m.reason if m else None) or "not recorded")
    value = float(m.value or 0.0)
    low, high = m.interval or m.ci95 or _range(m, value)
    if m.bound == "at_least":
        low, high = value, high if m.interval else math.inf
    return KnownFigure(quantity=quantity, measurement=m, low=low, high=high, of=of)


def _range(m: rec.Measurement, value: float) -> tuple[float, float]:
    """Of the processes' medians, or of one process's samples, where there are too few for an interval."""
    if not m.metric.endswith("_s"):  # of a memory the largest process counts
        return value, value
    runs = reliability.split(m)
    medians = [statistics.median(run) for run in runs] if len(runs) > 1 else [s for run in runs for s in run]
    return min([value, *medians]), max([value, *medians])


def _memory(record: rec.Record, *, whole: bool) -> KnownFigure:
    """The peak while a patient is segmented, else of a patch; without one the tensors, which are a lower bound."""
    volume, patch = valid(record, "volume_peak_memory_bytes"), valid(record, "peak_memory_bytes")
    if whole and finite(volume):
        return _measured("memory", volume, "one patient")
    tensors = valid(record, "tensor_memory_bytes")
    if finite(patch) or not finite(tensors) or record.workload.runtime != "eager":
        return _measured("memory", patch, "one patch")
    assert tensors is not None
    return _measured("memory", dataclasses.replace(tensors, bound="at_least"), "the tensors alone")


def _file(record: rec.Record) -> KnownFigure:
    """Files that a deployment needs; of PyTorch, which has none of its own, the weights."""
    files, params = valid(record, "artefact_bytes"), finite(valid(record, "params"))
    if finite(files) or params is None or record.workload.runtime not in ("eager", "eager-optimized", "compile"):
        return _measured("file", files, "what a deployment needs")
    size = rec.Measurement.of("artefact_bytes", _FLOAT_BYTES * int(params.value or 0), "4 B a parameter", "analytic")
    return _measured("file", size, "the weights alone")


def _dice(m: rec.Measurement | None) -> KnownFigure:
    if m is None or finite(m) is None:
        return missing("dice", (m.reason if m else None) or "not recorded")
    value = float(m.value or 0.0)
    if m.ci95 is None and len(m.values) > 1:
        m = dataclasses.replace(m, ci95=core_statistics.mean_interval(m.values))
    if m.ci95 is None:  # of one case, or of an unknown number: it may be anything
        return KnownFigure(quantity="dice", measurement=m, low=-math.inf, high=math.inf, of="its test cases")
    low, high = m.ci95
    return KnownFigure(quantity="dice", measurement=m, low=min(low, value), high=max(high, value), of="its test cases")
