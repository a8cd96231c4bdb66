"""Protection of files: a command replaces none of its inputs, and a foreign file only with `--force`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from benchbench.core.errors import BenchError, StoreError


def check_output(
    output: Path,
    *,
    inputs: Iterable[Path] = (),
    is_ours: Callable[[bytes], bool] | None = None,
    force: bool = False,
    flag: str = "--out",
    kind: type[BenchError] = StoreError,
) -> None:
    """Refuse an output file that must not be replaced; called before anything is computed.

    Args:
        is_ours: whether a file is one of benchbench's own, told by its first 4096 bytes; None: none is.
        force: replace a file that is not ours. An input is not replaced even so.
        flag: that named the output, for the message.

    Raises:
        BenchError: of that kind: it is an input, a folder, a device, a file of somebody else, or it cannot be looked
            at.
    """
    try:
        if not output.exists():
            return
        if output.is_dir():
            raise kind(f"{output} is a folder: name a file with {flag}")
        if not output.is_file():  # a device or a pipe would be replaced by a file, or read for ever
            raise kind(f"{output} is no ordinary file: choose another {flag}")
        if any(_is_input(output, path) for path in inputs):
            raise kind(f"{output} is read by this command and is not replaced: choose another {flag}")
        if force:
            return
        with open(output, "rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise kind(f"cannot write {output}: {error.strerror or error}; choose another {flag}") from error
    if head and not (is_ours and is_ours(head)):
        raise kind(f"{output} is there already and was not written by this command: choose another {flag}, or --force")


def files_below(folder: Path) -> Iterator[Path]:
    """Every file of a folder and of those in it, as far as they can be listed; the folder itself may be a link."""
    for place, _, names in os.walk(folder):
        yield from (Path(place) / name for name in names)


def _is_input(output: Path, source: Path) -> bool:
    """Whether the output is the input itself, by whatever name."""
    return source.exists() and output.samefile(source)
