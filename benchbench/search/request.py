"""Request of `bench search`, and the file in its folder from which the search is resumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchbench.core import records as rec
from benchbench.core.arguments import flag, seconds
from benchbench.core.config import read_json
from benchbench.core.errors import StoreError, UsageError, unknown
from benchbench.core.protocol import get_protocol
from benchbench.core.results import SEARCH_BEGUN
from benchbench.core.search_result import SCHEMA
from benchbench.runtimes import catalogue
from benchbench.runtimes.catalogue import EAGER
from benchbench.search.budget import CostBudget, budget_from_json

if TYPE_CHECKING:
    from benchbench.search.job import SearchJob

JOB = SEARCH_BEGUN
#: Fields of a request that may differ when a search goes on.
CHANGEABLE = ("controls", "time_s", "storage", "workers", "threads")
#: That a search can be for: those of a CPU, on which its proposals are timed.
RUNTIMES = tuple(name for name, runtime in catalogue.RUNTIMES.items() if "cpu" in runtime.dtypes)
SAMPLERS = ("tpe", "random")
_SEEDS = 2**31  # all generators take a smaller seed, with a worker's index added


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """Arguments of `bench search`."""

    budget: CostBudget
    phase: Literal["infer", "train"] = flag(
        "--budget-phase",
        "infer",
        help="what the limits of memory and latency hold for: inference over a whole volume (infer), or a training "
        "step (train) (default: infer)",
    )
    data: str = flag("--data", "phantom")
    fold: int | None = flag("--fold")
    device: str = flag(
        "--device",
        "cpu",
        choices=None,
        metavar="D",
        help="device that the budget holds for: cpu, a host, or the name of a profile, as for 'bench run' (default: "
        "cpu)",
    )
    runtime: str = flag(
        "--runtime",
        EAGER,
        choices=RUNTIMES,
        help="what will run the network: proposals and finalists are measured in it, and limits of time and memory "
        f"hold for it (default: {EAGER})",
    )
    objective: str = flag(
        "--objective",
        "latency",
        choices=("latency", "macs", "params", "memory", "energy"),
        help="what is minimised while Dice is maximised (default: latency)",
    )
    time_s: float = flag(
        "--time",
        1800.0,
        type=seconds,
        metavar="TIME",
        help="duration of the whole search, measuring included and --controls not (default: 30min)",
    )
    trials: int | None = flag(
        "--trials", help="largest number of configurations to try (default: as many as the time allows)"
    )
    finalists: int = flag(
        "--finalists", 2, help="promoted networks to train for the rest of the time, and to measure (default: 2)"
    )
    seeds: int = flag(
        "--seeds",
        1,
        help="trainings per finalist; the second begins anew, and trains as many steps as the first has had in all "
        "(default: 1)",
    )
    sampler: str = flag(
        "--sampler",
        "tpe",
        choices=SAMPLERS,
        help="what proposes: Optuna's TPE after first guesses, or chance (default: tpe)",
    )
    controls: bool = flag(
        "--controls",
        False,
        help="after the search, train what it has to be compared with: the architectures of the front from scratch, "
        "the published network and an nnU-Net of the same latency for the whole time (of a parent's smaller versions "
        "neither), and a search by chance",
    )
    parent: str | None = None  # path of its weights; "train"; None: Slim UNETRs are searched, and nothing is inherited
    spatial: tuple[int, int, int] | None = flag(
        "--spatial", help="size of the patch in voxels (default: that of the data set, or of the parent)"
    )
    volume: tuple[int, ...] | None = flag(
        "--volume",
        help="size in voxels of the patient volume that memory is judged by (default: the data set's median)",
    )
    steps: int | None = flag(
        "--steps", help="training steps per proposal (default: about 60, or more if 36 proposals fit)"
    )
    batch: int | None = flag("--batch-size")
    threads: int | None = flag(
        "--threads",
        help="CPU threads of each worker, and to measure with (default: a share of the cores each, all to measure)",
    )
    storage: str | None = flag(
        "--storage",
        metavar="URL",
        help="database that several machines share: postgresql://user@host/name (default: a file in --out)",
    )
    study: str | None = flag(
        "--study", metavar="NAME", help="name of the search in that database (default: from the name of the data)"
    )
    workers: int = flag("--workers", 1, help="processes that search on this machine (default: 1)")
    protocol: str = flag("--protocol", "quick")
    seed: int = flag("--seed", 0)

    def to_json(self) -> dict[str, Any]:
        """As JSON values, without a password."""
        from benchbench.search.storage import without_password  # which loads Optuna, as no request has to

        plain: dict[str, Any] = rec.to_json(dataclasses.asdict(dataclasses.replace(self, budget=CostBudget())))
        return plain | {
            "budget": [limit.text for limit in self.budget.limits],
            "storage": without_password(self.storage) if self.storage else None,
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoredSearch:
    """Request and plan of the search in a folder."""

    request: SearchRequest
    job: SearchJob | None  # None: it was stopped before its plan


def read_job(folder: Path) -> StoredSearch:
    """Request and plan of the search in a folder.

    Raises:
        StoreError: there is no search, or its file is damaged.
    """
    from benchbench.search.job import job_from_json  # which loads torch, as no request has to

    path = folder / JOB
    if not path.exists():
        raise StoreError(f"{folder} is no folder of a search: it has no {JOB}")
    plain = read_json(path, "what a search was asked for,", StoreError)
    try:
        if not isinstance(plain, dict) or not isinstance(plain["asked"], dict):
            raise TypeError("it is no table of 'asked' and 'job'")
        schema = plain.get("schema", 1)
        if not isinstance(schema, int) or schema > SCHEMA:
            raise StoreError(f"{path} has schema {schema!r}, and this benchbench reads up to {SCHEMA}: upgrade it")
        if schema < SCHEMA:
            raise StoreError(
                f"{path} is of a search that an earlier benchbench began, in another way: its result can be shown, and "
                f"a new one is begun with another --out"
            )
        request = _request_from_json(plain["asked"])
        job = None if plain["job"] is None else job_from_json(plain["job"])
    except StoreError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise StoreError(f"{path} does not describe a search: {what}") from error
    return StoredSearch(request=request, job=job)


def _request_from_json(plain: Mapping[str, Any]) -> SearchRequest:
    """The reverse of `SearchRequest.to_json`."""
    if unknown_ones := sorted(set(plain) - {field.name for field in dataclasses.fields(SearchRequest)}):
        raise ValueError(f"nothing is known of {', '.join(map(repr, unknown_ones))}")
    budget = budget_from_json(plain["budget"])
    request: SearchRequest = rec.from_json(SearchRequest, {**plain, "budget": rec.to_json(budget)})
    check_request(request)
    return request


def check_request(request: SearchRequest) -> None:
    """Check the numbers and names of a request.

    Raises:
        UsageError: a value out of range, an unknown objective, runtime or protocol, or training in another runtime than
            eager.
    """
    from benchbench.search.problem import OBJECTIVES

    for name in ("trials", "finalists", "seeds", "steps", "batch", "threads", "workers"):
        if (value := getattr(request, name)) is not None and value < 1:
            raise UsageError(f"{name} must be at least 1, not {value}")
    for name in ("spatial", "volume"):
        if (sides := getattr(request, name)) is not None and (len(sides) != 3 or min(sides) < 1):
            raise UsageError(f"{name} must be three numbers from 1, not {sides}")
    if not 0 < request.time_s < float("inf"):
        raise UsageError(f"the time of a search must be above 0 seconds, not {request.time_s}")
    if not 0 <= request.seed < _SEEDS:
        raise UsageError(f"the seed of a search must be from 0 to below {_SEEDS}, not {request.seed}")
    if request.fold is not None and request.fold < 0:
        raise UsageError(f"fold must be at least 0, not {request.fold}")
    if request.objective not in OBJECTIVES:
        raise UsageError(unknown("objective", request.objective, OBJECTIVES))
    if request.sampler not in SAMPLERS:
        raise UsageError(unknown("sampler", request.sampler, SAMPLERS))
    if request.runtime not in RUNTIMES:
        raise UsageError(unknown("runtime", request.runtime, RUNTIMES))
    if request.phase == "train" and request.runtime != EAGER:
        raise UsageError(f"--budget-phase train limits steps of {EAGER} PyTorch alone: leave --runtime out")
    get_protocol(request.protocol)


def resumed_request(folder: Path, storage: str | None, **changes: Any) -> SearchRequest:
    """Request of the search in a folder, with changes.

    Args:
        storage: its address, which is needed if it has a password.
        changes: fields of `SearchRequest`; None: unchanged.

    Raises:
        StoreError: there is no search.
        UsageError: the address of the storage is missing.
    """
    request = read_job(folder).request
    if storage:
        request = dataclasses.replace(request, storage=storage)
    elif request.storage and ":...@" in request.storage:
        raise UsageError(
            f"the storage of this search is {request.storage}: give it again by --storage, with its password"
        )
    return dataclasses.replace(request, **{key: value for key, value in changes.items() if value is not None})
