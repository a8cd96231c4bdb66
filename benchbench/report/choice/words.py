"""The choice in words: what to take, why, what it costs against the most accurate, how sure that is, and what next."""

from __future__ import annotations

from benchbench.core import qualification
from benchbench.core.evaluation import ENSEMBLE, LABEL_MAPS, is_evaluation
from benchbench.core.units import counted, first_few, format_shape, listed, significant
from benchbench.report import accuracy, conditions
from benchbench.report.choice import next_steps
from benchbench.report.choice.known import QUANTITIES, TIERS, KnownFigure, Limit, Quantity
from benchbench.report.choice.next_steps import FindWeights
from benchbench.report.choice.rank import Against, Choice, Row
from benchbench.report.compare.verdicts import p_text

_FEW = 4  # names in a sentence


def headline(choice: Choice) -> str:
    """The first line: what to take and why, or that nothing is known to keep all limits."""
    first = choice.first
    if choice.taken:
        return f"Take {choice.taken.label}: {_why(choice)}. {figures(choice.taken)}."
    if first:
        unsure = listed([QUANTITIES[quantity][0] for quantity in first.unsure])
        verb = "is" if len(first.unsure) == 1 else "are"
        return (
            f"No row is known to keep all limits. {first.label} may, but its {unsure} {verb} not sure: {_why(choice)}. "
            f"{figures(first)}."
        )
    if not choice.rows:
        return "No row can be chosen: each was left out, with its reason."
    return f"No row keeps all limits ({'; '.join(map(str, choice.limits))})."


def _why(choice: Choice) -> str:
    among, accurate = choice.candidates, len(choice.as_accurate)
    if len(among) == 1:
        does = "keeps all limits" if choice.taken else "may keep them"
        return f"no other row {does}" if choice.limits else "it is the only row"
    rows = f"of {counted(len(among), 'row')}"
    if choice.limits:
        rows += f" that {'' if choice.taken else 'may '}keep all limits"
    tier = choice.rows[0].known["time"].tier
    fastest = "it is the fastest" + (f" by {TIERS[tier]}s" if tier else "")
    if choice.objective == "memory":
        return f"{rows} it has the lowest peak memory"
    if choice.objective == "latency" or not accurate:
        return f"{rows} {fastest}" + ("" if accurate else ", and none has a Dice")
    if accurate == 1:
        scored = sum(row.known["dice"].value is not None for row in among)
        return f"{rows} it is the most accurate" + (f" ({scored} have a Dice)" if scored < len(among) else "")
    every = "both" if accurate == 2 else f"all {accurate}"
    those = every if accurate == len(among) else f"{accurate} of the {len(among)}"
    what = rows.removeprefix(f"of {counted(len(among), 'row')}")
    return f"{those} rows{what} are equally accurate, and {fastest} of these"


def figures(row: Row) -> str:
    """`One patient takes 10.6 ms (95 % CI ..., measured), Dice 0.876 (..., measured)`."""
    time, dice = row.known["time"], row.known["dice"]
    texts = [f"{_capital(time.of)} takes {time.phrase}"] if time.value is not None else []
    texts += ["No time is known"] if not texts and not is_evaluation(row.record) else []
    kind = "semi-synthetic " if conditions.has_phantom_dice(row.dice_record) else ""
    texts.append(f"{kind}Dice {dice.phrase}" if dice.value is not None else f"no Dice ({_short(dice.reason)})")
    return _capital(", ".join(texts))


def _short(reason: str) -> str:
    """Without the command that helps, which stands in a line of its own."""
    return reason.partition(": make one with")[0]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def cost(choice: Choice, row: Row) -> str:
    """What the row costs against the most accurate of all rows."""
    best = choice.most_accurate
    if best is None:
        return "No row has a Dice, so nothing says what the time costs in accuracy."
    if best.record.id == row.record.id:
        return "It is the most accurate of all rows."
    if row.against is None:
        return f"{best.label} has Dice {best.known['dice'].phrase}; this row has none to compare."
    text = f"Against the most accurate of all rows, {best.label}: {against_text(row.against)}"
    own, other = row.known["time"], best.known["time"]
    if own.value and other.value:
        ratio = other.value / own.value
        speed = f"{significant(ratio)} times as fast" if ratio >= 1 else f"{significant(1 / ratio)} times as slow"
        by = " by forecasts" if own.tier or other.tier else ""
        text += f"; {speed}{by} ({own.text} against {other.text})"
    return f"{text}."


def against_text(found: Against) -> str:
    """`0.012 less Dice (95 % CI -0.020 to -0.004, 44 cases): worse, p < 0.001`."""
    size = abs(found.difference)
    less = "as much Dice" if size < 5e-5 else f"{size:.4f} {'less' if found.difference < 0 else 'more'} Dice"
    if found.p is None or found.ci95 is None:
        cases = f"{found.cases} cases in common are too few for a test" if found.cases else "no cases in common known"
        return f"{less} ({cases})"
    low, high = found.ci95
    p = p_text(found.p)
    chance = f"p {p}" if p.startswith("<") else f"p = {p}"
    if found.told_apart:
        verdict = "worse"
    elif found.ci95[0] > -qualification.MOST_DICE_LOSS:
        verdict = f"no more than {qualification.MOST_DICE_LOSS:g} is lost"
    else:
        verdict = "not told apart"
    return f"{less} (95 % CI {low:+.4f} to {high:+.4f}, {found.cases} cases): {verdict}, {chance}"


def sureness(choice: Choice, row: Row, *, on_page: bool = False) -> str:
    """How far the choice can be trusted: origins, intervals, and what was not measured.

    Args:
        choice: that the row is of.
        row: which.
        on_page: leave out why a row is unstable and what a phantom or a forecast is, which a page says for all rows.
    """
    texts = []
    by_origin: dict[str, list[str]] = {}
    shown: list[Quantity] = ["time", "dice", *[limit.quantity for limit in choice.limits]]
    for quantity in dict.fromkeys(shown):
        known = row.known[quantity]
        if known.value is not None:
            by_origin.setdefault(known.origin, []).append(QUANTITIES[known.quantity][0])
    texts += [f"{listed(names)}: {origin}" for origin, names in by_origin.items()]
    if (tier := row.known["time"].tier) and not on_page:
        texts.append(_FORECAST[tier])
    for limit in choice.limits:
        if row.verdicts[limit.quantity] == "not sure":
            texts.append(_unsure(row.known[limit.quantity], limit))
    if row.record.status == "unstable":
        why = (row.record.error or "its timings did not settle").partition(": ")[0]
        known_to = why.partition(" only")[0]
        texts.append(known_to if on_page else f"the row is unstable: {why}")
    if conditions.has_phantom_dice(row.dice_record) and not on_page:
        texts.append(
            "the Dice is of a semi-synthetic phantom: it ranks networks only where they were trained alike, and says "
            "nothing about patients"
        )
    texts += [line.partition(": ")[2] for line in accuracy.notes([row.dice_record], {row.dice_record.id: row.label})]
    if row.known["dice"].value is not None and row.known["dice"].span == "":
        texts.append("the Dice has no interval")
    return "; ".join(texts) + "."


_FORECAST = {
    "datasheet": "nothing ran on this device: the time is a lower bound from its data sheet, with a wide range, so it "
    "can rule a network out and cannot decide for one",
    "scaled": "nothing ran on this device: the range of the time is an assumption",
    "calibrated": "nothing of this network ran on this device: its operators were timed there, and the range is meant "
    "to hold nine of ten networks",
}


def _unsure(known: KnownFigure, limit: Limit) -> str:
    if known.tier in ("datasheet", "scaled"):
        why = f"a {TIERS[known.tier]} of {known.text} cannot show it"
    elif known.measurement is not None and known.measurement.bound == "at_least":
        why = f"{known.of} take {known.text}, and nothing tells how much more"
    elif not known.span:
        why = f"{known.text} without an interval"
    else:
        why = f"{known.text}, {known.span}"
    return f"{limit} is not sure ({why})"


def also_possible(choice: Choice) -> str:
    """Rows that are more accurate than the one to take, and may keep all limits, too; or nothing."""
    taken = choice.taken
    if taken is None:
        return ""
    better = [row for row in choice.rows if row.standing == "not sure" and row.value("dice") < taken.value("dice")]
    if not better:
        return ""
    told = [f"{row.label} ({listed([QUANTITIES[q][0] for q in row.unsure])})" for row in better]
    return f"More accurate, and not known to keep all limits: {first_few(told, _FEW)}."


def next_command(choice: Choice, row: Row, find: FindWeights) -> tuple[str, str]:
    """What to do next, and the command that does it."""
    unsure = next_steps.to_be_sure(row, find)
    if row.record.model.arch in (LABEL_MAPS, ENSEMBLE):
        return "these are segmentations, with no weights to export: judge them again", conditions.reproduce(
            conditions.Group(letter="", records=(row.record,))
        )
    if is_evaluation(row.record):
        return "measure its time", next_steps.measure(row, find, protocol="standard")
    if row.dice_record.model.checkpoint is None:
        what = (
            "train it: its weights are random" if row.known["dice"].value is None else "train it: no weights are here"
        )
        return what, next_steps.train(row.record, "20min")
    if unsure and row.record.device.basis == "profile":
        return "measure it on the device itself", unsure
    if unsure and row.unsure:
        return "measure it longer to be sure", unsure
    if "dice" in row.unsure:
        return "its Dice is sure only with more test cases: measure it on a larger data set", next_steps.measure(
            row, find
        )
    return "write the file for the device", next_steps.export(row, find)


def nearest_misses(choice: Choice, find: FindWeights) -> list[str]:
    """For each limit that not every row keeps, the row that comes nearest, and what would help."""
    lines, told = [], set[str]()
    for limit in choice.limits:
        beyond = [row for row in choice.rows if row.verdicts[limit.quantity] != "kept"]
        beyond = [row for row in beyond if row.known[limit.quantity].value is not None]
        if not beyond:
            continue

        def others_missed(row: Row, own: Limit = limit) -> int:
            return sum(v in ("missed", "not known") for q, v in row.verdicts.items() if q != own.quantity)

        row = min(beyond, key=lambda r: (others_missed(r), r.known[limit.quantity].excess(limit.value), r.label))
        lines.append(f"nearest to {limit}: {row.label}, {_miss(row, limit)}{_also(row, limit)}")
        for what, step in next_steps.helps(limit, row, choice, find):
            if step not in told:
                lines.append(f"  {what}: {step}")
            told.add(step)
    return lines


def _miss(row: Row, limit: Limit) -> str:
    known = row.known[limit.quantity]
    if row.verdicts[limit.quantity] == "not sure":
        return f"not sure at {known.phrase}"
    excess = known.excess(limit.value)
    beyond = f"{excess:.3f} below" if limit.quantity == "dice" else f"{significant(excess)} times the limit"
    return f"{known.phrase}, {beyond}"


def _also(row: Row, limit: Limit) -> str:
    """Which other limits the row misses."""
    others = [
        QUANTITIES[quantity][0]
        for quantity, verdict in row.verdicts.items()
        if quantity != limit.quantity and verdict in ("missed", "not known")
    ]
    return f" (and misses {listed(others)})" if others else ", all else kept or not sure"


def notes(choice: Choice) -> list[str]:
    """What must be known to read the rows."""
    if not choice.rows:
        return []
    lines = []
    first = choice.rows[0]
    time = first.known["time"].of
    if time == "one patch" and conditions.patches_differ(row.record for row in choice.rows):
        patches = [f"{row.label} {format_shape(row.record.workload.spatial)}" for row in choice.rows]
        lines.append(
            f"times are of one patch, and the patches differ ({first_few(list(dict.fromkeys(patches)), _FEW)}): a "
            "smaller one needs more forwards for a patient"
        )
    elif any(limit.quantity == "time" for limit in choice.limits):
        lines.append(f"the limit of the time is held against {time}")
    lent = [row.label for row in choice.rows if (row.known["dice"].origin or "") == "measured earlier, elsewhere"]
    if lent:
        lines.append(f"Dice measured elsewhere, of the same network, patch and cases: {first_few(lent, _FEW)}")
    return lines
