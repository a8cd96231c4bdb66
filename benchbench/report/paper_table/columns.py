"""Columns of a paper's table: what each is of, its unit, and whether less or more of it is better."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from benchbench.core import records as rec
from benchbench.core import units
from benchbench.core.errors import UsageError, unknown
from benchbench.core.evaluation import surface_dice
from benchbench.report.cells import finite, valid

Find = Callable[[rec.Record], rec.Measurement | None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PaperColumn:
    """One column; `find` gives the measurement that a row shows in it, `text` a word instead of a number."""

    key: str  # as it is named in --columns
    title: str  # the head, without its unit
    find: Find | None = None
    text: Callable[[rec.Record], str] | None = None
    better: Literal["lower", "higher"] | None = None

    @property
    def is_number(self) -> bool:
        """Whether its cells are numbers with an origin."""
        return self.find is not None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UnitScale:
    """The one unit of a column."""

    divisor: float = 1.0
    unit: str = ""  # `ms`; of counts the prefix alone, `G`


def _of(metric: str) -> Find:
    return lambda record: valid(record, metric)


def _of_phase(infer: str, train: str) -> Find:
    return lambda record: valid(record, train if record.workload.phase == "train" else infer)


def _memory(record: rec.Record) -> rec.Measurement | None:
    """The measured peak; without one the forecast of the tensors, a lower bound, of eager PyTorch alone."""
    train = "train_" if record.workload.phase == "train" else ""
    peak = valid(record, f"{train}peak_memory_bytes")
    if finite(peak) is None and record.workload.runtime == "eager":
        tensors = valid(record, f"{train}tensor_memory_bytes")
        return tensors if finite(tensors) is not None else peak
    return peak


def _surface_dice(record: rec.Record) -> rec.Measurement | None:
    return valid(record, surface_dice(record) or "nsd")


_COLUMNS = (
    PaperColumn(key="model", title="Network"),
    PaperColumn(key="device", title="Device", text=lambda r: r.device.name),
    PaperColumn(key="runtime", title="Runtime", text=lambda r: r.workload.runtime),
    PaperColumn(key="precision", title="Precision", text=lambda r: r.workload.dtype),
    PaperColumn(key="threads", title="Threads", text=lambda r: str(r.workload.threads or "-")),
    PaperColumn(key="batch", title="Batch", text=lambda r: str(r.workload.batch)),
    PaperColumn(key="patch", title="Patch", text=lambda r: units.format_shape(r.workload.spatial) or "-"),
    PaperColumn(key="status", title="Status", text=lambda r: r.status.replace("_", " ")),
    PaperColumn(key="params", title="Params", find=_of("params"), better="lower"),
    PaperColumn(key="macs", title="MACs", find=_of("macs"), better="lower"),
    PaperColumn(key="flops", title="FLOPs", find=_of("flops"), better="lower"),
    PaperColumn(key="latency", title="Latency", find=_of_phase("latency_s", "train_step_s"), better="lower"),
    PaperColumn(key="throughput", title="Throughput", find=_of("throughput_patches_per_s"), better="higher"),
    PaperColumn(key="patient", title="One patient", find=_of("volume_latency_s"), better="lower"),
    PaperColumn(key="memory", title="Peak memory", find=_memory, better="lower"),
    PaperColumn(
        key="patient_memory", title="Peak memory, patient", find=_of("volume_peak_memory_bytes"), better="lower"
    ),
    PaperColumn(key="energy", title="Energy", find=_of("energy_j"), better="lower"),
    PaperColumn(key="file", title="File size", find=_of("artefact_bytes"), better="lower"),
    PaperColumn(key="dice", title="Dice", find=_of("dice"), better="higher"),
    PaperColumn(key="hd95", title="HD95", find=_of("hd95_mm"), better="lower"),
    PaperColumn(key="nsd", title="Surface Dice", find=_surface_dice, better="higher"),
    PaperColumn(key="lost_dice", title="Lost Dice", find=_of("lost_dice"), better="lower"),
    PaperColumn(key="cases", title="Cases", find=_of("evaluated_cases")),
)
BY_KEY: Mapping[str, PaperColumn] = {column.key: column for column in _COLUMNS}

#: Shown where nobody chose; those that no row has a value for are left out.
USUAL = ("model", "runtime", "precision", "params", "macs", "flops", "latency", "patient", "memory", "dice", "hd95")
_ONLY_IF_SEVERAL = ("runtime", "precision")  # of the usual ones: said in the note below otherwise


def columns_of(keys: Sequence[str], records: Sequence[rec.Record]) -> list[PaperColumn]:
    """The columns by their names: those of this file, or any metric of the records, such as `dice_wt`.

    Raises:
        UsageError: a name that is neither, or one that comes twice.
    """
    metrics = {m.metric for r in records for m in r.measurements if m.origin != "published"}
    known = {**{metric: _of_metric(metric) for metric in sorted(metrics)}, **BY_KEY}
    for key in keys:
        if key not in known:
            listed = f"columns are {', '.join(BY_KEY)}, and every metric of the records, such as dice_wt"
            raise UsageError(unknown("column", key, known, hint=listed))
    if twice := next((key for key in keys if list(keys).count(key) > 1), None):
        raise UsageError(f"--columns names {twice} twice: each column stands once")
    return [known[key] for key in keys]


def _of_metric(metric: str) -> PaperColumn:
    words = metric
    for ending in ("_s", "_bytes", "_mm", "_j", "_hz", "_c"):
        words = words.removesuffix(ending)
    name, _, region = words.partition("_")
    if name in ("dice", "hd95") and region:
        title = f"{'Dice' if name == 'dice' else 'HD95'} {region.upper() if len(region) <= 3 else region}"
        return PaperColumn(key=metric, title=title, find=_of(metric), better="higher" if name == "dice" else "lower")
    return PaperColumn(key=metric, title=words.replace("_", " ").capitalize(), find=_of(metric))


def usual(records: Sequence[rec.Record]) -> list[PaperColumn]:
    """Those of the usual columns that say something about these records."""
    found = []
    for column in map(BY_KEY.__getitem__, USUAL):
        if column.key in _ONLY_IF_SEVERAL and column.text:
            keep = len({column.text(r) for r in records}) > 1
        else:
            keep = column.find is None or any(finite(column.find(r)) is not None for r in records)
        found += [column] if keep else []
    return found


#: Unit of a measurement -> how a column of it may be written, from small to large.
_SCALES: Mapping[str, tuple[UnitScale, ...]] = {
    "parameters": (UnitScale(divisor=1e6, unit="M"),),
    "MAC": (UnitScale(divisor=1e9, unit="G"),),
    "FLOP": (UnitScale(divisor=1e9, unit="G"),),
    "s": (UnitScale(divisor=1e-3, unit="ms"), UnitScale(unit="s")),
    "B": (UnitScale(divisor=1e6, unit="MB"), UnitScale(divisor=1e9, unit="GB")),
    "J": (UnitScale(divisor=1e-3, unit="mJ"), UnitScale(unit="J")),
}
_LONGEST = 10_000  # a column whose largest number is not below this takes the next unit


def scale_of(unit: str, values: Sequence[float]) -> UnitScale:
    """The unit in which a column is written: the smallest in which no number has five digits before the point.

    Args:
        unit: of the measurements; `1` has none.
        values: in that unit.
    """
    scales = _SCALES.get(unit, (UnitScale(unit="" if unit == "1" else unit),))
    largest = max(map(abs, values), default=0.0)
    return next((scale for scale in scales if largest / scale.divisor < _LONGEST), scales[-1])
