"""Figure of peak memory by what holds it, and how far the forecast was from it.

On a CPU the peak is that of a whole process: the framework before any network, then weights, input,
output, and what remains, which is activations and the kernels' scratch. The forecast knows the tensors
and not the scratch, so it stands beside every bar and its error is stated over the whole table.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from benchbench.core import units
from benchbench.report import reliability
from benchbench.report.figures import stacks, style
from benchbench.report.figures.stacks import Stack, StackPart
from benchbench.report.figures.style import MAX_ROWS, Drawing
from benchbench.report.tables import TableRow

PARTS = {
    "base_memory_bytes": StackPart(letter="B", name="framework", series=4),
    "weights_memory_bytes": StackPart(letter="W", name="weights", series=1),
    "input_memory_bytes": StackPart(letter="I", name="input", series=2),
    "output_memory_bytes": StackPart(letter="O", name="output", series=5),
    "activation_memory_bytes": StackPart(letter="A", name="activations, scratch", series=0),
}
_RESERVED = StackPart(letter="R", name="reserved, not used", series=3)


@style.plain_matplotlib()
def split_bars(rows: Sequence[TableRow], *, prefix: str) -> Drawing | None:
    """Peak memory by what holds it, smallest first.

    Returns: None where no row has its peak split; then plain bars say as much.
    """
    found = [(row, _parts(row)) for row in rows if row.cells["memory_bytes"].value is not None]
    if not any(parts for _, parts in found):
        return None
    found.sort(key=lambda pair: (pair[0].cells["memory_bytes"].value or 0.0, pair[0].label))
    shown = [_stack(row, parts) for row, parts in found[:MAX_ROWS]]
    largest = max(max(s.end, s.mark or 0.0) for s in shown)
    unit, divisor = style.axis_unit("B", largest)
    what = "what the GPU's allocator took" if any(_RESERVED in dict(parts) for _, parts in found) else "a process"
    caption = [f"The peak of {what}, by what holds it."]
    labels = {row.record.id: row.label for row, _ in found}
    if error := reliability.forecast_text([row.record for row, _ in found], labels):
        caption.append(error)
    if heaviest := _peak_operators([row for row, _ in found]):
        caption.append(heaviest)
    if any(s.hatched for s in shown):
        caption.append("Hatched: not measured, the forecast of the tensors, a lower bound (≥).")
    if any(s.whole and not s.parts for s in shown):
        caption.append("Grey: measured, and not split.")
    if len(found) > len(shown):
        caption.append(f"The {len(shown)} smallest of {len(found)}.")
    return style.drawing(
        stacks.draw(shown, f"peak memory, {unit}", divisor, mark="forecast"),
        prefix=prefix,
        label=f"Peak memory and its parts: {'; '.join(map(_spoken, shown))}.",
        title="Peak memory, by what holds it",
        caption=" ".join(caption),
    )


def _parts(row: TableRow) -> tuple[tuple[StackPart, float], ...]:
    """The measured parts of a row; nothing where the activations are not told apart."""
    if not row.usable or row.cells["memory_bytes"].origin != "measured":
        return ()
    if row.record.value("activation_memory_bytes") is None:
        return ()
    values = [(part, row.record.value(metric)) for metric, part in PARTS.items()]
    known = [(part, float(v)) for part, v in values if v is not None and math.isfinite(v) and v > 0]
    allocated = row.record.value("allocated_memory_bytes")
    left = (row.cells["memory_bytes"].value or 0.0) - sum(v for _, v in known)
    if allocated is not None and left > 0:  # a GPU's peak is what the allocator took, and the parts are what it gave
        known.append((_RESERVED, left))
    return tuple(known)


def _stack(row: TableRow, parts: tuple[tuple[StackPart, float], ...]) -> Stack:
    cell = row.cells["memory_bytes"]
    measured, value = cell.origin == "measured", cell.value or 0.0
    return Stack(
        label=row.label,
        parts=parts,
        text=cell.text.replace("at least", "≥"),
        whole=value if measured else 0.0,
        hatched=0.0 if measured else value,
        mark=reliability.forecast(row.record) if measured else None,
    )


def _spoken(stack: Stack) -> str:
    parts = ", ".join(f"{part.name} {units.format_value(value, 'B')}" for part, value in stack.parts)
    forecast = f", forecast {units.format_value(stack.mark, 'B')}" if stack.mark else ""
    return f"{stack.label} {stack.text}" + (f" ({parts}{forecast})" if parts or forecast else "")


def _peak_operators(rows: Sequence[TableRow]) -> str:
    """At which operators the forecast sees the peaks, where the records say so."""
    forecasts = [m for row in rows if (m := row.record.get("tensor_memory_bytes"))]
    counts = Counter(name for m in forecasts if (name := operator_at_peak(m.method)))
    if not counts:
        return ""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return f"The forecast sees the peak at {', '.join(f'{name} ({n} rows)' for name, n in ordered[:3])}."


def operator_at_peak(method: str) -> str | None:
    """The operator that a forecast's method names: `convolution` of `..., at convolution in encoder.block1`."""
    found = re.search(r", at (\w+) in ", method)
    return found[1] if found else None
