"""Is a search worth it: its front against its controls, and its sampler against chance and NSGA-II.

    python benchmarks/search_worth.py SEARCH [SEARCH ...]
    python benchmarks/search_worth.py results/reference/search-table [LIMIT] [SEEDS] [SEARCH]

The first prints what the record of a finished search, with its controls, says of each point of its front; of several,
such as one search with several seeds, also what they have in common. The second compares samplers on configurations
that were really trained.

Each looks its trainings up in the table that `search_table.py` made, pays what they took there, and is stopped at equal
wall-clock. All refuse what is above LIMIT (100MMACs) for nothing, and train nothing twice. Prints, with bootstrap
intervals over SEEDS (10): the hypervolume that each ends with, and the time in which the search reaches what NSGA-II
ends with, against NSGA-II's own; writes the curves to `worth.json` beside the table, and into the record of SEARCH, a
search's folder, whose page then shows them.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from search_table import LEVELS, make

from benchbench.core.search_result import read_search
from benchbench.core.statistics import mean_interval
from benchbench.report import search_answer
from benchbench.search.budget import parse_limit
from benchbench.search.pareto import hypervolume

REFUSED_S = 0.05  # what a refusal takes; `bench search` needs a few milliseconds
SHARE = 0.25  # of the time that the whole table took, as everybody's budget
METRIC = "latency_s"
POINTS = 60  # of a curve

Row = dict[str, Any]


class Stop(Exception):
    """The time is over."""


class Market:
    """What a sampler buys trainings from: it knows the time, and the front so far."""

    def __init__(self, rows: dict[str, Row], limit: Any, reference: tuple[float, float], budget_s: float) -> None:
        self.rows, self.limit, self.reference, self.budget_s = rows, limit, reference, budget_s
        self.spent_s, self.known = 0.0, dict[str, Row]()
        self.curve: list[tuple[float, int, float]] = []
        self.share = 0.0

    def buy(self, key: str) -> Row | None:
        """The row of a configuration; None where the budget refuses it."""
        row = self.rows[key]
        if self.spent_s >= self.budget_s:
            raise Stop
        if row["costs"][self.limit.metric] > self.limit.most:
            self.spent_s += REFUSED_S
            return None
        if key in self.known:
            self.spent_s += REFUSED_S
            return row
        self.spent_s += row["total_s"]
        self.known[key] = row
        points = [(1 - r["dice"], r["costs"][METRIC]) for r in self.known.values()]
        self.share = hypervolume(points, self.reference) / (self.reference[0] * self.reference[1])
        self.curve.append((self.spent_s, len(self.known), self.share))
        return row

    def at(self, when_s: float) -> float:
        """The hypervolume at a time."""
        return next((share for spent, _, share in reversed(self.curve) if spent <= when_s), 0.0)

    def reached(self, share: float) -> float:
        """When a hypervolume was reached; the whole time where it was not."""
        return next((spent for spent, _, own in self.curve if own >= share), self.budget_s)


def by_chance(market: Market, seed: int) -> None:
    rng = random.Random(seed)
    while True:
        market.buy(make({name: rng.choice(levels) for name, levels in LEVELS.items()}).key)


def by(sampler: Callable[[int], optuna.samplers.BaseSampler], *, starts: bool) -> Callable[[Market, int], None]:
    """A strategy by an Optuna sampler, told of refusals as constraints."""

    def run(market: Market, seed: int) -> None:
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler(seed))
        if starts:  # as `bench search` begins: the published network, and uniform scalings
            plain = {name: 0 for name in LEVELS}
            for width in range(len(LEVELS["width"])):
                study.enqueue_trial(plain | {"width": width})

        def one(trial: optuna.Trial) -> tuple[float, float]:
            choice = {
                name: levels[trial.suggest_categorical(name, list(range(len(levels))))]
                for name, levels in LEVELS.items()
            }
            row = market.buy(make(choice).key)
            costs = market.rows[make(choice).key]["costs"]
            trial.set_constraint(market.limit.metric, costs[market.limit.metric] / market.limit.most - 1)
            if row is None:
                raise optuna.TrialPruned
            return row["dice"], row["costs"][METRIC]

        study.optimize(one)

    return run


STRATEGIES = {
    "search": by(
        lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=10), starts=True
    ),
    "NSGA-II + rejection": by(lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=20), starts=False),
    "random + rejection": by_chance,
}


def main(folder: Path, limit_text: str, seeds: int, into: Path | None) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    limit = parse_limit(limit_text)
    rows = {row["key"]: row for row in map(json.loads, (folder / "table.ndjson").read_text().splitlines())}
    whole_s = sum(row["total_s"] for row in rows.values())
    plain = rows[make({name: levels[0] for name, levels in LEVELS.items()}).key]
    reference = (0.5, 1.25 * plain["costs"][METRIC])
    budget_s = SHARE * whole_s
    markets: dict[str, list[Market]] = {}
    for name, strategy in STRATEGIES.items():
        for seed in range(seeds):
            market = Market(rows, limit, reference, budget_s)
            try:
                strategy(market, seed)
            except Stop:
                markets.setdefault(name, []).append(market)
    feasible = [row for row in rows.values() if row["costs"][limit.metric] <= limit.most]
    best = hypervolume([(1 - r["dice"], r["costs"][METRIC]) for r in feasible], reference) / (
        reference[0] * reference[1]
    )
    print(f"{len(rows)} configurations, {len(feasible)} keep {limit_text}; {budget_s:.0f} s each, {seeds} seeds")
    print(f"hypervolume of all that keep it: {best:.4f}")
    found: dict[str, Any] = {
        "table": len(rows),
        "feasible": len(feasible),
        "limit": limit_text,
        "budget_s": budget_s,
        "seeds": seeds,
        "best": best,
        "reference": {"dice": 0.5, METRIC: reference[1]},
        "strategies": {},
    }
    times = [budget_s * (i + 1) / POINTS for i in range(POINTS)]
    for name, own in markets.items():
        ends = [market.share for market in own]
        low, high = mean_interval(ends)
        trainings = statistics.fmean(len(market.known) for market in own)
        print(f"{name}: {statistics.fmean(ends):.4f} ({low:.4f} to {high:.4f}), {trainings:.0f} trainings")
        curve = []
        for when in times:
            values = [market.at(when) for market in own]
            curve.append([when, statistics.fmean(values), *mean_interval(values)])
        found["strategies"][name] = {"end": statistics.fmean(ends), "ci95": [low, high], "curve": curve}
    for name in ("search", "random + rejection"):
        ratios = [
            other.reached(other.share) / ours.reached(other.share)
            for ours, other in zip(markets[name], markets["NSGA-II + rejection"], strict=True)
        ]
        low, high = mean_interval(ratios)
        found["strategies"][name] |= {"faster_than_nsga2": statistics.fmean(ratios), "faster_ci95": [low, high]}
        times_as = f"{statistics.fmean(ratios):.2f} times as fast ({low:.2f} to {high:.2f})"
        print(f"{name} reaches what NSGA-II ends with {times_as}")
    (folder / "worth.json").write_text(json.dumps(found, indent=1) + "\n")
    if into:
        path = into / "search.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"worth": found}, indent=1) + "\n")


def controls_of(folder: Path) -> None:
    """Print each point of a search's front against the published network and the controls."""
    search = read_search(folder)
    for point in (point for point in search["points"] if point["front"]):
        low, high = point["dice_test"]["ci95"]
        print(f"{point['name']}: Dice {point['dice_test']['mean']:.3f} ({low:.3f} to {high:.3f}) on test")
        rows = [row for row in search["comparisons"] if row["point"] == point["name"]]
        for row in rows:
            lowest, highest = row["ci95"]
            print(f"  {row['kind']:18} {row['gain']:+.3f} ({lowest:+.3f} to {highest:+.3f}) {row['verdict']}")
    print("\n".join(search["verdicts"]))
    for text in search["not_run"]:
        print(f"not run: {text}")


def together(folders: Sequence[Path]) -> None:
    """Print the network that each search's page says to take, and what all reach against each control."""
    gains, shares = dict[str, list[float]](), list[float]()
    print("\nthe network to take of each search, against the published network's weights:")
    for folder in folders:
        search = read_search(folder)
        point = search_answer.taken([point for point in search["points"] if point["front"]])
        assert point is not None, f"{folder}: none of its front is of use"
        rows = [row for row in search["comparisons"] if row["point"] == point["name"]]
        for row in rows:
            gains.setdefault(row["kind"], []).append(row["gain"])
        (row,) = (row for row in rows if row["kind"] == "published weights")
        shares.append(row["own_latency_s"] / row["latency_s"])
        text = f"Dice {row['dice']:.3f} ({row['gain']:+.3f}), {shares[-1]:.2f} of its time"
        print(f"  {folder.name}: {point['name']}, {text}")
    print("gain in Dice, mean over the searches (95 % interval over them):")
    for kind, those in gains.items():
        low, high = mean_interval(those)
        span = f" ({low:+.3f} to {high:+.3f})" if len(those) > 1 else ""
        print(f"  {kind:18} {statistics.fmean(those):+.3f}{span}, {len(those)} of {len(folders)}")
    print(f"share of the published network's time: {min(shares):.2f} to {max(shares):.2f}")


if __name__ == "__main__":
    searches = [Path(text) for text in sys.argv[1:] if (Path(text) / "search.json").exists()]
    if searches and len(searches) == len(sys.argv) - 1:
        for one in searches:
            if len(searches) > 1:
                print(f"\n{one}")
            controls_of(one)
        if len(searches) > 1:
            together(searches)
        sys.exit()
    if not 2 <= len(sys.argv) <= 5:
        sys.exit(__doc__)
    main(
        Path(sys.argv[1]),
        sys.argv[2] if len(sys.argv) > 2 else "100MMACs",
        int(sys.argv[3]) if len(sys.argv) > 3 else 10,
        Path(sys.argv[4]) if len(sys.argv) > 4 else None,
    )
