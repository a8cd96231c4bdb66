"""Comparison of two sets of records, cell by cell: slower, the same, or undecided.

Cells pair by what was asked. They must also have been measured under the same conditions, since a
comparison across two versions of torch says nothing about the network: such pairs are refused by name,
unless they are to be compared anyway. The commit and the version of benchbench may differ, because a
change of the code is what a comparison is for.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from benchbench.core import records as rec
from benchbench.core import results as core_results
from benchbench.core import statistics, units
from benchbench.core.audit_result import is_audit
from benchbench.core.errors import UsageError
from benchbench.core.paired_result import PairedResult
from benchbench.core.qualification import UNQUALIFIED
from benchbench.report.compare.verdicts import (
    METRICS,
    MIN_DICE,
    MIN_EFFECT,
    Broken,
    ComparedRow,
    Comparison,
    Evidence,
    Metric,
    Sample,
    decide,
    get_metric,
    sample,
    weigh,
)
from benchbench.report.conditions import path_of
from benchbench.report.reliability import TO_QUALIFY, unqualified

#: Keys of an environment that may differ between the sides.
_FREE = rec.VOLATILE | {"commit", "benchbench", "host"}
_MEMORY = 0.05  # share by which the machine's memory may differ: the system's own part of it varies
_ANYWAY = "--anyway compares them and says so"
_FEW = 6  # so many labels are listed in one line

Pair = tuple[rec.Record, rec.Record]


def compare(
    before: Sequence[rec.Record],
    after: Sequence[rec.Record],
    *,
    metrics: Sequence[Metric] = tuple(METRICS.values()),
    min_effect: float = MIN_EFFECT,
    limits: Mapping[str, float] | None = None,
    anyway: bool = False,
) -> Comparison:
    """Judge every metric of every cell that both sides hold.

    Args:
        before: side A, oldest first; of a cell measured again the newest counts.
        after: side B, likewise.
        metrics: which to compare.
        min_effect: share up to which two times, memories or energies are the same; a run's own noise floor
            raises it for times and energies. Dice has its own, 0.01 absolute.
        limits: short name of a metric -> ratio (of Dice: drop) above which a regression counts. Where given,
            no other metric has regressions; None: any change for the worse is one.
        anyway: compare also under different conditions.

    Raises:
        UsageError: no cell in common, nothing measured in common, or conditions that differ.
    """
    sides = [[r for r in side if not is_audit(r)] for side in (before, after)]
    newest = [_newest(side) for side in sides]
    labels = _labels([*newest[0].values(), *newest[1].values()])
    pairs = [(a, newest[1][cell]) for cell, a in newest[0].items() if cell in newest[1]]
    near = _near_pairs(*newest) if anyway or not pairs else []
    if anyway:
        pairs += near
    if not pairs:
        more = (
            f"; {len(near)} of the same family of networks are there: --anyway pairs them and says so" if near else ""
        )
        raise UsageError(f"{_nothing_in_common(*newest)}{more}")
    held = {r.cell for pair in pairs for r in pair}
    notes = _mixed(sides, held, labels, anyway=anyway)
    different = _asked_differences(pairs, _labels(list(newest[0].values()))) + _differences(pairs)
    if different and not anyway:
        raise UsageError(f"the conditions differ: {'; '.join(different)}: {_ANYWAY}")

    whole = [pair for pair in pairs if all(r.ok for r in pair)]
    broken = tuple(Broken(label=labels[a.cell], records=(a, b)) for a, b in pairs if not (a.ok and b.ok))
    found = [(pair, metric, samples) for pair in whole for metric in metrics if (samples := _samples(metric, pair))]
    if not found and not broken:
        raise UsageError(_nothing_measured(pairs, metrics))
    evidence = [weigh(metric, *both) for _, metric, both in found]
    corrected = iter(statistics.holm([e.p for e in evidence if e.p is not None]))
    rows, raised = [], []
    for (pair, metric, samples), weighed in zip(found, evidence, strict=True):
        minimum, why = _minimum(metric, pair, sides, min_effect)
        p = None if weighed.p is None else next(corrected)
        verdict = decide(metric, weighed, p=p, minimum=minimum)
        rows.append(
            ComparedRow(
                label=labels[pair[0].cell],
                metric=metric,
                records=pair,
                samples=samples,
                evidence=weighed,
                p=p,
                minimum=minimum,
                verdict=verdict,
                regression=verdict == metric.regressed and _beyond(metric, weighed, limits),
            )
        )
        raised.append(why)
    measured = {row.records[0].cell for row in rows}
    return Comparison(
        rows=tuple(rows),
        broken=broken,
        only=(_only(newest[0], held, labels), _only(newest[1], held, labels)),
        unmeasured=tuple(labels[a.cell] for a, _ in whole if a.cell not in measured),
        differences=tuple(different),
        notes=(
            *notes,
            *dict.fromkeys(filter(None, raised)),
            *_unqualified(whole, labels),
            *_untested(rows),
            *_unchecked(rows, limits),
        ),
        min_effect=min_effect,
        limits=dict(limits or {}),
    )


def _beyond(metric: Metric, evidence: Evidence, limits: Mapping[str, float] | None) -> bool:
    """Whether an effect is beyond the limit of its metric; any is where there are no limits."""
    size = -evidence.effect if metric.kind == "dice" else evidence.effect
    return not limits or size > limits.get(metric.short, math.inf)


def with_pairs(comparison: Comparison, results: Sequence[PairedResult]) -> Comparison:
    """A comparison in which what was measured again, in pairs, decides the rows of those latencies.

    A row whose pair could not be measured stays as it was.
    """
    found = {result.cell: result for result in results if result.verdict != "failed"}
    rows = [
        _measured_again(row, found[row.records[0].cell], comparison.limits)
        if row.metric.short == "latency" and row.records[0].cell in found
        else row
        for row in comparison.rows
    ]
    return dataclasses.replace(comparison, rows=tuple(rows), pairs=tuple(results))


def _measured_again(row: ComparedRow, result: PairedResult, limits: Mapping[str, float]) -> ComparedRow:
    judged = result.judgement
    assert judged is not None
    wall = judged.wall
    note = f"measured again in pairs, {units.counted(wall.sets, 'set')} of processes"
    evidence = dataclasses.replace(
        row.evidence, effect=wall.ratio, ci95=(wall.low, wall.high) if wall.confident else None, p=None, note=note
    )
    verdict = judged.verdict
    regression = verdict == row.metric.regressed and _beyond(row.metric, evidence, limits)
    return dataclasses.replace(
        row, evidence=evidence, p=None, minimum=result.margin, verdict=verdict, regression=regression, again=True
    )


def parse_limits(text: str) -> dict[str, float]:
    """`latency:1.10,peak_memory:1.05,dice:0.01` as short name -> limit.

    Raises:
        UsageError: a metric that is not compared, with the nearest that is, or a limit that cannot be.
    """
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, colon, value = (word.strip() for word in part.partition(":"))
        metric = get_metric(name)
        if metric.short in limits:
            raise UsageError(f"{text!r} has two limits for {metric.short}")
        try:
            limit = float(value)
        except ValueError:
            limit = math.nan
        low, high = (0.0, 1.0) if metric.kind == "dice" else (1.0, math.inf)
        if not colon or not (low <= limit < high):
            wanted = "a drop from 0 to below 1, as in dice:0.01" if metric.kind == "dice" else "a ratio of at least 1"
            example = "" if metric.kind == "dice" else f", as in {metric.short}:1.10"
            raise UsageError(f"{part!r}: the limit must be {wanted}{example}")
        limits[metric.short] = limit
    return limits


def _newest(records: Sequence[rec.Record]) -> dict[str, rec.Record]:
    """Of each cell the newest record, in the order in which the cells first came."""
    found: dict[str, rec.Record] = {}
    for record in core_results.latest(records):
        held = found.get(record.cell)
        if held is None or record.started_at >= held.started_at:
            found[record.cell] = record
    return found


def _samples(metric: Metric, pair: Pair) -> tuple[Sample, Sample] | None:
    a, b = (sample(metric, record.get(metric.name)) for record in pair)
    return (a, b) if a and b else None


def _only(here: Mapping[str, Any], paired: set[str], labels: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(labels[cell] for cell in here if cell not in paired)


# Pairs that were not asked for alike

_WEIGHTS = ("threads", "checkpoint")
_NETWORK = (*_WEIGHTS, "recipe", "keywords", "arch")


def _near_pairs(a: Mapping[str, rec.Record], b: Mapping[str, rec.Record]) -> list[Pair]:
    """Of the cells that only one side holds, those with one counterpart and no other, the most alike first."""
    left = [[r for cell, r in a.items() if cell not in b], [r for cell, r in b.items() if cell not in a]]
    found: list[Pair] = []
    for free in (("threads",), _WEIGHTS, _NETWORK):
        alike = [(one, other) for one in left[0] for other in left[1] if _alike(one, other, free)]
        sole = [
            (one, other)
            for one, other in alike
            if sum(x is one for x, _ in alike) == 1 and sum(y is other for _, y in alike) == 1
        ]
        found += sole
        taken = {r.cell for pair in sole for r in pair}
        left = [[r for r in side if r.cell not in taken] for side in left]
    return found


def _alike(a: rec.Record, b: rec.Record, free: Sequence[str]) -> bool:
    """Whether two cells differ in nothing but `free`, and are of one network, or one compressed from the other."""
    old, new = _whole(a), _whole(b)
    if any(old[k] != new[k] for k in old if k not in free):
        return False
    if a.model.name == b.model.name:
        return "recipe" not in free or a.recipe != b.recipe
    return "recipe" in free and (a.model.name in _origins(b) or b.model.name in _origins(a))


def _whole(record: rec.Record) -> dict[str, Any]:
    return _asked(record) | {"checkpoint": record.model.checkpoint, "recipe": rec.to_json(record.recipe)}


def _origins(record: rec.Record) -> set[str]:
    """The networks that this one was compressed from."""
    recipe = record.recipe or {}
    return {str(recipe[key]) for key in ("parent", "root") if recipe.get(key)}


def _asked_differences(pairs: Sequence[Pair], labels: Mapping[str, str]) -> list[str]:
    """In what was asked of pairs that are not of one cell: `unet: threads 2 -> 1`."""
    lines = []
    for a, b in pairs:
        if a.cell != b.cell:
            network = [f"network {a.model.name} -> {b.model.name}"] if a.model.name != b.model.name else []
            lines.append(f"{labels[a.cell]}: {', '.join(network + _changed(a, b))}")
    return lines


def _changed(a: rec.Record, b: rec.Record) -> list[str]:
    """`threads 2 -> 1`, for each field of what was asked."""
    old, new = _asked(a), _asked(b)
    return [f"{k} {_plain(old[k])} -> {_plain(new[k])}" for k in old if old[k] != new[k]]


# Conditions


def condition_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """In what two environments differ that can move a number: `torch: 2.8.0 -> 2.13.0`.

    Args:
        a: a record's environment.
        b: another's. A key that one of them lacks counts as unknown there.
    """
    found = []
    for key in sorted({*a, *b}):
        old, new = a.get(key), b.get(key)
        if key in _FREE or old == new or (key == "affinity" and None in (old, new)):
            continue
        if key == "memory_bytes" and old and new and abs(old - new) <= _MEMORY * max(old, new):
            continue
        shown = [units.format_value(v, "B") if key.endswith("_bytes") and v else v for v in (old, new)]
        found.append(f"{key}: " + " -> ".join("unknown" if v is None else str(v) for v in shown))
    return found


def _differences(pairs: Sequence[Pair]) -> list[str]:
    """The differences of all pairs, each once, with how many pairs have it where not all do."""
    counts = Counter(text for a, b in pairs for text in condition_differences(a.environment, b.environment))
    return [text if n == len(pairs) else f"{text} ({n} of {len(pairs)} cells)" for text, n in counts.items()]


def _mixed(
    sides: Sequence[Sequence[rec.Record]], cells: set[str], labels: Mapping[str, str], *, anyway: bool
) -> list[str]:
    """A note for each side that holds a cell under several conditions.

    Raises:
        UsageError: there is one, and it is not to be compared anyway.
    """
    notes = []
    for name, records in zip("AB", sides, strict=True):
        for cell in dict.fromkeys(r.cell for r in records if r.cell in cells):
            held = [r for r in core_results.latest(records) if r.cell == cell]
            texts = dict.fromkeys(
                text for r in held[1:] for text in condition_differences(held[0].environment, r.environment)
            )
            what = f"{name} holds {labels[cell]} under several conditions ({'; '.join(texts)})"
            if texts and not anyway:
                raise UsageError(f"{what}: keep one of them, or --anyway takes the newest")
            if len(held) > 1:
                notes.append(f"{what if texts else f'{name} holds {labels[cell]} more than once'}: the newest counts")
    return notes


# Minimum effect


def _minimum(
    metric: Metric, pair: Pair, sides: Sequence[Sequence[rec.Record]], min_effect: float
) -> tuple[float, str | None]:
    """The effect that has to be exceeded, and why it is more than was asked for."""
    if metric.kind == "dice":
        return MIN_DICE, None
    if metric.kind == "memory":
        return min_effect, None
    floors = [(noise_floor(records, of), name) for records, of, name in zip(sides, pair, "AB", strict=True)]
    floor, name = max(floors, key=lambda item: item[0])
    if floor <= min_effect:
        return min_effect, None
    text = (
        f"the minimum effect of times and energies is {_percent(floor)} instead of {_percent(min_effect)}: so much "
        f"did one network measured twice in {name} differ from itself"
    )
    return floor, text


def noise_floor(records: Sequence[rec.Record], like: rec.Record) -> float:
    """By how much one network measured twice in a run differed from itself; 0 where that was not measured.

    Args:
        records: of the run's folder.
        like: whose device, protocol, runtime, precision and environment must be those of the record with the noise.
    """
    found = [
        abs(ratio - 1)
        for record in core_results.latest(records)
        if (ratio := record.value("noise_ratio")) is not None
        and record.device.asked == like.device.asked
        and record.workload.protocol == like.workload.protocol
        and path_of(record) == path_of(like)
        and not condition_differences(record.environment, like.environment)
    ]
    return max((f for f in found if math.isfinite(f)), default=0.0)


# What is said beside the table


def _unqualified(pairs: Sequence[Pair], labels: Mapping[str, str]) -> list[str]:
    """A line for each side with rows that may be other networks than what they were made from."""
    lines = []
    for name, records in zip("AB", zip(*pairs, strict=True), strict=False):
        held = [labels[r.cell] for r in records if r.id in unqualified([r])]
        if held:
            lines.append(f"{UNQUALIFIED} in {name}: {units.first_few(held, _FEW, '; ')}: {TO_QUALIFY}")
    return lines


def _untested(rows: Sequence[ComparedRow]) -> list[str]:
    """How rows without a test were decided, a line a kind."""
    rules = {
        "memory": "peak memory with fewer than 3 processes on a side: no test; called above 5 % with ranges apart",
        "time": "times with fewer than 3 processes on a side: no test; called above 10 % with sample ranges apart, "
        "else ambiguous ('--protocol standard' measures five)",
        "energy": "energy with fewer than 3 processes on a side: no test; called above 10 % with ranges apart",
    }
    kinds = dict.fromkeys(row.metric.kind for row in rows if row.evidence.p is None)
    lines = [rules[kind] for kind in kinds if kind in rules]
    cases = dict.fromkeys(row.evidence.note for row in rows if row.evidence.p is None and row.metric.kind == "dice")
    return lines + [f"Dice without a test, so never called: {note}" for note in cases]


def _unchecked(rows: Sequence[ComparedRow], limits: Mapping[str, float] | None) -> list[str]:
    """Limits that nothing was held against."""
    seen = {row.metric.short for row in rows}
    return [
        f"--fail-on {name}: measured in no pair, so nothing was checked" for name in limits or {} if name not in seen
    ]


def _percent(share: float) -> str:
    return f"{units.significant(round(100 * share, 6), 2)} %"


# Names of cells, and what to say where nothing pairs


def _asked(record: rec.Record) -> dict[str, Any]:
    """Everything but the network's name that makes a cell."""
    model = record.model
    work: dict[str, Any] = rec.to_json(record.workload)
    weights = {"checkpoint": model.checkpoint and model.checkpoint[:8], "recipe": record.recipe}
    own = {"keywords": rec.canonical_json(rec.to_json(model.kwargs)), "arch": model.arch}
    channels = {"in_channels": model.in_channels, "out_channels": model.out_channels}
    return {"device": record.device.asked} | work | channels | weights | own


def _labels(records: Sequence[rec.Record]) -> dict[str, str]:
    """Cell -> the network's name, with what tells its cells apart where it has several."""
    names: dict[str, dict[str, rec.Record]] = {}
    for record in records:
        names.setdefault(record.model.name, {})[record.cell] = record
    labels = {}
    for name, cells in names.items():
        asked = {cell: _asked(record) for cell, record in cells.items()}
        keys = [
            k
            for k in next(iter(asked.values()))
            if len({rec.canonical_json(rec.to_json(a[k])) for a in asked.values()}) > 1
        ]
        for cell, values in asked.items():
            labels[cell] = ", ".join([name, *(_said(k, values[k]) for k in keys)])
    return labels


def _said(key: str, value: Any) -> str:
    if key in ("spatial", "volume") and value:
        text = units.format_shape(value)
        return text if key == "spatial" else f"volume {text}"
    if key in ("runtime", "dtype", "phase", "protocol"):
        return str(value)
    if isinstance(value, Mapping):
        return f"{key} {rec.canonical_json(rec.to_json(value))}"
    return f"{key.replace('_', ' ')} {'none' if value is None else value}"


def _nothing_in_common(a: Mapping[str, rec.Record], b: Mapping[str, rec.Record]) -> str:
    """What each side holds, and for a network on both, in what the cells nearest to each other differ."""
    held = "; ".join(f"{name} holds {_holds(side)}" for name, side in (("A", a), ("B", b)))
    changes = [_changed(x, y) for x in a.values() for y in b.values() if x.model.name == y.model.name]
    nearest = min(changes, key=len, default=[])
    why = f"; where the network is the same, these differ: {', '.join(nearest)}" if nearest else ""
    return f"nothing in common to compare: {held}{why}"


def _plain(value: Any) -> str:
    return units.format_shape(value) if isinstance(value, list) else "none" if value is None else str(value)


def _holds(side: Mapping[str, rec.Record]) -> str:
    return units.first_few(list(dict.fromkeys(r.model.name for r in side.values())), _FEW) or "no record"


def _nothing_measured(pairs: Sequence[Pair], metrics: Sequence[Metric]) -> str:
    held = []
    for name, records in zip("AB", zip(*pairs, strict=True), strict=True):
        found = [m.short for m in METRICS.values() if any(sample(m, r.get(m.name)) for r in records)]
        held.append(f"{name} has {', '.join(found) or 'none'}")
    wanted = ", ".join(m.short for m in metrics)
    return f"none of {wanted} was measured on both sides of the {len(pairs)} cells in common: {'; '.join(held)}"
