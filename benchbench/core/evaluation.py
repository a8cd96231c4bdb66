"""Evaluation: the words by which records of segmentation quality alone are told from others.

Such a record has no latency, and what it is of need be no network: label maps that another program wrote have a row
like any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from benchbench.core import records as rec

#: What a workload's protocol says when nothing was timed.
PROTOCOL = "evaluation"

#: In the place of a class: label maps of any origin; and several networks that answer as one, named in the keywords.
LABEL_MAPS, ENSEMBLE = "label-maps", "ensemble"

_SURFACE_DICE = re.compile(r"nsd_[\d.]+mm")


def is_evaluation(record: rec.Record) -> bool:
    """Whether nothing but the quality of segmentations was asked for."""
    return record.workload.protocol == PROTOCOL


def are_evaluations(records: Iterable[rec.Record]) -> bool:
    """Whether there are records, and all are such."""
    found = [is_evaluation(record) for record in records]
    return bool(found) and all(found)


def surface_dice(record: rec.Record) -> str | None:
    """The name of its surface Dice over all regions, which holds the tolerance: `nsd_1mm`."""
    return next((m.metric for m in record.measurements if _SURFACE_DICE.fullmatch(m.metric)), None)


def region_metrics(record: rec.Record, region: str) -> tuple[str, str, str]:
    """The names of Dice, HD95 and surface Dice of a region; an empty one is the mean over all.

    Args:
        region: as the names of metrics have it, such as `anterior` of `dice_anterior`.
    """
    end = f"_{region}" if region else ""
    return f"dice{end}", f"hd95{end}_mm", f"{surface_dice(record) or 'nsd'}{end}"
