"""Storage of a search: Optuna's database, local or on a server, with heartbeats and retries.

A worker whose heartbeat stops is taken for dead, and its trial is queued again; a worker that only slept notices this
when it wakes, and goes on with another trial. While the database is unreachable (a restart, a broken connection) calls
are retried, also by the heartbeat, whose thread would otherwise end and make a living worker look dead.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import optuna
from optuna.storages._heartbeat import get_heartbeat_thread
from optuna.trial import FrozenTrial, TrialState

from benchbench.core.errors import StoreError, first_line

log = logging.getLogger(__name__)

HEARTBEAT_S, GRACE_S = 10, 60  # a worker without a heartbeat for GRACE_S is taken for dead
PATIENCE_S = 120.0  # how long the database may be unreachable
RETRIES = 3  # of a trial whose worker died
_PAUSE_S = 1.0  # between retries of a call
_FAILURE = "broken"  # attribute of a trial: the error that ended its worker
_CONNECT_S = 10  # timeout of one attempt to reach a server
_TRIES = 5  # to open a storage while another worker creates its tables

T = TypeVar("T")

#: Methods that Optuna calls, each of which may find the database unreachable.
_RETRIED = (
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
    "_get_trials",
    "_create_new_trial",
    "agree",
    "last_heartbeats",
)


class TrialReassigned(Exception):
    """The trial of this worker was given to another one, since its heartbeat stopped for too long."""


class RetryingStorage(optuna.storages.RDBStorage):
    """Optuna's database, whose calls are retried while it is unreachable."""

    def __init__(self, url: str, *, heartbeat_s: int, grace_s: int, patience_s: float) -> None:
        self._patience_s, self._grace_s = patience_s, grace_s
        self._shown = without_password(url)
        self._watched: dict[int, tuple[object, float, float]] = {}  # trial -> last heartbeat, seconds without one, when
        self._trial_id: int | None = None  # that this worker runs
        self._is_reassigned = False
        self.leaving = False  # interrupted by the user: no call is retried
        self.unavailable: StoreError | None = None  # why it cannot be used any more
        engine: dict[str, Any] = {"pool_pre_ping": True}
        if url.startswith("postgresql"):
            engine["connect_args"] = {"connect_timeout": _CONNECT_S}
        super().__init__(url, engine_kwargs=engine, heartbeat_interval=heartbeat_s, grace_period=grace_s)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """As Optuna's, but with SQLite, which cannot lock rows, the file is locked before the state is read.

        Otherwise two workers could both take the same queued trial (optuna/optuna#4002, #4621).
        """
        if self.engine.dialect.name == "sqlite":
            from optuna.storages._rdb import models

            session = self.scoped_session()  # this thread's own, which Optuna goes on in
            row = session.query(models.TrialModel).filter(models.TrialModel.trial_id == trial_id)
            try:
                row.update({models.TrialModel.trial_id: trial_id}, synchronize_session=False)
            except BaseException:
                session.rollback()
                session.close()
                raise
        return super().set_trial_state_values(trial_id, state, values)

    def agree(self, study_id: int, key: str, value: Any) -> tuple[Any, bool]:
        """The value that the first worker stored under a key of a study, and whether it was this worker."""
        from optuna.storages._rdb import models
        from sqlalchemy.exc import IntegrityError

        session, first = self.scoped_session(), True
        try:
            session.add(models.StudyUserAttributeModel(study_id=study_id, key=key, value_json=json.dumps(value)))
            session.commit()
        except IntegrityError:  # a study has each key once
            first = False
        finally:
            session.rollback()
            session.close()
        return self.get_study_user_attrs(study_id)[key], first

    def last_heartbeats(self, study_id: int) -> dict[int, object]:
        """Last heartbeat of each running trial; None: there was none."""
        from optuna.storages._rdb import models

        trials, signs = models.TrialModel, models.TrialHeartbeatModel
        with self.scoped_session() as session:
            rows = (
                session.query(trials.trial_id, signs.heartbeat)
                .outerjoin(signs, trials.trial_id == signs.trial_id)
                .filter(trials.study_id == study_id, trials.state == TrialState.RUNNING)
            )
            return {int(trial_id): beat for trial_id, beat in rows}

    def stale_trials(self, study_id: int) -> list[int]:
        """Running trials that this process has seen without a heartbeat for the whole grace period.

        Only its own observations count, and of the time between two of them at most half the grace period, so that
        clocks that disagree, an unreachable database or a suspended machine make no living worker look dead.
        """
        now, heartbeats = time.monotonic(), self.last_heartbeats(study_id)
        for trial_id, beat in heartbeats.items():
            before, seen_s, at = self._watched.get(trial_id, (beat, 0.0, now))
            seen_s += min(now - at, self._grace_s / 2)
            self._watched[trial_id] = (beat, seen_s if beat == before else 0.0, now)
        return [trial_id for trial_id in heartbeats if self._watched[trial_id][1] >= self._grace_s]

    def record_heartbeat(self, trial_id: int) -> None:
        """As Optuna's; it also notices that the trial was given to another worker."""
        super().record_heartbeat(trial_id)
        if trial_id == self._trial_id and super().get_trial(trial_id).state != TrialState.RUNNING:
            self._is_reassigned = True

    def check(self, *, now: bool = False) -> None:
        """Raise `TrialReassigned` if the trial was given to another worker; see `check_assigned`."""
        if now and self._trial_id is not None and self.get_trial(self._trial_id).state != TrialState.RUNNING:
            self._is_reassigned = True
        if self._trial_id is not None and self._is_reassigned:
            raise TrialReassigned

    @contextlib.contextmanager
    def running(self, trial_id: int) -> Iterator[None]:
        """Inside, this worker runs a trial, with a heartbeat."""
        self._trial_id, self._is_reassigned = trial_id, False
        try:
            with get_heartbeat_thread(trial_id, self):
                try:
                    yield
                except KeyboardInterrupt:
                    self.leaving = True  # so that the heartbeat, which is joined, does not retry either
                    raise
        finally:
            self._trial_id = None


def _retried(name: str, original: Callable[..., T]) -> Callable[..., T]:
    @functools.wraps(original)
    def call(self: RetryingStorage, *args: Any, **kwargs: Any) -> T:
        from sqlalchemy.exc import DBAPIError, PendingRollbackError, SQLAlchemyError

        if self.unavailable and name != "record_heartbeat":
            raise self.unavailable
        end = time.monotonic() + self._patience_s
        again = False
        while True:
            try:
                return original(self, *args, **kwargs)
            except optuna.exceptions.UpdateFinishedTrialError:
                if again and name == "set_trial_state_values" and _was_applied(self, *args, **kwargs):
                    return True  # type: ignore[return-value]  # before the connection broke
                raise
            except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
                cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
                if isinstance(cause, DBAPIError) and _is_other_file(cause):
                    raise StoreError(
                        f"the search's storage {self._shown} is not a search's database, or damaged ({_why(cause)}): "
                        "move it, or give another --storage or --out"
                    ) from error
                if not isinstance(cause, (DBAPIError, PendingRollbackError)) or _is_refusal(cause):
                    raise
                over = self.leaving or time.monotonic() >= end
                if name == "record_heartbeat" and (self.unavailable or over):
                    return None  # type: ignore[return-value]  # the main thread raises it
                if over:
                    self.unavailable = StoreError(
                        f"the search's storage {self._shown} has been unreachable for {self._patience_s:.0f} s "
                        f"({_why(cause)}); what it holds is kept: run the same command again"
                    )
                    raise self.unavailable from error
                log.warning("the storage %s is unreachable (%s); trying again", self._shown, _why(cause))
                again = True
                time.sleep(_PAUSE_S)

    return call


def _was_applied(
    storage: RetryingStorage, trial_id: int, state: TrialState, values: Sequence[float] | None = None
) -> bool:
    stored = storage.get_trial(trial_id)
    return stored.state == state and stored.values == (None if values is None else list(values))


def _is_refusal(error: BaseException) -> bool:
    """Whether a database refused a statement, rather than being unreachable."""
    from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError

    return isinstance(error, (DataError, IntegrityError, ProgrammingError))


def _is_other_file(error: BaseException) -> bool:
    """Whether a file is no database, a damaged one, or one with other tables."""
    return bool(re.search(r"no such (table|column)|has no column|not a database|malformed|readonly", str(error)))


for _name in _RETRIED:
    if _method := getattr(RetryingStorage, _name, None):
        setattr(RetryingStorage, _name, _retried(_name, _method))


def open_storage(
    url: str, *, heartbeat_s: int = HEARTBEAT_S, grace_s: int = GRACE_S, patience_s: float = PATIENCE_S
) -> RetryingStorage:
    """Optuna's storage, with a heartbeat.

    Args:
        url: `sqlite:///study.db`, `postgresql://user@host/database`.
        grace_s: without a heartbeat, after which a worker is taken for dead.
        patience_s: how long later calls are retried while the database is unreachable; opening it is not retried.

    Raises:
        StoreError: it cannot be reached, or its driver is not installed.
    """
    if re.match(r"\w+(\+\w+)?://[^/]*:.*@.*@", url):  # the end of the password would be taken, and shown, as a host
        raise StoreError(f"an @ in the password of {without_password(url)} has to be written as %40")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    try:
        for left in reversed(range(_TRIES)):
            try:
                return RetryingStorage(
                    _with_driver(url), heartbeat_s=heartbeat_s, grace_s=grace_s, patience_s=patience_s
                )
            except Exception as error:
                if left == 0 or not re.search(r"already exists|duplicate key|UNIQUE constraint", str(error)):
                    raise
                time.sleep(_PAUSE_S)  # another worker is creating the tables
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
    named = re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url)
    return named.replace("{", "{{").replace("}", "}}")  # Optuna fills in what stands in braces


def without_password(url: str) -> str:
    """A URL that may be shown and stored."""
    plain = re.sub(r"(://[^:/@]*):.*@", r"\1:...@", url)
    return re.sub(r"([?&]\w*password=)[^&]*", r"\1...", plain)


def run_trial(
    study: optuna.Study,
    objective: Callable[[optuna.Trial], Any],
    *,
    after: Callable[[FrozenTrial], None],
    only_queued: bool = False,
) -> bool:
    """Run one trial here: a queued one, or else a new one.

    Beyond `study.optimize`, a worker survives the loss of its trial to another one, and leaves at once if interrupted.

    Args:
        objective: a trial -> its value, or values.
        after: called with the trial, if this worker finished it.
        only_queued: run no new one.

    Returns:
        Whether there was one.

    Raises:
        StoreError: the storage has been unreachable for too long.
    """
    backend = _backend(study)
    fail_stale_trials(study)
    trial = _next(study, only_queued=only_queued)
    if trial is None:
        return False
    values, state = None, None
    try:
        with backend.running(trial._trial_id):
            try:
                values = objective(trial)
            except optuna.TrialPruned:
                state = TrialState.PRUNED
    except (TrialReassigned, optuna.exceptions.UpdateFinishedTrialError):
        return _log_reassigned(trial)
    except BaseException as error:
        backend.leaving = backend.leaving or isinstance(error, KeyboardInterrupt)
        with contextlib.suppress(Exception):
            if not (isinstance(error, KeyboardInterrupt) or error is backend.unavailable):
                backend.set_trial_system_attr(trial._trial_id, _FAILURE, first_line(error))
            backend.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        raise
    try:
        frozen = study.tell(trial, values, state=state)
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
        if backend.get_trial(trial._trial_id).state == TrialState.RUNNING:
            raise
        return _log_reassigned(trial)
    after(frozen)
    return True


def _next(study: optuna.Study, *, only_queued: bool) -> optuna.Trial | None:
    if only_queued:
        number = study._pop_waiting_trial_id()
        return None if number is None else optuna.Trial(study, number)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Heartbeat of storage")  # it has one, in `run_trial`
        return study.ask()


def _log_reassigned(trial: optuna.Trial) -> bool:
    log.warning("this worker's heartbeat stopped for too long: trial %d was given to another worker", trial.number)
    return True


def agree(study: optuna.Study, key: str, value: Any) -> tuple[Any, bool]:
    """The value that the first worker stored under a key, and whether it was this worker.

    Args:
        value: what this worker proposes; JSON values.
    """
    return _backend(study).agree(study._study_id, key, value)


def check_assigned(study: optuna.Study, *, now: bool = False) -> None:
    """Check that the trial is still this worker's, in a long training and before its result is stored.

    Args:
        now: ask the storage; else what the last heartbeat showed.

    Raises:
        TrialReassigned: it was given to another worker.
    """
    _backend(study).check(now=now)


def _backend(study: optuna.Study) -> RetryingStorage:
    backend = getattr(study._storage, "_backend", study._storage)
    assert isinstance(backend, RetryingStorage)
    return backend


def fail_stale_trials(study: optuna.Study) -> None:
    """Queue the trials of workers whose heartbeat stopped again, also of one that died before its first heartbeat."""
    backend = _backend(study)
    for trial_id in backend.stale_trials(study._study_id):
        try:
            if backend.set_trial_state_values(trial_id, state=TrialState.FAIL):
                _queue_again(study, backend.get_trial(trial_id), RETRIES)
        except optuna.exceptions.UpdateFinishedTrialError:
            continue  # another worker was faster


def _queue_again(study: optuna.Study, trial: FrozenTrial, most: int | None = None) -> None:
    trial.system_attrs.pop(_FAILURE, None)
    optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=most)(study, trial)


def _why(error: BaseException) -> str:
    return without_password(first_line(error))


def drop_waiting(study: optuna.Study, trial: FrozenTrial) -> None:
    """Mark a queued trial as failed, unless another worker has taken it."""
    storage = study._storage
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        if storage.set_trial_state_values(trial._trial_id, state=TrialState.RUNNING):  # as who takes it does
            storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)


def requeue_interrupted(study: optuna.Study, *, alone: bool = True) -> int:
    """Queue trials again that the user or an error of the machine interrupted.

    Args:
        alone: whether no other process uses the storage: then trials that it shows as running were interrupted too.

    Returns:
        How many trials were queued.
    """
    if alone:
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            study._storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
    interrupted = _interrupted(study)
    for trial in interrupted:
        _queue_again(study, trial)
    return len(interrupted)


def requeue_abandoned(study: optuna.Study) -> int:
    """Queue trials again whose workers were stopped while others go on; not those that an error ended.

    Returns:
        How many trials were queued.
    """
    abandoned = [
        trial
        for trial in _interrupted(study)
        if _FAILURE not in trial.system_attrs and len(trial.system_attrs.get("retry_history", ())) < RETRIES
    ]
    for trial in abandoned:
        _queue_again(study, trial)
    return len(abandoned)


def errors(study: optuna.Study) -> list[str]:
    """The errors that ended workers, in order."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    return [str(trial.system_attrs[_FAILURE]) for trial in trials if _FAILURE in trial.system_attrs]


def _interrupted(study: optuna.Study) -> list[FrozenTrial]:
    trials = study.get_trials()
    queued_again = {n for trial in trials for n in trial.system_attrs.get("retry_history", ())}
    return [
        trial
        for trial in trials
        if trial.state == TrialState.FAIL and trial.number not in queued_again and (trial.params or trial.user_attrs)
    ]


def open_phase(storage: optuna.storages.BaseStorage, name: str) -> optuna.Study:
    """The study of a phase, created if it is not there."""
    return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
