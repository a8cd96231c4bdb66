"""Figure of the cost of a whole patient: seconds by sliding windows, and where they go.

A patch is what networks are compared by, a patient what a user waits for. Between the two stand the
number of windows, which overlap, and the work outside the network (cutting, weighting, stitching), which
a fast network cannot make faster: a row whose share outside is large gains little from a smaller network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from benchbench.core import records as rec
from benchbench.core import units
from benchbench.report import reliability
from benchbench.report.cells import BASELINE, TableCell, finite, measurement_cell, ratio_cell, valid
from benchbench.report.conditions import Group, windows_text
from benchbench.report.figures import style
from benchbench.report.figures.memory import Stack, StackPart, draw_stacks
from benchbench.report.figures.style import MAX_ROWS, Drawing
from benchbench.report.patient import compared_volume, own_volumes
from benchbench.report.tables import Column, Table, TableRow, baseline_of, record_row, unranked_cells

_INSIDE = StackPart(letter="N", name="in the network", series=0)
_OUTSIDE = StackPart(letter="S", name="cutting and stitching", series=1)

_COLUMNS = (
    Column(key="volume_latency_s", title="One patient", help="the whole volume, median"),
    Column(key="rank", title="Rank", help="by the time of one patient; rows within the noise floor, or 2 %, tie"),
    Column(key="ratio", title=f"vs {BASELINE}", help=f"one patient as a multiple of {BASELINE}'s"),
    Column(key="volume_windows", title="Windows", help="patches that cover the volume"),
    Column(key="window_s", title="A window", help="one patient over the number of windows, everything included"),
    Column(key="volume_outside_share", title="Outside the network", help="share of the time that no network took"),
    Column(key="volume_cropped_share", title="Patient's box", help="share of the voxels that the windows had to cover"),
    Column(key="volume_peak_memory_bytes", title="Peak memory", help="with the buffers of the stitched volume"),
)


def has_volumes(rows: Sequence[TableRow]) -> bool:
    """Whether any row has anything to say of a whole volume."""
    return any(row.record.get(metric) for row in rows for metric in ("volume_latency_s", "volume_windows"))


def table(rows: Sequence[TableRow], group: Group, floors: reliability.Floors, *, key: str) -> Table | None:
    """A line for each row that was asked for a volume, the fastest first; None where none was."""
    if not has_volumes(rows):
        return None
    records = [row.record for row in rows]
    without = reliability.without_rank(records)
    timed = {r.id: m for r in records if r.id not in without and (m := finite(valid(r, "volume_latency_s")))}
    seconds = {i: float(m.value or 0) for i, m in timed.items() if m.origin == "measured"}
    ranked = reliability.Ties.of(records, floors).ranks(seconds, "volume_latency_s")
    base = baseline_of(records)
    lines = [_line(row, base, ranked.get(row.record.id), without.get(row.record.id)) for row in rows]
    lines.sort(
        key=lambda line: (line.cell("volume_latency_s").value is None, line.cell("volume_latency_s").value or 0.0)
    )
    used = {key for line in lines for key, cell in line.cells.items() if cell.value is not None}
    work = group.first.workload
    size = "" if (volume := compared_volume(work)) is None else f" of {units.format_shape(volume)} voxels"
    crop = ", over the box that holds the patient" if work.crop_foreground else ""
    return Table(
        key=key,
        title=f"One patient{size}",
        caption=f"By sliding {windows_text(work)}{crop}{own_volumes(records)}.",
        columns=tuple(c for c in _COLUMNS if c.key in used or c.key == "volume_latency_s"),
        rows=tuple(lines),
        sorted_by=("volume_latency_s", "ascending"),
    )


def _line(row: TableRow, base: rec.Record | None, rank: str | None, why: reliability.NoRank | None) -> TableRow:
    record = row.record
    cells = {}
    for metric in ("volume_latency_s", "volume_windows", "volume_peak_memory_bytes"):
        cells[metric] = measurement_cell(valid(record, metric))
    windows = cells["volume_windows"]
    if windows.value is not None:
        cells["volume_windows"] = dataclasses.replace(windows, text=units.significant(windows.value))
    for metric in ("volume_outside_share", "volume_cropped_share"):
        cells[metric] = _share_cell(record, metric)
    cells["ratio"] = ratio_cell(record, base, "volume_latency_s")
    if rank:
        cells["rank"] = TableCell(text=rank, origin="measured", value=float(rank.rstrip("=")))
    elif why:
        cells |= unranked_cells(why)
    seconds, windows = cells["volume_latency_s"], cells["volume_windows"]
    if seconds.value and windows.value and seconds.origin != "predicted":  # a forecast is a range
        each = seconds.value / windows.value
        cells["window_s"] = TableCell(text=units.format_value(each, "s"), origin=seconds.origin, value=each)
    return record_row(record, row.label, cells)


def _share_cell(record: rec.Record, metric: str) -> TableCell:
    cell = measurement_cell(valid(record, metric))
    return (
        cell if cell.value is None else dataclasses.replace(cell, text=units.percent(cell.value, trim=True), detail="")
    )


@style.plain_matplotlib()
def figure(rows: Sequence[TableRow], *, prefix: str) -> Drawing | None:
    """Bars of one patient's time, the part outside the network apart where it is known."""
    timed = [(row, m) for row in rows if (m := finite(valid(row.record, "volume_latency_s"))) and m.value]
    if not timed:
        return None
    timed.sort(key=lambda pair: (pair[1].value or 0.0, pair[0].label))
    shown = [_stack(row, float(m.value or 0), m.origin == "measured") for row, m in timed[:MAX_ROWS]]
    unit, divisor = ("minutes", 60.0) if max(stack.end for stack in shown) >= 180 else ("seconds", 1.0)
    caption = "The time from the volume to its label map."
    if any(s.parts for s in shown):
        caption += " A faster network does not shorten the part S."
    if len(timed) > len(shown):
        caption += f" The {len(shown)} fastest of {len(timed)}."
    return style.drawing(
        draw_stacks(shown, f"one patient, {unit}", divisor),
        prefix=prefix,
        label=f"Seconds for one patient: {'; '.join(f'{s.label} {s.text}' for s in shown)}.",
        title="One patient",
        caption=caption,
    )


def _stack(row: TableRow, seconds: float, measured: bool) -> Stack:
    outside = finite(valid(row.record, "volume_outside_share"))
    text = units.format_value(seconds, "s") if seconds < 60 else units.format_duration(seconds)
    share = None if outside is None or outside.value is None else float(outside.value)
    if not measured or share is None or not 0 <= share <= 1:
        return Stack(label=row.label, parts=(), text=text, whole=seconds * measured, hatched=seconds * (not measured))
    parts = ((_INSIDE, seconds * (1 - share)), (_OUTSIDE, seconds * share))
    return Stack(label=row.label, parts=tuple(p for p in parts if p[1] > 0), text=f"{text}, {100 * share:.0f} % S")
