"""Fixtures that are too large or not ours to commit: `../shared`, or $BENCHBENCH_SHARED."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("BENCHBENCH_SHARED") or Path(__file__).resolve().parents[2] / "shared")


def shared_file(relative: str) -> Path:
    """The file, or a visible skip where it is not at hand."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"no {relative}: set BENCHBENCH_SHARED to the folder that has it")
    return path
