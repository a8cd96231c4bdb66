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
from benchbench.core.qualification import is_eager_fp32
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
        r, w = record.model, record.workload
        same_network = (r.name, r.arch, r.in_channels, r.out_channels, rec.to_json(r.kwargs)) == (
            spec.name,
            spec.arch,
            spec.in_channels,
            spec.out_channels,
            rec.to_json(spec.kwargs),
        )
        same_work = (w.data, w.split, w.spatial, w.crop_foreground, w.test_time_mirroring) == (
            workload.data,
            workload.split,
            workload.spatial,
            workload.crop_foreground,
            workload.test_time_mirroring,
        )
        if not is_eager_fp32(w):
            continue  # of another output
        if not (same_network and same_work and workload.data) or spec.checkpoint not in (None, r.checkpoint):
            continue
        dice = [m for m in record.measurements if m.metric.startswith("dice") and m.origin == "measured"]
        if any(m.metric == "dice" and m.value is not None for m in dice):
            return [dataclasses.replace(m, origin="reference", source=record.id) for m in dice]
    return []
