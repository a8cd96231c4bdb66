"""Tables I to III of the Slim UNETR paper as printed, and what their numbers say about themselves.

The figures are kept as text: `44.4` and `44.40` are one number and two precisions. Nearly all throughputs are whole
multiples of 0.06 images per minute, which only a rate in images per second, rounded to three decimals and multiplied
by 60, gives.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Literal

PAPER = "Pang et al., IEEE TMI 2023, doi:10.1109/TMI.2023.3326188"

#: Input of a Record (`conditions.input_text`) -> the prefix of its columns in Table III.
TASKS: Mapping[str, str] = {"1 x 4 x 128x128x128": "brain", "1 x 1 x 96x96x96": "vessel"}

#: A rate in images per second with three decimals, times 60, moves in steps of this many images per minute.
STEP = Decimal("0.06")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """One row of one table."""

    name: str  # the paper's
    card: str  # the zoo's
    values: Mapping[str, str]  # column -> the figure as printed; columns without one are not there

    def number(self, column: str) -> float | None:
        """The figure as a number, or None where the paper has none."""
        return float(self.values[column]) if column in self.values else None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """How many of the printed throughputs are whole multiples of `STEP`."""

    n: int
    exact: int
    by_chance: float  # how many would be, if any figure with two decimals were as likely
    others: tuple[tuple[str, str], ...]  # (network, figure) of the rest


@functools.cache
def table(number: Literal[1, 2, 3]) -> tuple[Printed, ...]:
    """Table I, II or III in the paper's order."""
    text = (Path(__file__).parent / f"paper_table{number}.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    names = ("model", "card")
    return tuple(
        Printed(name=r["model"], card=r["card"], values={k: v for k, v in r.items() if v and k not in names})
        for r in rows
    )


def find(number: Literal[1, 2, 3], card: str) -> Printed | None:
    """The row of a network of the zoo, if the paper has one."""
    return next((row for row in table(number) if row.card == card), None)


def figure(number: Literal[1, 2, 3], card: str, column: str) -> str:
    """One figure as printed.

    Raises:
        KeyError: the paper has none.
    """
    row = find(number, card)
    if row is None:
        raise KeyError(card)
    return row.values[column]


def throughput_steps() -> Steps:
    """Whether the throughputs of Table III are rates in images per second with three decimals, times 60."""
    figures = [
        (row.name, row.values[column])
        for row in table(3)
        for column in ("brain_images_per_min", "vessel_images_per_min")
        if column in row.values
    ]
    others = tuple(figure for figure in figures if Decimal(figure[1]) % STEP)
    chance = Decimal("0.01") / STEP  # the figures have two decimals
    return Steps(
        n=len(figures), exact=len(figures) - len(others), by_chance=float(len(figures) * chance), others=others
    )
