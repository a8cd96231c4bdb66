"""A page that renews itself in the browser while a run lasts, and is a page like any other once it has ended."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchbench.report import place
from benchbench.report.page import write_report

_HEAD = "<head>"


def write_live(folders: Sequence[Path], out: Path | None, refresh_s: int | None, **options: Any) -> Path:
    """Write the page of results folders so that browsers load it again after some seconds.

    Args:
        folders: of the records, or of a search.
        out: where to write; `report.html` in the first folder if None.
        refresh_s: seconds; None: a page that stays.
        options: of `write_report`.

    Returns: the file written, whole at any moment.

    Raises:
        StoreError: there is nothing to show yet, or `out` must not be replaced.
    """
    if refresh_s is None:
        return write_report(folders, out, **options)
    target = out or place.root_of(folders[0]) / place.PAGE
    place.check_place(target, folders, page=True, force=bool(options.get("force")))
    with tempfile.TemporaryDirectory() as elsewhere:
        page = write_report(folders, Path(elsewhere) / place.PAGE, **options)
        text = page.read_text(encoding="utf-8")
    renewed = f'{_HEAD}\n<meta http-equiv="refresh" content="{refresh_s}">'
    place.write(target, text.replace(_HEAD, renewed, 1))
    return target
