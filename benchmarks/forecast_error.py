"""How far forecasts are off: `python benchmarks/forecast_error.py [FOLDER] [--docs docs/devices.md]`.

FOLDER (default: results/reference/calibration) holds profiles of `bench calibrate` with their journals. From the
journals alone it computes again

- per profile: each network forecast from the calls of the others, how far that is off on average, and how many the
  range that the others give holds (wanted: 15 % at most, 85 % at least, an upper end of at most 1.6 times the lower);
- per pair of profiles of one type: each network of one forecast from the calls of the other, scaled by the roofs of
  both: leave-one-device-out, where another number of threads is another device;
- what published latencies are over their data-sheet roofs: the factor of the `datasheet` tier.

With --docs the tables are written into that file, between its marks.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import statistics
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from benchbench.core.errors import BenchError
from benchbench.core.units import format_duration
from benchbench.devices.forecast import SCALED_FACTOR
from benchbench.devices.profile import Profile, load_profile
from benchbench.runner import calibrate
from benchbench.runner.calibration_journal import CalibrationJournal

FOLDER = Path(__file__).parent.parent / "results" / "reference" / "calibration"
BEGIN, END = "<!-- forecast errors: begin -->", "<!-- forecast errors: end -->"


class Device:
    """A profile with its journal, and what is computed again from that."""

    def __init__(self, path: Path) -> None:
        self.profile: Profile = load_profile(path)
        self.journal = CalibrationJournal(path.with_suffix(".ndjson"))
        self.model, self.checked = calibrate.checked(self.journal)
        self.measured = self.journal.measured()

    @property
    def setting(self) -> str:
        """`fp32, 2 threads`."""
        own = self.profile.calibration
        assert own is not None
        return f"{own.dtype}, {own.threads} thread{'s' * (own.threads != 1)}"


def scaled(source: Device, target: Device) -> dict[str, float]:
    """Forecast over measured of the target's networks, from the source's calls and both devices' roofs.

    The launch is the source's: that of a device that was not calibrated is not known.
    """
    found = {}
    roofs = dataclasses.replace(target.model.roofs, launch_s=source.model.roofs.launch_s)
    for name, measured in target.measured.items():
        costs = [cost for _, cost in target.journal.costs_of(name)]
        found[name] = source.checked.scale * source.model.seconds(costs, on=roofs) / measured
    return found


def pairs(devices: list[Device]) -> Iterator[tuple[Device, Device]]:
    """Source and target of one type, as the `scaled` tier asks."""
    for source, target in itertools.permutations(devices, 2):
        if source.profile.timed.dtype == target.profile.timed.dtype:
            yield source, target


def mean_error(ratios: dict[str, float]) -> float:
    return statistics.fmean(abs(ratio - 1) for ratio in ratios.values())


def worst_factor(ratios: dict[str, float]) -> float:
    return max(math.exp(abs(math.log(ratio))) for ratio in ratios.values())


def own_table(devices: list[Device]) -> Iterator[str]:
    yield "| calibrated for | calls | took | off on average, median | upper end over lower | held | farthest off |"
    yield "|---|---|---|---|---|---|---|"
    for device in devices:
        found = device.checked
        own = device.profile.calibration
        assert own is not None
        n = len(found.ratios)
        median = statistics.median(abs(ratio - 1) for ratio in found.ratios.values())
        worst = sorted(found.ratios.items(), key=lambda one: -abs(math.log(one[1])))[:2]
        far = ", ".join(f"{name} {ratio - 1:+.0%}" for name, ratio in worst)
        off, wide = f"{found.error:.1%}, {median:.1%}", f"{found.interval**2:.2f}"
        cells = [device.setting, str(own.calls), format_duration(own.seconds), off, wide, f"{found.held} of {n}", far]
        yield f"| {' | '.join(cells)} |"


def residuals(devices: list[Device]) -> Iterator[str]:
    texts = []
    for name in sorted({name for device in devices for name in device.checked.ratios}):
        ratios = [device.checked.ratios.get(name) for device in devices]
        texts.append(f"{name} {', '.join('-' if ratio is None else f'{ratio:.2f}' for ratio in ratios)}")
    settings = "; ".join(device.setting for device in devices)
    yield from textwrap.wrap(f"Forecast over measured ({settings}): {'; '.join(texts)}.", 118, break_on_hyphens=False)


def scaled_table(devices: list[Device]) -> Iterator[str]:
    if not any(pairs(devices)):
        yield "Nothing to compare: that needs two profiles of one type."
        return
    yield "| calls timed at | scaled to | off on average | worst factor |"
    yield "|---|---|---|---|"
    worst = 1.0
    for source, target in pairs(devices):
        ratios = scaled(source, target)
        worst = max(worst, worst_factor(ratios))
        yield f"| {source.setting} | {target.setting} | {mean_error(ratios):.0%} | {worst_factor(ratios):.2f} |"
    yield ""
    yield (
        f"The worst is {worst:.2f}. Another processor may be farther off, which could not be measured, so the `scaled` "
        f"tier's range is a factor of {SCALED_FACTOR:g} up and down: an assumption."
    )


def published_table() -> Iterator[str]:
    from datasheet_interval import INTERVAL_FACTOR, ratios  # traces a network: some seconds

    yield "| published | roof | published over roof |"
    yield "|---|---|---|"
    for name, roof, ratio in ratios():
        yield f"| {name} | {roof:.2f} ms | {ratio:.1f} |"
    yield ""
    yield f"The `datasheet` tier's range is from the roof to {INTERVAL_FACTOR:g} times that."


def sections(devices: list[Device]) -> str:
    parts = [
        ["**Calibrated**, each network without its own calls and without those networks that share most of them:", ""],
        [*own_table(devices), ""],
        [*residuals(devices), ""],
        ["**Scaled**, each network from the calls of another setting:", "", *scaled_table(devices), ""],
        ["**Data sheet**, against published latencies:", "", *published_table()],
    ]
    return "\n".join(itertools.chain.from_iterable(parts))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--docs", type=Path)
    options = parser.parse_args()
    paths = [path for path in sorted(options.folder.glob("*.toml")) if path.with_suffix(".ndjson").is_file()]
    try:
        devices = [Device(path) for path in paths]
    except BenchError as error:
        sys.exit(str(error))
    if not devices:
        sys.exit(f"no profiles in {options.folder}: make one with 'bench calibrate --out {options.folder}/NAME.toml'")
    text = sections(devices)
    print(text)
    if options.docs:
        before, _, rest = options.docs.read_text().partition(BEGIN)
        _, found, after = rest.partition(END)
        if not found:
            sys.exit(f"{options.docs} lacks the marks {BEGIN} and {END}")
        options.docs.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
