"""Training behind a Dice: whether the networks of a table were trained alike, as far as their records tell."""

from __future__ import annotations

from collections.abc import Sequence

from benchbench.core import records as rec
from benchbench.report.cells import finite, valid
from benchbench.report.details import ReadArtifact, artifact_of
from benchbench.report.figures.curves import parse_training


def are_trained_alike(records: Sequence[rec.Record], read: ReadArtifact) -> bool:
    """Whether every row with a Dice says how long its network was trained, and all say the same.

    A record without the curve of a training, such as one whose Dice was measured elsewhere, tells nothing.
    """
    scored = [record for record in records if finite(valid(record, "dice"))]
    budgets = [artifact_of(record, "training", read, _budget) for record in scored]
    return len(set(budgets) - {None}) <= 1 and (None not in budgets or len(scored) < 2)


def _budget(content: bytes) -> str:
    """What a training's artifact says of its budget; its curve, of thousands of rows, is let go."""
    return parse_training(content).budget
