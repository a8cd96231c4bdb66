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
from benchbench.core.errors import CheckpointError, UsageError
from benchbench.core.protocol import get_protocol
from benchbench.data.patient import sides_seen
from benchbench.data.plan import ALL
from benchbench.devices import cpu
from benchbench.devices.resolve import Target, resolve
from benchbench.runner import child_process
from benchbench.runner.job import Cell, Job, make_cell
from benchbench.runner.remote import queue as remote_queue
from benchbench.runner.request import RunRequest
from benchbench.runtimes.catalogue import EAGER
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import checkpoint, classes, places

log = logging.getLogger(__name__)

_SIDES_LIMIT_S = 120.0  # to build every network without memory, several times each


def plan_cells(request: RunRequest) -> list[Cell]:
    """Every cell that was asked for, without repeats.

    Raises:
        UsageError: an unknown name; a checkpoint for several networks; no host that can be used.
    """
    if request.phase == "train" and request.runtime != (EAGER,):
        raise UsageError(f"--phase train times steps of {EAGER} PyTorch alone: leave --runtime out")
    if request.phase == "train" and request.test_time_mirroring:
        raise UsageError(
            "--phase train times training steps, which average over no mirror images: leave one of them out"
        )
    cards = zoo_cards.find_cards(request.models, trust=request.trust)
    devices = dict.fromkeys(request.devices)
    targets = [resolve(device, require_measured=request.require_measured) for device in devices]
    if request.checkpoint:
        cards = [_with_weights(cards, request.checkpoint)]
    cards = zoo_cards.with_channels(cards, request.in_channels, request.out_channels)
    infos = [checkpoint.read_sidecar(Path(card.checkpoint)) for card in cards if card.checkpoint]
    plan = _plan(request, infos, others=len(infos) < len(cards))
    if plan and request.data:
        zoo_cards.check_channels(plan, request.in_channels, request.out_channels)
    if plan:
        cards = [card if card.checkpoint else card.on(plan, request.spatial) for card in cards]
    met = remote_queue.meet(targets, request.threads[0], set_clocks=request.set_clocks)
    if plan and plan.folder and request.crop_foreground and any(t.host for t in met):
        raise UsageError(
            f"--crop-foreground times a case of --data, and {plan.name} is on no other host: leave it out, or run there"
        )
    works = list(itertools.product(request.threads, request.runtime, request.dtype, request.batch))
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
        card = cards[0]
        return dataclasses.replace(zoo_cards.card_of(info), folder=card.folder, task=card.task, licence=card.licence)
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
        name = "phantom" if others or len(trained_on) > 1 else trained_on.pop()
        return data.get_plan(name) if data.is_bundled(name) else None
    plan = data.get_plan(request.data, fold=request.fold, rule=request.empty_rule)
    for info in infos:
        check_unseen(info, plan)
    return plan


def check_unseen(info: checkpoint.CheckpointInfo, plan: data.DataPlan) -> None:
    """Refuse weights that were trained on test cases.

    Raises:
        CheckpointError: they were.
    """
    if seen := checkpoint.leaks(info, plan):
        part = "test cases" if plan.fold == ALL else f"test cases of fold {plan.fold}"
        raise CheckpointError(
            f"{info.path} was trained with {len(seen)} of the {plan.splits['test']} {part}, "
            f"such as {seen[0]}: their Dice would say nothing; take --fold {info.train.get('fold', 0)}"
        )


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
    patches: dict[str, tuple[int, ...]] = {}
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
                patches[left[event["index"]][0].name] = tuple(event["spatial"])
        left = left[begun + 1 :] if lost else []
    return patches


def _cell(
    request: RunRequest,
    card: zoo_cards.Card,
    target: Target,
    plan: data.DataPlan | None,
    patch: tuple[int, ...] | None,
    work: tuple[int | None, str, str, int],
) -> Cell:
    asked_threads, runtime, dtype, batch = work
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
        path = places.find(card.name, *channels, spatial, plan, request.checkpoints if plan.folder else ())
        if path and rec.to_json(checkpoint.read_sidecar(path).model.kwargs) != rec.to_json(spec.kwargs):
            path = None  # a card of the user's own under a name of the zoo
    if path:
        spec = dataclasses.replace(spec, checkpoint=checkpoint.read_sidecar(path).sha256)
    cores = target.environment.get("cores") if target.environment else None
    threads = None if target.backend != "cpu" else asked_threads or cores or cpu.usable_cores()
    calibration = target.profile.calibration if target.profile else None
    if calibration and target.profile and target.profile.kind == "cpu":
        threads = asked_threads or calibration.threads
    of_network = checkpoint.read_sidecar(path).plan if path else None
    volume, patient = request.volume, None
    if volume is None and plan and plan.folder and fits and not request.crop_foreground:
        # Patches differ between networks there: what compares is a patient, which each sees as it prepares it.
        volume = sides_seen(plan, of_network)
        patient = plan.sides if volume != plan.sides else None
    windows = (plan is not None and fits) or volume is not None or request.crop_foreground
    workload = rec.Workload(
        phase=request.phase,  # type: ignore[arg-type]
        batch=batch,
        spatial=tuple(spatial),
        dtype=dtype,  # type: ignore[arg-type]
        threads=threads,
        runtime=runtime,
        protocol=get_protocol(request.protocol).name,
        volume=volume,
        patient=patient,
        overlap=request.overlap if windows else None,
        crop_foreground=request.crop_foreground,
        data=plan.key if plan and takes and (plan.folder or not trains) else None,
        split="test" if plan and fits else None,
        memory_limit_bytes=request.memory_limit_bytes,
        int8_accuracy=request.int8_accuracy if dtype == "int8" else None,
        test_time_mirroring=_mirror(card, path, target) if request.test_time_mirroring else None,
    )
    where = plan.as_seen_by(of_network).where if plan and fits and not (target.host and plan.folder) else None
    return make_cell(card, spec, workload, target, checkpoint_path=path, data_where=where)


def _mirror(card: zoo_cards.Card, weights: Path | None, target: Target) -> tuple[int, ...]:
    """The axes along which the training of a network's weights mirrored patches.

    Raises:
        UsageError: it has no weights, or the device is not present.
        CheckpointError: the weights do not say, or were trained without.
    """
    if target.backend is None and not target.host:
        raise UsageError(f"a forecast for {target.device.asked} is of one forward: leave --test-time-mirroring out")
    if weights is None:
        raise UsageError(
            f"--test-time-mirroring takes the axes that a network was trained with, and there are no weights of "
            f"{card.name} for this: give --checkpoint, or leave it out"
        )
    return checkpoint.check_mirror(checkpoint.read_sidecar(weights).mirror, weights)
