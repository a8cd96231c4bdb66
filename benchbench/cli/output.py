"""Output that commands have in common: facts, result folders, and pages."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchbench import report
from benchbench.core.errors import BenchError, command
from benchbench.core.units import format_value
from benchbench.report import writers

Row = Mapping[str, Any]


def new_folder(kind: str) -> Path:
    """A folder for results that nobody named: `results/local/run-20260131-120000`."""
    return Path("results") / "local" / f"{kind}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def write_page(out: Path) -> tuple[Path | None, BenchError | None]:
    """The page of a folder that was just filled, or what is to be raised once all else is told."""
    try:
        return report.write_report([out]), None
    except BenchError as error:  # the records are whole; only their page is missing
        again = command("report", out, "--out", "page.html")
        return None, type(error)(f"{error}; the records are kept: '{again}' writes the page")


def print_text(text: str) -> None:
    """Print a text that may end its last line itself."""
    print(text, end="" if text.endswith("\n") else "\n")


def print_event(event: Mapping[str, Any]) -> None:
    """Print an event as a line of JSON, at once."""
    print(json.dumps(event), flush=True)


def render_facts(facts: Mapping[str, Any], fmt: str) -> str:
    """Names and values, a line each; or as one JSON object."""
    if fmt == "json":
        return writers.to_json(facts)
    width = max(map(len, facts))
    shown = {k: format_value(v, "B") if k.endswith("_bytes") and v else v for k, v in facts.items()}
    return "\n".join(f"{k.replace('_bytes', ''):<{width}}  {'unknown' if v is None else v}" for k, v in shown.items())
