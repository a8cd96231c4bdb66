"""Result of a search for the terminal, as rows and sentences."""

from __future__ import annotations

from typing import Any

from benchbench.core.errors import command
from benchbench.core.search_result import SearchOutcome, ordered
from benchbench.core.units import format_duration, format_value


def rows(found: SearchOutcome, *, plain: bool) -> list[dict[str, Any]]:
    """A row for each finalist, those of the front first.

    Args:
        found: by a search.
        plain: numbers as they are, with their units in the names; else for a person.
    """
    metric = found.summary["metric"]
    table = []
    for point in ordered(found.summary["points"]):
        low, high = point["dice_test"]["ci95"]
        if plain:
            table.append(
                {
                    "network": point["name"],
                    "front": point["front"],
                    "keeps_budget": point["keeps"],
                    "dice_val": point["dice_val"]["mean"],
                    "dice_test": point["dice_test"]["mean"],
                    "dice_test_low": low,
                    "dice_test_high": high,
                    **{key: point["costs"].get(key) for key in ("latency_s", "macs", "params", "memory_bytes")},
                    "latency_origin": point["origin"],
                    "weights": str(found.folder / point["files"]["weights"]) if "weights" in point["files"] else None,
                }
            )
            continue
        use = ", ".join(f"{share:.0%} of {limit}" for limit, share in point["use"].items())
        value = point["objective"]
        table.append(
            {
                "network": point["name"] + (" (published)" if point["published"] else ""),
                "front": {True: "yes", False: ""}[point["front"]],
                "Dice on test": f"{point['dice_test']['mean']:.3f} ({low:.3f} to {high:.3f})",
                "on val": f"{point['dice_val']['mean']:.3f}",
                metric["objective"]: "—" if value is None else format_value(value, metric["unit"]),
                "MACs": format_value(point["costs"]["macs"], "MAC"),
                "budget": {True: use, False: f"over: {use}", None: f"{use or '?'}, not confirmed"}[point["keeps"]],
            }
        )
    return table


def lines(found: SearchOutcome) -> list[str]:
    """What else a person wants to know."""
    s = found.summary
    trained = [one for one in s["trials"] if one["dice"] is not None and one["same_as"] is None]
    refused = sum(bool(one["refused"]) and one["dice"] is None for one in s["trials"])
    spent = s["accounting"]
    told = [
        f"{len(trained)} configurations trained, {refused} refused untrained, {len(s['promotions'])} promoted; "
        f"{spent['other_s'] / max(spent['whole_s'], 1e-9):.1%} of {format_duration(spent['whole_s'])} outside "
        "training, evaluation and measurement"
    ]
    if left := s.get("left_out"):
        told.append(
            f"left out, for the {format_duration(s['asked']['time_s'])} of the search were too short: {'; '.join(left)}"
        )
    for point in s["points"]:
        told += [f"{point['name']}: {text}" for text in point["verdicts"]]
        if point["keeps"] is None:
            told.append(f"{point['name']}: whether it keeps the budget was not measured on {s['task']['device']}")
    if not s["controls"]:
        told.append(f"whether the search was worth it: {command('search', '--resume', found.folder, '--controls')}")
    told.append(f"front: {found.folder / 'front.csv'}")
    return told
