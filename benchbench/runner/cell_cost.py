"""Cache of counts on disk: a network that was traced once is not traced again.

A count depends on the job, on our own code and on torch and MONAI, so all of these are its key; a network whose class
is not the zoo's own is never kept, since nobody knows what its code depends on.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchbench.core import records as rec
from benchbench.core.cache import cache_base
from benchbench.core.config import read_json
from benchbench.core.errors import StoreError
from benchbench.core.results import write_whole
from benchbench.core.version import installed

log = logging.getLogger(__name__)

_OURS = "benchbench."
_MOST = 400  # files; some 100 kB each


def path_of(job: Mapping[str, Any], what: str = "cost") -> Path | None:
    """Where the count of a job is, or would be; None for a network that is not the zoo's own.

    Args:
        job: as JSON values.
        what: is asked of it.
    """
    if job["folder"] is not None or not str(job["model"]["arch"]).startswith(_OURS):
        return None
    return _folder() / f"{rec.content_hash([what, job, _code()])}.json"


def get(path: Path | None) -> dict[str, Any] | None:
    """What was kept; None for nothing."""
    try:
        found = read_json(path, "the count", StoreError) if path else None
    except StoreError:
        return None
    return found if isinstance(found, dict) else None


def keep(path: Path | None, found: Mapping[str, Any]) -> None:
    """Keep a count; a folder that cannot be written costs time alone."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(found, separators=(",", ":")).encode())
        kept = sorted(path.parent.glob("*.json"), key=lambda one: one.stat().st_mtime)
        for old in kept[: max(0, len(kept) - _MOST)]:
            old.unlink(missing_ok=True)
    except OSError as error:
        log.info("counts are not kept: %s", error)


def _folder() -> Path:
    return cache_base() / "counts"


_COUNTING = ("core", "models", "models/cards", "zoo", "measure", "measure/flops", "training", "runner")


@functools.cache
def _code(root: Path = Path(__file__).parents[1]) -> str:
    """Of all code that decides a count: our files as they lie there, and the versions of torch and MONAI."""
    files = []
    for folder in (root / name for name in _COUNTING):
        for path in folder.iterdir():
            if path.suffix in {".py", ".toml", ".json", ".yaml"}:
                stat = path.stat()
                files.append([str(path.relative_to(root)), stat.st_size, stat.st_mtime_ns])
    return rec.content_hash([sorted(files), *map(installed, ("torch", "monai"))])
