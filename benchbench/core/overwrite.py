"""Protection of files: a command replaces none of its inputs, and a foreign file only with `--force`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from benchbench.core.errors import BenchError, StoreError, os_error_as


def check_output(
    output: Path,
    *,
    inputs: Iterable[Path] = (),
    is_ours: Callable[[bytes], bool] | None = None,
    force: bool | None = False,
    flag: str = "--out",
    kind: type[BenchError] = StoreError,
) -> None:
    """Refuse an output file that must not be replaced; called before anything is computed.

    Args:
        is_ours: whether a file is one of benchbench's own, told by its first 4096 bytes; None: none is.
        force: replace a file that is not ours, but never an input; None: the command has no `--force`.
        flag: that named the output, for the message.

    Raises:
        BenchError: of that kind: it is an input, a folder, a device, a file of somebody else, or it cannot be looked
            at.
    """
    with os_error_as(kind, f"cannot write {output}", f"choose another {flag}"):
        if not output.exists():
            return
        if output.is_dir():
            raise kind(f"{output} is a folder: name a file with {flag}")
        if not output.is_file():  # a device or a pipe would be replaced by a file, or read for ever
            raise kind(f"{output} is no ordinary file: choose another {flag}")
        if any(path.exists() and output.samefile(path) for path in inputs):
            raise kind(f"{output} is read by this command and is not replaced: choose another {flag}")
        if force:
            return
        with open(output, "rb") as file:
            head = file.read(4096)
    if head and not (is_ours and is_ours(head)):
        advice = f"move it away, or choose another {flag}" if force is None else f"choose another {flag}, or --force"
        raise kind(f"{output} is there already and was not written by this command: {advice}")


def files_below(folder: Path) -> Iterator[Path]:
    """Every file of a folder and of those in it, as far as they can be listed; the folder itself may be a link."""
    for place, _, names in os.walk(folder):
        yield from (Path(place) / name for name in names)
