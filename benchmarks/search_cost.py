"""What a search spends: `python benchmarks/search_cost.py SEARCH [WEIGHTS]`, SEARCH being the folder of a finished one.

Prints, from its record, how many different configurations were trained, the share of time outside training, evaluation
and measurement (asked: below 3 %), the share that finals had (asked: at least 55 %), and its points beside the Dice on
`val` of WEIGHTS, the published network (default: the weights that come along). Then what a refusal takes: 60 proposals
to a budget that nothing keeps, after 60 that were tried (asked: below 0.3 s each).
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchbench.search import proposals, slim_unetr_configs  # noqa: E402
from benchbench.search.budget import parse_budget  # noqa: E402
from benchbench.search.problem import SearchProblem  # noqa: E402
from benchbench.search.slim_unetr_configs import Config  # noqa: E402
from benchbench.search.storage import open_storage  # noqa: E402
from benchbench.search.trial import Evaluation  # noqa: E402
from benchbench.zoo import checkpoint  # noqa: E402

SHIPPED = ROOT / "models" / "checkpoints" / "slim_unetr-hippocampus.safetensors"
TRIED = REFUSED = 60


def of_the_record(folder: Path, weights: Path) -> None:
    found = json.loads((folder / "search.json").read_text())
    trained = [one for one in found["trials"] if one["dice"] is not None and one["same_as"] is None]
    spent = found["accounting"]
    print(f"{len(trained)} configurations trained; {spent['other_s'] / spent['whole_s']:.1%} of the time elsewhere")
    finals_s = sum(one.get("total_s", 0.0) for one in found["finals"])
    print(f"finals had {finals_s / found['asked']['time_s']:.0%} of the {found['asked']['time_s']:.0f} s")
    info = checkpoint.read_sidecar(weights)
    wanted = info.train["validation"][-1][1]
    macs = SearchProblem(
        data="", key="", spatial=tuple(found["task"]["spatial"]), in_channels=found["task"]["in_channels"],
        out_channels=found["task"]["out_channels"], budget=parse_budget([]),
    ).costs(slim_unetr_configs.PUBLISHED)["macs"]  # fmt: skip
    print(f"published network, {info.train['seconds'] / 60:.0f} min of training: Dice {wanted:.3f} on val")
    for point in sorted(found["points"], key=lambda p: p["costs"]["macs"]):
        share = point["costs"]["macs"] / macs
        front = "on the front" if point["front"] else "not on the front"
        print(f"  {point['name']}: {share:.0%} of the MACs, Dice {point['dice_val']['mean']:.3f} on val, {front}")


def of_a_refusal() -> None:
    task = SearchProblem(
        data="x",
        key="x",
        spatial=(64, 64, 64),
        in_channels=1,
        out_channels=3,
        budget=parse_budget([]),
        objective="macs",
    )
    tight = dataclasses.replace(task, budget=parse_budget(["1MMACs"]))

    def evaluate(config: Config, number: int) -> Evaluation:
        costs = task.costs(config)
        dice = 0.9 - 1e6 / (1e7 + costs["macs"])
        return Evaluation(dice=dice, costs=costs, inherited=0.0, train_s=0, total_s=0, steps=0, path=Path("x"))

    with tempfile.TemporaryDirectory() as place:
        sampler = proposals.make_sampler("tpe", task, seed=0)
        ours = proposals.Agreed(
            first="", identity=proposals.identity(task), began=0.0, time_s=1.0, low_steps=1, low_most_s=1.0
        )
        opened, _ = proposals.open_study(open_storage(f"sqlite:///{place}/study.db"), "s", ours, sampler=sampler)
        proposals.propose(opened, task, evaluate, elapsed=lambda: 0.0, until=lambda known: len(known) >= TRIED)
        times: list[float] = []
        last = time.perf_counter()

        def told(one: proposals.Tried) -> None:
            nonlocal last
            now = time.perf_counter()
            if one.refused:
                times.append(now - last)
            last = now

        until = TRIED + REFUSED
        proposals.propose(
            opened, tight, evaluate, elapsed=lambda: 0.0, until=lambda known: len(known) >= until, report=told
        )
    print(f"a refusal takes {statistics.median(times):.3f} s (median of {len(times)}; the longest {max(times):.3f} s)")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    of_the_record(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else SHIPPED)
    of_a_refusal()
