"""`bench devices`: machines to measure on are listed, added, removed and examined."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchbench.cli.commands import list as list_command
from benchbench.cli.next_step import next_line
from benchbench.cli.output import Row, print_event
from benchbench.cli.parser import actions, add_shared
from benchbench.core.errors import EXIT_INCOMPLETE, EXIT_OK, BenchError, DeviceError
from benchbench.devices import hosts
from benchbench.devices.profile import profile_names
from benchbench.report import writers

if TYPE_CHECKING:
    from benchbench.runner.doctor import Finding


def add(sub: argparse.ArgumentParser) -> None:
    """The actions and their flags."""
    action = actions(sub)
    sub = action("list", "list this machine, the hosts that were added, and the profiles (also without an ACTION)")
    add_shared(sub, "--format")

    sub = action("add", "add a machine that is reached by ssh, under a name for --device")
    sub.add_argument("name", metavar="NAME", help="name for the machine, such as jetson")
    sub.add_argument("url", metavar="URL", help="address, such as ssh://user@orin or ssh://user@orin:2222")
    sub.add_argument(
        "--python",
        metavar="PATH",
        help="Python on that machine that has benchbench installed (default: as before, else python3)",
    )
    sub.add_argument(
        "--folder",
        metavar="DIR",
        help="folder on that machine to start in, such as a clone of benchbench (default: as before)",
    )

    sub = action("remove", "remove a machine that was added")
    sub.add_argument("name", metavar="NAME", help="name of the machine")

    sub = action("doctor", "show what a device has, what it lacks, and whether it can measure; exit 3 if it cannot")
    sub.add_argument(
        "name", nargs="?", metavar="NAME", help="cpu, cuda, jetson, or a machine that was added (default: this machine)"
    )
    add_shared(sub, "--format", "--events")

    sub = action("probe", "what this machine is, as one line of JSON: what 'bench run --device HOST' asks a host first")
    add_shared(sub, "--threads", help="CPU threads of the run to come (default: all usable cores)")
    sub.add_argument("--set-clocks", action="store_true", help="on a Jetson: look at it at its highest clocks")

    action(
        "pairs",
        "compare the two networks that come in on stdin: what 'bench compare --measure --device HOST' starts on a host",
    )


def run(options: argparse.Namespace) -> int:
    """Carry out an action."""
    if options.action == "add":
        _add_host(options)
    elif options.action == "remove":
        hosts.remove_host(options.name)
        print(f"{options.name} is forgotten")
    elif options.action == "doctor":
        return _examine(options)
    elif options.action == "probe":
        from benchbench.runner.remote import far_side

        print_event(far_side.probe(threads=options.threads, set_clocks=options.set_clocks))
    elif options.action == "pairs":
        _compare_for_another_machine()
    else:
        fmt = getattr(options, "format", "table")
        print(writers.write(list_command.devices(), fmt))
        if fmt == "table":
            print(f"\n{next_line('to see whether this machine can measure', 'devices', 'doctor')}")
    return EXIT_OK


def _compare_for_another_machine() -> None:
    from benchbench.runner.remote import far_pairs

    try:
        far_pairs.run(print_event)
    except BenchError as error:
        print_event({"event": "error", "error": str(error)})
        raise


def _add_host(options: argparse.Namespace) -> None:
    before = hosts.load_hosts().get(options.name)
    python = options.python if options.python is not None else before.python if before else "python3"
    folder = options.folder if options.folder is not None else before.folder if before else None
    host = hosts.parse_url(options.url, name=options.name, python=python, folder=folder)
    if host.name in profile_names():  # its predictions could not be asked for any more
        raise DeviceError(f"a host cannot be called {host.name!r}: that is a profile; 'bench list devices' shows all")
    hosts.add_host(host)
    print(f"{host.name}: {host.url}" + (f", which was {before.url}" if before and before != host else ""))
    print(f"starts {host.python} there" + (f" in {host.folder}" if host.folder else ""))
    print(f"kept in {hosts.config_path()}")
    print(next_line("to see whether it can measure", "devices", "doctor", host.name))


def _examine(options: argparse.Namespace) -> int:
    from benchbench.runner import doctor
    from benchbench.runner.remote import doctor as remote_doctor

    findings = []
    is_shown = options.format == "table" and not options.events
    for finding in remote_doctor.find_patient(options.name, results=Path("results")):
        findings.append(finding)
        if options.events:
            print_event({"event": "finding", **dataclasses.asdict(finding)})
        elif is_shown:
            print(_lines(finding), flush=True)
    if options.events:
        print_event({"event": "end"})
    elif is_shown:
        print(f"ready to measure: {'yes' if doctor.ready(findings) else 'no'}")
        if doctor.ready(findings):
            print(next_line("to measure there", "run", *(["--device", options.name] if options.name else [])))
    else:
        print(writers.write(_rows(findings), options.format))
    return EXIT_OK if doctor.ready(findings) else EXIT_INCOMPLETE


def _rows(findings: Sequence[Finding]) -> list[Row]:
    return [{"finding": f.name, "status": f.status, "found": f.text, "advice": f.advice} for f in findings]


def _lines(finding: Finding) -> str:
    """One finding in a table whose rows come one by one; the advice on a line below it."""
    line = f"{finding.status:<4}  {finding.name:<16}  {finding.text}"
    return f"{line}\n{'':<24}-> {finding.advice}" if finding.advice else line
