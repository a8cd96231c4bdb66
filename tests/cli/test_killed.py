"""Commands that train are killed at random points and started again: nothing finished is lost, and the end is the same.

The children are forked from a server that has loaded everything, so that most of a child's life is its work.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchbench.cli import main as cli_main
from benchbench.zoo import checkpoint
from tests.data_sets import decathlon
from tests.forked import server

NET, SAFE = "tests.tiny_nets:Wider", "tests.tiny_nets-Wider"
_LONGEST_S = 60.0  # of a child
_KILLS = 6


def _child(words: list[str], cache: str) -> None:
    os.environ |= {"BENCHBENCH_CACHE": cache, "OMP_NUM_THREADS": "1"}
    sys.exit(cli_main.main(words))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return decathlon(tmp_path_factory.mktemp("data") / "Task99_Boxes", count=12)


class Killer:
    """Starts a command again and again, and kills it."""

    def __init__(self, cache: str, seed: int) -> None:
        self.cache, self.chance = cache, random.Random(seed)

    def run(self, words: list[str], most_s: float | None = None) -> tuple[int | None, float]:
        """The exit code, or None where it was killed after so long; and how long it ran."""
        child = server().Process(target=_child, args=(words, self.cache))
        child.start()
        began = time.monotonic()
        child.join(_LONGEST_S if most_s is None else most_s)
        took = time.monotonic() - began
        killed = child.exitcode is None
        if killed:
            assert child.pid
            os.kill(child.pid, signal.SIGKILL)
            child.join()
        assert not (killed and most_s is None), "it did not end"
        return (None if killed else child.exitcode), took

    def to_its_end(self, words: list[str], whole_s: float, after: Callable[[], object] = lambda: None) -> int:
        """Kill it at random points of its life, some times; then let it end. Returns how often it was killed."""
        killed = 0
        for _ in range(_KILLS):
            code, _ = self.run(words, self.chance.uniform(0.05, 1.0) * whole_s)
            assert code in (None, 0)
            killed += code is None
            after()
        assert self.run(words)[0] == 0
        after()
        return killed


def weights_of(out: Path) -> set[str]:
    """By their hash, each of a pair that can be read."""
    found = {path: checkpoint.read_sidecar(path).sha256 for path in out.glob("*.safetensors")}
    assert all(checkpoint.sha256_of(path) == digest for path, digest in found.items())
    return set(found.values())


@pytest.mark.slow
def test_a_training_and_a_compression_end_as_if_they_had_not_been_killed(
    folder: Path, tmp_path: Path, cache: str
) -> None:
    killer = Killer(cache, seed=1)
    more = ["--data", str(folder), "--threads", "1", "--batch-size", "2", "--dtype", "fp32"]
    train = ["train", NET, *more, "--budget", "60steps", "--validations", "2", "--keep-every", "1ms"]
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert killer.run([*train, "--out", str(whole)])[0] == 0  # prepares the cases, too
    code, took = killer.run([*train, "--out", str(tmp_path / "again")])
    assert code == 0
    assert killer.to_its_end([*train, "--out", str(torn)], took, lambda: weights_of(torn)) > 0
    assert weights_of(torn) == weights_of(whole) == weights_of(tmp_path / "again")
    left = {path.name for path in torn.iterdir()}
    assert left == {".lock", f"{SAFE}.safetensors", f"{SAFE}.json"}  # nothing half written

    compress = ["compress", NET, "--checkpoint", str(whole / f"{SAFE}.safetensors"), "--prune", "0.5", *more]
    compress += ["--finetune", "20steps"]
    small, rest = tmp_path / "small", tmp_path / "rest"
    code, took = killer.run([*compress, "--out", str(small)])
    assert code == 0
    assert killer.to_its_end([*compress, "--out", str(rest)], took, lambda: weights_of(rest)) > 0
    assert weights_of(rest) == weights_of(small)
