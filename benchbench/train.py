"""One training recipe for every network of the zoo.

AdamW with warm-up and a cosine, soft Dice plus cross-entropy per region, patches drawn towards the
foreground, a left-right flip and a mild jitter of contrast, an average of the weights over the last
steps. The surprise is `patch_schedule`: a network that normalises over its patch (InstanceNorm) is
cheap to train on small patches and must end on the patch it will be used with. Every step draws from
(seed, step), so a training that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import math
import pickle
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchbench import checkpoint, data
from benchbench import records as rec
from benchbench.errors import CheckpointError, UsageError
from benchbench.kernels import exact_small_convolutions
from benchbench.losses import dice_bce
from benchbench.measure.accuracy import measure_dice
from benchbench.store import write_whole
from benchbench.units import format_shape

log = logging.getLogger(__name__)

_CURVE_EVERY = 10  # steps
_MOST_SKIPPED = 5  # steps whose gradient may overflow, besides one in ten

#: Told after each step: share of the budget that is used, 0 to 1, and a line for a person.
Progress = Callable[[float, str], None]
Patch = tuple[int, int, int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainRecipe:
    """How to train; the same for every network unless said otherwise."""

    data: str
    patch: Patch  # (D, H, W) voxels that the network will be used with
    steps: int
    max_seconds: float | None = None  # ends the training early; the schedules shrink with it
    batch: int = 1
    seed: int = 0
    lr: float = 1e-3
    weight_decay: float = 1e-2
    warmup: float = 0.04  # share of the budget with a rising rate
    prior: float = 0.01  # every region's probability at the start, set by the last bias; see `set_prior`
    lr_floor: float = 0.05  # the cosine ends at this share of `lr`
    foreground: float = 0.67  # share of patches that are centred on a labelled voxel, where they are cut
    patch_schedule: tuple[tuple[Patch, float], ...] = ()  # (patch, share of the budget), in order; empty: `patch`
    ema: float = 0.99  # decay of the average of the weights, per step
    clip: float = 5.0  # largest norm of the gradient
    threads: int | None = None  # None: as torch has them
    bf16: bool | None = None  # autocast; None: where the device is faster with it
    checkpoint_every: int = 200  # steps
    validate: bool = True  # Dice on the split `val` at the end


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """A finished training."""

    checkpoint: checkpoint.CheckpointInfo
    curve: tuple[tuple[int, float], ...]  # (step, mean loss since the last point)
    seconds: float  # all sittings together
    steps: int


def train(
    model: nn.Module,
    spec: rec.ModelSpec,
    recipe: TrainRecipe,
    *,
    out: Path,
    device: str = "cpu",
    progress: Progress | None = None,
) -> TrainResult:
    """Train a network, and write its averaged weights.

    Args:
        model: the network; its weights are set anew by training, and end as the averaged ones.
        spec: what `model` was built from.
        recipe: how.
        out: the weights' file, `<name>.safetensors`; beside it come `<name>.json` and, until the end,
            `<name>.resume`, from which an equal call goes on.
        device: `cpu` or `cuda`.
        progress: told after each step.

    Raises:
        UsageError: a patch schedule whose shares do not sum to 1 or that does not end on the patch.
        CheckpointError: `<name>.resume` is of another training, or nothing can be written.
        DataError: unknown data set.
    """
    plan = data.get_plan(recipe.data)
    schedule = recipe.patch_schedule or ((recipe.patch, 1.0),)
    if abs(sum(share for _, share in schedule) - 1) > 1e-6 or schedule[-1][0] != recipe.patch:
        raise UsageError(
            f"patch_schedule must end on the patch {recipe.patch} with shares that sum to 1, not {schedule}"
        )
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(recipe.threads or threads)
        with torch.random.fork_rng(devices=[]), exact_small_convolutions(model):
            return _Training(model.to(device), spec, recipe, plan, out, device, progress).run()
    finally:
        torch.set_num_threads(threads)


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
    ) -> None:
        self.model, self.spec, self.recipe, self.plan = model, spec, recipe, plan
        self.out, self.device, self.progress = out, device, progress
        self.resume_path = out.with_suffix(".resume")
        self.schedule = recipe.patch_schedule or ((recipe.patch, 1.0),)
        self.optimiser = torch.optim.AdamW(_groups(model, recipe.weight_decay), lr=recipe.lr)
        self.average: dict[str, Tensor] = {}
        self.averaged_since = 0  # step at which the average started: anew with each patch size
        self.step, self.skipped, self.seconds = 0, 0, 0.0
        self.curve: list[tuple[int, float]] = []
        self.cases: dict[int, tuple[npt.NDArray[np.float16], npt.NDArray[np.uint8]]] = {}
        self.autocast = has_fast_bf16(device) if recipe.bf16 is None else recipe.bf16

    def run(self) -> TrainResult:
        set_prior(self.model, self.plan.out_channels, self.recipe.prior)
        self._reset_average()
        self._resume()
        self.model.train()
        before, start, losses = self.seconds, time.monotonic(), []
        used = self._used()
        while used < 1:
            patch = self._patch(used)
            for group in self.optimiser.param_groups:
                group["lr"] = self.recipe.lr * rate(used, self.recipe.warmup, self.recipe.lr_floor)
            loss = self._one_step(patch)
            losses += [loss] if math.isfinite(loss) else []
            self.step += 1
            self.seconds = before + time.monotonic() - start
            used = self._used()
            if self._patch(used) != patch and used < 1:
                self.averaged_since = self.step
            if losses and (self.step % _CURVE_EVERY == 0 or used >= 1):
                self.curve.append((self.step, round(float(np.mean(losses)), 5)))
                losses = []
            if self.progress:
                self.progress(used, f"step {self.step}, patch {format_shape(patch)}, loss {loss:.3f}")
            if self.step % self.recipe.checkpoint_every == 0 and used < 1:
                self._keep()
        return self._finish()

    def _used(self) -> float:
        """Share of the budget that is used up, 0 to 1."""
        by_time = self.seconds / self.recipe.max_seconds if self.recipe.max_seconds else 0.0
        return min(1.0, max(self.step / self.recipe.steps, by_time))

    def _patch(self, used: float) -> Patch:
        end = 0.0
        for patch, share in self.schedule:
            end += share
            if used < end - 1e-9:
                return patch
        return self.schedule[-1][0]

    def _one_step(self, patch: Patch) -> float:
        rng = np.random.default_rng([self.recipe.seed, 1, self.step])
        torch.manual_seed(int(rng.integers(2**62)))  # dropout
        pairs = [self._draw(rng, patch) for _ in range(self.recipe.batch)]
        image = torch.from_numpy(np.stack([p[0] for p in pairs])).to(self.device)
        target = torch.from_numpy(np.stack([p[1] for p in pairs])).to(self.device)
        with torch.autocast(self.device.partition(":")[0], torch.bfloat16, enabled=self.autocast):
            logits = self.model(image)
        loss: Tensor = dice_bce(logits.float(), target)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        if torch.isfinite(norm):
            self.optimiser.step()
        else:  # a norm over a nearly empty patch can overflow; the weights are left as they were
            self.skipped += 1
            if self.skipped > _MOST_SKIPPED + self.step // 10:
                raise UsageError(
                    f"{self.spec.name}: the gradient was not finite in {self.skipped} of {self.step + 1} steps; "
                    f"a lower lr than {self.recipe.lr} or bf16=False may help"
                )
        self._update_average()
        return loss.item()

    def _draw(self, rng: np.random.Generator, patch: Patch) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """One augmented patch: image (C, D, H, W), regions (R, D, H, W)."""
        index = int(rng.integers(self.plan.splits["train"]))
        if index not in self.cases:
            case = data.load_case(self.plan.name, "train", index)
            self.cases[index] = case.image.astype(np.float16), case.label
        stored, whole = self.cases[index]
        foreground = rng.random() < self.recipe.foreground
        start = patch_start(rng, np.asarray(whole > 0 if foreground else stored.any(0)), patch)
        image: npt.NDArray[np.float32] = cut(stored, start, patch).astype(np.float32)
        label: npt.NDArray[np.uint8] = cut(whole, start, patch)
        if rng.random() < 0.5:  # the first axis is left-right; the other flips make anatomy that no patient has
            image, label = image[:, ::-1], label[::-1]
        inside = image.any(0)
        scale, shift = rng.normal(1, 0.1, (2, len(image), 1)).astype(np.float32)
        image = image.copy()
        image[:, inside] = image[:, inside] * scale + (shift - 1)
        return image, self.plan.to_regions(label).astype(np.float32)

    # -- average of the weights

    def _live(self) -> dict[str, Tensor]:
        return checkpoint.unique_tensors(self.model.state_dict())

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
        return rec.content_hash([dataclasses.asdict(self.recipe), rec.to_json(self.spec)])

    def _keep(self) -> None:
        """Write what an equal call needs to go on."""
        content = io.BytesIO()
        state = {
            "identity": self._identity(),
            "model": self._live(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "progress": {
                "step": self.step,
                "skipped": self.skipped,
                "seconds": self.seconds,
                "averaged_since": self.averaged_since,
            },
            "curve": self.curve,
        }
        torch.save(state, content)
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.resume_path, content.getvalue())
        except OSError as error:
            raise CheckpointError(
                f"cannot write {self.resume_path}: {error.strerror or error}; make room and run again"
            ) from error

    def _resume(self) -> None:
        if not self.resume_path.exists():
            return
        try:
            state = torch.load(self.resume_path, map_location=self.device, weights_only=True)
            identity = state["identity"]
        except (OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{self.resume_path} is damaged ({error}); remove it to start over") from error
        if identity != self._identity():
            raise CheckpointError(f"{self.resume_path} is of a training with another recipe; remove it to start over")
        with torch.no_grad():
            for key, live in self._live().items():
                live.copy_(state["model"][key])
        self.average = state["average"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["progress"]["step"], state["progress"]["seconds"]
        self.skipped, self.averaged_since = state["progress"]["skipped"], state["progress"]["averaged_since"]
        self.curve = [(int(step), float(loss)) for step, loss in state["curve"]]
        log.info("going on from step %d of %s", self.step, self.resume_path)

    def _finish(self) -> TrainResult:
        with torch.no_grad():
            for key, live in self._live().items():
                live.copy_(self.average[key])
        self.model.eval()
        told: dict[str, Any] = {
            "recipe": dataclasses.asdict(self.recipe),
            "budget": f"{self.recipe.steps} steps"
            + (f" or {self.recipe.max_seconds:g} s" if self.recipe.max_seconds else ""),
            "steps_done": self.step,
            "steps_skipped": self.skipped,
            "seconds": round(self.seconds, 1),
            "seed": self.recipe.seed,
            "dtype": "bf16 autocast" if self.autocast else "fp32",
            "device": describe_device(self.device),
            "threads": torch.get_num_threads(),
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
            "curve": [list(point) for point in self.curve],
        }
        if self.recipe.validate:
            result = measure_dice(
                self.model, data=self.plan.name, split="val", spatial=self.recipe.patch, device=self.device
            )
            told["val"] = {m.metric: m.value for m in result.measurements}
        info = checkpoint.save(
            self.out,
            self.model.state_dict(),
            model=self.spec,
            data=self.plan.name,
            spatial=self.recipe.patch,
            train=told,
        )
        self.resume_path.unlink(missing_ok=True)
        return TrainResult(checkpoint=info, curve=tuple(self.curve), seconds=self.seconds, steps=self.step)


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with and without decay: norms and biases (one axis or none) have none."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def set_prior(model: nn.Module, out_channels: int, prior: float) -> None:
    """Set the bias of a network's last layer so that it starts from "nearly nothing is tumour".

    Without it a network whose logits are normalised (Slim UNETR ends in a GroupNorm) cannot get there
    in a short training: the mean of its logits is that bias, and a step moves it by the learning rate.
    The last layer is the last one with a bias of `out_channels` values; a network without is left alone.

    Source: Lin et al. 2017, "Focal loss for dense object detection", section 4.1.
    """
    biases = [bias for m in model.modules() if isinstance(bias := getattr(m, "bias", None), Tensor)]
    last = [bias for bias in biases if bias.shape == (out_channels,)][-1:]
    for bias in last:
        nn.init.constant_(bias, math.log(prior / (1 - prior)))
    if not last:
        log.warning("no last bias found; the training starts from the network's own")


def rate(used: float, warmup: float, floor: float) -> float:
    """Share of the highest learning rate: a line up, then half a cosine down to `floor`.

    Args:
        used: share of the budget that is used up, 0 to 1.
        warmup: where the line ends.
        floor: the last value.
    """
    if used < warmup:
        return 0.02 + 0.98 * used / warmup
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (used - warmup) / (1 - warmup)))


def patch_start(rng: np.random.Generator, near: npt.NDArray[np.bool_], patch: Patch) -> list[int]:
    """Where a patch begins, voxels; negative where it is larger than the volume, which it then holds in its middle.

    Args:
        rng: source of chance.
        near: (D, H, W); the patch's middle comes near one of these voxels, or anywhere if there is none.
        patch: (D, H, W) voxels.
    """
    wanted_voxels = np.flatnonzero(near)
    at = np.unravel_index(wanted_voxels[rng.integers(len(wanted_voxels))], near.shape) if len(wanted_voxels) else None
    start = []
    for axis, (side, wanted) in enumerate(zip(near.shape, patch, strict=True)):
        room = side - wanted
        if room <= 0:
            start.append(-(-room // 2))
        elif at is None:
            start.append(int(rng.integers(room + 1)))
        else:
            moved = int(at[axis]) - wanted // 2 + int(rng.integers(-wanted // 4, wanted // 4 + 1))
            start.append(min(max(moved, 0), room))
    return start


def cut(volume: npt.NDArray[Any], start: list[int], patch: Patch) -> npt.NDArray[Any]:
    """A patch of the last three axes, zero where it reaches beyond the volume."""
    sides = volume.shape[-3:]
    result: npt.NDArray[Any] = np.zeros((*volume.shape[:-3], *patch), volume.dtype)
    source = tuple(slice(max(0, a), min(n, a + p)) for a, n, p in zip(start, sides, patch, strict=True))
    target = tuple(slice(s.start - a, s.stop - a) for s, a in zip(source, start, strict=True))
    result[..., target[0], target[1], target[2]] = volume[..., source[0], source[1], source[2]]
    return result


def has_fast_bf16(device: str) -> bool:
    """Whether bf16 autocast is faster than fp32 there: a GPU that has it, or a CPU with AVX512-BF16 or AMX."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    found = capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def describe_device(device: str) -> str:
    """The name of a GPU or CPU, as far as torch or the system knows it."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    capabilities: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    return str(capabilities().get("cpu_name") or platform.processor() or platform.machine())
