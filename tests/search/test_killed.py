"""A search that is killed at a random point goes on to its end, and what it had finished before is still there."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchbench.cli import main as cli_main
from benchbench.zoo import checkpoint
from tests.data_sets import decathlon

SMALL = ["--time", "30s", "--trials", "2", "--steps", "1", "--finalists", "1", "--seeds", "1"]
SMALL += ["--protocol", "quick,half_width=1000,timed_s=0.3,warmup_s=0,min_samples=3", "--threads", "1"]
QUICKER = 8  # to the search its machine is so much quicker, so that a busy one leaves nothing out
LONGEST_S = 120.0


def _child(words: list[str], cache: str) -> None:
    from benchbench.search import export as search_export
    from benchbench.search import phases as search_phases
    from benchbench.search import run as search_run

    search_export.write_onnx = lambda weights, out: ("not looked at here", None)
    search_run.ElapsedTime.whole_s = property(lambda own: (own.before_s + own.sitting_s) / QUICKER)  # type: ignore[assignment]
    search_phases.Worker.elapsed = lambda own: (time.time() - own.began) / QUICKER  # type: ignore[method-assign]
    os.environ |= {"BENCHBENCH_CACHE": cache, "OMP_NUM_THREADS": "1"}
    sys.exit(cli_main.main(words))


def finished(out: Path) -> dict[int, tuple[Any, ...]]:
    """The trials that the storage holds as finished, by their number there: their values and what was kept of each."""
    if not (out / "study.db").exists():
        return {}
    of = "from trials join {0} using (trial_id) where state = 'COMPLETE' order by trial_id, {1}"
    found: dict[int, tuple[Any, ...]] = {}
    try:
        with sqlite3.connect(f"file:{out / 'study.db'}?mode=ro", uri=True, timeout=10) as file:
            for more, key, value in (
                ("trial_values", "objective", "value"),
                ("trial_params", "param_name", "param_value"),
                ("trial_user_attributes", '"key"', "value_json"),
            ):
                for number, *what in file.execute(f"select trial_id, {key}, {value} {of.format(more, key)}"):
                    found[number] = (*found.get(number, ()), tuple(what))
    except sqlite3.OperationalError:  # its tables are being made
        return {}
    return found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["benchbench.search.run", __name__])
    begun: list[Any] = []

    def start(words: list[str]) -> Any:
        child = server.Process(target=_child, args=(words, str(tmp_path / "cache")))
        child.start()
        begun.append(child)
        return child

    yield start
    for child in begun:
        child.kill()
        child.join()


@pytest.mark.slow
def test_a_killed_search_goes_on_and_keeps_what_it_had_finished(start: Any, tmp_path: Path) -> None:
    folder = decathlon(tmp_path / "Task99_Boxes", count=10, sides=(32, 32, 32))
    chance, out = random.Random(5), tmp_path / "out"
    child = start(["search", "--budget", "25MMACs", "--data", str(folder), *SMALL, "--out", str(out)])
    until = time.monotonic() + LONGEST_S
    while not finished(out) and child.is_alive() and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(chance.uniform(0.0, 3.0))
    assert child.exitcode is None, "it had ended before it could be killed"
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    before = finished(out)
    assert before

    child = start(["search", "--resume", str(out)])
    child.join(LONGEST_S)
    assert child.exitcode == 0
    assert before.items() <= finished(out).items()
    found = json.loads((out / "search.json").read_text())
    front = [point for point in found["points"] if point["front"]]
    assert front
    for point in front:
        weights = out / point["files"]["weights"]
        assert checkpoint.read_sidecar(weights).sha256 == checkpoint.sha256_of(weights)
    tried = [one["key"] for one in found["trials"] if one["dice"] is not None and one["same_as"] is None]
    assert len(tried) == len(set(tried))
    assert not list(out.rglob("*.partial"))
