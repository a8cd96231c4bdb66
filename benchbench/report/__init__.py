"""The report: records in, one self-contained HTML page or one table out.

A pure reader. It imports errors, units, records and store, and nothing that measures; the heavy
libraries (matplotlib, jinja2) load when a page is made, so that the command line may import this
package freely.
"""

from __future__ import annotations

from benchbench.report.build import folder_reader, render, write_report
from benchbench.report.comparison import render_comparison, write_comparison
from benchbench.report.conditions import Group, group
from benchbench.report.details import ReadArtifact
from benchbench.report.export import FORMATS, export
from benchbench.report.place import check_page, check_place
from benchbench.report.search import read_search, render_search
from benchbench.report.tables import Cell, Column, Row, Table, missing_dice, summary_rows, to_table
from benchbench.store import SEARCH

__all__ = [
    "FORMATS",
    "SEARCH",
    "Cell",
    "Column",
    "Group",
    "ReadArtifact",
    "Row",
    "Table",
    "check_page",
    "check_place",
    "export",
    "folder_reader",
    "group",
    "missing_dice",
    "read_search",
    "render",
    "render_comparison",
    "render_search",
    "summary_rows",
    "to_table",
    "write_comparison",
    "write_report",
]
