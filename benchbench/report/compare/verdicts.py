"""Verdict on two measurements of one thing: effect, interval, test, and one of a few words.

A difference is reported only when it is significant after the correction for all tests of the comparison
*and* larger than the minimum effect; larger but not significant is `ambiguous`. The unit of a time is a
process, since forwards of one process resemble each other: hundreds of samples of a single process allow
no test at all. Everything is symmetric: with the sides swapped, `slower` becomes `faster` and nothing else.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from benchbench.core import statistics as core_statistics
from benchbench.core.errors import EXIT_INCOMPLETE, EXIT_OK, EXIT_REGRESSION, UsageError, unknown
from benchbench.core.paired_result import PairedResult
from benchbench.core.records import METRIC_UNITS, Measurement, Record

Verdict = Literal["same", "faster", "slower", "less", "more", "better", "worse", "ambiguous"]
Kind = Literal["time", "memory", "energy", "dice"]

SIGNIFICANT = 0.05  # of all tests of a comparison together
MIN_EFFECT = 0.02  # share by which a time, a memory or an energy must differ to be called
MIN_DICE = 0.01  # likewise for Dice, absolute
FEWEST = 3  # processes a side that a test needs
UNTESTED = 0.10  # with fewer, what must be exceeded, with ranges that do not overlap
UNTESTED_MEMORY = 0.05  # the same for peak memory, which hardly varies
FEWEST_CASES = 6  # below this the signed-rank test cannot reach 5 %
_SLACK = 1e-9  # an effect that is the minimum but for rounding is not above it


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What is compared, and what its differences are called."""

    name: str  # as in a record, `latency_s`
    short: str  # as on the command line, `latency`
    kind: Kind
    improved: Verdict
    regressed: Verdict

    @property
    def unit(self) -> str:
        """The unit of its values in a record."""
        return METRIC_UNITS[self.name]

    @property
    def title(self) -> str:
        """`volume latency`."""
        return "Dice" if self.kind == "dice" else self.short.replace("_", " ")


def _metric(name: str, short: str, kind: Kind) -> Metric:
    words: Mapping[Kind, tuple[Verdict, Verdict]] = {"time": ("faster", "slower"), "dice": ("better", "worse")}
    improved, regressed = words.get(kind, ("less", "more"))
    return Metric(name=name, short=short, kind=kind, improved=improved, regressed=regressed)


#: Everything that is compared, by its name on the command line, in the order of the tables.
METRICS: Mapping[str, Metric] = {
    metric.short: metric
    for metric in (
        _metric("latency_s", "latency", "time"),
        _metric("volume_latency_s", "volume_latency", "time"),
        _metric("train_step_s", "train_step", "time"),
        _metric("peak_memory_bytes", "peak_memory", "memory"),
        _metric("volume_peak_memory_bytes", "volume_peak_memory", "memory"),
        _metric("train_peak_memory_bytes", "train_peak_memory", "memory"),
        _metric("energy_j", "energy", "energy"),
        _metric("dice", "dice", "dice"),
    )
}


def get_metric(name: str) -> Metric:
    """A metric by its name with or without the unit: `latency_s`, `latency`.

    Raises:
        UsageError: nothing of that name is compared.
    """
    for metric in METRICS.values():
        if name in (metric.short, metric.name):
            return metric
    text = unknown("metric", name, METRICS)
    raise UsageError(text if text.endswith("?") else f"{text.partition(';')[0]}; known: {', '.join(METRICS)}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One side's values of a metric."""

    value: float  # median of the processes' medians; of Dice, the mean over cases
    runs: tuple[tuple[float, ...], ...]  # by process; of Dice, one run with a value a case
    medians: tuple[float, ...]  # one a process

    @property
    def values(self) -> tuple[float, ...]:
        """All of them, in order."""
        return tuple(v for run in self.runs for v in run)


def sample(metric: Metric, m: Measurement | None) -> Sample | None:
    """What a measurement holds for a comparison.

    Returns:
        None where it was not measured, or holds a number that no ratio can be made of.
    """
    if m is None or m.value is None or m.origin != "measured":
        return None
    sizes = m.runs or ((1,) * len(m.values) if metric.kind == "memory" else ())
    runs = tuple(tuple(run) for run in core_statistics.split_runs(m.values, sizes) if run) or ((float(m.value),),)
    if any(not math.isfinite(v) or (v <= 0 and metric.kind != "dice") for run in runs for v in (*run, m.value)):
        return None
    if metric.kind == "dice":
        return Sample(value=statistics.fmean(runs[0]), runs=runs, medians=())
    medians = tuple(statistics.median(run) for run in runs)
    return Sample(value=statistics.median(medians), runs=runs, medians=medians)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What two samples say, before the correction for the other tests."""

    effect: float  # B / A; of Dice, B - A
    ci95: tuple[float, float] | None  # of the effect
    p: float | None  # of the test; None: there are too few values for one
    apart: bool  # without a test: whether the two ranges do not overlap
    called_from: float  # without a test: what the effect must exceed, too
    note: str  # why there is no test; empty where there is one


def weigh(metric: Metric, a: Sample, b: Sample) -> Evidence:
    """Effect, interval and test of one metric on both sides."""
    if metric.kind == "dice":
        return _weigh_cases(a.values, b.values)
    few = min(len(a.medians), len(b.medians)) < FEWEST
    enough = min(len(a.medians), len(b.medians)) >= core_statistics.FEWEST
    return Evidence(
        effect=b.value / a.value,
        ci95=_ratio_interval(a.medians, b.medians) if enough else None,
        p=None if few else core_statistics.welch(a.medians, b.medians),
        apart=max(a.values) < min(b.values) or max(b.values) < min(a.values),
        called_from=UNTESTED_MEMORY if metric.kind == "memory" else UNTESTED,
        note=f"fewer than {FEWEST} processes on a side" if few else "",
    )


def _weigh_cases(a: Sequence[float], b: Sequence[float]) -> Evidence:
    effect = statistics.fmean(b) - statistics.fmean(a)
    if len(a) != len(b) or len(a) < FEWEST_CASES:
        unpaired = len(a) != len(b)
        note = f"{len(a)} and {len(b)} cases cannot be paired" if unpaired else f"fewer than {FEWEST_CASES} cases"
        return Evidence(effect=effect, ci95=None, p=None, apart=False, called_from=0.0, note=note)
    differences = [after - before for before, after in zip(a, b, strict=True)]
    p = core_statistics.signed_rank(differences)
    return Evidence(
        effect=effect, ci95=core_statistics.mean_interval(differences), p=p, apart=False, called_from=0.0, note=""
    )


def _ratio_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Of b / a; the smaller side is always drawn first, so that swapped sides give exactly the reciprocal."""
    if sorted(a) <= sorted(b):
        return core_statistics.ratio_interval(a, b)
    low, high = core_statistics.ratio_interval(b, a)
    return 1 / high, 1 / low


def decide(metric: Metric, evidence: Evidence, *, p: float | None, minimum: float) -> Verdict:
    """The word for one difference.

    Args:
        metric: says what the words are.
        evidence: of `weigh`.
        p: corrected for the other tests; None where there is no test.
        minimum: effect up to which two sides are the same; a share, for Dice absolute.
    """
    scale = _plain if metric.kind == "dice" else math.log
    size, bound = scale(evidence.effect), minimum if metric.kind == "dice" else math.log1p(minimum)
    inside = evidence.ci95 is not None and all(abs(scale(end)) <= bound + _SLACK for end in evidence.ci95)
    if evidence.p is None and metric.kind == "memory":
        bound = max(bound, math.log1p(evidence.called_from))
    if abs(size) <= bound + _SLACK or inside:
        return "same"
    if evidence.p is None:
        significant = evidence.apart and abs(size) > math.log1p(evidence.called_from) + _SLACK
    else:
        significant = p is not None and p <= SIGNIFICANT
    if not significant:
        return "ambiguous"
    return metric.regressed if (size > 0) != (metric.kind == "dice") else metric.improved


def _plain(value: float) -> float:
    return value


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRow:
    """One metric of one cell on both sides, judged."""

    label: str  # the network, with what tells this cell from its others
    metric: Metric
    records: tuple[Record, Record]  # A, B
    samples: tuple[Sample, Sample]
    evidence: Evidence
    p: float | None  # corrected
    minimum: float  # effect that had to be exceeded
    verdict: Verdict
    regression: bool  # a change for the worse that is significant and above the limit, if there is one
    again: bool = False  # effect and verdict are of pairs that were measured afterwards

    @property
    def unstable(self) -> str:
        """Which sides did not settle: `A`, `B`, `A and B`, or nothing."""
        names = [side for side, r in zip("AB", self.records, strict=True) if r.status == "unstable"]
        return " and ".join(names)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A cell that has no result on one side at least."""

    label: str
    records: tuple[Record, Record]

    @property
    def text(self) -> str:
        """`A ok; B oom: killed by the system`."""
        sides = zip("AB", self.records, strict=True)
        return "; ".join(f"{side} {r.status}" + (f": {r.error}" if r.error else "") for side, r in sides)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two sets of records side by side; A is what was, B is what is."""

    rows: tuple[ComparedRow, ...]
    broken: tuple[Broken, ...]
    only: tuple[tuple[str, ...], tuple[str, ...]]  # labels of the cells of A alone, of B alone
    unmeasured: tuple[str, ...]  # labels of pairs with nothing measured on both sides
    differences: tuple[str, ...]  # of the conditions, where they were compared anyway
    notes: tuple[str, ...]  # how it was decided, where that is not as usual
    min_effect: float
    limits: Mapping[str, float]  # short name -> ratio (of Dice: drop) above which a regression counts; empty: any
    pairs: tuple[PairedResult, ...] = ()  # of rows that were measured again

    @property
    def regressions(self) -> tuple[ComparedRow, ...]:
        """The rows for which the comparison fails."""
        return tuple(row for row in self.rows if row.regression)

    @property
    def exit_code(self) -> int:
        """1 with a regression, else 3 with a broken cell, else 0."""
        if self.regressions:
            return EXIT_REGRESSION
        return EXIT_INCOMPLETE if self.broken else EXIT_OK


def tally(rows: Iterable[ComparedRow]) -> str:
    """`12 compared: 10 same, 1 slower, 1 ambiguous`."""
    words = [row.verdict for row in rows]
    counts = [f"{words.count(word)} {word}" for word in _WORDS if word in words]
    return f"{len(words)} compared" + (f": {', '.join(counts)}" if counts else "")


_WORDS: tuple[Verdict, ...] = ("same", "faster", "less", "better", "slower", "more", "worse", "ambiguous")


def change_text(metric: Metric, effect: float) -> str:
    """An effect for a person: `+5.7 %`, `x 2.34`, of Dice `-0.012`."""
    if metric.kind == "dice":
        return f"{round(effect, 3) + 0.0:+.3f}"  # + 0.0: no negative zero
    return f"{round(100 * (effect - 1), 1) + 0.0:+.1f} %" if effect < 2 else f"x {effect:.2f}"


def interval_text(metric: Metric, ci95: tuple[float, float] | None) -> str:
    """`+4.1 to +7.2 %`; a dash where there is none."""
    if ci95 is None:
        return "-"
    low, high = (change_text(metric, end) for end in ci95)
    return f"{low.removesuffix(' %') if high.endswith(' %') else low} to {high}"


def p_text(p: float | None) -> str:
    """`0.031`, `< 0.001`; a dash where there was no test."""
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
