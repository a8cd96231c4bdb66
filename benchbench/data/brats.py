"""Layout of the BraTS challenges: one folder a case, with a file for each contrast and `seg`.

What a label means depends on the challenge, which stands in the names of the cases, and on the year, and each has
spoiled results. The enhancing tumour is 4 up to 2021 and 3 since 2023; in children (PED) it is 1 since 2024, where 2 is
the tumour that does not enhance, 3 cysts and 4 oedema. Cases after an operation have a resection cavity as label 4: of
adult glioma those whose scans are counted from 100, of metastases (MET) the data of 2025. A challenge that is not known
here is refused.

Source: Baid et al. 2021, arXiv:2107.02314; Adewole et al. 2023, arXiv:2305.19369; LaBella et al. 2023,
arXiv:2305.07642; Moawad et al. 2023, arXiv:2306.00838; Kazerooni et al. 2023, arXiv:2305.17033, and 2024,
arXiv:2404.15009; de Verdier et al. 2024, arXiv:2405.18368.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from benchbench.core.errors import DataError
from benchbench.data.source import CaseFiles, Fault, ImageFile, Source, make_source, stem, subject_of, with_ending

_CHANNELS = ("T1", "T1ce", "T2", "FLAIR")  # the order of the phantom, too
_OLD = re.compile(r"BraTS(20)?(17|18|19|20|21)[_A-Za-z]*_?\d.*", re.IGNORECASE)
_NEW = re.compile(r"BraTS-(?P<challenge>[A-Za-z]+(-[A-Za-z]+)*)-(?P<patient>\d{4,5})(-(?P<scan>\d{1,3}))?")
_GRADES = ("hgg", "lgg")  # folders in which the cases lay up to 2019
_OLD_FILES = ("t1", "t1ce", "t2", "flair")
_NEW_FILES = ("t1n", "t1c", "t2w", "t2f")
_YEAR = re.compile(r"20(2[3-9])")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """What the labels of a challenge mean."""

    title: str
    labels: Mapping[int, str]
    regions: Mapping[str, tuple[int, ...]]
    paint: tuple[int, ...]  # of each region


def _tumour(title: str, *names: str, cavity: bool = False) -> _Layout:
    """The numbering since 2023: core 1, oedema 2, enhancing 3, and the resection cavity 4."""
    labels = dict(enumerate(("background", *names, *(("RC",) if cavity else ()))))
    regions = {"tc": (1, 3), "wt": (1, 2, 3), "et": (3,)} | ({"rc": (4,)} if cavity else {})
    return _Layout(title=title, labels=labels, regions=regions, paint=(1, 2, 3, 4)[: len(regions)])


_LAYOUTS: Mapping[str, _Layout] = MappingProxyType(
    {
        "brats2021": _Layout(
            title="BraTS, folders up to 2021 (enhancing tumour is label 4)",
            labels={0: "background", 1: "NCR", 2: "ED", 4: "ET"},
            regions={"tc": (1, 4), "wt": (1, 2, 4), "et": (4,)},
            paint=(1, 2, 4),
        ),
        "brats2023": _tumour("BraTS, folders since 2023 (enhancing tumour is label 3)", "NCR", "ED", "ET"),
        "brats2024": _tumour(
            "BraTS 2024, after treatment (enhancing tumour is label 3, resection cavity 4)",
            *("NETC", "SNFH", "ET"),
            cavity=True,
        ),
        "brats-men": _tumour("BraTS-MEN, meningioma (enhancing tumour is label 3)", "NETC", "SNFH", "ET"),
        "brats-met": _tumour("BraTS-MET, metastases (enhancing tumour is label 3)", "NETC", "SNFH", "ET"),
        "brats-met2025": _tumour(
            "BraTS-MET 2025, metastases (enhancing tumour is label 3, resection cavity 4)",
            *("NETC", "SNFH", "ET"),
            cavity=True,
        ),
        "brats-ped2023": _tumour("BraTS-PED 2023, children (enhancing tumour is label 3)", "NC", "ED", "ET"),
        "brats-ped2024": _Layout(
            title="BraTS-PED since 2024, children (enhancing tumour is label 1, cysts 3)",
            labels={0: "background", 1: "ET", 2: "NET", 3: "CC", 4: "ED"},
            regions={"tc": (1, 2, 3), "wt": (1, 2, 3, 4), "et": (1,), "cc": (3,)},
            paint=(2, 4, 1, 3),
        ),
    }
)
_ADULT = ("GLI", "SSA", "GOAT")  # their labels are the same


def is_brats(folder: Path) -> bool:
    """Whether a folder holds cases of BraTS, by their names; also in `HGG` and `LGG`, as up to 2019."""
    return any(_is_case(path) for path in _folders(folder))


def open_brats(folder: Path) -> Source:
    """Its cases; those without `seg` are left out, and told.

    Raises:
        DataError: cases of several challenges or years together, a challenge that is not known, or none with a
            segmentation.
    """
    case_folders = [path for path in _folders(folder) if _is_case(path)]
    by_layout: dict[str, list[CaseFiles]] = {}
    faults: list[Fault] = []
    for path in case_folders:
        layout, case = _case(path)
        by_layout.setdefault(layout, [])
        if case.label is not None:
            by_layout[layout].append(case)
        else:
            faults.append(Fault(level="fail", case=case.id, text=_no_label(path)))
    layouts = {layout: cases for layout, cases in by_layout.items() if cases}
    if len(layouts) > 1:
        raise DataError(
            f"{folder} mixes {' and '.join(sorted(layouts))}, whose labels mean different things: one folder each"
        )
    if not layouts:
        raise DataError(f"{folder}: none of its {len(case_folders)} BraTS cases has a segmentation")
    others = [path.name for path in _folders(folder) if not _is_case(path) and path.name.lower() not in _GRADES]
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        faults.append(
            Fault(level="warn", text=f"its folder {others[0]}{more} is not named like a case, and is left out")
        )
    ((layout, cases),) = layouts.items()
    if layout.startswith("brats-ped") and _year(case_folders[0]) is None:
        text = (
            "no folder's name tells the year of BraTS-PED, so its labels are taken as those since 2024 (ET 1, NET 2, "
            "CC 3, ED 4); where they are of 2023 (NC 1, ED 2, ET 3), lay it into a folder such as BraTS2023-PED"
        )
        faults.append(Fault(level="warn", text=text))
    meaning = _LAYOUTS[layout]
    return make_source(
        folder,
        title=meaning.title,
        layout=layout,
        channels=_CHANNELS,
        labels=meaning.labels,
        regions=meaning.regions,
        paint=meaning.paint,
        cases=tuple(cases),
        licence="of the challenge: registration, research only",
        faults=faults,
    )


def _folders(folder: Path) -> Iterator[Path]:
    """Those in it, and those in its folders of HGG and LGG."""
    for path in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        yield path
        if path.name.lower() in _GRADES:
            yield from sorted(inner for inner in path.iterdir() if inner.is_dir())


def _is_case(path: Path) -> bool:
    return bool(_OLD.fullmatch(path.name) or _NEW.fullmatch(path.name))


def _year(case: Path) -> int | None:
    """Of the challenge, by the folder that a case lies in or the one around that."""
    for part in case.resolve().parts[-2:-4:-1]:
        if (year := _YEAR.search(part)) and ("brats" in part.lower() or "ped" in part.lower()):
            return 2000 + int(year[1])
    return None


def _layout(path: Path) -> str:
    """What the labels of a case mean, by its name."""
    new = _NEW.fullmatch(path.name)
    if not new:
        return "brats2021"
    challenge, year = new["challenge"].upper(), _year(path)
    if challenge in _ADULT:
        return "brats2024" if int(new["scan"] or 0) >= 100 else "brats2023"
    if challenge == "PED":
        return "brats-ped2023" if year == 2023 else "brats-ped2024"
    if challenge == "MET":
        return "brats-met2025" if year and year >= 2025 else "brats-met"
    if challenge == "MEN":
        return "brats-men"
    raise DataError(
        f"{path}: the labels of the challenge {challenge} are not supported; known are {', '.join(_ADULT)}, MEN, MET "
        "and PED. Lay it out as nnU-Net has it, with a dataset.json that names its labels"
    )


def _case(path: Path) -> tuple[str, CaseFiles]:
    joint, names = ("-", _NEW_FILES) if _NEW.fullmatch(path.name) else ("_", _OLD_FILES)
    files = tuple(ImageFile(path=with_ending(path / f"{path.name}{joint}{name}")) for name in names)
    label = with_ending(path / f"{path.name}{joint}seg")
    case = CaseFiles(id=path.name, subject=subject_of(path.name), images=files, label=label if label.exists() else None)
    return _layout(path), case


def _no_label(path: Path) -> str:
    expected = with_ending(path / f"{path.name}{'-' if _NEW.fullmatch(path.name) else '_'}seg").name
    near = sorted(entry.name for entry in path.iterdir() if stem(entry.name) and "seg" in entry.name.lower())
    return f"it has no {expected}" + (f", but {near[0]}: rename it if that is its segmentation" if near else "")
