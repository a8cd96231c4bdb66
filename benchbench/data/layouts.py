"""Layouts of data sets on disk: Decathlon, nnU-Net v2, BraTS; a new layout is a reader that is called here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from benchbench.core.errors import DataError
from benchbench.data.brats import is_brats, open_brats
from benchbench.data.decathlon import is_decathlon, open_decathlon
from benchbench.data.nnunet import is_nnunet, open_nnunet
from benchbench.data.source import Source, read_json


def open_source(folder: Path) -> Source:
    """The data set in a folder, in whichever of the known layouts.

    Raises:
        DataError: no such folder, one that cannot be read, an unknown layout, or a description that cannot be used.
    """
    try:
        return _open_source(folder)
    except OSError as error:
        raise DataError(f"cannot read {error.filename or folder}: {error.strerror or error}") from error


def _open_source(folder: Path) -> Source:
    if not folder.is_dir():
        raise DataError(f"no data set at {folder}: {'it is a file' if folder.exists() else 'no such folder'}")
    if (folder / "dataset.json").exists():
        description = read_json(folder / "dataset.json")
        if is_decathlon(description):
            return open_decathlon(folder)
        if is_nnunet(description):
            return open_nnunet(folder)
        raise DataError(
            f"{folder / 'dataset.json'} has neither 'modality' and 'training' (Decathlon) nor 'channel_names' and "
            "'labels' (nnU-Net v2)"
        )
    if is_brats(folder):
        return open_brats(folder)
    hint = next((f"; did you mean {path}?" for path in _below(folder)), "")
    raise DataError(
        f"{folder} is no data set that can be read: no dataset.json (Decathlon, nnU-Net v2), and no folders such as "
        f"BraTS2021_00000 or BraTS-GLI-00000-000{hint}"
    )


def _below(folder: Path) -> Iterator[Path]:
    """Folders in it, and in those, that a data set lies in; archives are often unpacked into one more folder."""
    within = [folder]
    for _ in range(2):
        within = [path for outer in within for path in sorted(outer.iterdir()) if _can_be_read(path)]
        for path in within:
            if (path / "dataset.json").exists() or is_brats(path):
                yield path


def _can_be_read(path: Path) -> bool:
    return path.is_dir() and os.access(path, os.R_OK | os.X_OK)
