"""Training curves: Dice of the validation cases and loss over the budget.

The artifact (kind `training`) is somebody else's text until it has been checked. The axis is the share of the budget,
not steps, since what was equal between the networks is the budget.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from benchbench.core import records as rec
from benchbench.core.config import parse_json
from benchbench.core.errors import StoreError
from benchbench.report.details import ReadArtifact, artifact_of
from benchbench.report.figures import panels, svg
from benchbench.report.figures.overview import MAX_BARS, Drawing
from benchbench.report.figures.panels import Curve, Panel, Scale
from benchbench.report.tables import TableRow

_HIGHEST = 1e6  # of a loss; beyond it a training has failed, and a curve has no scale


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCurve:
    """What the curve of a network needs."""

    budget: str
    steps: int
    loss: tuple[tuple[float, float], ...]  # (share of the steps, mean loss)
    validation: tuple[tuple[float, float], ...]  # (share of the steps, Dice on `val`)


def parse(content: bytes) -> TrainingCurve:
    """Read the artifact.

    Raises:
        StoreError: it is not what it should be.
    """
    try:
        data = parse_json(content, "a training curve", StoreError)
        steps = rec.value_from_json(rec.Count, data["steps_done"], "steps_done")
        return TrainingCurve(
            budget=rec.value_from_json(str, data["budget"], "budget")[:40],
            steps=steps,
            loss=_points(data["curve"], steps),
            validation=_points(data.get("validation", ()), steps),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise StoreError("a training curve could not be read, so it is not shown") from error


def _points(pairs: Any, steps: int) -> tuple[tuple[float, float], ...]:
    found = rec.value_from_json(tuple[tuple[float, float], ...], pairs, "a curve")
    return tuple((step / max(steps, 1), y) for step, y in found if 0 <= step <= max(steps, 1) and abs(y) <= _HIGHEST)


def curves(rows: Sequence[TableRow], read: ReadArtifact, *, prefix: str) -> Drawing | None:
    """A panel for each row whose weights were trained with a curve kept.

    Returns: None where none was.
    """
    found = [
        (row, one) for row in rows if (one := artifact_of(row.record, "training", read, parse)) and len(one.loss) > 1
    ]
    if not found:
        return None
    shown = found[:MAX_BARS]
    x = Scale(low=0, high=1, ticks=((0, "0"), (0.5, "half"), (1, "all")), title="share of the budget")
    y = Scale(low=0, high=1, ticks=((0, "0"), (0.5, "0.5"), (1, "1")), title="Dice on the validation cases")
    picture = panels.draw([_panel(row, one) for row, one in shown], x, y)
    caption = (
        "Dotted: the loss, as a share of its first value. The validation cases were watched while it trained; the "
        "Dice in the tables is of others."
    )
    if len(found) > len(shown):
        caption += f" The first {len(shown)} of {len(found)} rows."
    spoken = "; ".join(f"{row.label} {_note(one)}" for row, one in shown)
    return Drawing(
        svg=svg.inline(picture, prefix=prefix, label=f"Training: {spoken}."), title="Training", caption=caption
    )


def _panel(row: TableRow, one: TrainingCurve) -> Panel:
    first = max(one.loss[0][1], 1e-9)
    loss = Curve(points=tuple((x, y / first) for x, y in one.loss[:: max(1, len(one.loss) // 40)]), kind="guide")
    note = f"Dice {one.validation[-1][1]:.3f}, {one.budget}" if one.validation else one.budget
    return Panel(title=row.label, note=note, curves=(loss, Curve(points=one.validation)))


def _note(one: TrainingCurve) -> str:
    last = f", Dice {one.validation[-1][1]:.3f}" if one.validation else ""
    return f"{one.budget}, {one.steps} steps{last}"
