"""Device profiles: one TOML a device, every figure with its source.

Peaks are dense, never the doubled figure for structured sparsity, and of the GPU alone on a Jetson.
A type that the device has no units for has no peak: a forecast for it is refused, not made up.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from benchbench.core.config import read_toml
from benchbench.core.errors import DeviceError, StoreError, os_error_as, unknown
from benchbench.core.records import Count, Positive, Size, from_json
from benchbench.core.results import write_whole
from benchbench.devices.latency_model import Efficiency, Roofs

SEE_ALL = "'bench list devices' shows all"
#: What plain `jetson` means where it must be predicted.
DEFAULT_JETSON = "jetson-orin-nano-8gb-super"
#: Where `bench calibrate` writes by default.
CALIBRATIONS = Path("results") / "local"
CALIBRATION_SCHEMA = 1  # of the table [calibration] of a profile
Dtype = Literal["fp32", "fp16", "bf16", "int8"]

_MANY = 0.1  # share of calls that were far apart from which on the machine was not quiet
_PLACE = 7  # numbers of a point
_HIGHEST = 50.0  # of any of them: they are logarithms


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What `bench calibrate` found on a device, and how far forecasts from it were off."""

    schema: int = CALIBRATION_SCHEMA
    dtype: Dtype  # with `runtime` and `threads`, what it holds for
    runtime: str  # `eager`
    threads: Size
    processor: str
    versions: Mapping[str, str]  # `torch`
    when: str
    seconds: float  # that it took
    calls: Count  # that were timed
    failed: Count  # that could not be
    without_room: Count  # calls and networks that were not tried, since too little memory was free
    repeated: Count  # of them, timed twice
    disturbed: Count  # of those, far apart
    scale: Positive  # what a whole forward takes over the sum of its calls
    interval: Positive  # factor around a forecast that is to hold nine of ten networks
    held: Count  # networks left out that lie within the interval that the others give
    error: float  # mean of |forecast / measured - 1|, each network left out
    ratios: Mapping[str, Positive]  # network -> forecast over measured, itself left out
    measured: Mapping[str, Positive]  # network -> seconds of a forward
    launch_s: Positive  # the shortest call
    points: Mapping[str, tuple[tuple[float, ...], ...]]  # kind/operator -> place of a call, log of its time over roofs

    @property
    def restless(self) -> bool:
        """Whether so many calls were far apart that the machine was not quiet."""
        return self.disturbed > _MANY * self.repeated


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """A device by its data sheet, or by what was timed on it."""

    name: str  # `jetson-orin-nano-8gb-super`
    title: str
    kind: Literal["jetson", "gpu", "cpu"]
    core: str  # compute capability `sm_87`, or the CPU's cores
    bandwidth_bytes_per_s: Positive  # of the memory that tensors are in
    peaks: Mapping[Dtype, Positive]  # FLOP/s (int8: operations/s), dense; a missing one is not there
    reserve_bytes: Count  # what the system takes before the first tensor
    sources: Mapping[str, str]  # figure -> where it is from
    memory_bytes: Size | None = None  # None: differs from one machine to the next
    watts: str | None = None  # the range that the power modes cover, `7-15`
    jetpack: str | None = None  # releases that run on it, `5-7.2`
    launch_s: Positive | None = None  # of an operator that does nothing; None: not known
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

    @functools.cached_property
    def efficiency(self) -> Efficiency:
        """What calls take on this device, which was calibrated."""
        assert self.calibration is not None
        roofs = Roofs(
            macs_per_s=self.peaks[self.calibration.dtype] / 2,
            bytes_per_s=self.bandwidth_bytes_per_s,
            launch_s=self.calibration.launch_s,
        )
        points = {work: [(p[:-1], p[-1]) for p in calls] for work, calls in self.calibration.points.items()}
        return Efficiency(roofs, points)


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
    names = profile_names()
    if full not in names:
        raise DeviceError(unknown("device", name, ["cpu", "cuda", "jetson", *hosts, *names], hint=SEE_ALL))
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

    Raises:
        DeviceError: no such file, broken TOML, a missing or unknown key, or a value that cannot be; one line
            that names the file and the key.
    """
    data = read_toml(path, "the device profile", DeviceError)
    like, table = data.pop("like", None), data.pop("calibration", None)
    profile = _typed(Profile, data, f"{path}:")
    figures = {*profile.peaks, *(key for key in data if key.endswith(("_bytes", "_per_s", "_s")))}
    for key in sorted(figures):
        if key not in profile.sources:
            raise DeviceError(f"{path}: [sources] lacks {key!r}: say where this figure is from")
    if not profile.peaks:
        raise DeviceError(f"{path}: [peaks] is empty; give at least one type")
    if like is not None and table is not None:
        raise DeviceError(f"{path}: it has a [calibration] of its own, so it cannot be like {like!r}: leave one out")
    if like is not None and not may_be_like:
        raise DeviceError(f"{path}: it is like {like!r} itself: name that file, which was calibrated")
    if like is not None:
        return dataclasses.replace(profile, like=_like(path, like, profile))
    return profile if table is None else dataclasses.replace(profile, calibration=_calibration(path, table, profile))


_T = TypeVar("_T")


def _typed(cls: type[_T], table: Mapping[str, Any], where: str) -> _T:
    """A table as the class's annotations say, without a key that means nothing."""
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in table:
        if key not in names:
            raise DeviceError(f"{where} {unknown('key', key, names)}")
    try:
        return from_json(cls, table)
    except KeyError as error:
        raise DeviceError(f"{where} the key {error.args[0]!r} is missing") from error
    except TypeError as error:
        raise DeviceError(f"{where} {error}") from error


def _like(path: Path, name: Any, profile: Profile) -> Profile:
    """The calibrated profile that is scaled."""
    if not str(name).endswith(".toml") or (path.parent / str(name)).resolve() == path.resolve():
        raise DeviceError(f"{path}: like = {name!r} must name another TOML file of 'bench calibrate', from here on")
    other = load_profile(path.parent / str(name), may_be_like=False)
    if other.calibration is None:
        raise DeviceError(f"{path}: like = {name!r} has no calibration: take a file of 'bench calibrate'")
    if other.calibration.dtype not in profile.peaks:
        raise DeviceError(
            f"{path}: {name} was calibrated for {other.calibration.dtype}, and [peaks] here lacks that: add it, or "
            "take a profile calibrated for another type"
        )
    return other


def _calibration(path: Path, table: Any, profile: Profile) -> Calibration:
    schema = table.get("schema") if isinstance(table, Mapping) else None
    if schema != CALIBRATION_SCHEMA:
        raise DeviceError(
            f"{path}: its calibration has schema {schema}, and this benchbench reads {CALIBRATION_SCHEMA}: make it "
            "with 'bench calibrate'"
        )
    calibration = _typed(Calibration, table, f"{path}: [calibration]")
    if calibration.interval < 1:
        raise DeviceError(f"{path}: calibration.interval is a factor from 1 on, not {calibration.interval}")
    if calibration.dtype not in profile.peaks:
        raise DeviceError(f"{path}: it was calibrated for {calibration.dtype}, which [peaks] lacks")
    if not calibration.points or not all(map(_are_points, calibration.points.values())):
        raise DeviceError(f"{path}: [calibration.points] must have lists of {_PLACE} numbers for each kind of operator")
    return calibration


def _are_points(points: tuple[tuple[float, ...], ...]) -> bool:
    return bool(points) and all(len(p) == _PLACE and max(map(abs, p)) <= _HIGHEST for p in points)


def write_profile(profile: Profile, path: Path) -> None:
    """Write a profile, as `load_profile` reads it.

    Raises:
        StoreError: it cannot be written.
    """
    plain = {key: value for key, value in dataclasses.asdict(profile).items() if value is not None}
    with os_error_as(StoreError, f"cannot write {path}", "choose another --out"):
        write_whole(path, ("\n".join(_toml(plain, ())) + "\n").encode())


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


def _folder() -> Path:
    return Path(str(importlib.resources.files("benchbench").joinpath("devices", "profiles")))
