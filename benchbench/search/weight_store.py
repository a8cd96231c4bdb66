"""Weight files of a search, in its folder, and in its database where several machines search.

A file that another machine may need is a study of its own in the database, so that reading one reads no other, and one
that nobody needs any more is deleted.
"""

from __future__ import annotations

import base64
import contextlib
from pathlib import Path

import optuna

from benchbench.core.errors import CheckpointError
from benchbench.core.results import write_whole
from benchbench.zoo import checkpoint

_ENDINGS = (".json", checkpoint.STATE, ".safetensors")  # the weights last: once they are there, so is the rest


class WeightStore:
    """Weight files of a search, which several machines share through its database."""

    def __init__(self, folder: Path, storage: optuna.storages.BaseStorage, name: str, *, shared: bool) -> None:
        self.folder, self.storage, self.name, self.shared = folder, storage, name, shared

    def path(self, label: str) -> Path:
        """Of a weight file, whether it exists or not."""
        return self.folder / f"{label}.safetensors"

    def put(self, label: str) -> None:
        """Upload weights, with the state from which their training goes on, where the search is shared."""
        if not self.shared:
            return
        files = {ending: self.path(label).with_suffix(ending) for ending in _ENDINGS}
        content = {
            ending: base64.b64encode(path.read_bytes()).decode() for ending, path in files.items() if path.exists()
        }
        study = optuna.create_study(storage=self.storage, study_name=self.study_name(label), load_if_exists=True)
        study.set_user_attr("files", content)

    def get(self, label: str) -> Path | None:
        """Path of a weight file, which is downloaded if another machine trained it; None if it is nowhere."""
        path = self.path(label)
        if path.exists():
            with contextlib.suppress(CheckpointError):
                return checkpoint.read_sidecar(path).path
        if not self.shared:
            return None
        try:
            study = optuna.load_study(storage=self.storage, study_name=self.study_name(label))
        except KeyError:  # no such study
            return None
        content = study.user_attrs.get("files")
        if content is None:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        for ending in _ENDINGS:
            if ending in content:
                write_whole(path.with_suffix(ending), base64.b64decode(content[ending]))
        return path

    def state(self, label: str) -> Path | None:
        """Path of weights whose training can go on; None if there are none, or their state is gone."""
        path = self.get(label)
        return path if path and path.with_suffix(checkpoint.STATE).exists() else None

    def forget_state(self, label: str) -> None:
        """Delete the state of a training that does not go on, here and in the database."""
        self.path(label).with_suffix(checkpoint.STATE).unlink(missing_ok=True)
        if self.shared:
            with contextlib.suppress(KeyError):
                optuna.delete_study(storage=self.storage, study_name=self.study_name(label))

    def study_name(self, label: str) -> str:
        """Of the study that holds a file."""
        return f"{self.name}/weights/{label}"
