"""Training loop: one recipe for every network of the zoo, by one process or several.

Soft Dice plus cross-entropy, a warm-up and a cosine over the budget, patches drawn towards the foreground, an average
of the weights over the last steps. `patch_schedule`: a network that normalises over its patch (InstanceNorm) is cheap
to train on small patches and must end on the patch it will be used with.

Every step draws from (seed, step), so a training that was interrupted goes on as if it had not been. Under torchrun
each process draws patches of its own, and DDP averages the gradients.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchbench import data
from benchbench.core import records as rec
from benchbench.core.errors import (
    BenchError,
    CheckpointError,
    DataError,
    UnsupportedError,
    UsageError,
    is_out_of_memory,
    named_line,
)
from benchbench.core.results import write_whole
from benchbench.core.units import format_shape
from benchbench.training import resume_file
from benchbench.training.evaluate import AccuracyError, measure_dice
from benchbench.training.losses import distillation, make_loss, set_prior
from benchbench.training.patch_loader import Batch, CachedPatchLoader, PatchLoader
from benchbench.training.recipe import TrainRecipe
from benchbench.training.torch_runtime import (
    channels_last,
    describe_device,
    exact_small_convolutions,
    has_fast_bf16,
    threads,
)
from benchbench.zoo import checkpoint
from benchbench.zoo import logits as zoo_logits

log = logging.getLogger(__name__)

_CURVE_POINTS = 200  # of the loss, over the whole budget
_MOST_SKIPPED = 5  # steps whose gradient may overflow, besides one in ten
_VALIDATION_SHARE = 0.05  # of the time so far, that evaluating `val` may take

#: Told after each step: share of the budget that is used, 0 to 1, and a line for a person.
Progress = Callable[[float, str], None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """A finished training."""

    checkpoint: checkpoint.CheckpointInfo
    curve: tuple[tuple[int, float], ...]  # (step, mean loss since the last point)
    validation: tuple[tuple[int, float], ...]  # (step, Dice on `val`)
    seconds: float  # all sittings together
    steps: int
    waited_share: float  # of the time, for data
    earlier: bool = False  # an equal call had ended before, and nothing was trained


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InitialWeights:
    """What a training goes on from, where it does not begin with random weights."""

    digest: str  # of the weights that the network has, and of where they are from
    cases: tuple[str, ...] = ()  # that they were trained on
    compression: Mapping[str, Any] | None = None  # what was done to get them, for the sidecar
    teacher: nn.Module | None = None  # whose answers it is to give, too; see `TrainRecipe.distil`


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """The processes that train one network together."""

    rank: int = 0
    size: int = 1

    @property
    def is_main_process(self) -> bool:
        """True on rank 0, which writes."""
        return self.rank == 0


@contextlib.contextmanager
def _group(device: str) -> Iterator[_Group]:
    """The group that torchrun started this process in; a group of one without it."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield _Group()
        return
    from torch import distributed

    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield _Group(rank=distributed.get_rank(), size=distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


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
) -> TrainResult:
    """Train a network, and write its averaged weights.

    Args:
        model: the network; its weights change, and end as the averaged ones.
        out: the weights' file, `<name>.safetensors`; beside it come `<name>.json` and, until the end,
            `<name>.resume`, from which an equal call goes on. Where an equal call has ended, its result is returned.
        start: what the weights of `model` are; None: random, and their last bias is set by `recipe.prior`.
        loader: of batches that other trainings of this recipe use, too; None: one of its own.
        replace: weights of another training that are there.

    Raises:
        CheckpointError: `<name>.resume` is of another training, or weights that are not to be replaced are; or nothing
            can be written.
        DataError: unknown data set, or a case that cannot be read.
        UnsupportedError: the network raises in a step, or gives no output that can be trained.
    """
    plan = loader.loader.plan if loader else readable_plan(recipe, progress)
    with (
        threads(recipe.threads),
        torch.random.fork_rng(devices=[]),
        exact_small_convolutions(model),
        _group(device) as group,
    ):
        if device == "cuda" and group.size > 1:
            device = f"cuda:{os.environ.get('LOCAL_RANK', group.rank)}"
        training = _Training(model.to(device), spec, recipe, plan, out, device, progress, group, start, loader)
        try:
            return training.run(replace=replace)
        finally:
            training.loader.close()


def readable_plan(recipe: TrainRecipe, progress: Progress | None = None) -> data.DataPlan:
    """The plan of the data, every case prepared, and without those that cannot be read."""
    plan = data.get_plan(recipe.data)
    if plan.folder is not None:
        from benchbench.data import preprocessing

        def report(done: int, count: int) -> None:
            if progress:
                progress(0.0, f"preparing case {done} of {count}")

        for reason in preprocessing.prepare_all(plan, progress=report).values():
            log.warning("left out: %s", reason)
        plan = data.get_plan(recipe.data)
    if not plan.splits.get("train"):
        raise UsageError(f"{plan.key} has no case to train on: every one of them is a test case")
    return plan


class _Training:
    """The state of one training."""

    def __init__(
        self,
        model: nn.Module,
        spec: rec.ModelSpec,
        recipe: TrainRecipe,
        plan: data.DataPlan,
        out: Path,
        device: str,
        progress: Progress | None,
        group: _Group,
        start: InitialWeights | None = None,
        loader: CachedPatchLoader | None = None,
    ) -> None:
        self.start = start
        self.teacher = start.teacher.eval().to(device) if start and start.teacher and recipe.distil else None
        self.model, self.spec, self.recipe, self.plan = model, spec, recipe, plan
        self.out, self.device, self.group = out, device, group
        self.progress = progress if group.is_main_process else None
        self.resume_path = out.with_suffix(checkpoint.RESUME)
        self.steps = recipe.budget.in_steps(plan.splits["train"], recipe.batch * group.size)
        self.optimizer = _optimizer(model, recipe)
        self.loss = make_loss(recipe.loss, exclusive=plan.exclusive)
        self.average: dict[str, Tensor] = {}
        self.averaged_since = 0  # step at which the average started: anew with each patch size
        self.step, self.skipped, self.seconds = 0, 0, 0.0
        self.kept_at = 0.0  # seconds at which it was last kept
        self.curve: list[tuple[int, float]] = []
        self.validation: list[tuple[int, float]] = []
        self.validation_s, self.waited_s = 0.0, 0.0  # the latter of the sittings before this one
        self.loader: PatchLoader | CachedPatchLoader = loader or PatchLoader(plan, recipe, process=group.rank)
        self.loader.waited_s = 0.0
        self.autocast = has_fast_bf16(device) if recipe.bf16 is None else recipe.bf16
        self.trained: nn.Module = model
        if self.teacher:
            channels_last(self.teacher, device)
        self.layout = torch.channels_last_3d if channels_last(model, device) else torch.contiguous_format

    def run(self, *, replace: bool = True) -> TrainResult:
        if done := self._done(replace=replace):
            return done
        if self.start is None:
            set_prior(self.model, self.plan, self.recipe.prior)
        self._reset_average()
        self._resume()
        if self.group.size > 1:
            # some networks hold parameters that their forward never uses, such as MONAI's ViT
            self.trained = nn.parallel.DistributedDataParallel(self.model, find_unused_parameters=True)
        self.model.train()
        before, start = self.seconds, time.monotonic()
        losses: list[float] = []
        used = self._used()
        while used < 1:
            patch = self.recipe.patch_at(used)
            for group in self.optimizer.param_groups:
                group["lr"] = self.recipe.rate_at(used)
            loss = self._one_step(self.loader.batch(self.step, patch, patch))
            losses += [loss] if math.isfinite(loss) else []
            self.step += 1
            self.seconds = before + time.monotonic() - start
            last, used = used, self._used()
            if self.recipe.patch_at(used) != patch and used < 1:
                self.averaged_since = self.step
            if losses and (used >= 1 or int(used * _CURVE_POINTS) > int(last * _CURVE_POINTS)):
                self.curve.append((self.step, round(float(np.mean(losses)), 5)))
                losses = []
            self._watch(last, used)
            if self.progress:
                seen = f", Dice {self.validation[-1][1]:.3f} on val" if self.validation else ""
                self.progress(used, f"step {self.step}, patch {format_shape(patch)}, loss {loss:.3f}{seen}")
            if self.seconds - self.kept_at >= self.recipe.checkpoint_every_s and used < 1:
                self._keep()
        return self._finish()

    def _used(self) -> float:
        """Share of the budget that is used up, 0 to 1; the same in all processes."""
        budget = self.recipe.budget
        if self.steps is not None and budget.most_s is None:
            return min(1.0, self.step / self.steps)
        by_step = self.step / self.steps if self.steps is not None else 0.0
        most_s = budget.seconds if self.steps is None else budget.most_s
        assert most_s is not None
        used = min(1.0, max(by_step, self.seconds / most_s))
        if self.group.size > 1:  # their clocks differ: the first one's counts
            from torch import distributed

            shared = torch.tensor([used], dtype=torch.float64, device=self.device)
            distributed.broadcast(shared, 0)
            used = float(shared)
        return used

    def _one_step(self, batch: Batch) -> float:
        rng = np.random.default_rng([self.recipe.seed, 2, self.step, self.group.rank])
        torch.manual_seed(int(rng.integers(2**62)))  # dropout
        image = batch.image.to(self.device, memory_format=self.layout)
        target = batch.target.to(self.device)
        self.optimizer.zero_grad(set_to_none=True)
        with self._of_the_network(image):
            with torch.autocast(self.device.partition(":")[0], torch.bfloat16, enabled=self.autocast):
                outputs = self._answers(self.trained(image), image)
                with torch.no_grad():
                    taught = self._answers(self.teacher(image), image)[0] if self.teacher else None
            loss = torch.stack([self._loss(out, target) for out in outputs]).mean()
            if taught is not None:
                distance = distillation(outputs[0].float(), taught.float(), exclusive=self.plan.exclusive)
                loss = (1 - self.recipe.distil) * loss + self.recipe.distil * distance
            loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        if torch.isfinite(norm):
            self.optimizer.step()
        else:  # a norm over a nearly empty patch can overflow; the weights are left as they were
            self.skipped += 1
            if self.skipped > _MOST_SKIPPED + self.step // 10:
                raise UsageError(
                    f"{self.spec.name}: the gradient was not finite in {self.skipped} of {self.step + 1} steps; "
                    f"a lower lr than {self.recipe.lr} or bf16=False may help"
                )
        self._update_average()
        return loss.item()

    @contextlib.contextmanager
    def _of_the_network(self, image: Tensor) -> Iterator[None]:
        """Inside, whatever a network raises is one line."""
        try:
            yield
        except BenchError:
            raise
        except Exception as error:  # a network may raise anything
            if is_out_of_memory(error):
                raise UnsupportedError(
                    f"{self.spec.name}: memory ran out in training step {self.step} on "
                    f"{format_shape(tuple(image.shape))}; take a smaller --batch-size or --spatial"
                ) from error
            why = named_line(error)
            todo = ""
            if isinstance(error, ValueError) and "more than 1 value per channel" in str(error):
                todo = "; a norm over the batch needs more than one voxel: take --batch-size 2 or a larger --spatial"
            raise UnsupportedError(
                f"{self.spec.name} cannot be trained on a batch of {format_shape(tuple(image.shape))}: {why}{todo}"
            ) from error

    def _answers(self, output: Any, image: Tensor) -> list[Tensor]:
        """The logits, and other answers of deep supervision."""
        outputs = zoo_logits.segmentations(output, image.shape[2:], self.plan.out_channels)
        if (channels := outputs[0].shape[1]) != self.plan.out_channels or len(outputs[0]) != len(image):
            raise UnsupportedError(
                f"{self.spec.name} answers {format_shape(tuple(outputs[0].shape))} to a batch of "
                f"{format_shape(tuple(image.shape))}, and {self.plan.name} needs {len(image)} with "
                f"{self.plan.out_channels} channels, not {len(outputs[0])} with {channels}"
            )
        return outputs

    def _loss(self, logits: Tensor, target: Tensor) -> Tensor:
        if logits.shape[2:] != target.shape[2:]:  # a coarser output of deep supervision
            target = nn.functional.interpolate(target, size=logits.shape[2:], mode="nearest")
        return self.loss(logits.float(), target)

    # -- validation

    def _watch(self, last: float, used: float) -> None:
        """Dice on `val`, some times over the budget; never for more than a small share of the time."""
        n = self.recipe.validations
        due = n and self.group.is_main_process and int(used * n) > int(last * n) and used < 1
        if not due or not self.plan.splits.get("val"):
            return
        if self.validation and self.validation_s > _VALIDATION_SHARE * self.seconds:
            return
        start = time.monotonic()
        live = {key: value.detach().clone() for key, value in self._live().items()}
        self._load(self.average)
        self._validate()
        self._load(live)
        self.model.train()
        self.validation_s += time.monotonic() - start

    def _validate(self) -> None:
        """Add the Dice on `val` to the curve, if it can be had: without it, a training is as good."""
        try:
            scores = measure_dice(
                self.model,
                data=self.plan.where,
                split="val",
                spatial=self.recipe.patch,
                device=self.device,
                dtype="bf16" if self.autocast else "fp32",
                surfaces=False,
            )
        except (DataError, AccuracyError) as error:
            log.warning("step %d was not evaluated on the validation cases: %s", self.step, error)
            return
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            log.warning("step %d was not evaluated on the validation cases: memory ran out", self.step)
            return
        if (value := scores.measurements[0].value) is not None:
            self.validation.append((self.step, round(float(value), 5)))

    # -- average of the weights

    def _live(self) -> dict[str, Tensor]:
        return checkpoint.unique_tensors(self.model.state_dict())

    @torch.no_grad()
    def _load(self, weights: dict[str, Tensor]) -> None:
        for key, live in self._live().items():
            live.copy_(weights[key])

    def _reset_average(self) -> None:
        self.average = {key: value.detach().clone() for key, value in self._live().items()}

    @torch.no_grad()
    def _update_average(self) -> None:
        n = self.step + 1 - self.averaged_since
        decay = min(self.recipe.ema, n / (n + 9))
        for key, live in self._live().items():
            if live.is_floating_point():
                self.average[key].lerp_(live, 1 - decay)
            else:
                self.average[key].copy_(live)

    # -- keeping and finishing

    def _identity(self) -> str:
        asked = dataclasses.asdict(self.recipe) | {"data": self.plan.key, "processes": self.group.size}
        asked["cases"] = [list(self.plan.ids.get(split, ())) for split in ("train", "val")]
        del asked["checkpoint_every_s"], asked["threads"]  # they change nothing in what is asked for
        known = [rec.to_json(asked), rec.to_json(self.spec)]
        return rec.content_hash([*known, self.start.digest] if self.start else known)

    def _keep(self) -> None:
        """Write what an equal call needs to go on."""
        self.kept_at = self.seconds
        if not self.group.is_main_process:
            return
        state = resume_file.TrainingState(
            identity=self._identity(),
            model=self._live(),
            average=self.average,
            optimizer=self.optimizer.state_dict(),
            progress={
                "step": self.step,
                "skipped": self.skipped,
                "seconds": self.seconds,
                "averaged_since": self.averaged_since,
                "validation_s": self.validation_s,
                "waited_s": self.waited_s + self.loader.waited_s,
            },
            curve=self.curve,
            validation=self.validation,
        )
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.resume_path, resume_file.content_of(state))
        except OSError as error:
            raise CheckpointError(
                f"cannot write {self.resume_path}: {error.strerror or error}; make room and run again: it goes on from "
                "the last one that was kept"
            ) from error

    def _resume(self) -> None:
        if not self.resume_path.exists():
            return
        state = resume_file.read(self.resume_path, self._identity(), self._live(), self.optimizer, self.device)
        self._load(dict(state.model))
        self.average = dict(state.average)
        self.optimizer.load_state_dict(dict(state.optimizer))
        saved = state.progress
        self.step, self.skipped, self.averaged_since = (
            int(saved[key]) for key in ("step", "skipped", "averaged_since")
        )
        self.seconds, self.validation_s, self.waited_s = (
            float(saved[key]) for key in ("seconds", "validation_s", "waited_s")
        )
        self.kept_at = self.seconds
        self.curve, self.validation = state.curve, state.validation
        log.info("going on from step %d of %s", self.step, self.resume_path)

    def _done(self, *, replace: bool) -> TrainResult | None:
        """The result of an equal call that has ended; None: there is none."""
        weights, sidecar, going_on = checkpoint.files_of(self.out)
        if not weights.exists() and not sidecar.exists():
            return None
        try:
            info = checkpoint.read_sidecar(self.out)
        except CheckpointError:  # somebody else's, or a damaged one
            info = None
        if info and not weights.exists():
            return None
        if info and info.train.get("identity") == self._identity():
            return None if going_on.exists() else self._earlier(info)
        if replace:
            return None
        what = "is of another training" if info else "is there already and says nothing of a training"
        raise CheckpointError(
            f"{weights if weights.exists() else sidecar} {what}: choose another --out, or --fresh, which sets it aside"
        )

    def _earlier(self, info: checkpoint.CheckpointInfo) -> TrainResult:
        checkpoint.load_weights(self.model, self.out)
        self.model.eval()
        summary = info.train
        curves = [tuple((int(step), float(value)) for step, value in summary[key]) for key in ("curve", "validation")]
        return TrainResult(
            checkpoint=info,
            curve=curves[0],
            validation=curves[1],
            seconds=float(summary.get("seconds", 0.0)),  # which a kill may have left unwritten
            steps=int(summary["steps_done"]),
            waited_share=float(summary.get("waited_for_data", 0.0)),
            earlier=True,
        )

    def _finish(self) -> TrainResult:
        watched = bool(self.recipe.validations and self.plan.splits.get("val"))
        if watched:
            self._keep()  # or a kill before the last Dice would leave a training that looks finished
        self._load(self.average)
        self.model.eval()
        waited = (self.waited_s + self.loader.waited_s) / self.seconds if self.seconds else 0.0
        summary: dict[str, Any] = {
            "identity": self._identity(),
            "recipe": dataclasses.asdict(self.recipe) | {"data": self.plan.key, "budget": str(self.recipe.budget)},
            "budget": str(self.recipe.budget),
            "steps_done": self.step,
            "steps_skipped": self.skipped,
            "seconds": round(self.seconds, 1),
            "validation_seconds": round(self.validation_s, 1),
            "waited_for_data": round(waited, 4),
            "processes": self.group.size,
            "seed": self.recipe.seed,
            "fold": self.plan.fold,
            "cases": self._cases(),
            "dtype": "bf16 autocast" if self.autocast else "fp32",
            "device": describe_device(self.device),
            "threads": torch.get_num_threads(),
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
            "curve": [list(point) for point in self.curve],
            "validation": [list(point) for point in self.validation],
        }
        if not self.group.is_main_process:
            self._wait()
            return self._result(checkpoint.read_sidecar(self.out), waited)
        info = self._save(summary)  # before anything else can go wrong
        if watched:
            self._validate()
            info = self._save(summary | {"validation": [list(point) for point in self.validation]})
        self.resume_path.unlink(missing_ok=True)
        self._wait()
        return self._result(info, waited)

    def _cases(self) -> list[str]:
        """Every case that the weights have seen, those before this training included."""
        seen = [*self.plan.ids.get("train", ()), *self.plan.ids.get("val", ())]
        return list(dict.fromkeys([*(self.start.cases if self.start else ()), *seen]))

    def _save(self, summary: dict[str, Any]) -> checkpoint.CheckpointInfo:
        return checkpoint.save(
            self.out,
            self.model.state_dict(),
            model=self.spec,
            data=self.plan.key,
            spatial=self.recipe.patch,
            train=summary | ({"start": self.start.digest} if self.start else {}),
            plan=self.plan,
            compression=self.start.compression if self.start else None,
        )

    def _wait(self) -> None:
        if self.group.size > 1:
            from torch import distributed

            distributed.barrier()

    def _result(self, info: checkpoint.CheckpointInfo, waited: float) -> TrainResult:
        return TrainResult(
            checkpoint=info,
            curve=tuple(self.curve),
            validation=tuple(self.validation),
            seconds=self.seconds,
            steps=self.step,
            waited_share=waited,
        )


def _optimizer(model: nn.Module, recipe: TrainRecipe) -> torch.optim.Optimizer:
    groups = _groups(model, recipe.weight_decay)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=True)
    return torch.optim.AdamW(groups, lr=recipe.lr)


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with and without decay: norms and biases (one axis or none) have none."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
