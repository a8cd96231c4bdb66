"""Places where files of weights lie, and which of these are a network's: folders of trainings, and what is shipped."""

from __future__ import annotations

import contextlib
import importlib.resources
from collections.abc import Sequence
from pathlib import Path

from benchbench.core.errors import CheckpointError
from benchbench.data.plan import DataPlan
from benchbench.zoo import checkpoint


def shipped_weights() -> list[Path]:
    """The weights that come with benchbench, by name."""
    return sorted(shipped_folder().glob("*.safetensors"))


def shipped_folder() -> Path:
    """Where they lie."""
    return Path(str(importlib.resources.files("benchbench").joinpath("models", "checkpoints")))


def weights_in(folders: Sequence[Path]) -> list[Path]:
    """Files of weights in folders, and in the folders in them."""
    patterns = ("*.safetensors", "*/*.safetensors")
    return [path for folder in folders for pattern in patterns for path in folder.glob(pattern)]


def find(
    name: str,
    in_channels: int,
    out_channels: int,
    spatial: Sequence[int],
    plan: DataPlan,
    folders: Sequence[Path] = (),
) -> Path | None:
    """The newest weights that there are for a network on a data set, or None.

    Args:
        spatial: (D, H, W) of the patch, voxels; weights for another patch are another network's.
        plan: of the data set; weights that were trained on one of its test cases are passed over.
        folders: where trained ones are looked for, and in the folders in them; then among those that come with
            benchbench, which may be of a part of the same data set.
    """
    shipped, trained = shipped_folder(), weights_in(folders)

    def finished_ns(weights: Path) -> int:
        sidecar = weights.with_suffix(".json")
        return (sidecar if sidecar.exists() else weights).stat().st_mtime_ns

    wanted = (name, in_channels, out_channels, tuple(spatial))
    for weights in [*sorted(trained, key=finished_ns, reverse=True), *shipped_weights()]:
        try:
            info = checkpoint.read_sidecar(weights)
        except CheckpointError:
            if weights.parent == shipped:
                raise
            continue  # somebody else's
        if info.compression:
            continue  # a network of its own, asked for by its path
        of_the_data = info.data == plan.weights_key or (weights.parent == shipped and plan.is_named_by(info.data))
        its = (info.model.name, info.model.in_channels, info.model.out_channels, info.spatial)
        if its == wanted and of_the_data and not checkpoint.leaks(info, plan):
            return info.path
    return None


def with_sha256(digest: str, folders: Sequence[Path] = ()) -> Path | None:
    """The weights with that hash, or None.

    Args:
        folders: where they are looked for, and in the folders in them; then among those that come with benchbench.
    """
    for weights in [*sorted(weights_in(folders)), *shipped_weights()]:
        with contextlib.suppress(CheckpointError):  # somebody else's
            if checkpoint.read_sidecar(weights).sha256 == digest:
                return weights
    return None
