"""Where a search keeps what it knows: Optuna's own database, on this machine or on another one.

Every worker has a heartbeat in it; one that falls silent has died, and its trial is taken up again. A database that is
away for a moment (a restart, a cable) is waited for, also by the heartbeat, whose thread would otherwise end for good
and make a living worker look dead.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import logging
import re
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import optuna
from optuna.trial import FrozenTrial, TrialState

from benchbench.errors import StoreError, first_line

log = logging.getLogger(__name__)

HEARTBEAT_S, GRACE_S = 10, 60  # a worker that is silent for so long has died, and its trial is taken up again
PATIENCE_S = 120.0  # how long a database may be away
RETRIES = 3  # of a trial whose worker died
_PAUSE_S = 1.0
_TRIES = 5  # to open a storage whose tables another worker is making

T = TypeVar("T")

#: What Optuna asks of a storage; each may meet a database that is away.
_ASKED = (
    "create_new_study",
    "set_study_user_attr",
    "set_study_system_attr",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "create_new_trial",
    "set_trial_param",
    "_set_trial_param",
    "get_trial_id_from_study_id_trial_number",
    "get_trial_number_from_id",
    "get_trial_param",
    "set_trial_state_values",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "get_trial",
    "get_trial_user_attrs",
    "get_trial_system_attrs",
    "get_all_trials",
    "get_n_trials",
    "get_best_trial",
    "record_heartbeat",
    "_get_stale_trial_ids",
    "_get_trials",
    "never_beat",
    "_create_new_trial",
)


class PatientStorage(optuna.storages.RDBStorage):
    """Optuna's database, waited for while it is away."""

    def __init__(self, url: str, *, heartbeat_s: int, grace_s: int, patience_s: float) -> None:
        """Open it, or make its tables.

        Args:
            url: as SQLAlchemy has it.
            heartbeat_s: between two signs of life of a worker.
            grace_s: after which a silent one has died.
            patience_s: how long the database may be away.
        """
        self._patience_s = patience_s
        self._shown = without_password(url)
        self._grace_s = grace_s
        self.gone: StoreError | None = None  # why it is of no use any more
        retry = optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=RETRIES)
        super().__init__(
            url,
            engine_kwargs={"pool_pre_ping": True},
            heartbeat_interval=heartbeat_s,
            grace_period=grace_s,
            heartbeat_stale_trial_callback=retry,
        )

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """As Optuna's; where rows cannot be locked (SQLite), the file is, before the trial's state is read.

        Optuna reads the state first and writes it then; two workers of one file would both be told that a queued
        trial is theirs (optuna/optuna#4002, #4621).
        """
        if self.engine.dialect.name == "sqlite":
            from optuna.storages._rdb import models
            from sqlalchemy.exc import SQLAlchemyError

            session = self.scoped_session()  # this thread's own, which Optuna goes on in
            own = session.query(models.TrialModel).filter(models.TrialModel.trial_id == trial_id)
            try:
                own.update({models.TrialModel.trial_id: trial_id}, synchronize_session=False)
            except SQLAlchemyError:
                session.rollback()
                session.close()
                raise
        return super().set_trial_state_values(trial_id, state, values)

    def never_beat(self, study_id: int) -> list[int]:
        """Running trials that are older than two graces, and have no sign of life at all."""
        from optuna.storages._rdb import models

        with self.scoped_session() as session:
            rows = (
                session.query(models.TrialModel.trial_id)
                .outerjoin(
                    models.TrialHeartbeatModel, models.TrialModel.trial_id == models.TrialHeartbeatModel.trial_id
                )
                .filter(models.TrialModel.study_id == study_id, models.TrialModel.state == TrialState.RUNNING)
                .filter(models.TrialHeartbeatModel.trial_id.is_(None))
            )
            silent = [int(row[0]) for row in rows]
        before = datetime.datetime.now() - datetime.timedelta(seconds=2 * self._grace_s)
        started = {trial_id: self.get_trial(trial_id).datetime_start for trial_id in silent}
        return [trial_id for trial_id, at in started.items() if at is not None and at < before]


def _patient(name: str, original: Callable[..., T]) -> Callable[..., T]:
    @functools.wraps(original)
    def call(self: PatientStorage, *args: Any, **kwargs: Any) -> T:
        from sqlalchemy.exc import DBAPIError, SQLAlchemyError

        if self.gone and name != "record_heartbeat":
            raise self.gone
        end = time.monotonic() + self._patience_s
        again = False
        while True:
            try:
                return original(self, *args, **kwargs)
            except optuna.exceptions.UpdateFinishedTrialError:
                if again and name == "set_trial_state_values" and _arrived(self, *args, **kwargs):
                    return True  # type: ignore[return-value]  # before the line broke
                raise
            except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
                cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
                if not isinstance(cause, DBAPIError) or _is_ours(cause):
                    raise
                if name == "record_heartbeat" and (self.gone or time.monotonic() >= end):
                    return None  # type: ignore[return-value]  # the main thread says it
                if time.monotonic() >= end:
                    self.gone = StoreError(
                        f"the search's storage {self._shown} has been away for {self._patience_s:.0f} s "
                        f"({_why(cause)}); everything told to it is kept: run the same command again"
                    )
                    raise self.gone from error
                log.warning("the storage %s is away (%s); trying again", self._shown, _why(cause))
                again = True
                time.sleep(_PAUSE_S)

    return call


def _arrived(storage: PatientStorage, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
    there = storage.get_trial(trial_id)
    return there.state == state and there.values == (None if values is None else list(values))


def _is_ours(error: BaseException) -> bool:
    """Whether a database refused what was said rather than being away."""
    from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError

    return isinstance(error, (DataError, IntegrityError, ProgrammingError))


for _name in _ASKED:
    if _found := getattr(PatientStorage, _name, None):
        setattr(PatientStorage, _name, _patient(_name, _found))


def open_storage(
    url: str, *, heartbeat_s: int = HEARTBEAT_S, grace_s: int = GRACE_S, patience_s: float = PATIENCE_S
) -> PatientStorage:
    """Optuna's storage, with a heartbeat.

    Args:
        url: `sqlite:///study.db`, `postgresql://user@host/database`.
        heartbeat_s: between two signs of life of a worker.
        grace_s: after which a silent one has died.
        patience_s: how long the database may be away later on; here it is not waited for.

    Raises:
        StoreError: it cannot be reached, or its driver is not installed.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    try:
        for left in reversed(range(_TRIES)):
            try:
                return PatientStorage(
                    _with_driver(url), heartbeat_s=heartbeat_s, grace_s=grace_s, patience_s=patience_s
                )
            except Exception as error:
                if left == 0 or not re.search(r"already exists|duplicate key|UNIQUE constraint", str(error)):
                    raise
                time.sleep(_PAUSE_S)  # another worker is making the tables at this very moment
        raise AssertionError
    except ImportError as error:
        raise StoreError(
            f"the storage {without_password(url)} needs a driver: {error}; pip install 'benchbench[postgres]'"
        ) from error
    except StoreError:
        raise
    except Exception as error:  # whatever SQLAlchemy and the driver raise
        raise StoreError(
            f"cannot open the search's storage {without_password(url)}: {_why(error)}; is it running, and is "
            "the address right?"
        ) from error


def _with_driver(url: str) -> str:
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url)


def without_password(url: str) -> str:
    """A URL that may be shown and kept."""
    plain = re.sub(r"(://[^:/@]*):.*@", r"\1:...@", url)
    return re.sub(r"([?&]password=)[^&]*", r"\1...", plain)


def optimize(
    study: optuna.Study,
    one: Callable[[optuna.Trial], Any],
    *,
    after: Callable[[optuna.Study, FrozenTrial], None],
    n_trials: int | None = None,
) -> None:
    """`study.optimize`, whose worker outlives a trial that it has lost, and that says when the storage has gone.

    A worker that was silent for longer than the grace (a machine that slept) counts as dead, and another one takes up
    its trial; where it wakes, that trial is not its own any more: this returns, and the caller goes on.

    Args:
        study: of a storage of ours.
        one: a trial -> its value, or values.
        after: told each trial that is settled here.
        n_trials: how many; None: until `after` stops the study.

    Raises:
        StoreError: the storage has been away for too long.
    """
    lost = False

    def own(trial: optuna.Trial) -> Any:
        nonlocal lost
        try:
            return one(trial)
        except optuna.exceptions.UpdateFinishedTrialError:
            lost = True
            raise

    try:
        study.optimize(own, n_trials=n_trials, callbacks=[after])
    except Exception as error:
        if (gone := _backend(study).gone) is not None:
            raise gone from error
        if not lost:
            raise
        log.warning("this worker was silent for too long; what it was at has been taken up again")


def _backend(study: optuna.Study) -> PatientStorage:
    found = getattr(study._storage, "_backend", study._storage)
    assert isinstance(found, PatientStorage)
    return found


def fail_the_dead(study: optuna.Study) -> None:
    """Queue again what a worker that has fallen silent was at, also one that died before its first sign of life."""
    optuna.storages.fail_stale_trials(study)
    backend = _backend(study)
    retry = backend.get_heartbeat_stale_trial_callback()
    for trial_id in backend.never_beat(study._study_id):
        try:
            if backend.set_trial_state_values(trial_id, state=TrialState.FAIL) and retry:
                retry(study, backend.get_trial(trial_id))
        except optuna.exceptions.UpdateFinishedTrialError:
            continue  # another worker was faster


def _why(error: BaseException) -> str:
    return without_password(first_line(error))


def drop_waiting(study: optuna.Study, trial: FrozenTrial) -> None:
    """Have a queued trial never run, unless another worker was faster."""
    storage = study._storage
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        if storage.set_trial_state_values(trial._trial_id, state=TrialState.RUNNING):  # as who takes it does
            storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)


def take_up_again(study: optuna.Study, *, alone: bool = True) -> int:
    """Queue what was broken off, by a person or by an error of the machine.

    Args:
        study: of the search, or of a part of it.
        alone: whether no other process uses the storage: then what runs by its word does not run either.

    Returns:
        How many trials were queued.
    """
    retry = optuna.storages.RetryHeartbeatStaleTrialCallback()
    trials = study.get_trials(deepcopy=False)
    known = {n for trial in trials for n in trial.system_attrs.get("retry_history", ())}
    count = 0
    for trial in trials:
        lost = alone and trial.state == TrialState.RUNNING
        if lost:
            study._storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
        if (lost or trial.state == TrialState.FAIL) and trial.number not in known and _has_a_task(trial):
            retry(study, study._storage.get_trial(trial._trial_id))
            count += 1
    return count


def _has_a_task(trial: FrozenTrial) -> bool:
    return bool(trial.params or trial.user_attrs)
