"""A worker of a search whose trainings only sleep: `python -m tests.search_worker URL INDEX TRIALS LOG [STOP]`.

With STOP it stops itself in the training of that count, and goes on when it is told to.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from benchbench.core.errors import BenchError
from benchbench.search import proposals
from benchbench.search.budget import parse_budget
from benchbench.search.problem import SearchProblem
from benchbench.search.proposals import Agreed
from benchbench.search.slim_unetr_configs import Config
from benchbench.search.storage import open_storage, storage_errors
from benchbench.search.trial import Evaluation
from benchbench.search.worker import interrupt

PROBLEM = SearchProblem(
    data="x",
    key="x",
    spatial=(64, 64, 64),
    in_channels=1,
    out_channels=3,
    budget=parse_budget(["150MMACs"]),
    objective="macs",
    batch=2,
)
SLEEP_S = 0.4


def main(url: str, index: int, trials: int, log: Path, stop: int | None = None) -> None:
    signal.signal(signal.SIGTERM, interrupt)

    def say(text: str) -> None:
        with open(log, "a") as file:
            file.write(f"{text}\n")

    begun = 0

    def evaluate(config: Config, number: int) -> Evaluation:
        nonlocal begun
        begun += 1
        say(f"{index} trial {config.key}")
        if begun == stop:
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(SLEEP_S)
        costs = PROBLEM.costs(config)
        return Evaluation(dice=0.8, costs=costs, inherited=1.0, train_s=1.0, total_s=1.0, steps=1, path=Path("x"))

    def run(trials_left: int | None, until: int) -> None:
        proposals.propose(
            study,
            PROBLEM,
            evaluate,
            elapsed=lambda: 0.0,
            until=lambda known: len(proposals.distinct(known)) >= until,
            trials=trials_left,
            patience_s=60,
        )

    with storage_errors(url):
        ours = Agreed(
            first=str(index),
            identity=proposals.identity(PROBLEM),
            began=0.0,
            time_s=60.0,
            low_steps=1,
            low_most_s=1.0,
        )
        sampler = proposals.make_sampler("tpe", PROBLEM, seed=index, several=True)
        storage = open_storage(url, heartbeat_s=1, grace_s=4)
        study, _ = proposals.open_study(storage, "s", ours, sampler=sampler, alone=False)
        run(None, trials)
        if index == 0:  # as the command that began a search
            proposals.settle(study, lambda: run(1, 10**6), late=lambda: False, poll_s=0.2)


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), *map(int, sys.argv[5:]))
    except BenchError as error:
        sys.exit(f"bench: {error}")
