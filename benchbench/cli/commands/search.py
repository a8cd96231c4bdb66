"""`bench search`: networks that fit a budget, and what a search says of them."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchbench import report
from benchbench.cli import progress as progress_of
from benchbench.cli.next_step import next_line
from benchbench.cli.output import new_folder, write_page
from benchbench.cli.parser import add_fields, add_shared, values_of
from benchbench.cli.progress_file import ProgressFile
from benchbench.core.errors import EXIT_OK, UsageError, command
from benchbench.core.search_result import (
    EAGER,
    SearchOutcome,
    baseline_word,
    family_of,
    is_of_parent,
    ordered,
    runtime_of,
)
from benchbench.core.units import format_duration, format_value
from benchbench.report import writers
from benchbench.search.request import JOB, SearchRequest, resumed_request

_WITH_RESUME = ("--controls", "--format", "--storage", "--threads", "--time", "--workers")
_BESIDE = "nnunet_small"
_ANYWAY = ("--resume", "--config", "--progress", "--quiet", "--verbose", "--help")


def add(sub: argparse.ArgumentParser) -> None:
    """The flags."""
    sub.add_argument(
        "--budget",
        action="extend",
        nargs="+",
        default=[],
        metavar="LIMIT",
        help="limits that all hold: 2GB or 1.5GiB of memory, 50ms of latency, 1GMACs, 2GFLOPs, 0.5Mparams, 5MBfile",
    )
    add_fields(sub, SearchRequest)
    sub.add_argument(
        "--parent",
        metavar="NET|shipped|train|none",
        help="a trained network on this data, by its file, its folder of 'bench import', or its name where its weights "
        "come with benchbench: smaller versions of it are searched. Of a Slim UNETR of the published size its variants "
        "are, those with its stem inherit from it, 'shipped' is the one that comes along, and 'train' trains it first, "
        "within the time (default: none)",
    )
    sub.add_argument("--resume", type=Path, metavar="DIR", help="folder of an earlier search to continue")
    add_shared(sub, "--out", "--format", "--progress", "--config")
    sub.set_defaults(actions=sub._actions)


def run(options: argparse.Namespace) -> int:
    """Search, or go on with the search in a folder."""
    from benchbench.search import run as search_run
    from benchbench.search.budget import parse_budget
    from benchbench.search.feasibility import BudgetError

    if options.resume:
        _check_resume(options)
        out = options.resume
        changed = {name: getattr(options, name) for name in ("time_s", "workers", "threads")}
        request = resumed_request(out, options.storage, controls=options.controls or None, **changed)
    else:
        out = options.out or new_folder("search")
        request = SearchRequest(**values_of(SearchRequest, options), budget=parse_budget(options.budget))
        request = dataclasses.replace(request, parent=_parent(options.parent, request))
    report.check_page(out)
    plain = options.format != "table"

    def plan(lines: Sequence[str]) -> None:
        print("\n".join([*lines, ""]), file=sys.stderr if plain else sys.stdout, flush=True)

    try:
        with ProgressFile(out, "search") as kept, progress_of.of_steps(options) as progress:

            def step(used: float, line: str) -> None:
                progress.step(used, line)
                kept.step(used, line)

            outcome = search_run.search(request, out, plan=plan, progress=step)
    except BudgetError:
        if (out / report.SEARCH).exists():
            write_page(out)
        raise
    except KeyboardInterrupt:
        begun = (out / JOB).exists()
        raise KeyboardInterrupt(
            f"{command('search', '--resume', out)} goes on" if begun else "nothing was begun yet"
        ) from None
    if outcome is None:
        print(
            f"this worker has ended; the command that began {request.study or 'the search'} trains the best and ends it"
        )
        return EXIT_OK
    page, fault = write_page(out)
    if not plain:
        print("\n".join([*verdicts(outcome), ""]))
    print(writers.write(rows(outcome, plain=plain), options.format))
    if not plain:
        print("\n".join([*summary(outcome), *([f"report: {page}"] if page else []), "", _next(outcome, request)]))
    if fault:
        raise fault
    return EXIT_OK


def _next(outcome: SearchOutcome, request: SearchRequest) -> str:
    """What comes after a search: its best beside another network, or more time for one that has no weights."""
    fold: list[object] = ["--fold", request.fold] if request.fold else []
    usable = [point for point in outcome.summary["points"] if point["front"] and "weights" in point["files"]]
    if usable:
        best = max(usable, key=lambda point: point["dice_test"]["mean"])
        parent = request.parent if is_of_parent(outcome.summary) else None
        both = f"{outcome.folder / best['files']['weights']},{parent or _BESIDE}"
        what = f"to measure the most accurate beside {'the parent' if parent else 'another network'}"
        return next_line(what, "run", "--models", both, "--data", request.data, *fold)
    return next_line("for more time", "search", "--resume", outcome.folder, "--time", f"{request.time_s / 30:.0f}min")


def _parent(asked: str | None, request: SearchRequest) -> str | None:
    """What networks inherit from, as the request has it."""
    from benchbench.search.parent_to_prune import weights_of
    from benchbench.search.slim_unetr_space import bundled_parent

    if asked in (None, "none"):
        return None
    if asked == "train":
        return asked
    if asked == "shipped":
        return str(bundled_parent(request.data, request.fold, request.spatial).absolute())
    return str(weights_of(str(asked), request))


def _check_resume(options: argparse.Namespace) -> None:
    """Refuse what a search that goes on would not heed.

    Raises:
        UsageError: with the flag's name.
    """
    for action in options.actions:
        flag = action.option_strings[-1]
        if flag not in (*_WITH_RESUME, *_ANYWAY) and getattr(options, action.dest) not in (action.default, []):
            raise UsageError(f"{flag} cannot be given with --resume, only {', '.join(_WITH_RESUME)}")


def rows(outcome: SearchOutcome, *, plain: bool) -> list[dict[str, Any]]:
    """A row for each finalist, those of the front first, and one for the network to beat.

    Args:
        plain: unrounded numbers, with units in their names, of the finalists alone.
    """
    metric = outcome.summary["metric"]
    table = []
    for point in ordered(outcome.summary["points"]):
        low, high = point["dice_test"]["ci95"]
        if plain:
            table.append(
                {
                    "network": point["name"],
                    "front": point["front"],
                    "keeps_budget": point["keeps"],
                    "dice_val": point["dice_val"]["mean"],
                    "dice_test": point["dice_test"]["mean"],
                    "dice_test_low": low,
                    "dice_test_high": high,
                    **{key: point["costs"].get(key) for key in ("latency_s", "macs", "params", "memory_bytes")},
                    "latency_origin": point["origin"],
                    "runtime": runtime_of(outcome.summary)["name"],
                    "weights": str(outcome.folder / point["files"]["weights"]) if "weights" in point["files"] else None,
                }
            )
            continue
        use = ", ".join(f"{share:.0%} of {limit}" for limit, share in point["use"].items())
        kept = {True: use, False: f"over: {use}", None: f"{use or '?'}, not confirmed"}[point["keeps"]]
        value = point["objective"]
        table.append(
            {
                "network": point["name"],
                "front": {True: "yes", False: ""}[point["front"]],
                "Dice on test": f"{point['dice_test']['mean']:.3f} ({low:.3f} to {high:.3f})",
                "on val": f"{point['dice_val']['mean']:.3f}",
                metric["objective"]: "—" if value is None else format_value(value, metric["unit"]),
                "MACs": format_value(point["costs"]["macs"], "MAC"),
                "budget": "cannot be used" if point.get("unusable") else kept,
            }
        )
    if not plain and (baseline := outcome.summary.get("baseline")):
        word = baseline_word(family_of(outcome.summary)["baseline"])
        table.append(_baseline_row(baseline, metric, word))
    return table


def _baseline_row(baseline: Mapping[str, Any], metric: Mapping[str, Any], word: str) -> dict[str, Any]:
    """The network to beat, as it was before the search; `word` says which that is."""
    test, costs = baseline["dice_test"], baseline["costs"]
    value = costs.get(metric["name"])
    return {
        "network": f"{baseline['name']} ({word})",
        "front": "",
        "Dice on test": f"{test['mean']:.3f} ({test['ci95'][0]:.3f} to {test['ci95'][1]:.3f})" if test else "—",
        "on val": f"{baseline['dice_val']:.3f}" if test else "—",
        metric["objective"]: "—" if value is None else format_value(value, metric["unit"]),
        "MACs": format_value(costs["macs"], "MAC") if "macs" in costs else "—",
        "budget": "",
    }


def verdicts(outcome: SearchOutcome) -> list[str]:
    """What the front gains against the network to beat and the controls, and what was not run."""
    search = outcome.summary
    lines = list(search["verdicts"])
    if missing := search["not_run"]:
        again = command("search", "--resume", outcome.folder, "--controls")
        lines.append(f"not run: {'; '.join(missing)}; this runs them: {again}")
    return lines


def summary(outcome: SearchOutcome) -> list[str]:
    """What else a person wants to know."""
    s = outcome.summary
    trained = [trial for trial in s["trials"] if trial["dice"] is not None and trial["same_as"] is None]
    refused = sum(bool(trial["refused"]) and trial["dice"] is None for trial in s["trials"])
    spent = s["accounting"]
    lines = [
        f"{len(trained)} configurations trained, {refused} refused untrained, {len(s['promotions'])} promoted; "
        f"{spent['other_s'] / max(spent['whole_s'], 1e-9):.1%} of {format_duration(spent['whole_s'])} outside "
        "training, evaluation and measurement"
        + (f"; the controls took {format_duration(spent['controls_s'])}" if spent.get("controls_s") else ""),
    ]
    runtime = runtime_of(s)
    if runtime["name"] != EAGER["name"]:
        versions = "".join(f", {package} {version}" for package, version in runtime["versions"].items())
        lines.append(f"times and memory are of {runtime['title']}{versions}")
    if left := s.get("left_out"):
        lines.append(
            f"left out, since {format_duration(s['asked']['time_s'])} of search were too short: {'; '.join(left)}"
        )
    for point in s["points"]:
        if point.get("unusable"):
            lines.append(f"{point['name']}: {point['unusable']}")
        if why := point["files"].get("runtime_file_reason"):
            lines.append(f"{point['name']}: no file for {runtime['title']}: {why}")
        if point["keeps"] is None and point.get("noisy"):
            lines.append(f"{point['name']}: its latency was too noisy to say whether it keeps the budget")
        elif point["keeps"] is None:
            lines.append(f"{point['name']}: whether it keeps the budget was not measured on {s['task']['device']}")
    lines.append(f"front: {outcome.folder / 'front.csv'}")
    return lines
