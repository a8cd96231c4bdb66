"""The front of a run so far: the networks of each set of conditions that no other beats in both time and Dice."""

from __future__ import annotations

from collections.abc import Sequence

from benchbench.core import records as rec
from benchbench.core import units
from benchbench.core.statistics import pareto_front
from benchbench.report import reliability
from benchbench.report.cells import finite, valid
from benchbench.report.conditions import group, has_phantom_dice
from benchbench.report.labels import row_labels
from benchbench.report.tables import headline


def fronts(records: Sequence[rec.Record]) -> list[str]:
    """A line for each set of conditions where two rows or more have a time and a Dice that can be compared.

    Rows that take no rank (`reliability.without_rank`) are on no front, nor are forecasts and Dice of the phantom,
    whose trainings were unequal.
    """
    lines = []
    for part in group(records):
        rows = part.records
        left_out = reliability.without_rank(rows)
        time = "volume_latency_s" if any(finite(valid(r, "volume_latency_s")) for r in rows) else headline(rows)
        labels, points = row_labels(rows), []
        for r in rows:
            cost, dice = finite(valid(r, time)), finite(valid(r, "dice"))
            if r.id in left_out or has_phantom_dice(r) or cost is None or dice is None or cost.origin != "measured":
                continue
            points.append((float(cost.value or 0), -float(dice.value or 0), labels[r.id]))
        if len(points) < 2:
            continue
        kept = sorted(points[i] for i in pareto_front([(cost, dice) for cost, dice, _ in points]))
        told = ", ".join(f"{name} ({units.format_value(cost, 's')}, Dice {-dice:.3f})" for cost, dice, name in kept)
        lines.append(f"front so far, {part.title}: {told}")
    return lines
