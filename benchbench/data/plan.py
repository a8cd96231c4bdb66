"""Plan of a data set (channels, regions, patch, spacing), and one case of it.

The plan fixes channels, regions and patch, and thereby the network that can be trained on the data;
a Dice without its plan says nothing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from benchbench.core import records
from benchbench.core.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    LabelMap = npt.NDArray[np.integer[Any]]  # of the dtype that `label_dtype` gives

#: The regions of BraTS, as they are called.
_BRATS = ({"tc", "wt", "et"}, {"tumor core", "whole tumor", "enhancing tumor"})

#: Contrasts of brain tumours -> what they are called, in data sets over the years and in networks for them.
CONTRASTS = {"t1": ("t1", "t1n"), "t1ce": ("t1ce", "t1c", "t1gd"), "t2": ("t2", "t2w"), "flair": ("flair", "t2f")}

ALL = -1  # in the place of a fold: every case is `test`, as of another hospital's data

LARGEST_LABEL = 2**24  # beyond it float32, which the transforms move labels in, has no longer every whole number


def label_dtype(values: Iterable[int]) -> type[np.integer[Any]]:
    """The smallest of uint8, int16 and int32 that a map of these labels fits in."""
    import numpy as np

    labels = [0, *values]
    fitting = (d for d in (np.uint8, np.int16) if np.iinfo(d).min <= min(labels) and max(labels) <= np.iinfo(d).max)
    return next(fitting, np.int32)


def alike(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Names that differ in signs and capitals alone, such as `GTV+` and `gtv-`: no file or metric tells them apart."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault("".join(c if c.isalnum() else "_" for c in name.lower()), []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def contrast(channel: str) -> str:
    """The usual name of a channel, of those that go by several."""
    name = channel.lower()
    return next((usual for usual, names in CONTRASTS.items() if name in names), name)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChannelScheme:
    """How nnU-Net normalises one channel."""

    name: Literal["z-score", "ct", "none", "to 0-1", "rgb to 0-1"]
    masked: bool = False  # of `z-score`: over what is not 0, and the rest stays 0
    clip: tuple[float, float, float, float] | None = None  # of `ct`: low, high, mean, deviation


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Resampling:
    """How nnU-Net resamples: orders of the splines, and when slices are resampled apart from the axis through them."""

    order: Annotated[int, records.AtLeast(0)]
    order_z: Annotated[int, records.AtLeast(0)] = 0  # along the coarse axis, where it is apart
    separate_z: bool | None = None  # None: where one axis is that much coarser
    anisotropy: Annotated[float, records.AtLeast(0)] = 3.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NnunetPreparation:
    """What nnU-Net does to an image before a network of its own sees it; the axes are the network's."""

    spacing_mm: tuple[float, float, float]
    transpose: tuple[int, int, int]  # which of nnU-Net's axes (the file's, last first) each of the network's is
    reorient: bool  # whether files are turned into RAS first
    channels: tuple[ChannelScheme, ...]
    images: Resampling
    logits: Resampling
    within: records.Sides | None = None  # of all cases that it was trained on, once cropped; None: one had another
    # spacing, or nobody knows


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MonaiStep:
    """A transform of MONAI for images, with the keywords that decide on its result."""

    name: str  # one of `monai_preparation.STEPS`
    options: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MonaiWindows:
    """MONAI's sliding windows, beside their size."""

    overlap: Annotated[float, records.AtLeast(0)] = 0.25
    mode: Literal["constant", "gaussian"] = "constant"
    sigma_scale: Annotated[float, records.Above(0)] = 0.125
    padding_mode: Literal["constant", "reflect", "replicate", "circular"] = "constant"
    cval: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MonaiPreparation:
    """What a MONAI bundle does to an image before its network sees it, and to the logits after."""

    steps: tuple[MonaiStep, ...]
    windows: MonaiWindows
    activation: Literal["none", "softmax", "sigmoid"]
    decided: Literal["argmax", "threshold"]
    threshold: float = 0.5  # from which on a voxel is in a region
    inverted: Literal["logits", "activated", "labels"]  # what is brought back into the voxels of the file
    nearest: bool  # whether by the nearest voxel


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What is done to the files of a real data set before a network sees them."""

    spacing_mm: tuple[float, float, float]  # in RAS order
    resample: bool  # whether any case has another spacing
    foreground: bool  # the background has one value: cropped away, made 0, and left out of the z-score
    clip: tuple[float, float, float, float] | None  # of CT: low, high, mean, deviation, Hounsfield units
    nnunet: NnunetPreparation | None = None  # then images are prepared in this way, and by nothing else of the above
    monai: MonaiPreparation | None = None  # likewise

    @property
    def is_its_own(self) -> bool:
        """Whether a network of another program brought it along, so that data sets are prepared for it apart."""
        return self.nnunet is not None or self.monai is not None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DataPlan:
    """A data set as networks meet it."""

    name: str
    title: str  # one line for a person; says "semi-synthetic" where that is so
    channels: tuple[str, ...]  # contrasts of the image, in the order of its channels
    regions: Mapping[str, tuple[int, ...]]  # output channel -> the labels that it covers, in order; may overlap
    labels: Mapping[int, str]  # value in the label map -> what it is
    patch: records.Sides  # (D, H, W) voxels of the network's input, unless asked otherwise
    spacing_mm: tuple[float, float, float]
    splits: Mapping[str, records.Count]  # split -> number of cases
    semi_synthetic: bool
    licence: str
    sides: records.Sides | None = None  # (D, H, W) voxels of the median case, of a real data set
    exclusive: bool = False  # no voxel is in two regions: one softmax over them and the background
    paint: tuple[int, ...] = ()  # label of each region in a prediction's map
    folder: Path | None = None  # of a real data set
    fold: int = 0  # whose cases are `test`; `ALL`: every case
    ids: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)  # split -> cases, of a real data set
    digest: str = ""  # of a real data set's description, file names and sizes
    rule: str = ""  # for empty regions, where another was asked for than is usual for the data
    listed: str = ""  # hash of the data set's own `splits_final.json`, if that says which case is where
    preparation: Preparation | None = None  # of a real data set
    seen_by: str = ""  # plan of a network that prepares images in its own way, as JSON; see `as_seen_by`

    @property
    def in_channels(self) -> int:
        """Channels of the image."""
        return len(self.channels)

    @property
    def out_channels(self) -> int:
        """One a region; with labels that exclude each other one more, the background, first."""
        return len(self.regions) + self.exclusive

    @property
    def empty_rule(self) -> str:
        """How a region that is empty counts: as BraTS has it for BraTS and the phantom, else left out if both are."""
        return self.rule or self.usual_rule

    @property
    def usual_rule(self) -> str:
        """Of data whose regions are those of BraTS, by whatever name, `brats`; of others `exclude`."""
        names = {name.lower().replace("_", " ").replace("tumour", "tumor") for name in self.regions}
        return "brats" if any(brats <= names for brats in _BRATS) else "exclude"

    @property
    def key(self) -> str:
        """What a record calls it: the same data have the same key wherever they lie, other data another."""
        return f"{self.weights_key}:{self.rule}" if self.digest and self.rule else self.weights_key

    @property
    def weights_key(self) -> str:
        """What weights call it that were trained on it: the key, without how they are judged."""
        part = ":all" if self.fold == ALL else f":fold{self.fold}" if self.fold else ""
        part = f":list{self.listed}{part}" if self.listed and self.fold != ALL else part
        return f"{self.name}:{self.digest[:8]}{part}" if self.digest else self.name

    def is_named_by(self, key: str) -> bool:
        """Whether a key is of a data set of this name, be it of other cases; a folder `phantom` is not the phantom."""
        return key.startswith(f"{self.name}:") if self.digest else key == self.name

    @property
    def where(self) -> str:
        """What `get_plan` finds it by, here."""
        if self.folder is None:
            return self.name
        return f"{self._place}@{self.seen_by}" if self.seen_by else self._place

    @property
    def _place(self) -> str:
        """Folder, fold and rule."""
        part = ("all" if self.fold == ALL else str(self.fold)) + (f"+{self.rule}" if self.rule else "")
        if part == "0":
            return str(self.folder)
        # A folder may be called as this one with its fold.
        return f"{self.folder}/#{part}" if Path(f"{self.folder}#{part}").exists() else f"{self.folder}#{part}"

    def as_seen_by(self, network: DataPlan | None) -> DataPlan:
        """The data set as a network meets it that prepares images in its own way, as those of nnU-Net and MONAI do.

        Args:
            network: plan of its weights; None, or one that is prepared as data sets are here: nothing changes.

        Raises:
            DataError: the network has other channels or labels.
        """
        if network is None or network.preparation is None or not network.preparation.is_its_own:
            return self
        if self.folder is None:
            raise DataError(
                f"{self.name} has no files that could be prepared as the network of {network.name} needs it"
            )
        if self.in_channels != network.in_channels:
            raise DataError(
                f"{self.name} has the channels {', '.join(self.channels)}, and the network of {network.name} takes "
                f"{', '.join(network.channels)}"
            )
        names = {frozenset(values): name for name, values in self.regions.items()}
        wanted = [frozenset(values) for values in network.regions.values()]
        if set(names) != set(wanted):
            raise DataError(
                f"{self.name} has the labels {_described(self.regions)}, and the network of {network.name} answers "
                f"{_described(network.regions)}: a Dice needs the same"
            )
        mine = {contrast(name): name for name in self.channels}
        its = [contrast(name) for name in network.channels]
        alike_named = len(mine) == len(its) and set(mine) == set(its)  # then they go by name, else by their order
        return dataclasses.replace(
            self,
            channels=tuple(mine[name] for name in its) if alike_named else self.channels,
            regions={names[values]: self.regions[names[values]] for values in wanted},
            exclusive=network.exclusive,
            paint=network.paint,
            patch=network.patch,
            spacing_mm=network.spacing_mm,
            preparation=network.preparation,
            seen_by=json.dumps(plan_to_json(network), separators=(",", ":")),
        )

    @property
    def overlap(self) -> float:
        """Of neighbouring windows, as a share of the patch, unless asked otherwise."""
        monai = self.preparation.monai if self.preparation else None
        return 0.5 if monai is None else monai.windows.overlap

    def check_case(self, split: str, index: int) -> None:
        """Refuse a case that the data set does not have.

        Raises:
            DataError: unknown split, or an index outside of it.
        """
        if split not in self.splits:
            raise DataError(f"{self.name} has no split {split!r}; known: {', '.join(self.splits)}")
        if not 0 <= index < self.splits[split]:
            raise DataError(f"{self.name} {split} has cases 0 to {self.splits[split] - 1}, not {index}")

    def to_regions(self, label: LabelMap) -> npt.NDArray[np.bool_]:
        """One channel a region from a label map.

        Args:
            label: (D, H, W) label values.

        Returns:
            (regions, D, H, W) bool, in the order of `regions`.
        """
        import numpy as np

        return np.stack([np.isin(label, values) for values in self.regions.values()])

    def to_label(self, regions: npt.NDArray[np.bool_]) -> LabelMap:
        """A label map from one channel a region; the largest are painted first, the smaller over them.

        Of a network of nnU-Net they are painted in the order that its data set lists them in.

        Args:
            regions: (regions, D, H, W) bool.

        Returns:
            (D, H, W) label values.
        """
        import numpy as np

        covered = list(self.regions.values())
        paint = self.paint or tuple(values[0] for values in covered)
        label: LabelMap = np.zeros(regions.shape[1:], label_dtype([*self.labels, *paint]))
        as_listed = self.preparation is not None and self.preparation.nnunet is not None
        for i in sorted(range(len(covered)), key=lambda i: 0 if as_listed else -len(covered[i])):
            label[regions[i]] = paint[i]
        return label


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One subject: co-registered contrasts and the label map, ready for a network."""

    id: str
    image: npt.NDArray[np.float32]  # (channels, D, H, W), z-scored in the brain, background 0
    label: LabelMap  # (D, H, W)
    affine: npt.NDArray[np.float64]  # (4, 4) voxel -> world, millimetres


def _described(regions: Mapping[str, tuple[int, ...]]) -> str:
    """`core (1, 3), shell (2)`."""
    return ", ".join(f"{name} ({', '.join(map(str, values))})" for name, values in regions.items())


def preparation_to_json(preparation: Preparation) -> dict[str, Any]:
    """A preparation as JSON values; one in our own way is what it was before there was another."""
    plain: dict[str, Any] = records.to_json(preparation)
    for other in ("nnunet", "monai"):
        if plain[other] is None:
            del plain[other]
    return plain


def plan_to_json(plan: DataPlan) -> dict[str, Any]:
    """A plan for the sidecar of weights: without its cases, and without where it lay."""
    plain: dict[str, Any] = records.to_json(dataclasses.replace(plan, folder=None, ids={}))
    del plain["folder"], plain["ids"], plain["seen_by"]
    plain["preparation"] = None if plan.preparation is None else preparation_to_json(plan.preparation)
    plain["regions"] = [[name, list(values)] for name, values in plan.regions.items()]  # their order is the channels'
    plain["labels"] = [[value, name] for value, name in plan.labels.items()]
    return plain


def plan_from_json(plain: Any) -> DataPlan:
    """The reverse of `plan_to_json`.

    Raises:
        KeyError: a field is missing.
        TypeError: a field is of another form.
        ValueError: a field is of another form, or fields contradict each other.
    """
    given = records.value_from_json(Mapping[str, Any], plain, "plan")
    pairs: dict[str, Any] = {
        "regions": records.value_from_json(tuple[tuple[str, tuple[int, ...]], ...], given["regions"], "plan.regions"),
        "labels": records.value_from_json(tuple[tuple[int, str], ...], given["labels"], "plan.labels"),
    }
    for what, entry in pairs.items():
        if len(dict(entry)) != len(entry):
            raise ValueError(f"two of its {what} are called alike")
    fields = {key: value for key, value in given.items() if key not in ("folder", "ids", "seen_by")}
    plan = records.from_json(DataPlan, {**fields, **{key: dict(entry) for key, entry in pairs.items()}}, "plan")
    _check_plan(plan)
    return plan


def _check_plan(plan: DataPlan) -> None:
    """Refuse a plan that no data set can have."""
    values = [*plan.labels, *plan.paint, *(value for members in plan.regions.values() for value in members)]
    how = plan.preparation
    nnunet = how.nnunet if how else None
    if how and how.monai:
        from benchbench.data.monai_preparation import check

        check(how.monai)
    spacings = [*plan.spacing_mm, *(how.spacing_mm if how else ())]
    rules = {
        "channels must name at least one": bool(plan.channels),
        "regions must name at least one, each with labels": bool(plan.regions) and all(plan.regions.values()),
        f"labels, regions and paint must be of -{LARGEST_LABEL} to {LARGEST_LABEL}": all(
            abs(value) <= LARGEST_LABEL for value in values
        ),
        f"paint must have one label for each of the {len(plan.regions)} regions, or none": len(plan.paint)
        in (0, len(plan.regions)),
        "spacing_mm must be above 0": all(side > 0 for side in spacings),
        f"fold must be from {ALL} on": plan.fold >= ALL,
        "rule must be 'brats', 'exclude' or empty": plan.rule in ("", "brats", "exclude"),
        "preparation.clip must be low, high, mean and a deviation above 0": not (how and how.clip)
        or (how.clip[0] < how.clip[1] and how.clip[3] > 0),
        "preparation.nnunet must have a scheme for each channel, spacings above 0, and each axis once": not nnunet
        or (
            len(nnunet.channels) == len(plan.channels)
            and all(side > 0 for side in nnunet.spacing_mm)
            and sorted(nnunet.transpose) == [0, 1, 2]
            and all((scheme.name == "ct") == (scheme.clip is not None) for scheme in nnunet.channels)
            and all(order <= 5 for way in (nnunet.images, nnunet.logits) for order in (way.order, way.order_z))
        ),
    }
    for rule, holds in rules.items():
        if not holds:
            raise ValueError(f"plan.{rule}")
