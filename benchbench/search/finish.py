"""End of a search: its finalists are measured, compared and exported, and the record `search.json` is written."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchbench import data
from benchbench.core import records as rec
from benchbench.core.errors import StoreError
from benchbench.core.records import utc_now
from benchbench.core.results import SEARCH, write_whole
from benchbench.core.search_result import (
    COMPARED,
    FILES,
    SCHEMA,
    SearchOutcome,
    compared,
    ordered,
    read_search,
    verdict,
)
from benchbench.devices.environment import environment
from benchbench.report.search_card import search_card, search_table
from benchbench.runtimes.catalogue import EAGER, get_runtime
from benchbench.search import controls as search_controls
from benchbench.search import export as search_export
from benchbench.search import feasibility, proposals, verdicts
from benchbench.search import plan as search_plan
from benchbench.search import result as search_result
from benchbench.search import trainings as search_trainings
from benchbench.search.budget import METRICS
from benchbench.search.job import STEP_FACTOR
from benchbench.search.measuring import LONGEST_S, Measuring
from benchbench.search.problem import SearchProblem
from benchbench.search.published import PublishedWeights
from benchbench.search.request import SearchRequest
from benchbench.search.search_space import Candidate
from benchbench.search.trainings import FinishedTraining
from benchbench.search.trajectories import Trajectories

ONNX_S = 15.0  # to write and run an ONNX file
_FAMILY = {"title": "title", "one": "one", "baseline": "baseline_title"}  # words of the record -> of the space
_LATE = 0.05  # share of the time by which the last measurement may be late


@dataclasses.dataclass(kw_only=True)
class Finish:
    """The end of one search, which may be written again after more was trained."""

    request: SearchRequest
    folder: Path
    own: Trajectories
    measuring: Measuring
    published: PublishedWeights | None
    baseline: search_plan.Baseline
    summary: feasibility.SpaceSummary
    lines: Sequence[str]  # of the plan
    source: data.DataPlan
    tell: Callable[[str], None]

    def __post_init__(self) -> None:
        self.worker, self.problem, self.journal = self.own.worker, self.own.problem, self.own.journal

    def write(self, *, late: bool, comparison: Any = None) -> SearchOutcome:
        """Measure, compare, export, and write the record.

        Args:
            late: whether the time counts: then what does not fit any more is left out, and said.
            comparison: of samplers, which a benchmark has put into the record.
        """
        left_out: list[str] = []
        by_key: dict[str, list[FinishedTraining]] = {}
        for final in self.own.finished():
            by_key.setdefault(str(final.what["key"]), []).append(final)
        best = {key: max(members, key=lambda final: float(final.result["dice"])) for key, members in by_key.items()}
        paths = {key: self._weights(final.label) for key, final in best.items()}
        records = self._measure(paths, by_key, late=late, left_out=left_out)
        points = [
            search_result.point(
                self.problem.space.from_json(members[0].what["config"]),
                members,
                records.get(key),
                paths[key].stat().st_size,
                self.problem,
            )
            for key, members in by_key.items()
        ]
        search_result.mark_front(points)
        content = self._content(points, records.get(""))
        if comparison:
            content["worth"] = comparison
        self._export(content, paths, late=late)
        if left_out := list(dict.fromkeys([*self.own.left_out, *left_out])):
            content["left_out"] = left_out
        write_whole(self.folder / SEARCH, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
        return SearchOutcome(folder=self.folder, summary=content)

    def _weights(self, label: str) -> Path:
        path = self.own.weights.get(label)
        if path is None:
            raise StoreError(f"{self.own.weights.path(label)} is gone: the search cannot be finished without it")
        return path

    def _name(self, final: FinishedTraining) -> str:
        config: Candidate = self.problem.space.from_json(final.what["config"])
        return config.name

    # -- measuring

    def _left_s(self) -> float:
        return self.request.time_s - self.worker.elapsed()

    def _measure(
        self,
        paths: Mapping[str, Path],
        finals: Mapping[str, Sequence[FinishedTraining]],
        *,
        late: bool,
        left_out: list[str],
    ) -> dict[str, rec.Record]:
        """Records of the finalists by their key, and that of the published network's weights by an empty one."""
        order = sorted(paths, key=lambda key: -max(float(final.result["dice"]) for final in finals[key]))
        networks = {key: paths[key] for key in order[:1]}
        if self.published and order:  # before the second finalist: without it nothing can be compared
            networks[""] = self.published.info.path
        networks |= {key: paths[key] for key in order}
        if late and order:
            judging_s = max(float(final.result.get("test_s", 0.0)) for members in finals.values() for final in members)
            passes = 1 if self.problem.runtime == EAGER else 2  # in the runtime, and in eager to compare
            each_s = self.measuring.finalist_s(self.worker.job.before_s) + passes * judging_s
            room_s = self._left_s() + max(0.2 * each_s, _LATE * self.worker.job.time_s)
            count = max(0, int(room_s / each_s))
            for key in list(networks)[count:]:
                name = self._name(finals[key][0]) if key else self.problem.space.baseline_title
                left_out.append(f"the measurement of {name}: 'bench search --resume' does it")
                del networks[key]
        if not networks:
            return {}
        self.tell("measuring the finalists")
        most_s = min(LONGEST_S, self._left_s()) if late else LONGEST_S
        found = self.measuring.measure(
            list(networks.values()), self.folder / "measured", self.source, judged=True, most_s=most_s
        )
        return dict(zip(networks, found, strict=True))

    # -- the record

    def _content(self, points: list[dict[str, Any]], published: rec.Record | None) -> dict[str, Any]:
        problem, worker, journal = self.problem, self.worker, self.journal
        tried = proposals.tried(worker.study, problem.space)
        parent = worker.parent_facts()
        published_costs = self._published_costs(published)
        finals = [*self.own.finished(), *(final for final in journal.of("final") if final.error)]
        controls = journal.of(*search_controls.KINDS)
        comparisons, not_run = self._comparisons(points, published)
        content = {
            "schema": SCHEMA,
            "name": worker.job.name,
            "when": utc_now("seconds"),
            "asked": self._shareable_request(),
            "task": self._shareable_task(),
            "data": {
                "title": self.source.title,
                "licence": self.source.licence,
                "splits": dict(self.source.splits),
                "semi_synthetic": self.source.semi_synthetic,
            },
            "device": rec.to_json(self.baseline.record.device),
            "environment": environment("cpu", worker.problem.threads),
            "budget": [rec.to_json(limit) | {"says": str(limit)} for limit in problem.budget.limits],
            "budget_text": ", ".join(limit.text for limit in problem.budget.limits),
            "runtime": _runtime(problem),
            "metric": {"name": problem.metric, "objective": problem.objective, **_metric_words(problem)},
            "plan": list(self.lines),
            "unmodified": {
                "costs": dict(self.baseline.published),
                "origin": self.baseline.origin,
                "memory": self.baseline.decomposition,
            },
            "smallest": {metric: value for metric, (value, _) in feasibility.smallest(problem).items()},
            "family": {key: getattr(problem.space, name) for key, name in _FAMILY.items()},
            "space": {
                **rec.to_json(self.summary),
                "choices": json.loads(rec.canonical_json(rec.to_json(problem.space.describe()))),
            },
            "published_config": rec.to_json(problem.published),
            "baseline": self._baseline_row(published, published_costs),
            "comparisons": comparisons,
            "verdicts": [*self._in_words(comparisons), *self._without_baseline()],
            "not_run": [compared(kind, problem.space.baseline_title) for kind in not_run],
            "steps": [worker.agreed.low_steps, STEP_FACTOR * worker.agreed.low_steps],
            "parent": parent,
            "trials": search_result.trial_rows(tried, problem),
            "promotions": search_trainings.rows(journal.of("promotion")),
            "finals": search_trainings.rows(finals),
            "controls": search_trainings.rows(controls),
            "points": points,
            "hypervolume": search_result.hypervolume_curve(tried, problem, published_costs),
            "importance": search_result.importances(worker.study),
            "accounting": search_result.accounting(
                tried,
                journal.of("promotion", "final"),
                controls=controls,
                random_s=self._random_s(),
                parent_s=0.0 if parent is None or parent["given"] else parent["train_s"],
                measured_s=self.measuring.clock.measured_s,
                whole_s=self.measuring.clock.whole_s,
                beside_s=self.measuring.clock.controls_s,
                workers=self.request.workers,
            ),
        }
        for point in points:
            own = [row for row in comparisons if row["point"] == point["name"]]
            point["verdicts"] = [*self._in_words(own), *self._without_baseline()]
        return content

    def _shareable_task(self) -> dict[str, Any]:
        """The problem without a path of this machine."""
        plain = self.worker.problem.to_json()
        named = {key: Path(plain[key]).name for key in ("parent_channels", "device")}
        return {**plain, "data": self.problem.key, **named}

    def _shareable_request(self) -> dict[str, Any]:
        """The request without a path or an address of this machine."""
        request, parent = self.request, self.request.parent
        return {
            **request.to_json(),
            "data": self.problem.key,
            "device": Path(request.device).name,
            "parent": Path(parent).name if parent else None,
            "storage": request.storage.partition(":")[0] if request.storage else None,
        }

    # -- comparisons

    def _published_costs(self, published: rec.Record | None) -> dict[str, float]:
        """Costs of the published network: of its weights as measured, or with random ones before the search."""
        return dict(self.baseline.published) | feasibility.costs_of(published, self.problem.phase)

    def _baseline_row(self, published: rec.Record | None, costs: Mapping[str, float]) -> dict[str, Any]:
        """The network to beat, which no search trains."""
        problem = self.problem
        if self.published is None:
            name, how = problem.space.published_name(problem.spatial), problem.space.how_to_train(problem)
            return {"name": name, "costs": dict(costs), "dice_test": None, "how": how}
        return {
            "name": self.published.info.model.name,
            "origin": self.published.origin,
            "costs": dict(costs),
            "objective": costs.get(self.problem.metric),
            "volume_latency_s": published.value("volume_latency_s") if published and published.ok else None,
            "dice_val": self.published.dice_val,
            "dice_test": verdicts.summary(verdicts.values_of([self.published.test])),
            "train_s": self.published.train_s,
            "sha256": self.published.info.sha256,
        }

    def _in_words(self, comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
        return [verdict(row, self.problem.space.baseline_title) for row in comparisons]

    def _without_baseline(self) -> list[str]:
        if self.published is not None:
            return []
        return [
            "there are no weights of the published network for this data, so it has costs and no Dice; this trains "
            f"them: {self.problem.space.how_to_train(self.problem)}"
        ]

    def _comparisons(
        self, points: Sequence[Mapping[str, Any]], published: rec.Record | None
    ) -> tuple[list[dict[str, Any]], list[str]]:
        """Each point of the front against the published network and the controls; and which of these were not run."""
        rows, missing = list[dict[str, Any]](), set[str]()
        front = [point for point in ordered(points) if point["front"]]
        random = self._random_search()
        for point in sorted(front, key=lambda p: -float(p["dice_val"]["mean"])):
            trainings = [self.journal.trainings[label] for label in point["finals"]]
            own = verdicts.values_of([training.result["test"] for training in trainings])
            found = [self._against_published(point, own, published)]
            for kind in self.problem.space.controls:
                controls = [c for c in self.journal.of(kind) if c.what["key"] in ("", point["key"])]
                current = controls[-len(point["seeds"]) :]  # a search that was given more time has older ones
                found.append(verdicts.of_trainings(kind, point, own, current, **_timed(current)))
                if found[-1] is None:
                    missing.add(kind)
            if random:
                found.append(verdicts.compare("random", point, own, **random))
            else:
                missing.add("random")
            rows += [row for row in found if row is not None]
        return rows, [kind for kind in COMPARED if kind in missing]

    def _against_published(
        self, point: Mapping[str, Any], own: verdicts.Values, published: rec.Record | None
    ) -> dict[str, Any] | None:
        if self.published is None:
            return None
        other_s = published.value("volume_latency_s") if published and published.ok else None
        times: dict[str, Any] = {}
        if other_s and point["volume_latency_s"]:
            times = {"latency_of": "a patient volume takes", "own_latency_s": point["volume_latency_s"]}
            times["latency_s"] = other_s
        name = f"{self.published.info.model.name}, {self.published.origin}"
        other = verdicts.values_of([self.published.test])
        return verdicts.compare("published weights", point, own, name, other, seeds=1, **times)

    def _random_search(self) -> dict[str, Any] | None:
        """The best point of the search with random proposals, by `val`, to compare with; None if it was not run."""
        found = self._random_record()
        if found is None:
            return None
        front = [point for point in found["points"] if point["front"]]
        if not front:
            return None
        best = max(front, key=lambda point: float(point["dice_val"]["mean"]))
        tests = [final["test"] for final in found["finals"] if final["label"] in best["finals"]]
        return {"name": best["name"], "other": verdicts.values_of(tests), "seeds": len(tests)}

    def _random_s(self) -> float:
        """Seconds that the search with random proposals took; 0 if it was not run."""
        found = self._random_record()
        return float(found["accounting"]["whole_s"]) if found else 0.0

    def _random_record(self) -> Mapping[str, Any] | None:
        """The record of the search with random proposals; None if it was not run."""
        folder = self.folder / search_controls.RANDOM
        return read_search(folder) if (folder / SEARCH).exists() else None

    # -- export

    def _export(self, content: dict[str, Any], paths: Mapping[str, Path], *, late: bool) -> None:
        folder, runtime = self.folder / "front", self.problem.runtime
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
            no_time = late and self._left_s() < ONNX_S
            weights = paths[point["key"]]
            point["files"] = search_export.export_or_reason(weights, place, point["name"], onnx=not no_time)
            if not point["files"].get("weights"):
                continue
            if not get_runtime(runtime).in_pytorch:
                slow = point["origin"] != "measured" or self.request.device != "cpu"  # else it was prepared for that
                point["files"] |= (
                    {"runtime_file_reason": search_export.NO_TIME}
                    if no_time and slow
                    else search_export.export_for_runtime(weights, place, point["name"], runtime, self.problem.data)
                )
            write_whole(place / "card.md", search_card(point, content).encode())
            point["files"] = {
                key: f"front/{point['name']}/{value}" if key in FILES else value
                for key, value in point["files"].items()
            }
        write_whole(self.folder / "front.csv", search_table(content).encode())


def _timed(controls: Sequence[FinishedTraining]) -> dict[str, Any]:
    """Latencies of a scaled control and its point, timed alike when its width was chosen."""
    what = controls[-1].what if controls else {}
    if "timed_s" not in what:
        return {}
    return {
        "latency_of": "one patch, timed alike, takes",
        "own_latency_s": what["point_timed_s"],
        "latency_s": what["timed_s"],
    }


def _runtime(problem: SearchProblem) -> dict[str, Any]:
    """What times and memory are of; the versions of PyTorch's own are those of the environment."""
    runtime = get_runtime(problem.runtime)
    versions = {} if runtime.in_pytorch else dict(runtime.load().versions())
    return {"name": runtime.name, "title": runtime.title, "versions": versions}


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
