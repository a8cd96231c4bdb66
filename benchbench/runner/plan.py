"""Plan of a run: from the request to its cells, each one network, its workload and its device.

A cell is fixed before anything is imported or measured, so a wrong name, size or checkpoint ends the run at once.
Which weights a network gets, and so whether its row can have a Dice, is decided here, since a Dice belongs to a
network with its channels, patch and checkpoint.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

from benchbench import data
from benchbench.core import records as rec
from benchbench.core.arguments import dtypes, flag, fold, memory, names, positives, seconds
from benchbench.core.errors import CheckpointError, UsageError
from benchbench.core.protocol import get_protocol
from benchbench.data.plan import ALL
from benchbench.devices import cpu
from benchbench.devices.resolve import Target, resolve
from benchbench.runner import child_process
from benchbench.runner.job import Cell, Job, make_cell
from benchbench.runner.remote import queue as remote_queue
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import checkpoint, classes

log = logging.getLogger(__name__)

_SIDES_LIMIT_S = 120.0  # to build every network without memory, several times each


def _fold_or_all(text: str) -> int:
    return ALL if text == "all" else fold(text)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What `bench run` was asked for; each field is a flag of the command."""

    models: str = flag("--models", "all")
    in_channels: int | None = flag("--in-channels")
    out_channels: int | None = flag("--out-channels")
    trust: bool = flag("--trust", False)
    devices: tuple[str, ...] = flag(
        "--device",
        ("cpu",),
        type=names,
        choices=None,
        metavar="D[,D]",
        help="devices to measure on, or to predict for: cpu, cuda, jetson, a host of 'bench devices', "
        "jetson:agx-orin-64gb, or the name or file of a profile (default: cpu)",
    )
    spatial: tuple[int, ...] | None = flag(
        "--spatial", help="size of the input in voxels (default: the data set's patch, else the size in the card)"
    )
    batch: tuple[int, ...] = flag(
        "--batch-size", (1,), type=positives, metavar="N[,N]", help="patches per forward (default: 1)"
    )
    dtype: tuple[str, ...] = flag(
        "--dtype",
        ("fp32",),
        type=dtypes,
        metavar="T[,T]",
        help="precision: fp32, or autocast to bf16 or fp16 (default: fp32)",
    )
    threads: tuple[int | None, ...] = flag(
        "--threads", (None,), type=positives, metavar="N[,N]", help="CPU threads (default: all usable cores)"
    )
    protocol: str = flag("--protocol", "quick")
    phase: str = flag(
        "--phase",
        "infer",
        choices=("infer", "train"),
        help="what is timed: a forward (infer), or a whole training step with its memory (train) (default: infer)",
    )
    volume: tuple[int, ...] | None = flag(
        "--volume",
        help="also measure a whole patient volume of this many voxels, by sliding windows (default: the median volume, "
        "if --data is a folder)",
    )
    overlap: float = flag("--overlap", 0.5)
    crop_foreground: bool = flag(
        "--crop-foreground",
        False,
        help="place sliding windows over the patient's bounding box alone; the patient is a case of the phantom, of "
        "the size of --volume or of its own",
    )
    memory_limit_bytes: int | None = flag(
        "--memory-limit",
        type=memory,
        metavar="SIZE",
        help="memory that the process of each network may take at most, such as 2GB",
    )
    data: str | None = flag(
        "--data",
        help="data set for Dice, by its name or its folder, or 'none' (default: phantom, where the network fits it)",
    )
    fold: int | None = flag(
        "--fold",
        type=_fold_or_all,
        metavar="N|all",
        help="which of the five folds of a folder Dice is reported on; 'all': every case, of a folder that no network "
        "was trained on (default: 0)",
    )
    empty_rule: str | None = flag(
        "--empty-rule",
        choices=("brats", "exclude"),
        help="Dice of a region that neither the label nor the prediction has: 1 (brats) or left out (exclude) "
        "(default: brats for the regions of BraTS, else exclude)",
    )
    checkpoints: tuple[Path, ...] = flag(
        "--checkpoints",
        (),
        default=[Path("results/local")],
        type=Path,
        nargs="+",
        metavar="DIR",
        help="folders to look for trained weights in, besides those that come with benchbench (default: results/local)",
    )
    checkpoint: Path | None = flag("--checkpoint", help="weights (.safetensors) of the only network in --models")
    require_measured: bool = flag("--require-measured", False, help="exit with code 3 rather than predict")
    time_limit_s: float = flag(
        "--time-limit",
        1200.0,
        type=seconds,
        metavar="TIME",
        help="longest time for one network, such as 20min (default: 20min)",
    )
    set_clocks: bool = flag(
        "--set-clocks", False, help="on a Jetson: run at the clocks of jetson_clocks, and restore them afterwards"
    )
    noise: bool = flag(
        "--no-noise",
        True,
        action="store_false",
        help="skip the repeated measurement that gives the noise floor, and that of the machine's peak for the "
        "roofline",
    )


def plan_cells(request: RunRequest, lines: remote_queue.ConnectionPool) -> list[Cell]:
    """Every cell that was asked for, without repeats.

    Args:
        request: what was asked.
        lines: where conversations with hosts stay open.

    Raises:
        UsageError: an unknown name; a checkpoint for several networks; no host that can be used.
    """
    cards = zoo_cards.find_cards(request.models, trust=request.trust)
    asked = dict.fromkeys(request.devices)
    targets = [resolve(device, require_measured=request.require_measured) for device in asked]
    if request.checkpoint:
        cards = [_with_weights(cards, request.checkpoint)]
    cards = zoo_cards.with_channels(cards, request.in_channels, request.out_channels)
    infos = [checkpoint.read_sidecar(Path(card.checkpoint)) for card in cards if card.checkpoint]
    plan = _plan(request, infos, others=len(infos) < len(cards))
    if plan and request.data:
        zoo_cards.check_channels(plan, request.in_channels, request.out_channels)
    if plan and plan.folder and request.crop_foreground:
        raise UsageError("--crop-foreground times a case of the phantom: leave it out, or name no folder as --data")
    if plan:
        cards = [card if card.checkpoint else card.on(plan, request.spatial) for card in cards]
    met = remote_queue.meet(targets, request.threads[0], lines=lines, set_clocks=request.set_clocks)
    works = list(itertools.product(request.threads, request.dtype, request.batch))
    patches = _patches(request, cards, plan)
    cells = [
        _cell(request, card, target, plan, patches.get(card.name), work)
        for target in met
        for work in works
        for card in cards
    ]
    return list({cell.id: cell for cell in cells}.values())


def _with_weights(cards: Sequence[zoo_cards.Card], weights: Path) -> zoo_cards.Card:
    """The one card that was asked for, with the weights of `--checkpoint`.

    Raises:
        UsageError: several networks.
        CheckpointError: weights of another one.
    """
    if len(cards) != 1:
        raise UsageError(f"--checkpoint is of one network, and --models names {len(cards)}")
    if cards[0].checkpoint:
        raise UsageError(f"--models names weights by their path, {cards[0].checkpoint}: leave --checkpoint out")
    info = checkpoint.read_sidecar(weights)
    if not zoo_cards.is_of(info.model, cards[0]):
        raise CheckpointError(
            f"{weights} holds {info.model.name!r}, not {cards[0].name!r}; use --models {zoo_cards.name_for(info)}"
        )
    if info.compression:  # a network of its own, which has another name
        own = cards[0]
        return dataclasses.replace(zoo_cards.card_of(info), folder=own.folder, task=own.task, licence=own.licence)
    return dataclasses.replace(cards[0], checkpoint=str(info.path))


def _plan(request: RunRequest, infos: Sequence[checkpoint.CheckpointInfo], *, others: bool) -> data.DataPlan | None:
    """The data set for Dice, if there is one.

    Args:
        request: what was asked.
        infos: of the weights that were asked for by their path.
        others: whether there are networks beside those.

    Raises:
        DataError: it cannot be read.
        CheckpointError: weights that were trained on its test cases.
    """
    if request.data == "none":
        return None
    if request.data is None:
        trained_on = {info.data for info in infos}
        known = "phantom" if others or len(trained_on) > 1 else trained_on.pop()
        return data.get_plan(known) if data.is_bundled(known) else None
    plan = data.get_plan(request.data, fold=request.fold, rule=request.empty_rule)
    for info in infos:
        if seen := checkpoint.leaks(info, plan):
            part = "test cases" if plan.fold == ALL else f"test cases of fold {plan.fold}"
            raise CheckpointError(
                f"{info.path} was trained with {len(seen)} of the {plan.splits['test']} {part}, "
                f"such as {seen[0]}: their Dice would say nothing; take --fold {info.train.get('fold', 0)}"
            )
    return plan


def _patches(
    request: RunRequest, cards: Sequence[zoo_cards.Card], plan: data.DataPlan | None
) -> dict[str, tuple[int, ...]]:
    """The patch of each network on a real data set: the smallest that it takes, at least the data set's own."""
    cards = [card for card in cards if not card.checkpoint]
    if plan is None or plan.folder is None or request.spatial or not cards:
        return {}
    jobs = [
        Job(
            model=card.spec(in_channels=plan.in_channels, out_channels=plan.out_channels),
            workload=rec.Workload(spatial=plan.patch),
            folder=card.folder,
            trusted=classes.may_import(card.arch),
        )
        for card in cards
    ]
    found: dict[str, tuple[int, ...]] = {}
    left = list(zip(cards, jobs, strict=True))
    while left:  # behind a network that ends the process, in a new one
        task = {"task": "sides", "jobs": [rec.to_json(job) for _, job in left]}
        begun, lost = 0, False
        for event in child_process.run_worker(task, limit_s=_SIDES_LIMIT_S):
            if isinstance(event, child_process.WorkerFailure):
                lost = True
                log.warning("what size %s takes was not found out: %s", left[begun][0].name, event.error)
            elif event["event"] == "begin":
                begun = int(event["index"])
            elif event["event"] == "sides":
                found[left[event["index"]][0].name] = tuple(event["spatial"])
        left = left[begun + 1 :] if lost else []
    return found


def _cell(
    request: RunRequest,
    card: zoo_cards.Card,
    target: Target,
    plan: data.DataPlan | None,
    patch: tuple[int, ...] | None,
    work: tuple[int | None, str, int],
) -> Cell:
    asked_threads, dtype, batch = work
    info = checkpoint.read_sidecar(Path(card.checkpoint)) if card.checkpoint else None
    spatial = request.spatial
    if spatial is None:
        spatial = info.spatial if info else patch or (plan.patch if plan and request.data else card.spatial)
    spec = card.spec() if info is None else dataclasses.replace(info.model, name=card.name)
    segments = card.task == "segmentation"
    if plan and request.data and info is None:  # asked by name: the network follows the data
        spec = card.spec(in_channels=plan.in_channels, out_channels=plan.out_channels if segments else None)
    channels = (spec.in_channels, spec.out_channels)
    trains = request.phase == "train"
    takes = plan is not None and segments and channels == (plan.in_channels, plan.out_channels)
    if plan and info and not request.data and info.data != plan.key:
        takes = False  # beside others, whose Dice is of the phantom: these weights are of other data
    fits = takes and not trains
    path = None if trains or info is None else info.path
    if fits and plan and info is None:
        path = checkpoint.find(card.name, *channels, spatial, plan, request.checkpoints if plan.folder else ())
        if path and rec.to_json(checkpoint.read_sidecar(path).model.kwargs) != rec.to_json(spec.kwargs):
            path = None  # a card of the user's own under a name of the zoo
    if path:
        spec = dataclasses.replace(spec, checkpoint=checkpoint.read_sidecar(path).sha256)
    cores = target.environment.get("cores") if target.environment else None
    threads = None if target.backend != "cpu" else asked_threads or cores or cpu.usable_cores()
    calibration = target.profile.calibration if target.profile else None
    if calibration and target.profile and target.profile.kind == "cpu":
        threads = asked_threads or calibration.threads
    volume = request.volume
    if volume is None and plan and plan.folder and fits and not request.crop_foreground:
        volume = plan.sides  # patches differ between networks there: what compares is a patient
    windows = (plan is not None and fits) or volume is not None or request.crop_foreground
    workload = rec.Workload(
        phase=request.phase,  # type: ignore[arg-type]
        batch=batch,
        spatial=tuple(spatial),
        dtype=dtype,  # type: ignore[arg-type]
        threads=threads,
        protocol=get_protocol(request.protocol).name,
        volume=volume,
        overlap=request.overlap if windows else None,
        crop_foreground=request.crop_foreground,
        data=plan.key if plan and takes and (plan.folder or not trains) else None,
        split="test" if plan and fits else None,
        memory_limit_bytes=request.memory_limit_bytes,
    )
    where = plan.where if plan and fits and not (target.host and plan.folder) else None
    return make_cell(card, spec, workload, target, checkpoint_path=path, data_where=where)
