"""Training loop: one recipe for every network of the zoo, by one process or several.

Soft Dice plus cross-entropy, a warm-up and a cosine over the budget, patches drawn towards the foreground, a moving
average of the weights. `patch_schedule`: a network that normalises over its patch (InstanceNorm) is cheap to train on
small patches, but has to end on the patch that it is used with.

Every step draws from (seed, step), so an interrupted training ends with the weights of an uninterrupted one in the same
precision. Under torchrun each process draws its own patches, and DDP averages the gradients.

A finished training can leave its state, from which a longer one goes on: then every schedule is over the longer budget.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchbench import data
from benchbench.core import records as rec
from benchbench.core.errors import CheckpointError, UsageError, os_error_as
from benchbench.core.results import file_sha256, write_whole
from benchbench.core.units import format_shape
from benchbench.training import resume_file
from benchbench.training.cpu_convolutions import fast_convolutions
from benchbench.training.identity import identity, lineage
from benchbench.training.losses import deep_supervision, distillation, make_loss, set_prior
from benchbench.training.network_outputs import network_errors, training_outputs
from benchbench.training.optimizer import make_optimizer
from benchbench.training.patch_loader import (
    Batch,
    CachedPatchLoader,
    PatchLoader,
    prepared_plan,
    with_mirror_axes,
)
from benchbench.training.precision import PrecisionChoice
from benchbench.training.processes import TrainingGroup, training_group
from benchbench.training.recipe import TrainRecipe
from benchbench.training.torch_runtime import (
    channels_last,
    describe_device,
    fp32_where_bf16_is_wrong,
    has_fast_bf16,
    threads,
)
from benchbench.training.validation import dice_on_val
from benchbench.training.weight_average import WeightAverage
from benchbench.zoo import checkpoint

log = logging.getLogger(__name__)

_CURVE_POINTS = 200  # of the loss, over the whole budget
_MOST_SKIPPED = 5  # steps without a finite gradient that are allowed, besides one in ten
_DTYPES = {True: "bf16 autocast", False: "fp32", None: "fp32 and bf16 autocast in turn"}
_VALIDATION_SHARE = 0.05  # most of the elapsed time for evaluations of `val`

#: Called after each step with the share of the budget that is used, 0 to 1, and a line.
Progress = Callable[[float, str], None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """A finished training."""

    checkpoint: checkpoint.CheckpointInfo
    curve: tuple[tuple[int, float], ...]  # (step, mean loss since the last point)
    validation: tuple[tuple[int, float], ...]  # (step, Dice on `val`)
    seconds: float  # of all sittings
    steps: int
    waited_share: float  # of the time, for data
    earlier: bool = False  # an equal call had finished before, so nothing was trained


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InitialWeights:
    """Where the weights of a network come from that does not start with random ones."""

    digest: str  # of the weights and their origin
    cases: tuple[str, ...] = ()  # that they were trained on
    imported: Mapping[str, Any] | None = None  # what is known of them, where another program trained them
    compression: Mapping[str, Any] | None = None  # how they were derived, for the sidecar
    teacher: nn.Module | None = None  # see `TrainRecipe.distil`


def train(
    model: nn.Module,
    spec: rec.ModelSpec,
    recipe: TrainRecipe,
    *,
    out: Path,
    device: str = "cpu",
    progress: Progress | None = None,
    start: InitialWeights | None = None,
    loader: CachedPatchLoader | None = None,
    replace: bool = True,
    keep_state: bool = False,
    continue_from: Path | None = None,
) -> TrainResult:
    """Train a network, and write its averaged weights.

    Args:
        model: changed in place; it ends with the averaged weights.
        out: the weights' file, `<name>.safetensors`; beside it are `<name>.json` and, until the end, `<name>.resume`,
            from which an equal call goes on. If an equal call has finished, its result is returned.
        start: origin of the weights of `model`; None: random, and their last bias is set by `recipe.prior`.
        loader: of batches that other trainings of this recipe share.
        replace: overwrite weights of another training.
        keep_state: leave `<name>.state` beside the weights, from which a longer training can go on.
        continue_from: such a file, of an equal training with a smaller budget. Steps and seconds count from the
            beginning of that one, so its own are part of the budget.

    Raises:
        CheckpointError: `<name>.resume` or `continue_from` is of another training, or weights that may not be replaced
            exist; or nothing can be written.
        DataError: unknown data set, or a case that cannot be read.
        UnsupportedError: the network raises in a step, or its output cannot be trained.
    """
    plan = loader.loader.plan if loader else prepared_plan(recipe.data, progress)
    recipe = with_mirror_axes(recipe, plan)
    with (
        threads(recipe.threads),
        torch.random.fork_rng(devices=[]),
        fp32_where_bf16_is_wrong(model),
        fast_convolutions(model, device),
        training_group(device) as group,
    ):
        if device == "cuda" and group.size > 1:
            device = f"cuda:{os.environ.get('LOCAL_RANK', group.rank)}"
        training = _Training(model.to(device), spec, recipe, plan, out, device, group, progress, start, loader)
        try:
            return training.run(replace=replace, keep_state=keep_state, continue_from=continue_from)
        finally:
            training.loader.close()


@dataclasses.dataclass(slots=True, kw_only=True)
class _Counters:
    """Progress of a training, as in its resume file."""

    step: int = 0
    skipped: int = 0  # steps without a finite gradient
    seconds: float = 0.0
    averaged_since: int = 0  # step at which the average began: anew with each patch size
    validation_s: float = 0.0
    waited_s: float = 0.0  # for data, in earlier sittings


class _Training:
    """One training: network, optimizer, average of the weights, and progress."""

    def __init__(
        self,
        model: nn.Module,
        spec: rec.ModelSpec,
        recipe: TrainRecipe,
        plan: data.DataPlan,
        out: Path,
        device: str,
        group: TrainingGroup,
        progress: Progress | None = None,
        start: InitialWeights | None = None,
        loader: CachedPatchLoader | None = None,
    ) -> None:
        self.model, self.spec, self.recipe, self.plan, self.start = model, spec, recipe, plan, start
        self.out, self.device, self.group = out, device, group
        self.progress = progress if group.is_main_process else None
        self.resume_path = out.with_suffix(checkpoint.RESUME)
        self.steps = recipe.budget.in_steps(plan.splits["train"], recipe.batch * group.size)
        self.optimizer = make_optimizer(model, recipe)
        self.loss = make_loss(recipe.loss, exclusive=plan.exclusive)
        self.counters = _Counters()
        self.saved_at_s = 0.0  # of the resume file
        self.curve: list[tuple[int, float]] = []
        self.validation: list[tuple[int, float]] = []
        self.loader: PatchLoader | CachedPatchLoader = loader or PatchLoader(plan, recipe, process=group.rank)
        self.loader.waited_s = 0.0
        self.precision = PrecisionChoice(recipe.bf16 if recipe.bf16 is not None or has_fast_bf16(device) else False)
        self.trained: nn.Module = model  # wrapped in DDP, if there are several processes
        self.layout = torch.channels_last_3d if channels_last(model, device) else torch.contiguous_format
        self.teacher = start.teacher.eval().to(device) if start and start.teacher and recipe.distil else None
        if self.teacher:
            channels_last(self.teacher, device)
        if start is None:
            set_prior(model, plan, recipe.prior)
        self.average = WeightAverage(model, recipe.average)
        self.origin = ""  # hash of the state that the training goes on from

    def run(self, *, replace: bool, keep_state: bool, continue_from: Path | None) -> TrainResult:
        if continue_from:
            with os_error_as(CheckpointError, f"cannot read {continue_from}"):
                self.origin = file_sha256(continue_from)
        if earlier := self._earlier_result(replace=replace):
            return earlier
        if self.resume_path.exists():
            self._load_state(self.resume_path, self._identity())
        elif continue_from:
            self._load_state(continue_from, self._lineage())
        if self.group.size > 1:
            # some networks hold parameters that their forward never uses, such as MONAI's ViT
            self.trained = nn.parallel.DistributedDataParallel(self.model, find_unused_parameters=True)
        self.model.train()
        counters = self.counters
        before, start = counters.seconds, time.monotonic()
        losses: list[float] = []
        used = self._used()
        while used < 1:
            patch = self.recipe.patch_at(used)
            for group in self.optimizer.param_groups:
                group["lr"] = self.recipe.rate_at(used)
            loss = self.train_step(self.loader.batch(counters.step, patch, patch))
            losses += [loss] if math.isfinite(loss) else []
            counters.step += 1
            counters.seconds = before + time.monotonic() - start
            last, used = used, self._used()
            if self.recipe.patch_at(used) != patch and used < 1:
                counters.averaged_since = counters.step
            if losses and (used >= 1 or int(used * _CURVE_POINTS) > int(last * _CURVE_POINTS)):
                self.curve.append((counters.step, round(float(np.mean(losses)), 5)))
                losses = []
            self._validate_if_due(last, used)
            if self.progress:
                dice = f", Dice {self.validation[-1][1]:.3f} on val" if self.validation else ""
                self.progress(used, f"step {counters.step}, patch {format_shape(patch)}, loss {loss:.3f}{dice}")
            if counters.seconds - self.saved_at_s >= self.recipe.checkpoint_every_s and used < 1:
                self._write_resume_file()
        if keep_state:
            self._write_state(self.out.with_suffix(checkpoint.STATE), self._lineage())
        return self._finish()

    def _used(self) -> float:
        """Share of the budget that is used, 0 to 1; in all processes by the clock of rank 0."""
        budget = self.recipe.budget
        by_step = self.counters.step / self.steps if self.steps is not None else 0.0
        most_s = budget.seconds if self.steps is None else budget.most_s
        if most_s is None:
            return min(1.0, by_step)
        used = min(1.0, max(by_step, self.counters.seconds / most_s))
        return self.group.from_main_process(used, self.device)

    def train_step(self, batch: Batch) -> float:
        """One step of the optimizer; returns the loss."""
        if self.precision.is_decided:
            return self._step(batch)
        start = time.perf_counter()
        loss = self._step(batch)
        if self.precision.add(time.perf_counter() - start):
            faster = float(self.precision.is_bf16_faster())
            self.precision.bf16 = bool(self.group.from_main_process(faster, self.device))
        return loss

    def _step(self, batch: Batch) -> float:
        counters = self.counters
        rng = np.random.default_rng([self.recipe.seed, 2, counters.step, self.group.rank])
        torch.manual_seed(int(rng.integers(2**62)))  # dropout
        image = batch.image.to(self.device, memory_format=self.layout)
        target = batch.target.to(self.device)
        self.optimizer.zero_grad(set_to_none=True)
        with network_errors(self.spec.name, counters.step, image):
            with torch.autocast(self.device.partition(":")[0], torch.bfloat16, enabled=self.precision.next()):
                outputs = self._outputs(self.trained(image), image)
                with torch.no_grad():
                    teacher = self._outputs(self.teacher(image), image)[0] if self.teacher else None
            loss = deep_supervision(outputs, target, self.loss)
            if teacher is not None:
                distance = distillation(outputs[0].float(), teacher.float(), exclusive=self.plan.exclusive)
                loss = (1 - self.recipe.distil) * loss + self.recipe.distil * distance
            loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        if torch.isfinite(norm):
            self.optimizer.step()
        else:  # a norm over a nearly empty patch can overflow; the weights stay as they are
            counters.skipped += 1
            if counters.skipped > _MOST_SKIPPED + counters.step // 10:
                raise UsageError(
                    f"{self.spec.name}: the gradient was not finite in {counters.skipped} of {counters.step + 1} "
                    f"steps; a lower lr than {self.recipe.lr} or bf16=False may help"
                )
        self.average.update(counters.step + 1 - counters.averaged_since)
        return loss.item()

    def _outputs(self, output: Any, image: Tensor) -> list[Tensor]:
        return training_outputs(self.spec.name, output, image, self.plan)

    # -- validation

    def _validate_if_due(self, last: float, used: float) -> None:
        """Dice on `val`, some times over the budget, but never for more than a small share of the time."""
        n, counters = self.recipe.validations, self.counters
        due = n and self.group.is_main_process and int(used * n) > int(last * n) and used < 1
        if not due or not self.plan.splits.get("val"):
            return
        if self.validation and counters.validation_s > _VALIDATION_SHARE * counters.seconds:
            return
        start = time.monotonic()
        with self.average.applied():
            self._validate()
        self.model.train()
        counters.validation_s += time.monotonic() - start

    def _validate(self) -> None:
        """Append the Dice on `val`, if it can be measured."""
        step, bf16 = self.counters.step, bool(self.precision.bf16)
        dice = dice_on_val(self.model, self.plan, self.recipe.patch, device=self.device, bf16=bf16, step=step)
        if dice is not None:
            self.validation.append((step, dice))

    # -- files

    def _identity(self) -> str:
        """Hash of all that the weights depend on."""
        origins = [*self._start_digest(), *([self.origin] if self.origin else [])]
        return identity(self.recipe, self.spec, self.plan, processes=self.group.size, origins=origins)

    def _lineage(self) -> str:
        return lineage(self.recipe, self.spec, self.plan, processes=self.group.size, origins=self._start_digest())

    def _start_digest(self) -> list[str]:
        return [self.start.digest] if self.start else []

    def _write_resume_file(self) -> None:
        self.saved_at_s = self.counters.seconds
        self._write_state(self.resume_path, self._identity())

    def _write_state(self, path: Path, identity: str) -> None:
        if not self.group.is_main_process:
            return
        waited_s = self.counters.waited_s + self.loader.waited_s
        state = resume_file.TrainingState(
            identity=identity,
            model=self.average.weights(),
            average=self.average.tensors,
            optimizer=self.optimizer.state_dict(),
            progress=dataclasses.asdict(self.counters) | {"waited_s": waited_s},
            bf16=self.precision.bf16,
            curve=self.curve,
            validation=self.validation,
        )
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, resume_file.content_of(state))
        except OSError as error:
            raise CheckpointError(
                f"cannot write {path}: {error.strerror or error}; make room and run again: it goes on from "
                "the last one that was kept"
            ) from error

    def _load_state(self, path: Path, identity: str) -> None:
        state = resume_file.read(path, identity, self.average.weights(), self.optimizer, self.device)
        self.average.load(state.model)
        self.average.tensors = state.average
        self.optimizer.load_state_dict(dict(state.optimizer))
        self.counters = _Counters(**state.progress)
        self.saved_at_s = self.counters.seconds
        self.curve, self.validation = state.curve, state.validation
        if state.bf16 is not None and self.recipe.bf16 is None:
            self.precision = PrecisionChoice(state.bf16)
        log.info("going on from step %d of %s", self.counters.step, path)

    def _earlier_result(self, *, replace: bool) -> TrainResult | None:
        """The result of an equal call that has finished, or None."""
        weights, sidecar, resume = checkpoint.files_of(self.out)
        if not weights.exists() and not sidecar.exists():
            return None
        try:
            info = checkpoint.read_sidecar(self.out)
        except CheckpointError:  # damaged, or not of a training
            info = None
        if info and not weights.exists():
            return None
        if info and info.train.get("identity") == self._identity():
            return None if resume.exists() else self._stored_result(info)
        if replace:
            return None
        what = "is of another training" if info else "is there already and says nothing of a training"
        raise CheckpointError(
            f"{weights if weights.exists() else sidecar} {what}: choose another --out, or --fresh, which sets it aside"
        )

    def _stored_result(self, info: checkpoint.CheckpointInfo) -> TrainResult:
        checkpoint.load_weights(self.model, self.out)
        self.model.eval()
        summary = info.train
        curves = [tuple((int(step), float(value)) for step, value in summary[key]) for key in ("curve", "validation")]
        return TrainResult(
            checkpoint=info,
            curve=curves[0],
            validation=curves[1],
            seconds=float(summary.get("seconds", 0.0)),  # the weights hold no times, if the sidecar was lost
            steps=int(summary["steps_done"]),
            waited_share=float(summary.get("waited_for_data", 0.0)),
            earlier=True,
        )

    def _finish(self) -> TrainResult:
        counters = self.counters
        validates = bool(self.recipe.validations and self.plan.splits.get("val"))
        if validates:
            self._write_resume_file()  # until the last Dice is written, the training is not finished
        self.average.load(self.average.tensors)
        self.model.eval()
        waited = (counters.waited_s + self.loader.waited_s) / counters.seconds if counters.seconds else 0.0
        if self.group.is_main_process:
            self._save(waited)  # before the last evaluation, which may fail
            if validates:
                self._validate()
                self._save(waited)
            self.resume_path.unlink(missing_ok=True)
        self.group.wait()
        return TrainResult(
            checkpoint=checkpoint.read_sidecar(self.out),
            curve=tuple(self.curve),
            validation=tuple(self.validation),
            seconds=counters.seconds,
            steps=counters.step,
            waited_share=waited,
        )

    def _save(self, waited_share: float) -> None:
        start, counters = self.start, self.counters
        cases = [*(start.cases if start else ()), *self.plan.ids.get("train", ()), *self.plan.ids.get("val", ())]
        summary: dict[str, Any] = {
            "identity": self._identity(),
            "recipe": dataclasses.asdict(self.recipe) | {"data": self.plan.key, "budget": str(self.recipe.budget)},
            "budget": str(self.recipe.budget),
            "steps_done": counters.step,
            "steps_skipped": counters.skipped,
            "seconds": round(counters.seconds, 1),
            "validation_seconds": round(counters.validation_s, 1),
            "waited_for_data": round(waited_share, 4),
            "processes": self.group.size,
            "seed": self.recipe.seed,
            "fold": self.plan.fold,
            "cases": list(dict.fromkeys(cases)),
            "dtype": _DTYPES[self.precision.bf16],
            "step_seconds": self.precision.shortest_s(),  # by which the precision was chosen
            "device": describe_device(self.device),
            "threads": torch.get_num_threads(),
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
            "curve": [list(point) for point in self.curve],
            "validation": [list(point) for point in self.validation],
        }
        checkpoint.save(
            self.out,
            self.model.state_dict(),
            model=self.spec,
            data=self.plan.key,
            spatial=self.recipe.patch,
            train=summary
            | ({"start": start.digest} if start else {})
            | ({"imported": start.imported} if start and start.imported else {}),
            plan=self.plan,
            compression=start.compression if start else None,
        )
