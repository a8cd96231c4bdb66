"""Page of a search: what the budget meant, the trials, the front, and whether the search was worth it.

A reader of `search.json` alone, the record that a search leaves; it neither trains nor measures, and equal files give
equal bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from benchbench.core.errors import PLACE, StoreError, command, first_line
from benchbench.core.results import SEARCH
from benchbench.core.search_result import EAGER, family_of, ordered, runtime_of, trained_text
from benchbench.core.units import counted, format_duration, format_shape, format_value
from benchbench.report import html, reliability, search_answer
from benchbench.report.figures import search as figures_search


def render_search(search: Mapping[str, Any]) -> str:
    """The page as text.

    Raises:
        StoreError: something that the page shows is not there, or not of its form.
    """
    try:
        return _render(search)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:  # whatever stands in it
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else first_line(error)
        raise StoreError(f"{SEARCH} does not hold what the page of a search shows: {what}") from error


def _render(search: Mapping[str, Any]) -> str:
    trained = [one for one in search["trials"] if one["dice"] is not None and one["same_as"] is None]
    points = ordered(search["points"])
    front = [point for point in points if point["front"]]
    on_the_way = [
        figures_search.hypervolume(search, "trainings"),
        figures_search.hypervolume(search, "at_s"),
        figures_search.worth(search),
        figures_search.importance(search),
    ]
    shown = [figures_search.front(search), figures_search.sketch(search, chosen(front))]
    sentences, remarks = search_answer.in_words(search, points)
    heads, controls = search_answer.controls(search, front)
    slack, binds = search_answer.limits(search)
    context = {
        "heading": _heading(search, front),
        "lead": search_answer.lead(search, front),
        "sentence": _sentence(search, trained),
        "semi_synthetic": search["data"]["semi_synthetic"],
        "predicted": search["device"]["basis"] == "profile",
        "device": search["device"]["name"],
        "savings": search_answer.savings(search, front),
        "remarks": remarks,
        "control_heads": heads,
        "controls": controls,
        "in_words": sentences,
        "not_run": search_answer.not_run(search),
        "resume": command("search", "--resume", f"{PLACE}folder", "--controls"),
        "shown": [drawing for drawing in shown if drawing],
        "columns": _columns(search, binds=binds),
        "rows": [_row(search, point) for point in points] + _published_rows(search),
        "slack": slack,
        "left_out": list(search.get("left_out", ())),
        "time": format_duration(search["asked"]["time_s"]),
        "baseline": family_of(search)["baseline"],
        "networks": [(point["name"], point["config_text"], _padding(point)) for point in points],
        "figures": [drawing for drawing in on_the_way if drawing],
        "feasible": _feasible(search, trained),
        "importance_reason": search["importance"].get("reason", ""),
        "plan": search["plan"],
        "facts": _facts(search, trained),
        "refused": _refused(search),
    }
    return html.page(context, "search.html", ("report.css", "search.css"))


def chosen(front: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The point of the front that is sketched: the one to take, unless that is the published network."""
    own = [point for point in front if not point["published"]]
    return search_answer.taken(own) or next(iter(own or front), None)


def _heading(search: Mapping[str, Any], front: Sequence[Mapping[str, Any]]) -> str:
    budget = search["budget_text"] or "no budget"
    runtime = runtime_of(search)
    within = "" if runtime["name"] == EAGER["name"] else f" in {runtime['title']}"
    return f"{counted(len(front), 'network')} for {budget} on {search['device']['name']}{within}"


def _sentence(search: Mapping[str, Any], trained: Sequence[Any]) -> str:
    refused = sum(bool(one["refused"]) and one["dice"] is None for one in search["trials"])
    threads = search["asked"].get("threads")
    on = f" on {counted(threads, 'thread')}" if threads else ""
    return (
        f"{_networks(search)} for {search['data']['title']}: {len(trained)} configurations were trained, {refused} "
        f"refused before any training, {len(search['promotions'])} trained for longer, {len(search['points'])} to the "
        f"end, in {format_duration(search['accounting']['whole_s'])}{on}."
    )


def _networks(search: Mapping[str, Any]) -> str:
    """`Variants of Slim UNETR`, `Smaller versions of nnunet_small`."""
    title = family_of(search)["title"]
    return f"Variants of {title}" if title[0].isupper() else f"{title[0].upper()}{title[1:]}"


def _columns(search: Mapping[str, Any], *, binds: bool) -> list[tuple[str, str, bool]]:
    """(key, heading, whether numbers stand below it)."""
    points, metric = search["points"], search["metric"]
    shown = {
        "volume": any(point.get("volume_latency_s") for point in points),
        "memory": metric["name"] != "memory_bytes" and any(p["costs"].get("memory_bytes") for p in points),
        "use": binds,
    }
    columns = [
        ("name", "Network", False),
        ("dice", "Dice on test", True),
        ("val", "Dice on val", True),
        ("objective", metric["objective"].capitalize(), True),
        ("volume", "One patient", True),
        ("memory", "Peak memory", True),
        ("macs", "MACs", True),
        ("params", "Parameters", True),
        ("use", "Of the budget", False),
    ]
    return [column for column in columns if shown.get(column[0], True)]


def _row(search: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    test, val, costs, objective = point["dice_test"], point["dice_val"], point["costs"], point["objective"]
    use = ", ".join(f"{share:.0%} of {limit}" for limit, share in point["use"].items()) or "no limit"
    unsure = "the latency was too noisy to say" if point.get("noisy") else "not confirmed by a measurement"
    keeps = {True: use, False: f"over it: {use}", None: f"{use}; {unsure}"}[point["keeps"]]
    keeps = str(point.get("unusable") or keeps)
    where = "on the front" if point["front"] else "not on the front"
    if test["mean"] < reliability.OF_USE:
        where += ", of no use"
    baseline = family_of(search)["baseline"]
    cells: dict[str, tuple[Any, str, str]] = {  # column -> what it is sorted by, text, second line
        "name": (point["name"], point["name"], where + f", {baseline}" * bool(point["published"])),
        "dice": (test["mean"], f"{test['mean']:.3f}", f"{test['ci95'][0]:.3f} to {test['ci95'][1]:.3f}"),
        "val": (val["mean"], f"{val['mean']:.3f}", _seeds(val["values"])),
        "objective": (
            objective,
            "–" if objective is None else format_value(objective, search["metric"]["unit"]),
            str(point["objective_origin"]),
        ),
        "macs": (costs["macs"], format_value(costs["macs"], "MAC"), ""),
        "params": (costs["params"], format_value(costs["params"], "parameters"), ""),
        "use": (max(point["use"].values(), default=0.0), keeps, ""),
    }
    return _cells(cells | _measured(point.get("volume_latency_s"), costs))


def _measured(volume_s: float | None, costs: Mapping[str, float]) -> dict[str, tuple[Any, str, str]]:
    memory = costs.get("memory_bytes")
    return {
        "volume": (volume_s, "–" if volume_s is None else format_value(volume_s, "s"), ""),
        "memory": (memory, "–" if memory is None else format_value(memory, "B"), ""),
    }


def _padding(point: Mapping[str, Any]) -> str:
    share = point.get("padding")
    return f"{share:.0%} of the voxels that it computes on are padding" if share else ""


def _published_rows(search: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row of the network to beat, which the search does not train; none in records of schema 1."""
    if not (known := search.get("baseline")):
        return []
    test, costs, metric = known["dice_test"], known["costs"], search["metric"]
    objective = costs.get(metric["name"])
    cells: dict[str, tuple[Any, str, str]] = {
        "name": (known["name"], known["name"], family_of(search)["baseline"]),
        "dice": (0.0, "–", "there are no weights for this data"),
        "val": (0.0, "–", ""),
        "objective": (objective, "–" if objective is None else format_value(objective, metric["unit"]), ""),
        "macs": (costs.get("macs"), format_value(costs["macs"], "MAC") if "macs" in costs else "–", ""),
        "params": (costs.get("params"), format_value(costs["params"], "parameters") if "params" in costs else "–", ""),
        "use": (None, "–", ""),
    } | _measured(known.get("volume_latency_s"), costs)
    if test:
        low, high = test["ci95"]
        cells["dice"] = (test["mean"], f"{test['mean']:.3f}", f"{low:.3f} to {high:.3f}")
        trained = f"{family_of(search)['baseline']}: {search_answer.trained(known)}"
        cells["name"] = (known["name"], known["name"], trained)
        cells["val"] = (known["dice_val"], f"{known['dice_val']:.3f}", "")
    return [_cells(cells)]


def _cells(cells: Mapping[str, tuple[Any, str, str]]) -> dict[str, Any]:
    return {
        "cells": {key: texts for key, (_, *texts) in cells.items()},
        "sort": json.dumps({key: value for key, (value, *_) in cells.items()}, sort_keys=True),
    }


def _seeds(values: Sequence[float]) -> str:
    """`2 seeds, 0.793 to 0.798`."""
    if len(values) == 1:
        return "1 seed"
    return f"{len(values)} seeds, {min(values):.3f} to {max(values):.3f}"


def _feasible(search: Mapping[str, Any], trained: Sequence[Any]) -> str:
    space, proposals = search["space"], sum(trial["same_as"] is None for trial in search["trials"])
    return (
        f"Of {space['drawn']} configurations drawn at random {space['feasible'] / max(1, space['drawn']):.1%} keep the "
        f"budget, as far as formulas know; of the {proposals} different ones that the sampler proposed "
        f"{len(trained) / max(1, proposals):.1%} did and took the patch."
    )


def _refused(search: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Why proposals were refused: metric -> how many."""
    counts = Counter(metric for trial in search["trials"] if trial["dice"] is None for metric in trial["refused"])
    counts += Counter(error=sum(trial["error"] is not None for trial in search["trials"]))
    names = {"shape": "does not take the patch", "error": "could not be tried"}
    return [(names.get(metric, metric), count) for metric, count in sorted(counts.items())]


def _facts(search: Mapping[str, Any], trained: Sequence[Any]) -> list[tuple[str, str]]:
    task, spent, environment = search["task"], search["accounting"], search["environment"]
    metric, reference = search["metric"], search["hypervolume"]["reference"]
    costs = format_value(reference[metric["name"]], metric["unit"]) if reference else ""
    facts = [
        ("Data", f"{task['key']}, {', '.join(f'{n} {split}' for split, n in search['data']['splits'].items())}"),
        ("Patch", format_shape(task["spatial"])),
        ("Parent", _parent(search["parent"])),
        ("Training", f"{search['steps'][0]} steps a proposal, {search['steps'][1]} a promotion"),
        (
            "Time",
            f"{format_duration(spent['whole_s'])} of workers: training {_share(spent, 'train_s')}, evaluation and "
            f"measurement {_share(spent, 'measure_s')}, the rest {_share(spent, 'other_s')}"
            + (f"; the controls {format_duration(spent['controls_s'])}" if spent.get("controls_s") else ""),
        ),
        ("Reference point of hypervolumes", f"Dice {reference['dice']}, {costs}" if reference else ""),
        ("Distinct configurations trained", str(len(trained))),
        ("Seed", str(search["asked"]["seed"])),
        ("Device", search["device"]["name"]),
        *([("Runtime", _runtime(search))] if "runtime" in search else []),  # a record without it is of eager PyTorch
        ("Versions", ", ".join(f"{key} {environment[key]}" for key in _VERSIONS if environment.get(key))),
        ("Commit", str(environment.get("commit") or "unknown")),
        ("When", search["when"]),
    ]
    return [(name, text) for name, text in facts if text or name != "Reference point of hypervolumes"]


def _parent(parent: Mapping[str, Any] | None) -> str:
    if parent is None:
        return "none, every network was trained from scratch"
    dice = "" if parent["dice_val"] is None else f", Dice {parent['dice_val']:.3f} on val"
    when = "before the search" if parent["given"] else "within the search"
    return f"{trained_text(parent['model'] + dice, parent['train_s'])} {when}"


def _runtime(search: Mapping[str, Any]) -> str:
    """`OpenVINO, openvino 2026.4.1`."""
    runtime = runtime_of(search)
    return ", ".join([runtime["title"], *(f"{name} {version}" for name, version in runtime["versions"].items())])


_VERSIONS = ("python", "torch", "monai")


def _share(spent: Mapping[str, float], key: str) -> str:
    return f"{spent[key] / max(spent['whole_s'], 1e-9):.1%}"
