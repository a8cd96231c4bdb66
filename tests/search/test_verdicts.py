"""What a search says of its front: against the published network, and against its controls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchbench.cli import main as cli_main
from benchbench.cli.commands import search as search_command
from benchbench.core import records as rec
from benchbench.core import search_result
from benchbench.core.search_result import SearchOutcome
from benchbench.report import render_search
from benchbench.search import result, verdicts
from benchbench.search.clock import ElapsedTime
from benchbench.search.controls import nearest_width
from benchbench.search.trainings import FinishedTraining
from tests.search.test_files import SEARCHED

POINT = {"name": "a"}
CASES = [f"case {n}" for n in range(40)]


def by_seed(*means: float) -> list[dict[str, Any]]:
    """Dice of each case, for each seed: cases differ by much more than networks do."""
    return [{"ids": CASES, "values": [mean + 0.01 * (n % 7) for n in range(40)]} for mean in means]


def control(mean: float, seed: int = 0) -> FinishedTraining:
    result = {"test": by_seed(mean)[0], "train_s": 60.0}
    return FinishedTraining(label=str(seed), what={"kind": "scratch", "name": "b", "seed": seed}, result=result)


@pytest.mark.parametrize(
    ("other", "verdict"), [([0.70], "better"), ([0.80], "worse"), ([0.74, 0.76], "not told apart")]
)
def test_networks_are_compared_case_by_case_over_all_seeds(other: list[float], verdict: str) -> None:
    own = verdicts.values_of(by_seed(0.74, 0.76))
    row = verdicts.of_trainings("scratch", POINT, own, [control(mean, n) for n, mean in enumerate(other)])
    assert row is not None
    assert row["verdict"] == verdict
    assert row["seeds"] == len(other)
    assert row["ci95"][0] <= row["gain"] <= row["ci95"][1]
    assert row["ci95"][1] - row["ci95"][0] < 0.01  # paired: the cases' own differences are not in it
    assert row["gain"] == pytest.approx(0.75 - sum(other) / len(other))


def test_only_cases_that_both_have_are_compared() -> None:
    own = verdicts.values_of(by_seed(0.75))
    other = {case: 0.5 for case in CASES[:20]}
    assert verdicts.compare("random", POINT, own, "b", other, seeds=1)["cases"] == 20


def test_a_control_that_failed_is_not_run() -> None:
    failed = FinishedTraining(label="x", what={"kind": "scratch"}, result={}, error="no memory")
    assert verdicts.of_trainings("scratch", POINT, verdicts.values_of(by_seed(0.75)), [failed]) is None


def test_a_sentence_has_the_interval_and_the_speed() -> None:
    row = verdicts.compare(
        "published weights",
        POINT,
        verdicts.values_of(by_seed(0.75)),
        "b",
        verdicts.values_of(by_seed(0.70)),
        seeds=1,
        own_latency_s=0.01,
        latency_s=0.02,
        latency_of="a patient volume takes",
    )
    text = search_result.verdict(row)
    assert text.startswith("a against the published network (b): better, Dice on test 0.779 against 0.729 (+0.050, ")
    assert text.endswith("a patient volume takes 10 ms against 20 ms, 2.00 times as fast")


def test_the_verdict_comes_first_and_what_was_not_run_is_said() -> None:
    search = json.loads((SEARCHED / "search.json").read_text())
    told = {"verdicts": ["a against b: better"], "not_run": ["the control"], "comparisons": [], "parent": None}
    page = render_search(search | told)
    assert page.index("a against b: better") < page.index("Finalists") < page.index("How the search went")
    assert "Not run: the control" in page
    assert "none, every network was trained from scratch" in page
    lines = search_command.verdicts(SearchOutcome(folder=Path("found"), summary=search | told))
    assert lines[0] == "a against b: better"
    assert "not run: the control; this runs them: bench search --resume found --controls" in lines


def test_the_published_network_has_a_row_with_and_without_weights() -> None:
    search = json.loads((SEARCHED / "search.json").read_text())
    costs = {"macs": 3e8, "latency_s": 0.05}
    without = {"name": "slim_unetr", "costs": costs, "dice_test": None, "how": "bench train"}
    test = {"mean": 0.83, "ci95": [0.81, 0.84], "cases": 44}
    known = without | {
        "dice_test": test,
        "dice_val": 0.84,
        "origin": "weights that come with benchbench",
        "train_s": 1200.0,
    }
    for baseline, dice in ((without, "—"), (known, "0.830 (0.810 to 0.840)")):
        outcome = SearchOutcome(folder=Path("found"), summary=search | {"baseline": baseline})
        assert search_command.rows(outcome, plain=False)[-1]["Dice on test"] == dice
        assert len(search_command.rows(outcome, plain=True)) == len(search["points"])
    assert "there are no weights for this data" in render_search(search | {"baseline": without})
    assert "weights that come with benchbench, 20 min of training" in render_search(search | {"baseline": known})


@pytest.mark.parametrize(("wished_s", "width"), [(0.20, 20), (0.204, 20), (9.0, 63), (0.001, 1)])
def test_a_network_is_scaled_to_the_nearest_latency(wished_s: float, width: int) -> None:
    asked: list[int] = []

    def at(channels: int) -> tuple[rec.ModelSpec, float]:
        asked.append(channels)
        return rec.ModelSpec(name=str(channels), arch="a:B", kwargs={}, in_channels=1, out_channels=1), 0.01 * channels

    found, (spec, seconds) = nearest_width(at, wished_s, 64)
    assert (found, spec.name, seconds) == (width, str(width), 0.01 * width)
    assert len(asked) < 9


def test_a_worker_that_joined_a_search_says_that_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchbench.search.run.search", lambda *arguments, **more: None)
    flags = ["search", "--parent", "none", "--storage", "postgresql://me:secret@host/db", "--study", "brain"]
    assert cli_main.main([*flags, "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr()
    assert "this worker has ended; the command that began brain" in told.out
    assert "secret" not in told.out + told.err


def test_the_time_of_the_controls_is_none_of_the_search() -> None:
    def training(**found: float) -> FinishedTraining:
        return FinishedTraining(label="a", what={"kind": "x"}, result=found)

    spent = result.accounting(
        [],
        [training(total_s=900.0, test_s=3.0)],
        controls=[
            training(train_s=500.0, val_s=2.0, total_s=502.0, test_s=3.0),
            training(train_s=1800.0, val_s=1.0, total_s=60.0, test_s=4.0),  # went on after an interruption
        ],
        random_s=1700.0,
        parent_s=0.0,
        measured_s=50.0,
        whole_s=5010.0,
    )
    assert spent == {"whole_s": 1000.0, "train_s": 900.0, "measure_s": 53.0, "other_s": 47.0, "controls_s": 4010.0}


def test_the_time_of_interrupted_controls_is_none_of_the_search_either() -> None:
    spent = result.accounting(
        [], [], controls=[], random_s=0.0, parent_s=0.0, measured_s=50.0, whole_s=1700.0, beside_s=700.0, workers=2
    )
    assert (spent["whole_s"], spent["other_s"], spent["controls_s"]) == (2000.0, 1950.0, 700.0)


def test_the_clock_keeps_the_time_of_controls_that_were_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("benchbench.search.clock.time.monotonic", lambda: now[0])
    clock = ElapsedTime(tmp_path / "times.json")
    now[0] += 10
    with clock.controls():
        now[0] += 20
        clock.tick()
        killed = ElapsedTime(tmp_path / "times.json")
    assert (killed.before_s, killed.controls_s) == (30.0, 20.0)
    now[0] += 5
    assert (clock.whole_s, clock.controls_s) == (35.0, 20.0)

    def stopped() -> None:
        with killed.controls():
            now[0] += 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert ElapsedTime(tmp_path / "times.json").controls_s == 21.0
