"""A paper's table as LaTeX (booktabs, siunitx), Markdown or CSV."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from benchbench.core import records as rec
from benchbench.report import writers
from benchbench.report.paper_table.columns import PaperColumn
from benchbench.report.paper_table.table import PaperCell, PaperOptions, PaperTable, tables

FORMATS = ("latex", "markdown", "csv")
_PACKAGES = "% needs \\usepackage{booktabs,siunitx}\n"
_BOUND_LATEX = {"at_least": r"\geq ", "at_most": r"\leq "}
_BOUND_TEXT = {"at_least": "≥ ", "at_most": "≤ "}


def paper_text(records: Sequence[rec.Record], fmt: str, options: PaperOptions) -> str:
    """The tables of records, one for each set of conditions; of CSV one for all.

    Args:
        records: any.
        fmt: one of `FORMATS`.
        options: the columns and how they are shown.

    Raises:
        UsageError: a column that is not known.
    """
    found = tables(records, options)
    if fmt == "csv":
        return to_csv(found)
    if fmt == "latex":
        return "\n".join([_PACKAGES, *(to_latex(one, number) for number, one in enumerate(found, 1))])
    return "\n".join(map(to_markdown, found))


def to_latex(table: PaperTable, number: int = 1) -> str:
    """A `table` with its caption, and the notes below it; needs booktabs and siunitx (2 or 3).

    Numbers stand in columns of siunitx, aligned by their points; intervals and the marks of footnotes in a column of
    their own behind them.
    """
    escape = _escape
    specs, heads = ["l"], [escape("Network")]
    beside = [_has_beside(table, i) for i in range(len(table.columns))]
    for i, (column, head) in enumerate(zip(table.columns, table.heads, strict=True)):
        if not column.is_number:
            specs.append("l")
            heads.append(escape(head))
            continue
        specs.append(f"S[table-format={_format([row.cells[i] for row in table.rows])}]")
        if beside[i]:
            specs.append(r"@{\hspace{0.5em}}l")
            heads.append(rf"\multicolumn{{2}}{{c}}{{{escape(head)}}}")
        else:
            heads.append(f"{{{escape(head)}}}")
    lines = []
    for row in table.rows:
        cells = [escape(row.label) + _superscript(row.marks)]
        for i, column in enumerate(table.columns):
            cells += _latex_cell(row.cells[i], column, beside[i], table.uncertainty)
        lines.append("  " + " & ".join(cells) + r" \\")
    notes = [" ".join(map(escape, table.notes))]
    notes += [rf"\textsuperscript{{{mark}}}~{escape(text)}" for mark, text in table.footnotes]
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"\centering",
            r"\small\setlength{\tabcolsep}{4pt}\sisetup{detect-weight=true}",
            rf"\caption{{{escape(table.caption)}}}",
            rf"\label{{tab:networks{number if number > 1 else ''}}}",
            rf"\begin{{tabular}}{{{' '.join(specs)}}}",
            r"\toprule",
            "  " + " & ".join(heads) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\par\smallskip",
            r"\begin{minipage}{\linewidth}\footnotesize",
            (r" \\" + "\n").join(notes),
            r"\end{minipage}",
            r"\end{table}",
            "",
        ]
    )


def _has_beside(table: PaperTable, i: int) -> bool:
    """Whether a column of numbers has anything to be said beside them."""
    cells = [row.cells[i] for row in table.rows]
    return any(cell.marks or (cell.low and table.uncertainty != "none") for cell in cells)


def _format(cells: Sequence[PaperCell]) -> str:
    """Digits before and behind the point, as siunitx has them: `4.2`."""
    texts = [cell.text.lstrip("-") for cell in cells if cell.text]
    whole = max((len(text.partition(".")[0]) for text in texts), default=1)
    sign = "-" if any(cell.text.startswith("-") for cell in cells) else ""
    bound = ">" if any(cell.bound for cell in cells) else ""
    return f"{bound}{sign}{whole}.{max((len(text.partition('.')[2]) for text in texts), default=0)}"


def _latex_cell(cell: PaperCell, column: PaperColumn, beside: bool, uncertainty: str) -> list[str]:
    if not column.is_number:
        return [_escape(cell.text)]
    bold = r"\bfseries " if cell.best else ""
    number = f"{bold}{_BOUND_LATEX.get(cell.bound, '')}{cell.text}" if cell.text else "{--}"
    if not beside:
        return [number]
    told = ""
    if cell.low and uncertainty == "interval":
        told = f"[{cell.low}, {cell.high}]"
    elif cell.low and uncertainty == "pm":
        told = rf"$\pm$ {cell.half}"
    return [number, told + _superscript(cell.marks)]


def _superscript(marks: Sequence[str]) -> str:
    return rf"\textsuperscript{{{','.join(marks)}}}" if marks else ""


#: What engines and fonts of 8 bits may lack.
_SIGNS: Mapping[str, str] = {"±": r"$\pm$", "≥": r"$\geq$", "≤": r"$\leq$", "×": r"$\times$", "—": "---", "–": "--"}


def _escape(text: str) -> str:
    """Text as LaTeX shows it, with the signs of mathematics in its own way."""
    return re.sub("[±≥≤×—–]", lambda sign: _SIGNS[sign[0]], writers.escape_latex(text))


def to_markdown(table: PaperTable) -> str:
    """A table with its caption above and its notes below."""
    escape = writers.escape_markdown
    lines = []
    for row in table.rows:
        cells = [escape(row.label) + _raised(row.marks)]
        cells += [
            _markdown_cell(cell, table.uncertainty) if column.is_number else escape(cell.text)
            for cell, column in zip(row.cells, table.columns, strict=True)
        ]
        lines.append(cells)
    aligns = ["l", *("r" if column.is_number else "l" for column in table.columns)]
    heads = ["Network", *map(escape, table.heads)]
    below = [escape(" ".join(table.notes)), *(f"<sup>{mark}</sup> {escape(text)}" for mark, text in table.footnotes)]
    parts = [escape(table.caption), "", writers.to_markdown(heads, lines, aligns), ""]
    return "\n".join([*parts, "\n\n".join(below), ""])


def _markdown_cell(cell: PaperCell, uncertainty: str) -> str:
    number = f"{_BOUND_TEXT.get(cell.bound, '')}{cell.text}" if cell.text else "–"
    number = f"**{number}**" if cell.best else number
    if cell.low and uncertainty == "interval":
        number += f" [{cell.low}, {cell.high}]"
    elif cell.low and uncertainty == "pm":
        number += f" ± {cell.half}"
    return number + _raised(cell.marks)


def _raised(marks: Sequence[str]) -> str:
    return f"<sup>{','.join(marks)}</sup>" if marks else ""


def to_csv(found: Sequence[PaperTable]) -> str:
    """One line a network, unrounded, in SI units: each column with its interval, its bound and its origin.

    Conditions and footnotes are columns, too, so that no line loses what belongs to it.
    """
    rows: list[dict[str, object]] = []
    heads = ["network", "model"]
    for table in found:
        sentences = dict(table.footnotes)
        for row in table.rows:
            line: dict[str, object] = {"network": row.label, "model": row.record.model.name}
            marks = list(row.marks)
            for column, cell in zip(table.columns, row.cells, strict=True):
                line |= _csv_cells(column, cell)
                marks += cell.marks
            line |= {"status": row.record.status, "notes": " ".join(sentences[m] for m in dict.fromkeys(marks))}
            rows.append(line | {"conditions": table.caption, "id": row.record.id})
    heads += [key for key in dict.fromkeys(key for row in rows for key in row) if key not in heads]
    used = {key for row in rows for key, value in row.items() if value is not None}
    return writers.to_csv([head for head in heads if head in used or not rows], rows)


def _csv_cells(column: PaperColumn, cell: PaperCell) -> dict[str, object]:
    if not column.is_number:
        return {column.key: cell.text}
    m = cell.measurement
    name = column.key
    span = (m.interval or m.ci95) if m is not None else None
    low, high = span or (None, None)
    return {
        name: m.value if m is not None and cell.text else None,
        f"{name}_unit": m.unit if m is not None and m.unit != "1" else None,
        f"{name}_low": low,
        f"{name}_high": high,
        f"{name}_bound": m.bound if m is not None else None,
        f"{name}_origin": m.origin if m is not None and cell.text else None,
    }
