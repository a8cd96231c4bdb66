"""Weight files of a search, shared through its database."""

from __future__ import annotations

import base64
import contextlib
from pathlib import Path

import optuna

from benchbench.core.errors import CheckpointError, StoreError
from benchbench.core.results import write_whole
from benchbench.search import stage
from benchbench.zoo import checkpoint


class WeightStore:
    """The weights of a search: in its folder, and where several machines search, in the storage as well."""

    def __init__(self, folder: Path, storage: optuna.storages.BaseStorage, name: str, *, shared: bool) -> None:
        """Open it.

        Args:
            folder: on this machine.
            storage: of the search.
            name: of the study that holds weights, where they are shared.
            shared: whether they are.
        """
        self.folder = folder
        self._study = stage.open_stage(storage, name) if shared else None

    def place(self, label: str) -> Path:
        """Where weights lie, or are to lie."""
        return self.folder / f"{label}.safetensors"

    def put(self, label: str) -> None:
        """Let other machines have weights that are in their place."""
        if self._study:
            path = self.place(label)
            content = {
                "sidecar": sidecar.read_text() if (sidecar := path.with_suffix(".json")).exists() else "",
                "weights": base64.b64encode(path.read_bytes()).decode(),
            }
            self._study.set_user_attr(label, content)

    def get(self, label: str) -> Path:
        """Weights, fetched if another machine has made them.

        Raises:
            StoreError: they are nowhere.
        """
        path = self.place(label)
        if path.exists():
            with contextlib.suppress(CheckpointError):
                return checkpoint.read_sidecar(path).path
        content = self._study.user_attrs.get(label) if self._study else None
        if content is None:
            raise StoreError(f"{path} is gone, and no other machine of the search has it")
        path.parent.mkdir(parents=True, exist_ok=True)
        if content["sidecar"]:
            write_whole(path.with_suffix(".json"), content["sidecar"].encode())
        write_whole(path, base64.b64decode(content["weights"]))  # last: who finds them has all
        return path
