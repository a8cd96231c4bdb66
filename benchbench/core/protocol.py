"""Measurement protocols: number of processes, warm-up, samples, and when they are enough.

`quick` is one process a network and answers in minutes. `standard` and `thorough` run several fresh processes, since
two processes of one network differ by more than the forwards within either. Slow networks have a rule of their own: a
forward of tens of seconds is warmed up by one forward and timed once or twice a process, whatever the interval is
then; docs/protocol.md says what that costs.
"""

from __future__ import annotations

import dataclasses
import math

from benchbench.core.errors import UsageError, unknown


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How to warm up, how often to repeat, and what is steady enough."""

    name: str  # `standard`, or with the numbers that differ: `standard,processes=8`
    processes: int  # fresh processes a cell, one a round
    max_processes: int  # so many where `processes` leave the interval too wide
    window: int  # forwards in one window of the warm-up
    steady: float  # warm when two windows' medians differ by no more than this share
    warmup_s: float  # but no longer than this
    min_samples: int  # timed forwards a process
    max_samples: int
    timed_s: float  # a process's time for them
    half_width: float  # of the median's 95 % interval, as a share of the median
    slow_samples: int  # of a network too slow for `min_samples` in `timed_s`, a process:
    slow_timed_s: float  # as many where they take no longer than this, else one
    cell_s: float  # no further processes once a cell has taken so long

    def is_slow(self, forward_s: float) -> bool:
        """Whether the rule for slow networks holds: `min_samples` forwards take longer than `timed_s`."""
        return forward_s * self.min_samples > self.timed_s

    def samples_of_slow(self, forward_s: float) -> int:
        """Timed forwards a process of a slow network."""
        fitting = int(self.timed_s / forward_s)
        least = self.slow_samples if self.slow_samples * forward_s <= self.slow_timed_s else 1
        return max(fitting, least)


PROTOCOLS = {
    "quick": Protocol(
        name="quick", processes=1, max_processes=1, window=3, steady=0.10, warmup_s=2.0, min_samples=10,
        max_samples=500, timed_s=5.0, half_width=0.10, slow_samples=3, slow_timed_s=600.0, cell_s=60.0,
    ),
    "standard": Protocol(
        name="standard", processes=5, max_processes=10, window=3, steady=0.05, warmup_s=3.0, min_samples=10,
        max_samples=500, timed_s=5.0, half_width=0.03, slow_samples=2, slow_timed_s=20.0, cell_s=120.0,
    ),
    "thorough": Protocol(
        name="thorough", processes=10, max_processes=20, window=5, steady=0.03, warmup_s=20.0, min_samples=20,
        max_samples=1000, timed_s=20.0, half_width=0.01, slow_samples=5, slow_timed_s=300.0, cell_s=1200.0,
    ),
}  # fmt: skip

_NUMBERS = tuple(field.name for field in dataclasses.fields(Protocol) if field.name != "name")
_HINT = "write quick, standard or thorough, or such as standard,processes=8,half_width=0.02"


def get_protocol(text: str) -> Protocol:
    """A protocol by `standard`, by `standard,processes=8`, or by `processes=3`, which are numbers changed in `quick`.

    Raises:
        UsageError: an unknown name or key, or a number that cannot be.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    base = "quick"
    if words and "=" not in words[0]:
        base = words.pop(0)
    if base not in PROTOCOLS or not text.strip():
        raise UsageError(unknown("protocol", base if text.strip() else text, PROTOCOLS, hint=_HINT))
    default = PROTOCOLS[base]
    numbers: dict[str, float] = {}
    for word in words:
        key, equals, value = (part.strip() for part in word.partition("="))
        if key not in _NUMBERS or not equals:
            raise UsageError(f"{text!r}: {unknown('number', key, _NUMBERS, hint=_HINT)}")
        numbers[key] = _number(text, key, value, whole=isinstance(getattr(default, key), int))
    given = dict(numbers)
    if "processes" in numbers and "max_processes" not in numbers:
        numbers["max_processes"] = max(numbers["processes"], default.max_processes if default.processes > 1 else 1)
    if "min_samples" in numbers and "max_samples" not in numbers:
        numbers["max_samples"] = max(numbers["min_samples"], default.max_samples)
    name = ",".join([base, *(f"{k}={v:g}" for k, v in sorted(given.items()) if v != getattr(default, k))])
    protocol = dataclasses.replace(default, **{**numbers, "name": name})  # type: ignore[arg-type]
    for low, high in (("processes", "max_processes"), ("min_samples", "max_samples")):
        if getattr(protocol, low) > getattr(protocol, high):
            raise UsageError(f"{text!r}: {low} is {getattr(protocol, low)} and {high} {getattr(protocol, high)}")
    return protocol


def _number(text: str, key: str, value: str, *, whole: bool) -> float:
    """A whole number from 1; seconds of the warm-up from 0 on; any other above 0."""
    try:
        number: float = int(value) if whole else float(value)
    except ValueError:
        number = math.nan
    if whole:
        rule, fits = "a whole number, at least 1", number >= 1
    elif key == "warmup_s":
        rule, fits = "0 or more seconds", number >= 0
    else:
        unit = " seconds" if key.endswith("_s") else ", as a share of the median: 0.03 is 3 %"
        rule, fits = f"above 0{unit}", number > 0
    if not fits:
        raise UsageError(f"{text!r}: {key} must be {rule}, not {value!r}")
    return number
