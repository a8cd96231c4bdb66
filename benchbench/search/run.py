"""`bench search`: from a budget to a front of networks.

First the unmodified network and the smallest one of the space are measured, and a budget that nothing can keep is
refused. Then all workers propose; the command that began the search trains the best on, measures the finalists, and
writes the result. Everything is in one folder and one storage, from which an interrupted search goes on.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchbench import data
from benchbench.core import launch
from benchbench.core import records as rec
from benchbench.core.errors import BenchError, UsageError, command
from benchbench.core.results import SEARCH, held, remove_torn, write_whole
from benchbench.core.search_result import SCHEMA, SearchOutcome, read_search, trained_text
from benchbench.core.units import counted, format_duration
from benchbench.devices import cpu
from benchbench.devices.resolve import Target, resolve
from benchbench.runtimes import catalogue
from benchbench.runtimes.catalogue import EAGER
from benchbench.search import controls as search_controls
from benchbench.search import feasibility
from benchbench.search import plan as search_plan
from benchbench.search.clock import ElapsedTime
from benchbench.search.feasibility import BudgetError
from benchbench.search.finish import ONNX_S, Finish
from benchbench.search.job import STEP_FACTOR, SearchJob
from benchbench.search.measuring import Measuring
from benchbench.search.parent_to_prune import parent_to_prune, remarks, source_of, with_channels
from benchbench.search.phases import FEWEST, Worker
from benchbench.search.problem import SearchProblem, check_objective, step_seconds
from benchbench.search.published import PublishedWeights, evaluate_published
from benchbench.search.request import CHANGEABLE, JOB, SearchRequest, check_request, read_job
from benchbench.search.storage import DATABASE, open_storage, storage_errors
from benchbench.search.trainings import Journal
from benchbench.search.trajectories import Trajectories
from benchbench.search.trial import published_cost
from benchbench.training.recipe import default_batch
from benchbench.training.torch_runtime import threads
from benchbench.zoo import build as zoo_build
from benchbench.zoo.checkpoint import CheckpointInfo

log = logging.getLogger(__name__)

STORAGE_ENV = "BENCHBENCH_STORAGE"  # environment variable of a worker, since the address may hold a password
_WISHED = 36  # proposals that there should be time for
_OVERHEAD_S = 2.5  # of each: building, timing, evaluation on `val`
_WORKER_S = 8.0  # to start the processes in which a proposal is prepared for a runtime, and timed
_STEP_RATIO = 0.9  # a proposal's step against the published network's: it is smaller, and its batches are cached
_STEPS = (8, 80)  # least and most steps of a proposal's training
_TELLING = 60  # steps after which a Dice says something about a network
_MEASURING = 0.05  # least of the time that is reserved for measuring the finalists
_RESERVE = 0.4  # most of the remaining time, likewise
_LEAVING_S = 60.0  # in which a terminated worker has to end

#: Called with the lines of the plan, before any training.
Plan = Callable[[Sequence[str]], None]
#: Called with the share of the time that is used, and a line.
Progress = Callable[[float, str], None]


def search(request: SearchRequest, out: Path, *, plan: Plan, progress: Progress | None = None) -> SearchOutcome | None:
    """Search, or go on with the search in a folder, for which the request has to be the same.

    Returns:
        What came out; None where another command began the search in a shared storage, and finishes it.

    Raises:
        BudgetError: no network of the space keeps the budget, or no finalist does when measured.
        UsageError: an objective that cannot be measured, data without a split, too little time for one network, or a
            folder of another search.
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
        self.url = request.storage or f"sqlite:///{(out / DATABASE).absolute()}"
        self.clock = ElapsedTime(out / ".sittings.json")
        self.measuring = Measuring(request, self.clock, self.tell)
        self._worker: Worker | None = None
        self._earlier_job: SearchJob | None = None  # plan of the search that goes on
        self._sampler_comparison: Any = None  # written into `search.json` by `benchmarks/search_worth.py`
        self._ends: float | None = None  # of the controls, by the monotonic clock, once they run
        self._ignores_time = False  # the time was over before: now everything that was left out is measured

    def tell(self, text: str) -> None:
        """Report a line, and write the elapsed time."""
        self.clock.tick()
        if self._progress:
            left = self.request.time_s - (self._worker.elapsed() if self._worker else 0.0)
            left = left if self._ends is None else self._ends - time.monotonic()
            sitting = self.clock.sitting_s
            self._progress(sitting / (sitting + max(left, 1.0)), text)

    def run(self) -> SearchOutcome | None:
        check_request(self.request)
        check_objective(self.request.objective)
        self._check_folder()
        whole = parent_to_prune(self.request)
        source = source_of(self.request, whole)
        for split, why in (("train", "train on"), ("val", "choose by"), ("test", "judge the finalists by")):
            if not source.splits.get(split):
                raise UsageError(f"{source.key} has no case to {why}: a search needs cases of train, val and test")
        with storage_errors(self.url):
            return self._run(source, whole)

    def _run(self, source: data.DataPlan, whole: CheckpointInfo | None) -> SearchOutcome | None:
        storage = open_storage(self.url)
        target = resolve(self.request.device)
        problem = self._problem(source, target, whole)
        feasibility.check_feasible(problem, {})
        given = Path(self.request.parent) if self.request.parent not in (None, "train") else None
        if given:
            problem.space.check_parent(given, problem)
        self._keep(self._earlier_job)  # from here on an interrupted search can go on
        first = [*search_plan.first_lines(problem, source, target, self.request.time_s), *remarks(source, whole)]
        self.plan([*first, f"folder: {self.out}"])
        baseline = self.measuring.before(problem, source, self.out / "before")
        problem = dataclasses.replace(problem, base_bytes=baseline.floor)
        feasibility.check_feasible(problem, baseline.least)
        published = self._published(problem, given)  # now, so that its time is known
        job = self._job(problem, _prepare_s(problem, baseline.record))
        self._keep(job)
        summary = feasibility.summarise_space(problem, seed=self.request.seed)
        plan = [_to_beat(published), *search_plan.lines(job, baseline, summary, target)]
        self.plan([*plan, *self._controls_lines(job)])
        worker = self._worker = Worker(
            job, self.out, storage, index=0, shared=self.shared, tell=self.tell, pause_s=self.clock.pause_s
        )
        self._propose(worker)
        if not worker.is_first:
            return None
        trajectories = Trajectories(worker, Journal(self.out))
        trajectories.promote()
        trajectories.finals()
        finish = Finish(
            request=self.request,
            folder=self.out,
            own=trajectories,
            measuring=self.measuring,
            published=published,
            baseline=baseline,
            summary=summary,
            lines=[*first, *plan],
            source=source,
            tell=self.tell,
        )
        outcome = finish.write(late=not self._ignores_time, comparison=self._sampler_comparison)
        if not outcome.front:
            raise BudgetError(self._no_front(outcome))
        if self.request.controls:
            controls = search_controls.Controls(trajectories)
            left_s = controls.left_s(outcome.front) + (0.0 if self._searched_at_random() else self.request.time_s)
            self._ends = time.monotonic() + left_s
            with worker.beside_the_time(), self.clock.controls():
                self._search_at_random()
                controls.run(outcome.front)
            outcome = finish.write(late=False, comparison=self._sampler_comparison)
        return outcome

    def _published(self, problem: SearchProblem, given: Path | None) -> PublishedWeights | None:
        self.tell(f"evaluating {problem.space.baseline_title}")
        start = time.monotonic()
        published = evaluate_published(problem, given)
        self.clock.measured(time.monotonic() - start)
        return published

    def _no_front(self, outcome: SearchOutcome) -> str:
        over = "; ".join(f"{p['name']}: {text}" for p in outcome.summary["points"] for text in p["excesses"])
        what = "no finalist keeps the budget when it is measured" if over else "no finalist was finished in time"
        more = f"{math.ceil(2 * self.request.time_s / 60)}min"
        return (
            f"{what}{f' ({over})' if over else ''}; what was found is in {self.out}, and this goes on with more "
            f"time: {command('search', '--resume', self.out, '--time', more)}"
        )

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

    def _problem(self, source: data.DataPlan, target: Target, whole: CheckpointInfo | None) -> SearchProblem:
        spatial = whole.spatial if whole else self.request.spatial or source.patch
        if target.profile and "fp32" not in target.profile.peaks:
            raise UsageError(f"{target.profile.name} has no fp32 units, so its latency cannot be predicted")
        calibration = target.profile.calibration if target.profile else None
        if calibration and calibration.dtype != "fp32":
            raise UsageError(f"{self.request.device} was calibrated for {calibration.dtype}, and a search is of fp32")
        self._check_runtime(target)
        here = target.backend == "cpu" and target.host is None
        several = self.request.workers > 1
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
            times_count=here and not several,
            objective=self.request.objective,
            batch=self.request.batch or default_batch(spatial),
            threads=self.request.threads
            or (max(1, (os.cpu_count() or 1) // self.request.workers) if several else None),
        )
        if whole:
            start = time.monotonic()
            problem = with_channels(problem, whole, self.out / "before", self.tell)
            self.clock.measured(time.monotonic() - start)
        spec = problem.space.spec(problem.published, problem, "published")
        zoo_build.build(spec, spatial)  # raises if it cannot take the patch
        return dataclasses.replace(problem, machine=_machine(target)) if problem.needs_times else problem

    def _check_runtime(self, target: Target) -> None:
        """Refuse a runtime that the device does not have, or in which proposals cannot be timed on this machine."""
        name = self.request.runtime
        if name == EAGER:
            return
        if target.profile:
            raise UsageError(
                f"{target.profile.name} is not present, and forecasts are of {EAGER} PyTorch: leave --runtime out"
            )
        for backend in dict.fromkeys(("cpu", target.backend or "cpu")):
            catalogue.check(name, "fp32", backend)

    def _job(self, problem: SearchProblem, prepare_s: float) -> SearchJob:
        """The plan for the workers, whose proposals take `prepare_s` each to be prepared for the runtime.

        Raises:
            UsageError: there is no time for a single network.
        """
        request, earlier = self.request, self._earlier_job
        job = SearchJob(
            name=request.study or f"search-{problem.key}",
            problem=problem,
            time_s=request.time_s,
            low_steps=1,
            trials=request.trials,
            finalists=request.finalists,
            seeds=request.seeds,
            sampler=request.sampler,
            parent=request.parent,
            seed=request.seed,
            workers=request.workers,
        )
        if earlier:  # a search goes on with the steps that it began with
            return dataclasses.replace(
                job,
                low_steps=earlier.low_steps,
                before_s=earlier.before_s,
                reserve_s=earlier.reserve_s,
                to_beat=earlier.to_beat,
            )
        before_s, each_s = self.clock.whole_s, self.measuring.finalist_s(self.clock.measured_s)
        left = max(0.0, request.time_s - before_s)
        wished = (request.finalists + 1) * each_s + request.finalists * ONNX_S
        job = dataclasses.replace(
            job, before_s=before_s, reserve_s=min(_RESERVE * left, max(_MEASURING * request.time_s, wished))
        )
        with threads(problem.threads):
            to_beat = published_cost(problem)
            step_s = step_seconds(problem, problem.published)
            least_step_s = step_seconds(problem, search_plan.smallest_config(problem))
        overhead_s = _OVERHEAD_S + prepare_s
        many, few = (
            (job.proposals_s * request.workers / proposals - overhead_s) / (_STEP_RATIO * step_s)
            for proposals in (_WISHED, FEWEST)
        )
        steps = request.steps or max(_STEPS[0], min(_STEPS[1], math.floor(max(many, min(few, _TELLING)))))
        one_s = 2 * STEP_FACTOR * (request.steps or _STEPS[0]) * least_step_s + prepare_s  # promotion and final alike
        if left < one_s + 2 * each_s and not self._ignores_time:
            least = format_duration(math.ceil((before_s + one_s + 2 * each_s) / 10) * 10)
            raise UsageError(
                f"{format_duration(request.time_s)} are too short to train one network: measuring before and after "
                f"takes {format_duration(before_s + 2 * each_s)} here, and a network at least "
                f"{format_duration(one_s)}; give --time {least.replace(' ', '')} or more"
            )
        return dataclasses.replace(job, low_steps=steps, to_beat=to_beat)

    def _keep(self, job: SearchJob | None) -> None:
        """Write the request and the plan, from which the search can go on."""
        content = {"schema": SCHEMA, "asked": self.request.to_json(), "job": job.to_json() if job else None}
        write_whole(self.out / JOB, (json.dumps(content, indent=1) + "\n").encode())

    def _controls_lines(self, job: SearchJob) -> list[str]:
        if not self.request.controls:
            return ["  no controls (--controls runs them, also later with --resume)"]
        seconds = search_controls.duration_s(
            job.problem.space.controls, job.time_s, job.finalists, job.seeds, job.finals_s / job.finalists
        )
        return [f"  then the controls, about {format_duration(seconds)}"]

    # -- workers

    def _propose(self, worker: Worker) -> None:
        with threads(worker.problem.threads):
            worker.parent_path()  # trained before others wait for it
            helpers = [self._start(index) for index in range(1, self.request.workers)]
            try:
                worker.propose()
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
        if not worker.is_first:
            self.tell(f"{counted(len(worker.proposed()), 'configuration')} trained; the rest is of the first worker")

    def _start(self, index: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            launch.command("benchbench.search.worker", str(self.out), str(index), str(os.getpid())),
            env=launch.environment({STORAGE_ENV: self.url}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches this process alone, which terminates its workers
        )

    # -- controls

    def _searched_at_random(self) -> bool:
        """Whether the search with random proposals was run, for as long as this one."""
        folder = self.out / search_controls.RANDOM
        return (folder / SEARCH).exists() and read_job(folder).request.time_s == self.request.time_s

    def _search_at_random(self) -> None:
        """The same search with random proposals, in a folder in this one's; what it cannot find is no control."""
        request = dataclasses.replace(self.request, sampler="random", controls=False, storage=None, study=None)
        folder = self.out / search_controls.RANDOM
        if self._searched_at_random():
            return

        def tell(share: float, text: str) -> None:
            self.tell(f"random proposals: {text}")

        try:
            search(request, folder, plan=lambda lines: None, progress=tell)
        except BudgetError as error:
            log.warning("the search with random proposals: %s", error)
        except BenchError as error:
            raise type(error)(f"the search with random proposals in {folder}: {error}") from error


def _to_beat(published: PublishedWeights | None) -> str:
    """The line of the plan on the published network; its Dice on `test` is told in the end."""
    if published is None:
        return "to beat: there are no weights of the published network for this data"
    what = trained_text(published.origin, published.train_s)
    return f"to beat: {published.info.model.name} ({what}), Dice {published.dice_val:.3f} on val"


def _prepare_s(problem: SearchProblem, whole: rec.Record) -> float:
    """Seconds in which a proposal is prepared for its runtime and timed, as long as the unmodified network took."""
    if not (problem.needs_times and problem.is_timed_in_worker):
        return 0.0
    return _WORKER_S + (whole.value("prepare_s") or 0.0)


def _machine(target: Target) -> str:
    """This processor's name, or the hash of a profile."""
    return f"profile {rec.content_hash(rec.to_json(target.profile))}" if target.profile else cpu.probe().name
