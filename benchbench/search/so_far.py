"""What a search that runs has proposed so far, read from its database beside it."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import optuna
from optuna.trial import TrialState

from benchbench.search.storage import DATABASE, storage_errors


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """One proposal that trained."""

    number: int
    dice: float  # on the validation cases, after a proposal's short training
    cost: float  # of the objective, in SI units
    params: float | None
    is_front: bool  # nobody so far is better in both


def proposals(folder: Path) -> list[Proposal]:
    """The proposals that are finished, those of the front first, the cheapest before the others.

    Args:
        folder: of a search with a database of its own; nothing is written there.

    Raises:
        StoreError: it cannot be read.
    """
    path = folder / DATABASE
    if not path.exists():
        return []
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    with _readable(path) as file, storage_errors(url := f"sqlite:///{file}&uri=true"):
        names = [name for name in optuna.study.get_all_study_names(url) if "/" not in name]
        found = []
        for name in names:
            study = optuna.load_study(study_name=name, storage=url)
            if len(study.directions) != 2:
                continue
            front = {trial.number for trial in study.best_trials}
            for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
                dice, cost = trial.values
                params = trial.user_attrs.get("costs", {}).get("params")
                found.append(
                    Proposal(number=trial.number, dice=dice, cost=cost, params=params, is_front=trial.number in front)
                )
    return sorted(found, key=lambda one: (not one.is_front, one.cost))


def _read_only(path: Path) -> str:
    return f"file:{path.absolute()}?mode=ro"


def _was_broken_off(path: Path) -> bool:
    """Whether the writer of a database was killed in a transaction, which has to be undone before anything is read."""
    try:
        with contextlib.closing(sqlite3.connect(_read_only(path), uri=True)) as file:
            file.execute("select 1 from sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        return "readonly" in str(error)
    return False


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[str]:
    """SQLite's name of a database that can be read: itself, or a copy in which what was broken off can be undone."""
    if not _was_broken_off(path):
        yield _read_only(path)
        return
    with tempfile.TemporaryDirectory() as name:
        for part in path.parent.glob(f"{path.name}*"):  # the journal of the transaction, too
            shutil.copy(part, name)
        yield f"file:{Path(name) / path.name}?mode=rw"
