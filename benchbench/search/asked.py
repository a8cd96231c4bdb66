"""What `bench search` is asked for, and what of it a folder keeps so that the search can go on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from benchbench import records as rec
from benchbench.errors import StoreError, UsageError
from benchbench.search.budget import Budget, parse_budget
from benchbench.search.storage import without_password

JOB = "job.json"
#: What may differ when a search goes on.
FREE = ("controls", "time_s", "storage", "workers", "threads")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What `bench search` was asked for."""

    budget: Budget
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
        plain: dict[str, Any] = rec.to_json(dataclasses.asdict(dataclasses.replace(self, budget=Budget(), parent=None)))
        return plain | {
            "budget": [limit.text for limit in self.budget.limits],
            "parent": str(self.parent.absolute()) if self.parent else None,
            "storage": without_password(self.storage) if self.storage else None,
        }


def resumed(folder: Path, storage: str | None, **changes: Any) -> Asked:
    """What the search in a folder was asked for.

    Args:
        folder: of the search.
        storage: its address, where it is not in the folder and has a password.
        changes: fields of `Asked` that may differ from then; None: as then.

    Raises:
        StoreError: there is no search.
    """
    path = folder / JOB
    try:
        plain = json.loads(path.read_text())["asked"]
        known: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in plain.items()}
        known["budget"] = parse_budget(plain["budget"])
        known["parent"] = Path(plain["parent"]) if plain["parent"] else None
        asked = Asked(**known)
    except FileNotFoundError as error:
        raise StoreError(f"{folder} is no folder of a search: it has no {JOB}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} does not describe a search: {error}") from error
    if storage:
        asked = dataclasses.replace(asked, storage=storage)
    elif asked.storage and ":...@" in asked.storage:
        raise UsageError(
            f"the storage of this search is {asked.storage}: give it again by --storage, with its password"
        )
    return dataclasses.replace(asked, **{key: value for key, value in changes.items() if value is not None})
