"""The folders of the BraTS challenge: one a case, with a file for each contrast and `seg`.

Two things changed over the years, and each has spoiled results: the names of the files, and the label of the
enhancing tumour, which is 4 up to 2021 and 3 since 2023. From 2024 on, cases after an operation have a resection
cavity as label 4; their scans are counted from 100.

Source: Baid et al. 2021, arXiv:2107.02314; Adewole et al. 2023, arXiv:2305.19369; de Verdier et al. 2024,
arXiv:2405.18368.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from benchbench.data.source import ENDINGS, CaseFiles, ImageFile, Source, make_source, subject_of
from benchbench.errors import DataError

_CHANNELS = ("T1", "T1ce", "T2", "FLAIR")  # the order of the phantom, too
_OLD = re.compile(r"BraTS(2021|20|19|18)[_A-Za-z]*_?\d+.*", re.IGNORECASE)
_NEW = re.compile(r"BraTS-[A-Z]+-(\d{5})-(\d{3})")
_OLD_FILES = ("t1", "t1ce", "t2", "flair")
_NEW_FILES = ("t1n", "t1c", "t2w", "t2f")
_LABELS: Mapping[str, Mapping[int, str]] = MappingProxyType(
    {
        "brats2021": {0: "background", 1: "NCR", 2: "ED", 4: "ET"},
        "brats2023": {0: "background", 1: "NCR", 2: "ED", 3: "ET"},
        "brats2024": {0: "background", 1: "NETC", 2: "SNFH", 3: "ET", 4: "RC"},
    }
)
_REGIONS: Mapping[str, Mapping[str, tuple[int, ...]]] = MappingProxyType(
    {
        "brats2021": {"tc": (1, 4), "wt": (1, 2, 4), "et": (4,)},
        "brats2023": {"tc": (1, 3), "wt": (1, 2, 3), "et": (3,)},
        "brats2024": {"tc": (1, 3), "wt": (1, 2, 3), "et": (3,), "rc": (4,)},
    }
)
_TITLES = MappingProxyType(
    {
        "brats2021": "BraTS, folders up to 2021 (enhancing tumour is label 4)",
        "brats2023": "BraTS, folders since 2023 (enhancing tumour is label 3)",
        "brats2024": "BraTS 2024, after treatment (enhancing tumour is label 3, resection cavity 4)",
    }
)


def is_brats(folder: Path) -> bool:
    """Whether a folder holds cases of BraTS, by their names."""
    return any(_OLD.fullmatch(path.name) or _NEW.fullmatch(path.name) for path in _folders(folder))


def open_brats(folder: Path) -> Source:
    """Its cases; those without `seg` are left out.

    Raises:
        DataError: cases of several years together, or none with a segmentation.
    """
    found = [path for path in _folders(folder) if _OLD.fullmatch(path.name) or _NEW.fullmatch(path.name)]
    by_year: dict[str, list[CaseFiles]] = {}
    for path in found:
        layout, case = _case(path)
        if case.label is not None:
            by_year.setdefault(layout, []).append(case)
    if len(by_year) > 1:
        raise DataError(
            f"{folder} mixes {' and '.join(sorted(by_year))}, whose labels mean different things: one folder each"
        )
    if not by_year:
        raise DataError(f"{folder}: none of its {len(found)} BraTS cases has a segmentation")
    ((layout, cases),) = by_year.items()
    regions = _REGIONS[layout]
    enhancing = 4 if layout == "brats2021" else 3
    values = {"wt": 2, "tc": 1, "et": enhancing, "rc": 4}
    return make_source(
        folder,
        title=_TITLES[layout],
        layout=layout,
        channels=_CHANNELS,
        labels=_LABELS[layout],
        regions=regions,
        paint=tuple(values[name] for name in regions),
        cases=tuple(cases),
        licence="of the challenge: registration, research only",
    )


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _case(path: Path) -> tuple[str, CaseFiles]:
    new = _NEW.fullmatch(path.name)
    joint, names = ("-", _NEW_FILES) if new else ("_", _OLD_FILES)
    layout = "brats2021" if not new else "brats2024" if int(new[2]) >= 100 else "brats2023"
    ending = next((end for end in ENDINGS if (path / f"{path.name}{joint}seg{end}").exists()), None)
    files = tuple(ImageFile(path=_existing(path / f"{path.name}{joint}{name}")) for name in names)
    label = path / f"{path.name}{joint}seg{ending}" if ending else None
    return layout, CaseFiles(id=path.name, subject=subject_of(path.name), images=files, label=label)


def _existing(start: Path) -> Path:
    """The file with one of the endings; the usual one where neither is there, so that its absence is told by name."""
    candidates = [start.with_name(start.name + end) for end in ENDINGS]
    return next((path for path in candidates if path.exists()), candidates[0])
