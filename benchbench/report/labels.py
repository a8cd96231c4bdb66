"""Labels of rows, and reasons that several rows share: what tells rows apart, and what failed or is missing."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence

from benchbench.core import qualification, units
from benchbench.core import records as rec
from benchbench.report import reliability
from benchbench.report.cells import bounded_text, finite, valid
from benchbench.report.conditions import apart, dtypes, path_of, runtimes

#: What a status means, for a person.
STATUS_TEXT: Mapping[str, str] = {
    "ok": "finished",
    "unstable": "unstable: the timings did not settle",
    "oom": "out of memory",
    "timeout": "out of time",
    "unsupported": "unsupported",
    "failed": "failed",
    "not_run": "not run",
}


def tally(records: Sequence[rec.Record], rows: str, verb: str = "finished", *, named: int = 6) -> str:
    """`4 of 5 rows finished; unet3d out of memory`; at most so many of those that did not are named."""
    paths = paths_of(records)
    failed = [f"{_joined(r.model.name, paths[r.id])} {STATUS_TEXT[r.status]}" for r in records if not r.ok]
    text = f"{len(records) - len(failed)} of {rows} {verb}"
    return f"{text}; {units.first_few(failed, named)}" if failed else text


def row_labels(records: Sequence[rec.Record], *, beside: Sequence[rec.Record] = ()) -> dict[str, str]:
    """Record id -> the model's name, with recipe, runtime, precision and the id's start where that tells rows apart.

    Args:
        records: each gets a label of its own.
        beside: records of other tables, if they are shown together: what differs among all of them is said.
    """
    paths = paths_of([*records, *beside])
    names = {r.id: r.model.name + (f" [{_recipe(r.recipe)}]" if r.recipe and _is_unnamed(r) else "") for r in records}
    names = {i: _joined(name, paths[i]) for i, name in names.items()}
    repeated = {name for name, n in collections.Counter(names.values()).items() if n > 1}
    return {i: f"{name} #{i[:6]}" if name in repeated else name for i, name in names.items()}


def paths_of(records: Sequence[rec.Record]) -> dict[str, str]:
    """Record id -> runtime and precision, as far as these rows differ in them: `openvino bf16`, or nothing.

    Int8 with a bound on what it may lose is `openvino int8 < 0.005` beside int8 without, or with another.
    """
    several = len(runtimes(records)) > 1, len(dtypes(records)) > 1
    bounds = len({r.workload.int8_accuracy for r in records if r.workload.dtype == "int8"}) > 1
    paths = {}
    for record in records:
        words = [word for word, told in zip(path_of(record), several, strict=True) if told]
        most = record.workload.int8_accuracy if bounds else None
        paths[record.id] = " ".join([*words, *([f"< {most:g}"] if most else [])])
    return paths


def _joined(name: str, path: str) -> str:
    return f"{name} {path}" if path else name


def _is_unnamed(record: rec.Record) -> bool:
    """Whether a compressed network bears the name of the one it was made from."""
    return bool((record.recipe or {}).get("parent", record.model.name) == record.model.name)


_LONG = ("root", "parent", "parent_sha256")  # of a recipe: told in the network's own section


def _recipe(recipe: Mapping[str, object]) -> str:
    plain = {k: v for k, v in recipe.items() if not isinstance(v, (Mapping, list, tuple)) and k not in _LONG}
    return ", ".join(f"{k}={v}" for k, v in sorted(plain.items())) or "compressed"


def row_notes(records: Sequence[rec.Record]) -> dict[str, list[str]]:
    """Record id -> in what its row differs from most rows without having a table of its own.

    Args:
        records: of one set of conditions.
    """
    told: dict[str, list[str]] = {record.id: [] for record in records}
    for key in ("commit", "benchbench", "outputs"):
        values = [r.model.out_channels if key == "outputs" else r.environment.get(key) for r in records]
        usual = max(dict.fromkeys(values), key=values.count, default=None)
        for record, value in zip(records, values, strict=True):
            if value == usual:
                continue
            if key == "outputs":
                told[record.id].append(units.counted(record.model.out_channels, "output"))
            else:
                told[record.id].append(f"{key} {str(value)[:7]}" if value else f"{key} not known")
    return told


def fits_lines(record: rec.Record) -> list[str]:
    """What would have fitted of a row that ran out of memory: `largest patch that fits: ...`."""
    lines = []
    for metric, what in (("largest_patch_voxels", "patch"), ("largest_batch", "batch")):
        m = record.get(metric)
        if m is None:
            continue
        if finite(m) is not None:
            lines.append(f"largest {what} that fits: {bounded_text(m)} ({m.method})")
        elif m.reason:
            lines.append(f"largest {what} that fits: not known, {m.reason}")
    return lines


def missing_dice(records: Sequence[rec.Record]) -> list[str]:
    """Why finished rows have no Dice: a line for each reason, with the networks that it is of."""

    def reason_of(record: rec.Record) -> str | None:
        dice = valid(record, "dice")
        return dice.reason if dice is not None and dice.value is None else None

    names = {r.id: r.model.name for r in records}
    return [f"no Dice of {', '.join(those)}: {reason}" for reason, those in by_reason(records, names, reason_of)]


def unqualified_lines(records: Sequence[rec.Record], labels: Mapping[str, str]) -> list[str]:
    """Which finished rows take no rank since they may be other networks, a line for each reason, and what to do."""
    found = reliability.unqualified(records)
    return [
        f"{', '.join(those)}: {reason}; {reliability.TO_QUALIFY}"
        for reason, those in by_reason(records, labels, lambda record: found.get(record.id))
    ]


def unranked_lines(records: Sequence[rec.Record], labels: Mapping[str, str], most: int = 6) -> list[str]:
    """Which finished rows take no rank, a line for each reason: `no rank, untrained: a, b and 9 more`.

    Those whose output is unqualified have lines of their own, `unqualified_lines`.
    """
    found = {i: why.word for i, why in reliability.without_rank(records).items()}
    words = dict.fromkeys(word for word in found.values() if word != qualification.UNQUALIFIED)
    return [
        f"no rank, {word}: {units.first_few([labels[r.id] for r in records if found.get(r.id) == word], most)}"
        for word in words
    ]


def not_possible(records: Sequence[rec.Record], labels: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """Why rows did not finish, and which, the reason of most rows first."""

    def reason_of(record: rec.Record) -> str | None:
        if record.ok:
            return None
        return f"{record.status.replace('_', ' ')}: {record.error or STATUS_TEXT[record.status]}"

    return sorted(by_reason(records, labels, reason_of), key=lambda pair: -len(pair[1]))


def by_reason(
    records: Sequence[rec.Record], labels: Mapping[str, str], reason_of: Callable[[rec.Record], str | None]
) -> list[tuple[str, list[str]]]:
    """Each reason that rows have, and the labels of these rows, each once.

    Where reasons differ in the network's own name alone, they are one, and the name becomes MODEL.
    """

    def key(record: rec.Record) -> str:
        return (reason_of(record) or "").replace(f" {record.model.name} ", " MODEL ")

    found = []
    for reason, those in apart(filter(key, records), key).items():
        (name, *others) = dict.fromkeys(r.model.name for r in those)
        text = reason if others else reason.replace(" MODEL ", f" {name} ")
        found.append((text, list(dict.fromkeys(labels[r.id] for r in those))))
    return found
