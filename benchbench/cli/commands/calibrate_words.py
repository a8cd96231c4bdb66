"""Summary of a calibration for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from benchbench.core.units import format_duration, format_value
from benchbench.devices.latency_model import FEWEST_FOR_COVERAGE
from benchbench.devices.profile import Profile


def lines(profile: Profile) -> Iterator[str]:
    """What was timed, what the device can do, and how far forecasts are off.

    Args:
        profile: calibrated.
    """
    own = profile.calibration
    assert own is not None
    yield f"{profile.title}: {own.calls} calls timed in {format_duration(own.seconds)}"
    if own.failed:
        yield f"could not be timed: {own.failed}"
    if own.without_room:
        yield f"not tried, since too little memory was free: {own.without_room}"
    if own.repeated:
        yield f"timed twice: {own.repeated}; far apart: {own.disturbed}"
    else:
        yield "none was timed twice, so a disturbance would not be seen: give more --time, the same command goes on"
    if own.restless:
        yield "  so this machine was not quiet: close other programs, delete the profile's .ndjson, and calibrate again"
    peak = format_value(profile.peaks[own.dtype] / 2, "MAC/s")
    yield (
        f"at most {peak} and {format_value(profile.bandwidth_bytes_per_s, 'B/s')} from memory; at least "
        f"{format_value(own.launch_s, 's')} a call"
    )
    yield f"a whole forward takes {own.scale:.2f} times the sum of its calls"
    n = len(own.ratios)
    held = f"that of the others held {own.held}" if n >= FEWEST_FOR_COVERAGE else f"the worst of only {n}"
    yield (
        f"forecasts of {len(own.ratios)} networks, each without its own calls: {own.error:.1%} off on average; "
        f"range: a factor of {own.interval:.2f} up and down, {held}"
    )
    worst = sorted(own.ratios.items(), key=lambda one: -abs(one[1] - 1))[:3]
    yield "  farthest off: " + ", ".join(f"{name} {ratio - 1:+.0%}" for name, ratio in worst)
