"""`bench calibrate`: a profile of this machine from the times of its operators."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator

from benchbench.cli import progress as progress_of
from benchbench.cli.next_step import next_line
from benchbench.cli.parser import add_shared
from benchbench.core import arguments as to
from benchbench.core.errors import EXIT_OK, UsageError
from benchbench.core.units import format_duration, format_value
from benchbench.devices import cpu, cuda
from benchbench.devices.latency_model import FEWEST_FOR_COVERAGE
from benchbench.devices.profile import CALIBRATIONS, Profile
from benchbench.zoo import cards as zoo_cards


def add(sub: argparse.ArgumentParser) -> None:
    """The flags."""
    sub.epilog = (
        "Operators and whole forwards are timed in eager PyTorch, so the forecasts are of it and no other runtime."
    )
    add_shared(sub, "--device", help="device to calibrate (default: cpu)")
    add_shared(sub, "--threads", help="CPU threads (default: all usable cores)")
    add_shared(sub, "--dtype", default="fp32", choices=to.DTYPES, help="precision of the operators (default: fp32)")
    add_shared(sub, "--models", help="networks whose operators are timed: names, globs, cards (default: all)")
    sub.add_argument(
        "--time",
        type=to.seconds,
        default="10min",
        metavar="TIME",
        help="duration of the timing; finding the operators takes half a minute more (default: 10min)",
    )
    add_shared(
        sub,
        "--out",
        metavar="FILE.toml",
        help="profile to write; the times are kept beside it, and the same command goes on from them (default: "
        "results/local/<device>.toml)",
    )
    add_shared(sub, "--progress")


def run(options: argparse.Namespace) -> int:
    """Calibrate, or go on with a calibration, and print what came of it."""
    if options.device == "cuda":
        cuda.require()
        if options.dtype != "fp32":  # the trace casts as the processor does
            raise UsageError(f"--dtype {options.dtype} cannot be calibrated on a GPU yet: take --dtype fp32")
    count = options.threads or (cpu.usable_cores() if options.device == "cpu" else None)
    cpu.set_affinity(cpu.cores_for(count))  # before torch is imported, which counts its cores
    name = f"{options.device}{f'-{count}-threads' if count else ''}-{options.dtype}"
    out = options.out or CALIBRATIONS / f"{name}.toml"
    if out.suffix != ".toml":
        raise UsageError(f"--out {out} must end in .toml, since 'bench run --device {out}' tells a profile by that")
    with contextlib.suppress(FileNotFoundError):
        out.stat()  # a name that cannot be is refused before anything is timed
    if any(part.strip().endswith(".safetensors") for part in options.models.split(",")):
        raise UsageError(
            f"--models {options.models}: operators are timed without weights; name the network, not a file"
        )
    cards = zoo_cards.find_cards(options.models)
    from benchbench.runner import calibrate

    setting = calibrate.Setting(device=options.device, threads=count, dtype=options.dtype)
    try:
        with progress_of.of_steps(options) as progress:
            networks = calibrate.networks_of(cards, options.dtype, progress=progress.step)
            profile = calibrate.calibrate(networks, setting, out, time_s=options.time, progress=progress.step)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on") from None
    use = next_line("to forecast with it", "run", "--models", "all", "--device", out)
    print("\n".join([*summary(profile), f"profile: {out}", use]))
    return EXIT_OK


def summary(profile: Profile) -> Iterator[str]:
    """What was timed, what the device can do, and how far forecasts are off."""
    calibration = profile.calibration
    assert calibration is not None
    yield f"{profile.title}: {calibration.calls} calls timed in {format_duration(calibration.seconds)}"
    if calibration.failed:
        yield f"could not be timed: {calibration.failed}"
    if calibration.without_room:
        yield f"not tried, since too little memory was free: {calibration.without_room}"
    if calibration.repeated:
        yield f"timed twice: {calibration.repeated}; far apart: {calibration.disturbed}"
    else:
        yield "none was timed twice, so a disturbance would not be seen: give more --time, the same command goes on"
    if calibration.restless:
        yield "  so this machine was not quiet: close other programs, delete the profile's .ndjson, and calibrate again"
    peak = format_value(profile.peaks[calibration.dtype] / 2, "MAC/s")
    yield (
        f"at most {peak} and {format_value(profile.bandwidth_bytes_per_s, 'B/s')} from memory; at least "
        f"{format_value(calibration.launch_s, 's')} a call"
    )
    yield f"a whole forward takes {calibration.scale:.2f} times the sum of its calls"
    n = len(calibration.ratios)
    how = f"which held for {calibration.held}" if n >= FEWEST_FOR_COVERAGE else f"the worst of only {n}"
    yield (
        f"forecasts of {n} networks, each without its own calls: {calibration.error:.1%} off on average; range: "
        f"a factor of {calibration.interval:.2f} up and down, {how}"
    )
    worst = sorted(calibration.ratios.items(), key=lambda item: -abs(item[1] - 1))[:3]
    yield "  farthest off: " + ", ".join(f"{name} {ratio - 1:+.0%}" for name, ratio in worst)
