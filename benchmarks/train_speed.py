"""How much faster a training step is than the plain loop: fp32, PyTorch's layout, every patch read from its files.

`python benchmarks/train_speed.py DATA [ROUNDS]`, DATA being a folder such as Task04_Hippocampus. The network is
`nnunet_small`, batch and patch are equal. Rounds alternate between the two loops; the ratio of the
median steps has the bound 2.5 on a processor with AVX512-BF16 or AMX, and the share of the time that steps waited for
data 5 %. A second start with every case prepared, up to the first batch, has the bound 5 s. The exit code is 1 beyond
any.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchbench import data  # noqa: E402
from benchbench.data import folder as folders  # noqa: E402
from benchbench.data import preprocessing  # noqa: E402
from benchbench.training.losses import make_loss  # noqa: E402
from benchbench.training.patch_loader import PatchLoader, cached_case  # noqa: E402
from benchbench.training.recipe import TrainingBudget, TrainRecipe  # noqa: E402
from benchbench.training.torch_runtime import channels_last, has_fast_bf16  # noqa: E402
from benchbench.zoo import build as zoo_build  # noqa: E402
from benchbench.zoo import cards as zoo_cards  # noqa: E402

MODEL, BATCH, STEPS = "nnunet_small", 2, 16
RATIO_BOUND, WAIT_BOUND, START_BOUND_S = 2.5, 0.05, 5.0


class Uncached(PatchLoader):
    """Every patch is of a case that is read and prepared from its files again."""

    def _case(self, index: int):
        source, files = folders.case_files(self.plan, "train", index)
        return cached_case(preprocessing._prepare_case(source, files, self.plan.preparation))

    def batch(self, step, patch, following=None):
        """The batch of a step, made when it is needed."""
        return self.make(step, patch)


def steps(loader: PatchLoader, plan: data.DataPlan, *, ours: bool, bf16: bool, first: int) -> list[float]:
    """Seconds of each step."""
    torch.manual_seed(0)
    card = zoo_cards.get_card(MODEL).on(plan)
    network = zoo_build.build(
        card.spec(in_channels=plan.in_channels, out_channels=plan.out_channels), plan.patch
    ).train()
    layout = torch.channels_last_3d if ours and channels_last(network, "cpu") else torch.contiguous_format
    optimizer, loss = torch.optim.AdamW(network.parameters(), lr=1e-3), make_loss("dice_ce", exclusive=plan.exclusive)
    taken = []
    for step in range(first, first + STEPS):
        start = time.perf_counter()
        batch = loader.batch(step, plan.patch, plan.patch)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = network(batch.image.contiguous(memory_format=layout))
        optimizer.zero_grad(set_to_none=True)
        loss(logits.float(), batch.target).backward()
        optimizer.step()
        taken.append(time.perf_counter() - start)
    return taken[2:]  # the first ones choose kernels


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    plan = data.get_plan(sys.argv[1])
    preprocessing.prepare_all(plan)
    recipe = TrainRecipe(data=plan.where, patch=plan.patch, budget=TrainingBudget(steps=1000), batch=BATCH)
    start = time.perf_counter()
    ready = PatchLoader(plan, recipe)
    for index in range(plan.splits["train"]):
        ready._case(index)
    ready.batch(0, plan.patch)
    started_s = time.perf_counter() - start
    fast = has_fast_bf16("cpu")
    ours, plain, waited = [], [], []
    for number in range(rounds):
        ready.waited_s = 0.0
        taken = steps(ready, plan, ours=True, bf16=fast, first=1000 * number)
        ours += taken
        waited.append(ready.waited_s / (sum(taken) * STEPS / len(taken)))
        plain += steps(Uncached(plan, recipe), plan, ours=False, bf16=False, first=1000 * number)
    ratio = statistics.median(plain) / statistics.median(ours)
    print(f"{MODEL}, batch {BATCH} of {'x'.join(map(str, plan.patch))}, {rounds} rounds of {STEPS} steps, alternating")
    print(
        f"here  {statistics.median(ours):.3f} s a step ({'bf16' if fast else 'fp32: no fast bf16'}, cached, augmented)"
    )
    print(f"plain {statistics.median(plain):.3f} s a step (fp32, read from its files)")
    print(f"ratio of medians {ratio:.2f}, bound {RATIO_BOUND}")
    print(f"waited for data {statistics.median(waited):.1%} of the time, bound {WAIT_BOUND:.0%}")
    print(f"second start, {plan.splits['train']} cases from the cache: {started_s:.1f} s, bound {START_BOUND_S:g} s")
    ready.close()
    ok = (ratio >= RATIO_BOUND or not fast) and statistics.median(waited) <= WAIT_BOUND and started_s <= START_BOUND_S
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
