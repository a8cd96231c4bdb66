"""Reliability of one table's numbers: noise floor, ranks, contention, forecast error.

The noise floor is what the suite sees between a network and itself, measured twice in one run as if it were two. A row
of the same run is faster where the interval of the ratio within rounds lies beyond that floor and the ratio beyond 2 %;
of rows without rounds in common, where the medians do. A run measures the floor once for a device, thread count,
runtime and precision, so each row has the floor of its own runtime and precision, and a table of another batch size
takes the floor of its neighbour, and says where it was measured.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from benchbench.core import qualification, units
from benchbench.core import records as rec
from benchbench.core import statistics as core_statistics
from benchbench.core.evaluation import is_evaluation
from benchbench.core.paired_times import FEWEST
from benchbench.core.within_rounds import ratio_within_rounds
from benchbench.report.conditions import Group, environment_key, has_phantom_dice, path_of

#: Two latencies within this share tie however quiet the machine was.
TIE = 0.02


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """The largest difference seen between a network and itself."""

    share: float  # |ratio - 1|
    label: str  # of which network
    ci95: tuple[float, float] | None  # of the ratio
    letter: str = ""  # of the group where it was measured, if that is another one


#: (runtime, precision) -> its noise floor; one that is not there was not measured.
Floors = Mapping[tuple[str, str], Floor]


def noise_floors(records: Sequence[rec.Record]) -> Floors:
    """The noise floor of each runtime and precision of which a network was measured twice."""
    found: dict[tuple[str, str], Floor] = {}
    for record in records:
        m, path = record.get("noise_ratio"), path_of(record)
        if m is not None and m.value is not None and math.isfinite(m.value) and m.value > 0:
            floor = Floor(share=abs(m.value - 1), label=record.model.name, ci95=m.ci95)
            found[path] = max(found.get(path, floor), floor, key=lambda f: f.share)
    return found


def floors_of(group: Group, groups: Sequence[Group]) -> Floors:
    """The noise floors that count for a group: its own, or else those of this run under the same threads."""
    near = [
        {path: dataclasses.replace(floor, letter=other.letter) for path, floor in noise_floors(other.records).items()}
        for other in groups
        if other is not group and _setting(other.first) == _setting(group.first)
    ]
    own, found = noise_floors(group.records), dict[tuple[str, str], Floor]()
    for path in dict.fromkeys(map(path_of, group.records)):
        candidates = [own[path]] if path in own else [floors[path] for floors in near if path in floors]
        if candidates:
            found[path] = max(candidates, key=lambda floor: floor.share)
    return found


def _setting(record: rec.Record) -> tuple[object, ...]:
    work = record.workload
    return (record.device, work.threads, work.phase, environment_key(record.environment))


def tolerance(floor: Floor | None) -> float:
    """The share within which two rows tie: the noise floor, but at least 2 %."""
    return max(TIE, floor.share) if floor else TIE


def floors_text(records: Sequence[rec.Record], floors: Floors) -> str:
    """`1.2 % (slim_unetr against itself); rows within 2 % share a rank`; of several runtimes and precisions each's."""
    paths = list(dict.fromkeys(path_of(r) for r in records if r.ok or not any(r.ok for r in records)))
    least = units.percent(TIE, trim=True)
    if len(paths) == 1:
        floor = floors.get(paths[0])
        within = units.percent(tolerance(floor), trim=True)
        return f"{_floor_text(floor)}; {_rule(records, f'within {within}', is_known=floor is not None)}"
    texts = [f"{' '.join(path)} {_floor_text(floors[path], short=True)}" for path in paths if path in floors]
    missing = [" ".join(path) for path in paths if path not in floors]
    if not texts:
        return f"not measured; {_rule(records, f'within {least}', is_known=False)}"
    texts += [f"not measured of {', '.join(missing)}"] if missing else []
    rule = _rule(records, f"within the larger of their floors, at least {least},", is_known=True)
    return f"{'; '.join(texts)}; {rule}"


def _rule(records: Sequence[rec.Record], within: str, *, is_known: bool) -> str:
    """How ranks come about.

    Args:
        records: of the table.
        within: by what rows tie that have no rounds in common.
        is_known: whether there is a noise floor.
    """
    by_medians = f"rows {within} share a rank"
    done = [r for r in records if r.ok]
    if not any(map(Ties.of(done, {}).within_rounds, done)):
        return by_medians
    beyond = "lies beyond it" if is_known else "excludes 1"
    by_rounds = (
        "rank: one more than there are faster rows, which are those where the 95 % interval of the ratio within rounds "
        f"{beyond} and the ratio is beyond {units.percent(TIE, trim=True)}"
    )
    everywhere = set.intersection(*(set(r.rounds) for r in done))
    by_medians = f"rows without rounds in common differ {within.replace('within', 'beyond', 1)}"
    return by_rounds if len(everywhere) >= FEWEST else f"{by_rounds}; {by_medians}"


def _floor_text(floor: Floor | None, *, short: bool = False) -> str:
    if floor is None:
        return "not measured"
    where = f", measured in {floor.letter}" if floor.letter else ""
    sure = f", 95 % CI of the ratio {floor.ci95[0]:.3f} to {floor.ci95[1]:.3f}" if floor.ci95 and not short else ""
    how = floor.label if short else f"{floor.label} against itself"
    return f"{units.percent(floor.share, trim=True)} ({how}{where}{sure})"


#: What to do about rows that are `unqualified`.
TO_QUALIFY = "add --data with labels, and weights"


def unqualified(records: Sequence[rec.Record]) -> dict[str, str]:
    """Record id -> why a finished row has no rank: it may be another network than eager PyTorch in fp32."""
    return {
        r.id: f"{qualification.UNQUALIFIED}: {_why_unqualified(r)}"
        for r in records
        if r.ok and not is_evaluation(r) and not qualification.is_qualified(r)
    }


def _why_unqualified(record: rec.Record) -> str:
    loss, changed, error = (record.get(name) for name in ("lost_dice", "mask_changed_share", "output_max_error"))
    if loss is not None and loss.reason:
        dice = f"no loss of Dice to judge it by ({loss.reason})"
    elif loss is not None and loss.value is not None:
        most = f"up to {loss.ci95[1]:.4f}" if loss.ci95 else f"{loss.value:.4f}, or more: its interval is not known"
        dice = f"it may lose {most} of Dice"
    else:
        dice = "no Dice to judge it by"
    if changed is not None and changed.value is not None:
        return f"{changed.value:.2%} of the voxels get another label, and {dice}"
    if error is None or error.value is None:
        return f"its output was not compared with that of eager PyTorch in fp32, and {dice}"
    return f"its output was compared on random numbers alone, and {dice}"


#: Below this Dice, or this share of the best one beside it, a network finds too little for its time to matter.
OF_USE, OF_USE_SHARE = 0.1, 0.5


def useless(records: Sequence[rec.Record]) -> dict[str, str]:
    """Record id -> why a time has no rank: the Dice beside it is so low that the network is of no use.

    Of a row without a Dice this says nothing; see `without_rank`.
    """
    known = {r.id: dice for r in records if (dice := _dice(r)) is not None}
    least = max(OF_USE, OF_USE_SHARE * max(known.values(), default=0.0))
    return {
        i: f"its Dice of {value:.3f} is below {least:.3f}, of no use: no time of it has a rank"
        for i, value in known.items()
        if value < least
    }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NoRank:
    """Why a finished row takes no rank and is on no front."""

    word: str  # `untrained`; stands in the place of the rank
    reason: str  # a whole phrase


UNTRAINED, CUT, OF_NO_USE = "untrained", "cut, not fine-tuned", "Dice too low"
#: Word -> what to do about such rows.
TO_DO: Mapping[str, str] = {
    qualification.UNQUALIFIED: TO_QUALIFY,
    CUT: "cut it again with 'bench compress --finetune', or train it on with 'bench train --init'",
}


def without_rank(records: Sequence[rec.Record]) -> dict[str, NoRank]:
    """Record id -> why it takes no rank, of the finished rows of one set of conditions that take none.

    Where no row has a Dice of patients, costs alone are compared, and untrained networks keep their ranks.
    """
    found: dict[str, NoRank] = {}
    scored = {_network(r) for r in records if _dice(r) is not None}
    of_patients = any(_dice(r) is not None and not has_phantom_dice(r) for r in records)
    useless_rows, unqualified_rows = useless(records), unqualified(records)
    for r in records:
        if r.id in unqualified_rows:
            found[r.id] = NoRank(word=qualification.UNQUALIFIED, reason=unqualified_rows[r.id])
        elif r.id in useless_rows:
            found[r.id] = NoRank(word=OF_NO_USE, reason=useless_rows[r.id])
        elif scored and r.ok and is_only_cut(r):
            found[r.id] = NoRank(word=CUT, reason=f"{CUT}: nothing was trained after its channels went")
        elif of_patients and r.ok and r.model.checkpoint is None and _network(r) not in scored:
            found[r.id] = NoRank(word=UNTRAINED, reason=f"{UNTRAINED}: its weights are random, and others have a Dice")
    return found


def is_only_cut(record: rec.Record) -> bool:
    """Whether channels were removed from a network and nothing was trained afterwards."""
    recipe = record.recipe or {}
    return bool(recipe.get("prune")) and not recipe.get("finetune")


def _network(record: rec.Record) -> tuple[str, str]:
    return record.model.name, rec.canonical_json(rec.to_json(record.recipe))


def _dice(record: rec.Record) -> float | None:
    """The Dice of a finished row."""
    m = record.get("dice") if record.ok else None
    return float(m.value) if m and m.value is not None and math.isfinite(m.value) else None


_MOST_PAIRED = 150  # rows of a table whose ranks come from pairs within rounds


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ties:
    """Which times of a table tie."""

    records: Mapping[str, rec.Record]  # by id
    floors: Floors
    rounds: Counter[str]  # in how many rows each round is

    @classmethod
    def of(cls, records: Sequence[rec.Record], floors: Floors) -> Ties:
        """The ties of the rows of one table; of very many rows by their medians, since pairs are of each two rows."""
        paired = [r for r in records if r.ok] if len(records) <= _MOST_PAIRED else []
        rounds = Counter(at for r in paired for at in r.rounds if at)
        return cls(records={r.id: r for r in records}, floors=floors, rounds=rounds)

    def ranks(self, values: Mapping[str, float], metric: str) -> dict[str, str]:
        """The rank of each row by its time: `1`, `2=`, `2=`, `4`.

        Where rows have rounds in common it is one more than the number of rows that are faster; else rows tie with the
        first of their group.

        Args:
            values: record id -> seconds; what is not finite, or below zero, gets no rank.
            metric: that they are of.
        """
        kept = {key: value for key, value in values.items() if math.isfinite(value) and value >= 0}
        ids = list(kept)
        if any(self.within_rounds(self.records[key]) for key in ids):
            found = core_statistics.ranks_behind(len(ids), lambda i, j: self.is_faster(ids[i], ids[j], kept, metric))
        else:
            within = [tolerance(self.floors.get(path_of(self.records[key]))) for key in ids]
            found = core_statistics.tie_groups(list(kept.values()), within)
        return dict(zip(ids, found, strict=True))

    def is_faster(self, one: str, other: str, values: Mapping[str, float], metric: str) -> bool:
        """Whether a row is faster than another: by their ratio within rounds, or else by more than a share.

        Args:
            one: record id.
            other: another.
            values: record id -> seconds.
            metric: that they are of.
        """
        a, b = self.records[one], self.records[other]
        ratio = ratio_within_rounds(a, b, metric)
        if ratio is not None:
            return ratio.ratio < 1 and ratio.differs(max(self._floor(a), self._floor(b)), TIE)
        return values[other] > values[one] * (1 + max(tolerance(self.floors.get(path_of(r))) for r in (a, b)))

    def _floor(self, record: rec.Record) -> float:
        floor = self.floors.get(path_of(record))
        return floor.share if floor else 0.0

    def how(self, record: rec.Record, metric: str) -> str:
        """By what a row ties with others, for a note on its rank."""
        if self.within_rounds(record):
            return f"by {metric}; faster are rows whose ratio within rounds lies beyond the noise floor"
        return f"by {metric}; within {units.percent(tolerance(self.floors.get(path_of(record))), trim=True)} rows tie"

    def within_rounds(self, record: rec.Record) -> bool:
        """Whether a row has enough rounds that are also those of other rows."""
        return sum(self.rounds[at] > 1 for at in record.rounds) >= FEWEST


_NOISE_OF_EACH = 6  # rows up to which each has its own noise


def noise_text(records: Sequence[rec.Record], labels: Mapping[str, str]) -> str:
    """The spread of each row's measured latencies; of many rows, the middle and the largest."""
    spreads = []
    for record in records:
        m = record.get("latency_s")
        if m is not None and m.value is not None and m.origin == "measured":
            spread, kind = relative_spread(m.values)
            text = "-" if spread is None else units.percent(spread)
            spreads.append((spread or 0.0, text, f"{labels[record.id]} {text} ({kind}, n = {len(m.values)})"))
    if len(spreads) <= _NOISE_OF_EACH:
        return "; ".join(text for *_, text in spreads)
    spreads.sort(key=lambda row: row[0])
    middle, largest = spreads[len(spreads) // 2][1], spreads[-1][2]
    return f"half of the rows below {middle}, the largest {largest}; all samples are shown below"


def relative_spread(samples: Sequence[float]) -> tuple[float | None, str]:
    """Interquartile range over median; with fewer than four samples, the whole range over median.

    Args:
        samples: seconds.
    """
    samples = [s for s in samples if math.isfinite(s)]
    if len(samples) < 2 or statistics.median(samples) <= 0:
        return None, "no repeats recorded"
    middle = statistics.median(samples)
    if len(samples) < 4:
        return (max(samples) - min(samples)) / middle, "range / median"
    quarters = statistics.quantiles(samples, n=4, method="inclusive")
    return (quarters[2] - quarters[0]) / middle, "IQR / median"


def processes(record: rec.Record, metric: str) -> list[list[float]]:
    """A measurement's samples by process, only those that are numbers; empty processes are left out.

    Counts that do not add up to the samples are not believed: then all are of one process.
    """
    m = record.get(metric)
    return [] if m is None else split(m)


def split(m: rec.Measurement) -> list[list[float]]:
    """The samples of one measurement by process, as `processes` gives them."""
    runs = m.runs if sum(m.runs) == len(m.values) and min(m.runs, default=0) >= 0 else ()
    apart = [[v for v in run if math.isfinite(v)] for run in core_statistics.split_runs(m.values, runs)]
    return [run for run in apart if run]


def disturbed(record: rec.Record) -> int:
    """How many processes of a row ran while something else took processor time; 0 where that is not known."""
    value = record.value("contended_processes")
    return int(value) if value is not None and math.isfinite(value) and value > 0 else 0


def disturbed_text(records: Sequence[rec.Record], labels: Mapping[str, str]) -> str | None:
    """`in 1 row: unetr (1)`; None where no row tells."""
    told = [r for r in records if (m := r.get("contended_processes")) and m.value is not None]
    if not told:
        return None
    hit = [f"{labels[r.id]} ({disturbed(r)})" for r in told if disturbed(r)]
    if not hit:
        return "none"
    return f"in {len(hit)} of {len(told)} rows something else took processor time: {units.first_few(hit, 6)}"


def forecast(record: rec.Record) -> float | None:
    """The forecast of a row's peak memory: its tensors, and the framework's base where the peak holds it.

    Returns: bytes, or None where there is no forecast: it is of what eager PyTorch keeps, in no other runtime.
    """
    if record.workload.runtime != "eager":
        return None
    train = record.workload.phase == "train"
    tensors = record.value("train_tensor_memory_bytes") if train else record.value("tensor_memory_bytes")
    base = record.value("base_memory_bytes") or 0
    if tensors is None or not math.isfinite(tensors + base) or tensors + base <= 0:
        return None
    return float(tensors + base)


def forecast_text(records: Sequence[rec.Record], labels: Mapping[str, str]) -> str | None:
    """How the measured peaks stand to their forecasts, as a sentence; None where no row has both."""
    ratios = []
    for record in records:
        metric = "train_peak_memory_bytes" if record.workload.phase == "train" else "peak_memory_bytes"
        peak, expected = record.get(metric), forecast(record)
        if not record.ok or peak is None or peak.origin != "measured" or not expected:
            continue
        if peak.value is not None and math.isfinite(peak.value) and peak.value > 0:
            ratios.append((peak.value / expected, labels[record.id]))
    if not ratios:
        return None
    what, median = "Measured peak over forecast (base and tensors)", statistics.median(ratio for ratio, _ in ratios)
    if len(ratios) == 1:
        return f"{what}: {units.significant(median)}, of one row."
    (low, lowest), (high, highest) = min(ratios), max(ratios)
    return (
        f"{what}, {len(ratios)} rows: median {units.significant(median)}, from {units.significant(low)} ({lowest}) to "
        f"{units.significant(high)} ({highest})."
    )
