"""Writers of tables: text for a terminal, Markdown, LaTeX, CSV and JSON.

In CSV, text that a spreadsheet would run as a formula stays text.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_BEGINS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
#: A dash that stands for no value, or a number, its unit perhaps behind it: nothing in it can be called.
_HARMLESS = re.compile(r"[+-](?:(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf|nan)(?: ?[A-Za-z%µ]{1,4})?|-")
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$"}
_LATEX |= {char: f"\\{char}" for char in "&%$#_{}"}


def write(rows: Sequence[Mapping[str, Any]], fmt: str) -> str:
    """Rows in any of the formats.

    Args:
        rows: all with the same keys, which are the headings.
        fmt: `table`, `json`, `csv`, `markdown` or `latex`.
    """
    if fmt == "json":
        return to_json([dict(row) for row in rows])
    titles = list(rows[0]) if rows else []
    if fmt == "csv":
        plain = ({t: v if isinstance(v, int | float) else str(v) for t, v in row.items()} for row in rows)
        return to_csv(titles, plain).rstrip("\n")
    writer = {"markdown": to_markdown, "latex": to_latex}.get(fmt, to_text)
    return writer(titles, [[str(row[title]) for title in titles] for row in rows])


def to_text(titles: Sequence[str], lines: Sequence[Sequence[str]], aligns: Sequence[str] = ()) -> str:
    """Columns as wide as their widest cell, for a terminal.

    Args:
        titles: of the columns.
        lines: of cells.
        aligns: of the columns, `r` for the right; all to the left if empty.
    """
    widths = [max(map(len, column)) for column in zip(titles, *lines, strict=True)]
    pads = [str.rjust if align == "r" else str.ljust for align in aligns or "l" * len(titles)]
    padded = [titles, ["-" * width for width in widths], *lines]
    return "\n".join(
        "  ".join(pad(c, w) for pad, c, w in zip(pads, line, widths, strict=True)).rstrip() for line in padded
    )


def to_markdown(titles: Sequence[str], lines: Sequence[Sequence[str]], aligns: Sequence[str] = ()) -> str:
    """A table of GitHub's Markdown.

    Args:
        titles: of the columns.
        lines: of cells, which may hold Markdown.
        aligns: of the columns, `r` for the right; all to the left if empty.
    """
    rules = ["---:" if align == "r" else "---" for align in aligns or "l" * len(titles)]
    first, *rest = [[cell.replace("|", r"\|") for cell in line] for line in [titles, *lines]]
    return "\n".join("| " + " | ".join(line) + " |" for line in [first, rules, *rest])


def escape_markdown(text: str) -> str:
    """Text in one line that Markdown shows as it is; a table does the same with its separator."""
    return re.sub(r"([\\`*_<>])", r"\\\1", " ".join(text.split()))


def to_latex(
    titles: Sequence[str],
    lines: Sequence[Sequence[str]],
    aligns: Sequence[str] = (),
    heads: Sequence[tuple[str, int]] = (),
) -> str:
    """A `tabular` that needs the package booktabs.

    Args:
        titles: of the columns.
        lines: of cells.
        aligns: of the columns: `l`, `r` or `p{6cm}`; all `l` if empty.
        heads: headings above the columns after the first, each with how many it spans.
    """
    over = []
    if heads:
        spans = [rf"\multicolumn{{{n}}}{{c}}{{{escape_latex(name)}}}" for name, n in heads]
        over = [" & ".join(["", *spans]) + r" \\", *_midrules(heads)]
    first, *rest = [" & ".join(map(escape_latex, line)) + r" \\" for line in [titles, *lines]]
    begin = r"\begin{tabular}{" + "".join(aligns or "l" * len(titles)) + "}"
    return "\n".join([begin, r"\toprule", *over, first, r"\midrule", *rest, r"\bottomrule", r"\end{tabular}"])


def _midrules(heads: Sequence[tuple[str, int]]) -> list[str]:
    """A rule under each shared heading."""
    rules, at = [], 2
    for name, n in heads:
        rules += [rf"\cmidrule(lr){{{at}-{at + n - 1}}}"] if name else []
        at += n
    return [" ".join(rules)] if rules else []


def escape_latex(text: str) -> str:
    """Text in one line that LaTeX shows as it is."""
    return "".join(_LATEX.get(char, char) for char in " ".join(text.split()))


def to_csv(titles: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """CSV for programs and spreadsheets.

    Args:
        titles: the columns; what else a row has is left out.
        rows: cells by column; one that is missing or None is empty.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([csv_cell(title) for title in titles])
    writer.writerows([csv_cell(row.get(title)) for title in titles] for row in rows)
    return out.getvalue()


def csv_cell(value: object) -> object:
    """A cell as it is written: text that begins as a formula does gets an apostrophe before it.

    Args:
        value: a number, True, False and None are left as they are, negative numbers too.
    """
    if isinstance(value, str) and value.startswith(_BEGINS_A_FORMULA) and not _HARMLESS.fullmatch(value):
        return f"'{value}"
    return value


def to_json(value: object) -> str:
    """Indented JSON, with letters beyond ASCII as they are."""
    return json.dumps(value, indent=2, ensure_ascii=False)
