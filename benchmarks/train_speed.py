"""How much faster a training step of the recipe is than PyTorch's own parts: `python benchmarks/train_speed.py DATA`.

For each network three loops take turns on equal batches: PyTorch's parts in fp32 (its backward of depthwise
convolutions, AdamW and the average one weight after the other), the same in bf16 autocast, and the recipe's step in the
precision that its first steps chose. Printed are the medians, and the ratios of medians to the recipe's step.

Bounds, where the processor has AVX512-BF16 or AMX: `nnunet_small` at least 1.8 times as fast as fp32, and
`slim_unetr_fixed` at least 1.4 times as fast as bf16 autocast, which the recipe took before for every network. Steps
wait for data at most 3 % of the time, and a second start with every case prepared takes at most 5 s up to the first
batch. The exit code is 1 beyond any.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import statistics
import sys
import time

import torch
from torch import nn

from benchbench import data
from benchbench.core import records as rec
from benchbench.data import preprocessing
from benchbench.training.cpu_convolutions import fast_convolutions
from benchbench.training.losses import deep_supervision, make_loss
from benchbench.training.network_outputs import training_outputs
from benchbench.training.optimizer import make_optimizer
from benchbench.training.patch_loader import Batch, PatchLoader
from benchbench.training.precision import PrecisionChoice
from benchbench.training.recipe import TrainingBudget, TrainRecipe
from benchbench.training.torch_runtime import channels_last, fp32_where_bf16_is_wrong, has_fast_bf16, threads
from benchbench.training.weight_average import WeightAverage
from benchbench.zoo import build as zoo_build
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo.checkpoint import unique_tensors

#: A small Slim UNETR whose stem has stride 2.
STEM_2 = {
    "channels": [16, 24, 32],
    "embed_dim": 48,
    "blocks": [1, 1, 2, 1],
    "heads": [1, 2, 4, 4],
    "r": [4, 2, 2, 1],
    "stem": 2,
}
NETWORKS = ("nnunet_small", "nnunet", "slim_unetr", "slim_unetr_fixed", "slim_unetr_fixed:stem 2")
BOUNDS = {("nnunet_small", "fp32"): 1.8, ("slim_unetr_fixed", "bf16"): 1.4}
WAIT_BOUND, START_BOUND_S = 0.03, 5.0


class Loop:
    """Steps of one network, by the recipe or by PyTorch's own parts."""

    def __init__(self, spec: rec.ModelSpec, plan: data.DataPlan, recipe: TrainRecipe, *, ours: bool, bf16: bool | None):
        torch.manual_seed(0)
        self.model = zoo_build.build(spec, recipe.patch).train()
        self.name, self.plan, self.ours = spec.name, plan, ours
        channels_last(self.model, "cpu")
        parameters = list(self.model.parameters())
        self.optimizer = make_optimizer(self.model, recipe) if ours else torch.optim.AdamW(parameters, lr=recipe.lr)
        self.average = WeightAverage(self.model, recipe.average)
        self.loss = make_loss(recipe.loss, exclusive=plan.exclusive)
        self.precision = PrecisionChoice(bf16)
        self.seconds: list[float] = []
        self.steps = 0

    def step(self, batch: Batch) -> None:
        """One step; its time counts after the first ones."""
        backward = fast_convolutions(self.model, "cpu") if self.ours else contextlib.nullcontext()
        image = batch.image.contiguous(memory_format=torch.channels_last_3d)
        with fp32_where_bf16_is_wrong(self.model), backward:
            start = time.perf_counter()
            self.steps += 1
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.precision.next()):
                outputs = training_outputs(self.name, self.model(image), image, self.plan)
            deep_supervision(outputs, batch.target, self.loss).backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
            self.optimizer.step()
            if self.ours:
                self.average.update(self.steps)
            else:
                self._average_one_by_one()
            taken = time.perf_counter() - start
        if self.precision.is_decided:
            self.seconds.append(taken)
        elif self.precision.add(taken):
            self.precision.bf16 = self.precision.is_bf16_faster()

    @torch.no_grad()
    def _average_one_by_one(self) -> None:
        for key, value in unique_tensors(self.model.state_dict()).items():
            if value.is_floating_point():
                self.average.tensors[key].lerp_(value, 0.01)

    def median_s(self) -> float:
        """Of a step, without the first two."""
        return statistics.median(self.seconds[2:])


def spec_of(name: str, plan: data.DataPlan) -> rec.ModelSpec:
    """A network for a data set."""
    base, _, variant = name.partition(":")
    card = zoo_cards.get_card(base).on(plan)
    spec = card.spec(in_channels=plan.in_channels, out_channels=plan.out_channels)
    return dataclasses.replace(spec, kwargs={**spec.kwargs, **STEM_2}, name=name) if variant else spec


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", help="folder such as Task04_Hippocampus")
    parser.add_argument("--models", default=",".join(NETWORKS))
    parser.add_argument("--rounds", type=int, default=12, help="steps of each loop (default: 12)")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    plan = data.get_plan(options.data)
    preprocessing.prepare_all(plan)
    patch = (plan.patch[0], plan.patch[1], plan.patch[2])
    fast, ok = has_fast_bf16("cpu"), True

    def recipe_for(patch: tuple[int, int, int]) -> TrainRecipe:
        return TrainRecipe(data=plan.where, patch=patch, budget=TrainingBudget(steps=1000), batch=options.batch_size)

    start = time.perf_counter()
    ready = PatchLoader(plan, recipe_for(patch))
    for index in range(plan.splits["train"]):
        ready._case(index)
    ready.batch(0, patch)
    started_s = time.perf_counter() - start
    ok &= started_s <= START_BOUND_S
    print(f"second start, {plan.splits['train']} cases from the cache: {started_s:.1f} s, bound {START_BOUND_S:g} s")
    with threads(options.threads):
        print(f"batch {options.batch_size}, {torch.get_num_threads()} threads, {options.rounds} rounds, loops in turn")
        for name in options.models.split(","):
            spec = spec_of(name, plan)
            sides = zoo_build.fitting_sides(spec, plan.patch)
            recipe = recipe_for((sides[0], sides[1], sides[2]))
            loops = {
                "fp32": Loop(spec, plan, recipe, ours=False, bf16=False),
                **({"bf16": Loop(spec, plan, recipe, ours=False, bf16=True)} if fast else {}),
                "recipe": Loop(spec, plan, recipe, ours=True, bf16=None if fast else False),
            }
            begun, ready.waited_s, step = time.perf_counter(), 0.0, 0
            while len(loops["recipe"].seconds) < options.rounds + 2:
                batch = ready.batch(step, recipe.patch, recipe.patch)
                for loop in loops.values():
                    loop.step(batch)
                step += 1
            medians = {title: loop.median_s() for title, loop in loops.items()}
            waited = ready.waited_s / (time.perf_counter() - begun) * len(loops)  # the loops share the batches
            chosen = "bf16" if loops["recipe"].precision.bf16 else "fp32"
            texts = [f"{title} {seconds:.3f} s" for title, seconds in medians.items()]
            print(f"{name}, patch {'x'.join(map(str, recipe.patch))}: {', '.join(texts)} (in {chosen}); ", end="")
            ratios = {title: seconds / medians["recipe"] for title, seconds in medians.items() if title != "recipe"}
            print(", ".join(f"{ratio:.2f} times as fast as {title}" for title, ratio in ratios.items()), end="; ")
            print(f"waited for data {waited:.1%} of the recipe's time", flush=True)
            ok &= waited <= WAIT_BOUND
            for title, ratio in ratios.items():
                bound = BOUNDS.get((name, title))
                if bound and fast and ratio < bound:
                    print(f"  below the bound of {bound:g} times {title}")
                    ok = False
    ready.close()
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
