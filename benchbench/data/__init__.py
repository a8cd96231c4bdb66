"""Data sets: those that come with benchbench, and any folder in a known layout; `load_case` reads one case.

Importing it costs milliseconds: what makes or reads the voxels is imported on first use.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from types import MappingProxyType

from benchbench.core.config import parse_json
from benchbench.core.errors import DataError, unknown
from benchbench.data.plan import ALL, Case, DataPlan, plan_from_json

__all__ = ["Case", "DataPlan", "comes_along", "get_plan", "list_datasets", "load_case"]

#: The three regions that BraTS ranks by, in the order of MONAI's ConvertToMultiChannelBasedOnBratsClasses.
_BRATS_REGIONS = MappingProxyType({"tc": (1, 3), "wt": (1, 2, 3), "et": (3,)})

_PLANS: dict[str, DataPlan] = {
    "phantom": DataPlan(
        name="phantom",
        title="semi-synthetic glioma cohort on the MNI152 template, 2 mm",
        channels=("T1", "T1ce", "T2", "FLAIR"),
        regions=_BRATS_REGIONS,
        labels=MappingProxyType({0: "background", 1: "NCR", 2: "ED", 3: "ET"}),  # the numbering of BraTS 2023
        patch=(128, 128, 128),
        spacing_mm=(2.0, 2.0, 2.0),
        splits=MappingProxyType({"train": 64, "val": 8, "test": 16}),
        semi_synthetic=True,
        licence="made here from the MNI152 template that nilearn carries (its notice is in NOTICE)",
    ),
}

#: What may follow a folder: `#2`, `#all`, `#2+exclude`.
_PART = re.compile(r"(?P<folder>.+)#(?P<fold>all|\d{0,9})(?:\+(?P<rule>brats|exclude))?", re.DOTALL | re.ASCII)


def list_datasets() -> tuple[DataPlan, ...]:
    """The data sets that come with benchbench."""
    return tuple(_PLANS.values())


def is_bundled(name: str | None) -> bool:
    """Whether a data set is one of benchbench's own, and so wherever benchbench is."""
    return name in _PLANS


def get_plan(name: str, *, fold: int | None = None, rule: str | None = None) -> DataPlan:
    """The plan of one data set.

    Args:
        name: `phantom`, a folder, or what a plan's `where` says.
        fold: whose cases are `test`, `plan.ALL` for every case; None: the one in `name`, else 0.
        rule: for empty regions, `brats` or `exclude`; None: the one in `name`, else what is usual for the data.

    Raises:
        DataError: no data set of that name or in that folder.
    """
    place, sign, network = name.partition("@{")
    if sign and not _exists(_home(name)):
        return get_plan(place, fold=fold, rule=rule).as_seen_by(_plan_of_network(f"{{{network}"))
    if name in _PLANS:
        if fold:
            raise DataError(f"{name} has its own split, and no folds")
        if rule not in (None, _PLANS[name].usual_rule):
            raise DataError(f"{name} can be evaluated with the rule {_PLANS[name].usual_rule} only")
        return _PLANS[name]
    folder, named, named_rule = _parts(name)
    if "/" not in name and not _exists(folder):
        raise DataError(unknown("data set", name, _PLANS, hint="give a folder, or see 'bench data list'"))
    from benchbench.data.folder import plan_folder

    plan = plan_folder(folder, fold=named if fold is None else fold)
    wanted_rule = named_rule if rule is None else rule
    return plan if wanted_rule in ("", plan.usual_rule) else dataclasses.replace(plan, rule=wanted_rule)


def _plan_of_network(text: str) -> DataPlan:
    """The plan in a plan's `where`, of a network that prepares images in its own way."""
    try:
        return plan_from_json(parse_json(text, "the plan of a network", DataError))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"the plan of a network cannot be read: {error}") from error


def _parts(name: str) -> tuple[Path, int, str]:
    """Folder, fold and rule of what a plan's `where` says; a folder may have a `#` in its own name."""
    parts = None if _exists(whole := _home(name)) else _PART.fullmatch(name)
    if parts is None:
        return whole, 0, ""
    fold = ALL if parts["fold"] == "all" else int(parts["fold"] or 0)
    return _home(parts["folder"]), fold, parts["rule"] or ""


def _home(name: str) -> Path:
    """A path whose `~` is somebody's home; left as it is where nobody has that name."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def load_case(name: str, split: str, index: int) -> Case:
    """One case of a data set that `get_plan` finds; `index` counts from 0 within the split.

    Raises:
        DataError: unknown data set, split or case, or one that cannot be read.
    """
    plan = get_plan(name)
    plan.check_case(split, index)
    if plan.folder is not None:
        from benchbench.data import preprocessing

        return preprocessing.load_case(plan, split, index)
    from benchbench.data import phantom

    return phantom.load_case(split, index)
