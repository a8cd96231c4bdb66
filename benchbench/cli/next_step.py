"""The one command that makes sense after another, which works when it is pasted: paths are as they were given."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from benchbench.core.errors import BenchError, UsageError, command
from benchbench.core.records import Record
from benchbench.core.results import read_records
from benchbench.report.choice.scope import choose_group, usable
from benchbench.zoo.cards import USUAL


def next_line(what: str, *words: object) -> str:
    """`Next, to evaluate it: bench run ...`.

    Args:
        what: it is for, such as `to evaluate it`.
        words: of the command line behind `bench`.
    """
    return f"Next, {what}: {command(*words)}"


def tell(options: argparse.Namespace, line: str) -> None:
    """Say the next command of a command whose stdout is for programs: on a terminal alone."""
    if sys.stderr.isatty() and not options.quiet:
        print(line, file=sys.stderr)


def after_run(records: Sequence[Record], folder: Path, options: argparse.Namespace) -> str:
    """What comes after a run: a choice among its rows, others beside a single one, or a look at the machine.

    Args:
        records: of the run.
        folder: that they are in, perhaps with those of earlier runs.
        options: of the run.
    """
    if not any(record.ok for record in records):
        return next_line("to see what this device lacks", "devices", "doctor", *_examined(records))
    every = records
    with contextlib.suppress(BenchError):
        every = list(read_records(folder))
    rows = [record for record in every if usable(record)]
    others = [name for name in USUAL if name not in {record.model.name for record in rows}]
    if len(rows) == 1 and options.checkpoint is None and others:
        return next_line("to set it beside others", *_with_others(options, others, folder))
    try:
        choose_group(every)
    except UsageError:  # of several devices or settings, or of trainings: there is no one choice
        return next_line("for a table to paste", "report", folder, "--format", "markdown")
    return next_line("to see which to take and how sure that is", "choose", folder)


def _examined(records: Sequence[Record]) -> list[str]:
    asked = {record.device.asked for record in records if record.device.basis == "probed"}
    return sorted(asked - {"cpu"})[:1]


def _with_others(options: argparse.Namespace, others: Sequence[str], folder: Path) -> list[object]:
    """The same command with more networks, into the same folder, where what is measured is kept."""
    words: list[object] = []
    skip = False
    for word in options.words:
        name, has_value, _ = word.partition("=")
        if not skip and name not in ("--models", "--out", "--fresh"):
            words.append(word)
        skip = not skip and name in ("--models", "--out") and not has_value
    return [*words, "--models", ",".join([options.models or USUAL[0], *others]), "--out", folder]
