"""What `bench run` is asked for, as cells: one network, its work, and where.

A cell is fixed before anything is imported or measured, so a wrong name, size or checkpoint ends the
run at once. The surprise: which weights a network gets, and so whether its row can have a Dice, is
decided here, since a Dice belongs to a network with its channels, patch and checkpoint.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from benchbench import checkpoint, data, fleet, zoo
from benchbench import records as rec
from benchbench.devices import cpu
from benchbench.errors import CheckpointError, UsageError
from benchbench.forecast.target import Target, resolve
from benchbench.units import format_shape
from benchbench.worker import Job


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What `bench run` was asked for."""

    models: str
    devices: tuple[str, ...] = ("cpu",)
    spatial: tuple[int, ...] | None = None  # None: the data set's patch, or the card's own size
    batch: int = 1
    dtype: str = "fp32"
    threads: int | None = None  # None: all usable cores
    protocol: str = "quick"
    data: str | None = None  # None: the phantom for networks that fit it; "none": no Dice
    checkpoint: Path | None = None
    require_measured: bool = False
    time_limit_s: float = 1200.0
    set_clocks: bool = False  # jetson_clocks while the run lasts


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One row to be: a network, what it is to do, and where."""

    card: zoo.Card
    spec: rec.ModelSpec
    workload: rec.Workload
    target: Target
    checkpoint_path: Path | None

    @property
    def id(self) -> str:
        """Hash of what is asked."""
        return rec.cell_id(self.spec, self.workload, self.target.device.asked, None)

    def job(self) -> Job:
        """The cell as the child's work."""
        return Job(
            model=self.spec,
            spatial=self.workload.spatial,
            batch=self.workload.batch,
            dtype=self.workload.dtype,
            threads=self.workload.threads,
            backend=self.target.backend or "cpu",
            gpu=self.target.index,
            protocol=self.workload.protocol,
            checkpoint_path=str(self.checkpoint_path) if self.checkpoint_path else None,
            data=self.workload.data,
            split=self.workload.split,
            folder=self.card.folder,
        )


def label(cell: Cell) -> str:
    """A cell in a few words."""
    return f"{cell.spec.name} {format_shape(cell.workload.spatial)} on {cell.target.device.asked}"


def plan_cells(request: Request) -> list[Cell]:
    """Every cell that was asked for, without repeats.

    Raises:
        UsageError: an unknown name; a checkpoint for several networks; no host that can be used.
    """
    cards = zoo.find_cards(request.models)
    asked = dict.fromkeys(request.devices)
    targets = [resolve(device, require_measured=request.require_measured) for device in asked]
    if request.checkpoint and len(cards) != 1:
        raise UsageError(f"--checkpoint is of one network, and --models names {len(cards)}")
    trained_on = checkpoint.read_sidecar(request.checkpoint).data if request.checkpoint else "phantom"
    plan = None if request.data == "none" else data.get_plan(request.data or trained_on)
    met = fleet.meet(targets, request.threads, set_clocks=request.set_clocks)
    cells = [_cell(request, card, target, plan) for target in met for card in cards]
    return list({cell.id: cell for cell in cells}.values())


def _cell(request: Request, card: zoo.Card, target: Target, plan: data.DataPlan | None) -> Cell:
    info = checkpoint.read_sidecar(request.checkpoint) if request.checkpoint else None
    spatial = request.spatial
    if spatial is None:
        spatial = info.spatial if info else plan.patch if plan and request.data else card.spatial
    spec = card.spec()
    segments = card.task == "segmentation"
    if plan and request.data:  # asked by name: the network follows the data
        spec = card.spec(in_channels=plan.in_channels, out_channels=plan.out_channels if segments else None)
    channels = (spec.in_channels, spec.out_channels)
    fits = plan is not None and segments and channels == (plan.in_channels, plan.out_channels)
    path = request.checkpoint
    if info:
        if info.model.arch != spec.arch:
            raise CheckpointError(
                f"{request.checkpoint} holds {info.model.name!r}, not {card.name!r}; use --models {info.model.name}"
            )
        spec = dataclasses.replace(info.model, name=card.name)
    elif fits and plan:
        path = checkpoint.find_shipped(card.name, spec.in_channels, spec.out_channels, spatial, plan.name)
        if path and rec.to_json(checkpoint.read_sidecar(path).model.kwargs) != rec.to_json(spec.kwargs):
            path = None  # a card of the user's own under a name of the zoo
    if path:
        spec = dataclasses.replace(spec, checkpoint=checkpoint.read_sidecar(path).sha256)
    cores = target.environment.get("cores") if target.environment else None
    threads = None if target.backend != "cpu" else request.threads or cores or cpu.usable_cores()
    workload = rec.Workload(
        batch=request.batch,
        spatial=tuple(spatial),
        dtype=request.dtype,  # type: ignore[arg-type]
        threads=threads,
        protocol=request.protocol,
        data=plan.name if plan and fits else None,
        split="test" if plan and fits else None,
        overlap=0.5 if plan and fits else None,
    )
    return Cell(card=card, spec=spec, workload=workload, target=target, checkpoint_path=path)
