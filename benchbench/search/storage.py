"""Storage of a search: Optuna's database, a file or on a server, by Optuna's public interface alone.

A worker whose heartbeat stops is taken for dead, and Optuna queues its trial again; a worker that leaves hands its
trial back itself. So a trial may be run twice, by a worker that only slept or lost its connection and by the one that
was given its trial: that costs a training, and the second result is dropped.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import optuna
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    PendingRollbackError,
    ProgrammingError,
    SQLAlchemyError,
)

from benchbench.core.errors import StoreError, first_line

log = logging.getLogger(__name__)

DATABASE = "study.db"  # of a search without a server, in its folder
HEARTBEAT_S, GRACE_S = 10, 60  # a worker without a heartbeat for GRACE_S is taken for dead
PATIENCE_S = 120.0  # how long a worker waits for a database that is away
RETRIES = 3  # of a trial whose worker died
_PAUSE_S = 1.0  # between two attempts to reach a database
_CONNECT_S = 10  # timeout of one attempt
_LOCKED_S = 60.0  # that a process waits for another one which writes to the same file
_TRIES = 5  # to open a storage while another worker creates its tables

#: What Optuna and its database raise when a call fails.
STORAGE_ERRORS = (optuna.exceptions.StorageInternalError, SQLAlchemyError)


def open_storage(url: str, *, heartbeat_s: int = HEARTBEAT_S, grace_s: int = GRACE_S) -> RDBStorage:
    """Optuna's storage, with a heartbeat.

    Args:
        url: `sqlite:///study.db`, `postgresql://user@host/database`.
        grace_s: without a heartbeat, after which a worker is taken for dead.

    Raises:
        StoreError: it cannot be reached, or its driver is not installed.
    """
    if re.match(r"\w+(\+\w+)?://[^/]*:.*@.*@", url):  # the end of the password would be taken, and shown, as a host
        raise StoreError(f"an @ in the password of {without_password(url)} has to be written as %40")
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    connect = {"timeout": _LOCKED_S} if url.startswith("sqlite") else {"connect_timeout": _CONNECT_S}
    try:
        for left in reversed(range(_TRIES)):
            try:
                return RDBStorage(
                    _with_driver(url),
                    engine_kwargs={"pool_pre_ping": True, "connect_args": connect},
                    heartbeat_interval=heartbeat_s,
                    grace_period=grace_s,
                    heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=RETRIES),
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


@contextlib.contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Inside, what a database raises becomes a `StoreError` of one line."""
    try:
        yield
    except STORAGE_ERRORS as error:
        shown, why = without_password(url), _why(_cause(error))
        if is_away(error):
            raise StoreError(
                f"the search's storage {shown} cannot be reached any more ({why}); what it holds is kept, and the "
                "same command goes on once it is there again"
            ) from error
        raise StoreError(
            f"the search's storage {shown} is not a search's database, or damaged ({why}): move it, or give another "
            "--storage or --out"
        ) from error


def is_away(error: BaseException) -> bool:
    """Whether a database cannot be reached, rather than being damaged, another one, or refusing a statement."""
    cause = _cause(error)
    refused = isinstance(cause, (DataError, IntegrityError, ProgrammingError))
    other = re.search(r"no such (table|column)|has no column|not a database|malformed|readonly", str(cause))
    return isinstance(cause, (DBAPIError, PendingRollbackError)) and not refused and not other


def _storage_error(error: BaseException | None) -> BaseException | None:
    """The storage's error behind another one: Optuna raises an `UnboundLocalError` where it cannot store a failure."""
    while error is not None and not isinstance(error, STORAGE_ERRORS):
        error = error.__context__
    return error


def _cause(error: BaseException) -> BaseException:
    return error.__cause__ or error if isinstance(error, optuna.exceptions.StorageInternalError) else error


def _why(error: BaseException) -> str:
    return without_password(first_line(error))


def optimize(
    study: optuna.Study,
    objective: Callable[[optuna.Trial], Any],
    after: Callable[[FrozenTrial], bool],
    *,
    trials: int | None = None,
    patience_s: float = PATIENCE_S,
) -> None:
    """Optuna's loop, which also outlives the loss of a trial, and a database that is away for `patience_s`.

    Args:
        after: called with each trial that this worker has finished; whether to stop.
        trials: to run at most.
    """
    current: list[int] = []  # number of the trial that runs here
    failed: list[BaseException] = []  # what the objective itself raised
    away_since: float | None = None

    def remembered(trial: optuna.Trial) -> Any:
        current[:], failed[:] = [trial.number], []
        try:
            return objective(trial)
        except (optuna.exceptions.OptunaError, SQLAlchemyError):
            raise
        except (Exception, KeyboardInterrupt) as error:
            failed.append(error)
            raise

    def callback(study: optuna.Study, trial: FrozenTrial) -> None:
        nonlocal away_since
        current.clear()
        away_since = None
        if after(trial):
            study.stop()

    while True:
        try:
            for number in current:  # of the attempt before, whose result could not be stored
                hand_back(study, number)
            current.clear()
            with _quiet_heartbeat(), warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.optimize(remembered, n_trials=trials, callbacks=[callback])
            return
        except KeyboardInterrupt:
            with contextlib.suppress(*STORAGE_ERRORS):
                for number in current:
                    hand_back(study, number)
            raise
        except Exception as error:
            if failed:  # also where the trial was given to another worker meanwhile, or the storage is away
                raise failed[0] from None
            if (broken := _storage_error(error)) and is_away(broken):
                now = time.monotonic()
                away_since = away_since or now
                if now - away_since > patience_s:
                    raise broken from broken.__cause__
                log.warning("the storage is away (%s); trying again", _why(_cause(broken)))
                time.sleep(_PAUSE_S)
                continue
            if not current or _state(study, current[0]) == TrialState.RUNNING:
                raise
            log.warning("this worker's heartbeat stopped for too long: trial %d was given to another", current[0])
            current.clear()


@contextlib.contextmanager
def _quiet_heartbeat() -> Iterator[None]:
    """Inside, a heartbeat that cannot reach its database ends without a traceback."""
    plain = threading.excepthook

    def report(args: threading.ExceptHookArgs) -> None:
        if isinstance(args.exc_value, STORAGE_ERRORS):
            log.debug("a heartbeat ended: %s", _why(_cause(args.exc_value)))
        else:
            plain(args)

    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = plain


def _state(study: optuna.Study, number: int) -> TrialState:
    return study.get_trials(deepcopy=False)[number].state


def hand_back(study: optuna.Study, number: int) -> None:
    """Queue a trial again that this worker, or one that is no more, does not finish."""
    if _state(study, number) == TrialState.RUNNING:
        with contextlib.suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):  # another was faster
            study.tell(number, state=TrialState.FAIL)
    trials = study.get_trials()
    again = {n for trial in trials for n in RetryHeartbeatStaleTrialCallback.retry_history(trial)}
    trial = trials[number]
    if trial.state == TrialState.FAIL and number not in again and trial.params:
        RetryHeartbeatStaleTrialCallback()(study, trial)


def requeue_interrupted(study: optuna.Study, *, alone: bool) -> None:
    """Queue trials again that were interrupted; in a storage that is used `alone`, also those that seem to run."""
    states = (TrialState.FAIL, TrialState.RUNNING) if alone else (TrialState.FAIL,)
    for trial in study.get_trials(deepcopy=False, states=states):
        hand_back(study, trial.number)


def waiting(study: optuna.Study) -> int:
    """Number of trials that wait to be run again, those of workers found dead just now included."""
    optuna.storages.fail_stale_trials(study)
    return len(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))


def running(study: optuna.Study) -> int:
    """Number of trials that run in some worker."""
    return len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
