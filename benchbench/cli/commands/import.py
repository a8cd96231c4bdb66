"""`bench import`: a network that was trained elsewhere, for every other command."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from benchbench.cli.next_step import next_line
from benchbench.cli.parser import add_fields, add_shared, values_of
from benchbench.core.errors import EXIT_OK, command
from benchbench.core.units import format_shape, format_value
from benchbench.zoo import classes
from benchbench.zoo.import_network import ImportRequest, import_network

if TYPE_CHECKING:
    from benchbench.zoo.import_network import Imported

_USUAL_OVERLAP = 0.5


def add(sub: argparse.ArgumentParser) -> None:
    """The flags."""
    add_fields(sub, ImportRequest)
    add_shared(sub, "--out", required=True, help="folder for the network, which the other commands take by its path")
    add_shared(sub, "--force", help="replace the network in --out")
    add_shared(sub, "--config")


def run(options: argparse.Namespace) -> int:
    """Import, and print what came in and what can be done with it."""
    request = ImportRequest(**values_of(ImportRequest, options))
    print("\n".join(summary(import_network(request, options.out, force=options.force), request, options.out)))
    return EXIT_OK


def summary(imported: Imported, request: ImportRequest, out: Path) -> list[str]:
    """What came in, what is to be known of it, and the next commands."""
    info = imported.info
    size = format_value(imported.params, "parameters")
    lines = [
        f"{info.path}: {info.model.name}, {size} parameters, {info.model.in_channels} channels in, "
        f"{info.model.out_channels} out, patch {format_shape(info.spatial)}"
    ]
    lines += [f"note: {note}" for note in imported.notes]
    trust = ["--trust"] if info.model.arch in classes.named() else []
    place = ["--data", request.data or "DIR"]
    if info.plan and info.plan.overlap != _USUAL_OVERLAP:  # so that the Dice is of the bundle's own windows
        place += ["--overlap", f"{info.plan.overlap:g}"]
    if info.plan:
        lines.append(f"segment with it: {command('predict', out, *trust, '--input', 'CASE', '--output', 'seg.nii.gz')}")
    return [*lines, next_line("to measure it", "run", "--models", out, *trust, *place)]
