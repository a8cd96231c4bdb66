"""Published sizes beside ours: parameters and compute of each network, and the factor between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from benchbench.core import records as rec
from benchbench.core import units
from benchbench.core.units import times
from benchbench.report.tables import finite


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSize:
    """A published figure beside ours."""

    label: str
    quantity: str
    published: str
    ours: str
    origin: rec.Origin
    factor: str  # published / ours


def published_beside_ours(records: Sequence[rec.Record], labels: dict[str, str]) -> list[PublishedSize]:
    """Params and MACs of each network: the published figure, ours, and the factor between them."""
    rows = []
    for record in records:
        for metric, quantity in (("params", "parameters"), ("macs", "compute")):
            theirs, ours = finite(record.published(metric)), finite(record.get(metric))
            if theirs is None or ours is None or not theirs.value or not ours.value:
                continue
            size = PublishedSize(
                label=labels[record.id],
                quantity=quantity,
                published=_four_digits(theirs, "G, called GFLOPs"),
                ours=_four_digits(ours, "GMAC"),
                origin=ours.origin,
                factor=times(theirs.value / ours.value),
            )
            rows.append(size)
    return rows


def _four_digits(m: rec.Measurement, giga: str) -> str:
    """Parameters in millions, compute in thousand millions; `giga` is what the source calls the latter."""
    scale, unit = (1e6, "M") if m.metric == "params" else (1e9, giga)
    return f"{units.significant(float(m.value or 0) / scale, 4)} {unit}"
