"""Parent of any architecture, whose pruned versions a search tries: which weights are one, and what is needed."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

from benchbench import data
from benchbench.compress.run import data_of, val_trained_on
from benchbench.core.errors import CheckpointError, StoreError, UsageError, command, data_flags
from benchbench.core.units import format_shape
from benchbench.data.patient import sides_seen
from benchbench.search.parent_channels import find_channels, read_channels, write_channels
from benchbench.search.problem import SearchProblem
from benchbench.search.request import SearchRequest
from benchbench.search.slim_unetr_space import PARENT_BATCHES, is_published_network
from benchbench.training.torch_runtime import threads
from benchbench.zoo import build as zoo_build
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import checkpoint, places

log = logging.getLogger(__name__)

FILE = "parent_channels.json"


def weights_of(asked: str, request: SearchRequest) -> Path:
    """Weights that `--parent` names: a file, a folder of `bench import`, or a network whose weights come along.

    Raises:
        CheckpointError: a network of the zoo without weights for this data, or a folder with several.
        DataError: no such data set.
    """
    if asked not in zoo_cards.list_models() or Path(asked).exists():
        return checkpoint.located(Path(asked)).absolute()
    plan = data.get_plan(request.data, fold=request.fold)
    for path in places.shipped_weights():
        info = checkpoint.read_sidecar(path)
        its = (info.model.name, info.model.in_channels, info.model.out_channels)
        if its == (asked, plan.in_channels, plan.out_channels) and plan.is_named_by(info.data):
            return path.absolute()
    raise CheckpointError(
        f"{asked} is a network without weights for {plan.name}, and a parent is a trained one: train it by "
        f"{command('train', asked, *data_flags(plan.key))}, and give its file in place of its name"
    )


def parent_to_prune(request: SearchRequest) -> checkpoint.CheckpointInfo | None:
    """The network whose pruned versions are searched; None: Slim UNETRs are, which may inherit from a published one.

    Raises:
        CheckpointError: its description is missing or damaged.
        UsageError: another patch is asked for than its own.
    """
    if request.parent in (None, "train"):
        return None
    info = checkpoint.read_sidecar(Path(str(request.parent)))
    if is_published_network(info):
        return None
    if request.spatial not in (None, info.spatial):
        raise UsageError(
            f"{info.model.name} was trained for a patch of {format_shape(info.spatial)}, and so are its smaller "
            "versions: leave --spatial out"
        )
    return info


def source_of(request: SearchRequest, whole: checkpoint.CheckpointInfo | None) -> data.DataPlan:
    """The data set of a search, as the parent sees it where that prepares images in its own way.

    Raises:
        CheckpointError: the parent was trained with its test cases.
        DataError: no such data set, or it has other channels or labels than the parent.
        UsageError: it has other channels or labels, or is not what the parent was trained on.
    """
    plan = data.get_plan(request.data, fold=request.fold)
    if whole is None:
        return plan
    return dataclasses.replace(data_of(whole, plan), sides=sides_seen(plan, whole.plan))


def with_channels(
    problem: SearchProblem, whole: checkpoint.CheckpointInfo, folder: Path, tell: Callable[[str], None]
) -> SearchProblem:
    """The problem of searching a parent's pruned versions, whose channels are found and ranked if they are not yet.

    Raises:
        CheckpointError: the weights are missing, damaged, or of another network.
        UsageError: no channel of it can go.
    """
    path = folder / FILE
    if not _is_of(path, whole):
        tell("finding the channels of the parent that can go, and ranking them: some seconds to minutes")
        model = zoo_build.build_here(whole.model, whole.spatial).eval()
        checkpoint.load_weights(model, whole.path)
        try:
            with threads(problem.threads):
                channels = find_channels(model, whole, *problem.gradients(PARENT_BATCHES))
        except UsageError as error:
            raise UsageError(f"{whole.path} cannot be made smaller: {error}") from error
        write_channels(path, channels)
    found = dataclasses.replace(problem, parent_channels=str(path.absolute()))
    return dataclasses.replace(found, lr=found.space.learning_rate)


def _is_of(path: Path, whole: checkpoint.CheckpointInfo) -> bool:
    """Whether a file has the channels of these weights."""
    if not path.exists():
        return False
    try:
        return read_channels(path).sha256 == whole.sha256
    except StoreError as error:
        log.warning("%s: they are found anew", error)
        return False


def remarks(source: data.DataPlan, whole: checkpoint.CheckpointInfo | None) -> list[str]:
    """What the plan says of a parent's Dice, where that cannot be believed."""
    if whole is None or not (seen := val_trained_on(source, whole)):
        return []
    return [
        f"  nnU-Net trained the parent on {seen} of the {source.splits['val']} validation cases, so Dice on val is too "
        "high, of the parent most; Dice on test is of cases that it has not seen"
    ]
