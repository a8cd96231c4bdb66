"""Device profiles: one TOML a device, every figure with its source.

Peaks are dense, never the doubled figure for structured sparsity, and of the GPU alone on a Jetson.
A type that the device has no units for has no peak: a forecast for it is refused, not made up.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchbench.core.config import check_keys, check_type, read_toml
from benchbench.core.errors import DeviceError, StoreError, unknown
from benchbench.core.results import write_whole

SEE_ALL = "'bench list devices' shows all"
#: What plain `jetson` means where it must be predicted.
DEFAULT_JETSON = "jetson-orin-nano-8gb-super"
#: Where `bench calibrate` writes by default.
CALIBRATIONS = Path("results") / "local"
KINDS = ("jetson", "gpu", "cpu")
DTYPES = ("fp32", "fp16", "bf16", "int8")


#: Version of the table [calibration] of a profile.
CALIBRATION_SCHEMA = 1


_MANY = 0.1  # share of calls that were far apart from which on the machine was not quiet


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What `bench calibrate` found on a device, and how far forecasts from it were off."""

    dtype: str  # with `runtime` and `threads`, what it holds for
    runtime: str  # `eager`
    threads: int
    processor: str
    versions: Mapping[str, str]  # `torch`
    when: str
    seconds: float  # that it took
    calls: int  # that were timed
    failed: int  # that could not be
    without_room: int  # calls and networks that were not tried, since too little memory was free
    repeated: int  # of them, timed twice
    disturbed: int  # of those, far apart
    scale: float  # what a whole forward takes over the sum of its calls
    interval: float  # factor around a forecast that is to hold nine of ten networks
    held: int  # networks left out that lie within the interval that the others give
    error: float  # mean of |forecast / measured - 1|, each network left out
    ratios: Mapping[str, float]  # network -> forecast over measured, itself left out
    measured: Mapping[str, float]  # network -> seconds of a forward
    launch_s: float  # the shortest call
    points: Mapping[str, tuple[tuple[float, ...], ...]]  # kind/operator -> place of a call, log of its time over roofs

    @property
    def restless(self) -> bool:
        """Whether so many calls were far apart that the machine was not quiet."""
        return self.disturbed > _MANY * self.repeated


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A device by its data sheet, or by what was timed on it."""

    name: str  # `jetson-orin-nano-8gb-super`
    title: str
    kind: str  # jetson | gpu | cpu
    core: str  # compute capability `sm_87`, or the CPU's cores
    bandwidth_bytes_per_s: float  # of the memory that tensors are in
    peaks: Mapping[str, float]  # fp32, fp16, bf16 (FLOP/s) and int8 (operations/s), dense; a missing one is not there
    reserve_bytes: int  # what the system takes before the first tensor
    sources: Mapping[str, str]  # figure -> where it is from
    memory_bytes: int | None = None  # None: differs from one machine to the next
    watts: str | None = None  # the range that the power modes cover, `7-15`
    jetpack: str | None = None  # releases that run on it, `5-7.2`
    launch_s: float | None = None  # of an operator that does nothing; None: not known
    like: Profile | None = None  # calibrated; operators are as near to this device's roofs as to that one's
    calibration: Calibration | None = None  # None: data-sheet figures, or those of `like`

    @property
    def tier(self) -> str:
        """How good its forecasts are: `calibrated`, `scaled` or `datasheet`."""
        return "calibrated" if self.calibration else "scaled" if self.like else "datasheet"

    def tier_for(self, dtype: str) -> str:
        """The tier of a forecast in a type: a scaled profile has its data sheet alone for those that were not timed."""
        return "datasheet" if self.tier == "scaled" and self.timed and self.timed.dtype != dtype else self.tier

    @property
    def timed(self) -> Calibration | None:
        """The calibration that forecasts are from, of this device or of the one that it is like."""
        return self.calibration or (self.like.calibration if self.like else None)


_REQUIRED = {
    "name": (str,),
    "title": (str,),
    "kind": (str,),
    "core": (str,),
    "bandwidth_bytes_per_s": (int, float),
    "reserve_bytes": (int,),
    "peaks": (dict,),
    "sources": (dict,),
}
_OPTIONAL = {
    "memory_bytes": (int,),
    "watts": (str,),
    "jetpack": (str,),
    "launch_s": (int, float),
    "like": (str,),
    "calibration": (dict,),
}
_POSITIVE = (
    "threads",
    "scale",
    "interval",
    "launch_s",
)  # figures of a calibration that a forecast divides or scales by
_PLACE = 7  # numbers of a point
_HIGHEST = 50.0  # of any of them: they are logarithms
_CALIBRATION: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("dtype", "runtime", "processor", "when"), (str,)),
    **dict.fromkeys(("threads", "calls", "failed", "without_room", "repeated", "disturbed", "held"), (int,)),
    **dict.fromkeys(("seconds", "scale", "interval", "error", "launch_s"), (int, float)),
    **dict.fromkeys(("versions", "ratios", "measured", "points"), (dict,)),
}


def list_profiles() -> tuple[Profile, ...]:
    """Every profile that comes with benchbench, by name."""
    return tuple(load_profile(path) for path in sorted(_folder().glob("*.toml")))


def find_profile(name: str, *, hosts: Iterable[str] = ()) -> Profile:
    """The profile of a name or a path.

    Args:
        name: `jetson-agx-orin-64gb`, the same as `jetson:agx-orin-64gb`; `jetson`; `rtx-4090`; or a
            TOML file of one's own.
        hosts: other words that `--device` takes, for the error.

    Raises:
        DeviceError: nothing has that name (the message has the nearest one), or the file cannot be used.
    """
    if name.endswith(".toml") or "/" in name:
        return load_profile(Path(name))
    full = profile_name(name)
    known = profile_names()
    if full not in known:
        raise DeviceError(unknown("device", name, ["cpu", "cuda", "jetson", *hosts, *known], hint=SEE_ALL))
    return load_profile(_folder() / f"{full}.toml")


def profile_names() -> tuple[str, ...]:
    """The names of all profiles that come with benchbench."""
    return tuple(sorted(path.stem for path in _folder().glob("*.toml")))


def profile_name(asked: str) -> str:
    """The profile's full name for the word on the command line, whether there is such a profile or not."""
    if asked == "jetson":
        return DEFAULT_JETSON
    return f"jetson-{asked.removeprefix('jetson:').removeprefix('jetson-')}" if asked.startswith("jetson:") else asked


def load_profile(path: Path, *, may_be_like: bool = True) -> Profile:
    """Read a profile.

    Args:
        may_be_like: another one.

    Raises:
        DeviceError: no such file, broken TOML, a missing or unknown key, or a value that cannot be; one line
            that names the file and the key.
    """
    data = read_toml(path, "the device profile", DeviceError)
    check_keys(data, _REQUIRED, _OPTIONAL, str(path), DeviceError)
    if data["kind"] not in KINDS:
        raise DeviceError(f"{path}: {unknown('kind', data['kind'], KINDS)}")
    for key in ("bandwidth_bytes_per_s", "memory_bytes", "launch_s"):
        if key in data:
            _positive(path, key, data[key])
    if data["reserve_bytes"] < 0:
        raise DeviceError(f"{path}: reserve_bytes must not be negative, not {data['reserve_bytes']}")
    _check_peaks(path, data["peaks"])
    figures = {*data["peaks"], *(key for key in data if key.endswith(("_bytes", "_per_s", "_s")))}
    for key in sorted(figures):
        if not isinstance(data["sources"].get(key), str):
            raise DeviceError(f"{path}: [sources] lacks {key!r}: say where this figure is from")
    if "like" in data and not may_be_like:
        raise DeviceError(f"{path}: it is like {data['like']!r} itself: name that file, which was calibrated")
    if "like" in data:
        data["like"] = _like(path, data)
    if "calibration" in data:
        data["calibration"] = _calibration(path, data["calibration"], data["peaks"])
    return Profile(**(data | {"bandwidth_bytes_per_s": float(data["bandwidth_bytes_per_s"])}))


def _like(path: Path, data: Mapping[str, Any]) -> Profile:
    """The calibrated profile that is scaled."""
    name = data["like"]
    if "calibration" in data:
        raise DeviceError(f"{path}: it has a [calibration] of its own, so it cannot be like {name!r}: leave one out")
    if not name.endswith(".toml") or (path.parent / name).resolve() == path.resolve():
        raise DeviceError(f"{path}: like = {name!r} must name another TOML file of 'bench calibrate', from here on")
    other = load_profile(path.parent / name, may_be_like=False)
    if other.calibration is None:
        raise DeviceError(f"{path}: like = {name!r} has no calibration: take a file of 'bench calibrate'")
    if other.calibration.dtype not in data["peaks"]:
        raise DeviceError(
            f"{path}: {name} was calibrated for {other.calibration.dtype}, and [peaks] here lacks that: add it, or "
            "take a profile calibrated for another type"
        )
    return other


def _calibration(path: Path, table: Mapping[str, Any], peaks: Mapping[str, Any]) -> Calibration:
    schema = table.get("schema")
    if schema != CALIBRATION_SCHEMA:
        raise DeviceError(
            f"{path}: its calibration has schema {schema}, and this benchbench reads {CALIBRATION_SCHEMA}: make it "
            "with 'bench calibrate'"
        )
    names = [field.name for field in dataclasses.fields(Calibration)]
    for key in table:
        if key not in (*names, "schema"):
            raise DeviceError(f"{path}: [calibration] {unknown('key', key, names)}")
    for key in names:
        if key not in table:
            raise DeviceError(f"{path}: [calibration] lacks {key!r}: make it anew with 'bench calibrate'")
    for key, types in _CALIBRATION.items():
        check_type(table[key], types, f"{path}: calibration.{key}", DeviceError)
    for key in _POSITIVE:
        _positive(path, f"calibration.{key}", table[key])
    if table["interval"] < 1:
        raise DeviceError(f"{path}: calibration.interval is a factor from 1 on, not {table['interval']}")
    for key in ("ratios", "measured"):
        for name, value in table[key].items():
            _positive(path, f"calibration.{key}.{name}", value)
    if table["dtype"] not in peaks:
        raise DeviceError(f"{path}: it was calibrated for {table['dtype']}, which [peaks] lacks")
    points = table["points"]
    if not isinstance(points, dict) or not points or not all(_are_points(entry) for entry in points.values()):
        raise DeviceError(f"{path}: [calibration.points] must have lists of {_PLACE} numbers for each kind of operator")
    plain = {key: table[key] for key in names}
    return Calibration(**plain | {"points": {kind: tuple(map(tuple, entry)) for kind, entry in points.items()}})


def _are_points(points: Any) -> bool:
    return isinstance(points, list) and bool(points) and all(map(_is_point, points))


def _is_point(point: Any) -> bool:
    if not isinstance(point, list) or len(point) != _PLACE:
        return False
    return all(isinstance(n, (int, float)) and abs(n) <= _HIGHEST for n in point)


def write_profile(profile: Profile, path: Path) -> None:
    """Write a profile, as `load_profile` reads it.

    Raises:
        StoreError: it cannot be written.
    """
    plain: dict[str, Any] = {key: value for key, value in dataclasses.asdict(profile).items() if value is not None}
    if profile.calibration:
        plain["calibration"] = {"schema": CALIBRATION_SCHEMA, **plain["calibration"]}
    try:
        write_whole(path, ("\n".join(_toml(plain, ())) + "\n").encode())
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}; choose another --out") from error


def _toml(table: Mapping[str, Any], name: tuple[str, ...]) -> Iterator[str]:
    if name:
        yield f"\n[{'.'.join(name)}]"
    for key, value in table.items():
        if not isinstance(value, Mapping):
            yield f"{_key(key)} = {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _toml(value, (*name, _key(key)))


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)


def _check_peaks(path: Path, peaks: Mapping[str, Any]) -> None:
    if not peaks:
        raise DeviceError(f"{path}: [peaks] is empty; give at least one of {', '.join(DTYPES)}")
    for key, value in peaks.items():
        if key not in DTYPES:
            raise DeviceError(f"{path}: [peaks] {unknown('key', key, DTYPES)}")
        _positive(path, f"peaks.{key}", value)


def _positive(path: Path, key: str, value: Any) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value) or value <= 0:
        raise DeviceError(f"{path}: {key} must be a positive number, not {value!r}")


def _folder() -> Path:
    return Path(str(importlib.resources.files("benchbench").joinpath("devices", "profiles")))
