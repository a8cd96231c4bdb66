"""A search in another runtime than eager PyTorch: what is timed there, what is refused, and what says so."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest

from benchbench.cli import main as cli_main
from benchbench.cli.commands import search as search_command
from benchbench.core import records as rec
from benchbench.core.errors import UnsupportedError, UsageError
from benchbench.core.search_result import SearchOutcome, read_search
from benchbench.report import render_search
from benchbench.report.search_card import search_card, search_table
from benchbench.runner.child_process import WorkerFailure
from benchbench.runner.job import Job
from benchbench.runtimes.prepared import read_prepared
from benchbench.search import export as search_export
from benchbench.search import finish as search_finish
from benchbench.search import measuring as search_measuring
from benchbench.search import problem as search_problem
from benchbench.search import proposals, runtime_times, slim_unetr_configs
from benchbench.search import result as search_result
from benchbench.search import run as search_run
from benchbench.search import trial as search_trial
from benchbench.search.budget import parse_budget
from benchbench.search.clock import ElapsedTime
from benchbench.search.job import SearchJob
from benchbench.search.measuring import Measuring
from benchbench.search.plan import first_lines
from benchbench.search.problem import Infeasible, SearchProblem, problem_from_json
from benchbench.search.proposals import Agreed
from benchbench.search.request import JOB, SearchRequest, check_request
from benchbench.search.runtime_times import RuntimeTimes, architecture_job, time_in_worker
from benchbench.search.storage import open_storage
from benchbench.search.trainings import FinishedTraining
from benchbench.search.trial import evaluate
from benchbench.training.recipe import TrainingBudget
from benchbench.zoo import checkpoint
from tests import report_examples as examples
from tests.data_sets import decathlon

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

ROOT = Path(__file__).parents[2]
SEARCHED = ROOT / "results" / "reference" / "search-hippocampus-parent"
POINT = "slim_unetr_fixed-060d9d"
SMALL = slim_unetr_configs.Config(
    variant="slim_unetr",
    widths=(8, 16, 16, 32),
    depths=(1, 1, 1, 1),
    attention=(16, 16, 16, 32),
    heads=(1, 1, 1, 1),
    sampling=slim_unetr_configs.PUBLISHED.sampling,
    expansion=slim_unetr_configs.PUBLISHED.expansion,
    stem=slim_unetr_configs.PUBLISHED.stem,
)
TITLE = "ONNX Runtime"


def problem(*budget: str, runtime: str = "onnxruntime", objective: str = "latency") -> SearchProblem:
    return SearchProblem(
        data="x",
        key="x",
        spatial=(32, 32, 32),
        in_channels=1,
        out_channels=3,
        budget=parse_budget(budget),
        runtime=runtime,
        objective=objective,
        threads=1,
    )


class Timer:
    """Instead of a worker: the same times for each architecture, and a note of what was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, median_s: float = 0.04, error: str = "") -> None:
        self.asked, self.median_s, self.error = list[Job](), median_s, error
        monkeypatch.setattr(search_problem, "time_in_worker", self)

    def __call__(self, job: Job) -> RuntimeTimes:
        self.asked.append(job)
        if self.error:
            raise UnsupportedError(self.error)
        return RuntimeTimes(median_s=self.median_s, least_s=0.9 * self.median_s, energy_j=None)


def without_training(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trainings that take no time; their names."""
    trained: list[str] = []

    def train(model: Any, spec: rec.ModelSpec, recipe: Any, *, out: Path, **more: Any) -> Any:
        trained.append(spec.name)
        assert more["keep_state"]
        return SimpleNamespace(seconds=1.0, validation=[(1.0, 0.8)], steps=1)

    monkeypatch.setattr(search_trial, "train", train)
    monkeypatch.setattr(SearchProblem, "recipe", lambda of, budget, seed, **more: None)
    return trained


def tried(of: SearchProblem, said: list[str] | None = None) -> search_trial.Evaluation:
    told = said if said is not None else list[str]()
    budget = TrainingBudget(steps=1)
    return evaluate(of, SMALL, None, budget, 0, Path("x"), progress=lambda _, line: told.append(line))


def measuring(folder: Path, runtime: str) -> Measuring:
    request = SearchRequest(budget=parse_budget(["50ms"]), runtime=runtime)
    return Measuring(request, ElapsedTime(folder / "times"), lambda text: None)


# Proposals


@pytest.mark.parametrize(
    ("times", "refused"),
    [([0.06] * 10, True), ([0.06] * 7 + [0.04] * 3, False), ([0.04] * 10, False), ([0.06] * 3, True)],
)
def test_a_noisy_latency_refuses_a_proposal_only_if_it_is_surely_above_the_limit(
    times: list[float], refused: bool
) -> None:
    of = problem("50ms", runtime="eager")
    if refused:
        with pytest.raises(Infeasible, match="latency of one patch of 60 ms is above"):
            of.check_latency(times)
    else:
        of.check_latency(times)
    dataclasses.replace(of, times_count=False).check_latency(times)  # beside other workers it refuses nothing


def test_a_proposal_is_timed_in_the_runtime_as_its_architecture_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    timer, trained, said = Timer(monkeypatch), without_training(monkeypatch), list[str]()
    found = tried(problem("50ms"), said)
    assert found.costs["latency_s"] == 0.04
    assert trained
    assert said == [f"timing it in {TITLE}"]
    for job in timer.asked:
        assert job.workload.runtime == "onnxruntime"
        assert (job.workload.spatial, job.workload.threads) == ((32, 32, 32), 1)
        assert (job.checkpoint_path, job.model.checkpoint, job.data_where) == (None, None, None)
        assert job.model.kwargs == SMALL.kwargs()


def test_a_latency_above_the_limit_in_the_runtime_refuses_a_proposal_untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    Timer(monkeypatch, median_s=0.2)
    trained = without_training(monkeypatch)
    with pytest.raises(Infeasible, match="latency of one patch of 180 ms is above the budget of 50 ms"):
        tried(problem("50ms"))
    assert trained == []


def test_what_the_formulas_refuse_is_not_prepared_for_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    timer = Timer(monkeypatch)
    with pytest.raises(Infeasible):
        tried(problem("50ms", "1kMACs"))
    assert timer.asked == []


def test_a_proposal_that_the_runtime_cannot_take_is_not_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    Timer(monkeypatch, error="it cannot be exported to ONNX: no reason")
    trained = without_training(monkeypatch)
    with pytest.raises(UnsupportedError, match="no reason"):
        tried(problem())
    assert trained == []


def test_nothing_is_prepared_where_no_time_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    timer = Timer(monkeypatch)
    without_training(monkeypatch)
    assert "latency_s" not in tried(problem("2GB", objective="macs")).costs
    assert timer.asked == []
    assert problem("50ms", objective="macs").needs_times
    assert problem(objective="energy").needs_times


def test_a_network_rewritten_by_its_own_class_is_timed_where_it_was_built(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def in_runtime(module: Any, runtime: str) -> Any:
        asked.append(runtime)
        return module

    monkeypatch.setattr(search_problem.pytorch, "in_runtime", in_runtime)
    timer, _ = Timer(monkeypatch), without_training(monkeypatch)
    assert tried(problem(runtime="eager-optimized")).costs["latency_s"] > 0
    assert set(asked) == {"eager-optimized"}
    assert timer.asked == []


# The worker


def event(kind: str, **more: Any) -> dict[str, Any]:
    return {"event": kind, "index": 0, **more}


TIMED = [
    event(
        "measurement", measurement=rec.to_json(rec.Measurement.of("latency_s", 0.02, "m", values=(0.03, 0.01, 0.02)))
    ),
    event("measurement", measurement=rec.to_json(rec.Measurement.of("energy_j", 0.5, "m"))),
]
ENDINGS: Mapping[str, tuple[list[Any], str]] = {
    "refused": ([event("refused", status="unsupported", error="it cannot be exported to ONNX: a reason")], "a reason"),
    "killed": ([WorkerFailure(status="failed", error="killed by SIGSEGV", stderr="")], "killed by SIGSEGV"),
    "late": ([WorkerFailure(status="timeout", error="stopped after its time limit", stderr="")], "time limit"),
    "not finite": ([*TIMED, event("end", status="failed", error="its output is not finite")], "not finite"),
    "silent": ([], "without a word"),
}


def worker(monkeypatch: pytest.MonkeyPatch, *endings: list[Any]) -> list[Mapping[str, Any]]:
    """Instead of processes: their events, one list each; what they were asked."""
    left, asked = list(endings), list[Mapping[str, Any]]()

    def run_worker(request: Mapping[str, Any], **more: Any) -> Iterator[Any]:
        asked.append(request)
        yield from left.pop(0)

    runtime_times._timed.cache_clear()
    monkeypatch.setattr(runtime_times, "run_worker", run_worker)
    return asked


def job(**changes: Any) -> Job:
    spec = problem().space.spec(dataclasses.replace(SMALL, **changes), problem(), "a")
    return architecture_job(spec, (32, 32, 32), "onnxruntime", threads=1, alone=True)


def test_an_architecture_is_timed_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = worker(monkeypatch, *[[*TIMED, event("end", status="unstable", error="noise")]] * 2)
    found = time_in_worker(job())
    assert (found.median_s, found.least_s, found.energy_j) == (0.02, 0.01, 0.5)
    assert time_in_worker(job()) == found
    assert len(asked) == 1
    time_in_worker(job(depths=(2, 1, 1, 1)))
    assert [request["task"] for request in asked] == ["measure"] * 2


@pytest.mark.parametrize(("events", "why"), ENDINGS.values(), ids=ENDINGS)
def test_a_preparation_that_fails_is_a_reason_and_is_tried_again(
    events: list[Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker(monkeypatch, events, [*TIMED, event("end", status="ok", error=None)])
    with pytest.raises(UnsupportedError, match=f"cannot be timed in {TITLE}: .*{why}"):
        time_in_worker(job())
    assert time_in_worker(job()).median_s == 0.02


# The request, and what is refused


def test_the_runtime_goes_to_the_workers_and_into_the_identity_of_a_study(tmp_path: Path) -> None:
    assert problem_from_json(json.loads(json.dumps(problem("50ms").to_json()))) == problem("50ms")
    with pytest.raises(UsageError, match="unknown runtime"):
        problem_from_json(problem().to_json() | {"runtime": "onyx"})
    assert "runtime" not in proposals.identity(problem(runtime="eager"))  # as in the studies of earlier versions
    storage: optuna.storages.BaseStorage = open_storage(f"sqlite:///{tmp_path}/study.db")

    def join(of: SearchProblem) -> None:
        plain: dict[str, Any] = {"first": "a", "began": 0.0, "time_s": 60.0, "low_steps": 8, "low_most_s": 9.0}
        sampler = proposals.make_sampler("random", of, seed=0)
        proposals.open_study(storage, "s", Agreed(identity=proposals.identity(of), **plain), sampler=sampler)

    join(problem())
    for other in ("eager", "openvino"):
        with pytest.raises(UsageError, match=r"its runtime differ"):
            join(problem(runtime=other))


def test_training_and_unknown_runtimes_are_refused() -> None:
    budget = parse_budget(["2GB"])
    with pytest.raises(UsageError, match="--budget-phase train limits steps of eager PyTorch alone"):
        check_request(SearchRequest(budget=budget, phase="train", runtime="openvino"))
    with pytest.raises(UsageError, match="did you mean 'openvino'"):
        check_request(SearchRequest(budget=budget, runtime="openvin"))


def test_another_runtime_in_the_same_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = SearchRequest(budget=parse_budget(["2GB"]), runtime="openvino")
    plan = SearchJob(name="s", problem=problem("2GB", runtime="openvino"), time_s=60.0, low_steps=3)
    (tmp_path / JOB).write_text(json.dumps({"schema": 2, "asked": first.to_json(), "job": plan.to_json()}))
    with pytest.raises(UsageError, match=r"holds another search \(its runtime differ\)"):
        search_run.search(dataclasses.replace(first, runtime="eager"), tmp_path, plan=lambda lines: None)
    assert cli_main.main(["search", "--resume", str(tmp_path), "--runtime", "onnxruntime"]) == 2
    assert "--runtime cannot be given with --resume" in capsys.readouterr().err


def test_a_device_that_is_not_present_has_no_other_runtime(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = decathlon(tmp_path / "Task99_Boxes", count=12, sides=(32, 32, 32))
    flags = ["search", "--budget", "2GB", "--data", str(folder), "--out", str(tmp_path / "out")]
    flags += ["--device", "jetson:orin-nano-8gb", "--runtime", "openvino"]
    assert cli_main.main(flags) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert "forecasts are of eager PyTorch: leave --runtime out" in error


def test_a_runtime_that_is_not_installed_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = decathlon(tmp_path / "Task99_Boxes", count=12, sides=(32, 32, 32))
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None)
    flags = ["search", "--budget", "2GB", "--data", str(folder), "--out", str(tmp_path / "out"), "--runtime"]
    assert cli_main.main([*flags, "onnxruntime"]) == 3
    assert "pip install 'benchbench[onnx]'" in capsys.readouterr().err


def test_a_network_that_the_runtime_cannot_run_ends_a_search_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def measured(own: Any, networks: Any, *more: Any, **settings: Any) -> list[rec.Record]:
        asked.append(networks)
        return [failing("unsupported", "it cannot be exported to ONNX: a reason")] * 2

    monkeypatch.setattr(Measuring, "measure", measured)
    own, nothing = measuring(tmp_path, "onnxruntime"), SimpleNamespace()
    with pytest.raises(UnsupportedError, match=f"cannot be run in {TITLE}: it cannot be exported to ONNX: a reason"):
        own.before(problem("2GB"), nothing, tmp_path)  # type: ignore[arg-type]
    assert asked


def test_finalists_and_the_networks_before_them_are_measured_in_the_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def run(request: Any, *more: Any, **settings: Any) -> Any:
        asked.append(request)
        return SimpleNamespace(records=())

    monkeypatch.setattr(search_measuring.runner_run, "run", run)
    source: Any = SimpleNamespace(sides=None, patch=(32, 32, 32), where="x")
    for runtime in ("eager", "openvino"):
        own = measuring(tmp_path, runtime)
        own.measure([Path("a.safetensors")], tmp_path, source, judged=True, most_s=60.0)
    assert [request.runtime for request in asked] == [("eager",), ("openvino",)]


# The plan


def test_preparing_each_proposal_leaves_it_fewer_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_run, "step_seconds", lambda of, config: 0.3)
    request = SearchRequest(budget=parse_budget(["50ms"]), runtime="onnxruntime", time_s=4000.0)
    own = search_run._Search(request, tmp_path, lambda lines: None, None)
    prepared = rec.Measurement.of("prepare_s", 12.0, "m")
    whole = dataclasses.replace(examples.finished("slim_unetr"), measurements=(prepared,))
    assert search_run._prepare_s(problem(runtime="eager"), whole) == 0
    assert search_run._prepare_s(problem(objective="macs"), whole) == 0
    needed = search_run._prepare_s(problem("50ms"), whole)
    assert needed > 12
    of = problem("50ms")
    assert own._job(of, needed).low_steps < own._job(of, 0.0).low_steps


def test_the_plan_says_what_the_budget_is_of() -> None:
    source = SimpleNamespace(name="boxes", splits={"train": 8, "val": 2, "test": 2})
    target = SimpleNamespace(banner=None)
    plain, other = (
        "\n".join(first_lines(problem("50ms", runtime=name), source, target, 60.0))  # type: ignore[arg-type]
        for name in ("eager", "openvino")
    )
    assert "runtime: OpenVINO; times and memory are measured in it" in other
    assert "runtime" not in plain
    assert "padding" not in plain
    odd = dataclasses.replace(problem("50ms"), spatial=(40, 56, 40))
    told = first_lines(odd, source, target, 60.0)  # type: ignore[arg-type]
    assert told[1] == "  the published network takes this patch as 64x64x64: 66% of it is padding"


# What is said of the costs


def failing(status: rec.Status, error: str, runtime: str = "onnxruntime") -> rec.Record:
    found = examples.finished("slim_unetr")
    work = dataclasses.replace(found.workload, runtime=runtime)
    return dataclasses.replace(found, status=status, error=error, workload=work, measurements=())


def finalist(record: rec.Record | None) -> dict[str, Any]:
    test = {"dice": 0.8, "values": [0.7, 0.9], "ids": ["a", "b"]}
    costs = problem().costs(SMALL) | {"latency_s": 0.04}
    result = {"dice": 0.8, "costs": costs, "test": test, "inherited": 1.0, "train_s": 1.0}
    final = FinishedTraining(label="final", what={"seed": 0, "key": SMALL.key}, result={**result, "steps": 1})
    return search_result.point(SMALL, [final], record, 1000, problem("50ms"))


def latency(value: float, low: float) -> rec.Record:
    found = examples.number("latency_s", value, values=(low, value, value), ci95=(low, value))
    return examples.record("a", measurements=(found,))


@pytest.mark.parametrize(
    ("value", "low", "keeps", "noisy"),
    [(0.04, 0.03, True, False), (0.06, 0.055, False, False), (0.06, 0.045, None, True)],
)
def test_a_noisy_latency_refuses_a_finalist_only_if_all_of_its_interval_is_above_the_limit(
    value: float, low: float, keeps: bool | None, noisy: bool
) -> None:
    found = finalist(latency(value, low))
    assert (found["keeps"], found["noisy"]) == (keeps, noisy)


def test_a_finalist_that_is_another_network_in_the_runtime_does_not_keep_the_budget() -> None:
    other = finalist(failing("failed", "not the same network any more"))
    assert other["keeps"] is False
    assert other["excesses"] == [f"it cannot be used in {TITLE}: not the same network any more"]
    for record in (failing("failed", "a reason", runtime="eager"), failing("timeout", "late"), None):
        assert finalist(record)["keeps"] is None  # it may keep it


def changed(**files: Any) -> dict[str, Any]:
    """A finished search, as if it had been in OpenVINO."""
    search = read_search(SEARCHED)
    search["runtime"] = {"name": "openvino", "title": "OpenVINO", "versions": {"openvino": "2026.4"}}
    for point in search["points"]:
        point["files"] = point["files"] | files
    return search


def test_page_card_and_table_say_which_runtime_the_costs_are_of() -> None:
    search = changed(runtime_file=f"{POINT}-openvino.xml")
    page = render_search(search)
    assert f"on {search['device']['name']} in OpenVINO" in page
    assert "OpenVINO, openvino 2026.4" in page
    (point,) = (point for point in search["points"] if point["name"] == POINT)
    card = search_card(point, search)
    assert f"on {search['device']['name']} in OpenVINO |" in card
    assert "| padding | 0% of the voxels that it computes on |" in card
    assert f"OpenVINO (openvino 2026.4), which reads `{POINT}-openvino.xml`" in card
    rows = list(csv.DictReader(io.StringIO(search_table(search))))
    assert {row["runtime"] for row in rows} == {"openvino"}
    assert {row["runtime_file"] for row in rows} == {f"{POINT}-openvino.xml"}


def test_the_terminal_says_which_runtime_the_costs_are_of_and_what_is_missing() -> None:
    search = changed(runtime_file_reason="a reason")
    search["points"][0] |= {"keeps": False, "unusable": "it cannot be used in OpenVINO: another reason"}
    outcome = SearchOutcome(folder=Path("found"), summary=search)
    lines = search_command.summary(outcome)
    assert "times and memory are of OpenVINO, openvino 2026.4" in lines
    assert f"{search['points'][0]['name']}: it cannot be used in OpenVINO: another reason" in lines
    assert f"{search['points'][0]['name']}: no file for OpenVINO: a reason" in lines
    assert {row["runtime"] for row in search_command.rows(outcome, plain=True)} == {"openvino"}
    assert "cannot be used" in {row["budget"] for row in search_command.rows(outcome, plain=False)}


def test_a_search_of_an_earlier_version_is_of_eager_pytorch() -> None:
    outcome = SearchOutcome(folder=Path("found"), summary=read_search(SEARCHED))
    assert {row["runtime"] for row in search_command.rows(outcome, plain=True)} == {"eager"}
    assert not any("times and memory" in line for line in search_command.summary(outcome))


# Files of a point


def weights_of_a_point() -> Path:
    return SEARCHED / "front" / POINT / f"{POINT}.safetensors"


@pytest.mark.parametrize(
    ("runtime", "left_s", "origin", "files"),
    [
        ("openvino", 100.0, "measured", {"runtime_file": f"front/{POINT}/{POINT}-openvino.xml"}),
        (
            "openvino",
            1.0,
            "measured",
            {"runtime_file": f"front/{POINT}/{POINT}-openvino.xml"},
        ),  # prepared to be measured
        ("openvino", 1.0, "timed briefly", {"runtime_file_reason": search_export.NO_TIME}),
        ("openvino", 100.0, "timed briefly", {"runtime_file": f"front/{POINT}/{POINT}-openvino.xml"}),
        ("compile", 100.0, "measured", {}),
        ("eager", 100.0, "measured", {}),
    ],
)
def test_a_point_gets_the_file_of_its_runtime_if_there_is_time(
    runtime: str,
    left_s: float,
    origin: str,
    files: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def export(weights: Path, folder: Path, name: str, of: str, data: str) -> dict[str, Any]:
        return {"runtime_file": f"{name}-{of}.xml"}

    monkeypatch.setattr(search_export, "export_for_runtime", export)
    monkeypatch.setattr(search_export, "write_onnx", lambda weights, out: ("not looked at here", None))
    search = changed()
    points = [point | {"front": True, "origin": origin} for point in search["points"] if point["name"] == POINT]
    request = SearchRequest(budget=parse_budget(["50ms"]), runtime=runtime, time_s=100.0)
    worker = SimpleNamespace(elapsed=lambda: 100.0 - left_s)
    nothing: Any = None
    own: Any = SimpleNamespace(worker=worker, problem=problem(runtime=runtime), journal=None)
    finish = search_finish.Finish(
        request=request,
        folder=tmp_path,
        own=own,
        measuring=nothing,
        published=nothing,
        baseline=nothing,
        summary=nothing,
        lines=[],
        source=nothing,
        tell=lambda text: None,
    )
    finish._export(search | {"points": points}, {points[0]["key"]: weights_of_a_point()}, late=True)
    assert points[0]["files"]["weights"] == f"front/{POINT}/{POINT}.safetensors"
    assert {key: value for key, value in points[0]["files"].items() if "runtime" in key} == files


def test_a_failed_conversion_is_a_reason_in_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def export_job(*arguments: Any) -> Any:
        raise UnsupportedError(f"preparing it in {tmp_path} ended its process: killed by SIGSEGV")

    monkeypatch.setattr(search_export.runner_export, "export_job", export_job)
    files = search_export.export_for_runtime(weights_of_a_point(), tmp_path, POINT, "openvino", None)
    assert files == {"runtime_file_reason": f"preparing it in {tmp_path.name} ended its process: killed by SIGSEGV"}


@pytest.mark.slow
def test_a_point_has_its_onnx_file_and_what_the_runtime_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("openvino")
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))
    files = search_export.export_point(weights_of_a_point(), tmp_path / POINT, POINT)
    assert files["onnx_error"] <= 1e-3
    assert onnx.load(str(tmp_path / POINT / files["onnx"])).opset_import[0].version == 20
    more = search_export.export_for_runtime(weights_of_a_point(), tmp_path / POINT, POINT, "openvino", None)
    prepared = read_prepared(tmp_path / POINT / more["runtime_file"])
    info = checkpoint.read_sidecar(tmp_path / POINT / files["weights"])  # whose file is not that of the description
    assert prepared.model is not None
    assert prepared.model.checkpoint == info.sha256
    x = np.zeros(prepared.input_shape, np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / POINT / files["onnx"]), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(prepared.load(threads=1)(x), session.run(None, {"image": x})[0], atol=1e-3)
