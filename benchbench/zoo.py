"""Cards to networks: a TOML file says what a network is, `build_model` makes it.

A card is found by its name in `models/cards`, or read from a path; `pkg.module:Class` needs no card
at all. Whatever the source, the class gets the keywords `in_channels`, `out_channels` and `spatial`
if its signature has them, then the card's own. Reading cards needs no torch; building does.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib
import importlib.resources
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbench import checkpoint
from benchbench.documents import check_keys, read_toml
from benchbench.errors import CardError, CheckpointError, ShapeError, UnsupportedError, UsageError, unknown
from benchbench.records import METRIC_UNITS, Measurement, ModelSpec

if TYPE_CHECKING:
    from torch import nn

    from benchbench.data import DataPlan

DEFAULT_CHANNELS = (4, 3)  # BraTS: four MRI contrasts in, three regions out
DEFAULT_SPATIAL = (128, 128, 128)
PRUNED_SHAPES = "pruned_shapes"  # a keyword of specs that `resize` takes, and no class sees
SEE_ALL = "'bench list models' shows all"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Published:
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
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    paper: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    published: tuple[Published, ...] = ()
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
        """The card as its own plan has it for a patch; the same card where it has no plan.

        Args:
            patch: (D, H, W) voxels.
            spacing_mm: of a voxel, likewise.

        Raises:
            CardError: the plan cannot be imported.
        """
        if not self.plan:
            return self
        return dataclasses.replace(
            self, kwargs={**self.kwargs, **_import(self.plan, "function")(tuple(patch), tuple(spacing_mm))}
        )

    def on(self, plan: DataPlan, spatial: Sequence[int] | None = None) -> Card:
        """The card for a data set: as planned for it where it is a folder's, else as it is.

        Args:
            plan: of the data set.
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


_REQUIRED = {"name": (str,), "title": (str,), "arch": (str,)}
_OPTIONAL = {
    "in_channels": (int,),
    "out_channels": (int,),
    "spatial": (list,),
    "task": (str,),
    "licence": (str,),
    "reference": (str,),
    "notes": (str,),
    "plan": (str,),
    "kwargs": (dict,),
    "paper": (dict,),
    "published": (list,),
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
    published = tuple(_published(entry, path) for entry in data.get("published", ()))
    own = path.parent.resolve() != Path(str(_cards_folder())).resolve()
    return Card(**(data | {"spatial": spatial, "published": published, "folder": str(path.parent) if own else None}))


def _published(entry: Any, path: Path) -> Published:
    if not isinstance(entry, dict) or set(entry) != {"metric", "value", "source"}:
        raise CardError(f"{path}: each [[published]] needs metric, value and source, not {entry!r}")
    if not isinstance(entry["value"], (int, float)) or entry["metric"] not in METRIC_UNITS:
        raise CardError(f"{path}: [[published]] {unknown('metric', str(entry['metric']), METRIC_UNITS)}")
    return Published(metric=entry["metric"], value=float(entry["value"]), source=str(entry["source"]))


def _cards_folder() -> Any:
    return importlib.resources.files("benchbench").joinpath("models", "cards")


def list_models() -> tuple[str, ...]:
    """The names of all networks in the zoo, in alphabetical order."""
    return tuple(
        sorted(entry.name[: -len(".toml")] for entry in _cards_folder().iterdir() if entry.name.endswith(".toml"))
    )


def get_card(name: str) -> Card:
    """The card of a network by its name.

    Raises:
        UsageError: there is no such network; the message has the nearest name.
    """
    if name not in list_models():
        raise UsageError(unknown("model", name, list_models(), hint=SEE_ALL))
    return read_card(Path(str(_cards_folder().joinpath(f"{name}.toml"))))


def name_for(info: checkpoint.CheckpointInfo) -> str:
    """What a command calls the network of some weights: its name, or the weights' path where no card has that name."""
    return info.model.name if info.model.name in list_models() and not info.compression else str(info.path)


def card_of(info: checkpoint.CheckpointInfo) -> Card:
    """The card of some weights: that of their network, with what makes these their own.

    Args:
        info: of the weights. A compressed network has a name of its own and none of the paper's figures.
    """
    spec = info.model
    names = (spec.name, str((info.compression or {}).get("root")))
    known = [card for name in names if name in list_models() and (card := get_card(name)).arch == spec.arch]
    base = known[0] if known else Card(name=spec.name, title=spec.name, arch=spec.arch)
    own = (spec.in_channels, spec.out_channels, info.spatial, dict(spec.kwargs))
    plain = not info.compression and own == (base.in_channels, base.out_channels, base.spatial, dict(base.kwargs))
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


_CLASS_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def find_cards(selection: str) -> list[Card]:
    """The cards that `--models` means.

    Args:
        selection: `all`, or names, globs, paths of cards and `pkg.module:Class`, separated by commas.

    Raises:
        UsageError: a part of it names nothing.
    """
    found: dict[str, Card] = {}
    for part in filter(None, (p.strip() for p in selection.split(","))):
        for card in _find(part):
            if card.name in found and card != found[card.name]:
                raise UsageError(
                    f"two networks are called {card.name!r}: give one of the cards another name "
                    "('bench compress' has --name)"
                )
            found[card.name] = card
    if not found:
        raise UsageError(f"--models {selection!r} names no network; {SEE_ALL}")
    return list(found.values())


def _find(part: str) -> list[Card]:
    if part == "all":
        return [get_card(name) for name in list_models()]
    if part.endswith(".toml") or ("/" in part and not part.endswith(".safetensors")):
        return [read_card(Path(part))]
    if part.endswith(".safetensors"):
        return [card_of(checkpoint.read_sidecar(Path(part)))]
    if _CLASS_PATH.fullmatch(part):
        return [Card(name=part, title=part.partition(":")[2], arch=part)]
    if any(sign in part for sign in "*?["):
        names = fnmatch.filter(list_models(), part)
        if not names:
            raise UsageError(f"no model's name matches {part!r}; {SEE_ALL}")
        return [get_card(name) for name in names]
    return [get_card(part)]


def find_class(arch: str) -> Callable[..., nn.Module]:
    """Import `pkg.module:Class`.

    Raises:
        CardError: the module or the class is not there, or the file has a syntax error.
    """
    return _import(arch, "class")  # type: ignore[no-any-return]


def _import(path: str, kind: str) -> Any:
    """What `pkg.module:name` names, of kind `class` or `function`."""
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise CardError(
            f"cannot import {module_name!r} for {path!r}: {error}; "
            "is it installed, or in the folder from which bench is run?"
        ) from error
    except SyntaxError as error:
        raise CardError(
            f"cannot import {module_name!r} for {path!r}: {error.msg}, {error.filename} line {error.lineno}"
        ) from error
    try:
        found = getattr(module, name)
    except AttributeError as error:
        is_one = inspect.isclass if kind == "class" else inspect.isfunction
        why = unknown(kind, name, [key for key, item in vars(module).items() if is_one(item)])
        raise CardError(f"in module {module_name!r}: {why}") from error
    if not callable(found):
        raise CardError(f"{path!r} is a {type(found).__name__}, not a {kind}")
    return found


def build(spec: ModelSpec, spatial: Sequence[int]) -> nn.Module:
    """The network of a spec for inputs of (D, H, W) voxels, with random weights.

    Raises:
        CardError: its class cannot be imported, or refuses the keywords.
        ShapeError: it cannot take this size, these channels or these keywords' values.
        UnsupportedError: its constructor ends the process.
    """
    from torch import nn

    make = find_class(spec.arch)
    offered = {"in_channels": spec.in_channels, "out_channels": spec.out_channels, "spatial": tuple(spatial)}
    try:
        names = inspect.signature(make).parameters
    except (TypeError, ValueError):
        names = {}  # type: ignore[assignment]
    own = {key: value for key, value in spec.kwargs.items() if key != PRUNED_SHAPES}
    kwargs = {key: value for key, value in offered.items() if key in names} | own
    try:
        inspect.signature(make).bind(**kwargs)
    except TypeError as error:
        raise CardError(
            f"{spec.arch} cannot be built with {', '.join(kwargs) or 'no arguments'}: {error}; "
            "give its arguments in a card's [kwargs], see docs/add_a_model.md"
        ) from error
    try:
        module = make(**kwargs)
    except SystemExit as error:
        raise UnsupportedError(f"{spec.name}: the constructor of {spec.arch} ends the process ({error!r})") from error
    except (ValueError, AssertionError) as error:
        raise ShapeError(f"{spec.name}: {str(error) or 'an assertion of its constructor failed'}") from error
    except TypeError as error:
        raise CardError(f"{spec.name}: {spec.arch} does not take these arguments: {error}") from error
    if not isinstance(module, nn.Module):
        raise CardError(f"{spec.arch} made a {type(module).__name__}, not a torch.nn.Module")
    if spec.kwargs.get(PRUNED_SHAPES):
        from benchbench.resize import resize

        resize(module, spec.kwargs[PRUNED_SHAPES])
    return module


def fitting_sides(spec: ModelSpec, sides: Sequence[int]) -> tuple[int, ...]:
    """The smallest patch of at least some sides that a network takes; a volume is padded to it.

    This is the one place where a data set's patch becomes a network's.

    Args:
        spec: of the network.
        sides: (D, H, W) voxels that the data set asks for.

    Raises:
        ShapeError: none near takes it; the message is that of the first one.
        CardError: its class cannot be imported or built at all.
    """
    import torch

    tried: list[tuple[int, ...]] = [tuple(sides)]
    tried += [tuple(-(-side // m) * m for side in sides) for m in (8, 16, 32, 64)]
    tried += [(max(one),) * 3 for one in tried]  # some take cubes only
    first: ShapeError | None = None
    for candidate in dict.fromkeys(sorted(tried, key=math.prod)):
        try:
            try:
                with torch.device("meta"):
                    build(spec, candidate)
            except (RuntimeError, NotImplementedError):  # its constructor reads the values of tensors
                _build_really(spec, candidate)
            return candidate
        except ShapeError as error:
            first = first or error
    assert first is not None
    raise first


def _build_really(spec: ModelSpec, spatial: Sequence[int]) -> None:
    try:
        build(spec, spatial)
    except (RuntimeError, NotImplementedError) as error:
        raise CardError(f"{spec.name}: {spec.arch} cannot be built: {error}") from error


def is_of(spec: ModelSpec, card: Card) -> bool:
    """Whether a network, such as that of some weights, is a card's: two of the zoo may share a class, and differ."""
    return spec.arch == card.arch and (spec.name == card.name or spec.name not in list_models())


def build_model(name: str, **overrides: Any) -> nn.Module:
    """Build a network of the zoo, or of a card, with random weights; or that of a checkpoint, with its weights.

    Args:
        name: a name of `list_models()`, a card's path, `pkg.module:Class`, or a `.safetensors` file.
        overrides: `in_channels`, `out_channels`, `spatial` (D, H, W), and the architecture's own keywords.

    Returns:
        The module; (B, in_channels, D, H, W) -> (B, out_channels, D, H, W).

    Raises:
        UsageError: an unknown name, or a size, width or keyword that the network cannot take.
        CheckpointError: weights that cannot be read, or with overrides.
    """
    cards = find_cards(name)
    if len(cards) != 1:
        raise UsageError(f"{name!r} names {len(cards)} networks; give one name")
    card = cards[0]
    if card.checkpoint:
        if overrides:
            raise CheckpointError(
                f"{name} is of one network with its size and channels: {', '.join(overrides)} cannot be set"
            )
        module = build(card.spec(), card.spatial)
        checkpoint.load_weights(module, Path(card.checkpoint))
        return module
    spatial = overrides.pop("spatial", card.spatial)
    spec = card.spec(in_channels=overrides.pop("in_channels", None), out_channels=overrides.pop("out_channels", None))
    return build(dataclasses.replace(spec, kwargs={**spec.kwargs, **overrides}), spatial)
