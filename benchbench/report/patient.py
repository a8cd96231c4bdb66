"""The patient volume that rows have in common, and how networks with a preparation of their own see it.

A network of nnU-Net or MONAI resamples and turns images in its own way, so the same patient is another volume to it.
Its latency of a patient is of that volume, and stands in one table with those of the others.
"""

from __future__ import annotations

from collections.abc import Iterable

from benchbench.core import records as rec
from benchbench.core import units


def compared_volume(work: rec.Workload) -> tuple[int, ...] | None:
    """(D, H, W) of the patient as the plan of the data has it; None where no whole patient was asked for."""
    return work.patient or work.volume


def own_volumes(records: Iterable[rec.Record]) -> str:
    """`; hippo prepares it as 36x50x35, and is timed on that`; empty where all see the common volume."""
    seen: dict[tuple[int, ...], dict[str, None]] = {}
    for record in records:
        if record.workload.patient and record.workload.volume:
            seen.setdefault(record.workload.volume, {})[record.model.name] = None
    return "".join(
        f"; {', '.join(names)} {'prepares' if len(names) == 1 else 'prepare'} it as {units.format_shape(volume)}, and "
        f"{'is' if len(names) == 1 else 'are'} timed on that"
        for volume, names in seen.items()
    )
