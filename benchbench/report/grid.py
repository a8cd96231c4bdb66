"""Table of the paper's section: named columns under shared headings, one line a network.

The table of a run (`tables.Table`) has fixed columns; these have as many as the records give reason
for, and the same grid becomes a table of the page, of Markdown and of LaTeX.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Literal

from benchbench.core import units
from benchbench.report.tables import TableCell

#: Two figures this close agree to the digits that papers print.
AGREES = 0.02
#: What heads every column of compute, whatever the source called it.
GMAC = "GMAC (2x = GFLOP)"

NOTHING = TableCell(text="-", note="not recorded")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GridColumn:
    """One column; neighbours with the same `group` share a heading above theirs."""

    key: str
    title: str
    help: str
    group: str = ""
    kind: Literal["number", "text", "prose"] = "number"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GridRow:
    """One network."""

    label: str  # the name in the paper, or the card's
    card: str  # the card's name where the label is another
    cells: Mapping[str, TableCell]  # by the key of the column; a key that is not there is a dash
    status: str = "ok"

    def cell(self, key: str) -> TableCell:
        """The cell of a column."""
        return self.cells.get(key, NOTHING)

    @property
    def sort_values(self) -> dict[str, float | str | None]:
        """What the page sorts by."""
        return {key: cell.value for key, cell in self.cells.items() if cell.value is not None} | {"model": self.label}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """One table, its first column being the network."""

    key: str  # unique on the page
    title: str
    caption: str
    columns: tuple[GridColumn, ...]
    lines: tuple[GridRow, ...]
    sorted_by: tuple[str, Literal["ascending", "descending"]] | None = None
    notes: tuple[str, ...] = ()
    cards: bool = False  # whether each line also names its network of the zoo

    @property
    def heads(self) -> list[tuple[str, int]]:
        """The shared headings and how many columns each spans; empty where there are none."""
        if not any(c.group for c in self.columns):
            return []
        return [(name, len(list(members))) for name, members in itertools.groupby(self.columns, lambda c: c.group)]


def count_text(elements: int) -> str:
    """A number of elements with its prefix: `3.97 k`."""
    return units.format_value(elements, "parameters")


def direction(factor: float) -> str:
    """Whether published / true means that the published figure is too high, too low, or right."""
    if abs(factor - 1) <= AGREES:
        return "agrees"
    return "too high" if factor > 1 else "too low"
