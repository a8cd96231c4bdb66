"""Paired comparisons as text: what `bench compare --measure` prints, and `bench report` of its record again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchbench.core.paired_result import PairedResult, pairs_to_json
from benchbench.report import writers
from benchbench.report.compare.paired import PairedRow, paired_rows, plain, remarks


def one_text(result: PairedResult, rows: Sequence[PairedRow], fmt: str, places: Mapping[str, Path]) -> str:
    """A comparison that was just measured.

    Args:
        result: what was measured.
        rows: what is said of it, by `paired_rows`.
        fmt: `table`, `markdown`, `csv` or `json`.
        places: what was written, by name.
    """
    if fmt == "json":
        return writers.to_json(pairs_to_json([result])["comparisons"][0])
    if fmt == "csv":
        return writers.write([_line(result)], fmt)
    regressions = [f"regression: {row.metric} {row.change}" for row in rows if row.regression]
    return _document(result, rows, fmt, [*regressions, *(f"{name}: {place}" for name, place in places.items())])


def pairs_text(results: Sequence[PairedResult], fmt: str) -> str:
    """Comparisons from their record.

    Args:
        results: at least one.
        fmt: `markdown`, `latex`, a table each; `csv`, a line each; or `json`, all that the record holds, judged again.
    """
    if fmt == "json":
        return writers.to_json(pairs_to_json(results))
    if fmt == "csv":
        return writers.write([_line(result) for result in results], fmt)
    texts = [_document(result, paired_rows(result), fmt) for result in results]
    return ("% needs \\usepackage{booktabs}\n" if fmt == "latex" else "") + "\n\n".join(texts)


def _document(result: PairedResult, rows: Sequence[PairedRow], fmt: str, more: Sequence[str] = ()) -> str:
    """The sides, the table, and what there is to say of it, as paragraphs; in LaTeX the words are a comment."""
    sides = [f"{side}: {label}" for side, label in zip("AB", result.labels, strict=True)]
    table = [writers.write([plain(row) for row in rows], fmt)] if rows else []
    paragraphs = [_marked(sides, fmt), table, _marked([*remarks(result), *more], fmt)]
    return "\n\n".join("\n".join(lines) for lines in paragraphs if lines)


def _marked(lines: Sequence[str], fmt: str) -> list[str]:
    mark = {"markdown": "- ", "latex": "% "}.get(fmt, "")
    return [mark + " ".join(line.split()) for line in lines]


def _line(result: PairedResult) -> dict[str, Any]:
    """One line for a program, unrounded."""
    found = result.judgement
    wall, cpu, control = (found.wall, found.cpu, found.control) if found else (None, None, None)

    def number(value: float | None) -> float | str:
        return "" if value is None or not math.isfinite(value) else value

    return {
        "a": result.labels[0],
        "b": result.labels[1],
        "verdict": result.verdict,
        "ratio": number(wall.ratio if wall else None),
        "ratio_low": number(wall.low if wall else None),
        "ratio_high": number(wall.high if wall else None),
        "cpu_ratio": number(cpu.ratio if cpu else None),
        "a_over_a": number(control.ratio if control else None),
        "margin": result.margin,
        "sets": len(result.sets),
        "seconds": result.spent.total_s,
        "error": result.error or "",
    }
