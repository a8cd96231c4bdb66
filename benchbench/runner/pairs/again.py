"""`bench compare A B --remeasure`: rows of finished runs that look faster or slower, measured again in pairs.

A record says what was asked, so both sides can be built again. It does not bring back the software that ran: where that
differs between A and B, a Python for each has to be named, or the difference would be measured away.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchbench.core import records as rec
from benchbench.core.errors import BenchError, CardError, CheckpointError, UsageError
from benchbench.devices.resolve import resolve
from benchbench.report.compare.verdicts import ComparedRow
from benchbench.runner.job import Cell, make_cell
from benchbench.runner.pairs.plan import PROTOCOL, PairPlan, make_plan, python_of
from benchbench.runner.pairs.request import PairRequest
from benchbench.zoo import classes, places
from benchbench.zoo.cards import Card

_SOFTWARE = ("python", "torch", "monai", "numpy", "benchbench", "commit")
_FOLDERS = (Path("results/local"),)


def plans_again(
    rows: Sequence[ComparedRow], request: PairRequest, *, anyway: bool = False
) -> tuple[list[PairPlan], list[str]]:
    """A plan for each row that can be measured again here, and why the others cannot.

    Args:
        rows: that look faster or slower.
        request: for the Pythons, the priority, the margin and the time limit.
        anyway: also where the sides take different inputs.

    Raises:
        UsageError: the sides were measured by different software and no Pythons are named; one cannot be used.
    """
    if len(request.python) < 2:
        _check_software(rows)
    pythons = (python_of(request, 0), python_of(request, 1))
    plans, left = [], []
    for row in rows:
        try:
            a, b = (_cell(record, request) for record in row.records)
        except _CannotMeasureError as error:
            left.append(f"{row.label}: not measured again: {error}")
            continue
        plans.append(make_plan((a, b), pythons, request, anyway=anyway, cell=row.records[0].cell))
    return plans, left


class _CannotMeasureError(BenchError):
    """Why a row cannot be measured again here."""


def _check_software(rows: Sequence[ComparedRow]) -> None:
    differing: dict[str, None] = {}
    for row in rows:
        a, b = (record.environment for record in row.records)
        differing |= {
            f"{key} {a.get(key) or 'unknown'} -> {b.get(key) or 'unknown'}": None
            for key in _SOFTWARE
            if a.get(key) != b.get(key)
        }
    if differing:
        raise UsageError(
            f"A and B were measured by different software ({', '.join(differing)}), and one Python would measure that "
            "away: name one of each with --python PYTHON_OF_A PYTHON_OF_B"
        )


def _cell(record: rec.Record, request: PairRequest) -> Cell:
    """What a record asked for, on this machine.

    Raises:
        _CannotMeasureError: it cannot be measured here.
    """
    try:
        target = resolve(record.device.asked, require_measured=True)
    except BenchError as error:
        raise _CannotMeasureError(str(error)) from error
    if target.host or target.device.name != record.device.name:
        raise _CannotMeasureError(f"it was measured on {record.device.name}, which is not this machine")
    if request.trust:
        classes.allow_import(record.model.arch)
    if not classes.may_import(record.model.arch):
        raise _CannotMeasureError(f"its class {record.model.arch} is not of benchbench: --trust imports it")
    digest = record.model.checkpoint
    weights = places.with_sha256(digest, _FOLDERS) if digest else None  # random ones take as long
    if weights is None and record.workload.dtype == "int8":
        raise _CannotMeasureError("int8 needs its weights, and they are not in results/local")
    card = Card(name=record.model.name, title=record.model.name, arch=record.model.arch, compression=record.recipe)
    try:
        cell = make_cell(card, record.model, record.workload, target, checkpoint_path=weights)
    except (CardError, CheckpointError) as error:
        raise _CannotMeasureError(str(error)) from error
    return cell.with_work(volume=None, crop_foreground=False, protocol=PROTOCOL)
