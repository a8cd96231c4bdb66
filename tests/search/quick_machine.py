"""A machine that is quick to a search, however busy it is: what is left out otherwise is tested with a clock."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchbench.search import phases as search_phases
from benchbench.search import run as search_run
from benchbench.search import trajectories as search_trajectories
from benchbench.search.measuring import Measuring
from benchbench.search.phases import Worker
from benchbench.search.trajectories import Trajectories
from benchbench.search.trial import Evaluation

QUICKER = 500


def quicken(patch: Callable[[Any, str, Any], object] = setattr) -> None:
    """Let times that a search reads be shorter than they are; how long a training lasts is left as it is asked for."""

    def quickly(plain: Callable[..., Evaluation]) -> Callable[..., Evaluation]:
        def evaluate(*args: Any, **more: Any) -> Evaluation:
            found = plain(*args, **more)
            times = {name: getattr(found, name) / QUICKER for name in ("val_s", "measure_s", "total_s")}
            return dataclasses.replace(found, **times)

        return evaluate

    judged = Trajectories.judged

    def judge(own: Trajectories, result: Any, weights: Path) -> dict[str, Any]:
        found = judged(own, result, weights)
        return found | {"test_s": found["test_s"] / QUICKER}

    patch(search_phases, "evaluate", quickly(search_phases.evaluate))
    for name in ("go_on", "train_network"):
        patch(search_trajectories, name, quickly(getattr(search_trajectories, name)))
    plain = Measuring.finalist_s
    patch(Measuring, "finalist_s", lambda own, before_s: plain(own, before_s) / QUICKER)
    patch(Trajectories, "judged", judge)
    patch(Worker, "elapsed", lambda own: (time.time() - own.agreed.began) / QUICKER)
    patch(search_run.ElapsedTime, "whole_s", property(lambda own: (own.before_s + own.sitting_s) / QUICKER))
