"""A machine that is quick to a search, however busy it is: what is left out otherwise is tested with a clock."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from benchbench.search import phases as search_phases
from benchbench.search import run as search_run
from benchbench.search.phases import Worker
from benchbench.search.trial import Evaluation

QUICKER = 50


def quicken(patch: Callable[[Any, str, Any], object] = setattr) -> None:
    """Let times that a search reads be shorter than they are; how long a training lasts is left as it is asked for."""
    plain, looked, judged = search_phases.evaluate, Worker._val_s, Worker._with_test_dice

    def evaluate(*args: Any, **more: Any) -> Evaluation:
        found = plain(*args, **more)
        times = {name: getattr(found, name) / QUICKER for name in ("train_s", "measure_s", "total_s")}
        return dataclasses.replace(found, **times)

    def judge(own: Worker, label: str, evaluation: Evaluation) -> dict[str, Any]:
        found = judged(own, label, evaluation)
        return found | {"test_s": found["test_s"] / QUICKER}

    patch(search_phases, "evaluate", evaluate)
    patch(Worker, "_with_test_dice", judge)
    patch(Worker, "_val_s", lambda own, found: looked(own, found) / QUICKER)
    patch(Worker, "elapsed", lambda own: (time.time() - own.began) / QUICKER)
    patch(search_run.ElapsedTime, "whole_s", property(lambda own: (own.before_s + own.sitting_s) / QUICKER))
