"""Aggregation of a cell's processes into the measurements of its record.

Times keep every sample and which process it is of; their interval is over the processes' medians. Of
memory the largest counts, since a box must have that. Anything else is the median over processes. What is
the same in each (counts, a Dice of given weights) is taken once.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

from benchbench.core import statistics as core_statistics
from benchbench.core.records import Measurement
from benchbench.measure.latency import timing

#: Metrics that are seconds of single forwards, volumes or steps, in the order in which a row is judged by them.
TIMES = ("train_step_s", "latency_s", "volume_latency_s")


def runs_of(turns: Sequence[Sequence[Measurement]], metric: str) -> list[list[float]]:
    """The samples of one metric, of each process that has any."""
    found = (_find(turn, metric) for turn in turns)
    return [list(m.values) for m in found if m and m.values]


def merge(turns: Sequence[Sequence[Measurement]], *, batch: int = 1) -> list[Measurement]:
    """One measurement of each metric.

    Args:
        turns: what each process found, in order.
        batch: patches in one forward.
    """
    if len(turns) == 1:
        return list(turns[0])
    metrics = dict.fromkeys(m.metric for turn in turns for m in turn)
    merged: list[Measurement] = []
    for metric in metrics:
        if metric == "throughput_patches_per_s":
            continue  # comes with the latency
        if metric in TIMES and (runs := runs_of(turns, metric)):
            merged += timing(runs, metric, batch=batch)
        else:
            merged.append(_one([m for turn in turns if (m := _find(turn, metric))]))
    return merged


def _one(found: Sequence[Measurement]) -> Measurement:
    first = found[0]
    had = [m for m in found if m.value is not None]
    if not had:
        return first
    if len(found) == 1 or first.origin != "measured":
        return had[0]
    values = [float(m.value) for m in had if m.value is not None]
    if first.metric == "warmup_s":
        samples, runs = tuple(v for m in had for v in m.values), tuple(len(m.values) for m in had)
        method = f"median of {len(had)} processes; the first: {had[0].method}"
        return dataclasses.replace(had[0], value=statistics.median(values), values=samples, runs=runs, method=method)
    value, method = statistics.median(values), f"{had[0].method}; median of {len(values)} processes"
    if first.metric == "contended_processes":
        told = dict.fromkeys(m.method for m in had if m.value)
        value, method = sum(values), "; ".join(told) or had[0].method
    elif first.unit == "B":
        value, method = max(values), f"{had[0].method}; the largest of {len(values)} processes"
    elif first.unit == "events":
        value, method = sum(values), had[0].method
    return dataclasses.replace(
        had[0], value=value, values=tuple(values), runs=(1,) * len(values), ci95=None, method=method
    )


def _find(turn: Sequence[Measurement], metric: str) -> Measurement | None:
    return next((m for m in turn if m.metric == metric), None)


def noise(own: Sequence[Sequence[float]], twin: Sequence[Sequence[float]], metric: str) -> Measurement:
    """The ratio of a network to itself, measured twice in one run as if it were two.

    Args:
        own: samples of each process of the row.
        twin: of its double.
        metric: of which time they are.
    """
    mine, other = core_statistics.summarise(own), core_statistics.summarise(twin)
    enough = min(len(own), len(twin)) >= core_statistics.FEWEST
    return Measurement(
        metric="noise_ratio",
        unit="1",
        value=other.median / mine.median,
        values=tuple(value for run in twin for value in run),
        runs=tuple(len(run) for run in twin),
        ci95=core_statistics.ratio_interval(mine.medians, other.medians) if enough else None,
        origin="measured",
        method=f"{metric} of this network measured a second time in the same run, over its own (A/A); "
        f"{len(twin)} and {len(own)} process{'es' * (len(own) != 1)}",
    )
