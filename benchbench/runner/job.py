"""Job of a worker process, and the cell of a run that it belongs to.

A job is what crosses to the worker: a network, its workload, and where on this machine it runs. A cell is a job with
what its row needs and the worker does not: the card and the device that was asked for.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from benchbench.core import records as rec
from benchbench.core.units import format_shape
from benchbench.devices import cpu
from benchbench.devices.resolve import Target
from benchbench.zoo import classes
from benchbench.zoo.cards import Card


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a worker is to do with one network; plain JSON on the wire."""

    model: rec.ModelSpec
    workload: rec.Workload
    backend: str = "cpu"
    gpu: int = 0
    cores: tuple[int, ...] = ()  # that it may use; empty: as it is started
    checkpoint_path: str | None = None
    data_where: str | None = None  # what finds the data set here; Dice is evaluated only with a checkpoint
    folder: str | None = None  # of a user's card: put at the end of the import path
    trusted: bool = True  # its class is of benchbench, or a person has named it
    first: bool = True  # the first process of its cell, which also evaluates what is the same in each

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(B, C, D, H, W)."""
        return (self.workload.batch, self.model.in_channels, *self.workload.spatial)

    @property
    def overlap(self) -> float:
        """Of sliding windows, a half where nothing else is asked for."""
        return 0.5 if self.workload.overlap is None else self.workload.overlap

    def with_work(self, **changes: object) -> Job:
        """The same with some fields of its workload replaced."""
        return dataclasses.replace(self, workload=dataclasses.replace(self.workload, **changes))  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One row to be: a network, what it is to do, and where."""

    card: Card
    target: Target
    job: Job

    @property
    def model(self) -> rec.ModelSpec:
        """The network."""
        return self.job.model

    @property
    def workload(self) -> rec.Workload:
        """What it is to do."""
        return self.job.workload

    @property
    def id(self) -> str:
        """Hash of what is asked."""
        return rec.cell_id(self.model, self.workload, self.target.device.asked, self.card.compression)

    def with_work(self, **changes: object) -> Cell:
        """The same with some fields of its workload replaced."""
        return dataclasses.replace(self, job=self.job.with_work(**changes))

    @property
    def label(self) -> str:
        """A few words, in which what differs from the plain one is named."""
        w = self.workload
        more = [
            "training step" if w.phase == "train" else "",
            f"batch {w.batch}" if w.batch != 1 else "",
            w.runtime if w.runtime != "eager" else "",
            w.dtype if w.dtype != "fp32" else "",
            f"volume {format_shape(w.volume)}" if w.volume else "",
            "mirrored" if w.test_time_mirroring else "",
        ]
        words = " ".join([self.model.name, format_shape(w.spatial), *filter(None, more)])
        return f"{words} on {self.target.device.asked}"


def make_cell(
    card: Card,
    model: rec.ModelSpec,
    workload: rec.Workload,
    target: Target,
    *,
    checkpoint_path: Path | None = None,
    data_where: str | None = None,
) -> Cell:
    """A cell with the job that its workers get.

    Args:
        card: of the network.
        model: as the card, the data and the weights make it.
        workload: of the row.
        target: the device.
        checkpoint_path: of its weights; None: random ones.
        data_where: what finds the data set here.
    """
    job = Job(
        model=model,
        workload=workload,
        backend=target.backend or "cpu",
        gpu=target.index,
        cores=cpu.cores_for(workload.threads) if target.backend == "cpu" else (),
        checkpoint_path=str(checkpoint_path) if checkpoint_path else None,
        data_where=data_where,
        folder=card.folder,
        trusted=classes.may_import(model.arch),
    )
    return Cell(card=card, target=target, job=job)
