"""`bench search`: networks that fit a budget, and what a search says of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchbench import report
from benchbench.cli.output import new_folder, write_page
from benchbench.cli.parser import add_shared, values_of
from benchbench.cli.progress import TrainingProgress, is_shown
from benchbench.core import arguments as to
from benchbench.core.errors import EXIT_OK, UsageError, command
from benchbench.core.search_result import SearchOutcome, ordered
from benchbench.core.units import format_duration, format_value
from benchbench.report import writers

_WITH_RESUME = ("--controls", "--format", "--storage", "--threads", "--time", "--workers")
_ANYWAY = ("--resume", "--config", "--quiet", "--verbose", "--help")


def add(sub: argparse.ArgumentParser) -> None:
    """The flags."""
    sub.add_argument(
        "--budget",
        action="extend",
        nargs="+",
        default=[],
        metavar="LIMIT",
        help="limits that hold together: 2GB or 1.5GiB of memory, 50ms of latency, 1GMACs, 2GFLOPs, 0.5Mparams, "
        "5MBfile",
    )
    sub.add_argument(
        "--budget-phase",
        dest="phase",
        default="infer",
        choices=("infer", "train"),
        help="what the limits of memory and time are of: inference over a whole volume, or a training step (default: "
        "infer)",
    )
    add_shared(sub, "--data", "--fold")
    add_shared(
        sub,
        "--device",
        choices=None,
        metavar="D",
        help="device that the budget is of, as for 'bench run': cpu, a host, a profile's name (default: cpu)",
    )
    sub.add_argument(
        "--objective",
        default="latency",
        choices=("latency", "macs", "params", "memory", "energy"),
        help="what is minimised while Dice is maximised (default: latency)",
    )
    sub.add_argument(
        "--time",
        dest="time_s",
        type=to.seconds,
        metavar="TIME",
        help="duration of the whole search, without controls (default: 30min)",
    )
    sub.add_argument(
        "--trials",
        type=to.positive,
        metavar="N",
        help="most configurations to try (default: as many as the time allows)",
    )
    sub.add_argument(
        "--finalists",
        type=to.positive,
        metavar="N",
        help="networks of the front that are trained anew and measured (default: 3)",
    )
    sub.add_argument("--seeds", type=to.positive, metavar="N", help="trainings per finalist (default: 2)")
    sub.add_argument(
        "--controls",
        action="store_true",
        help="afterwards, train the same architectures from scratch with as much computing, and others with channels "
        "by chance",
    )
    sub.add_argument(
        "--parent",
        metavar="FILE|train",
        help="weights of a whole Slim UNETR on this data that all inherit from; 'train' trains it first, within the "
        "time (default: weights that come with benchbench, else train)",
    )
    add_shared(sub, "--spatial", help="size of the patch in voxels (default: the data set's, as Slim UNETR takes it)")
    add_shared(
        sub, "--volume", help="size in voxels of a patient, for the memory (default: the data set's median shape)"
    )
    sub.add_argument(
        "--steps", type=to.positive, metavar="N", help="training steps per proposal (default: so that some 45 fit)"
    )
    add_shared(sub, "--batch-size")
    add_shared(sub, "--threads", help="CPU threads per worker (default: its share of the cores)")
    sub.add_argument(
        "--storage",
        metavar="URL",
        help="database that several machines share: postgresql://user@host/name (default: a file in --out)",
    )
    sub.add_argument(
        "--study", metavar="NAME", help="name of the search in that database (default: from the data's name)"
    )
    sub.add_argument(
        "--workers", type=to.positive, metavar="N", help="searching processes on this machine (default: 1)"
    )
    add_shared(sub, "--protocol", "--seed")
    sub.add_argument("--resume", type=Path, metavar="DIR", help="folder of a search to go on with")
    add_shared(sub, "--out", "--format", "--config")
    sub.set_defaults(actions=sub._actions)


def run(options: argparse.Namespace) -> int:
    """Search, or go on with the search in a folder."""
    from benchbench.search import run as search_run
    from benchbench.search.budget import parse_budget
    from benchbench.search.feasibility import BudgetError
    from benchbench.search.request import JOB, SearchRequest, resumed_request

    if options.resume:
        _check_resume(options)
        out = options.resume
        changed = {name: getattr(options, name) for name in ("time_s", "workers", "threads")}
        request = resumed_request(out, options.storage, controls=options.controls or None, **changed)
    else:
        out = options.out or new_folder("search")
        given = values_of(SearchRequest, options) | {"budget": parse_budget(options.budget)}
        if not options.parent:
            given["parent"] = search_run.bundled_parent(options.data, options.fold, given.get("spatial"))
        else:
            given["parent"] = None if options.parent == "train" else Path(options.parent)
        request = SearchRequest(**given)
    report.check_page(out)
    plain = options.format != "table"

    def plan(lines: Sequence[str]) -> None:
        print("\n".join([*lines, ""]), file=sys.stderr if plain else sys.stdout, flush=True)

    try:
        with TrainingProgress(sys.stderr, shown=is_shown(options)) as progress:
            outcome = search_run.search(request, out, plan=plan, progress=progress.step)
    except BudgetError:
        if (out / report.SEARCH).exists():
            write_page(out)
        raise
    except KeyboardInterrupt:
        begun = (out / JOB).exists()
        raise KeyboardInterrupt(
            f"{command('search', '--resume', out)} goes on" if begun else "nothing was begun yet"
        ) from None
    page, fault = write_page(out)
    print(writers.write(rows(outcome, plain=plain), options.format))
    if not plain:
        print("\n".join([*summary(outcome), *([f"report: {page}"] if page else [])]))
    if fault:
        raise fault
    return EXIT_OK


def _check_resume(options: argparse.Namespace) -> None:
    """Refuse what a search that goes on would not heed.

    Raises:
        UsageError: with the flag's name.
    """
    for action in options.actions:
        flag = action.option_strings[-1]
        if flag not in (*_WITH_RESUME, *_ANYWAY) and getattr(options, action.dest) not in (action.default, []):
            raise UsageError(
                f"{flag} cannot be changed of a search that goes on: with --resume stand {', '.join(_WITH_RESUME)}"
            )


def rows(outcome: SearchOutcome, *, plain: bool) -> list[dict[str, Any]]:
    """A row for each finalist, those of the front first.

    Args:
        outcome: of a search.
        plain: numbers as they are, with their units in the names; else for a person.
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
                    "weights": str(outcome.folder / point["files"]["weights"]) if "weights" in point["files"] else None,
                }
            )
            continue
        use = ", ".join(f"{share:.0%} of {limit}" for limit, share in point["use"].items())
        value = point["objective"]
        table.append(
            {
                "network": point["name"] + (" (published)" if point["published"] else ""),
                "front": {True: "yes", False: ""}[point["front"]],
                "Dice on test": f"{point['dice_test']['mean']:.3f} ({low:.3f} to {high:.3f})",
                "on val": f"{point['dice_val']['mean']:.3f}",
                metric["objective"]: "—" if value is None else format_value(value, metric["unit"]),
                "MACs": format_value(point["costs"]["macs"], "MAC"),
                "budget": {True: use, False: f"over: {use}", None: f"{use or '?'}, not confirmed"}[point["keeps"]],
            }
        )
    return table


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
    ]
    if left := s.get("left_out"):
        lines.append(
            f"left out, for the {format_duration(s['asked']['time_s'])} of the search were too short: {'; '.join(left)}"
        )
    for point in s["points"]:
        lines += [f"{point['name']}: {text}" for text in point["verdicts"]]
        if point["keeps"] is None:
            lines.append(f"{point['name']}: whether it keeps the budget was not measured on {s['task']['device']}")
    if not s["controls"]:
        lines.append(f"whether the search was worth it: {command('search', '--resume', outcome.folder, '--controls')}")
    lines.append(f"front: {outcome.folder / 'front.csv'}")
    return lines
