"""Flags of `bench search`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchbench.cli import types as to
from benchbench.cli.types import FORMATS
from benchbench.core.errors import UsageError

#: What may be given with --resume.
_WITH_RESUME = frozenset({"resume", "storage", "time", "workers", "threads", "controls", "format"})
_OBJECTIVES = ("latency", "macs", "params", "memory", "energy")


def add_search(command: Any) -> None:
    """`bench search`."""
    sub = command("search", "networks that fit a budget: a Pareto front of Slim UNETR variants, each trained")
    sub.add_argument(
        "--budget",
        action="extend",
        nargs="+",
        default=[],
        metavar="LIMIT",
        help="2GB or 1.5GiB of memory, 50ms of latency, 1GMACs, 2GFLOPs, 0.5Mparams, 5MBfile; several hold together",
    )
    sub.add_argument(
        "--budget-phase",
        default="infer",
        choices=("infer", "train"),
        help="whether memory and time are those of inference over a whole volume (default) or of a training step",
    )
    sub.add_argument(
        "--data", default="phantom", metavar="NAME|DIR", help="a data set, or its folder (default: phantom)"
    )
    sub.add_argument("--fold", type=to.fold, metavar="N", help="of five, kept apart as the test cases (default: 0)")
    sub.add_argument(
        "--device", default="cpu", metavar="D", help="that the budget is of, as for run: cpu, a host, a profile's name"
    )
    sub.add_argument(
        "--objective", default="latency", choices=_OBJECTIVES, help="what is made small beside Dice (default: latency)"
    )
    sub.add_argument(
        "--time", type=to.seconds, metavar="TIME", help="of the whole search, without controls (default: 30min)"
    )
    sub.add_argument("--trials", type=to.positive, metavar="N", help="configurations that are tried at most")
    sub.add_argument(
        "--finalists",
        type=to.positive,
        metavar="N",
        help="of the front that are trained anew and measured (default: 3)",
    )
    sub.add_argument("--seeds", type=to.positive, metavar="N", help="that each finalist is trained with (default: 2)")
    sub.add_argument(
        "--controls",
        action="store_true",
        help="afterwards, the same architectures from scratch with as much computing, and with channels by chance",
    )
    sub.add_argument(
        "--parent",
        metavar="FILE|train",
        help="weights of a whole Slim UNETR on this data that all inherit from; 'train' trains it first, within the "
        "time (default: what comes along with benchbench, else train)",
    )
    sub.add_argument(
        "--spatial",
        nargs=3,
        type=to.positive,
        metavar=("D", "H", "W"),
        help="patch in voxels (default: the data set's, as Slim UNETR takes it)",
    )
    sub.add_argument(
        "--volume",
        nargs=3,
        type=to.positive,
        metavar=("D", "H", "W"),
        help="of a patient, for the memory (default: the data set's median shape)",
    )
    sub.add_argument(
        "--steps", type=to.positive, metavar="N", help="that a proposal trains (default: so that some 45 fit)"
    )
    sub.add_argument("--batch-size", type=to.positive, metavar="N", help="patches in a step (default: as for train)")
    sub.add_argument("--threads", type=to.positive, metavar="N", help="CPU threads of a worker (default: its share)")
    sub.add_argument(
        "--storage",
        metavar="URL",
        help="of a database that several machines share: postgresql://user@host/name (default: a file of --out)",
    )
    sub.add_argument("--study", metavar="NAME", help="of the search in that database (default: from the data's name)")
    sub.add_argument(
        "--workers", type=to.positive, metavar="N", help="processes on this machine that search (default: 1)"
    )
    sub.add_argument(
        "--protocol", type=to.protocol, default="quick", metavar="P", help="that finalists are measured by"
    )
    sub.add_argument("--seed", type=to.natural, default=0, metavar="N", help="(default: 0)")
    sub.add_argument("--resume", type=Path, metavar="DIR", help="go on with the search in a folder")
    sub.add_argument(
        "--out", type=Path, metavar="DIR", help="the same one again goes on (default: a new one under results/local)"
    )
    sub.add_argument("--format", default="table", choices=FORMATS)
    sub.add_argument("--config", metavar="FILE.toml", help="these flags from a file; flags on the command line win")
    sub.set_defaults(_defaults={action.dest: action.default for action in sub._actions})


def check_resume(options: Any) -> None:
    """Refuse what a search that goes on would not heed.

    Args:
        options: of the command line.

    Raises:
        UsageError: with the flag's name.
    """
    for name, default in options._defaults.items():
        if name in _WITH_RESUME or not hasattr(options, name):
            continue
        if getattr(options, name) not in (default, []) and name not in ("quiet", "verbose", "help", "config"):
            raise UsageError(
                f"--{name.replace('_', '-')} cannot be changed of a search that goes on: with --resume stand "
                f"{', '.join(f'--{one}' for one in sorted(_WITH_RESUME - {'resume'}))}"
            )
