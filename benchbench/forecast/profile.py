"""Device profiles: one TOML a device, every figure with where it is from.

Peaks are dense, never the doubled figure for structured sparsity, and of the GPU alone on a Jetson.
A type that the device has no units for has no peak: a forecast for it is refused, not made up.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchbench.errors import DeviceError, unknown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SEE_ALL = "'bench list devices' shows all"
#: What plain `jetson` means where it must be predicted.
DEFAULT_JETSON = "jetson-orin-nano-8gb-super"
KINDS = ("jetson", "gpu", "cpu")
DTYPES = ("fp32", "fp16", "bf16", "int8")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A device by its data sheet."""

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
_OPTIONAL = {"memory_bytes": (int,), "watts": (str,), "jetpack": (str,)}


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


def load_profile(path: Path) -> Profile:
    """Read a profile.

    Raises:
        DeviceError: no such file, broken TOML, a missing or unknown key, or a value that cannot be; one line
            that names the file and the key.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeviceError(f"cannot read the device profile {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DeviceError(f"the device profile {path} is not valid TOML: {error}") from error
    allowed = _REQUIRED | _OPTIONAL
    for key in data:
        if key not in allowed:
            raise DeviceError(f"{path}: {unknown('key', key, allowed)}")
    for key in _REQUIRED:
        if key not in data:
            raise DeviceError(f"{path}: the key {key!r} is missing; a profile needs {', '.join(_REQUIRED)}")
    for key, value in data.items():
        if not isinstance(value, allowed[key]) or isinstance(value, bool):
            raise DeviceError(f"{path}: {key} must be {_type_names(allowed[key])}, not {value!r}")
    if data["kind"] not in KINDS:
        raise DeviceError(f"{path}: {unknown('kind', data['kind'], KINDS)}")
    for key in ("bandwidth_bytes_per_s", "memory_bytes"):
        if key in data:
            _positive(path, key, data[key])
    if data["reserve_bytes"] < 0:
        raise DeviceError(f"{path}: reserve_bytes must not be negative, not {data['reserve_bytes']}")
    _check_peaks(path, data["peaks"])
    figures = {*data["peaks"], *(key for key in data if key.endswith(("_bytes", "_per_s")))}
    for key in sorted(figures):
        if not isinstance(data["sources"].get(key), str):
            raise DeviceError(f"{path}: [sources] lacks {key!r}: say where this figure is from")
    return Profile(**(data | {"bandwidth_bytes_per_s": float(data["bandwidth_bytes_per_s"])}))


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


def _type_names(types: tuple[type, ...]) -> str:
    names = {str: "a text", int: "a whole number", float: "a number", dict: "a table"}
    return names[types[-1]]


def _folder() -> Path:
    return Path(str(importlib.resources.files("benchbench").joinpath("forecast", "profiles")))
