"""What a search gave, said first on its page: the network to take, what it saves, and what each control says.

The network to take is chosen by Dice on `val`, as the front was; its Dice on `test`, which decides nothing, is told.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from benchbench.core.search_result import family_of, trained_text, verdict
from benchbench.core.units import counted, format_value, times
from benchbench.report import reliability
from benchbench.report.compare.verdicts import MIN_DICE

Point = Mapping[str, Any]

#: Kinds of comparisons with the network that a search is to beat; the other kinds are controls.
BASELINES = ("published weights", "published")
_CONTROL_HEADS = {
    "scratch": "The same from scratch",
    "published": "Published network, trained for the whole time",
    "scaled": "nnU-Net of the same latency",
    "random": "Best of random proposals",
}
#: Cost of a point -> its name and unit.
_COSTS = {"params": ("parameters", "parameters"), "macs": ("MACs", "MAC"), "memory_bytes": ("peak memory", "B")}
_COUNTS = ("params", "macs")  # costs that do not depend on the machine


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """What the network to take saves against another one."""

    figures: tuple[tuple[str, str], ...]  # (figure, the words below it)
    title: str
    text: str


def published_point(points: Sequence[Point]) -> Point | None:
    """The published network among the finalists, as searches had it that trained it anew."""
    return next((point for point in points if point["published"]), None)


def taken(front: Sequence[Point]) -> Point | None:
    """The cheapest of the front whose Dice on val is within `MIN_DICE` of the best; None where none is of use."""
    useful = [point for point in front if _on_val(point) >= reliability.OF_USE]
    best = max(map(_on_val, useful), default=0.0)
    near = [point for point in useful if _on_val(point) >= best - MIN_DICE]
    return min(near, key=lambda point: float(point["objective"] or 0.0), default=None)


def _on_val(point: Point) -> float:
    return float(point["dice_val"]["mean"])


def dice_text(dice: Mapping[str, Any]) -> str:
    """`0.871 (0.859 to 0.883)`."""
    low, high = dice["ci95"]
    return f"{dice['mean']:.3f} ({low:.3f} to {high:.3f})"


def lead(search: Mapping[str, Any], front: Sequence[Point]) -> str:
    """Which network to take, and how sure that is."""
    if not front:
        return "There is nothing to take: no network that was trained to the end keeps the budget."
    best = taken(front)
    if best is None:
        most = max(map(_on_val, front))
        return f"There is nothing to take: no network of the front segments anything (Dice on val at most {most:.3f})."
    test, metric = best["dice_test"], search["metric"]
    whole = f", {family_of(search)['baseline']}" if best["published"] else ""
    text = f"Take {best['name']}{whole}: Dice {dice_text(test)} on {test['cases']} cases that the search has never seen"
    if best["objective"] is not None:
        text += f", {metric['title']} {format_value(best['objective'], metric['unit'])}"
    text += f", {format_value(best['costs']['params'], 'parameters')} parameters."
    if len(front) > 1:
        text += f" It is the cheapest of the front within {MIN_DICE} of the best Dice on val."
    top = max(front, key=lambda point: float(point["dice_test"]["mean"]))
    if f"{top['dice_test']['mean']:.3f}" > f"{test['mean']:.3f}":
        most = top["dice_test"]["mean"]
        text += f" On those cases {top['name']} reaches more, {most:.3f}, but they were not used to choose."
    return text


def savings(search: Mapping[str, Any], front: Sequence[Point]) -> list[Saving]:
    """What the network to take saves against the one to beat: with its weights, and trained for as long."""
    point = taken(front)
    if point is None or point["published"]:
        return []
    rows = [row for row in search.get("comparisons", ()) if row["point"] == point["name"] and row["kind"] in BASELINES]
    known = search.get("baseline")
    if rows and known:
        return [
            _saving(point, row, known["costs"], family_of(search)["baseline"])
            for row in sorted(rows, key=lambda row: row["kind"] != BASELINES[0])
        ]
    other = published_point(search["points"])  # of schema 1: trained by the search itself
    if other is None:
        return [_costs_alone(point, known)] if known else []
    figures = (_gain(point["dice_test"]["mean"] - other["dice_test"]["mean"]), *_less(point["costs"], other["costs"]))
    return [
        Saving(
            figures=figures + _faster(point["objective"], other["objective"]),
            title=f"Against {other['name']}, trained by the same search",
            text=f"Dice {dice_text(point['dice_test'])} against {dice_text(other['dice_test'])}, not compared case by "
            f"case. {_costs_text(point['costs'], other['costs'])}",
        )
    ]


_SAID = {"better": "More accurate than", "worse": "Less accurate than"}


def _saving(point: Point, row: Mapping[str, Any], costs: Mapping[str, float], baseline: str) -> Saving:
    low, high = row["ci95"]
    said = _SAID.get(row["verdict"], "Not told apart in Dice from")
    text = (
        f"Dice {row['dice']:.3f} against {row['other_dice']:.3f}, {low:+.3f} to {high:+.3f} over the same "
        f"{counted(row['cases'], 'case')}. {_costs_text(point['costs'], costs)}"
    )
    own_s, other_s = row.get("own_latency_s"), row.get("latency_s")
    faster = _faster(own_s, other_s)
    if faster:
        text += f" {row['latency_of'][0].upper()}{row['latency_of'][1:]} {_pair(own_s, other_s, 's')}."
    kind = "" if row["kind"] == BASELINES[0] else ", trained for the whole time"
    return Saving(
        figures=(_gain(row["gain"]), *_less(point["costs"], costs), *faster),
        title=f"{said} {baseline} ({row['name']}{kind})",
        text=text,
    )


def _costs_alone(point: Point, known: Mapping[str, Any]) -> Saving:
    """Beside a published network without weights for the data."""
    return Saving(
        figures=_less(point["costs"], known["costs"]),
        title=f"Beside the published network ({known['name']}), of which no Dice is known",
        text=_costs_text(point["costs"], known["costs"]),
    )


def _gain(gain: float) -> tuple[str, str]:
    return f"{round(gain, 3) + 0.0:+.3f}", "Dice"


def _less(own: Mapping[str, float], other: Mapping[str, float]) -> tuple[tuple[str, str], ...]:
    """`14.2 x fewer parameters`, for each of the costs that both have."""
    found = []
    for metric in _COUNTS:
        if own.get(metric) and other.get(metric):
            ratio = other[metric] / own[metric]
            found.append((times(max(ratio, 1 / ratio)), f"{'fewer' if ratio >= 1 else 'more'} {_COSTS[metric][0]}"))
    return tuple(found)


def _faster(own_s: float | None, other_s: float | None) -> tuple[tuple[str, str], ...]:
    if not own_s or not other_s:
        return ()
    ratio = other_s / own_s
    return ((times(max(ratio, 1 / ratio)), "as fast" if ratio >= 1 else "as slow"),)


def _costs_text(own: Mapping[str, float], other: Mapping[str, float]) -> str:
    texts = [
        f"{name} {_pair(own[metric], other[metric], unit)}"
        for metric, (name, unit) in _COSTS.items()
        if own.get(metric) and other.get(metric)
    ]
    text = "; ".join(texts)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _pair(own: float | None, other: float | None, unit: str) -> str:
    return f"{format_value(own, unit)} against {format_value(other, unit)}"


def controls(
    search: Mapping[str, Any], front: Sequence[Point]
) -> tuple[list[str], list[tuple[str, list[tuple[str, str]]]]]:
    """What each control says of each point of the front: heads, and of each point its verdicts and differences."""
    rows = {(row["point"], row["kind"]): row for row in search.get("comparisons", ())}
    kinds = [kind for kind in _CONTROL_HEADS if any(key[1] == kind for key in rows)]
    if not kinds:
        return [], []
    lines = []
    for point in front:
        found = [rows.get((point["name"], kind)) for kind in kinds]
        lines.append((str(point["name"]), [("not run", "") if row is None else _cell(row) for row in found]))
    return [_CONTROL_HEADS[kind] for kind in kinds], lines


def _cell(row: Mapping[str, Any]) -> tuple[str, str]:
    low, high = row["ci95"]
    return str(row["verdict"]), f"{row['gain']:+.3f} ({low:+.3f} to {high:+.3f})"


def in_words(search: Mapping[str, Any], points: Sequence[Point]) -> tuple[list[str], list[str]]:
    """Every comparison as a sentence; and what is said besides, such as that there is nothing to compare with."""
    baseline = family_of(search)["baseline"]
    compared = [verdict(row, baseline) for row in search.get("comparisons", ())]
    if "verdicts" not in search:  # schema 1
        return [], [f"{point['name']}: {text}" for point in points for text in point["verdicts"]]
    return [f"{text}." for text in compared], [f"{text}." for text in search["verdicts"] if text not in compared]


def not_run(search: Mapping[str, Any]) -> list[str]:
    """Comparisons that nothing is known of."""
    if "not_run" in search:
        return list(search["not_run"])
    return [] if search["controls"] else ["the controls"]


def limits(search: Mapping[str, Any]) -> tuple[list[str], bool]:
    """For each limit that does not bind a line, and whether any other one does.

    A limit binds where it refused a proposal, or where a finalist is beyond it or not known to keep it.
    """
    refused = {metric for trial in search["trials"] for metric in trial["refused"]}
    lines, binds = [], False
    for limit in search["budget"]:
        shares = [point["use"].get(limit["text"]) for point in search["points"]]
        known = [share for share in shares if share is not None]
        unsure = any(point["keeps"] is not True or point.get("unusable") for point in search["points"])
        if limit["metric"] in refused or unsure or len(known) < len(shares) or any(share > 1 for share in known):
            binds = True
        elif known:
            costs = (search.get("baseline") or search.get("unmodified") or {}).get("costs", {})
            other = costs.get(limit["metric"])
            beside = f", {family_of(search)['baseline']} {other / limit['most']:.0%}" if other else ""
            lines.append(f"{limit['text']} does not bind: the finalists take at most {max(known):.0%} of it{beside}.")
    return lines, binds


def trained(known: Mapping[str, Any]) -> str:
    """`weights that come with benchbench, 20 min of training`."""
    return trained_text(str(known["origin"]), known["train_s"])
