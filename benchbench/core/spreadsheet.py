"""CSV for programs and spreadsheets: text that a spreadsheet would run as a formula stays text."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence

_BEGINS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
#: A dash that stands for no value, or a number, its unit perhaps behind it: nothing in it can be called.
_HARMLESS = re.compile(r"[+-](?:(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf|nan)(?: ?[A-Za-z%µ]{1,4})?|-")


def cell(value: object) -> object:
    """A cell as it is written: text that begins as a formula does gets an apostrophe before it.

    Args:
        value: a number, True, False and None are left as they are, negative numbers too.
    """
    if isinstance(value, str) and value.startswith(_BEGINS_A_FORMULA) and not _HARMLESS.fullmatch(value):
        return f"'{value}"
    return value


def to_csv(header: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """A table as CSV.

    Args:
        header: the columns; what else a row has is left out.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([cell(title) for title in header])
    writer.writerows([cell(row.get(title)) for title in header] for row in rows)
    return out.getvalue()
