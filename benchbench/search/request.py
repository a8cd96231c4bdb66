"""Request of `bench search`, and the file in its folder from which the search is resumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from benchbench.core import records as rec
from benchbench.core.config import read_json
from benchbench.core.errors import StoreError, UsageError, unknown
from benchbench.core.protocol import get_protocol
from benchbench.core.results import SEARCH_BEGUN
from benchbench.core.search_result import SCHEMA
from benchbench.search.budget import CostBudget, budget_from_json
from benchbench.search.job import SearchJob, job_from_json
from benchbench.search.problem import OBJECTIVES
from benchbench.search.storage import without_password

JOB = SEARCH_BEGUN
#: Fields of a request that may differ when a search goes on.
CHANGEABLE = ("controls", "time_s", "storage", "workers", "threads")
_SEEDS = 2**31  # all generators take a smaller seed, with a worker's index added


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """Arguments of `bench search`."""

    budget: CostBudget
    data: str = "phantom"
    device: str = "cpu"
    objective: str = "latency"
    phase: Literal["infer", "train"] = "infer"
    time_s: float = 1800.0
    trials: int | None = None
    finalists: int = 3
    seeds: int = 2
    controls: bool = False
    parent: Path | None = None
    spatial: tuple[int, int, int] | None = None
    volume: tuple[int, ...] | None = None
    fold: int | None = None
    steps: int | None = None
    batch: int | None = None
    threads: int | None = None
    storage: str | None = None
    study: str | None = None
    workers: int = 1
    seed: int = 0
    protocol: str = "quick"

    def to_json(self) -> dict[str, Any]:
        """As JSON values, without a password."""
        plain: dict[str, Any] = rec.to_json(
            dataclasses.asdict(dataclasses.replace(self, budget=CostBudget(), parent=None))
        )
        return plain | {
            "budget": [limit.text for limit in self.budget.limits],
            "parent": str(self.parent.absolute()) if self.parent else None,
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
    path = folder / JOB
    if not path.exists():
        raise StoreError(f"{folder} is no folder of a search: it has no {JOB}")
    plain = read_json(path, "what a search was asked for,", StoreError)
    try:
        if not isinstance(plain, dict) or not isinstance(plain["asked"], dict):
            raise TypeError("it is no table of 'asked' and 'job'")
        schema = plain.get("schema", SCHEMA)
        if not isinstance(schema, int) or schema > SCHEMA:
            raise StoreError(f"{path} has schema {schema!r}, and this benchbench reads up to {SCHEMA}: upgrade it")
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
    budget, parent = budget_from_json(plain["budget"]), plain.get("parent")
    if not (parent is None or isinstance(parent, str)):
        raise TypeError(f"parent must be a text, not {parent!r}")
    rest = {key: value for key, value in plain.items() if key != "parent"}
    request = rec.from_json(SearchRequest, {**rest, "budget": rec.to_json(budget)})
    check_request(request)
    return dataclasses.replace(request, parent=Path(parent) if parent else None)


def check_request(request: SearchRequest) -> None:
    """Check the numbers and names of a request.

    Raises:
        UsageError: a value out of range, or an unknown objective or protocol.
    """
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
