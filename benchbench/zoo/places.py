"""Places where files of weights lie: folders of trainings, and those that come with benchbench."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from pathlib import Path


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
