"""Make the pages of `reports/` from the committed records: `tox -e pages`, `python benchmarks/pages.py [PAGE ...]`."""

import sys
from pathlib import Path

from benchbench.report import write_report

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "results" / "reference"
REPORTS = ROOT / "reports"
#: Page -> the folders that it is made from, in their order.
PAGES = {
    "amd-epyc-2c": ["amd-epyc-2c"],
    "hippocampus": ["hippocampus"],
    "hippocampus-earlier": ["hippocampus-earlier"],
    "hippocampus-hour": ["hippocampus-hour"],
    "hippocampus-zoo": ["hippocampus-zoo"],
    "runtimes-hippocampus": ["runtimes-hippocampus"],
    "search-hippocampus": ["search-hippocampus"],
    "search-hippocampus-15ms": ["search-hippocampus-15ms"],
    "search-hippocampus-seed-1": ["search-hippocampus-seed-1"],
    "search-hippocampus-seed-2": ["search-hippocampus-seed-2"],
    "search-phantom": ["search-phantom"],
    "table3": ["audit", "amd-epyc-2c"],
}


def main(names: list[str]) -> None:
    for name in names or PAGES:
        if name not in PAGES:
            sys.exit(f"no page {name!r}; there are {', '.join(PAGES)}")
        print(write_report([REFERENCE / folder for folder in PAGES[name]], REPORTS / f"{name}.html"))


if __name__ == "__main__":
    main(sys.argv[1:])
