"""Output file of a page or an export: over what was made here, never over what it is made from; and whole."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchbench.core import results as core_results
from benchbench.core.errors import StoreError, os_error_as
from benchbench.core.overwrite import check_output, files_below

PAGE = "report.html"
_PAGE = re.compile(
    rb"<!doctype html>\n.*<meta http-equiv=\"Content-Security-Policy\" content=\"default-src &#39;none&#39;; "
    rb"img-src data:.*<title>[^<]*(?: \xc2\xb7 benchbench</title>|\Z)",
    re.DOTALL,
)
_EXPORT = re.compile(
    rb"model,(?:status|paper_name),|network,model,"
    rb"|\[\n  \{\n    \"model\": "
    rb"|% needs \\usepackage\{booktabs(?:,siunitx)?\}\n"
    rb"|[^\n]*\n\n\| (?:Model|Network) \|"
    rb"|a,b,verdict,|\{\n  \"schema\": \d+,\n  \"comparisons\": |- A: [^\n]*\n- B: "  # of paired comparisons
)


def is_page(head: bytes) -> bool:
    """Whether a file that begins so is one of our pages: told by its policy and its title."""
    return _PAGE.match(head) is not None


def check_place(out: Path, folders: Sequence[Path], *, page: bool, force: bool = False) -> None:
    """Refuse a place that a page or an export would do harm in; called before either is made.

    Args:
        out: the file to be written.
        folders: that are read: every file in them is an input, but for pages and exports at their top.
        page: whether it is a page. One of ours is replaced by the next; an older export only with `force`.
        force: replace a file that is not ours; never an input.

    Raises:
        StoreError: it is an input, or would be taken for one from then on; or a file of somebody else.
    """
    roots = [root_of(folder) for folder in folders]
    reserved = out.suffix == ".jsonl" or out.name in (core_results.SEARCH, core_results.SEARCH_BEGUN, core_results.LOCK)
    reserved = reserved or out.name.endswith(core_results.PAIRS)
    if reserved and not out.exists() and any(out.parent.resolve() == root.resolve() for root in roots):
        raise StoreError(f"{out} would be read as records, a search or a comparison from then on: choose another --out")
    check_output(out, inputs=_inputs(out, folders), is_ours=is_page if page else None, force=force)


def check_rows(out: Path, *, force: bool = False) -> None:
    """Refuse a place for the rows beside a page; those of an older page are replaced.

    Raises:
        StoreError: it is a file of somebody else.
    """
    check_output(out, is_ours=lambda head: _EXPORT.match(head) is not None, force=force)


def write(out: Path, text: str) -> None:
    """Write a page or an export whole.

    Raises:
        StoreError: it cannot be written; an older file stays whole.
    """
    with os_error_as(StoreError, f"cannot write {out}", "choose another --out"):
        out.parent.mkdir(parents=True, exist_ok=True)
        core_results.write_whole(out, text.encode())


def check_page(folder: Path) -> None:
    """Refuse a results folder whose page could not be written; called before anything is measured.

    Raises:
        StoreError: its `report.html` is a folder, cannot be read, or is a file of somebody else.
    """
    check_output(folder / PAGE, is_ours=is_page, force=None)


def root_of(place: Path) -> Path:
    """The results folder of a place, which is that or a file in it."""
    return place if place.is_dir() else place.parent


def _inputs(out: Path, folders: Sequence[Path]) -> Iterator[Path]:
    ours = _is_ours(out)
    for folder in folders:
        root = root_of(folder)
        if folder.is_dir():
            found = files_below(folder)
        else:
            yield folder
            found = (path for path in root.iterdir() if path.is_file()) if root.is_dir() else iter(())
        yield from (path for path in found if path.parent != root or not (ours or path.name == PAGE))
        yield from files_below(root / "artifacts")  # a link to elsewhere, perhaps


def _is_ours(out: Path) -> bool:
    with open(out, "rb") as file:
        head = file.read(4096)
    return is_page(head) or _EXPORT.match(head) is not None
