"""Tables and sentences of a paired comparison: the ratio, its interval, A against itself, and what else was compared.

Times are judged by their pairs. Memory, Dice and energy are compared as those of finished runs are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchbench.core import units
from benchbench.core.errors import EXIT_INCOMPLETE, EXIT_OK, EXIT_REGRESSION
from benchbench.core.paired_result import PairedResult
from benchbench.core.paired_times import FEWEST, FIRST_LOOK, Estimate
from benchbench.report.compare.verdicts import (
    METRICS,
    MIN_DICE,
    MIN_EFFECT,
    Metric,
    change_text,
    decide,
    get_metric,
    interval_text,
    sample,
    weigh,
)

_LATENCY = get_metric("latency")
#: The rule, for a page and a document.
RULE = (
    "Two times are the same when the whole interval of their ratio lies within the margin, and not all of that of A "
    "against itself outside; one is called faster or slower when the interval lies beyond what A shows against itself "
    "and the ratio beyond the margin. The comparison is looked at after "
    f"{FIRST_LOOK} sets of fresh processes and when its time is up, with intervals of a level at which each of these "
    "words is wrong in one of twenty comparisons at most."
)
_SHARED = (
    "its processes shared the cores with whatever else ran: on Linux, the administrator's comparisons go before that, "
    "one at a time (--priority high)"
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PairedRow:
    """One line of the table."""

    metric: str
    a: str
    b: str
    change: str
    interval: str
    itself: str  # A against A
    verdict: str
    regression: bool = False
    note: str = ""


def paired_rows(
    result: PairedResult,
    *,
    metrics: Sequence[Metric] = tuple(METRICS.values()),
    min_effect: float = MIN_EFFECT,
    limits: Mapping[str, float] | None = None,
) -> list[PairedRow]:
    """The latency by its pairs, then CPU time, then what both sides measured besides.

    Args:
        metrics: which to compare.
        min_effect: of memory and energy.
        limits: short name of a metric -> ratio (of Dice: drop) above which a regression counts; None: any does.
    """
    rows = []
    found = result.judgement
    if found and _LATENCY in metrics:
        a, b = (units.format_value(side.value("latency_s"), "s") for side in (result.a, result.b))
        verdict = result.verdict
        rows.append(
            PairedRow(
                metric="latency",
                a=a,
                b=b,
                change=change_text(_LATENCY, found.wall.ratio),
                interval=span(found.wall),
                itself=change_text(_LATENCY, found.control.ratio),
                verdict=verdict,
                regression=verdict == "slower" and _beyond(_LATENCY, found.wall.ratio, limits),
            )
        )
        if found.cpu:
            note = "something waited" if found.waited and not threads_differ(result) else ""
            rows.append(
                PairedRow(
                    metric="CPU time",
                    a="",
                    b="",
                    change=change_text(_LATENCY, found.cpu.ratio),
                    interval=span(found.cpu),
                    itself="",
                    verdict=note or "-",
                )
            )
    for metric in metrics:
        if metric.kind == "time":
            continue
        both = [sample(metric, side.get(metric.name)) for side in (result.a, result.b)]
        if both[0] is None or both[1] is None:
            continue
        evidence = weigh(metric, both[0], both[1])
        word = decide(metric, evidence, p=evidence.p, minimum=MIN_DICE if metric.kind == "dice" else min_effect)
        rows.append(
            PairedRow(
                metric=metric.title,
                a=units.format_value(both[0].value, metric.unit),
                b=units.format_value(both[1].value, metric.unit),
                change=change_text(metric, evidence.effect),
                interval=interval_text(metric, evidence.ci95),
                itself="",
                verdict=word,
                regression=word == metric.regressed and _beyond(metric, evidence.effect, limits),
                note=evidence.note,
            )
        )
    return rows


def _beyond(metric: Metric, effect: float, limits: Mapping[str, float] | None) -> bool:
    return not limits or (-effect if metric.kind == "dice" else effect) > limits.get(metric.short, math.inf)


def span(estimate: Estimate) -> str:
    """`+4.1 to +7.2 %`; of fewer sets than an interval needs their range, which is called one."""
    text = interval_text(_LATENCY, (estimate.low, estimate.high))
    return text if estimate.confident else f"range {text}"


def threads_differ(result: PairedResult) -> bool:
    """Whether CPU time says nothing about waiting, since the sides share their work over other threads or runtimes."""
    a, b = result.a.workload, result.b.workload
    return (a.threads, a.runtime) != (b.threads, b.runtime)


def remarks(result: PairedResult) -> list[str]:
    """How it was measured, why it is undecided and what would help, and what was out of the ordinary."""
    lines = []
    found = result.judgement
    if found:
        spent = result.spent
        ahead = " before other programs" if _went_ahead(result) else ""
        lines.append(
            f"{units.counted(len(result.sets), 'set')} of fresh processes, {units.counted(result.blocks, 'block')} of "
            f"forwards, {result.mode}{ahead}, in {units.format_duration(spent.total_s)} "
            f"({units.format_duration(spent.forward_s)} forwards, {units.format_duration(spent.start_s)} starts)"
        )
        lines.append(f"noise floor: A differed from itself by {_percent(found.floor)}; no difference below is called")
        if result.verdict == "ambiguous":
            lines.append(f"ambiguous: {undecided(result)}")
            if result.a.device.kind == "cpu" and found.cpu and not _went_ahead(result):
                lines.append(_SHARED)
        if found.waited and not threads_differ(result):
            lines.append(
                "wall time and CPU time differ by more than their intervals: one side waited, for another program, a "
                "lock or memory"
            )
    lines += [f"differs by request: {text}" for text in result.asked_differences]
    lines += [f"differs in conditions: {text}" for text in result.condition_differences]
    lines += [f"a set of processes was begun again: {text}" for text in result.repeated]
    if result.error:
        kept = ": the table is of the sets before that, without a verdict" if result.sets else ""
        lines.append(f"failed: {result.error}{kept}")
    if result.lost:
        lines.append(f"{result.lost}: this is of the sets that had come until then")
    if result.interrupted:
        lines.append("interrupted: this is of what was measured until then")
    return lines


def undecided(result: PairedResult) -> str:
    """Why a comparison is ambiguous, and what would help."""
    found, margin = result.judgement, _percent(result.margin)
    assert found is not None
    if (result.interrupted or result.lost) and not found.wall.confident:
        return f"an interval needs {FEWEST} sets of processes"
    if not found.wall.confident:
        return (
            f"{units.counted(len(result.sets), 'set')} of processes in {units.format_duration(result.time_limit_s)}, "
            f"and an interval needs {FEWEST}: take a longer --time-limit"
        )
    if found.floor > result.margin:
        return f"A differs from itself by more than the margin of {margin}: close other programs, or measure longer"
    seconds = result.needed_s
    if seconds is None:
        return (
            f"the ratio lies so near to the margin of {margin} that no longer measurement is sure to decide: "
            "take another --margin"
        )
    minutes = max(math.ceil(1.2 * seconds / 60), math.ceil(result.time_limit_s / 60) + 1)
    return f"its interval is too wide for the margin of {margin}: --time-limit {minutes}min would probably do"


def exit_code(results: Sequence[PairedResult], rows: Sequence[PairedRow]) -> int:
    """1 with a regression, else 3 where a side failed or the connection to its machine was lost, else 0."""
    if any(row.regression for row in rows):
        return EXIT_REGRESSION
    return EXIT_INCOMPLETE if any(result.error or result.lost for result in results) else EXIT_OK


def plain(row: PairedRow) -> dict[str, Any]:
    """A row for a table."""
    return {
        "metric": row.metric,
        "A": row.a,
        "B": row.b,
        "change": row.change,
        "interval": row.interval,
        "A / A": row.itself,
        "verdict": row.verdict,
    }


def _went_ahead(result: PairedResult) -> bool:
    return bool(result.sets) and all(one.ahead for one in result.sets)


def _percent(share: float) -> str:
    return f"{units.significant(round(100 * share, 6), 2)} %"
