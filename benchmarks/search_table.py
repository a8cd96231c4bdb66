"""Train every configuration of a small sub-space of the search's, so that samplers can be compared for seconds a run.

    python benchmarks/search_table.py /data/Task04_Hippocampus results/reference/search-table [STEPS]

224 configurations: width, depth, expansion, attention, stem, sampling and variant of Slim UNETR, each at two to four
levels (some choices make the same network), so that any proposal within it is in the table. Each inherits from the
weights that come along, if half of its weights fit, trains STEPS steps (60) and is judged on `val`. A row is on disk
before the next is trained; the same command goes on. `search_worth.py` reads it. The committed table is older: there
all networks inherited, and half of the loss was the distance from the parent's output.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import benchbench
from benchbench import data
from benchbench.core import records as rec
from benchbench.devices.environment import environment
from benchbench.search import slim_unetr_configs
from benchbench.search.budget import parse_budget
from benchbench.search.problem import SearchProblem
from benchbench.search.slim_unetr_configs import Config
from benchbench.search.slim_unetr_space import published_spec
from benchbench.search.trial import evaluate, parent_of, shared_loader
from benchbench.training.recipe import TrainingBudget, default_batch
from benchbench.zoo import build as zoo_build

_MEMORY_BYTES = 4e9  # for batches that all see

_ATTENTION = ((8, 16, 24), (16, 32, 48), (20, 40, 60), (24, 48, 72, 96))  # widths in the table, some of the space's
LEVELS: dict[str, tuple[object, ...]] = {
    "width": (1.0, 0.75, 0.5, 0.35),
    "shallow": (False, True),
    "expansion": (4, 2),
    "attention": (1.0, 0.5),
    "stem": (4, 8),
    "sampling": ((4, 2, 2, 1), (8, 4, 1, 1)),
    "variant": slim_unetr_configs.VARIANTS,
}


def make(choice: dict[str, object]) -> Config:
    """The configuration of a choice of levels."""
    plain = slim_unetr_configs.scaled(choice["width"], choice["variant"])  # type: ignore[arg-type]
    share = choice["width"] * choice["attention"]  # type: ignore[operator]
    attention = tuple(
        min(of, key=lambda n: abs(n - share * whole))
        for of, whole in zip(_ATTENTION, slim_unetr_configs.PUBLISHED.attention, strict=True)
    )
    heads = tuple(math.gcd(width, n) for width, n in zip(attention, slim_unetr_configs.PUBLISHED.heads, strict=True))
    return dataclasses.replace(
        plain,
        depths=(1, 1, 1, 1) if choice["shallow"] else slim_unetr_configs.PUBLISHED.depths,
        expansion=(choice["expansion"],) * 4,
        attention=attention,
        heads=heads,
        stem=choice["stem"],
        sampling=choice["sampling"],
    )


def choices() -> Iterator[dict[str, object]]:
    """Every choice of levels."""
    for values in itertools.product(*LEVELS.values()):
        yield dict(zip(LEVELS, values, strict=True))


def main(folder: Path, out: Path, steps: int) -> None:
    plan = data.get_plan(str(folder))
    spatial = zoo_build.fitting_sides(published_spec(plan), plan.patch)
    task = SearchProblem(
        data=plan.where,
        key=plan.key,
        spatial=(spatial[0], spatial[1], spatial[2]),
        in_channels=plan.in_channels,
        out_channels=plan.out_channels,
        budget=parse_budget([]),
        batch=default_batch(spatial),
        lr=1e-3,  # what the committed table was trained with
    )
    shipped = Path(benchbench.__file__).parent / "models" / "checkpoints" / "slim_unetr-hippocampus.safetensors"
    out.mkdir(parents=True, exist_ok=True)
    path = out / "table.ndjson"
    there = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    known = {row["key"] for row in there}
    parent = parent_of(shipped, task)
    left = list({make(choice).key: choice for choice in choices() if make(choice).key not in known}.values())
    print(f"{len(known)} trained, {len(left)} to do")
    budget = TrainingBudget(steps=steps)
    loader = shared_loader(task, budget, 0, most_bytes=_MEMORY_BYTES)
    (out / "machine.json").write_text(json.dumps(environment("cpu", None), indent=2, sort_keys=True) + "\n")
    with tempfile.TemporaryDirectory() as place:
        for i, choice in enumerate(left):
            config = make(choice)
            start = time.monotonic()
            found = evaluate(task, config, parent, budget, 0, Path(place) / "x.safetensors", loader=loader)
            row = {
                "key": config.key,
                "choice": choice,
                "config": rec.to_json(dataclasses.asdict(config)),
                "dice": found.dice,
                "costs": dict(found.costs),
                "steps": found.steps,
                "inherited": round(found.inherited, 4),
                "train_s": round(found.train_s, 3),
                "total_s": round(time.monotonic() - start, 3),
                "parent_sha256": parent.sha256,
                "data": task.key,
            }
            with open(path, "a") as file:
                file.write(rec.canonical_json(row) + "\n")
            print(f"{i + 1} of {len(left)}: Dice {found.dice:.3f} in {row['total_s']:.1f} s", flush=True)
    loader.end()


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) == 4 else 60)
