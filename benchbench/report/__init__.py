"""Report: records in, one self-contained HTML page or one table out.

A pure reader. It imports errors, units, records and store, and nothing that measures; the heavy
libraries (matplotlib, jinja2) load when a page is made, so that the command line may import this
package freely.
"""

from __future__ import annotations

from benchbench.core.results import SEARCH
from benchbench.core.search_result import read_search
from benchbench.report.cells import TableCell
from benchbench.report.compare.page import render_comparison, write_comparison
from benchbench.report.compare.paired_page import render_pairs, write_pairs
from benchbench.report.compare.paired_text import pairs_text
from benchbench.report.conditions import Group, group
from benchbench.report.details import ReadArtifact
from benchbench.report.exports import FORMATS, export
from benchbench.report.labels import missing_dice
from benchbench.report.page import folder_reader, read_all_pairs, render, write_report
from benchbench.report.paper_table.table import UNCERTAINTIES, PaperOptions
from benchbench.report.paper_table.writers import paper_text
from benchbench.report.place import PAGE, check_page, check_place, write
from benchbench.report.search_page import render_search
from benchbench.report.tables import Column, Table, TableRow, summary_rows

__all__ = [
    "FORMATS",
    "PAGE",
    "SEARCH",
    "UNCERTAINTIES",
    "Column",
    "Group",
    "PaperOptions",
    "ReadArtifact",
    "Table",
    "TableCell",
    "TableRow",
    "check_page",
    "check_place",
    "export",
    "folder_reader",
    "group",
    "missing_dice",
    "pairs_text",
    "paper_text",
    "read_all_pairs",
    "read_search",
    "render",
    "render_comparison",
    "render_pairs",
    "render_search",
    "summary_rows",
    "write",
    "write_comparison",
    "write_pairs",
    "write_report",
]
