"""Folder that nnU-Net v2 leaves of a training: which of its files are a network, and what they say.

`DatasetX/trainer__plans__configuration/` has `plans.json`, `dataset.json` and a `fold_N` for each fold with its
checkpoints. A checkpoint says which trainer and which configuration it is of, and along which axes it may be mirrored.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchbench.core.config import read_json
from benchbench.core.errors import CheckpointError, told
from benchbench.data.source import stem
from benchbench.zoo import foreign_weights
from benchbench.zoo.nnunet_plans import Plans

#: What a sidecar says that a network came from.
KIND = "nnU-Net v2"
#: Checkpoints of a fold, the first that is there.
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
_USUAL_TRAINER = "nnUNetTrainer"
_FEW = 6  # names in a message
_LONGEST = 200  # letters of a name


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NnunetModel:
    """A fold's checkpoint, with the files that it belongs to."""

    plans: Plans
    weights: Path
    content: Mapping[str, Any]  # of the checkpoint
    trainer: str  # name of the class that trained it
    fold: str  # its number, or `all`
    held_out: tuple[str, ...]  # cases that the fold was validated on, where nnU-Net left their label maps
    notes: tuple[str, ...]

    @property
    def mirror(self) -> list[int]:
        """Axes of the network, 0 to 2, along which a prediction may be mirrored."""
        axes = self.content.get("inference_allowed_mirroring_axes") or ()
        if not isinstance(axes, (list, tuple)) or any(type(axis) is not int or not 0 <= axis <= 2 for axis in axes):
            raise CheckpointError(f"{self.weights}: its mirroring axes must be out of 0, 1 and 2, not {told(axes)}")
        return sorted(set(axes))


def is_model(folder: Path) -> bool:
    """Whether a folder is what nnU-Net v2 leaves of a training, or a fold of it, or holds several of them."""
    return (folder / "plans.json").exists() or bool(_models_in(folder)) or _is_fold(folder)


def _is_fold(folder: Path) -> bool:
    return folder.name.startswith("fold_") and (folder.parent / "plans.json").exists()


def _models_in(folder: Path) -> list[Path]:
    return sorted(path.parent for path in (*folder.glob("*__*__*/plans.json"), *folder.glob("*/*__*__*/plans.json")))


def open_model(folder: Path, fold: str | None = None, checkpoint: str | None = None) -> NnunetModel:
    """The network of a fold.

    Args:
        fold: its number, or `all`; None: the only one that is there.
        checkpoint: name of the file in it; None: the final one, else the best.

    Raises:
        CheckpointError: a file or fold is missing, and what is there is listed; or one cannot be read.
    """
    if _is_fold(folder) and not (folder / "plans.json").exists():
        fold, folder = fold or folder.name.removeprefix("fold_"), folder.parent
    if not (folder / "plans.json").exists():
        models = ", ".join(str(path) for path in _models_in(folder)[:_FEW])
        raise CheckpointError(f"{folder} holds several models of nnU-Net: name one of them, such as {models}")
    plans = _table(folder / "plans.json", "the plans")
    if not (folder / "dataset.json").exists():
        raise CheckpointError(
            f"no dataset.json beside {folder / 'plans.json'}, which has the labels and channels: it lies in "
            "nnUNet_preprocessed, too"
        )
    dataset = _table(folder / "dataset.json", "the description of the data set")
    place, number = _fold(folder, fold)
    weights, notes = _weights(place, checkpoint)
    content = foreign_weights.read(weights)
    if not isinstance(content, Mapping) or not isinstance(content.get("network_weights"), Mapping):
        raise CheckpointError(f"{weights} is no checkpoint of nnU-Net v2: it has no network_weights")
    trainer = str(content.get("trainer_name"))[:_LONGEST]
    if trainer != _USUAL_TRAINER:
        notes.append(f"it was trained by {trainer}: its weights are used, and nothing else that this trainer changes")
    validated = sorted((place / "validation").glob("*.nii*"))
    return NnunetModel(
        plans=Plans(
            where=folder / "plans.json",
            plans=plans,
            dataset=dataset,
            fingerprint=_fingerprint(folder),
            configuration=_configuration(content, folder),
        ),
        weights=weights,
        content=content,
        trainer=trainer,
        fold=number,
        held_out=tuple(name for path in validated if (name := stem(path.name))),
        notes=tuple(notes),
    )


def _fingerprint(folder: Path) -> Mapping[str, Any]:
    """What nnU-Net found out about the cases; empty where it did not leave that, since predictions do not need it."""
    with contextlib.suppress(CheckpointError):
        return _table(folder / "dataset_fingerprint.json", "the fingerprint of the data set")
    return {}


def _table(path: Path, what: str) -> Mapping[str, Any]:
    content = read_json(path, what, CheckpointError)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a list or a value, not a table")
    return content


def _fold(folder: Path, asked: str | None) -> tuple[Path, str]:
    """The folder of a fold, and its number."""
    named = (path.name.removeprefix("fold_") for path in folder.glob("fold_*") if path.is_dir())
    there = sorted(name for name in named if re.fullmatch(r"all|\d{1,4}", name, re.ASCII))
    if not there:
        raise CheckpointError(f"{folder} has no fold_0 or the like, so no weights")
    if asked is None:
        if len(there) > 1:
            raise CheckpointError(f"{folder} has the folds {', '.join(there)}: name one of them with --fold")
        asked = there[0]
    if asked not in there:
        raise CheckpointError(f"{folder} has no fold {asked}; it has {', '.join(there)}")
    return folder / f"fold_{asked}", asked


def _weights(place: Path, asked: str | None) -> tuple[Path, list[str]]:
    """The checkpoint in a fold, and notes on which it is."""
    there = sorted(path.name for path in place.glob("*.pth"))
    if asked is not None and not asked.endswith(".pth"):
        asked += ".pth"
    wanted = [asked] if asked else list(CHECKPOINTS)
    found = next((name for name in wanted if name in there), None)
    if found is None:
        have = f"it has {', '.join(there[:_FEW])}: name one of them with --checkpoint" if there else "it has none"
        raise CheckpointError(f"{place} has no {' or '.join(wanted)}; {have}")
    unfinished = not asked and found != CHECKPOINTS[0]
    return place / found, [f"{found} is taken, since there is no {CHECKPOINTS[0]}"] if unfinished else []


def _configuration(content: Mapping[str, Any], folder: Path) -> str:
    """The configuration that a checkpoint is of: as it says, or as its folder is called."""
    arguments = content.get("init_args")
    named = arguments.get("configuration") if isinstance(arguments, Mapping) else None
    if named is None:
        named = folder.resolve().name.rpartition("__")[2]
    return str(named)
