"""Cache folder on disk: prepared cases, generated cases, and weights that came over ssh."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

PREPARED = "prepared"  # subfolder of prepared cases of real data sets


def cache_base() -> Path:
    """`$BENCHBENCH_CACHE`, else `$XDG_CACHE_HOME/benchbench`, else `~/.cache/benchbench`."""
    base = os.environ.get("BENCHBENCH_CACHE")
    if base is not None:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "benchbench"


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
