"""Caches: a size-bounded one in memory, and the folder on disk of prepared cases, generated cases and weights."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from benchbench.core.results import write_whole

log = logging.getLogger(__name__)

PREPARED = "prepared"  # subfolder of prepared cases of real data sets
K = TypeVar("K")
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """Values by key up to a number of bytes; those beyond are made anew each time."""

    def __init__(self, *, most_bytes: float, size: Callable[[V], int]) -> None:
        self.most_bytes, self.size = most_bytes, size
        self.bytes = 0
        self._known: dict[K, V] = {}

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of a key, made if it is not kept."""
        if key in self._known:
            return self._known[key]
        value = make()
        if self.bytes + self.size(value) <= self.most_bytes:
            self._known[key] = value
            self.bytes += self.size(value)
        return value

    def clear(self) -> None:
        """Forget them."""
        self._known.clear()
        self.bytes = 0


def cache_base() -> Path:
    """`$BENCHBENCH_CACHE`, else `$XDG_CACHE_HOME/benchbench`, else `~/.cache/benchbench`."""
    base = os.environ.get("BENCHBENCH_CACHE")
    if base is not None:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "benchbench"


def keep(path: Path, content: bytes, otherwise: str) -> None:
    """Write a file of the cache; where that cannot be, warn of it and go on.

    Args:
        otherwise: what happens without the cache, such as `each use prepares its cases again`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        log.warning("no cache at %s (%s): %s", path.parent, error.strerror or error, otherwise)


def size_bytes(folder: Path) -> int:
    """What the files below a folder take; 0 where there is none."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # another process is at work
            continue
    return total


def clear(folder: Path) -> int:
    """Remove a folder of the cache; returns the bytes that it had."""
    size = size_bytes(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return size
