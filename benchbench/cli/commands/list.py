"""`bench list`: the zoo, the devices and the data sets that there are."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchbench import data
from benchbench.cli.next_step import next_line
from benchbench.cli.output import Row
from benchbench.cli.parser import add_shared
from benchbench.core.errors import EXIT_OK, DeviceError
from benchbench.core.units import format_shape, format_value
from benchbench.devices import cpu, jetson
from benchbench.devices.hosts import load_hosts
from benchbench.devices.profile import CALIBRATIONS, Profile, list_profiles, load_profile
from benchbench.report import writers
from benchbench.zoo import cards as zoo_cards

#: What comes after each list: what for, and the words of the command.
_NEXT: Mapping[str, tuple[str, ...]] = {
    "models": ("to measure some of them", "run", "--models", "slim_unetr_s2,nnunet_small"),
    "devices": ("to see whether this machine can measure", "devices", "doctor"),
    "datasets": ("for data sets that can be downloaded", "data", "list"),
}


def add(sub: argparse.ArgumentParser) -> None:
    """The flags."""
    sub.add_argument(
        "what",
        nargs="?",
        default="models",
        choices=("models", "devices", "datasets"),
        help="what to list (default: models)",
    )
    add_shared(sub, "--format")


def run(options: argparse.Namespace) -> int:
    """Print a list."""
    rows = {"models": models, "devices": devices, "datasets": datasets}[options.what]()
    print(writers.write(rows, options.format))
    if options.format == "table":
        print(f"\n{next_line(*_NEXT[options.what])}")
    return EXIT_OK


def models() -> list[Row]:
    """The zoo, a row a card."""
    return [
        {
            "name": card.name,
            "title": card.title,
            "task": card.task,
            "channels in": card.in_channels,
            "channels out": card.out_channels,
            "input": format_shape(card.spatial),
            "paper": f"{card.paper.get('authors', '-')} {card.paper.get('year', '')}".strip(),
            "reference licence": card.licence,
        }
        for card in map(zoo_cards.get_card, zoo_cards.list_models())
    ]


def devices() -> list[Row]:
    """This machine, the hosts that were added, own calibrations, then every profile that comes along.

    Raises:
        DeviceError: the file of hosts cannot be read.
    """
    here = cpu.probe()
    rows: list[Row] = [
        {
            "name": "cpu",
            "what": f"this machine: {here.name}, {cpu.usable_cores()} cores",
            "memory": format_value(cpu.available_memory_bytes(), "B") + " free",
            "basis": "measured",
        }
    ]
    board = jetson.detect()
    if board is not None:
        rows.append({"name": "jetson", "what": f"this machine: {board.model}", "memory": "-", "basis": "measured"})
    rows += [
        {"name": host.name, "what": f"host: {host.url}", "memory": "-", "basis": "measured there"}
        for host in load_hosts().values()
    ]
    rows += [
        {
            "name": name,
            "what": p.title,
            "memory": format_value(p.memory_bytes, "B"),
            "basis": f"predicted, {p.tier}",
        }
        for name, p in [*((str(path), p) for path, p in _own_profiles()), *((p.name, p) for p in list_profiles())]
    ]
    return rows


def _own_profiles() -> Iterator[tuple[Path, Profile]]:
    """Those that `bench calibrate` left in its default folder; a broken one is named by whoever asks for it."""
    for path in sorted(CALIBRATIONS.glob("*.toml")):
        with contextlib.suppress(DeviceError):
            yield path, load_profile(path)


def datasets() -> list[Row]:
    """The data sets that Dice can be measured on."""
    return [
        {
            "name": plan.name,
            "title": plan.title,
            "channels": ", ".join(plan.channels),
            "regions": ", ".join(plan.regions),
            "patch": format_shape(plan.patch),
            "cases": ", ".join(f"{split} {n}" for split, n in plan.splits.items()),
            "licence": plan.licence,
        }
        for plan in data.list_datasets()
    ]
