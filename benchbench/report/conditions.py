"""Conditions of records: only those measured under the same ones stand in one table.

What can move a number is part of the key: device, threads, input, protocol, data, versions of what computes. Another
commit of the suite, another load and another number of outputs move none, or one row's alone: they are a note on the
row. What is chosen to make a network faster is no condition: its rows in all runtimes and precisions stand in one
table. Nor is the patch on a data set of one's own, where each network takes the smallest that it can: there they share
the cases, not the input.
"""

from __future__ import annotations

import dataclasses
import math
import re
import shlex
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from benchbench.core import records as rec
from benchbench.core import units
from benchbench.core.errors import PLACE, data_flags
from benchbench.core.evaluation import ENSEMBLE, LABEL_MAPS, is_evaluation
from benchbench.report.patient import compared_volume, own_volumes

#: What every other runtime and precision is held against.
EAGER_FP32 = ("eager", "fp32")
_DTYPES = ("fp32", "bf16", "fp16", "int8")

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Records measured under the same conditions, in the order given."""

    letter: str  # A, B, ...; names the group on the page
    records: tuple[rec.Record, ...]

    @property
    def first(self) -> rec.Record:
        """A record that speaks for the group's conditions, its data among them."""
        return next((r for r in self.records if r.workload.data), self.records[0])

    @property
    def predicted(self) -> bool:
        """Whether nothing ran on the device."""
        return self.first.device.basis == "profile"

    @property
    def title(self) -> str:
        """`AMD EPYC, 2 threads, fp32, 1 x 4 x 128x128x128`; of several precisions none is named."""
        work = self.first.workload
        if is_evaluation(self.first):
            return f"Segmentations of {data_text(work)}, judged on {self.first.device.name}"
        threads = "" if work.threads is None else f", {units.counted(work.threads, 'thread')}"
        basis = " (predicted)" if self.predicted else ""
        host = self.first.environment.get("host")
        also = f" on {host}" if host else ""
        also += ", training" if work.phase == "train" else ""
        also += "" if (size := compared_volume(work)) is None else f", volume {units.format_shape(size)}"
        also += (" cropped" if work.volume else ", cropped volume") if work.crop_foreground else ""
        limit = work.memory_limit_bytes
        also += "" if limit is None else f", limit {units.format_value(limit, 'B')}"
        also += ", test-time mirroring" if work.test_time_mirroring else ""
        (dtype, *others) = dtypes(self.records)
        precision = "" if others else f"{dtype}, "
        return f"{self.first.device.name}{basis}{threads}, {precision}{self.input}{also}"

    @property
    def input(self) -> str:
        """Batch x channels x voxels; of networks with patches of their own the smallest and the largest."""
        if not patches_differ(self.records):
            return input_text(self.first)
        patches = {r.workload.spatial for r in self.records}
        low, high = (units.format_shape(pick(patches, key=math.prod)) for pick in (min, max))
        return f"{self.first.workload.batch} x {self.first.model.in_channels} x own patch ({low} to {high})"


def group(records: Sequence[rec.Record]) -> list[Group]:
    """The records apart by condition, in the order in which each condition first comes.

    A record without data (of a classifier, say) joins those that have a data set under otherwise equal
    conditions: it has no Dice that could be taken for one of theirs.
    """
    with_data = {_loose(r): _key(r) for r in reversed(records) if r.workload.data}

    def key(record: rec.Record) -> str:
        if record.workload.data:
            return _key(record)
        other = None if record.workload.volume else with_data.get(_loose(record, own_patch=True))
        return with_data.get(_loose(record), other or _key(record))

    return [Group(letter=_letter(i), records=tuple(rs)) for i, rs in enumerate(apart(records, key).values())]


def apart(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """The items by a key of each, in the order in which they come."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def patches_differ(records: Iterable[rec.Record]) -> bool:
    """Whether a forward of one is another work than that of another."""
    return len({r.workload.spatial for r in records}) > 1


def has_own_patches(work: rec.Workload) -> bool:
    """Whether the data are a folder's: each network then has a patch of its own, and `volume` compares them."""
    return work.data is not None and ":" in work.data and not is_semi_synthetic(work.data)


def runtimes(records: Iterable[rec.Record]) -> list[str]:
    """What ran the networks, each name once, eager PyTorch first."""
    return sorted(dict.fromkeys(r.workload.runtime for r in records), key=lambda name: name != "eager")


def dtypes(records: Iterable[rec.Record]) -> list[str]:
    """The precisions, the widest first."""
    return sorted({r.workload.dtype for r in records}, key=_DTYPES.index)


def path_of(record: rec.Record) -> tuple[str, str]:
    """Runtime and precision."""
    return record.workload.runtime, record.workload.dtype


def any_path(work: rec.Workload) -> rec.Workload:
    """The work without what is chosen to do it faster: equal for all runtimes and precisions."""
    return dataclasses.replace(work, runtime="", dtype="fp32", int8_accuracy=None)


def main_path(records: Sequence[rec.Record]) -> list[rec.Record]:
    """The rows of one runtime and precision, for what compares networks with each other.

    Eager PyTorch in fp32 where there is a row of it, else what most rows have.
    """
    by_path = apart(records, path_of)
    return by_path.get(EAGER_FP32) or max(by_path.values(), key=len, default=[])


def _key(record: rec.Record) -> str:
    """The conditions as text."""
    work = record.workload
    if is_evaluation(record):  # how a segmentation came about is its own affair
        work = dataclasses.replace(work, spatial=(), overlap=None, test_time_mirroring=None)
    if has_own_patches(work):
        work = dataclasses.replace(work, spatial=(), volume=compared_volume(work), patient=None)
    if work.test_time_mirroring:  # along whatever axes each network was trained with
        work = dataclasses.replace(work, test_time_mirroring=())
    return _conditions(record, work)


def _loose(record: rec.Record, *, own_patch: bool = False) -> str:
    """The conditions without the data and what follows from it; `own_patch`: as if the data were a folder's."""
    work = dataclasses.replace(record.workload, data=None, split=None, overlap=None)
    if own_patch or has_own_patches(record.workload):
        work = dataclasses.replace(work, spatial=(), volume=None, patient=None)
    return _conditions(record, work)


def _conditions(record: rec.Record, work: rec.Workload) -> str:
    where = (rec.to_json(record.device), environment_key(record.environment))
    return rec.canonical_json([rec.to_json(any_path(work)), where, record.model.in_channels])


#: Of an environment: versions of the suite itself, which time the same network in the same way.
_NOTED = ("commit", "benchbench")


def environment_key(environment: Mapping[str, Any]) -> str:
    """Equal for environments whose numbers may stand side by side."""
    return rec.fingerprint({key: value for key, value in environment.items() if key not in _NOTED})


def _letter(index: int) -> str:
    text, index = "", index + 1
    while index:
        index, digit = divmod(index - 1, 26)
        text = chr(65 + digit) + text
    return text


def input_text(record: rec.Record) -> str:
    """Batch x channels x spatial: `1 x 4 x 128x128x128`."""
    work = record.workload
    return f"{work.batch} x {record.model.in_channels} x {units.format_shape(work.spatial)}"


def facts(group: Group) -> list[tuple[str, str]]:
    """The conditions as name and text, in the order of the page; what is not known is left out."""
    first, env = group.first, group.first.environment
    work = first.workload
    started = sorted(_moment(r.started_at) for r in group.records)
    when = started[0] if started[0] == started[-1] else f"{started[0]} to {started[-1]}"
    computer = "Forecast made on" if group.predicted else "Processor"
    pairs: list[tuple[str, Any]] = [
        ("Device", f"{first.device.name} (requested as {first.device.asked})"),
        ("Host", env.get("host")),
        ("Basis", _basis(group)),
        ("Threads", work.threads),
        ("Precision", _precisions(group.records)),
        ("Input", f"{group.input} (batch x channels x voxels), {_outputs(group.records)} outputs"),
        ("Phase and runtime", f"{work.phase}, {', '.join(runtimes(group.records))}"),
        ("Volume", _volume(work, group.records)),
        ("Protocol", work.protocol),
        ("Data for Dice", data_text(work)),
        ("Test-time mirroring", _mirroring(group.records)),
        ("Memory limit", _quantity(work.memory_limit_bytes, "B")),
        (computer, f"{env.get('cpu') or ''} {_cores(env.get('cores'))}".strip()),
        ("GPU", " ".join(str(v) for v in (env.get("gpu"), _named("driver", env), _named("cuda", env)) if v)),
        ("Memory", None if group.predicted else _quantity(env.get("memory_bytes"), "B")),
        ("GPU memory", _quantity(env.get("gpu_memory_bytes"), "B")),
        ("Board", ", ".join(str(env[key]) for key in ("jetson", "l4t") if env.get(key))),
        ("Power mode", None if group.predicted else env.get("power_mode")),
        ("Clocks", None if group.predicted else _clocks(env.get("clocks_locked"))),
        ("Power limit of the GPU", _quantity(env.get("power_limit_w"), "W")),
        ("MIG slice", env.get("mig")),
        ("Other programs on the GPU", _others(group.records)),
        ("Throttling", None if group.predicted else _throttling(group.records)),
        ("Clock governor", None if group.predicted else env.get("governor")),
        ("Load average at start", None if group.predicted else _load(group.records)),
        ("Versions", ", ".join(_named(key, env) for key in _VERSIONS if env.get(key))),
        ("Commit", _commits(group.records)),
        ("System", " ".join(str(env[key]) for key in _SYSTEM if env.get(key))),
        ("When", when),
    ]
    left_out = _OF_RUNS if is_evaluation(first) else frozenset()
    return [(name, str(text)) for name, text in pairs if text not in (None, "") and name not in left_out]


def all_facts(records: Sequence[rec.Record]) -> dict[str, str]:
    """The facts of all sets of conditions by name, each text once."""
    texts: dict[str, dict[str, None]] = {}
    for part in group(records):
        for name, text in facts(part):
            texts.setdefault(name, {})[text] = None
    return {name: "; ".join(those) for name, those in texts.items()}


def _precisions(records: Sequence[rec.Record]) -> str:
    """`fp32, int8 (loss below 0.005)`."""
    bounds = sorted({f"loss below {r.workload.int8_accuracy:g}" for r in records if r.workload.int8_accuracy})
    return ", ".join(dtypes(records)) + (f" ({', '.join(bounds)})" if bounds else "")


def _mirroring(records: Sequence[rec.Record]) -> str | None:
    """`mean over the mirror images along D`; of networks with axes of their own, each with its."""
    axes = {r.workload.test_time_mirroring for r in records if r.workload.test_time_mirroring}
    along = " or ".join(units.format_axes(some) for some in sorted(axes))
    return f"mean over the mirror images along {along}; times are of all forwards" if axes else None


def _volume(work: rec.Workload, records: Sequence[rec.Record]) -> str | None:
    if (volume := compared_volume(work)) is None and not work.crop_foreground:
        return None
    over = "the box that holds the patient" if work.crop_foreground else "all of it"
    size = "a case of its own size" if volume is None else f"{units.format_shape(volume)} voxels"
    return f"{size}, by {windows_text(work)}, over {over}{own_volumes(records)}"


def windows_text(work: rec.Workload) -> str:
    """`windows of 96x96x96, overlap 0.5`."""
    patch = "each network's patch" if has_own_patches(work) else units.format_shape(work.spatial)
    return f"windows of {patch}" + ("" if work.overlap is None else f", overlap {work.overlap:g}")


def _basis(group: Group) -> str:
    if group.predicted:
        around = group.first.environment
        if "calibrated" in around:
            return f"a profile of operators timed on it ({around['calibrated']})"
        if "scaled" in around:
            return f"its data sheet, and operators timed on another device ({around['scaled']}); nothing ran there"
        return "a profile of its data sheet; nothing ran there"
    away = group.first.environment.get("host")
    return "the device itself, reached by ssh" if away else "the device itself, timed locally"


def _commits(records: Sequence[rec.Record]) -> str:
    """Each commit in full, that of most rows first."""
    commits = [str(r.environment["commit"]) for r in records if r.environment.get("commit")]
    ordered = sorted(dict.fromkeys(commits), key=lambda commit: -commits.count(commit))
    return ", ".join(f"{c} ({units.counted(commits.count(c), 'row')})" if len(ordered) > 1 else c for c in ordered)


def _outputs(records: Sequence[rec.Record]) -> str:
    """`3`, or `3 or 2` with the number of most rows first."""
    counts = [r.model.out_channels for r in records]
    return " or ".join(str(n) for n in sorted(set(counts), key=lambda n: (-counts.count(n), n)))


def _moment(started_at: str) -> str:
    """ISO 8601 in UTC to the second; another form stays as it is."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?(?:Z|\+00:00)", started_at)
    return f"{match[1]} {match[2]} UTC" if match else started_at


#: Facts of what is timed, or of one network's way to its segmentations; an evaluation has none of them.
_OF_RUNS = frozenset(
    (
        *("Threads", "Precision", "Input", "Phase and runtime", "Protocol", "Test-time mirroring", "Memory"),
        *("Basis", "GPU memory", "Power mode", "Clocks", "Clock governor", "Load average at start"),
    )
)
_SYSTEM = ("platform", "system", "kernel", "machine")
_VERSIONS = ("benchbench", "python", "torch", "monai", "numpy")


def _named(key: str, env: Any) -> str:
    return f"{key} {env[key]}" if env.get(key) else ""


def _clocks(locked: Any) -> str | None:
    if not isinstance(locked, bool):
        return None
    return "locked to one frequency, as jetson_clocks does" if locked else "not locked: they follow the load"


def _others(records: Sequence[rec.Record]) -> str | None:
    """How many programs computed on the GPU beside ours; None where none did, or it is not known."""
    counts = [r.environment.get("gpu_processes") for r in records]
    most = max((c for c in counts if isinstance(c, int)), default=0)
    return f"{most} at the start: the figures may be those of a shared GPU" if most else None


def _throttling(records: Sequence[rec.Record]) -> str | None:
    """In how many rows the device held back; None where no row tells."""
    told = [m.value for r in records if (m := r.get("throttle_events")) and m.value is not None]
    if not told:
        return None
    slowed = sum(value > 0 for value in told)
    return f"in {slowed} of {len(told)} rows; their latency is not the network's alone" if slowed else "none"


def _cores(count: Any) -> str:
    return f"({count} cores)" if count else ""


def _quantity(value: Any, unit: str) -> str | None:
    return units.format_value(value, unit) if isinstance(value, (int, float)) else None


def data_text(work: rec.Workload) -> str | None:
    """The data set and split that Dice is of, with a warning word for the phantom."""
    if work.data is None:
        return None
    kind = " (semi-synthetic)" if is_semi_synthetic(work.data) else ""
    return f"{work.data}{kind}" + (f", split {work.split}" if work.split else "")


def is_semi_synthetic(data: str | None) -> bool:
    """Whether a data set is the embedded phantom; the key of a folder of that name has a hash."""
    return data == "phantom"


def has_phantom_dice(record: rec.Record) -> bool:
    """Whether the record holds a Dice of the semi-synthetic phantom."""
    dice = record.get("dice")
    if dice is None or dice.value is None:
        return False
    data = record.workload.data
    return is_semi_synthetic(data) if data else "semi-synthetic" in dice.method


def _load(records: Sequence[rec.Record]) -> str | None:
    loads = []
    for record in records:
        value = record.environment.get("load_average")
        value = value[0] if isinstance(value, (list, tuple)) and value else value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            loads.append(float(value))
    if not loads:
        return None
    low, high = f"{min(loads):.2f}", f"{max(loads):.2f}"
    return low if low == high else f"{low} to {high}"


_MOST_MODELS = 60  # that a command names


def reproduce(group: Group) -> str:
    """The command that asks for the same cells again."""
    if is_evaluation(group.first):
        return _evaluate_again(group.records)
    work, seen = group.first.workload, dict.fromkeys(r.model.name for r in group.records if not r.recipe)
    models = shlex.quote(",".join(seen)) if len(seen) <= _MOST_MODELS else "NAME[,NAME]"
    parts = ["bench run", f"--models {models}", f"--device {shlex.quote(group.first.device.asked)}"]
    if not patches_differ(group.records):
        parts.append("--spatial " + " ".join(map(str, work.spatial)))
    names = runtimes(group.records)
    if names != ["eager"]:
        parts.append(f"--runtime {','.join(names)}")
    parts += [f"--batch-size {work.batch}", f"--dtype {','.join(dtypes(group.records))}"]
    if bound := next((r.workload.int8_accuracy for r in group.records if r.workload.int8_accuracy), None):
        parts.append(f"--int8-accuracy {bound:g}")
    cores = group.first.environment.get("cores")
    if work.threads is not None and isinstance(cores, int) and work.threads != cores:
        parts.append(f"--threads {work.threads}")
    parts.append(f"--protocol {work.protocol}")
    if work.phase == "train":
        parts.append("--phase train")
    if work.volume and not any(r.workload.patient for r in group.records):  # each network's own follows from the data
        parts.append("--volume " + " ".join(map(str, work.volume)))
    parts += [] if work.volume is None or work.overlap is None else [f"--overlap {work.overlap:g}"]
    parts += ["--crop-foreground"] if work.crop_foreground else []
    parts += ["--test-time-mirroring"] if work.test_time_mirroring else []
    if work.memory_limit_bytes is not None:
        parts.append(f"--memory-limit {work.memory_limit_bytes}B")
    if work.data:
        parts.append(shlex.join(data_flags(work.data)))
    return " ".join(parts)


def _evaluate_again(records: Sequence[rec.Record]) -> str:
    """The command that evaluates the same again; records do not tell where weights and label maps lie."""
    work = records[0].workload
    names = dict.fromkeys(r.model.name for r in records if r.model.arch not in (LABEL_MAPS, ENSEMBLE))
    together = dict.fromkeys(r.model.name for r in records if r.model.arch == ENSEMBLE)
    folders = [f"{PLACE}{r.model.name}" for r in records if r.model.arch == LABEL_MAPS]
    words = ["bench", "evaluate", *names, *together, *(["--predictions", *folders] if folders else [])]
    flags = data_flags(work.data or "")
    if "all" in flags:
        at = flags.index("all")
        flags[at - 1 : at + 1] = ["--split", "all"]
    elif work.split not in (None, "test"):
        flags += ["--split", str(work.split)]
    words += flags
    words += [] if work.overlap in (None, 0.5) else ["--overlap", f"{work.overlap:g}"]
    words += ["--test-time-mirroring"] if work.test_time_mirroring else []
    words += [] if work.dtype == "fp32" else ["--dtype", work.dtype]
    return shlex.join(words)
