"""Volume that a run segments as a whole: noise, or for `--crop-foreground` a case whose background is 0.

A case is made by a process of its own and kept as an array, since reading and resizing it takes PyTorch, MONAI and
SciPy, which have no place in the process whose memory is measured.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchbench.core import records as rec
from benchbench.core.cache import cache_base
from benchbench.core.config import read_json
from benchbench.core.errors import StoreError
from benchbench.core.results import write_whole
from benchbench.core.version import __version__, installed
from benchbench.data import get_plan, load_case
from benchbench.measure import volume
from benchbench.runner.job import Job
from benchbench.runner.prepare import FOLDER, make_room, new_folder, run_to_end

_LIMIT_S = 1200.0
_ARRAY, _ABOUT = "volume.npy", "volume.json"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VolumeInput:
    """A volume, and what it is of."""

    image: volume.Array  # (C, D, H, W)
    of: str  # `noise`, `a case of phantom (phantom-test-000)`


def volume_for(job: Job) -> VolumeInput:
    """The volume of a job that asks for one.

    Raises:
        UnsupportedError: the network does not take the case's channels, or its background is not 0.
    """
    if not job.workload.crop_foreground:
        assert job.workload.volume is not None
        return VolumeInput(image=volume.random_volume(job.model.in_channels, job.workload.volume), of="noise")
    make_case(job)
    folder = _folder(job)
    about = read_json(folder / _ABOUT, "the volume's description", StoreError)
    return VolumeInput(image=np.load(folder / _ARRAY, allow_pickle=False), of=str(about["of"]))


def make_case(job: Job, tell: Callable[[str], None] | None = None) -> None:
    """Have the case of a cropped volume made by a process of its own, where it is not kept already.

    Args:
        tell: gets what is going on, where that takes a while.

    Raises:
        UnsupportedError: the network does not take the case's channels; its background is not 0; or there is no room.
    """
    volume.check_channels(_where(job), job.model.in_channels)
    folder = _folder(job)
    if (folder / _ABOUT).exists():
        return
    if tell:
        tell("preparing a case for the whole volume")
    make_room(folder.parent)
    with new_folder(folder) as partial:
        request = {"task": "volume", "jobs": [rec.to_json(job)], "folder": str(partial)}
        run_to_end(request, "preparing a case for the whole volume", limit_s=_LIMIT_S)


def make_case_here(job: Job, folder: Path) -> None:
    """Make it in this process; for the worker.

    Raises:
        UnsupportedError: the network does not take the case's channels, or its background is not 0.
        DataError: the case cannot be read.
    """
    where = _where(job)
    image = volume.foreground_case(where, job.model.in_channels, job.workload.volume)
    np.save(folder / _ARRAY, image)
    of = f"a case of {get_plan(where).name} ({load_case(where, 'test', 0).id})"
    write_whole(folder / _ABOUT, json.dumps({"of": of}).encode())


def _where(job: Job) -> str:
    return job.data_where or volume.PHANTOM


def _folder(job: Job) -> Path:
    packages = ("torch", "monai", "numpy", "nilearn")
    made_with = [__version__, *(installed(package) for package in packages)]
    key = rec.content_hash([get_plan(_where(job)).key, job.workload.volume, made_with])
    return cache_base() / FOLDER / f"volume-{key}"
