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


def runs_of(processes: Sequence[Sequence[Measurement]], metric: str) -> list[list[float]]:
    """The samples of one metric, of each process that has any."""
    times = (_find(process, metric) for process in processes)
    return [list(m.values) for m in times if m and m.values]


def merge(processes: Sequence[Sequence[Measurement]], *, batch: int = 1) -> list[Measurement]:
    """One measurement of each metric.

    Args:
        processes: what each process found, in order.
        batch: patches in one forward.
    """
    if len(processes) == 1:
        return list(processes[0])
    metrics = dict.fromkeys(m.metric for process in processes for m in process)
    merged: list[Measurement] = []
    for metric in metrics:
        if metric == "throughput_patches_per_s":
            continue  # comes with the latency
        if metric in TIMES and (runs := runs_of(processes, metric)):
            merged += timing(runs, metric, batch=batch)
        else:
            merged.append(_one([m for process in processes if (m := _find(process, metric))]))
    return merged


def _one(measurements: Sequence[Measurement]) -> Measurement:
    first = measurements[0]
    valued = [m for m in measurements if m.value is not None]
    if not valued:
        return first
    if len(measurements) == 1 or first.origin != "measured":
        return valued[0]
    values = [float(m.value) for m in valued if m.value is not None]
    if first.metric == "warmup_s":
        samples, runs = tuple(v for m in valued for v in m.values), tuple(len(m.values) for m in valued)
        method = f"median of {len(valued)} processes; the first: {valued[0].method}"
        return dataclasses.replace(valued[0], value=statistics.median(values), values=samples, runs=runs, method=method)
    value, method = statistics.median(values), f"{valued[0].method}; median of {len(values)} processes"
    if first.metric == "contended_processes":
        methods = dict.fromkeys(m.method for m in valued if m.value)
        value, method = sum(values), "; ".join(methods) or valued[0].method
    elif first.unit == "B":
        value, method = max(values), f"{valued[0].method}; the largest of {len(values)} processes"
    elif first.unit == "events":
        value, method = sum(values), valued[0].method
    return dataclasses.replace(
        valued[0], value=value, values=tuple(values), runs=(1,) * len(values), ci95=None, method=method
    )


def _find(process: Sequence[Measurement], metric: str) -> Measurement | None:
    return next((m for m in process if m.metric == metric), None)


def noise(processes: Sequence[Sequence[float]], repeat: Sequence[Sequence[float]], metric: str) -> Measurement:
    """The ratio of a network to itself, measured twice in one run as if it were two.

    Args:
        processes: samples of each process of the row.
        repeat: of its double.
        metric: of which time they are.
    """
    mine, other = core_statistics.summarise(processes), core_statistics.summarise(repeat)
    enough = min(len(processes), len(repeat)) >= core_statistics.FEWEST
    return Measurement.of(
        "noise_ratio",
        other.median / mine.median,
        f"{metric} of this network measured a second time in the same run, over its own (A/A); "
        f"{len(repeat)} and {len(processes)} process{'es' * (len(processes) != 1)}",
        values=tuple(value for run in repeat for value in run),
        runs=tuple(len(run) for run in repeat),
        ci95=core_statistics.ratio_interval(mine.medians, other.medians) if enough else None,
    )
