"""Headline of a page, and its first section: the fastest network, the most accurate, the front, and how sure that is.

The headline is one sentence for each set of conditions; the section says what the sentence has no room for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from benchbench.core import records as rec
from benchbench.core import statistics as core_statistics
from benchbench.core.evaluation import is_evaluation
from benchbench.core.units import counted, first_few, format_value, significant
from benchbench.report import reliability
from benchbench.report.choice import words
from benchbench.report.choice.rank import Choice, Row, choose
from benchbench.report.choice.scope import usable
from benchbench.report.conditions import Group, has_phantom_dice
from benchbench.report.details import ReadArtifact
from benchbench.report.trained import are_trained_alike

_MOST = 8  # sets of conditions that a page says it of
_BETWEEN = 3  # rows of the front that the headline names


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What is said of one set of conditions."""

    group: Group
    headline: str
    more: tuple[str, ...]
    kept: frozenset[str]  # ids of the rows on the front, and of the one to take: no fold hides them
    alike: bool  # whether the networks were trained alike, as far as their records tell


def tell(groups: Sequence[Group], records: Sequence[rec.Record], read: ReadArtifact) -> list[Told]:
    """The headline and the section of each set of conditions; none where no network that segments has finished.

    Args:
        groups: of the page.
        records: of all of them.
        read: gives the content of an artifact.
    """
    told: list[Told] = []
    for group in groups:
        if len(told) < _MOST and any(map(usable, group.records)):
            choice = choose(group, records, read)
            if choice.rows:
                alike = are_trained_alike([row.dice_record for row in choice.rows], read)
                kept = frozenset(row.record.id for row in (*front(choice.rows), choice.rows[0]))
                one = headline(choice, alike=alike, floors=reliability.floors_of(group, groups))
                told.append(Told(group=group, headline=one, more=tuple(more(choice)), kept=kept, alike=alike))
    return told


def headline(choice: Choice, *, alike: bool = True, floors: reliability.Floors | None = None) -> str:
    """`On AMD EPYC, 2 threads: a is the fastest of 23 (171 ms a patch, Dice 0.836); b is the most accurate ...`.

    Args:
        choice: among all rows, without limits.
        alike: whether the networks were trained alike; those of a phantom have a front only then.
        floors: the noise floors by which rows tie; those of the records if None.
    """
    timed, trained_alone = _timed(choice)
    scored = [row for row in choice.rows if row.known["dice"].value is not None]
    best, fastest = choice.most_accurate, min(timed, key=lambda row: row.value("time"), default=None)
    if fastest is None:
        return f"{_where(choice.group)}: {_without_times(scored, best)}."
    of = "the {} trained" if trained_alone else "{}"
    parts = [
        f"{fastest.label} {_is_fastest(timed, best, fastest, scored, of)} ({_figures(fastest)})"
        + _as_fast(choice.group, timed, fastest, floors)
    ]
    if best is None:
        parts.append("without a Dice of trained weights nothing says which one to take")
    elif best is not fastest:
        parts.append(f"{best.label} {_is_best(best, fastest, scored)}")
    if best is not None and len(scored) > 1:
        parts.append(_front_text(choice, best, fastest, alike=alike))
    return f"{_where(choice.group)}: {'; '.join(parts)}."


def _where(group: Group) -> str:
    first = group.first
    threads = "" if first.workload.threads is None else f", {counted(first.workload.threads, 'thread')}"
    where = first.device.name + threads
    if is_evaluation(first):
        return f"Judged on {where}"
    return f"Forecast for {where}, where nothing ran" if group.predicted else f"On {where}"


def _without_times(scored: Sequence[Row], best: Row | None) -> str:
    if best is None:
        return "no row has a time or a Dice"
    among = f" is the most accurate of {len(scored)}" if len(scored) > 1 else " has"
    return f"{best.label}{among} ({_figures(best)})" if len(scored) > 1 else f"{best.label}{among} {_figures(best)}"


def _timed(choice: Choice) -> tuple[list[Row], bool]:
    """The rows among which one is the fastest, and whether these are the trained ones alone: a faster one is not."""
    timed = [row for row in choice.rows if row.known["time"].value is not None]
    without = reliability.without_rank(choice.group.records)
    trained = [row for row in timed if row.record.id not in without]
    if trained and min(timed, key=lambda row: row.value("time")) not in trained:
        return trained, True
    return timed, False


def _is_fastest(timed: Sequence[Row], best: Row | None, fastest: Row, scored: Sequence[Row], of: str) -> str:
    """`is the fastest of 23`; of a row that is also the best, and of a page with one row, what fits."""
    if len(timed) == 1:
        return "is the only row" + (" that was trained" if of != "{}" else "")
    networks = len({(row.record.model.name, str(row.record.recipe)) for row in timed})
    ways = f" ways to run {counted(networks, 'network')}" if networks < len(timed) else ""
    also = ""
    if best is fastest:
        also = " and the most accurate" if len(scored) > 1 else " and the only one with a Dice"
    return f"is the fastest of {of.format(len(timed))}{ways}{also}"


def _as_fast(group: Group, timed: Sequence[Row], fastest: Row, floors: reliability.Floors | None) -> str:
    """`, not told apart from a (27.3 ms)`, where the measured times do not show that a row is slower."""
    measured = {
        row.record.id: m for row in timed if (m := row.known["time"].measurement) is not None and m.origin == "measured"
    }
    if fastest.record.id not in measured:
        return ""
    metric = measured[fastest.record.id].metric
    ties = reliability.Ties.of(group.records, reliability.noise_floors(group.records) if floors is None else floors)
    values = {i: float(m.value or 0.0) for i, m in measured.items() if m.metric == metric}
    as_fast = [
        f"{row.label} ({row.known['time'].text})"
        for row in sorted(timed, key=lambda row: row.value("time"))
        if row is not fastest
        and row.record.id in values
        and not ties.is_faster(fastest.record.id, row.record.id, values, metric)
    ]
    return f", not told apart from {first_few(as_fast, _BETWEEN)}" if as_fast else ""


def _figures(row: Row) -> str:
    """`171 ms a patch, Dice 0.836`."""
    time, dice = row.known["time"], row.known["dice"]
    texts = []
    if time.value is not None:
        texts.append(f"{time.span if time.tier and time.span else time.text} {time.of.replace('one ', 'a ')}")
    if dice.value is not None:
        kind = "phantom " if has_phantom_dice(row.dice_record) else ""
        texts.append(f"{kind}Dice {format_value(dice.value, '1')}")
    return ", ".join(texts)


def _is_best(best: Row, fastest: Row, scored: Sequence[Row]) -> str:
    """`is the most accurate (0.876) at 4.7 times its cost`."""
    value = format_value(best.known["dice"].value, "1")
    if len(scored) > 1:
        among = f"is the most accurate{'' if fastest in scored else f' of the {len(scored)} with a Dice'} ({value})"
    else:
        among = f"is the only one with a Dice ({value})"
    own, other = best.known["time"].value, fastest.known["time"].value
    ratio = f" at {significant(own / other)} times its cost" if own and other else ", its time is not known"
    found = fastest.against
    if found is not None and found.p is not None and not found.told_apart:
        ratio += f", which {counted(found.cases, 'case')} do not show to be better"
    return among + ratio


def _front_text(choice: Choice, best: Row, fastest: Row, *, alike: bool) -> str:
    if any(has_phantom_dice(row.dice_record) for row in choice.rows) and not alike:
        return "nothing shows that they were trained alike, so there is no front"
    between = [row for row in front(choice.rows) if row is not best and row is not fastest]
    if not between:
        return "nothing else is on the front"
    told = [f"{row.label} ({_figures(row)})" for row in between]
    verb = "is" if len(told) == 1 else "are"
    return f"between them on the front {verb} {first_few(told, _BETWEEN)}"


def more(choice: Choice) -> list[str]:
    """What the headline leaves out: the test between the two, a row as accurate as the best, and how sure that is."""
    told = []
    best, named = choice.most_accurate, choice.rows[0]
    fastest = min(_timed(choice)[0], key=lambda row: row.value("time"), default=None)
    if best and fastest and fastest is not best and fastest.against:
        told.append(f"{fastest.label} against {best.label}: {words.against_text(fastest.against)}.")
    if named is not best and len(choice.as_accurate) > 1:
        rest = "" if named is fastest else f": {words.figures(named)}"
        told.append(f"{named.label} is the fastest of {len(choice.as_accurate)} as accurate as the best{rest}.")
    told.append(
        f"How sure{f' of {named.label}' if len(choice.rows) > 1 else ''}: {words.sureness(choice, named, on_page=True)}"
    )
    return told


def front(rows: Sequence[Row]) -> list[Row]:
    """Rows that no other beats in time and Dice, the fastest first."""
    both = [row for row in rows if row.known["time"].value is not None and row.known["dice"].value is not None]
    on_it = core_statistics.pareto_front([(row.value("time"), row.value("dice")) for row in both])
    return sorted((both[i] for i in on_it), key=lambda row: row.value("time"))
