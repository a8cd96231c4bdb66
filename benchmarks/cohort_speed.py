"""How long a cohort takes to be judged: segmentation, Dice, Hausdorff distance and surface Dice of 40 cases.

`python benchmarks/cohort_speed.py DATA [MODEL] [ROUNDS]`, DATA being a folder such as Task04_Hippocampus and MODEL
(`slim_unetr`) a network of the zoo; its weights do not matter to the time. The cases are prepared first. The bound is
20 s for Slim UNETR on two cores; the exit code is 1 where the median round misses it.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchbench import data  # noqa: E402
from benchbench.data import preprocessing  # noqa: E402
from benchbench.training.evaluate import measure_dice  # noqa: E402
from benchbench.zoo import build as zoo_build  # noqa: E402
from benchbench.zoo import cards as zoo_cards  # noqa: E402

CASES, BOUND_S = 40, 20.0


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    name = sys.argv[2] if len(sys.argv) > 2 else "slim_unetr"
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    plan = data.get_plan(sys.argv[1])
    preprocessing.prepare_all(plan)
    card = zoo_cards.get_card(name).on(plan)
    spec = card.spec(in_channels=plan.in_channels, out_channels=plan.out_channels)
    patch = zoo_build.fitting_sides(spec, plan.patch)
    network = zoo_build.build(spec, patch)
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        found = measure_dice(network, data=plan.where, spatial=patch, limit=CASES)
        taken.append(time.perf_counter() - start)
    cases = len(found.cases["ids"])
    print(f"{name}, patch {'x'.join(map(str, patch))}, {cases} cases: {statistics.median(taken):.1f} s", end=" ")
    print(f"({min(taken):.1f} to {max(taken):.1f}, {rounds} rounds), bound {BOUND_S:g} s")
    return 0 if statistics.median(taken) <= BOUND_S else 1


if __name__ == "__main__":
    sys.exit(main())
