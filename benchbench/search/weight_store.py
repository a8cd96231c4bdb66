"""Weight files of a search, in its folder, and in its database where several machines search."""

from __future__ import annotations

import base64
import contextlib
from pathlib import Path

import optuna

from benchbench.core.errors import CheckpointError, StoreError
from benchbench.core.results import write_whole
from benchbench.search.storage import open_phase
from benchbench.zoo import checkpoint


class WeightStore:
    """Weight files of a search, which several machines share through its database."""

    def __init__(self, folder: Path, storage: optuna.storages.BaseStorage, name: str, *, shared: bool) -> None:
        self.folder = folder
        self._study = open_phase(storage, name) if shared else None

    def path(self, label: str) -> Path:
        """Of a weight file, whether it exists or not."""
        return self.folder / f"{label}.safetensors"

    def put(self, label: str) -> None:
        """Upload a weight file, where the search is shared."""
        if self._study:
            path = self.path(label)
            content = {
                "sidecar": sidecar.read_text() if (sidecar := path.with_suffix(".json")).exists() else "",
                "weights": base64.b64encode(path.read_bytes()).decode(),
            }
            self._study.set_user_attr(label, content)

    def get(self, label: str) -> Path:
        """Path of a weight file, which is downloaded if another machine trained it.

        Raises:
            StoreError: it exists nowhere.
        """
        path = self.path(label)
        if path.exists():
            with contextlib.suppress(CheckpointError):
                return checkpoint.read_sidecar(path).path
        content = self._study.user_attrs.get(label) if self._study else None
        if content is None:
            raise StoreError(f"{path} is gone, and no other machine of the search has it")
        path.parent.mkdir(parents=True, exist_ok=True)
        if content["sidecar"]:
            write_whole(path.with_suffix(".json"), content["sidecar"].encode())
        write_whole(path, base64.b64decode(content["weights"]))  # last, so that the sidecar is there too
        return path
