"""`bench import`: a network that was trained elsewhere as weights that every other command takes.

What comes in is written as a training of ours would be: safetensors and a sidecar. Where the weights came from, and
what is not known of them, stands in the sidecar under `imported`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbench import data
from benchbench.core import records as rec
from benchbench.core.arguments import REQUIRED, flag
from benchbench.core.arguments import fold as fold_number
from benchbench.core.config import parse_json
from benchbench.core.errors import CardError, CheckpointError, ShapeError, StoreError, UsageError, os_error_as
from benchbench.core.results import file_sha256
from benchbench.data.plan import ALL, DataPlan
from benchbench.zoo import (
    build,
    bundle_config,
    checkpoint,
    foreign_weights,
    monai_bundle,
    nnunet_folder,
    nnunet_plans,
)
from benchbench.zoo import cards as zoo_cards

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

UNKNOWN = "unknown"  # in the place of a data set: nobody has said what the weights were trained on


def _fold(text: str) -> str:
    """`all`, or the number of a fold."""
    return text if text == "all" else str(fold_number(text))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """What `bench import` was asked for."""

    source: Path = flag(
        "source",
        REQUIRED,
        type=Path,
        metavar="PATH",
        help="folder of a model of nnU-Net v2, a MONAI bundle, or weights of a network (.pt, .pth, .ckpt, .bin or "
        ".safetensors)",
    )
    arch: str | None = flag(
        "--arch",
        metavar="NETWORK",
        help="network that a file of weights is of: a name of 'bench list models', a card, or pkg.module:Class",
    )
    kwargs: tuple[str, ...] = flag(
        "--kwargs",
        (),
        nargs="+",
        metavar="KEY=VALUE",
        help="keywords of its class, such as width=32 filters=[16,32]; a value is JSON, or else a text",
    )
    in_channels: int | None = flag("--in-channels")
    out_channels: int | None = flag("--out-channels")
    spatial: tuple[int, ...] | None = flag(
        "--spatial", help="size of the patch that it is used with, in voxels (default: of --data, else of its card)"
    )
    key: str | None = flag("--key", metavar="KEY", help="key of the weights in the file, where it has several")
    data: str | None = flag(
        "--data",
        help="data set that it was trained on, by its folder or its name; of a file of weights, prepared as benchbench "
        "prepares it (default: unknown)",
    )
    fold: str | None = flag(
        "--fold",
        type=_fold,
        metavar="N",
        help="fold of nnU-Net to take, or 'all'; of other networks the fold of --data that their training held out "
        "(default: the only one; 0)",
    )
    checkpoint: str | None = flag(
        "--checkpoint",
        type=str,
        metavar="NAME",
        help="file in the fold of nnU-Net (default: checkpoint_final.pth, else checkpoint_best.pth), or in 'models' of "
        "a MONAI bundle (default: model.pt)",
    )
    settings: tuple[str, ...] = flag(
        "--set",
        (),
        nargs="+",
        metavar="KEY=VALUE",
        help="values in the configuration of a MONAI bundle, in the place of its own, such as "
        "inferer::roi_size=[96,96,96]: what it computes by an expression is not run",
    )
    name: str | None = flag("--name", metavar="NAME", help="name of the network (default: that of the folder --out)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A network that came in."""

    info: checkpoint.CheckpointInfo
    params: int
    notes: tuple[str, ...]  # what was taken, stripped or not known


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A network as an importer found it, before anything is written."""

    module: nn.Module  # with its weights
    spec: rec.ModelSpec
    spatial: tuple[int, ...]  # (D, H, W) of its patch, voxels
    data: str  # what it was trained on
    plan: DataPlan | None
    train: Mapping[str, Any]
    notes: tuple[str, ...]


def import_network(request: ImportRequest, out: Path, *, force: bool = False) -> Imported:
    """Read a network of another program, check it, and write it into a folder.

    Args:
        out: folder for the weights and their sidecar.
        force: replace a network in it.

    Raises:
        CheckpointError: no weights, weights that do not fit, or a file that would have to be run to be read.
        CardError: the network cannot be built.
        StoreError: the folder holds another network already.
        UsageError: a flag that is missing or cannot be used.
    """
    name = request.name or out.resolve().name
    target = out / f"{checkpoint.file_name(name)}.safetensors"
    _check_folder(out, target, force)
    if request.settings and not bundle_config.is_bundle(request.source):
        raise UsageError(f"--set is of a MONAI bundle, and {request.source} is none: it has no configs/inference.json")
    read = _plain if not request.source.is_dir() else _bundle if bundle_config.is_bundle(request.source) else _nnunet
    found = read(request, name)
    with os_error_as(StoreError, f"cannot write into {out}", "choose another --out"):
        out.mkdir(parents=True, exist_ok=True)
    info = checkpoint.save(
        target,
        found.module.state_dict(),
        model=found.spec,
        data=found.data,
        spatial=found.spatial,
        train=found.train,
        plan=found.plan,
    )
    return Imported(info=info, params=sum(p.numel() for p in found.module.parameters()), notes=found.notes)


def _check_folder(out: Path, target: Path, force: bool) -> None:
    """Refuse a folder in which another network would be replaced, or would lie beside this one."""
    with os_error_as(StoreError, f"cannot write into {out}", "choose another --out"):
        if out.exists() and not out.is_dir():
            raise StoreError(f"--out {out} is a file: name a folder")
        there = sorted(path for path in out.glob("*.safetensors")) if out.exists() else []
    others = [path.name for path in there if path != target]
    if others:
        raise StoreError(f"{out} holds another network already, {others[0]}: choose another --out for this one")
    if there and not force:
        raise StoreError(f"{target} is there already: choose another --out, or --force, which replaces it")


def _plain(request: ImportRequest, name: str) -> Found:
    """A file of weights, whose network the request names."""
    if request.checkpoint:
        raise UsageError("--checkpoint is of a folder of nnU-Net: name the file of weights itself")
    if not request.arch:
        raise UsageError(
            f"{request.source} does not say what network it is of: name it with --arch, by its name in 'bench list "
            "models' or as pkg.module:Class"
        )
    content = foreign_weights.read(request.source)
    state, notes = foreign_weights.state_dict_of(content, request.source, request.key)
    cards = zoo_cards.find_cards(request.arch)
    if len(cards) != 1 or cards[0].checkpoint:
        raise UsageError(f"--arch {request.arch} must name one network, a card of one, or a class")
    fold = None if request.fold is None else ALL if request.fold == "all" else int(request.fold)
    plan = None if request.data is None else data.get_plan(request.data, fold=fold)
    card = cards[0]
    if plan:
        zoo_cards.check_channels(plan, request.in_channels, request.out_channels)
        card = card.on(plan, request.spatial)
    elif request.fold is not None:
        raise UsageError("--fold is of --data: name the data set that the weights were trained on, or leave it out")
    spec = dataclasses.replace(
        card.spec(
            in_channels=plan.in_channels if plan else request.in_channels,
            out_channels=plan.out_channels if plan else request.out_channels,
        ),
        name=name,
    )
    spec = dataclasses.replace(spec, kwargs={**spec.kwargs, **keywords_of(request.kwargs)})
    spatial = tuple(request.spatial or (build.fitting_sides(spec, plan.patch) if plan else card.spatial))
    module = build.build_here(spec, spatial).eval()
    notes += foreign_weights.load_into(module, state, request.source)
    if plan is None:
        notes.append("nobody has said what it was trained on (--data), so 'bench predict' cannot prepare images for it")
    return Found(
        module=module,
        spec=spec,
        spatial=spatial,
        data=plan.weights_key if plan else UNKNOWN,
        plan=plan,
        train=provenance(request.source, "weights", notes, cases_known=plan is not None) | _cases(plan),
        notes=tuple(notes),
    )


def _nnunet(request: ImportRequest, name: str) -> Found:
    """A fold of a model of nnU-Net v2."""
    source = request.source
    with os_error_as(CheckpointError, f"cannot read {source}"):
        is_model = nnunet_folder.is_model(source)
    if not is_model:
        raise CheckpointError(
            f"{source} is no folder of nnU-Net v2, which has plans.json, dataset.json and fold_0, and no MONAI bundle, "
            "which has configs/inference.json: name one, or a file of weights with --arch"
        )
    _check_flags(request, "the plans of nnU-Net say it", "key")
    model = nnunet_folder.open_model(source, request.fold, request.checkpoint)
    spec, notes = nnunet_plans.network_of(model.plans, name)
    plan = nnunet_plans.data_plan_of(model.plans)
    content: Any = {"network_weights": model.content["network_weights"]}
    state, of_weights = foreign_weights.state_dict_of(content, model.weights)
    renamed, of_names = nnunet_plans.renamed(state, spec)
    try:
        module = build.build_here(spec, plan.patch).eval()
    except ShapeError as error:
        raise CheckpointError(f"{model.plans.where} describes a network that cannot be built: {error}") from error
    notes = [*model.notes, *notes, *of_weights, *of_names, *foreign_weights.load_into(module, renamed, model.weights)]
    of_data = None if request.data is None else data.get_plan(request.data)
    cases: dict[str, Any] = {} if model.fold == "all" else {"fold": int(model.fold)}
    if of_data and (model.held_out or model.fold == "all"):
        known = {case for cases in of_data.ids.values() for case in cases}
        cases["cases"] = sorted(known - set(model.held_out))
    else:
        notes.append(
            f"which cases it was trained on is not known ({'--data' if of_data is None else 'no validation folder'}): "
            "see that a Dice is of others"
        )
    told: dict[str, Any] = {
        "nnunet_fold": model.fold,
        "trainer": model.trainer,
        "configuration": model.plans.configuration,
    }
    told["cases_known"] = "cases" in cases
    return Found(
        module=module,
        spec=spec,
        spatial=plan.patch,
        data=of_data.weights_key if of_data else f"{plan.name}:nnU-Net",
        plan=plan,
        train={
            **provenance(model.weights, nnunet_folder.KIND, notes, **told),
            "recipe": {"mirror": model.mirror},
            **cases,
        },
        notes=tuple(notes),
    )


def _check_flags(request: ImportRequest, why: str, *more: str) -> None:
    """Refuse flags of a file of weights, for a folder that says it itself."""
    for name in ("arch", "kwargs", "in_channels", "out_channels", "spatial", *more):
        if getattr(request, name):
            raise UsageError(f"--{name.replace('_', '-')}: {why}, so leave it out")


def _bundle(request: ImportRequest, name: str) -> Found:
    """A MONAI bundle."""
    source = request.source
    _check_flags(request, "the configuration of the bundle says it")
    config = bundle_config.read(source, request.settings)
    spec, notes = monai_bundle.network_of(config, name)
    plan, of_plan = monai_bundle.data_plan_of(config, spec, source.resolve().name)
    weights = monai_bundle.weights_of(source, request.checkpoint)
    state, of_weights = foreign_weights.state_dict_of(foreign_weights.read(weights.path), weights.path, request.key)
    try:
        module = build.build_here(spec, plan.patch).eval()
    except (CardError, ShapeError) as error:
        raise CheckpointError(f"{config.where} describes a network that cannot be built: {error}") from error
    notes += [*of_plan, *weights.notes, *of_weights, *foreign_weights.load_into(module, state, weights.path)]
    if request.fold is not None and request.data is None:
        raise UsageError("--fold is of --data: name the data set that the weights were trained on, or leave it out")
    fold = None if request.fold is None else ALL if request.fold == "all" else int(request.fold)
    of_data = None if request.data is None else data.get_plan(request.data, fold=fold)
    if of_data is None:
        notes.append("which cases it was trained on is not known (--data): see that a Dice is of others")
    else:
        of_data.as_seen_by(plan)  # which refuses other channels and labels
    return Found(
        module=module,
        spec=spec,
        spatial=plan.patch,
        data=of_data.weights_key if of_data else f"{plan.name}:MONAI",
        plan=plan,
        train=provenance(
            weights.path, "MONAI bundle", notes, cases_known=of_data is not None, settings=list(request.settings)
        )
        | _cases(of_data),
        notes=tuple(notes),
    )


def provenance(source: Path, kind: str, notes: Sequence[str], **more: Any) -> dict[str, Any]:
    """What the sidecar says of where a network came from; JSON values."""
    return {
        "imported": {"from": kind, "file": source.name, "sha256": file_sha256(source), "notes": list(notes), **more}
    }


def _cases(plan: DataPlan | None) -> dict[str, Any]:
    """The cases that a network was trained on, for the sidecar, as whoever imports it says."""
    if plan is None:
        return {}
    return {"fold": plan.fold, "cases": [case for split in ("train", "val") for case in plan.ids.get(split, ())]}


def keywords_of(texts: Sequence[str]) -> dict[str, Any]:
    """`width=8` and the like as keywords; a value that is no JSON is a text.

    Raises:
        UsageError: one has no `=`, or no name before it.
    """
    keywords: dict[str, Any] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key.isidentifier():
            raise UsageError(f"--kwargs {text!r} is not like width=32")
        try:
            keywords[key] = parse_json(value, f"--kwargs {key}", CheckpointError)
        except CheckpointError:
            keywords[key] = {"True": True, "False": False, "None": None}.get(value, value)
    return keywords
