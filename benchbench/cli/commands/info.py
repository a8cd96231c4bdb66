"""`bench info`: what benchbench sees of this machine and its own parts."""

from __future__ import annotations

import argparse

from benchbench.cli.next_step import next_line
from benchbench.cli.output import render_facts
from benchbench.cli.parser import add_shared
from benchbench.core.errors import EXIT_OK
from benchbench.devices import cpu, environment


def add(sub: argparse.ArgumentParser) -> None:
    """The flags."""
    add_shared(sub, "--format", choices=("table", "json"))


def run(options: argparse.Namespace) -> int:
    """Print the facts."""
    print(render_facts(environment.environment("cpu", cpu.usable_cores()), options.format))
    if options.format == "table":
        print(f"\n{next_line('to see whether it can measure', 'devices', 'doctor')}")
    return EXIT_OK
