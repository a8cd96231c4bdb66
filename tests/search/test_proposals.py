"""Proposals: refused by the budget for nothing, never trained twice, told to the sampler, and taken up again."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest

from benchbench.core.errors import StoreError, UsageError
from benchbench.search import clock, space, storage, training_queue
from benchbench.search import proposals as studies
from benchbench.search.budget import parse_budget
from benchbench.search.problem import SearchProblem
from benchbench.search.space import Config
from benchbench.search.storage import (
    TrialReassigned,
    agree,
    check_assigned,
    errors,
    fail_stale_trials,
    open_storage,
    requeue_interrupted,
    run_trial,
    without_password,
)
from benchbench.search.trial import Evaluation

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def problem(*budget: str) -> SearchProblem:
    return SearchProblem(
        data="x",
        key="x",
        spatial=(64, 64, 64),
        in_channels=1,
        out_channels=3,
        budget=parse_budget(budget),
        base_bytes=3e8,
        batch=2,
        objective="macs",
    )


class Trainer:
    """Instead of training: a Dice that falls with size, and a note of what was asked."""

    def __init__(self, of: SearchProblem) -> None:
        self.of, self.asked = of, list[Config]()

    def __call__(self, config: Config, number: int) -> Evaluation:
        self.asked.append(config)
        found = self.of.costs(config)
        dice = 0.9 - 1e6 / (1e7 + found["macs"]) + random.Random(config.key).gauss(0, 1e-3)
        return Evaluation(
            dice=dice, costs=found, inherited=1.0, train_s=1.0, measure_s=0.0, total_s=1.0, steps=1, path=Path("x")
        )


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/study.db"


def run(url: str, of: SearchProblem, trainer: Trainer, trials: int, seed: int = 0) -> list[studies.Tried]:
    study = studies.open_study(open_storage(url), "s", of, seed=seed)
    return studies.search(study, of, trainer, elapsed=lambda: 0.0, until=lambda known: len(known) >= trials)


def test_nothing_is_trained_that_the_budget_refuses(url: str) -> None:
    of = problem("150MMACs", "300kparams")
    trainer = Trainer(of)
    known = run(url, of, trainer, 60)
    refused = [one for one in known if one.refused]
    assert refused
    assert all(one.dice is None for one in refused)
    assert all(of.budget.excesses(of.costs(config)) == [] for config in trainer.asked)
    assert len(trainer.asked) == len(studies.distinct(known))
    late = [one.refused for one in known[30:]]
    assert sum(map(bool, late)) < sum(bool(one.refused) for one in known[:30])  # the sampler has learned it


def test_no_configuration_is_trained_twice(url: str) -> None:
    of = problem()
    trainer = Trainer(of)
    run(url, of, trainer, 20)
    study = studies.open_study(open_storage(url), "s", of, seed=1)
    again = trainer.asked[0]
    study.enqueue_trial(space.parameters(again))
    known = studies.search(study, of, trainer, elapsed=lambda: 0.0, until=lambda known: len(known) >= 21)
    assert len({config.key for config in trainer.asked}) == len(trainer.asked)
    assert known[-1].same_as is not None
    assert known[-1].dice == known[known[-1].same_as].dice
    assert len(studies.distinct(known)) == len(trainer.asked)


def test_a_search_goes_on_where_it_was(url: str) -> None:
    of = problem()
    first, second = Trainer(of), Trainer(of)
    run(url, of, first, 12)
    known = run(url, of, second, 15, seed=1)
    assert len(known) == 15
    assert len(second.asked) == 3


def test_another_search_of_that_name_is_refused(url: str) -> None:
    run(url, problem("2GB"), Trainer(problem("2GB")), 1)
    with pytest.raises(UsageError, match=r"is of another search \(its budget differ\)"):
        run(url, problem("1GB"), Trainer(problem("1GB")), 1)


def test_a_storage_that_is_not_there_is_said_without_its_password() -> None:
    with pytest.raises(StoreError) as caught:
        open_storage("postgresql://user:secret@127.0.0.1:9/none")
    assert "127.0.0.1:9" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_first_proposals_are_what_a_person_would_try(url: str) -> None:
    of = problem()
    trainer = Trainer(of)
    run(url, of, trainer, 3)
    assert trainer.asked == list(space.starting_points())[:3]
    assert optuna.load_study(study_name="s", storage=url).user_attrs["identity"]["objective"] == "macs"


def test_a_password_is_never_shown() -> None:
    assert without_password("postgresql://me:se@cret@host/db") == "postgresql://me:...@host/db"
    assert without_password("postgresql://me@host/db") == "postgresql://me@host/db"
    assert (
        without_password("postgresql://me@host/db?sslpassword=a&x=b") == "postgresql://me@host/db?sslpassword=...&x=b"
    )
    assert without_password("sqlite:///a.db") == "sqlite:///a.db"


def test_a_password_with_an_at_is_refused_before_half_of_it_is_taken_for_a_host() -> None:
    with pytest.raises(StoreError, match=r"an @ in the password of postgresql://me:\.\.\.@127\.0\.0\.1:9/db has to be"):
        open_storage("postgresql://me:se@cret@127.0.0.1:9/db")


def test_a_folder_may_have_braces_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "a{b}").mkdir()
    open_storage(f"sqlite:///{tmp_path}/a{{b}}/study.db")
    assert (tmp_path / "a{b}" / "study.db").exists()


def test_what_was_broken_off_is_taken_up_again(url: str) -> None:
    of = problem()
    trainer = Trainer(of)

    def broken(config: Config, number: int) -> Evaluation:
        if number == 2:
            raise KeyboardInterrupt
        return trainer(config, number)

    study = studies.open_study(open_storage(url), "s", of, seed=0)
    with pytest.raises(KeyboardInterrupt):
        studies.search(study, of, broken, elapsed=lambda: 0.0, until=lambda known: False)
    lost = study.get_trials()[2]
    killed = study.ask()  # as a worker that was killed leaves it: running, for ever
    assert requeue_interrupted(study) == 1  # nothing was proposed for the other one yet
    assert requeue_interrupted(study) == 0
    known = studies.search(study, of, trainer, elapsed=lambda: 0.0, until=lambda known: len(known) >= 6)
    again = [one for one in known if one.config == space.suggest(optuna.trial.FixedTrial(lost.params))]
    assert len(again) == 1
    assert study.get_trials()[killed.number].state == optuna.trial.TrialState.FAIL
    assert len(trainer.asked) == len({config.key for config in trainer.asked}) == len(studies.distinct(known))


# -- work that is known beforehand


def pieces(n: int) -> list[training_queue.QueuedTraining]:
    return [training_queue.QueuedTraining(label=f"piece {i}", what={"i": i}) for i in range(n)]


def test_work_is_done_once(url: str) -> None:
    part = storage.open_phase(open_storage(url), "s/part")
    done: list[str] = []

    def do(work: training_queue.QueuedTraining) -> dict[str, float]:
        done.append(work.label)
        return {"value": float(work.what["i"])}

    training_queue.queue_trainings(part, pieces(3))
    training_queue.queue_trainings(part, pieces(4))  # another worker, with the same in mind
    part.enqueue_trial({}, user_attrs={"label": "piece 0", "work": {"i": 0}})  # at the very same time
    found = training_queue.run_queue(part, do)
    assert done == [f"piece {i}" for i in range(4)]
    assert [(one.label, one.result["value"]) for one in found] == [(f"piece {i}", float(i)) for i in range(4)]
    assert training_queue.run_queue(part, do) == found
    assert len(done) == 4


def test_a_piece_that_fails_is_a_row(url: str) -> None:
    part = storage.open_phase(open_storage(url), "s/part")

    def do(work: training_queue.QueuedTraining) -> dict[str, float]:
        if work.what["i"] == 1:
            raise ValueError("its gradient is not finite\nand more")
        return {"value": 1.0}

    training_queue.queue_trainings(part, pieces(3))
    assert [one.error for one in training_queue.run_queue(part, do)] == [None, "its gradient is not finite", None]


def test_a_broken_off_piece_is_taken_up_again(url: str) -> None:
    part = storage.open_phase(open_storage(url), "s/part")
    training_queue.queue_trainings(part, pieces(2))

    def stop(work: training_queue.QueuedTraining) -> dict[str, float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training_queue.run_queue(part, stop)
    assert requeue_interrupted(part) == 1
    found = training_queue.run_queue(part, lambda work: {"value": 0.0})
    assert sorted(one.label for one in found) == ["piece 0", "piece 1"]


def test_a_trial_whose_worker_died_before_its_first_sign_of_life_is_taken_up_again(url: str) -> None:
    part = storage.open_phase(open_storage(url, heartbeat_s=1, grace_s=1), "s/part")
    training_queue.queue_trainings(part, pieces(1))
    part.ask()  # takes it, and never beats
    fail_stale_trials(part)
    assert [trial.state.name for trial in part.get_trials()] == ["RUNNING"]  # it may be about to
    found = training_queue.run_queue(part, lambda work: {"value": 1.0}, poll_s=0.1)
    assert [one.label for one in found] == ["piece 0"]
    assert [trial.state.name for trial in part.get_trials()] == ["FAIL", "COMPLETE"]


# -- several workers


class Time:
    """A clock that is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(storage, "time", SimpleNamespace(monotonic=lambda: self.now))


def test_only_who_is_seen_silent_again_and_again_is_dead(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Time(monkeypatch)
    mine, trial_id, beat = open_storage(url), 7, [0]
    monkeypatch.setattr(mine, "last_heartbeats", lambda study_id: {trial_id: beat[0]})
    assert mine.stale_trials(0) == []
    own.now += 100_000  # a night that all have slept through, or a database that was away
    assert mine.stale_trials(0) == []
    beat[0] += 1
    own.now += 100_000
    assert mine.stale_trials(0) == []
    for _ in range(5):
        own.now += 10
        assert mine.stale_trials(0) == []
    own.now += 10
    assert mine.stale_trials(0) == [trial_id]


def test_who_has_lost_a_trial_stops_at_it_and_goes_on(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.RetryingStorage, "record_heartbeat", lambda *_: None)  # which would show it, too
    mine, theirs = (storage.open_phase(open_storage(url), "s/part") for _ in range(2))
    training_queue.queue_trainings(mine, pieces(1))
    went_on, settled = [], []

    def one(trial: optuna.Trial) -> float:
        check_assigned(mine)
        theirs._storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.FAIL)
        check_assigned(mine)  # not known yet
        went_on.append(trial.number)
        check_assigned(mine, now=True)
        raise AssertionError

    assert run_trial(mine, one, after=settled.append)
    assert (went_on, settled) == ([0], [])
    check_assigned(mine, now=True)  # it is at nothing


def test_a_sign_of_life_shows_that_a_trial_is_lost(url: str) -> None:
    mine, theirs = open_storage(url), open_storage(url)
    part = storage.open_phase(mine, "s/part")
    training_queue.queue_trainings(part, pieces(1))

    def one(trial: optuna.Trial) -> float:
        theirs.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.FAIL)
        mine.record_heartbeat(trial._trial_id)
        with pytest.raises(TrialReassigned):
            check_assigned(part)
        return 1.0

    assert run_trial(part, one, after=lambda trial: pytest.fail("it is not its own"))
    assert [trial.state.name for trial in part.get_trials()] == ["FAIL"]


def test_an_error_of_a_piece_is_told_even_if_the_piece_was_lost(url: str) -> None:
    mine, theirs = (storage.open_phase(open_storage(url), "s/part") for _ in range(2))
    training_queue.queue_trainings(mine, pieces(1))

    def one(trial: optuna.Trial) -> float:
        theirs._storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.FAIL)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        run_trial(mine, one, after=lambda trial: None)


def test_an_error_that_ends_a_worker_is_not_tried_again_by_itself(url: str) -> None:
    part = storage.open_phase(open_storage(url), "s/part")
    training_queue.queue_trainings(part, pieces(2))

    def full(work: training_queue.QueuedTraining) -> dict[str, float]:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        training_queue.run_queue(part, full)
    assert [one.label for one in training_queue.run_queue(part, lambda work: {"value": 0.0})] == ["piece 1"]
    assert errors(part) == ["no space left"]
    assert requeue_interrupted(part) == 1  # a person says so
    assert len(training_queue.run_queue(part, lambda work: {"value": 0.0})) == 2


def test_what_the_first_worker_says_stays(url: str) -> None:
    one, two = (storage.open_phase(open_storage(url), "s/part") for _ in range(2))
    assert agree(one, "seconds", 1.5) == (1.5, True)
    assert agree(two, "seconds", 2.5) == (1.5, False)
    assert one.user_attrs["seconds"] == 1.5


def test_a_night_is_no_time_of_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"time": 1000.0, "monotonic": 10.0}
    set_by_hand = SimpleNamespace(time=lambda: now["time"], monotonic=lambda: now["monotonic"])
    monkeypatch.setattr(clock, "time", set_by_hand)
    sleep = clock.MachineSleep()
    now.update(time=1100.0, monotonic=109.0)  # a clock that is set right by a second
    assert sleep.seconds() == 0
    now.update(time=30_000.0, monotonic=209.0)
    assert sleep.seconds() == 28_800
    assert sleep.seconds() == 0
