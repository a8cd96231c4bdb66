"""Reference Dice: measured earlier, elsewhere, in the records that come with the package.

Dice belongs to a network, its weights, its patch and the data, not to the machine, so a figure from
a reference record may stand in another's row. It says so: its origin is `reference` and it names
the record. Latency and memory never travel like this.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

from benchbench.core import records as rec
from benchbench.core.qualification import has_dice_of
from benchbench.core.results import read_records

FOLDER = Path(__file__).parents[1] / "reference"


@functools.cache
def reference_records(folder: Path = FOLDER) -> tuple[rec.Record, ...]:
    """Every reference record, of all machines; none where the package was installed without them."""
    return tuple(record for file in sorted(folder.glob("*/*.jsonl")) for record in read_records(file))


def find_dice(spec: rec.ModelSpec, workload: rec.Workload, folder: Path = FOLDER) -> list[rec.Measurement]:
    """Dice of this network at this patch on this data from a reference record, newest first; or nothing.

    Args:
        spec: with a checkpoint, only Dice of that checkpoint counts; without, Dice of the record's own.
        workload: its data, split, spatial, crop and mirroring must be the record's.
        folder: of reference records, one folder a machine.
    """
    for record in reversed(reference_records(folder)):
        if not has_dice_of(record, spec, workload):
            continue
        dice = [m for m in record.measurements if m.metric.startswith("dice") and m.origin == "measured"]
        if any(m.metric == "dice" and m.value is not None for m in dice):
            return [dataclasses.replace(m, origin="reference", source=record.id) for m in dice]
    return []
