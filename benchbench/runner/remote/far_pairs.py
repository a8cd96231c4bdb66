"""Far side of `bench compare --measure --device HOST`: `bench devices pairs` compares the two networks that come in."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from benchbench.core import records as rec
from benchbench.core.errors import CheckpointError, UsageError
from benchbench.core.paired_result import Spent
from benchbench.core.paired_times import ProcessSet
from benchbench.runner.job import Cell
from benchbench.runner.pairs.here import measure_pair
from benchbench.runner.pairs.measure import Progress
from benchbench.runner.pairs.order import Role
from benchbench.runner.pairs.plan import PairPlan, make_plan, python_of
from benchbench.runner.pairs.request import PairRequest
from benchbench.runner.remote import far_side
from benchbench.runner.remote.far_side import Emit

_STEP_EVERY_S = 1.0  # more often would take time from what is measured


def run(emit: Emit) -> None:
    """Compare the two networks that come in on stdin.

    Events: those around the weights, `step` {used, text}, `set` {set, measurements, spent} as each ends, `result`, and
    `end`.

    Args:
        emit: writes an event.

    Raises:
        UsageError: what comes in is no pair; inputs that differ; cores or a Python that are not here.
        CheckpointError: weights that cannot be kept here.
    """
    with far_side.machine(emit) as take:
        message = take()
        cells, without_weights = far_side.take_cells(message, emit, take)
        if without_weights:
            raise CheckpointError("; ".join(dict.fromkeys(without_weights.values())))
        plan = _plan(message, cells)

        def keep(one: ProcessSet, measurements: Mapping[Role, list[rec.Measurement]], spent: Spent) -> None:
            content = {"set": rec.to_json(one), "measurements": rec.to_json(measurements), "spent": rec.to_json(spent)}
            emit({"event": "set", **content})

        result = measure_pair(plan, progress=_steps(emit), keep=keep)
        plain = rec.to_json(result) | {"a": rec.record_to_json(result.a), "b": rec.record_to_json(result.b)}
        emit({"event": "result", "result": plain})
    emit({"event": "end"})


def _plan(message: Mapping[str, Any], cells: list[Cell]) -> PairPlan:
    try:
        asked = {name: message[name] for name in ("mode", "margin", "time_limit_s")}
        asked["priority"] = message.get("priority", "high")
        pythons: list[str | None] = list(message["python"])
        a, b = cells
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"no pair comes in on stdin ({error!r}): this is what 'bench compare --measure --device HOST' starts"
        ) from error
    request = PairRequest(**asked)
    found = [None if name is None else python_of(PairRequest(python=(name,)), 0) for name in pythons]
    return make_plan((a, b), (found[0], found[1]), request, anyway=True)  # inputs were compared where it was asked for


def _steps(emit: Emit) -> Progress:
    due = 0.0

    def tell(used: float, text: str) -> None:
        nonlocal due
        if (now := time.monotonic()) >= due:
            due = now + _STEP_EVERY_S
            emit({"event": "step", "used": used, "text": text})

    return tell
