"""Plan of an evaluation: from the request to its subjects, each of which gets a row.

A subject is a network, an ensemble, or a folder of label maps. All that can be known beforehand is checked here: names,
weights, channels, regions, whether weights were trained on the cases, whether every case has a label map that lies over
it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchbench import data
from benchbench.core import records as rec
from benchbench.core.errors import CheckpointError, DataError, UsageError, command
from benchbench.core.evaluation import ENSEMBLE, LABEL_MAPS, PROTOCOL
from benchbench.core.results import file_sha256
from benchbench.core.units import format_shape
from benchbench.data.label_maps import LabelMaps, describe_missing, find_label_maps
from benchbench.data.plan import ALL, DataPlan
from benchbench.devices.resolve import Target
from benchbench.runner.evaluation.request import EvaluateRequest
from benchbench.runner.job import Job
from benchbench.runner.plan import check_unseen
from benchbench.training.evaluate import how_answered
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import checkpoint, classes, places

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is evaluated; one row."""

    model: rec.ModelSpec
    workload: rec.Workload
    target: Target
    plan: DataPlan  # of the data set, whose cases `split` names
    split: str
    indices: tuple[int, ...]  # of its cases that are judged
    how: str  # its regions come about
    origin: str  # file or folder, for subjects of one name
    lacking: str = ""  # which cases are left out, for a person
    seen: int = 0  # how many of the cases were in its training
    members: tuple[Job, ...] = ()  # networks; none for label maps
    maps: Mapping[str, str] = dataclasses.field(default_factory=dict)  # case -> label map
    recipe: Mapping[str, object] | None = None  # compression applied

    @property
    def cell(self) -> str:
        """Hash of what is asked."""
        return rec.cell_id(self.model, self.workload, self.target.device.asked, self.recipe)

    @property
    def job(self) -> Job:
        """What a process gets."""
        return Job(model=self.model, workload=self.workload, data_where=self.plan.where, trusted=False)


def plan_subjects(request: EvaluateRequest, target: Target) -> list[Subject]:
    """Everything that was asked for, each once.

    Raises:
        UsageError: nothing is asked for, or a name that is not known.
        DataError: a data set, a part of it, or label maps that cannot be used.
        CheckpointError: weights that cannot be read, are not there, are of other data, or know the test cases.
    """
    if not request.networks and not request.predictions:
        raise UsageError(
            "nothing to evaluate: name networks, or folders of label maps with --predictions; see 'bench evaluate "
            "--help'"
        )
    own = data.get_plan(request.data, fold=request.fold, rule=request.empty_rule)
    plan, split = own, request.split
    if request.split == "all":
        plan, split = data.get_plan(request.data, fold=ALL, rule=request.empty_rule), "test"
    if not plan.splits.get(split):
        raise DataError(f"{plan.name} has no {split} case in fold {plan.fold}: take another --split or --fold")
    planner = _Planner(request, target, own, plan, split)
    subjects = [planner.network(text) for texts in map(planner.alternatives, request.networks) for text in texts]
    subjects += [planner.label_maps(folder) for folder in request.predictions]
    return _named_apart(_distinct(subjects))


def _distinct(subjects: Sequence[Subject]) -> list[Subject]:
    """Each once: files of equal content are the same network, or the same segmentations."""
    kept: dict[str, Subject] = {}
    for subject in subjects:
        first = kept.setdefault(subject.cell, subject)
        if first.origin != subject.origin:
            name = subject.model.name
            log.warning(
                "%s (%s) is the same as %s (%s): it has no row of its own", name, subject.origin, name, first.origin
            )
    return list(kept.values())


def _named_apart(subjects: Sequence[Subject]) -> list[Subject]:
    """Subjects of one name get the folder or file that they come from behind it."""
    count = Counter(subject.model.name for subject in subjects)

    def apart(subject: Subject) -> Subject:
        name = subject.model.name
        if count[name] == 1:
            return subject
        return dataclasses.replace(subject, model=dataclasses.replace(subject.model, name=f"{name} ({subject.origin})"))

    return [apart(subject) for subject in subjects]


@dataclasses.dataclass(frozen=True, slots=True)
class _Planner:
    """One request on one data set."""

    request: EvaluateRequest
    target: Target
    own: DataPlan  # of the fold that was asked for, by which weights are found
    plan: DataPlan  # whose cases are judged: another where all are
    split: str

    # -- networks

    def alternatives(self, text: str) -> list[list[zoo_cards.Card]]:
        """The subjects that a word names, each as its members; a glob names several."""
        if _is_known(text) or "+" not in text:
            return [[card] for card in self._cards(text)]
        members = []
        for part in _parts(text):
            cards = self._cards(part)
            if len(cards) != 1:
                raise UsageError(f"{part!r} in {text!r} names {len(cards)} networks: an ensemble names each of its own")
            members += cards
        return [members]

    def _cards(self, text: str) -> list[zoo_cards.Card]:
        path = Path(text)
        if path.suffix == ".json" and path.with_suffix(".safetensors").exists():
            text = str(path.with_suffix(".safetensors"))
        return zoo_cards.find_cards(text, trust=self.request.trust)

    def network(self, cards: Sequence[zoo_cards.Card]) -> Subject:
        """A network, or an ensemble of several."""
        infos = [self._weights(card) for card in cards]
        plan = self._prepared_for(infos)
        members = tuple(self._member(card, info, plan) for card, info in zip(cards, infos, strict=True))
        seen = {case for info in infos for case in self._seen(info)}
        hows = [_how(member, plan) for member in members]
        (model, *others), (work, *_) = [m.model for m in members], [m.workload for m in members]
        how, recipe = hows[0], infos[0].compression
        if others:
            model, recipe = _ensemble(members), None
            mean = "softmax" if plan.exclusive else "sigmoid"
            how = f"mean {mean} of " + " and ".join(
                f"{m.model.name} ({text})" for m, text in zip(members, hows, strict=True)
            )
            if len({m.workload.spatial for m in members}) > 1:
                work = dataclasses.replace(work, spatial=plan.patch)  # each has its own, in the keywords
        if seen:
            log.warning(
                "%s was trained with %d of these %d cases, such as %s: their Dice is no test",
                *(model.name, len(seen), self.plan.splits[self.split], min(seen)),
            )
        return Subject(
            model=model,
            workload=work,
            target=self.target,
            plan=plan,
            split=self.split,
            indices=tuple(range(self.plan.splits[self.split])),
            how=how,
            origin="+".join(f"{info.path.parent.name}/{info.path.stem}" for info in infos),
            seen=len(seen),
            members=members,
            recipe=recipe,
        )

    def _prepared_for(self, infos: Sequence[checkpoint.CheckpointInfo]) -> DataPlan:
        """The data set as networks meet it: prepared in their own way, where they have one."""
        plan, *others = [self.plan.as_seen_by(info.plan) for info in infos]
        for info, other in zip(infos[1:], others, strict=True):
            if other.seen_by != plan.seen_by:
                raise UsageError(
                    f"{infos[0].path} and {info.path} were trained on images that were prepared in different ways, so "
                    "they are no ensemble: evaluate each for itself"
                )
        return plan

    def _weights(self, card: zoo_cards.Card) -> checkpoint.CheckpointInfo:
        """The weights of a network: those that were named, or those that there are for this data set."""
        if card.checkpoint:
            info = checkpoint.read_sidecar(Path(card.checkpoint))
            _check_regions(info, self.plan.as_seen_by(info.plan))
            if self.request.split == "test":
                check_unseen(info, self.plan)
            return info
        from benchbench.zoo.build import fitting_sides

        plan = self.own
        card = card.on(plan)
        spec = card.spec(in_channels=plan.in_channels, out_channels=plan.out_channels)
        patch = fitting_sides(spec, plan.patch) if plan.folder else card.spatial
        folders = self.request.checkpoints if plan.folder else ()
        path = places.find(card.name, spec.in_channels, spec.out_channels, patch, plan, folders)
        if path is None or rec.to_json(checkpoint.read_sidecar(path).model.kwargs) != rec.to_json(spec.kwargs):
            train = command("train", card.name, "--data", self.request.data)
            raise CheckpointError(
                f"no weights of {card.name} for {plan.name} at {format_shape(patch)}: '{train}' makes some, or give "
                "the path of a .safetensors file"
            )
        return checkpoint.read_sidecar(path)

    def _member(self, card: zoo_cards.Card, info: checkpoint.CheckpointInfo, plan: DataPlan) -> Job:
        spec = dataclasses.replace(info.spec, name=card.name)
        channels, wanted = (spec.in_channels, spec.out_channels), (plan.in_channels, plan.out_channels)
        if channels != wanted:
            raise CheckpointError(
                f"{info.path} has {channels[0]} channels in and {channels[1]} out, and {plan.name} needs {wanted[0]} "
                f"({', '.join(plan.channels)}) and {wanted[1]} ({', '.join(plan.regions)}"
                f"{', background' if plan.exclusive else ''})"
            )
        mirror = checkpoint.check_mirror(info.mirror, info.path) if self.request.test_time_mirroring else None
        overlap = plan.overlap if self.request.overlap is None else self.request.overlap
        work = self._workload(info.spatial, overlap=overlap, mirror=mirror)
        return Job(
            model=spec,
            workload=work,
            backend=self.target.backend or "cpu",
            gpu=self.target.index,
            checkpoint_path=str(info.path),
            data_where=plan.where,
            folder=card.folder,
            trusted=classes.may_import(spec.arch),
        )

    def _workload(
        self, spatial: Sequence[int], *, overlap: float | None, mirror: tuple[int, ...] | None
    ) -> rec.Workload:
        return rec.Workload(
            spatial=tuple(spatial),
            dtype=self.request.dtype if spatial else "fp32",
            protocol=PROTOCOL,
            overlap=overlap,
            data=self.plan.key,
            split=self.split,
            test_time_mirroring=mirror,
        )

    def _seen(self, info: checkpoint.CheckpointInfo) -> list[str]:
        """Cases that weights were trained on or chosen by, of those that are judged."""
        return checkpoint.leaks(info, dataclasses.replace(self.plan, ids={"test": self.plan.ids.get(self.split, ())}))

    # -- label maps

    def label_maps(self, folder: Path) -> Subject:
        """A folder of label maps."""
        maps = find_label_maps(folder, self.plan, self.split, allow_missing=self.request.allow_missing)
        asked = self.plan.ids[self.split]
        lacking = describe_missing(maps.missing, len(asked))
        model = rec.ModelSpec(
            name=folder.resolve().name,
            arch=LABEL_MAPS,
            kwargs={},
            in_channels=self.plan.in_channels,
            out_channels=self.plan.out_channels,
            checkpoint=_content(maps),
        )
        return Subject(
            model=model,
            workload=self._workload((), overlap=None, mirror=None),
            target=self.target,
            plan=self.plan,
            split=self.split,
            indices=tuple(i for i, case in enumerate(asked) if case in maps.files),
            how=f"label maps of {model.name}" + (f"; {lacking}" if lacking else ""),
            origin=folder.resolve().parent.name,
            lacking=lacking,
            maps={case: str(path) for case, path in maps.files.items()},
        )


def _sha256(value: object) -> str:
    """64 hexadecimal digits, as weights have."""
    return hashlib.sha256(rec.canonical_json(value).encode()).hexdigest()


def _content(maps: LabelMaps) -> str:
    """What label maps are known by: their content, by cases."""
    try:
        listed = [[case, file_sha256(path)] for case, path in maps.files.items()]
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from error
    return _sha256(listed)


def _ensemble(members: Sequence[Job]) -> rec.ModelSpec:
    """Several networks as one, known by the weights of each."""
    specs = [rec.to_json(m.model) | {"spatial": list(m.workload.spatial)} for m in members]
    first = members[0].model
    return rec.ModelSpec(
        name="+".join(m.model.name for m in members),
        arch=ENSEMBLE,
        kwargs={"members": specs},
        in_channels=first.in_channels,
        out_channels=first.out_channels,
        checkpoint=_sha256([m.model.checkpoint for m in members]),
    )


def _how(member: Job, plan: DataPlan) -> str:
    work = member.workload
    return how_answered(
        plan, work.spatial, dtype=work.dtype, overlap=member.overlap, mirror=work.test_time_mirroring or ()
    )


def _check_regions(info: checkpoint.CheckpointInfo, plan: DataPlan) -> None:
    """Refuse weights whose outputs mean other labels than the data's.

    Raises:
        CheckpointError: they do.
    """
    theirs = info.plan
    if theirs is None or (list(theirs.regions.values()) == list(plan.regions.values())):
        if theirs and list(theirs.regions) != list(plan.regions):
            log.warning(
                "%s calls its regions %s, and %s calls them %s: they are taken for the same, in this order",
                *(info.path, ", ".join(theirs.regions), plan.name, ", ".join(plan.regions)),
            )
        return
    its, own = (
        ", ".join(f"{name} = {'+'.join(map(str, values))}" for name, values in regions.items())
        for regions in (theirs.regions, plan.regions)
    )
    raise CheckpointError(f"{info.path} segments other labels than {plan.name} has: {its} there, {own} here")


def _is_known(text: str) -> bool:
    """Whether a word is a network's as it stands, whatever signs are in it."""
    try:
        return text in zoo_cards.list_models() or Path(text).exists()
    except (OSError, ValueError):
        return False


def _parts(text: str) -> Iterator[str]:
    """The members of `a+b`; a `+` of a file's own name does not part it."""
    words = text.split("+")
    while words:
        size = next((n for n in range(len(words), 0, -1) if _is_known("+".join(words[:n]))), 1)
        part = "+".join(words[:size])
        if not part:
            raise UsageError(f"{text!r} names an ensemble with an empty member: write it as A+B")
        yield part
        words = words[size:]
