"""Page of paired comparisons, and their section in the page of finished runs that were measured again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchbench.core import units
from benchbench.core.paired_result import PairedResult
from benchbench.report import conditions, html, place
from benchbench.report.compare import paired
from benchbench.report.figures import pairs as figures

_TEMPLATE, _SECTION = "pairs.html", ("report.css", "compare.css")
_MOST_FIGURES = 8  # of pairs over time


def write_pairs(results: Sequence[PairedResult], out: Path) -> Path:
    """Write the page whole.

    Raises:
        StoreError: it cannot be written, or must not be replaced.
    """
    place.check_place(out, [], page=True)
    place.write(out, render_pairs(results))
    return out


def render_pairs(results: Sequence[PairedResult]) -> str:
    """The page as text."""
    context = {"heading": _heading(results), **section(results), "facts": _facts(results)}
    return html.page(context, _TEMPLATE, _SECTION)


def section(results: Sequence[PairedResult]) -> dict[str, Any]:
    """What the section of paired comparisons names: `pairs`, `forest` and `pairs_rule`."""
    drawn = figures.forest(results, prefix="forest")
    return {
        "pairs": [_comparison(result, i) for i, result in enumerate(results)],
        "forest": drawn,
        "pairs_rule": paired.RULE,
    }


def _comparison(result: PairedResult, number: int) -> dict[str, Any]:
    return {
        "sides": list(zip("AB", result.labels, strict=True)),
        "verdict": result.verdict,
        "rows": paired.paired_rows(result),
        "remarks": paired.remarks(result),
        "figure": figures.over_time(result, prefix=f"pairs{number}") if number < _MOST_FIGURES else None,
    }


def _heading(results: Sequence[PairedResult]) -> str:
    if len(results) > 1:
        return f"{units.counted(len(results), 'comparison')} in pairs"
    (result,) = results
    words = {"same": "B takes as long as A", "ambiguous": "Undecided", "failed": "A side could not be measured"}
    return words.get(result.verdict, f"B is {result.verdict} than A")


def _facts(results: Sequence[PairedResult]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The conditions by name: what holds on both sides once, what differs apart as A and B."""
    sides = [conditions.all_facts([side(result) for result in results]) for side in (_a, _b)]
    facts = []
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        a, b = (side.get(name, "unknown") for side in sides)
        facts.append((name, [("", a)] if a == b else [("A", a), ("B", b)]))
    return facts


def _a(result: PairedResult) -> Any:
    return result.a


def _b(result: PairedResult) -> Any:
    return result.b
