"""Proposals: refused by the budget for nothing, never trained twice, told to the sampler, and taken up again."""

from __future__ import annotations

import dataclasses
import random
import re
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState

from benchbench.core.errors import StoreError, UsageError
from benchbench.search import clock, slim_unetr_configs, storage
from benchbench.search import proposals as studies
from benchbench.search.budget import parse_budget
from benchbench.search.problem import Infeasible, SearchProblem
from benchbench.search.proposals import Agreed, Tried
from benchbench.search.slim_unetr_configs import Config
from benchbench.search.storage import (
    hand_back,
    open_storage,
    optimize,
    requeue_interrupted,
    storage_errors,
    without_password,
)
from benchbench.search.trainings import Journal
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
        return Evaluation(dice=dice, costs=found, inherited=1.0, train_s=1.0, total_s=1.0, steps=1, path=Path("x"))


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/study.db"


def agreed(of: SearchProblem, first: str = "here", **changes: float) -> Agreed:
    plain = Agreed(first=first, identity=studies.identity(of), began=0.0, time_s=60.0, low_steps=8, low_most_s=9.0)
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def open_study(url: str, of: SearchProblem, *, seed: int = 0, sampler: str = "tpe") -> optuna.Study:
    made = studies.make_sampler(sampler, of, seed=seed)
    return studies.open_study(open_storage(url), "s", agreed(of), sampler=made)[0]


def run(
    url: str, of: SearchProblem, trainer: Trainer, trials: int, *, seed: int = 0, sampler: str = "tpe"
) -> list[Tried]:
    study = open_study(url, of, seed=seed, sampler=sampler)
    studies.propose(study, of, trainer, elapsed=lambda: 0.0, until=lambda known: len(known) >= trials)
    return studies.tried(study, problem().space)


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
    study = open_study(url, of, seed=1)
    study.enqueue_trial(slim_unetr_configs.parameters(trainer.asked[0]))
    studies.propose(study, of, trainer, elapsed=lambda: 0.0, until=lambda known: len(known) >= 21)
    known = studies.tried(study, problem().space)
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


def test_the_first_proposals_are_smaller_than_the_published_network(url: str) -> None:
    of = problem()
    trainer = Trainer(of)
    known = run(url, of, trainer, 6)
    guesses = [config for config in slim_unetr_configs.starting_points() if config.fits(of.spatial)]
    assert [one.config for one in known] == [g for g in guesses if g != Config(variant=g.variant)][:6]
    assert Config() not in trainer.asked  # its weights are known, or its costs alone


def test_first_guesses_are_not_queued(url: str) -> None:
    of = problem()
    run(url, of, Trainer(of), 2)
    states = [trial.state for trial in optuna.load_study(study_name="s", storage=url).get_trials()]
    assert states == [TrialState.COMPLETE] * 2


def test_random_proposals_have_no_first_guesses(url: str) -> None:
    of = problem()
    known = run(url, of, Trainer(of), 12, sampler="random")
    guesses = {config.key for config in slim_unetr_configs.starting_points()}
    assert not guesses & {one.config.key for one in known}


def test_the_space_is_exhausted_where_nothing_new_comes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        slim_unetr_configs,
        "suggest",
        lambda trial: trial.suggest_categorical("x", [0]) or slim_unetr_configs.scaled(0.5),
    )
    of = problem()
    study = open_study(url, of, sampler="random")
    studies.propose(study, of, Trainer(of), elapsed=lambda: 0.0, until=lambda known: False)
    assert len(studies.distinct(studies.tried(study, problem().space))) == 1


def test_the_worker_that_creates_a_study_says_what_all_agree_on(url: str) -> None:
    of, sampler = problem(), studies.make_sampler("random", problem(), seed=0)
    ours, theirs = agreed(of, "a", low_steps=8), agreed(of, "b", low_steps=30)
    assert studies.open_study(open_storage(url), "s", ours, sampler=sampler)[1] == ours
    assert studies.open_study(open_storage(url), "s", theirs, sampler=sampler, alone=False)[1] == ours


def test_a_worker_that_was_killed_before_it_said_anything(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of, sampler = problem(), studies.make_sampler("random", problem(), seed=0)
    optuna.create_study(storage=open_storage(url), study_name="s", directions=["maximize", "minimize"])
    monkeypatch.setattr(studies, "_WAIT_S", 0.0)
    with pytest.raises(StoreError, match="has not told its plan"):
        studies.open_study(open_storage(url), "s", agreed(of), sampler=sampler, alone=False)
    assert studies.open_study(open_storage(url), "s", agreed(of), sampler=sampler)[1] == agreed(of)


# -- what is worth a longer training


def proposed(number: int, dice: float, macs: float, inherited: float = 0.0) -> Tried:
    return Tried(
        number=number,
        config=Config(prune=0.1, stem=number),
        dice=dice,
        costs={"macs": macs},
        refused={},
        same_as=None,
        error=None,
        spent={"inherited": inherited},
        at_s=0.0,
    )


def test_the_best_quarter_is_by_pareto_rank() -> None:
    trials = [proposed(0, 0.8, 9.0), proposed(1, 0.75, 5.0), proposed(2, 0.74, 6.0), proposed(3, 0.7, 1.0)]
    trials += [proposed(4 + i, 0.66, 9.5) for i in range(6)]
    assert [one.number for one in studies.best_quarter(trials, "macs")] == [0, 3, 1]


def test_what_costs_more_than_the_published_network_comes_last_and_only_if_it_is_better() -> None:
    slower = [proposed(0, 0.8, 9.0), proposed(1, 0.7, 8.0)]
    others = [proposed(2, 0.75, 5.0), proposed(3, 0.6, 1.0), proposed(4, 0.65, 2.0)]
    assert [one.number for one in studies.ranked(slower + others, "macs", to_beat=6.0)] == [2, 4, 0]
    assert [one.number for one in studies.ranked(slower, "macs", to_beat=6.0)] == [0, 1]  # nothing is cheaper
    useless = proposed(5, 0.4, 1.0)
    assert [one.number for one in studies.ranked([*slower, useless], "macs", to_beat=6.0)] == [0, 1]


def test_a_head_start_is_no_merit() -> None:
    trials = [proposed(0, 0.8, 9.0, 0.9), proposed(1, 0.79, 5.0, 0.9), proposed(2, 0.7, 9.0), proposed(3, 0.69, 5.0)]
    assert [one.number for one in studies.ranked(trials, "macs")] == [0, 2, 1, 3]


def test_what_is_far_below_the_best_is_not_worth_it_however_cheap() -> None:
    trials = [proposed(0, 0.8, 9.0), proposed(1, 0.6, 0.1), proposed(2, 0.4, 0.01)]
    assert [one.number for one in studies.ranked(trials, "macs")] == [0]
    assert {one.number for one in studies.ranked(trials[2:], "macs")} == {2}  # rather than nothing


# -- the storage


def test_optunas_public_interface_alone_is_used() -> None:
    folder = Path(storage.__file__).parent
    for path in folder.glob("*.py"):
        assert not re.search(r"(optuna[\w.]*|study|trial|storage|sampler)\._[a-z]", path.read_text()), path.name


def test_a_storage_that_is_not_there_is_said_without_its_password() -> None:
    with pytest.raises(StoreError) as caught:
        open_storage("postgresql://user:secret@127.0.0.1:9/none")
    assert "127.0.0.1:9" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


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


def one_param(trial: optuna.Trial) -> float:
    return float(trial.suggest_float("x", 0, 1))


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.get_trials()]


def test_what_was_broken_off_is_taken_up_again(url: str) -> None:
    of = problem()
    trainer = Trainer(of)

    def broken(config: Config, number: int) -> Evaluation:
        if number == 2:
            raise KeyboardInterrupt
        return trainer(config, number)

    study = open_study(url, of)
    with pytest.raises(KeyboardInterrupt):
        studies.propose(study, of, broken, elapsed=lambda: 0.0, until=lambda known: False)
    assert states(study)[2:] == ["FAIL", "WAITING"]  # handed back by who left
    killed = study.ask(fixed_distributions={})  # takes it, and is killed
    assert states(study)[killed.number] == "RUNNING"
    requeue_interrupted(study, alone=True)
    requeue_interrupted(study, alone=True)
    assert states(study)[2:] == ["FAIL", "FAIL", "WAITING"]
    studies.propose(study, of, trainer, elapsed=lambda: 0.0, until=lambda known: len(known) >= 6)
    lost = study.get_trials()[2]
    again = [
        t
        for t in studies.tried(study, problem().space)
        if t.config == slim_unetr_configs.suggest(optuna.trial.FixedTrial(lost.params))
    ]
    assert len(again) == 1
    assert len(trainer.asked) == len({config.key for config in trainer.asked})


def test_a_trial_whose_worker_died_is_run_by_another(url: str) -> None:
    study = optuna.create_study(study_name="s", storage=open_storage(url))
    trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
    hand_back(study, trial.number)
    hand_back(study, trial.number)  # by another worker, too
    assert states(study) == ["FAIL", "WAITING"]
    optimize(study, one_param, lambda trial: True)
    assert study.get_trials()[1].params == study.get_trials()[0].params
    assert states(study) == ["FAIL", "COMPLETE"]


def test_who_has_lost_a_trial_goes_on_with_another(url: str, caplog: pytest.LogCaptureFixture) -> None:
    study = optuna.create_study(study_name="s", storage=open_storage(url))
    theirs = optuna.load_study(study_name="s", storage=open_storage(url))

    def lose_the_first(trial: optuna.Trial) -> float:
        value = one_param(trial)
        if trial.number == 0:  # this worker sleeps, and is found silent
            hand_back(theirs, 0)
        trial.set_user_attr("done", True)
        return value

    optimize(study, lose_the_first, lambda trial: len(study.get_trials(states=(TrialState.COMPLETE,))) == 2)
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert "trial 0 was given to another" in caplog.text


def test_a_result_that_another_worker_has_told_already_costs_a_training_and_nothing_more(url: str) -> None:
    study = optuna.create_study(study_name="s", storage=open_storage(url))
    theirs = optuna.load_study(study_name="s", storage=open_storage(url))

    def slow(trial: optuna.Trial) -> float:
        value = one_param(trial)
        if trial.number == 0:
            theirs.tell(0, 0.5)
        return value

    optimize(study, slow, lambda trial: trial.number == 1)
    assert states(study) == ["COMPLETE", "COMPLETE"]
    assert study.get_trials()[0].value == 0.5


def test_an_error_is_told_even_if_the_trial_was_lost(url: str) -> None:
    study = optuna.create_study(study_name="s", storage=open_storage(url))
    theirs = optuna.load_study(study_name="s", storage=open_storage(url))

    def full(trial: optuna.Trial) -> float:
        one_param(trial)
        hand_back(theirs, trial.number)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        optimize(study, full, lambda trial: False)


def test_an_error_that_ends_a_worker_is_not_tried_again_by_itself(url: str) -> None:
    study = optuna.create_study(study_name="s", storage=open_storage(url))

    def full(trial: optuna.Trial) -> float:
        one_param(trial)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        optimize(study, full, lambda trial: False)
    assert states(study) == ["FAIL"]
    requeue_interrupted(study, alone=False)  # a person says so
    assert states(study) == ["FAIL", "WAITING"]


def test_a_database_that_refuses_a_call_is_a_line(url: str, tmp_path: Path) -> None:
    study = optuna.create_study(study_name="s", storage=open_storage(url))
    (tmp_path / "study.db").write_bytes(b"no database any more")
    with pytest.raises(StoreError, match="is not a search's database, or damaged") as caught, storage_errors(url):
        study.set_user_attr("a", 1)
    assert "\n" not in str(caught.value)


# -- trainings that are known beforehand


def test_a_training_is_run_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.run("a", {"kind": "final"}, lambda: {"dice": 0.8}).result == {"dice": 0.8}
    again = Journal(tmp_path)
    assert again.run("a", {"kind": "final"}, lambda: pytest.fail("it is finished")).result == {"dice": 0.8}
    assert [one.label for one in again.of("final", "promotion")] == ["a"]


def test_a_training_that_fails_is_a_row(tmp_path: Path) -> None:
    def fail() -> dict[str, float]:
        raise Infeasible({}, "its gradient is not finite\nand more")

    assert Journal(tmp_path).run("a", {"kind": "final"}, fail).error == "its gradient is not finite"
    assert Journal(tmp_path).of("final")[0].error == "its gradient is not finite"


def test_what_was_decided_stays(tmp_path: Path) -> None:
    assert Journal(tmp_path).decide("who", lambda: ["a"]) == ["a"]
    assert Journal(tmp_path).decide("who", lambda: ["b"]) == ["a"]
    assert Journal(tmp_path).decision("what") is None


def test_half_a_line_of_a_journal_is_set_aside(tmp_path: Path) -> None:
    Journal(tmp_path).run("a", {"kind": "final"}, lambda: {"dice": 0.8})
    path = tmp_path / "trainings.jsonl"
    path.write_bytes(path.read_bytes() + b'{"label": "b"')
    assert [*Journal(tmp_path).trainings] == ["a"]


@pytest.mark.parametrize("line", ["[]", "3", "null", "{}", '{"label": "a"}', '{"decision": "x"}', "[" * 100_000, "x"])
def test_a_damaged_journal_is_a_line(line: str, tmp_path: Path) -> None:
    (tmp_path / "trainings.jsonl").write_text(f"{line}\n")
    with pytest.raises(StoreError, match="line 1 is no training of a search") as caught:
        Journal(tmp_path)
    assert "\n" not in str(caught.value)


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
