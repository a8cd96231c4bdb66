"""`bench search`: from a budget to a front of networks.

First what the budget means here (the unmodified network and the smallest of the space are measured, the rest is by
formula) and whether anything can meet it; then the workers' parts; then the finalists are measured, since a forecast
never accepts. All of it is in one folder and one storage, so whatever stops a search, it goes on where it was.
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
from benchbench.core.config import read_json
from benchbench.core.errors import StoreError, UsageError, command, first_line
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
from benchbench.search import export as search_export
from benchbench.search import feasibility, proposals, space
from benchbench.search import plan as search_plan
from benchbench.search import result as search_result
from benchbench.search.budget import METRICS
from benchbench.search.feasibility import BudgetError
from benchbench.search.phases import PARTS, PROPOSAL_SHARE, SearchJob, Worker
from benchbench.search.problem import SearchProblem, check_objective, published_spec, step_seconds
from benchbench.search.request import FREE, JOB, SearchRequest, check_asked, read_job
from benchbench.search.storage import TrainingResult, finished_trainings, open_storage, requeue_interrupted
from benchbench.search.trial import load_parent, name_of
from benchbench.training.recipe import default_batch
from benchbench.training.torch_runtime import threads
from benchbench.zoo import build as zoo_build
from benchbench.zoo import checkpoint

log = logging.getLogger(__name__)

STORAGE_ENV = "BENCHBENCH_STORAGE"  # a worker's process gets the address in it, since that may hold a password
_WISHED = 45  # proposals that the time should be enough for
_OVERHEAD_S = 3.5  # of each: building, counting, looking at `val`
_DEARER = 0.9  # a proposal's step than that of the published network: children are smaller, and batches are known
_STEPS = (8, 40)  # of a proposal's training, at least and at most
_HIGH = 4  # times as many for a promotion
_BEFORE_SHARE = 0.2  # of the time, that a step of measuring before the search may take
_MEASURING = 0.05  # of the time, kept at least for measuring the finalists
_RESERVE = 0.4  # of what is left of it, at most
_TIMED_SHARE, _LEAST_TIMED_S = 0.01, 0.5  # of the time, and at least: forwards of a network before the search
_TIMED = 2  # kinds of forwards of a process that are timed: of a patch, and of a volume
_ONNX_S = 15.0  # that writing and running an ONNX file take
_LEAST_LIMIT_S = 30.0  # of a step of measuring, most of which is the start of a process
_LONGEST_S = 1200.0  # of a step of measuring, as of `bench run`
_TICK_S = 1.0  # between two writes of the elapsed time
_LEAVING_S = 60.0  # that a worker has to leave in when it is told to

#: Told what is about to happen, before any training: lines for a person.
Plan = Callable[[Sequence[str]], None]
#: Told as it goes: the share of the time that is used, and a line.
Progress = Callable[[float, str], None]


class ElapsedTime:
    """Elapsed time of a search in one folder, over all its sittings."""

    def __init__(self, path: Path) -> None:
        """Begin a sitting.

        Args:
            path: where earlier ones are kept; not there: there were none; not readable: nor, with a warning.
        """
        self.path, self._began, self._written = path, time.monotonic(), 0.0
        self.before_s = self.measured_s = self.pause_s = 0.0
        try:
            known = read_json(path, "the times of a search", StoreError) if path.exists() else None
            if known is not None:
                whole, measured, seen = (max(0.0, float(known[key])) for key in ("whole_s", "measured_s", "seen"))
                self.before_s, self.measured_s = whole, measured
                self.pause_s = max(0.0, time.time() - seen)
        except (StoreError, ValueError, KeyError, TypeError, OverflowError) as error:
            log.warning("%s is of no use (%s): the search counts its time from now on", path, first_line(error))

    @property
    def sitting_s(self) -> float:
        """Of this sitting."""
        return time.monotonic() - self._began

    @property
    def whole_s(self) -> float:
        """All sittings together."""
        return self.before_s + self.sitting_s

    def measured(self, seconds: float) -> None:
        """So much was spent on measuring before or after the search itself."""
        self.measured_s += seconds
        self._written = 0.0
        self.tick()

    def tick(self) -> None:
        """A sign of life."""
        if time.monotonic() - self._written < _TICK_S:
            return
        self._written = time.monotonic()
        known = {"whole_s": self.whole_s, "measured_s": self.measured_s, "seen": time.time()}
        write_whole(self.path, json.dumps(known).encode())


def bundled_parent(source: str, fold: int | None = None, spatial: tuple[int, int, int] | None = None) -> Path | None:
    """Weights of the published network that come with benchbench, for a data set and its patch; None: there are none.

    Args:
        spatial: (D, H, W) of the patch; None: as a search chooses it.
    """
    plan = data.get_plan(source, fold=fold)
    spec = published_spec(plan)
    sides = spatial or zoo_build.fitting_sides(spec, plan.patch)
    return checkpoint.find(spec.name, spec.in_channels, spec.out_channels, sides, plan)


class _Silent:
    """A run that tells what it does in a line of the search."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell

    def plan(self, cells: Sequence[tuple[Cell, CellCost, float]], folder: Path, reused: int) -> None:
        """What is to be measured, and how long that may take; not of what was measured before."""
        if cells:
            whole = format_duration(sum(seconds for *_, seconds in cells))
            self.tell(f"measuring {len(cells)} network{'s' * (len(cells) != 1)}, about {whole}")

    def begin(self, label: str, remaining_s: float, host: str = "") -> None:
        self.tell(f"measuring {label}")

    def phase(self, text: str, host: str = "") -> None:
        """Nothing: too fine for a line."""

    def end(self, record: rec.Record) -> None:
        """Nothing: it is in the summary."""


def search(asked: SearchRequest, out: Path, *, plan: Plan, progress: Progress | None = None) -> SearchOutcome:
    """Search, or go on with a search.

    Args:
        asked: what for; for a folder that holds a search, the same as it was.
        out: folder, made if need be.

    Raises:
        BudgetError: nothing can meet the budget; or nothing that was found does, when measured.
        UsageError: an objective that cannot be had, data without cases to watch or to keep, another search there.
        StoreError: the folder or the storage cannot be used.
    """
    with held(out):
        remove_torn(out / "points")
        return _Search(asked, out, plan, progress).run()


class _Search:
    """One search on this machine."""

    def __init__(self, asked: SearchRequest, out: Path, plan: Plan, progress: Progress | None) -> None:
        self.asked, self.out, self.plan, self._progress = asked, out, plan, progress
        self.shared = asked.storage is not None  # others may be at it, on this machine or another one
        self.url = asked.storage or f"sqlite:///{(out / 'study.db').absolute()}"
        self.clock = ElapsedTime(out / ".sittings.json")
        self._worker: Worker | None = None
        self._begun: SearchJob | None = None  # as it was planned, where it goes on
        self._worth: Any = None  # of the sampler, from elsewhere
        self._at_leisure = False  # its time was over: what was left out of measuring is asked for now
        self._left_out: list[str] = []

    def tell(self, text: str) -> None:
        """A line, and a sign of life for who goes on later."""
        self.clock.tick()
        if self._progress:
            left = self.asked.time_s - (self._worker.elapsed() if self._worker else 0.0)
            sitting = self.clock.sitting_s
            self._progress(sitting / (sitting + max(left, 1.0)), text)

    def run(self) -> SearchOutcome:
        check_asked(self.asked)
        check_objective(self.asked.objective)
        self._check_folder()
        source = data.get_plan(self.asked.data, fold=self.asked.fold)
        for split, why in (("train", "train on"), ("val", "choose by"), ("test", "judge the finalists by")):
            if not source.splits.get(split):
                raise UsageError(f"{source.key} has no case to {why}: a search needs cases of train, val and test")
        storage = open_storage(self.url)
        target = resolve(self.asked.device)
        task = self._task(source, target)
        feasibility.check_feasible(task, {})
        if self.asked.parent:
            load_parent(self.asked.parent, task)
        self._keep(self._begun)  # from here on it can go on, whatever stops it
        first = search_plan.first_lines(task, source, target, self.asked.time_s)
        self.plan([*first, f"folder: {self.out}"])
        known = self._before(task, source)
        task = dataclasses.replace(task, base_bytes=known.floor)
        feasibility.check_feasible(task, known.least)
        job = self._job(task)
        self._keep(job)
        self._resume(storage, job.name)
        profile = feasibility.profile(task, seed=self.asked.seed)
        then = search_plan.lines(job, known, profile, target)
        self.plan(then)
        lines = [*first, *then]
        worker = self._worker = Worker(job, self.out, storage, index=0, shared=self.shared, tell=self.tell)
        self._work(worker)
        outcome = self._after(worker, known, profile, lines, source)
        if not outcome.front:
            over = "; ".join(f"{p['name']}: {text}" for p in outcome.summary["points"] for text in p["excesses"])
            what = "no finalist keeps the budget when it is measured" if over else "no finalist was finished in time"
            more = f"{math.ceil(2 * self.asked.time_s / 60)}min"
            raise BudgetError(
                f"{what}{f' ({over})' if over else ''}; what was found is in {self.out}, and this goes on with more "
                f"time: {command('search', '--resume', self.out, '--time', more)}"
            )
        return outcome

    # -- before

    def _check_folder(self) -> None:
        """Refuse a folder that holds another search, and one whose name cannot be part of a list of networks."""
        if "," in str(self.out):
            raise UsageError(f"{self.out} has a comma in it, which stands between networks: choose another --out")
        if (self.out / SEARCH).exists():
            self._worth = read_search(self.out).get("worth")
        if not (self.out / JOB).exists():
            return
        begun = read_job(self.out)
        plain, there = self.asked.to_json(), begun.asked.to_json()
        changed = sorted(key for key in plain if key not in FREE and plain[key] != there.get(key))
        if changed and begun.job is None:  # it was stopped before anything was tried: this one may have its folder
            return
        self._begun = begun.job
        over = (self.out / SEARCH).exists() or self.clock.before_s >= begun.asked.time_s
        self._at_leisure = over and self.asked.time_s <= begun.asked.time_s
        if changed:
            raise UsageError(
                f"{self.out} holds another search (its {', '.join(changed)} differ): give --out another folder, or go "
                f"on with: {command('search', '--resume', self.out)}"
            )

    def _task(self, source: data.DataPlan, target: Target) -> SearchProblem:
        spec = published_spec(source)
        spatial = self.asked.spatial or zoo_build.fitting_sides(spec, source.patch)
        zoo_build.build(spec, spatial)  # refuses a patch that it cannot take
        if target.profile and "fp32" not in target.profile.peaks:
            raise UsageError(f"{target.profile.name} has no fp32 units, so no latency of it can be told")
        calibration = target.profile.calibration if target.profile else None
        if calibration and calibration.dtype != "fp32":
            raise UsageError(f"{self.asked.device} was calibrated for {calibration.dtype}, and a search is of fp32")
        here = target.backend == "cpu" and target.host is None
        times = self.asked.objective in ("latency", "energy") or any(
            limit.metric == "latency_s" for limit in self.asked.budget.limits
        )
        return SearchProblem(
            data=source.where,
            key=source.key,
            spatial=(spatial[0], spatial[1], spatial[2]),
            in_channels=source.in_channels,
            out_channels=source.out_channels,
            budget=self.asked.budget,
            phase=self.asked.phase,
            device=self.asked.device,
            profile=target.profile is not None,
            times_count=here and self.asked.workers == 1,
            machine=_machine(target) if times else "",
            objective=self.asked.objective,
            batch=self.asked.batch or default_batch(spatial),
            threads=self.asked.threads
            or (max(1, (os.cpu_count() or 1) // self.asked.workers) if self.asked.workers > 1 else None),
        )

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
        """The records of some weights on the device, in their order."""
        start = time.monotonic()
        request = RunRequest(
            models=",".join(map(str, networks)),
            devices=(self.asked.device,),
            protocol=protocol or self.asked.protocol,
            phase=self.asked.phase,
            volume=None if self.asked.phase == "train" else self.asked.volume or source.sides or source.patch,
            data=source.where if judged else "none",
            noise=False,
            time_limit_s=max(_LEAST_LIMIT_S, most_s),
        )
        outcome = runner_run.run(request, folder, progress=_Silent(self.tell))
        self.clock.measured(time.monotonic() - start)
        return list(outcome.records)

    def _before(self, task: SearchProblem, source: data.DataPlan) -> search_plan.Before:
        folder = self.out / "before"
        networks = search_plan.networks(task, folder)
        most_s = _BEFORE_SHARE * self.asked.time_s
        protocol = self._brief_protocol()
        whole, least = self._measure(networks, folder, source, judged=False, most_s=most_s, protocol=protocol)
        return search_plan.look(task, whole, least)

    def _brief_protocol(self) -> str:
        """As was asked for, with fewer forwards where the time of the search is short: it is for the plan alone."""
        asked = self.asked.protocol
        timed_s = round(max(_LEAST_TIMED_S, _TIMED_SHARE * self.asked.time_s), 1)
        if "timed_s" in asked or get_protocol(asked).timed_s <= timed_s:
            return asked
        return f"{asked},timed_s={timed_s:g}"

    def _each_s(self, before_s: float) -> float:
        """Seconds of measuring a finalist, by what measuring two networks before the search took."""
        asked, brief = get_protocol(self.asked.protocol), get_protocol(self._brief_protocol())
        return before_s / 2 + _TIMED * asked.processes * (asked.timed_s - brief.timed_s)

    def _job(self, task: SearchProblem) -> SearchJob:
        if begun := self._begun:  # the steps of a search are those that it began with
            low, high, before_s, reserve_s = begun.low_steps, begun.high_steps, begun.before_s, begun.reserve_s
        else:
            before_s = self.clock.whole_s
            left = max(0.0, self.asked.time_s - before_s)
            each = self._each_s(self.clock.measured_s)
            reserve_s = min(_RESERVE * left, max(_MEASURING * self.asked.time_s, (self.asked.finalists + 1) * each))
            low = self.asked.steps or self._fitting_steps(task, left - reserve_s)
            high = _HIGH * low
        return SearchJob(
            before_s=before_s,
            reserve_s=reserve_s,
            name=self.asked.study or f"search-{task.key}",
            task=task,
            time_s=self.asked.time_s,
            low_steps=low,
            high_steps=high,
            trials=self.asked.trials,
            finalists=self.asked.finalists,
            seeds=self.asked.seeds,
            controls=self.asked.controls,
            parent=str(self.asked.parent.absolute()) if self.asked.parent else None,
            seed=self.asked.seed,
            workers=self.asked.workers,
        )

    def _fitting_steps(self, task: SearchProblem, left_s: float) -> int:
        """As many that some 45 proposals fit: each about as dear as the published network, with a teacher beside it."""
        with threads(task.threads):
            each = step_seconds(task, zoo_build.build(published_spec(task), task.spatial))
        fitting = (PROPOSAL_SHARE * left_s * self.asked.workers / _WISHED - _OVERHEAD_S) / (_DEARER * each)
        return max(_STEPS[0], min(_STEPS[1], math.floor(fitting)))

    def _keep(self, job: SearchJob | None) -> None:
        """Write what is needed to go on."""
        content = {"schema": SCHEMA, "asked": self.asked.to_json(), "job": job.to_json() if job else None}
        write_whole(self.out / JOB, (json.dumps(content, indent=1) + "\n").encode())

    def _resume(self, storage: optuna.storages.BaseStorage, name: str) -> None:
        """Take up what was broken off; on this machine's own storage also leave the pause out of the time."""
        names = {study.study_name for study in optuna.get_all_study_summaries(storage, include_best_trial=False)}
        for study in [name, *(f"{name}/{part}" for part in PARTS)]:
            if study in names:
                requeue_interrupted(optuna.load_study(study_name=study, storage=storage), alone=not self.shared)
        if not self.shared and name in names:
            first = optuna.load_study(study_name=name, storage=storage)
            if (began := first.user_attrs.get("began")) is not None:
                first.set_user_attr("began", float(began) + self.clock.pause_s)

    # -- workers

    def _work(self, worker: Worker) -> None:
        with threads(worker.task.threads):
            helpers = [self._start(index) for index in range(1, self.asked.workers)]
            try:
                worker.run()
                for helper in helpers:
                    if code := helper.wait():
                        log.warning("a worker ended with code %d, and the others went on", code)
            finally:
                left = [helper for helper in helpers if helper.poll() is None]
                for helper in left:  # all of them first, or one would take up what another leaves
                    helper.terminate()
                for helper in left:
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
            start_new_session=True,  # Ctrl-C is for the one that started it, which ends it in an orderly way
        )

    # -- after

    def _after(
        self,
        worker: Worker,
        known: search_plan.Before,
        profile: feasibility.SpaceSummary,
        lines: Sequence[str],
        source: data.DataPlan,
    ) -> SearchOutcome:
        task = worker.task
        finals, every = worker.finished(), finished_trainings(worker.part("finals"))
        labels = {final.label for final in finals}
        controls = finished_trainings(worker.part("controls"))
        promotions = finished_trainings(worker.part("promotions"))
        (parent,) = finished_trainings(worker.part("parent"))
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
            most_s = _LONGEST_S if self._at_leisure else min(_LONGEST_S, self._left(worker))
            measured = self._measure(networks, self.out / "measured", source, judged=True, most_s=most_s)
            records = dict(zip(fitting, measured, strict=True))
        points = []
        for key, members in by_key.items():
            config = space.from_json(members[0].what["config"])
            mine = [control for control in controls if control.what["key"] == key and control.what["of"] in labels]
            size = paths[key].stat().st_size
            points.append(search_result.point(config, members, mine, records.get(key), size, task))
        search_result.mark_front(points)
        done = [*promotions, *every, *controls]
        given = bool(parent.result["given"])
        content: dict[str, Any] = {
            "schema": SCHEMA,
            "name": worker.job.name,
            "when": utc_now("seconds"),
            "asked": self._asked_without_places(task),
            "task": {**task.to_json(), "data": task.key, "device": Path(self.asked.device).name},
            "data": {
                "title": source.title,
                "licence": source.licence,
                "splits": dict(source.splits),
                "semi_synthetic": source.semi_synthetic,
            },
            "device": rec.to_json(known.record.device),
            "environment": environment("cpu", task.threads),
            "budget": [rec.to_json(limit) | {"says": str(limit)} for limit in task.budget.limits],
            "budget_text": ", ".join(limit.text for limit in task.budget.limits),
            "metric": {"name": task.metric, "objective": task.objective, **_metric_words(task)},
            "plan": list(lines),
            "unmodified": {"costs": dict(known.published), "origin": known.origin, "memory": known.decomposition},
            "smallest": {metric: value for metric, (value, _) in feasibility.smallest(task).items()},
            "space": {
                **rec.to_json(profile),
                "choices": json.loads(rec.canonical_json(rec.to_json(space.description()))),
            },
            "published_config": rec.to_json(feasibility.published(space.VARIANTS[0])),
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
            "finals": search_result.stage_rows([*finals, *(final for final in every if final.error)]),
            "controls": search_result.stage_rows(controls),
            "points": points,
            "hypervolume": search_result.hypervolume_curve(
                tried, task, float(parent.result["train_s"]) if given else 0.0
            ),
            "importance": search_result.importances(worker.study),
            "accounting": search_result.accounting(
                tried,
                done,
                parent_s=0.0 if given else float(parent.result["train_s"]),
                measured_s=self.clock.measured_s,
                whole_s=self.clock.whole_s * self.asked.workers,
            ),
        }
        if self._worth:
            content["worth"] = self._worth
        self._export(content, paths, worker)
        if left_out := list(dict.fromkeys([*worker.left_out(), *self._left_out])):
            content["left_out"] = left_out
        write_whole(self.out / SEARCH, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
        return SearchOutcome(folder=self.out, summary=content)

    def _left(self, worker: Worker) -> float:
        """Seconds of the search's time, without controls."""
        return self.asked.time_s - worker.elapsed() + worker.controls_s

    def _measurable(
        self, worker: Worker, keys: Sequence[str], finals: Mapping[str, Sequence[TrainingResult]]
    ) -> list[str]:
        """The finalists that there is time to measure, the best on `val` first; the others are left out."""
        job = worker.job
        order = sorted(keys, key=lambda key: -max(float(final.result["dice"]) for final in finals[key]))
        if self._at_leisure or not order:
            return order
        test_s = max(
            (float(final.result.get("test_s", 0.0)) for members in finals.values() for final in members), default=0.0
        )
        each = self._each_s(job.before_s) + test_s
        count = max(0, int(self._left(worker) / each + 0.2))  # what begins a little late is not too late
        for key in order[count:]:
            config = space.from_json(finals[key][0].what["config"])
            self._left_out.append(f"the measurement of {name_of(config)}: 'bench search --resume' does it")
        return order[:count]

    def _asked_without_places(self, task: SearchProblem) -> dict[str, Any]:
        """What was asked, without a path or an address of this machine."""
        asked = self.asked
        return {
            **asked.to_json(),
            "data": task.key,
            "device": Path(asked.device).name,
            "parent": asked.parent.name if asked.parent else None,
            "storage": asked.storage.partition(":")[0] if asked.storage else None,
        }

    def _export(self, content: dict[str, Any], paths: Mapping[str, Path], worker: Worker) -> None:
        folder = self.out / "front"
        now = {point["name"] for point in content["points"] if point["front"]}
        for old in folder.iterdir() if folder.exists() else ():
            if old.is_dir() and old.name not in now:  # of a front that was
                shutil.rmtree(old)
        for point in content["points"]:
            if not point["front"]:
                point["files"] = {"weights_reason": "not on the front"}
                continue
            place = folder / point["name"]
            self.tell(f"writing {point['name']}")
            late = not self._at_leisure and self._left(worker) < _ONNX_S
            point["files"] = search_export.safe_export(paths[point["key"]], place, point["name"], onnx=not late)
            if point["files"].get("weights"):
                search_export.write_card(point, content, place / "card.md")
                point["files"] = {
                    key: f"front/{point['name']}/{value}" if key in ("weights", "onnx") else value
                    for key, value in point["files"].items()
                }
        search_export.write_table(content["points"], self.out / "front.csv")


def _metric_words(task: SearchProblem) -> dict[str, str]:
    if task.metric in METRICS:
        unit, title = METRICS[task.metric]
    else:
        unit, title = "J", "energy of one patch"
    if task.phase == "train" and task.metric == "latency_s":
        title = "time of one training step"
    return {"unit": unit, "title": title}


def _machine(target: Target) -> str:
    """What times are of: this processor, or a profile as it is now."""
    return f"profile {rec.content_hash(rec.to_json(target.profile))}" if target.profile else cpu.probe().name
