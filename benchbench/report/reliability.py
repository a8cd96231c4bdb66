"""Reliability of one table's numbers: noise floor, ranks, contention, forecast error.

The noise floor is what the suite sees between a network and itself, measured twice in one run as if it were two. Two
rows closer than that, or than 2 %, share a rank. A run measures it once for a device, dtype and thread count, so a
table of another batch size takes the floor of its neighbour, and says where it was measured.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

from benchbench.core import records as rec
from benchbench.core import statistics as core_statistics
from benchbench.core import units
from benchbench.report.conditions import Group

#: Two latencies within this share tie however quiet the machine was.
TIE = 0.02


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """The largest difference seen between a network and itself."""

    share: float  # |ratio - 1|
    label: str  # of which network
    ci95: tuple[float, float] | None  # of the ratio
    letter: str = ""  # of the group where it was measured, if that is another one


def noise_floor(records: Sequence[rec.Record]) -> Floor | None:
    """The noise floor of these records, or None where no network was measured twice."""
    found = []
    for record in records:
        m = record.get("noise_ratio")
        if m is not None and m.value is not None and math.isfinite(m.value) and m.value > 0:
            found.append(Floor(share=abs(m.value - 1), label=record.model.name, ci95=m.ci95))
    return max(found, key=lambda f: f.share, default=None)


def floor_of(group: Group, groups: Sequence[Group]) -> Floor | None:
    """The noise floor that counts for a group: its own, or the one of this run under the same dtype and threads."""
    if own := noise_floor(group.records):
        return own
    near = [
        dataclasses.replace(floor, letter=other.letter)
        for other in groups
        if _setting(other.first) == _setting(group.first) and (floor := noise_floor(other.records))
    ]
    return max(near, key=lambda floor: floor.share, default=None)


def _setting(record: rec.Record) -> tuple[object, ...]:
    work = record.workload
    return (record.device, work.threads, work.dtype, work.phase, rec.fingerprint(record.environment))


def tolerance(floor: Floor | None) -> float:
    """The share within which two rows tie: the noise floor, but at least 2 %."""
    return max(TIE, floor.share) if floor else TIE


def floor_text(floor: Floor | None) -> str:
    """`1.2 % (slim_unetr against itself); rows within 2 % share a rank`."""
    ties = f"rows within {units.percent(tolerance(floor), trim=True)} share a rank"
    if floor is None:
        return f"not measured; {ties}"
    where = f", measured in {floor.letter}" if floor.letter else ""
    sure = f", 95 % CI of the ratio {floor.ci95[0]:.3f} to {floor.ci95[1]:.3f}" if floor.ci95 else ""
    return f"{units.percent(floor.share, trim=True)} ({floor.label} against itself{where}{sure}); {ties}"


#: Below this Dice, or this share of the best one beside it, a network finds too little for its time to matter.
OF_USE, OF_USE_SHARE = 0.1, 0.5


def useless(records: Sequence[rec.Record]) -> dict[str, str]:
    """Record id -> why a time has no rank: the Dice beside it is so low that the network is of no use.

    Rows without a Dice, such as untrained networks', are ranked by their time as ever.
    """
    known = {
        r.id: float(m.value)
        for r in records
        if r.ok and (m := r.get("dice")) and m.value is not None and math.isfinite(m.value)
    }
    least = max(OF_USE, OF_USE_SHARE * max(known.values(), default=0.0))
    return {
        i: f"its Dice of {value:.3f} is below {least:.3f}, of no use: no time of it has a rank"
        for i, value in known.items()
        if value < least
    }


def ranks(values: Mapping[str, float], within: float) -> dict[str, str]:
    """The rank of each key by its value, ties sharing one: `1`, `2=`, `2=`, `4`.

    Args:
        values: of any keys; what is not finite, or below zero, gets no rank.
        within: share by which two may differ and still tie.
    """
    kept = {key: value for key, value in values.items() if math.isfinite(value) and value >= 0}
    return dict(zip(kept, core_statistics.tie_groups(list(kept.values()), within), strict=True))


def processes(record: rec.Record, metric: str) -> list[list[float]]:
    """A measurement's samples by process, only those that are numbers; empty processes are left out.

    Counts that do not add up to the samples are not believed: then all are of one process.
    """
    m = record.get(metric)
    return [] if m is None else split(m)


def split(m: rec.Measurement) -> list[list[float]]:
    """The samples of one measurement by process, as `processes` gives them."""
    runs = m.runs if sum(m.runs) == len(m.values) and min(m.runs, default=0) >= 0 else ()
    apart = [[v for v in run if math.isfinite(v)] for run in core_statistics.split_runs(m.values, runs)]
    return [run for run in apart if run]


def disturbed(record: rec.Record) -> int:
    """How many processes of a row ran while something else took processor time; 0 where that is not known."""
    value = record.value("contended_processes")
    return int(value) if value is not None and math.isfinite(value) and value > 0 else 0


def disturbed_text(records: Sequence[rec.Record], labels: Mapping[str, str]) -> str | None:
    """`in 1 row: unetr (1)`; None where no row tells."""
    told = [r for r in records if (m := r.get("contended_processes")) and m.value is not None]
    if not told:
        return None
    hit = [f"{labels[r.id]} ({disturbed(r)})" for r in told if disturbed(r)]
    if not hit:
        return "none"
    return f"in {len(hit)} of {len(told)} rows something else took processor time: {units.first_few(hit, 6)}"


def forecast(record: rec.Record) -> float | None:
    """The forecast of a row's peak memory: its tensors, and the framework's base where the peak holds it.

    Returns: bytes, or None where there is no forecast.
    """
    train = record.workload.phase == "train"
    tensors = record.value("train_tensor_memory_bytes") if train else record.value("tensor_memory_bytes")
    base = record.value("base_memory_bytes") or 0
    if tensors is None or not math.isfinite(tensors + base) or tensors + base <= 0:
        return None
    return float(tensors + base)


def forecast_text(records: Sequence[rec.Record], labels: Mapping[str, str]) -> str | None:
    """How the measured peaks stand to their forecasts, as a sentence; None where no row has both."""
    ratios = []
    for record in records:
        metric = "train_peak_memory_bytes" if record.workload.phase == "train" else "peak_memory_bytes"
        peak, expected = record.get(metric), forecast(record)
        if not record.ok or peak is None or peak.origin != "measured" or not expected:
            continue
        if peak.value is not None and math.isfinite(peak.value) and peak.value > 0:
            ratios.append((peak.value / expected, labels[record.id]))
    if not ratios:
        return None
    what, median = "Measured peak over forecast (base and tensors)", statistics.median(ratio for ratio, _ in ratios)
    if len(ratios) == 1:
        return f"{what}: {units.significant(median)}, of one row."
    (low, lowest), (high, highest) = min(ratios), max(ratios)
    return (
        f"{what}, {len(ratios)} rows: median {units.significant(median)}, from {units.significant(low)} ({lowest}) to "
        f"{units.significant(high)} ({highest})."
    )
