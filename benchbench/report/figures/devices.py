"""Figures of several devices side by side: which network keeps which pace on which of them.

Sets of conditions stand in tables of their own; here those that ask the same of several devices are joined. A measured
time is a dot with its interval, a forecast a hatched range: a mark at a lower bound alone would look like a promise.
What a network keeps up with is judged at the slow end of what is known of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from benchbench.core import records as rec
from benchbench.core import units
from benchbench.core.evaluation import is_evaluation
from benchbench.report import shown_rows
from benchbench.report.cells import (
    FORECASTS,
    TableCell,
    dice_cell,
    finite,
    fits_text,
    measurement_cell,
    tier_of,
    valid,
)
from benchbench.report.conditions import Group, any_path, apart, path_of
from benchbench.report.figures import style
from benchbench.report.figures.style import MAX_ROWS, Drawing
from benchbench.report.labels import row_labels
from benchbench.report.tables import Column, Table, TableRow, headline

#: Paces that are asked about, patches in a second.
PACES = (30.0, 10.0, 1.0, 0.1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One device."""

    name: str
    predicted: bool
    times: dict[str, tuple[float, float, float]]  # network -> value, lower and upper end, seconds of a patch
    cells: dict[str, TableCell]  # network -> as the table of that device has it
    fits: dict[str, str]  # network -> whether it fits into the memory there, as far as that is known
    records: dict[str, rec.Record]  # network -> what is known of it there
    basis: str = ""  # of forecasts: what they rest on


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """Devices of which the same was asked."""

    sides: tuple[Side, ...]
    labels: tuple[str, ...]  # of networks, the fastest on the first device that was measured first
    letters: frozenset[str]  # of the sets of conditions that are joined

    @property
    def have_common_rows(self) -> bool:
        """Whether anything stands beside anything: a network in the same runtime and precision on two devices."""
        return any(sum(label in side.cells for side in self.sides) > 1 for label in self.labels)


def find(groups: Sequence[Group]) -> list[Sides]:
    """Each set of groups of one type, batch and input with several devices; not of trainings, evaluations."""
    inference = [group for group in groups if group.first.workload.phase == "infer" and not is_evaluation(group.first)]
    joined = [
        _sides(list(apart(those, _device).values()))
        for those in apart(inference, _asked).values()
        if len({group.first.device.name for group in those}) > 1
    ]
    return [sides for sides in joined if sides.have_common_rows]


def _asked(group: Group) -> str:
    """What was asked of the device; a forecast has no protocol."""
    free: dict[str, Any] = dict.fromkeys(("threads", "data", "split", "overlap"))
    work = dataclasses.replace(any_path(group.first.workload), spatial=(0, 0, 0), protocol="", **free)
    return rec.canonical_json([rec.to_json(work), group.input])


def _device(group: Group) -> tuple[str, int | None, str | None, bool]:
    """A classifier among segmentations, or another commit, is no other device."""
    first = group.first
    return first.device.name, first.workload.threads, first.environment.get("host"), group.predicted


def _newest(records: Sequence[rec.Record]) -> list[rec.Record]:
    """Of a network that was asked of a device under several conditions, such as two commits, the last record."""
    newest: dict[str, str] = {}
    for record in sorted(records, key=lambda record: record.started_at):
        work = record.workload
        what = [record.model.name, rec.to_json(record.recipe), work.spatial, *path_of(record), work.int8_accuracy]
        newest[rec.canonical_json(what)] = record.id
    return [record for record in records if record.id in newest.values()]


def _sides(devices: Sequence[Sequence[Group]]) -> Sides:
    sides = []
    together = [record for groups in devices for group in groups for record in group.records]
    for groups in devices:
        records = _newest([record for group in groups for record in group.records])
        names, main = row_labels(records, beside=together), headline(records)
        times, cells, fits, basis, of = {}, {}, {}, set(), {}
        for record in records:
            m, label, batch = valid(record, main), names[record.id], record.workload.batch
            cells[label], of[label] = measurement_cell(m), record
            fits[label] = _fits(record)
            if not record.ok:
                cells[label] = dataclasses.replace(cells[label], note=record.error or record.status)
            if m := finite(m):
                basis |= {FORECASTS[tier_of(m)]} if m.origin == "predicted" else set()
                value = float(m.value or 0.0)
                low, high = m.interval or m.ci95 or (value, value)
                times[label] = value / batch, low / batch, high / batch
        name = _name(groups[0], [first for first, *_ in devices])
        predicted, rests_on = groups[0].predicted, ", ".join(sorted(basis))
        sides.append(
            Side(name=name, predicted=predicted, times=times, cells=cells, fits=fits, records=of, basis=rests_on)
        )
    labels = list(dict.fromkeys(label for side in sides for label in side.cells))
    timed = next((side for side in sides if not side.predicted and side.times), None)
    if timed:  # a forecast ranks nothing
        labels.sort(key=lambda label: timed.times[label][0] if label in timed.times else math.inf)
    else:
        labels.sort(key=lambda label: sides[0].times.get(label, (math.inf,))[0])
    letters = frozenset(group.letter for groups in devices for group in groups)
    return Sides(sides=tuple(sides), labels=tuple(labels), letters=letters)


def _fits(record: rec.Record) -> str:
    """`fits` of what ran, `may fit` of what is only forecast, `does not fit`, or nothing."""
    if record.device.basis == "probed":
        return "fits" if record.ok else "does not fit" if record.status == "oom" else ""
    fits = finite(record.get("fits_in_memory"))
    return fits_text(fits) if fits else ""


def _name(group: Group, groups: Sequence[Group]) -> str:
    """The device; with threads and host where another one bears its name."""
    own = group.first.device.name
    if sum(other.first.device.name == own for other in groups) < 2:
        return own
    threads, host = group.first.workload.threads, group.first.environment.get("host")
    return own + (f", {threads} threads" if threads else "") + (f", {host}" if host else "")


def pace(high_s: float) -> float | None:
    """The fastest of PACES that is kept by a time; None: not even the slowest."""
    return next((pace for pace in PACES if high_s <= 1 / pace), None)


def pace_text(low_s: float, high_s: float) -> str:
    """What is kept for sure, and what may be: `10/s`, `0.1/s, perhaps 10/s`, `perhaps 1/s`, `none`."""
    sure, perhaps = pace(high_s), pace(low_s)
    if sure == perhaps:
        return f"{sure:g}/s" if sure else "none"
    return f"{sure:g}/s, perhaps {perhaps:g}/s" if sure else f"perhaps {perhaps:g}/s"


def limit_text(low_s: float, high_s: float, limit_s: float) -> str:
    """Whether a time meets a limit: `yes`, `no`, or `perhaps` where the limit lies between what is known."""
    return "yes" if high_s <= limit_s else "no" if low_s > limit_s else "perhaps"


def table(joined: Sides, *, key: str, max_latency_s: float | None = None) -> Table:
    """A line a network: on each device its time, what that keeps up with or whether it meets a limit, and memory.

    Args:
        joined: the devices.
        key: of the table on the page.
        max_latency_s: the most that a patch may take; None: the rates of `PACES` are asked about.
    """
    limit = None if max_latency_s is None else units.format_value(max_latency_s, "s")
    slow = "patches per second, at the slow end" if limit is None else f"whether a patch takes at most {limit}"
    columns = list(_OF_NETWORK)
    for i, side in enumerate(joined.sides):
        heading = f"{side.name} (forecast{f': {side.basis}' if side.basis else ''})" if side.predicted else side.name
        columns.append(Column(key=f"time{i}", title="One batch", help="as in its own table", group=heading))
        verdict = "Keeps" if limit is None else f"At most {limit}"
        columns.append(Column(key=f"pace{i}", title=verdict, help=slow, group=heading, kind="text"))
    rows = []
    for label in joined.labels[: shown_rows.MOST]:
        cells = _of_network([side.records[label] for side in joined.sides if label in side.records])
        for i, side in enumerate(joined.sides):
            cell = side.cells.get(label, TableCell(text="-", note="not asked of this device"))
            cells[f"time{i}"] = dataclasses.replace(cell, detail="") if side.predicted else cell
            if label in side.times:
                _, low, high = side.times[label]
                text = pace_text(low, high) if max_latency_s is None else limit_text(low, high, max_latency_s)
                cells[f"pace{i}"] = TableCell(
                    text=text,
                    origin="predicted" if side.predicted else "measured",
                    value=pace(high) or 0.0 if max_latency_s is None else _VERDICTS.index(text),
                    detail=side.fits[label],
                    note=_ends(side.times[label]),
                )
            elif side.fits.get(label):
                cells[f"pace{i}"] = TableCell(text="-", detail=side.fits[label], note=cell.note)
        rows.append(TableRow(label=label, cells=cells))
    asked = ", ".join(f"{pace:g}" for pace in PACES)
    rates = (
        f"Keeps: the highest of the rates {asked} patches per second that a network reaches even at the slow end of "
        "its interval; “perhaps” adds the one that it reaches at the fast end."
    )
    held = f"“perhaps”: {limit} lies between what is known of the time."
    more = len(joined.labels) - len(rows)
    return Table(
        key=key,
        title="Networks on each device",
        caption=rates if limit is None else held,
        columns=tuple(column for column in columns if column.group or any(row.cells[column.key].value for row in rows)),
        rows=tuple(rows),
        notes=(f"{units.counted(more, 'more network')}: see the CSV beside this page.",) if more else (),
    )


_OF_NETWORK = (
    Column(key="params", title="Params", help="elements of every nn.Parameter, each counted once"),
    Column(key="dice", title="Dice", help="mean over regions and cases, of the first device where it is known"),
)


def _of_network(records: Sequence[rec.Record]) -> dict[str, TableCell]:
    """Parameters and Dice, which are the same on every device: of the first record that has them."""
    counted = [measurement_cell(record.get("params")) for record in records]
    scored = [dice_cell(record) for record in records]
    params, dice = (next((c for c in those if c.value is not None), those[0]) for those in (counted, scored))
    return {"params": dataclasses.replace(params, detail=""), "dice": dataclasses.replace(dice, detail=dice.qualifier)}


_VERDICTS = ("no", "perhaps", "yes")


_EDGE, _APART = 0.12, 0.45  # shares of a panel's axis: free of ticks at its ends; between two of them


@style.plain_matplotlib()
def figure(joined: Sides, *, prefix: str) -> Drawing | None:
    """Times on all devices, a panel each on one logarithmic axis; None where there are none."""
    timed = [label for label in joined.labels if any(label in side.times for side in joined.sides)]
    sides = [side for side in joined.sides if side.times]
    if not timed or len(sides) < 2:
        return None
    labels = timed[:MAX_ROWS]
    names = [style.clip(label, 22) for label in labels]
    figure, grid = style.panels(
        [side.name.removeprefix("jetson-") for side in sides],
        0.2 * len(labels) + 0.1,
        "seconds (log)",
        columns=min(3, len(sides)),
        left=min(0.4, 0.04 + 0.0165 * max(map(len, names))),
    )
    limits = style.around([end for side in sides for label in labels for end in side.times.get(label, ())], log=True)
    room = (limits[1] / limits[0]) ** _EDGE
    ticks = style.log_ticks(limits[0] * room, limits[1] / room, apart=_APART, enough=2)
    for axes, side in zip(grid, sides, strict=True):
        style.name_rows(axes, names)
        axes.set(xscale="log", xlim=limits)
        axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        for y, label in enumerate(labels):
            if label not in side.times:
                continue
            value, low, high = side.times[label]
            if side.predicted:
                axes.barh(y, max(high - low, 1e-12), left=low, height=0.62, **style.NOT_MEASURED)
            else:
                axes.plot([low, high], [y, y], color=style.SERIES[0], linewidth=2.0, solid_capstyle="butt")
                style.marks(axes, [value], [y], "o", 5, style.SERIES[0])
    left_out = f" {len(timed) - len(labels)} more are in the table." if len(timed) > len(labels) else ""
    title = "Time of one patch, device by device"
    spoken = "; ".join(
        f"{side.name}: " + ", ".join(f"{label} {_ends(side.times[label])}" for label in labels if label in side.times)
        for side in sides
    )
    return style.drawing(
        figure,
        prefix=prefix,
        label=f"{title}. {spoken}.",
        title=title,
        caption="Hatched: a forecast, from its lower to its upper end; nothing ran there. A dot: measured, with its "
        f"interval.{left_out}",
    )


def _ends(time: tuple[float, float, float]) -> str:
    return f"{units.format_value(time[1], 's')} to {units.format_value(time[2], 's')}"
