"""Plan of a paired measurement: both sides as cells of a run, and whether they can be compared at all."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchbench.core import records as rec
from benchbench.core.errors import UsageError
from benchbench.core.units import counted, format_shape
from benchbench.devices import cpu
from benchbench.devices.environment import environment
from benchbench.devices.hosts import Host
from benchbench.report.compare.compare import condition_differences
from benchbench.runner.job import Cell
from benchbench.runner.pairs.measure import PairSettings
from benchbench.runner.pairs.process import ask_environment
from benchbench.runner.pairs.request import PairRequest
from benchbench.runner.plan import plan_cells
from benchbench.runner.request import RunRequest
from benchbench.runtimes.catalogue import get_runtime

_TWO = ("runtime", "dtype", "threads", "python")  # flags with a value of each side
PROTOCOL = "pairs"  # of the workloads: no protocol of a run
_ANYWAY = "--anyway compares them and says so"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PairSide:
    """A or B."""

    cell: Cell
    environment: Mapping[str, Any]
    python: str | None = None  # None: the one that runs this


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PairPlan:
    """Both sides and how they are measured."""

    sides: tuple[PairSide, PairSide]
    settings: PairSettings
    labels: tuple[str, str]
    asked: tuple[str, ...]  # what the sides differ in by what was asked
    conditions: tuple[str, ...]  # in what their environments differ
    cell: str = ""  # of the row of finished runs that is measured again

    @property
    def host(self) -> Host | None:
        """The machine that measures it; None: this one."""
        return self.sides[0].cell.target.host


def plan_pair(names: tuple[str, str], request: PairRequest, *, anyway: bool = False) -> PairPlan:
    """Both sides of `bench compare --measure A B`.

    Args:
        names: of the networks, one each: as `--models` takes them.
        request: how.
        anyway: also where the sides take different inputs.

    Raises:
        UsageError: a name of no or several networks; inputs that differ; a mode or threads that this machine has no
            cores for; a Python that cannot be used.
    """
    for name in _TWO:
        if len(getattr(request, name)) > 2:
            raise UsageError(f"--{name} has one value for both sides, or one for A and one for B")
    cells = tuple(_cell(name, request, place) for place, name in enumerate(names))
    find = named_python if cells[0].target.host else python_of
    pythons = tuple(find(request, place) for place in range(2))
    return make_plan((cells[0], cells[1]), (pythons[0], pythons[1]), request, anyway=anyway)


def make_plan(
    cells: tuple[Cell, Cell],
    pythons: tuple[str | None, str | None],
    request: PairRequest,
    *,
    anyway: bool,
    cell: str = "",
) -> PairPlan:
    """A plan from two cells.

    Args:
        cells: of one machine; if it is another one, that looks at its cores and its Pythons itself.
        pythons: that run them; None: the one that runs benchbench there.
        request: for the mode, the priority, the margin and the time limit.
        anyway: also where the sides take different inputs.
        cell: of the row of finished runs that is measured again.

    Raises:
        UsageError: as `plan_pair` does.
    """
    _check_inputs(cells, anyway=anyway)
    cores = () if cells[0].target.host else _cores(request, cells)
    conditions = [_environment(cell, python) for cell, python in zip(cells, pythons, strict=True)]
    sides = tuple(
        PairSide(cell=cell, environment=where, python=python)
        for cell, where, python in zip(cells, conditions, pythons, strict=True)
    )
    one, other = map(_asked, sides)
    if one["network"] != other["network"]:  # whose keywords are its own
        del one["keywords"], other["keywords"]
    asked = [f"{key}: {one[key]} -> {other[key]}" for key in one if one[key] != other[key]]
    settings = PairSettings(
        mode=request.mode,
        margin=request.margin,
        time_limit_s=request.time_limit_s,
        cores=cores,
        ahead=request.priority == "high",
        at_once=all(get_runtime(cell.workload.runtime).in_pytorch for cell in cells),
        forked=_may_fork(cells, pythons),
    )
    differing = [d for d in condition_differences(*conditions) if d.partition(":")[0] not in ("threads", "affinity")]
    for key in ("benchbench", "commit"):  # which a comparison of finished runs leaves free
        old, new = (where.get(key) for where in conditions)
        differing += [f"{key}: {old or 'unknown'} -> {new or 'unknown'}"] if old != new else []
    return PairPlan(
        sides=(sides[0], sides[1]),
        settings=settings,
        labels=_labels(sides[0], sides[1]),
        asked=tuple(asked),
        conditions=tuple(differing),
        cell=cell,
    )


def _cell(name: str, request: PairRequest, place: int) -> Cell:
    """One side's network, as `bench run` would measure it."""
    threads = request.side("threads", place)
    if threads is None and request.mode == "duet":
        threads = 1
    asked = RunRequest(
        models=name,
        devices=(request.device,),
        spatial=request.spatial,
        batch=(request.batch,),
        runtime=(str(request.side("runtime", place)),),
        dtype=(str(request.side("dtype", place)),),
        threads=(None if threads is None else int(threads),),
        data=request.data or "none",
        fold=request.fold,
        checkpoints=request.checkpoints,
        trust=request.trust,
        require_measured=True,
    )
    cells = plan_cells(asked)
    if len(cells) != 1:
        raise UsageError(f"{'AB'[place]} is to be one network, and {name!r} names {counted(len(cells), 'network')}")
    (cell,) = cells
    return cell.with_work(volume=None, protocol=PROTOCOL)  # no whole volume is timed


def _may_fork(cells: Sequence[Cell], pythons: Sequence[str | None]) -> bool:
    """Whether the processes of both sides can be forked from one.

    Not of another runtime or GPU, whose threads and handles end with a fork; nor with a limit of memory, which is
    counted from what a process that starts by itself holds. Two servers would be two draws of where libraries lie, one
    for all of A's processes and one for all of B's.
    """
    one, other = cells
    return (
        sys.platform == "linux"
        and pythons[0] == pythons[1]
        and one.workload.threads == other.workload.threads
        and all(cell.target.backend == "cpu" and cell.workload.runtime == "eager" for cell in cells)
        and all(cell.workload.memory_limit_bytes is None for cell in cells)
    )


def named_python(request: PairRequest, place: int) -> str | None:
    """The Python of side 0 (A) or 1 (B) on another machine, as it was named; None: the one of benchbench there."""
    asked = request.side("python", place)
    return None if asked is None else str(asked)


def python_of(request: PairRequest, place: int) -> str | None:
    """The Python of side 0 (A) or 1 (B); None: the one that runs this.

    Raises:
        UsageError: there is no such program.
    """
    asked = request.side("python", place)
    if asked is None:
        return None
    found = shutil.which(str(asked))
    if found is None:
        raise UsageError(f"--python {asked}: no such program; name the Python of an environment, .venv/bin/python")
    return found


def _environment(cell: Cell, python: str | None) -> Mapping[str, Any]:
    target = cell.target
    if target.environment is not None:  # of another machine, as it told
        threads = {"threads": cell.workload.threads} if "threads" in target.environment else {}
        return {**target.environment, **threads}
    if python is not None:
        return ask_environment(cell.job, python)
    return environment(target.backend, cell.workload.threads, cuda_index=target.index)


def _check_inputs(cells: tuple[Cell, Cell], *, anyway: bool) -> None:
    """Refuse sides that do not take the same input."""
    inputs = [
        {
            "batch": cell.workload.batch,
            "channels": cell.model.in_channels,
            "size": format_shape(cell.workload.spatial),
            "mirroring": cell.workload.test_time_mirroring,
            "data": cell.workload.data,
        }
        for cell in cells
    ]
    differing = [f"{key} {inputs[0][key]} -> {inputs[1][key]}" for key in inputs[0] if inputs[0][key] != inputs[1][key]]
    if differing and not anyway:
        raise UsageError(f"A and B take different inputs: {', '.join(differing)}: {_ANYWAY}")


def _cores(request: PairRequest, cells: tuple[Cell, Cell]) -> tuple[int, ...]:
    """The cores of a duet; none otherwise."""
    here = all(cell.target.backend == "cpu" for cell in cells)
    usable = cpu.usable_cores()
    for cell in cells:
        if here and (cell.workload.threads or 1) > usable:
            raise UsageError(
                f"--threads {cell.workload.threads}: this process may use {counted(usable, 'core')}, and threads that "
                "wait for a core are no measure of the network"
            )
    if request.mode != "duet":
        return ()
    if not here:
        raise UsageError("--mode duet runs both sides at once, a core each: it is for a processor")
    if any(cell.workload.threads != 1 for cell in cells):
        raise UsageError("--mode duet gives each side one core: leave --threads out, or write --threads 1")
    cores = cpu.allowed_cores()
    if usable < 2 or len(cores) < 2:
        raise UsageError(f"--mode duet needs two cores, and this process may use {usable}: leave it out")
    return cores[:2]


def _asked(side: PairSide) -> dict[str, Any]:
    model, work = side.cell.model, side.cell.workload
    weights = model.checkpoint[:8] if model.checkpoint else "random"
    return {
        "network": model.name,
        "weights": weights,
        "keywords": rec.canonical_json(rec.to_json(model.kwargs)),
        "threads": work.threads,
        "runtime": work.runtime,
        "precision": work.dtype,
        "size": format_shape(work.spatial),
        "batch": work.batch,
        "python": side.python or "this one",
    }


def _labels(a: PairSide, b: PairSide) -> tuple[str, str]:
    """Each side's network, with what tells it from the other."""
    one, other = _asked(a), _asked(b)
    keys = [key for key in one if key not in ("network", "keywords") and one[key] != other[key]]
    said = {"threads": "{} thread(s)", "weights": "weights {}", "python": "{}", "batch": "batch {}"}

    def label(asked: Mapping[str, Any]) -> str:
        words = [said.get(key, "{}").format(asked[key]) for key in keys]
        return ", ".join([str(asked["network"]), *words])

    return label(one), label(other)
