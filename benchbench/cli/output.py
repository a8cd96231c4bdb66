"""Output that commands have in common: tables as text, JSON, CSV, Markdown or LaTeX, result folders, and pages."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchbench.core import spreadsheet
from benchbench.core.errors import BenchError, command
from benchbench.core.units import format_value

Row = Mapping[str, Any]


def new_folder(kind: str) -> Path:
    """A folder for results that nobody named: `results/local/run-20260131-120000`."""
    return Path("results") / "local" / f"{kind}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def write_page(out: Path) -> tuple[Path | None, BenchError | None]:
    """The page of a folder that was just filled, or what is to be raised once all else is told."""
    from benchbench import report

    try:
        return report.write_report([out]), None
    except BenchError as error:  # the records are whole; only their page is missing
        again = command("report", out, "--out", "page.html")
        return None, type(error)(f"{error}; the records are kept: '{again}' writes the page")


def print_text(text: str) -> None:
    """Print a text that may end its last line itself."""
    print(text, end="" if text.endswith("\n") else "\n")


def render(rows: Sequence[Row], fmt: str) -> str:
    """Rows as text.

    Args:
        rows: all with the same keys.
        fmt: `table`, `json`, `csv`, `markdown` or `latex` (which needs the package booktabs).
    """
    if fmt == "json":
        return json.dumps([dict(row) for row in rows], indent=2, ensure_ascii=False)
    titles = list(rows[0]) if rows else []
    cells = [[str(row[title]) for title in titles] for row in rows]
    if fmt == "csv":
        plain = ({t: v if isinstance(v, int | float) else str(v) for t, v in row.items()} for row in rows)
        return spreadsheet.to_csv(titles, plain).rstrip("\n")
    if fmt == "markdown":
        lines = [titles, ["---"] * len(titles), *([c.replace("|", "\\|") for c in row] for row in cells)]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    if fmt == "latex":
        body = [" & ".join(map(_tex, line)) + r" \\" for line in [titles, *cells]]
        head = r"\begin{tabular}{" + "l" * len(titles) + "}"
        return "\n".join([head, r"\toprule", *body[:1], r"\midrule", *body[1:], r"\bottomrule", r"\end{tabular}"])
    widths = [max(len(line[i]) for line in [titles, *cells]) for i in range(len(titles))]
    lines = [titles, ["-" * w for w in widths], *cells]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _tex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {"<": "$<$", ">": "$>$"} | {char: f"\\{char}" for char in "&%$#_{}"}
    return "".join(special.get(char, char) for char in text)


def render_facts(facts: Mapping[str, Any], fmt: str) -> str:
    """Names and values, a line each; or as one JSON object."""
    if fmt == "json":
        return json.dumps(facts, indent=2, ensure_ascii=False)
    width = max(map(len, facts))
    shown = {k: format_value(v, "B") if k.endswith("_bytes") and v else v for k, v in facts.items()}
    return "\n".join(f"{k.replace('_bytes', ''):<{width}}  {'unknown' if v is None else v}" for k, v in shown.items())
