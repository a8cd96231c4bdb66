"""Model cards: a TOML file says what a network is.

A card is found by its name in `models/cards`, or read from a path; `pkg.module:Class` needs no card at all.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbench.core.config import check_keys, read_toml
from benchbench.core.errors import BenchError, CardError, UsageError, named_line, unknown
from benchbench.core.records import METRIC_UNITS, Measurement, ModelSpec
from benchbench.zoo import checkpoint, classes

if TYPE_CHECKING:
    from benchbench.data import DataPlan

DEFAULT_CHANNELS = (4, 3)  # BraTS: four MRI contrasts in, three regions out
DEFAULT_SPATIAL = (128, 128, 128)
SEE_ALL = "'bench list models' shows all"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFigure:
    """A figure as it was printed, with where."""

    metric: str
    value: float
    source: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One variant of a network."""

    name: str
    title: str
    arch: str  # `pkg.module:Class`
    in_channels: int = DEFAULT_CHANNELS[0]
    out_channels: int = DEFAULT_CHANNELS[1]
    spatial: tuple[int, ...] = DEFAULT_SPATIAL  # (D, H, W) that the figures of its paper are for
    task: str = "segmentation"
    licence: str = ""  # of the public reference code
    reference: str = ""  # where that code is
    notes: str = ""
    plan: str = ""  # `pkg.module:function`: keywords of the class for a patch, on a data set of one's own
    learning_rate: float | None = None  # highest, that it is trained with; None: that of `TrainRecipe`
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    paper: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    published: tuple[PublishedFigure, ...] = ()
    folder: str | None = None  # of a user's own card: its class may lie beside it
    checkpoint: str | None = None  # path of the one file of weights that this card is of
    compression: Mapping[str, Any] | None = None  # what was done to a larger network to get this one

    def spec(
        self, *, in_channels: int | None = None, out_channels: int | None = None, checkpoint: str | None = None
    ) -> ModelSpec:
        """The card as a ModelSpec, with other channels where given."""
        return ModelSpec(
            name=self.name,
            arch=self.arch,
            kwargs=self.kwargs,
            in_channels=self.in_channels if in_channels is None else in_channels,
            out_channels=self.out_channels if out_channels is None else out_channels,
            checkpoint=checkpoint,
        )

    def planned(self, patch: Sequence[int], spacing_mm: Sequence[float] = (1, 1, 1)) -> Card:
        """The card as its own plan has it for a patch (D, H, W) of such voxels; the same card where it has no plan.

        Raises:
            CardError: the plan cannot be imported, fails, or gives no keywords.
        """
        if not self.plan:
            return self
        planned = classes.find(self.plan, "function")
        try:
            keywords = planned(tuple(patch), tuple(spacing_mm))
        except BenchError:
            raise
        except Exception as error:  # a function of the user's own
            raise CardError(f"{self.name}: its plan {self.plan!r} ends in {named_line(error)}") from error
        if not isinstance(keywords, Mapping) or not all(isinstance(key, str) for key in keywords):
            raise CardError(f"{self.name}: its plan {self.plan!r} must give keywords of the class, not {keywords!r}")
        return dataclasses.replace(self, kwargs={**self.kwargs, **keywords})

    def on(self, plan: DataPlan, spatial: Sequence[int] | None = None) -> Card:
        """The card for a data set: planned for it if it is a folder, else unchanged.

        Args:
            spatial: (D, H, W) of the patch, voxels; None: the data set's own.
        """
        return self.planned(spatial or plan.patch, plan.spacing_mm) if plan.folder else self

    def published_measurements(self, in_channels: int, out_channels: int, spatial: Sequence[int]) -> list[Measurement]:
        """The card's published figures, if they are for this very input; they are for the card's own."""
        if (in_channels, out_channels, tuple(spatial)) != (self.in_channels, self.out_channels, self.spatial):
            return []
        return [
            Measurement(
                metric=p.metric,
                unit=METRIC_UNITS.get(p.metric, "1"),
                value=p.value,
                origin="published",
                method="as printed",
                source=p.source,
            )
            for p in self.published
        ]


_CARDS = Path(__file__).parents[1] / "models" / "cards"
_REQUIRED = dict.fromkeys(("name", "title", "arch"), (str,))
_OPTIONAL = {
    **dict.fromkeys(("in_channels", "out_channels"), (int,)),
    "learning_rate": (int, float),
    **dict.fromkeys(("task", "licence", "reference", "notes", "plan"), (str,)),
    **dict.fromkeys(("kwargs", "paper"), (dict,)),
    **dict.fromkeys(("spatial", "published"), (list,)),
}


def read_card(path: Path) -> Card:
    """Read a card.

    Raises:
        CardError: no such file, broken TOML, a missing or unknown key, or a value of the wrong type.
    """
    data = read_toml(path, "the card", CardError)
    check_keys(data, _REQUIRED, _OPTIONAL, str(path), CardError)
    for key, kind in (("arch", "Class"), ("plan", "function")):
        if ":" not in data.get(key, ":"):
            raise CardError(f"{path}: {key} must be 'pkg.module:{kind}', not {data[key]!r}")
    spatial = tuple(data.get("spatial", DEFAULT_SPATIAL))
    if len(spatial) != 3 or any(not isinstance(s, int) or s < 1 for s in spatial):
        raise CardError(f"{path}: spatial must be three positive whole numbers, not {list(spatial)}")
    for key in ("in_channels", "out_channels"):
        if data.get(key, 1) < 1:
            raise CardError(f"{path}: {key} must be positive, not {data[key]}")
    if not 0 < data.get("learning_rate", 1) < math.inf:
        raise CardError(f"{path}: learning_rate must be above 0, not {data['learning_rate']}")
    published = tuple(_published(entry, path) for entry in data.get("published", ()))
    folder = None if path.parent.resolve() == _CARDS.resolve() else str(path.parent)
    return Card(**(data | {"spatial": spatial, "published": published, "folder": folder}))


def _published(entry: Any, path: Path) -> PublishedFigure:
    if not isinstance(entry, dict) or set(entry) != {"metric", "value", "source"}:
        raise CardError(f"{path}: each [[published]] needs metric, value and source, not {entry!r}")
    if not isinstance(entry["value"], (int, float)) or entry["metric"] not in METRIC_UNITS:
        raise CardError(f"{path}: [[published]] {unknown('metric', str(entry['metric']), METRIC_UNITS)}")
    return PublishedFigure(metric=entry["metric"], value=float(entry["value"]), source=str(entry["source"]))


def list_models() -> tuple[str, ...]:
    """The names of all networks in the zoo, in alphabetical order."""
    return tuple(sorted(path.stem for path in _CARDS.glob("*.toml")))


def get_card(name: str) -> Card:
    """The card of a network by its name.

    Raises:
        UsageError: there is no such network; the message has the nearest name.
    """
    if name not in list_models():
        raise UsageError(unknown("model", name, list_models(), hint=SEE_ALL))
    return read_card(_CARDS / f"{name}.toml")


def name_for(info: checkpoint.CheckpointInfo) -> str:
    """What a command calls the network of some weights: its name, or the weights' path where no card has that name."""
    return info.model.name if info.model.name in list_models() and not info.compression else str(info.path)


def card_of(info: checkpoint.CheckpointInfo) -> Card:
    """The card of some weights: that of their network, with what makes these their own."""
    spec = info.model
    names = (spec.name, str((info.compression or {}).get("root")))
    same_class = [card for name in names if name in list_models() and (card := get_card(name)).arch == spec.arch]
    base = same_class[0] if same_class else Card(name=spec.name, title=spec.name, arch=spec.arch)
    identity = (spec.in_channels, spec.out_channels, info.spatial, dict(spec.kwargs))
    plain = not info.compression and identity == (base.in_channels, base.out_channels, base.spatial, dict(base.kwargs))
    return dataclasses.replace(
        base,
        name=spec.name,
        title=base.title if plain else f"{base.title}, {spec.name}",
        in_channels=spec.in_channels,
        out_channels=spec.out_channels,
        spatial=info.spatial,
        kwargs=spec.kwargs,
        plan="",
        paper=base.paper if plain else {},
        published=base.published if plain else (),
        checkpoint=str(info.path),
        compression=info.compression,
    )


#: What is measured where nobody names a network: the paper's, the one that a search found, the most accurate on the
#: hippocampus, and the usual transformer, all of which take seconds and at most 2 GB on a processor.
USUAL = ("slim_unetr", "slim_unetr_s2", "nnunet_small", "unetr")

_CLASS_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def find_cards(selection: str, *, trust: bool = False) -> list[Card]:
    """The cards that `--models` means.

    A card, or a class, that is named here is the word of a person: its code may be imported. What a file of weights
    says of its class is not.

    Args:
        selection: `all`, or names, globs, paths of cards, of weights or of a folder of one network's, and
            `pkg.module:Class`, separated by commas.
        trust: also import what weights name, if it is not of benchbench.

    Raises:
        UsageError: a part of it names nothing, or is a file of another kind.
        CardError: weights name a class that is not of benchbench, without trust.
    """
    by_name: dict[str, Card] = {}
    for part in filter(None, (p.strip() for p in selection.split(","))):
        for card in _find(part, trust):
            if card.name in by_name and card != by_name[card.name]:
                raise UsageError(
                    f"two networks are called {card.name!r}: give one of the cards another name "
                    "('bench compress' has --name)"
                )
            by_name[card.name] = card
    _check_folders(by_name.values())
    if not by_name:
        raise UsageError(f"--models {selection!r} names no network; {SEE_ALL}")
    return list(by_name.values())


def with_channels(cards: Sequence[Card], in_channels: int | None, out_channels: int | None) -> list[Card]:
    """The cards with channels that are asked for by number, and without figures that are for others.

    Raises:
        UsageError: one is of weights, which have theirs.
    """
    changed = []
    for card in cards:
        wanted = (in_channels or card.in_channels, out_channels or card.out_channels)
        if wanted != (card.in_channels, card.out_channels):
            if card.checkpoint:
                raise UsageError(
                    f"{card.checkpoint} is of a network with {card.in_channels} channels in and {card.out_channels} "
                    f"out, not {wanted[0]} and {wanted[1]}: leave --in-channels and --out-channels out"
                )
            card = dataclasses.replace(card, in_channels=wanted[0], out_channels=wanted[1], published=())
        changed.append(card)
    return changed


def check_channels(plan: DataPlan, in_channels: int | None, out_channels: int | None) -> None:
    """Refuse channels that are asked for by number and are not those of the data set.

    Raises:
        UsageError: they differ.
    """
    for flag, asked, expected in (("in", in_channels, plan.in_channels), ("out", out_channels, plan.out_channels)):
        if asked not in (None, expected):
            raise UsageError(f"--{flag}-channels {asked}: {plan.name} has {expected} of them; leave the flag out")


def _find(part: str, trust: bool) -> list[Card]:
    if part == "all":
        return [get_card(name) for name in list_models()]
    if part.endswith(".toml"):
        return [_named(read_card(Path(part)))]
    if part.endswith(".safetensors"):
        return [_of_weights(checkpoint.read_sidecar(Path(part)), trust)]
    if _CLASS_PATH.fullmatch(part):
        return [_named(Card(name=part, title=part.partition(":")[2], arch=part))]
    if part in list_models():
        return [get_card(part)]
    if any(sign in part for sign in "*?["):
        names = fnmatch.filter(list_models(), part)
        if not names:
            raise UsageError(f"no model's name matches {part!r}; {SEE_ALL}")
        return [get_card(name) for name in names]
    if (weights := _alone_in(part)) is not None:
        return [_of_weights(checkpoint.read_sidecar(weights), trust)]
    if why := _no_network(part):
        raise UsageError(why)
    return [get_card(part)]


def _named(card: Card) -> Card:
    """A card of the user's own, whose class and plan may be imported."""
    for path in filter(None, (card.plan, card.arch)):
        classes.allow_import(path, card.folder)
    return card


def _of_weights(info: checkpoint.CheckpointInfo, trust: bool) -> Card:
    card = card_of(info)
    if trust:
        classes.allow_import(card.arch, str(info.path.parent))
    if not classes.may_import(card.arch):
        raise CardError(
            f"{info.path} names its class {card.arch!r}, which is not part of benchbench, so its code is not run: add "
            "--trust (trust=True in Python) if you trust it, or give your own card or class, with --checkpoint "
            f"{info.path}"
        )
    users = card.arch in classes.named()
    return dataclasses.replace(card, folder=str(info.path.parent)) if users else card


def _check_folders(cards: Iterable[Card]) -> None:
    """Refuse two modules of one name, each beside its own card: Python knows one of them."""
    seen: dict[str, str] = {}
    for card in cards:
        for path in filter(None, (card.arch, card.plan)) if card.folder else ():
            top, folder = re.split(r"[.:]", path)[0], os.path.realpath(str(card.folder))
            if not os.path.isfile(os.path.join(folder, f"{top}.py")) and not os.path.isdir(os.path.join(folder, top)):
                continue
            if seen.setdefault(top, folder) != folder:
                raise UsageError(
                    f"two modules are called {top!r}, in {seen[top]} and in {folder}: give one of them another name, "
                    "or measure them one after the other"
                )


_PICKLE = (
    "is a pickle of PyTorch, which says nothing of its network, so it is not read here: 'bench import' takes its "
    "weights, with --arch; or give the network's class as pkg.module:Class, or a card of it (docs/add_a_model.md)"
)
_ARCHIVE = "is an archive: unpack it, and name a card (.toml) or weights (.safetensors) in it"
_KINDS = {
    **dict.fromkeys((".pth", ".pt", ".ckpt", ".bin", ".pkl", ".pickle", ".tar", ".model"), _PICKLE),
    ".onnx": "is an ONNX file, and networks are measured in PyTorch: give its class as pkg.module:Class, or a card of "
    "it (docs/add_a_model.md)",
    **dict.fromkeys((".zip", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".whl"), _ARCHIVE),
    ".py": "is a file of Python: name the class in it, as {stem}:Class, in the folder that it lies in, or by a card "
    "beside it (docs/add_a_model.md)",
    ".json": "is JSON, such as what lies beside weights: name the weights (.safetensors), or a card (.toml)",
}


def _no_network(part: str) -> str | None:
    """What is said of a file or folder, or of what looks like one, that is no network; None: it looks like a name."""
    path = Path(part)
    try:
        is_dir, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:  # a name that is too long, a folder that may not be looked into
        return f"cannot read {part[:200]!r} as a network: {getattr(error, 'strerror', None) or error}"
    if is_dir:
        inside = _networks_in(path)
        here = f"name one of the networks in it, such as {', '.join(inside)}" if inside else "no network lies in it"
        return f"{part} is a folder: {here}; a network is a name, a card (.toml), weights (.safetensors) or a class"
    kind = next((text for end, text in _KINDS.items() if part.lower().endswith(end)), None)
    if is_file and kind:
        return f"{part} {kind.format(stem=path.stem)}"
    if is_file:
        return f"{part} is a file of another kind: name a card (.toml), weights (.safetensors) or pkg.module:Class"
    if kind or "/" in part or os.sep in part:
        return f"no network at {part}: no such file or folder; {SEE_ALL}"
    return None


def _alone_in(part: str) -> Path | None:
    """The weights in a folder that holds those of one network; None: it is no such folder."""
    try:
        inside = list(Path(part).glob("*.safetensors")) if Path(part).is_dir() else []
    except (OSError, ValueError):
        return None
    return inside[0] if len(inside) == 1 else None


def names_weights(text: str) -> bool:
    """Whether what a command calls a network is the path of weights, or of a folder of one network's."""
    return text.endswith(".safetensors") or (text not in list_models() and _alone_in(text) is not None)


def _networks_in(folder: Path, most: int = 3) -> list[str]:
    try:
        inside = [path for pattern in ("*.toml", "*.safetensors", "*/*.safetensors") for path in folder.glob(pattern)]
    except OSError:
        return []
    return [str(path) for path in sorted(inside)[:most]]


def is_of(spec: ModelSpec, card: Card) -> bool:
    """Whether a network, such as that of some weights, is a card's: two of the zoo may share a class, and differ."""
    return spec.arch == card.arch and (spec.name == card.name or spec.name not in list_models())
