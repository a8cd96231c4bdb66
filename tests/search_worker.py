"""A worker of a search whose trainings only sleep: `python -m tests.search_worker URL INDEX TRIALS LOG [STOP]`.

With STOP it stops itself in the training of that count, and goes on when it is told to.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from benchbench.search import proposals, training_queue
from benchbench.search import storage as search_storage
from benchbench.search.budget import parse_budget
from benchbench.search.problem import SearchProblem
from benchbench.search.space import Config
from benchbench.search.storage import open_storage
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
PIECES = 6


def main(url: str, index: int, trials: int, log: Path, stop: int | None = None) -> None:
    signal.signal(signal.SIGTERM, interrupt)
    storage = open_storage(url, heartbeat_s=1, grace_s=4, patience_s=60)

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
        return Evaluation(
            dice=0.8, costs=costs, inherited=1.0, train_s=1.0, measure_s=0.0, total_s=1.0, steps=1, path=Path("x")
        )

    def do(work: training_queue.QueuedTraining) -> dict[str, float]:
        say(f"{index} piece {work.label}")
        time.sleep(SLEEP_S)
        return {"value": 1.0}

    own = proposals.open_study(storage, "s", PROBLEM, seed=index, several=True)
    proposals.search(
        own, PROBLEM, evaluate, elapsed=lambda: 0.0, until=lambda known: len(proposals.distinct(known)) >= trials
    )
    part = search_storage.open_phase(storage, "s/finals")
    training_queue.queue_trainings(
        part, [training_queue.QueuedTraining(label=f"piece {i}", what={}) for i in range(PIECES)]
    )
    training_queue.run_queue(part, do, poll_s=0.2)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), *map(int, sys.argv[5:]))
