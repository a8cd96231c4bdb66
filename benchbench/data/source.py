"""Source of a data set: its cases' files, channels, labels and regions, whatever their layout on disk.

A file's name says the case, and the case says the patient: two scans of one patient share a `subject`, so that no split
ever separates them. What cannot be a case is a `Fault` beside the others, and not the end of the data set.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from benchbench.core import config as core_config
from benchbench.core.errors import DataError
from benchbench.data.plan import LARGEST_LABEL

#: Endings that are read, the longest first.
ENDINGS = (".nii.gz", ".nii")

_SPELLINGS = (*ENDINGS, *(end.upper() for end in ENDINGS))

Level = Literal["fail", "warn"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that is wrong, or odd, with one case or with the whole."""

    level: Level  # `fail`: the case is left out; `warn`: worth a look
    case: str = ""  # empty: of the whole data set
    text: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """One channel of a case."""

    path: Path
    volume: int | None = None  # of a 4-D file, which one along the last axis; None: a 3-D file


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CaseFiles:
    """The files of one case."""

    id: str
    subject: str  # the patient; equal for several scans of one
    images: tuple[ImageFile, ...]  # one a channel, in order
    label: Path | None  # None: there is nothing to compare with

    @property
    def files(self) -> list[Path]:
        """Each file once, the label last."""
        images = list(dict.fromkeys(image.path for image in self.images))
        return [*images, self.label] if self.label else images


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A data set on disk."""

    name: str  # the folder's
    title: str
    folder: Path
    layout: str  # `decathlon`, `nnunet-v1`, `nnunet`, or `brats` with what tells its labels, such as `brats2021`
    channels: tuple[str, ...]
    labels: Mapping[int, str]  # value in a label map -> what it is, background included
    regions: Mapping[str, tuple[int, ...]]  # what is segmented -> the labels it covers, in order
    paint: tuple[int, ...]  # label that each region gets in a prediction's map, painted in this order
    exclusive: bool  # whether no voxel is in two regions
    cases: tuple[CaseFiles, ...]
    licence: str
    faults: tuple[Fault, ...] = ()  # that its list of cases shows, such as one without a label

    @property
    def is_ct(self) -> bool:
        """Whether its only channel is in Hounsfield units."""
        return tuple(name.upper() for name in self.channels) == ("CT",)


def make_source(
    folder: Path,
    *,
    title: str,
    layout: str,
    channels: tuple[str, ...],
    labels: Mapping[int, str],
    regions: Mapping[str, tuple[int, ...]] | None = None,
    paint: tuple[int, ...] | None = None,
    cases: tuple[CaseFiles, ...],
    licence: str,
    faults: Sequence[Fault] = (),
) -> Source:
    """A source, with regions from the labels where none are given.

    Labels of one name get distinct ones, and so do cases; 0 is the background, said or not.

    Raises:
        DataError: nothing but background, a region of no or of an unknown label, a label that is too large, or no case.
    """
    problems = list(faults)
    labels = {0: "background"} | dict(labels)
    if regions is None:
        regions = {name: (value,) for value, name in _distinct(folder, labels, problems)}
        paint = tuple(value for value in sorted(labels) if value)
    covered = [value for values in regions.values() for value in values]
    if not regions:
        raise DataError(f"{folder}: its labels name nothing but background, so there is nothing to segment")
    for name, values in regions.items():
        if not values:
            raise DataError(f"{folder}: its region {name!r} covers no label")
    if strange := sorted({*covered, *(paint or ())} - set(labels)):
        raise DataError(f"{folder}: a region covers the label {strange[0]}, which is not among its labels")
    if large := [value for value in labels if abs(value) > LARGEST_LABEL]:
        raise DataError(f"{folder}: its label {large[0]} is beyond {LARGEST_LABEL}: number the labels anew")
    distinct = _told_apart(folder, cases, problems)
    if not distinct:
        raise DataError(f"{folder}: no case in it" + (f"; {problems[0].case}: {problems[0].text}" if problems else ""))
    return Source(
        name=folder.resolve().name,
        title=title,
        folder=folder,
        layout=layout,
        channels=channels,
        labels=dict(sorted(labels.items())),
        regions=regions,
        paint=paint or tuple(values[0] for values in regions.values()),
        exclusive=len(set(covered)) == len(covered),
        cases=tuple(sorted(distinct, key=lambda case: case.id)),
        licence=licence,
        faults=tuple(problems),
    )


def _distinct(folder: Path, labels: Mapping[int, str], faults: list[Fault]) -> list[tuple[int, str]]:
    """Each label but the background with a name of its own, by value."""
    named = [(value, name) for value, name in sorted(labels.items()) if value]
    count = Counter(name for _, name in named)
    distinct = []
    for value, name in named:
        unique = name if name and count[name] == 1 else f"{name or 'label'} {value}"
        if unique != name and unique in count:
            raise DataError(f"{folder}: two of its labels are called {name!r}, and another one {unique!r}: rename one")
        distinct.append((value, unique))
    for name, n in count.items():
        if n > 1:
            apart = ", ".join(new for value, new in distinct if labels[value] == name)
            text = f"{n} of its labels are called {name!r}: they are renamed to {apart}"
            faults.append(Fault(level="warn", text=text))
    return distinct


def _told_apart(folder: Path, cases: Iterable[CaseFiles], faults: list[Fault]) -> list[CaseFiles]:
    """Cases with ids of their own: those of one name are called by their folders, too."""
    by_id: dict[str, list[CaseFiles]] = {}
    for case in cases:
        by_id.setdefault(case.id, []).append(case)
    kept: list[CaseFiles] = []
    for name, same in by_id.items():
        by_file: dict[tuple[Path, ...], CaseFiles] = {}
        for case in same:
            files = tuple(file.path for file in case.images)
            if files not in by_file:
                by_file[files] = case
                continue
            other = "" if case.label == by_file[files].label else f", with another label ({case.label})"
            faults.append(Fault(level="fail", case=name, text=f"its image is listed again{other}: keep one of them"))
        if len(by_file) == 1:
            kept += by_file.values()
            continue
        places = {files: files[0].parent.relative_to(folder).parts for files in by_file}
        common = shared_start(list(places.values()))
        for files, case in by_file.items():
            place = "/".join(places[files][common:])
            unique = f"{place}/{name}" if place else files[0].name
            while unique in by_id or any(unique == earlier.id for earlier in kept):
                unique += "+"
            # what lies in one folder is taken for one patient's, so that no split parts it
            subject = place if place and case.subject == name else case.subject
            kept.append(dataclasses.replace(case, id=unique, subject=subject))
    return kept


_SCAN_OF_BRATS = re.compile(r"(BraTS-[A-Z]+-\d{5})-\d{3}")


def subject_of(case: str) -> str:
    """The patient of a case, by its name: of BraTS since 2023 without the scan's number, else the case itself."""
    match = _SCAN_OF_BRATS.match(case)
    return match[1] if match else case


def shared_start(several: Sequence[Sequence[str]]) -> int:
    """How many letters, or parts of a path, all of them begin with."""
    shortest = min(map(len, several))
    return next((i for i in range(shortest) if len({parts[i] for parts in several}) > 1), shortest)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        DataError: it cannot be read, or is none.
    """
    description = core_config.read_json(path, "the description", DataError)
    if not isinstance(description, dict):
        raise DataError(f"{path} holds a list or a value, not an object with the data set's description")
    return description


def whole(value: Any) -> int:
    """A whole number of a description, which may be written as 1, 1.0 or "1".

    Raises:
        TypeError: it is neither a number nor a text.
        ValueError: it is none.
    """
    if isinstance(value, bool) or (isinstance(value, str) and not re.fullmatch(r"\s*-?\d{1,18}\s*", value)):
        raise ValueError(f"{value!r} is no whole number")
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(f"{value!r} is no whole number")
    return int(value)


def by_number(named: Mapping[str, Any]) -> list[tuple[int, Any]]:
    """A description's `{"0": ..., "1": ...}`, sorted.

    Raises:
        ValueError: a key is no number, or two are the same one.
    """
    numbered = sorted(((whole(key), value) for key, value in named.items()), key=lambda item: item[0])
    if len(dict(numbered)) != len(numbered):
        raise ValueError("two of its keys are the same number")
    return numbered


def described(folder: Path, description: Mapping[str, Any], cases: int, renamed: Sequence[str]) -> dict[str, Any]:
    """Title and licence of a `dataset.json`, and where it and the files differ, for `make_source`.

    Args:
        cases: that are there.
        renamed: files with another ending than the description says, as `files_named` notes them.
    """
    faults = []
    if renamed:
        text = f"{len(renamed)} files have another ending than the description says, such as {renamed[0]}"
        faults.append(Fault(level="warn", text=text))
    if (stated := description.get("numTraining", cases)) != cases:
        faults.append(Fault(level="warn", text=f"numTraining is {stated!r}, but there are {cases} cases"))
    return {
        "title": str(description.get("description") or description.get("name") or folder.name),
        "licence": str(description.get("licence") or description.get("license") or "not stated"),
        "faults": faults,
    }


def stem(name: str) -> str | None:
    """A file's name without its ending; None for a file that is no image, or hidden."""
    if name.startswith("."):  # such as macOS leaves in archives
        return None
    return next((name[: -len(end)] for end in ENDINGS if name.lower().endswith(end)), None)


def with_ending(start: Path, usual: str = ENDINGS[0]) -> Path:
    """The file of a name that lacks its ending; the usual one where none is there, so that its absence is told by name.

    Raises:
        DataError: its folder cannot be looked into, or no file can have such a name.
    """
    candidates = [start.with_name(start.name + end) for end in dict.fromkeys((usual, *_SPELLINGS))]
    try:
        return next((path for path in candidates if path.exists()), candidates[0])
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {candidates[0]}: {getattr(error, 'strerror', None) or error}") from error


def files_named(folder: Path, names: Iterable[Any], renamed: list[str]) -> list[Path]:
    """The files that a description names, or where one is missing that which differs from it in its ending alone.

    Args:
        renamed: gets the files with another ending.

    Raises:
        DataError: one leads out of the data set, is no image, or cannot be looked for.
    """
    files = []
    for name in names:
        path = _inside(folder, name)
        start = stem(path.name)
        if start is None:
            raise DataError(f"{folder / 'dataset.json'} lists {name!r}, which is no .nii or .nii.gz")
        files.append(with_ending(path.with_name(start), path.name[len(start) :]))
        if files[-1].name != path.name:
            renamed.append(f"{files[-1].name} for {path.name}")
    return files


def _inside(folder: Path, named: Any) -> Path:
    """A path that a description names, which must not lead out of the data set.

    Args:
        named: relative to it, with slashes or backslashes; or absolute, into the folder or where it links to.

    Raises:
        DataError: it leads out, or is no path.
    """
    if not isinstance(named, str) or not named or "\0" in named:
        raise DataError(f"{folder}: its description names {named!r}, which is no file")
    text = named.replace("\\", "/") if "\\" in named and not os.path.lexists(folder / named) else named
    path = Path(os.path.normpath(folder.absolute() / text))
    ways = [path]
    if Path(text).is_absolute():
        ways.append(Path(os.path.realpath(path.parent)) / path.name)
    for base in (Path(os.path.normpath(folder.absolute())), Path(os.path.realpath(folder))):
        for way in ways:
            if way.is_relative_to(base) and way != base:
                return folder / way.relative_to(base)
    raise DataError(
        f"{folder}: its description names {named!r}, which lies outside of the data set; name it relative to the folder"
    )
