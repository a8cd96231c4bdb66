"""Records: frozen dataclasses of what was requested and what was measured, and their JSON.

Data goes one way: ModelSpec x Workload x Device -> Measurements -> Record -> a JSON line. Two
hashes name a record. `cell` is what was asked (model, recipe, workload, device) and is what resume
and comparison pair by; `id` adds the environment and the start, so every run has its own.

History of the schema, newest first:
    6  rounds of a record. Read by its default from 1 to 5.
    5  workload.test_time_mirroring, workload.patient. Read by their defaults from 1 to 4.
    4  the precision `int8`; workload.int8_accuracy; runtimes other than `eager`. Read by defaults from 1 to 3.
    3  the metric `contended_processes`, which was `disturbed_processes`. Read under its new name from 1 and 2.
    2  measurement.runs; workload.crop_foreground; in an environment, affinity. Read by defaults from 1.
    1  the first one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import hashlib
import json
import math
import sys
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from benchbench.core.errors import told

SCHEMA = 6
_RENAMED_METRICS = {"disturbed_processes": "contended_processes"}  # of records up to schema 2

Status = Literal["ok", "unstable", "oom", "timeout", "unsupported", "failed", "not_run"]
STATUSES: tuple[str, ...] = typing.get_args(Status)
Origin = Literal["measured", "analytic", "predicted", "reference", "published"]
ORIGINS: tuple[str, ...] = typing.get_args(Origin)


@dataclasses.dataclass(frozen=True, slots=True)
class AtLeast:
    """What `from_json` takes of a number in `Annotated[int, AtLeast(1)]`; nothing else looks at it."""

    least: float


@dataclasses.dataclass(frozen=True, slots=True)
class Above:
    """Likewise, of a number that must be larger."""

    limit: float


Count = Annotated[int, AtLeast(0)]
Size = Annotated[int, AtLeast(1)]
Positive = Annotated[float, Above(0)]
Sides = tuple[Size, Size, Size]  # (D, H, W)

#: Metric -> its unit. A metric that is not here (`dice_<class>`, `nsd_<tol>mm`) has the unit of its family.
METRIC_UNITS: Mapping[str, str] = types.MappingProxyType(
    {
        "params": "parameters",
        "macs": "MAC",
        "flops": "FLOP",
        "latency_s": "s",
        "throughput_patches_per_s": "1/s",
        "warmup_s": "s",
        "volume_latency_s": "s",
        "volume_windows": "windows",
        "volume_outside_share": "1",
        "volume_cropped_share": "1",
        "volume_peak_memory_bytes": "B",
        "peak_memory_bytes": "B",
        "base_memory_bytes": "B",
        "weights_memory_bytes": "B",
        "input_memory_bytes": "B",
        "output_memory_bytes": "B",
        "activation_memory_bytes": "B",
        "allocated_memory_bytes": "B",
        "process_memory_bytes": "B",
        "available_memory_drop_bytes": "B",
        "tensor_memory_bytes": "B",
        "moved_bytes": "B",
        "fits_in_memory": "1",
        "output_rel_error": "1",
        "output_max_error": "1",
        "mask_changed_share": "1",
        "lost_dice": "1",
        "prepare_s": "s",
        "first_answer_s": "s",
        "artefact_bytes": "B",
        "rewritten_for_inference": "1",
        "train_step_s": "s",
        "train_peak_memory_bytes": "B",
        "train_tensor_memory_bytes": "B",
        "largest_patch_voxels": "voxels",
        "largest_batch": "patches",
        "noise_ratio": "1",
        "contended_processes": "processes",
        "apart_processes": "processes",  # this and the next two: read, no longer measured
        "pace_handover_s": "s",
        "pace_product_s": "s",
        "peak_macs_per_s": "MAC/s",
        "memory_bandwidth_bytes_per_s": "B/s",
        "energy_j": "J",
        "throttle_events": "events",
        "temperature_start_c": "°C",
        "temperature_end_c": "°C",
        "cpu_frequency_start_hz": "Hz",
        "cpu_frequency_end_hz": "Hz",
        "gpu_frequency_start_hz": "Hz",
        "gpu_frequency_end_hz": "Hz",
        "dice": "1",
        "hd95_mm": "mm",
        "evaluated_cases": "cases",
        "missing_cases": "cases",
        "training_cases": "cases",
    }
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A network as it was asked for: enough to build it again."""

    name: str  # the card's name, `pkg.module:Class`, or what the user calls it
    arch: str  # import path of the class, `benchbench.models.slim_unetr:SlimUNETR`
    kwargs: Mapping[str, Any]  # the architecture's own keywords, without channels and size
    in_channels: Size
    out_channels: Size
    checkpoint: str | None = None  # sha256 of the weights' file; None: random weights


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What the network had to do."""

    phase: Literal["infer", "train"] = "infer"
    batch: Size = 1
    spatial: tuple[Size, ...] = (128, 128, 128)  # (D, H, W) of the patch, voxels; of label maps empty
    dtype: Literal["fp32", "bf16", "fp16", "int8"] = "fp32"
    threads: Size | None = None  # intra-op threads; None on a device that has no such thing
    runtime: str = "eager"
    protocol: str = "quick"  # or one's own numbers; `audit`, `evaluation`: nothing was timed
    volume: tuple[Size, ...] | None = None  # (D, H, W) of a whole patient volume, voxels
    patient: tuple[Size, ...] | None = None  # its (D, H, W) by the data's plan, where `volume` is the network's own
    overlap: Annotated[float, AtLeast(0)] | None = None  # of sliding windows, as a share of the patch
    crop_foreground: bool = False  # windows over the box that holds the patient, not over the air around
    data: str | None = None  # data set that Dice is of
    split: str | None = None  # which of its cases
    memory_limit_bytes: Count | None = None
    int8_accuracy: Annotated[float, Above(0)] | None = None  # most Dice that quantization may lose on the validation
    test_time_mirroring: tuple[Count, ...] | None = None  # axes, 0 to 2, of whose mirror images logits are the mean

    @property
    def forwards(self) -> int:
        """Of the network for one answer: one for each mirror image."""
        return 1 << len(self.test_time_mirroring or ())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Where: `asked` is the word on the command line, the rest what it turned out to be."""

    kind: str  # cpu | cuda | jetson | none | ...
    name: str  # `AMD EPYC`, `jetson-orin-nano-8gb-super`
    basis: Literal["probed", "profile"]  # profile: nothing ran there
    asked: str  # `cpu`, `jetson`


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One number with its origin, or the reason why there is none.

    `value` is None exactly when `reason` says why.
    """

    metric: str
    unit: str
    value: float | int | None
    origin: Origin
    method: str  # how it was obtained, in a few words
    values: tuple[float, ...] = ()  # raw samples (latency), one per case (Dice), one per process (memory)
    runs: tuple[Count, ...] = ()  # how many of `values` each process gave, in order; empty: all are of one process
    ci95: tuple[float, float] | None = None  # confidence interval of `value`
    interval: tuple[float, float] | None = None  # a prediction's range; not a confidence interval
    bound: Literal["at_least", "at_most"] | None = None  # `value` is this side of the truth
    source: str | None = None  # a `reference` record's id, a publication
    reason: str | None = None

    @classmethod
    def of(
        cls, metric: str, value: float | int | None, method: str, origin: Origin = "measured", **more: Any
    ) -> Measurement:
        """A measurement in its metric's unit."""
        return cls(metric=metric, unit=METRIC_UNITS[metric], value=value, method=method, origin=origin, **more)

    @classmethod
    def missing(cls, metric: str, reason: str, origin: Origin = "analytic") -> Measurement:
        """A metric that could not be had, and why."""
        return cls.of(metric, None, "none", origin, reason=reason)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A file kept beside the records: what the report shows."""

    kind: str  # layers | picture | cases | training | audit
    path: str  # relative to the folder of records.jsonl, with forward slashes
    sha256: str
    title: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)  # without slots: its hashes are kept once they were computed
class Record:
    """One line of records.jsonl: a cell that was measured, predicted, or failed."""

    model: ModelSpec
    workload: Workload
    device: Device
    environment: Mapping[str, Any]
    status: Status
    started_at: str  # ISO 8601, UTC
    duration_s: Annotated[float, AtLeast(0)]
    measurements: tuple[Measurement, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    error: str | None = None  # one line; why the status is not `ok`
    traceback: str | None = None  # of the child that failed
    recipe: Mapping[str, Any] | None = None  # compression applied
    rounds: tuple[str, ...] = ()  # of each process, when its round began: ISO 8601, UTC; two rows of one round share it
    schema: Size = SCHEMA

    @functools.cached_property
    def cell(self) -> str:
        """Hash of what was asked."""
        return cell_id(self.model, self.workload, self.device.asked, self.recipe)

    @property
    def ok(self) -> bool:
        """Whether it came to its end; the timings of an unstable one did not settle."""
        return self.status in ("ok", "unstable")

    @functools.cached_property
    def id(self) -> str:
        """Hash of what was asked, where, and when: of this run alone."""
        return content_hash([self.cell, fingerprint(self.environment), self.started_at])

    def get(self, metric: str) -> Measurement | None:
        """Our own measurement of that name, if the record has one; never a published figure."""
        return next((m for m in self.measurements if m.metric == metric and m.origin != "published"), None)

    def published(self, metric: str) -> Measurement | None:
        """The published figure of that name, if the model's card has one."""
        return next((m for m in self.measurements if m.metric == metric and m.origin == "published"), None)

    def value(self, metric: str) -> float | int | None:
        """The value of that metric, or None where there is no value."""
        measurement = self.get(metric)
        return None if measurement is None else measurement.value


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OperatorCost:
    """One call of an operator in a forward: what a forecast needs, and the layer table sums."""

    operator: str  # aten name, `convolution`
    kind: str  # conv | depthwise_conv | transposed_conv | matmul | attention | norm | elementwise | copy | other
    module: str  # qualified name of the module that called it, `encoder.block1.0`
    macs: Count
    read_bytes: Count  # inputs, parameters included
    written_bytes: Count  # outputs
    output_shape: tuple[Count, ...] = ()
    kernel: Count = 1  # voxels of a convolution's kernel
    strided: bool = False  # the first input's sides do not lie in memory in their order, as after a transposition

    @property
    def moved_bytes(self) -> int:
        """Read and written."""
        return self.read_bytes + self.written_bytes


def canonical_json(value: Any) -> str:
    """The one text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_hash(value: Any) -> str:
    """The first 16 hex digits of the sha256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def cell_id(model: ModelSpec, workload: Workload, device_asked: str, recipe: Mapping[str, Any] | None) -> str:
    """Hash of what was asked: equal for two runs that can be compared.

    A field that came with a later schema is left out at its default, so that what was asked before keeps its hash.
    """
    work = {key: value for key, value in to_json(workload).items() if key not in _LATER or value is not None}
    return content_hash([to_json(model), recipe, work, device_asked])


_LATER = ("int8_accuracy", "test_time_mirroring", "patient")  # fields of a workload since schema 4


#: Keys of an environment that differ between two runs on one unchanged machine.
VOLATILE = frozenset({"load_average", "available_memory_bytes", "cpu_mhz", "commit_dirty_files", "gpu_processes"})


def utc_now(timespec: Literal["milliseconds", "seconds"] = "milliseconds") -> str:
    """ISO 8601, UTC."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec=timespec)


def fingerprint(environment: Mapping[str, Any]) -> str:
    """Hash of an environment without what changes from minute to minute.

    Results may be reused, or compared, only under an equal fingerprint.
    """
    return content_hash({k: v for k, v in environment.items() if k not in VOLATILE})


def to_json(item: Any) -> Any:
    """A dataclass of this file as plain JSON values."""
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return {f.name: to_json(getattr(item, f.name)) for f in dataclasses.fields(item)}
    if isinstance(item, Mapping):
        return {str(k): to_json(v) for k, v in item.items()}
    if isinstance(item, (list, tuple)):
        return [to_json(v) for v in item]
    return item


def record_to_json(record: Record) -> dict[str, Any]:
    """A record as the JSON object of its line, with `cell` and `id` first."""
    plain: dict[str, Any] = to_json(record)
    return {"schema": record.schema, "id": record.id, "cell": record.cell} | plain


T = TypeVar("T")


def from_json(cls: type[T], data: Mapping[str, Any], where: str = "") -> T:
    """The reverse of `to_json` for a dataclass: every field of the type that its annotation says, or an error.

    Args:
        data: its JSON object; keys that the class does not have are passed over.
        where: it stands in a larger one, such as `model`, for the message.

    Raises:
        KeyError: a field without a default is missing.
        TypeError: a value is not of its field's form, or `data` is no JSON object; the message names the field.
    """
    if not isinstance(data, Mapping):
        raise TypeError(f"{where and f'{where}: '}{cls.__name__} must be an object, not {told(data)}")
    hints = _hints(typing.cast(Any, cls))
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        name = f"{where}.{field.name}" if where else field.name
        if field.name in data:
            values[field.name] = value_from_json(hints[field.name], data[field.name], name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise KeyError(name)
    return cls(**values)


@functools.cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    """Of a class, made once: that takes longer than a record."""
    return typing.get_type_hints(cls, include_extras=True)


def value_from_json(hint: Any, value: Any, name: str) -> Any:
    """A value from JSON as a type's annotation says.

    Args:
        hint: a plain type, `tuple`, `Mapping`, `Literal`, `Annotated[..., AtLeast(...)]`, a union, or a dataclass.

    Raises:
        KeyError: a field of a dataclass is missing.
        TypeError: it is of another form; the message names it.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _of_union(args, value, name)
    if origin is Annotated:
        number = value_from_json(args[0], value, name)
        for rule in args[1:]:
            if isinstance(rule, AtLeast) and number < rule.least:
                raise TypeError(f"{name} must be at least {rule.least}, not {told(value)}")
            if isinstance(rule, Above) and number <= rule.limit:
                raise TypeError(f"{name} must be above {rule.limit}, not {told(value)}")
        return number
    if origin is Literal:
        if value not in args:
            raise TypeError(f"{name} is {told(value)}, not one of {', '.join(map(repr, args))}")
        return value
    if origin is tuple:
        return _of_tuple(args, value, name)
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast(Any, hint), value, name)
    if origin is not None:  # Mapping[str, Any]
        if not isinstance(value, Mapping):
            raise TypeError(f"{name} must be an object, not {told(value)}")
        key_of, value_of = (functools.partial(value_from_json, arg) for arg in args)
        return {key_of(k, f"a key of {name}"): value_of(v, f"{name}.{told(k)}") for k, v in value.items()}
    if hint is Any:
        return value
    accepted = (int, float) if hint is float else hint
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise TypeError(f"{name} must be {hint.__name__}, not {told(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise TypeError(f"{name} must be a finite number, not {value}")
    return sys.intern(value) if type(value) is str else value  # methods and units are the same in every record


def _of_union(args: tuple[Any, ...], value: Any, name: str) -> Any:
    if value is None and type(None) in args:
        return None
    some = [arg for arg in args if arg is not type(None)]
    for arg in some[:-1]:
        with contextlib.suppress(TypeError):
            return value_from_json(arg, value, name)
    return value_from_json(some[-1], value, name)


def _of_tuple(args: tuple[Any, ...], value: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{name} must be a list, not {told(value)}")
    if args == (float, Ellipsis) and all(type(v) is float for v in value) and all(map(math.isfinite, value)):
        return tuple(value)  # samples, most of what a file holds
    each = (args[0],) * len(value) if args[-1] is Ellipsis else args
    if len(value) != len(each):
        raise TypeError(f"{name} must have {len(each)} values, not {len(value)}")
    return tuple(value_from_json(hint, v, f"{name}[{i}]") for i, (hint, v) in enumerate(zip(each, value, strict=True)))


def record_from_json(data: Mapping[str, Any]) -> Record:
    """The record of one line, in the present schema; `cell` and `id` are computed again, not believed.

    Raises:
        KeyError: a field without a default is missing.
        TypeError: a value is not of its field's form; the message names the field.
    """
    record = from_json(Record, data)
    if record.schema >= SCHEMA:
        return record
    measurements = tuple(
        dataclasses.replace(m, metric=_RENAMED_METRICS.get(m.metric, m.metric)) for m in record.measurements
    )
    return dataclasses.replace(record, measurements=measurements, schema=SCHEMA)
