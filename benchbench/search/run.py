"""`bench search`: from a budget to a front of networks.

First the unmodified network and the smallest one of the space are measured, and a budget that nothing can keep is
refused. Then the workers' phases run. Then the finalists are measured, since no forecast accepts a network. Everything
is in one folder and one storage, from which an interrupted search goes on.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna

from benchbench import data
from benchbench.core import launch
from benchbench.core import records as rec
from benchbench.core.errors import UnsupportedError, UsageError, command
from benchbench.core.protocol import get_protocol
from benchbench.core.records import utc_now
from benchbench.core.results import SEARCH, held, remove_torn, write_whole
from benchbench.core.search_result import SCHEMA, SearchOutcome, read_search
from benchbench.core.units import format_duration
from benchbench.devices import cpu
from benchbench.devices.environment import environment
from benchbench.devices.resolve import Target, resolve
from benchbench.runner import run as runner_run
from benchbench.runner.estimate import CellCost
from benchbench.runner.job import Cell
from benchbench.runner.request import RunRequest
from benchbench.runtimes import catalogue
from benchbench.runtimes.catalogue import EAGER, get_runtime
from benchbench.search import export as search_export
from benchbench.search import feasibility, proposals, space
from benchbench.search import plan as search_plan
from benchbench.search import result as search_result
from benchbench.search.budget import METRICS
from benchbench.search.clock import ElapsedTime
from benchbench.search.feasibility import BudgetError
from benchbench.search.job import PHASES, PROPOSAL_SHARE, SearchJob
from benchbench.search.phases import Worker
from benchbench.search.problem import SearchProblem, check_objective, published_spec, step_seconds
from benchbench.search.request import CHANGEABLE, JOB, SearchRequest, check_request, read_job
from benchbench.search.storage import open_storage, requeue_interrupted
from benchbench.search.training_queue import TrainingResult, finished_trainings
from benchbench.search.trial import load_parent, name_of
from benchbench.training.recipe import default_batch
from benchbench.training.torch_runtime import threads
from benchbench.zoo import build as zoo_build
from benchbench.zoo import checkpoint

log = logging.getLogger(__name__)

STORAGE_ENV = "BENCHBENCH_STORAGE"  # environment variable of a worker, since the address may hold a password
_WISHED = 45  # proposals that there should be time for
_OVERHEAD_S = 3.5  # of each: building, counting, evaluation on `val`
_WORKER_S = 8.0  # to start the processes in which a proposal is prepared for a runtime, and timed
_STEP_RATIO = 0.9  # a proposal's step against the published network's: it is smaller, and its batches are cached
_STEPS = (8, 40)  # least and most steps of a proposal's training
_HIGH = 4  # steps of a promotion, as a multiple of a proposal's
_BEFORE_SHARE = 0.2  # most of the time for one measurement before the search
_MEASURING = 0.05  # least of the time that is reserved for measuring the finalists
_RESERVE = 0.4  # most of the remaining time, likewise
_TIMED_SHARE, _LEAST_TIMED_S = 0.01, 0.5  # of the time, and at least: forwards of a network before the search
_TIMED = 2  # kinds of forwards that a process times: of a patch, and of a volume
_ONNX_S = 15.0  # to write and run an ONNX file
_LEAST_LIMIT_S = 30.0  # of a measurement, most of which is the start of a process
_LONGEST_S = 1200.0  # of a measurement, as of `bench run`
_LEAVING_S = 60.0  # in which a terminated worker has to end

#: Called with the lines of the plan, before any training.
Plan = Callable[[Sequence[str]], None]
#: Called with the share of the time that is used, and a line.
Progress = Callable[[float, str], None]


def bundled_parent(source: str, fold: int | None = None, spatial: tuple[int, int, int] | None = None) -> Path | None:
    """Weights of the published network that come with benchbench, for a data set and its patch (D, H, W)."""
    plan = data.get_plan(source, fold=fold)
    spec = published_spec(plan)
    sides = spatial or zoo_build.fitting_sides(spec, plan.patch)
    return checkpoint.find(spec.name, spec.in_channels, spec.out_channels, sides, plan)


class _RunProgress:
    """Listener of a run whose progress is one line of the search."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell

    def plan(self, cells: Sequence[tuple[Cell, CellCost, float]], folder: Path, reused: int) -> None:
        if cells:
            whole = format_duration(sum(seconds for *_, seconds in cells))
            self.tell(f"measuring {len(cells)} network{'s' * (len(cells) != 1)}, about {whole}")

    def begin(self, label: str, remaining_s: float, host: str = "") -> None:
        self.tell(f"measuring {label}")

    def phase(self, text: str, host: str = "") -> None: ...

    def end(self, record: rec.Record) -> None: ...


def search(request: SearchRequest, out: Path, *, plan: Plan, progress: Progress | None = None) -> SearchOutcome:
    """Search, or go on with the search in a folder, for which the request has to be the same.

    Raises:
        BudgetError: no network of the space keeps the budget, or no finalist does when measured.
        UsageError: an objective that cannot be measured, data without a split, or a folder of another search.
        StoreError: the folder or the storage cannot be used.
    """
    with held(out):
        remove_torn(out / "points")
        return _Search(request, out, plan, progress).run()


class _Search:
    """One search on this machine."""

    def __init__(self, request: SearchRequest, out: Path, plan: Plan, progress: Progress | None) -> None:
        self.request, self.out, self.plan, self._progress = request, out, plan, progress
        self.shared = request.storage is not None  # by workers of other commands or machines
        self.url = request.storage or f"sqlite:///{(out / 'study.db').absolute()}"
        self.clock = ElapsedTime(out / ".sittings.json")
        self._worker: Worker | None = None
        self._earlier_job: SearchJob | None = None  # plan of the search that goes on
        self._sampler_comparison: Any = None  # written into `search.json` by `benchmarks/search_worth.py`
        self._ignores_time = False  # the time was over before: now everything that was left out is measured
        self._left_out: list[str] = []

    def tell(self, text: str) -> None:
        """Report a line, and write the elapsed time."""
        self.clock.tick()
        if self._progress:
            left = self.request.time_s - (self._worker.elapsed() if self._worker else 0.0)
            sitting = self.clock.sitting_s
            self._progress(sitting / (sitting + max(left, 1.0)), text)

    def run(self) -> SearchOutcome:
        check_request(self.request)
        check_objective(self.request.objective)
        self._check_folder()
        source = data.get_plan(self.request.data, fold=self.request.fold)
        for split, why in (("train", "train on"), ("val", "choose by"), ("test", "judge the finalists by")):
            if not source.splits.get(split):
                raise UsageError(f"{source.key} has no case to {why}: a search needs cases of train, val and test")
        storage = open_storage(self.url)
        target = resolve(self.request.device)
        problem = self._task(source, target)
        feasibility.check_feasible(problem, {})
        if self.request.parent:
            load_parent(self.request.parent, problem)
        self._keep(self._earlier_job)  # from here on an interrupted search can go on
        first = search_plan.first_lines(problem, source, target, self.request.time_s)
        self.plan([*first, f"folder: {self.out}"])
        baseline = self._measure_baseline(problem, source)
        problem = dataclasses.replace(problem, base_bytes=baseline.floor)
        feasibility.check_feasible(problem, baseline.least)
        prepare_s = _prepare_s(problem, baseline.record)
        job = self._job(problem, prepare_s)
        self._keep(job)
        self._resume(storage, job.name)
        summary = feasibility.summarise_space(problem, seed=self.request.seed)
        plan = search_plan.lines(job, baseline, summary, target)
        self.plan(plan)
        worker = self._worker = Worker(job, self.out, storage, index=0, shared=self.shared, tell=self.tell)
        self._work(worker)
        outcome = self._finish(worker, baseline, summary, [*first, *plan], source)
        if not outcome.front:
            over = "; ".join(f"{p['name']}: {text}" for p in outcome.summary["points"] for text in p["excesses"])
            what = "no finalist keeps the budget when it is measured" if over else "no finalist was finished in time"
            more = f"{math.ceil(2 * self.request.time_s / 60)}min"
            raise BudgetError(
                f"{what}{f' ({over})' if over else ''}; what was found is in {self.out}, and this goes on with more "
                f"time: {command('search', '--resume', self.out, '--time', more)}"
            )
        return outcome

    # -- before

    def _check_folder(self) -> None:
        """Refuse a folder of another search, and one whose name cannot stand in a list of networks."""
        if "," in str(self.out):
            raise UsageError(f"{self.out} has a comma in it, which stands between networks: choose another --out")
        if (self.out / SEARCH).exists():
            self._sampler_comparison = read_search(self.out).get("worth")
        if not (self.out / JOB).exists():
            return
        earlier = read_job(self.out)
        ours, theirs = self.request.to_json(), earlier.request.to_json()
        changed = sorted(key for key in ours if key not in CHANGEABLE and ours[key] != theirs.get(key))
        if changed and earlier.job is None:  # nothing was tried yet, so the folder can be used
            return
        self._earlier_job = earlier.job
        over = (self.out / SEARCH).exists() or self.clock.before_s >= earlier.request.time_s
        self._ignores_time = over and self.request.time_s <= earlier.request.time_s
        if changed:
            raise UsageError(
                f"{self.out} holds another search (its {', '.join(changed)} differ): give --out another folder, or go "
                f"on with: {command('search', '--resume', self.out)}"
            )

    def _task(self, source: data.DataPlan, target: Target) -> SearchProblem:
        spec = published_spec(source)
        spatial = self.request.spatial or zoo_build.fitting_sides(spec, source.patch)
        zoo_build.build(spec, spatial)  # raises for a patch that the network cannot take
        if target.profile and "fp32" not in target.profile.peaks:
            raise UsageError(f"{target.profile.name} has no fp32 units, so its latency cannot be predicted")
        calibration = target.profile.calibration if target.profile else None
        if calibration and calibration.dtype != "fp32":
            raise UsageError(f"{self.request.device} was calibrated for {calibration.dtype}, and a search is of fp32")
        self._check_runtime(target)
        here = target.backend == "cpu" and target.host is None
        problem = SearchProblem(
            data=source.where,
            key=source.key,
            spatial=(spatial[0], spatial[1], spatial[2]),
            in_channels=source.in_channels,
            out_channels=source.out_channels,
            budget=self.request.budget,
            phase=self.request.phase,
            runtime=self.request.runtime,
            device=self.request.device,
            profile=target.profile is not None,
            times_count=here and self.request.workers == 1,
            objective=self.request.objective,
            batch=self.request.batch or default_batch(spatial),
            threads=self.request.threads
            or (max(1, (os.cpu_count() or 1) // self.request.workers) if self.request.workers > 1 else None),
        )
        return dataclasses.replace(problem, machine=_machine(target)) if problem.needs_times else problem

    def _check_runtime(self, target: Target) -> None:
        """Refuse a runtime that the device does not have, or in which proposals cannot be timed on this machine.

        Raises:
            UsageError: a forecast is asked for, and those are of eager PyTorch.
            UnsupportedError: it is not installed, or does not run there.
        """
        name = self.request.runtime
        if name == EAGER:
            return
        if target.profile:
            raise UsageError(
                f"{target.profile.name} is not present, and forecasts are of {EAGER} PyTorch: leave --runtime out"
            )
        for backend in dict.fromkeys(("cpu", target.backend or "cpu")):
            catalogue.check(name, "fp32", backend)

    def _measure(
        self,
        networks: Sequence[Path],
        folder: Path,
        source: data.DataPlan,
        *,
        judged: bool,
        most_s: float,
        protocol: str | None = None,
    ) -> list[rec.Record]:
        """Records of networks on the device, in their order."""
        start = time.monotonic()
        request = RunRequest(
            models=",".join(map(str, networks)),
            devices=(self.request.device,),
            protocol=protocol or self.request.protocol,
            phase=self.request.phase,
            runtime=(self.request.runtime,),
            threads=(self.request.threads,),
            volume=None if self.request.phase == "train" else self.request.volume or source.sides or source.patch,
            data=source.where if judged else "none",
            noise=False,
            time_limit_s=max(_LEAST_LIMIT_S, most_s),
        )
        outcome = runner_run.run(request, folder, progress=_RunProgress(self.tell))
        self.clock.measured(time.monotonic() - start)
        return list(outcome.records)

    def _measure_baseline(self, problem: SearchProblem, source: data.DataPlan) -> search_plan.Baseline:
        folder = self.out / "before"
        networks = search_plan.networks(problem, folder)
        most_s = _BEFORE_SHARE * self.request.time_s
        protocol = self._short_protocol()
        whole, least = self._measure(networks, folder, source, judged=False, most_s=most_s, protocol=protocol)
        if problem.runtime != EAGER and not any(map(_has_run, (whole, least))):
            title = get_runtime(problem.runtime).title
            raise UnsupportedError(f"the unmodified network cannot be run in {title}: {whole.error}")
        return search_plan.baseline_of(problem, whole, least)

    def _short_protocol(self) -> str:
        """The protocol with fewer forwards if the search is short, for the measurements before it."""
        protocol = self.request.protocol
        timed_s = round(max(_LEAST_TIMED_S, _TIMED_SHARE * self.request.time_s), 1)
        if "timed_s" in protocol or get_protocol(protocol).timed_s <= timed_s:
            return protocol
        return f"{protocol},timed_s={timed_s:g}"

    def _finalist_s(self, before_s: float) -> float:
        """Seconds to measure a finalist, estimated from the two networks that were measured before the search."""
        full, short = get_protocol(self.request.protocol), get_protocol(self._short_protocol())
        return before_s / 2 + _TIMED * full.processes * (full.timed_s - short.timed_s)

    def _job(self, problem: SearchProblem, prepare_s: float) -> SearchJob:
        """The plan for the workers.

        Args:
            problem: with what was measured before.
            prepare_s: of a proposal, for its runtime.
        """
        if job := self._earlier_job:  # a search goes on with the steps that it began with
            low, high, before_s, reserve_s = job.low_steps, job.high_steps, job.before_s, job.reserve_s
        else:
            before_s = self.clock.whole_s
            left = max(0.0, self.request.time_s - before_s)
            each = self._finalist_s(self.clock.measured_s)
            reserve_s = min(_RESERVE * left, max(_MEASURING * self.request.time_s, (self.request.finalists + 1) * each))
            low = self.request.steps or self._affordable_steps(problem, left - reserve_s, prepare_s)
            high = _HIGH * low
        return SearchJob(
            before_s=before_s,
            reserve_s=reserve_s,
            name=self.request.study or f"search-{problem.key}",
            problem=problem,
            time_s=self.request.time_s,
            low_steps=low,
            high_steps=high,
            trials=self.request.trials,
            finalists=self.request.finalists,
            seeds=self.request.seeds,
            controls=self.request.controls,
            parent=str(self.request.parent.absolute()) if self.request.parent else None,
            seed=self.request.seed,
            workers=self.request.workers,
        )

    def _affordable_steps(self, problem: SearchProblem, left_s: float, prepare_s: float) -> int:
        """Steps of a proposal so that about 45 fit; each takes about as long as the published network's.

        Fewer proposals fit where each of them has to be prepared for a runtime first: fewer steps make up for part of
        that, but no fewer than a Dice says something after.
        """
        with threads(problem.threads):
            each = step_seconds(problem, zoo_build.build(published_spec(problem), problem.spatial))
        overhead = _OVERHEAD_S + prepare_s
        fitting = (PROPOSAL_SHARE * left_s * self.request.workers / _WISHED - overhead) / (_STEP_RATIO * each)
        return max(_STEPS[0], min(_STEPS[1], math.floor(fitting)))

    def _keep(self, job: SearchJob | None) -> None:
        """Write the request and the plan, from which the search can go on."""
        content = {"schema": SCHEMA, "asked": self.request.to_json(), "job": job.to_json() if job else None}
        write_whole(self.out / JOB, (json.dumps(content, indent=1) + "\n").encode())

    def _resume(self, storage: optuna.storages.BaseStorage, name: str) -> None:
        """Queue interrupted trials again, and with a storage of this folder leave the pause out of the time."""
        names = {study.study_name for study in optuna.get_all_study_summaries(storage, include_best_trial=False)}
        for study in [name, *(f"{name}/{phase}" for phase in PHASES)]:
            if study in names:
                requeue_interrupted(optuna.load_study(study_name=study, storage=storage), alone=not self.shared)
        if not self.shared and name in names:
            first = optuna.load_study(study_name=name, storage=storage)
            if (began := first.user_attrs.get("began")) is not None:
                first.set_user_attr("began", float(began) + self.clock.pause_s)

    # -- workers

    def _work(self, worker: Worker) -> None:
        with threads(worker.problem.threads):
            helpers = [self._start(index) for index in range(1, self.request.workers)]
            try:
                worker.run()
                for helper in helpers:
                    if code := helper.wait():
                        log.warning("a worker ended with code %d, and the others went on", code)
            finally:
                running = [helper for helper in helpers if helper.poll() is None]
                for helper in running:  # all before any wait, or one would run a trial that another has left
                    helper.terminate()
                for helper in running:
                    try:
                        helper.wait(_LEAVING_S)
                    except subprocess.TimeoutExpired:
                        helper.kill()
                        helper.wait()

    def _start(self, index: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            launch.command("benchbench.search.worker", str(self.out), str(index), str(os.getpid())),
            env=launch.environment({STORAGE_ENV: self.url}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches this process alone, which terminates its workers
        )

    # -- after

    def _finish(
        self,
        worker: Worker,
        baseline: search_plan.Baseline,
        summary: feasibility.SpaceSummary,
        lines: Sequence[str],
        source: data.DataPlan,
    ) -> SearchOutcome:
        problem = worker.problem
        finals, all_finals = worker.finished(), finished_trainings(worker.study_of("finals"))
        labels = {final.label for final in finals}
        controls = finished_trainings(worker.study_of("controls"))
        promotions = finished_trainings(worker.study_of("promotions"))
        (parent,) = finished_trainings(worker.study_of("parent"))
        tried = proposals.tried(worker.study)
        by_key: dict[str, list[TrainingResult]] = {}
        for final in finals:
            by_key.setdefault(str(final.what["key"]), []).append(final)
        best = {key: max(members, key=lambda final: float(final.result["dice"])) for key, members in by_key.items()}
        paths = {key: worker.weights.get(final.label) for key, final in best.items()}
        records: dict[str, rec.Record] = {}
        if fitting := self._measurable(worker, list(paths), by_key):
            self.tell("measuring the finalists")
            networks = [paths[key] for key in fitting]
            most_s = _LONGEST_S if self._ignores_time else min(_LONGEST_S, self._left(worker))
            measured = self._measure(networks, self.out / "measured", source, judged=True, most_s=most_s)
            records = dict(zip(fitting, measured, strict=True))
        points = []
        for key, members in by_key.items():
            config = space.from_json(members[0].what["config"])
            own_controls = [c for c in controls if c.what["key"] == key and c.what["of"] in labels]
            size = paths[key].stat().st_size
            points.append(search_result.point(config, members, own_controls, records.get(key), size, problem))
        search_result.mark_front(points)
        given = bool(parent.result["given"])
        content: dict[str, Any] = {
            "schema": SCHEMA,
            "name": worker.job.name,
            "when": utc_now("seconds"),
            "asked": self._shareable_request(problem),
            "task": {**problem.to_json(), "data": problem.key, "device": Path(self.request.device).name},
            "data": {
                "title": source.title,
                "licence": source.licence,
                "splits": dict(source.splits),
                "semi_synthetic": source.semi_synthetic,
            },
            "device": rec.to_json(baseline.record.device),
            "environment": environment("cpu", problem.threads),
            "budget": [rec.to_json(limit) | {"says": str(limit)} for limit in problem.budget.limits],
            "budget_text": ", ".join(limit.text for limit in problem.budget.limits),
            "runtime": _runtime(problem),
            "metric": {"name": problem.metric, "objective": problem.objective, **_metric_words(problem)},
            "plan": list(lines),
            "unmodified": {
                "costs": dict(baseline.published),
                "origin": baseline.origin,
                "memory": baseline.decomposition,
            },
            "smallest": {metric: value for metric, (value, _) in feasibility.smallest(problem).items()},
            "space": {
                **rec.to_json(summary),
                "choices": json.loads(rec.canonical_json(rec.to_json(space.description()))),
            },
            "published_config": rec.to_json(space.PUBLISHED),
            "steps": [worker.low_steps, worker.high_steps],
            "parent": {
                "model": parent.result["model"],
                "dice_val": parent.result["value"],
                "train_s": parent.result["train_s"],
                "given": given,
                "sha256": parent.result["sha256"],
            },
            "trials": search_result.trial_rows(tried),
            "promotions": search_result.stage_rows(promotions),
            "finals": search_result.stage_rows([*finals, *(final for final in all_finals if final.error)]),
            "controls": search_result.stage_rows(controls),
            "points": points,
            "hypervolume": search_result.hypervolume_curve(
                tried, problem, float(parent.result["train_s"]) if given else 0.0
            ),
            "importance": search_result.importances(worker.study),
            "accounting": search_result.accounting(
                tried,
                [*promotions, *all_finals, *controls],
                parent_s=0.0 if given else float(parent.result["train_s"]),
                measured_s=self.clock.measured_s,
                whole_s=self.clock.whole_s * self.request.workers,
            ),
        }
        if self._sampler_comparison:
            content["worth"] = self._sampler_comparison
        self._export(content, paths, worker)
        if left_out := list(dict.fromkeys([*worker.left_out(), *self._left_out])):
            content["left_out"] = left_out
        write_whole(self.out / SEARCH, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
        return SearchOutcome(folder=self.out, summary=content)

    def _left(self, worker: Worker) -> float:
        """Seconds of the search's time, without controls."""
        return self.request.time_s - worker.elapsed() + worker.controls_s

    def _measurable(
        self, worker: Worker, keys: Sequence[str], finals: Mapping[str, Sequence[TrainingResult]]
    ) -> list[str]:
        """The finalists that there is time to measure, the best on `val` first."""
        job = worker.job
        order = sorted(keys, key=lambda key: -max(float(final.result["dice"]) for final in finals[key]))
        if self._ignores_time or not order:
            return order
        test_s = max(
            (float(final.result.get("test_s", 0.0)) for members in finals.values() for final in members), default=0.0
        )
        passes = (
            1 if job.problem.runtime == EAGER else 2
        )  # over the test cases: in the runtime, and in eager to compare
        each = self._finalist_s(job.before_s) + passes * test_s
        count = max(0, int(self._left(worker) / each + 0.2))  # the last one may end a little late
        for key in order[count:]:
            config = space.from_json(finals[key][0].what["config"])
            self._left_out.append(f"the measurement of {name_of(config)}: 'bench search --resume' does it")
        return order[:count]

    def _shareable_request(self, problem: SearchProblem) -> dict[str, Any]:
        """The request without a path or an address of this machine."""
        request = self.request
        return {
            **request.to_json(),
            "data": problem.key,
            "device": Path(request.device).name,
            "parent": request.parent.name if request.parent else None,
            "storage": request.storage.partition(":")[0] if request.storage else None,
        }

    def _export(self, content: dict[str, Any], paths: Mapping[str, Path], worker: Worker) -> None:
        folder, runtime = self.out / "front", worker.problem.runtime
        now = {point["name"] for point in content["points"] if point["front"]}
        for old in folder.iterdir() if folder.exists() else ():
            if old.is_dir() and old.name not in now:  # of an earlier front
                shutil.rmtree(old)
        for point in content["points"]:
            if not point["front"]:
                point["files"] = {"weights_reason": "not on the front"}
                continue
            place = folder / point["name"]
            self.tell(f"writing {point['name']}")
            late = not self._ignores_time and self._left(worker) < _ONNX_S
            weights = paths[point["key"]]
            point["files"] = search_export.export_or_reason(weights, place, point["name"], onnx=not late)
            if not point["files"].get("weights"):
                continue
            if not get_runtime(runtime).in_pytorch:
                slow = point["origin"] != "measured" or self.request.device != "cpu"  # else it was prepared for that
                point["files"] |= (
                    {"runtime_file_reason": search_export.NO_TIME}
                    if late and slow
                    else search_export.export_for_runtime(weights, place, point["name"], runtime, worker.problem.data)
                )
            search_export.write_card(point, content, place / "card.md")
            point["files"] = {
                key: f"front/{point['name']}/{value}" if key in search_export.FILES else value
                for key, value in point["files"].items()
            }
        search_export.write_table(content["points"], self.out / "front.csv", runtime=runtime)


def _runtime(problem: SearchProblem) -> dict[str, Any]:
    """What times and memory are of; the versions of PyTorch's own are those of the environment."""
    runtime = get_runtime(problem.runtime)
    versions = {} if runtime.in_pytorch else dict(runtime.load().versions())
    return {"name": runtime.name, "title": runtime.title, "versions": versions}


def _prepare_s(problem: SearchProblem, whole: rec.Record) -> float:
    """Seconds in which a proposal is prepared for its runtime and timed, as long as the unmodified network took."""
    if not (problem.needs_times and problem.is_timed_in_worker):
        return 0.0
    return _WORKER_S + (whole.value("prepare_s") or 0.0)


def _has_run(record: rec.Record) -> bool:
    """Whether a network ran, or could with more time or memory; with random weights its output decides nothing."""
    return record.status not in ("failed", "unsupported") or record.value("latency_s") is not None


def _metric_words(problem: SearchProblem) -> dict[str, str]:
    if problem.metric in METRICS:
        unit, title = METRICS[problem.metric]
    else:
        unit, title = "J", "energy of one patch"
    if problem.phase == "train" and problem.metric == "latency_s":
        title = "time of one training step"
    if problem.runtime != EAGER and problem.metric in feasibility.MEASURED:
        title += f" in {get_runtime(problem.runtime).title}"
    return {"unit": unit, "title": title}


def _machine(target: Target) -> str:
    """This processor's name, or the hash of a profile."""
    return f"profile {rec.content_hash(rec.to_json(target.profile))}" if target.profile else cpu.probe().name
