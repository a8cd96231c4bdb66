"""Cases as files of the cache, in half precision."""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchbench.core import cache
from benchbench.data.plan import Case

log = logging.getLogger(__name__)

Arrays = Mapping[str, npt.NDArray[Any]]


def read(path: Path, case_of: Callable[[Arrays], Case]) -> Case | None:
    """The case that a file holds; None where there is no such file, or a damaged one."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return case_of(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s cannot be read (%s); the case is made again", path, error)
        return None


def write(path: Path, **arrays: npt.NDArray[Any]) -> None:
    """Keep a case; without a cache, each use makes it again."""
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    cache.keep(path, content.getvalue(), "each use makes its cases again")
