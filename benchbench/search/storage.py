"""Storage of a search: Optuna's own database, on this machine or on another one.

Every worker has a heartbeat in it; one that another worker has seen silent for long enough has died, and its trial is
taken up again. Where it only slept, it notices when it wakes, and goes on with another trial. A database that is away
for a moment (a restart, a cable) is waited for, also by the heartbeat, whose thread would otherwise end for good and
make a living worker look dead.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import optuna
from optuna.storages._heartbeat import get_heartbeat_thread
from optuna.trial import FrozenTrial, TrialState

from benchbench.core.errors import BenchError, StoreError, first_line

log = logging.getLogger(__name__)

HEARTBEAT_S, GRACE_S = 10, 60  # a worker that is seen silent for so long has died, and its trial is taken up again
PATIENCE_S = 120.0  # how long a database may be away
RETRIES = 3  # of a trial whose worker died
_PAUSE_S = 1.0
_BROKEN = "broken"  # of a trial: the error that ended its worker
_CONNECT_S = 10  # that one try to reach a server may take
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
    "_get_trials",
    "_create_new_trial",
    "agree",
    "beats",
)


class TrialReassigned(Exception):
    """What this worker was at is another one's by now: it was silent for too long."""


class PatientStorage(optuna.storages.RDBStorage):
    """Optuna's database, waited for while it is away."""

    def __init__(self, url: str, *, heartbeat_s: int, grace_s: int, patience_s: float) -> None:
        """Open it, or make its tables.

        Args:
            url: as SQLAlchemy has it.
            grace_s: after which a silent one has died.
            patience_s: how long the database may be away.
        """
        self._patience_s, self._grace_s = patience_s, grace_s
        self._shown = without_password(url)
        self._watched: dict[int, tuple[object, float, float]] = {}  # trial -> its last beat, seconds seen silent, when
        self._at: int | None = None  # the trial that this worker is at
        self._is_lost = False
        self.hurried = False  # somebody wants to leave: nothing is waited for any more
        self.gone: StoreError | None = None  # why it is of no use any more
        engine: dict[str, Any] = {"pool_pre_ping": True}
        if url.startswith("postgresql"):
            engine["connect_args"] = {"connect_timeout": _CONNECT_S}
        super().__init__(url, engine_kwargs=engine, heartbeat_interval=heartbeat_s, grace_period=grace_s)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """As Optuna's; where rows cannot be locked (SQLite), the file is, before the trial's state is read.

        Optuna reads the state first and writes it then; two workers of one file would both be told that a queued
        trial is theirs (optuna/optuna#4002, #4621).
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
        """What the first worker has said under a key of a study, and whether that was this one."""
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

    def beats(self, study_id: int) -> dict[int, object]:
        """The last sign of life of each running trial; None: there was none."""
        from optuna.storages._rdb import models

        trials, signs = models.TrialModel, models.TrialHeartbeatModel
        with self.scoped_session() as session:
            rows = (
                session.query(trials.trial_id, signs.heartbeat)
                .outerjoin(signs, trials.trial_id == signs.trial_id)
                .filter(trials.study_id == study_id, trials.state == TrialState.RUNNING)
            )
            return {int(trial_id): beat for trial_id, beat in rows}

    def silent(self, study_id: int) -> list[int]:
        """Running trials that this process has seen without a sign of life for the whole grace.

        Its own looks are what counts, and of the time between two of them half a grace at most: neither clocks that
        disagree, nor a database that was away, nor a night that all workers slept through make a living one dead.
        """
        now, beats = time.monotonic(), self.beats(study_id)
        for trial_id, beat in beats.items():
            before, seen_s, at = self._watched.get(trial_id, (beat, 0.0, now))
            seen_s += min(now - at, self._grace_s / 2)
            self._watched[trial_id] = (beat, seen_s if beat == before else 0.0, now)
        return [trial_id for trial_id in beats if self._watched[trial_id][1] >= self._grace_s]

    def record_heartbeat(self, trial_id: int) -> None:
        """A sign of life; here it shows whether the trial is still this worker's."""
        super().record_heartbeat(trial_id)
        if trial_id == self._at and super().get_trial(trial_id).state != TrialState.RUNNING:
            self._is_lost = True

    def check(self, *, now: bool = False) -> None:
        """Stop what is not this worker's own any more.

        Args:
            now: ask the storage; else what the last sign of life showed.

        Raises:
            TrialReassigned: another worker has taken up the trial.
        """
        if now and self._at is not None and self.get_trial(self._at).state != TrialState.RUNNING:
            self._is_lost = True
        if self._at is not None and self._is_lost:
            raise TrialReassigned

    @contextlib.contextmanager
    def at(self, trial_id: int) -> Iterator[None]:
        """While this worker is at a trial, with a heartbeat."""
        self._at, self._is_lost = trial_id, False
        try:
            with get_heartbeat_thread(trial_id, self):
                try:
                    yield
                except KeyboardInterrupt:
                    self.hurried = True  # also the heartbeat, which is waited for
                    raise
        finally:
            self._at = None


def _patient(name: str, original: Callable[..., T]) -> Callable[..., T]:
    @functools.wraps(original)
    def call(self: PatientStorage, *args: Any, **kwargs: Any) -> T:
        from sqlalchemy.exc import DBAPIError, PendingRollbackError, SQLAlchemyError

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
                if isinstance(cause, DBAPIError) and _is_none_of_ours(cause):
                    raise StoreError(
                        f"the search's storage {self._shown} is none of a search, or damaged ({_why(cause)}): put it "
                        "aside, or give another --storage or --out"
                    ) from error
                if not isinstance(cause, (DBAPIError, PendingRollbackError)) or _is_ours(cause):
                    raise
                over = self.hurried or time.monotonic() >= end
                if name == "record_heartbeat" and (self.gone or over):
                    return None  # type: ignore[return-value]  # the main thread says it
                if over:
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


def _is_none_of_ours(error: BaseException) -> bool:
    """Whether a file is no database, a damaged one, or one of other tables: no waiting makes it one."""
    return bool(re.search(r"no such (table|column)|has no column|not a database|malformed|readonly", str(error)))


for _name in _ASKED:
    if _found := getattr(PatientStorage, _name, None):
        setattr(PatientStorage, _name, _patient(_name, _found))


def open_storage(
    url: str, *, heartbeat_s: int = HEARTBEAT_S, grace_s: int = GRACE_S, patience_s: float = PATIENCE_S
) -> PatientStorage:
    """Optuna's storage, with a heartbeat.

    Args:
        url: `sqlite:///study.db`, `postgresql://user@host/database`.
        grace_s: after which a silent one has died.
        patience_s: how long the database may be away later on; here it is not waited for.

    Raises:
        StoreError: it cannot be reached, or its driver is not installed.
    """
    if re.match(r"\w+(\+\w+)?://[^/]*:.*@.*@", url):  # what follows the first one would be taken, and shown, as a host
        raise StoreError(f"an @ in the password of {without_password(url)} has to be written as %40")
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
    named = re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url)
    return named.replace("{", "{{").replace("}", "}}")  # Optuna fills in what stands in braces


def without_password(url: str) -> str:
    """A URL that may be shown and kept."""
    plain = re.sub(r"(://[^:/@]*):.*@", r"\1:...@", url)
    return re.sub(r"([?&]\w*password=)[^&]*", r"\1...", plain)


def run_trial(
    study: optuna.Study,
    objective: Callable[[optuna.Trial], Any],
    *,
    after: Callable[[FrozenTrial], None],
    only_queued: bool = False,
) -> bool:
    """Have one trial run here: a queued one, or else a new one.

    What `study.optimize` does, and beyond it: a worker outlives a trial that it has lost, and leaves at once when it is
    told to.

    Args:
        objective: a trial -> its value, or values.
        after: told the trial where it was settled here.
        only_queued: no new one.

    Returns:
        Whether there was one.

    Raises:
        StoreError: the storage has been away for too long.
    """
    backend = _backend(study)
    fail_stale_trials(study)
    trial = _next(study, only_queued=only_queued)
    if trial is None:
        return False
    values, state = None, None
    try:
        with backend.at(trial._trial_id):
            try:
                values = objective(trial)
            except optuna.TrialPruned:
                state = TrialState.PRUNED
    except (TrialReassigned, optuna.exceptions.UpdateFinishedTrialError):
        return _say_it_is_lost(trial)
    except BaseException as error:
        backend.hurried = backend.hurried or isinstance(error, KeyboardInterrupt)
        with contextlib.suppress(Exception):
            if not (isinstance(error, KeyboardInterrupt) or error is backend.gone):
                backend.set_trial_system_attr(trial._trial_id, _BROKEN, first_line(error))
            backend.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        raise
    try:
        frozen = study.tell(trial, values, state=state)
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
        if backend.get_trial(trial._trial_id).state == TrialState.RUNNING:
            raise
        return _say_it_is_lost(trial)
    after(frozen)
    return True


def _next(study: optuna.Study, *, only_queued: bool) -> optuna.Trial | None:
    if only_queued:
        number = study._pop_waiting_trial_id()
        return None if number is None else optuna.Trial(study, number)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Heartbeat of storage")  # it has one, in `run_trial`
        return study.ask()


def _say_it_is_lost(trial: optuna.Trial) -> bool:
    log.warning("this worker was silent for too long: another one has taken up trial %d", trial.number)
    return True


def agree(study: optuna.Study, key: str, value: Any) -> tuple[Any, bool]:
    """What the first worker has said under a key, and whether that was this one.

    Args:
        study: of a storage of ours.
        key: what is to be agreed on.
        value: what this worker would say; JSON values.
    """
    return _backend(study).agree(study._study_id, key, value)


def check_own(study: optuna.Study, *, now: bool = False) -> None:
    """Stop what is not this worker's own any more: in a long training, and before it hands on what it has made.

    Args:
        now: ask the storage; else what the last sign of life showed.

    Raises:
        TrialReassigned: another worker has taken up the trial.
    """
    _backend(study).check(now=now)


def _backend(study: optuna.Study) -> PatientStorage:
    backend = getattr(study._storage, "_backend", study._storage)
    assert isinstance(backend, PatientStorage)
    return backend


def fail_stale_trials(study: optuna.Study) -> None:
    """Queue again what a worker that has fallen silent was at, also one that died before its first sign of life."""
    backend = _backend(study)
    for trial_id in backend.silent(study._study_id):
        try:
            if backend.set_trial_state_values(trial_id, state=TrialState.FAIL):
                _queue_again(study, backend.get_trial(trial_id), RETRIES)
        except optuna.exceptions.UpdateFinishedTrialError:
            continue  # another worker was faster


def _queue_again(study: optuna.Study, trial: FrozenTrial, most: int | None = None) -> None:
    trial.system_attrs.pop(_BROKEN, None)
    optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=most)(study, trial)


def _why(error: BaseException) -> str:
    return without_password(first_line(error))


def drop_waiting(study: optuna.Study, trial: FrozenTrial) -> None:
    """Have a queued trial never run, unless another worker was faster."""
    storage = study._storage
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        if storage.set_trial_state_values(trial._trial_id, state=TrialState.RUNNING):  # as who takes it does
            storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)


def requeue_interrupted(study: optuna.Study, *, alone: bool = True) -> int:
    """Queue what was broken off, by a person or by an error of the machine.

    Args:
        alone: whether no other process uses the storage: then what runs by its word does not run either.

    Returns:
        How many trials were queued.
    """
    if alone:
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            study._storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
    broken_off = _broken_off(study)
    for trial in broken_off:
        _queue_again(study, trial)
    return len(broken_off)


def take_up_the_left(study: optuna.Study) -> int:
    """Queue what workers have left that were told to stop, while others go on; not what an error has ended.

    Returns:
        How many trials were queued.
    """
    left = [
        trial
        for trial in _broken_off(study)
        if _BROKEN not in trial.system_attrs and len(trial.system_attrs.get("retry_history", ())) < RETRIES
    ]
    for trial in left:
        _queue_again(study, trial)
    return len(left)


def errors(study: optuna.Study) -> list[str]:
    """What has ended workers, in order."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    return [str(trial.system_attrs[_BROKEN]) for trial in trials if _BROKEN in trial.system_attrs]


def _broken_off(study: optuna.Study) -> list[FrozenTrial]:
    trials = study.get_trials()
    known = {n for trial in trials for n in trial.system_attrs.get("retry_history", ())}
    return [t for t in trials if t.state == TrialState.FAIL and t.number not in known and _has_a_task(t)]


def _has_a_task(trial: FrozenTrial) -> bool:
    return bool(trial.params or trial.user_attrs)


# -- queued trainings: each phase is a study, in which a training that was queued twice is done once

_LABEL, _WORK, _RESULT, _ERROR = "label", "work", "result", "error"
_POLL_S = 1.0


class OutOfTime(BenchError):
    """The time of a search is used up: what is being done is left out, and stays to be done with more time."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class QueuedTraining:
    """A parent, promotion, final or control that waits."""

    label: str  # unique in its phase
    what: Mapping[str, Any]  # JSON values


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """A queued training that is finished."""

    label: str
    what: Mapping[str, Any]
    result: Mapping[str, Any]  # JSON values
    error: str | None = None  # why there is no result


def open_phase(storage: optuna.storages.BaseStorage, name: str) -> optuna.Study:
    """The study of a phase, created if it is not there."""
    return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)


def queue_trainings(phase: optuna.Study, pieces: Sequence[QueuedTraining], *, alone: bool = False) -> None:
    """Queue trainings that are not there yet.

    Args:
        pieces: in the order in which they are to be done.
        alone: whether nobody else adds any: then what waits since the search had less time, and is not asked for any
            more, is dropped.
    """
    if alone:
        labels = {piece.label for piece in pieces}
        for trial in phase.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            if trial.user_attrs.get(_LABEL) not in labels:
                drop_waiting(phase, trial)
    trials = phase.get_trials(deepcopy=False)
    there = {trial.user_attrs.get(_LABEL) for trial in trials if trial.state != TrialState.FAIL}
    there |= {trial.user_attrs.get(_LABEL) for trial in trials if trial.state == TrialState.FAIL and not alone}
    for piece in pieces:
        if piece.label not in there:
            phase.enqueue_trial({}, user_attrs={_LABEL: piece.label, _WORK: dict(piece.what)})


def run_queue(
    phase: optuna.Study,
    do: Callable[[QueuedTraining], Mapping[str, Any]],
    *,
    strict: bool = False,
    report: Callable[[TrainingResult], None] | None = None,
    late: Callable[[], bool] | None = None,
    poll_s: float = _POLL_S,
) -> list[TrainingResult]:
    """Train what is queued until nothing waits and no other worker is at anything.

    Args:
        do: a piece -> its result; what goes wrong in it becomes the piece's error.
        strict: an error of a piece ends the work instead; the piece stays to be done.
        report: told of each training that was done here.
        late: whether no further piece is to be begun; what waits then stays to be done with more time, as does one
            that is out of time.
        poll_s: between two looks at what other workers do.
    """

    def train(trial: optuna.Trial) -> float:
        label = trial.user_attrs.get(_LABEL)
        if (
            label is None
            or any(d.label == label for d in finished_trainings(phase))
            or _runs_elsewhere(phase, label, trial.number)
        ):
            raise optuna.TrialPruned
        piece = QueuedTraining(label=label, what=trial.user_attrs[_WORK])
        try:
            result = dict(do(piece))
        except (StoreError, OutOfTime):
            raise
        except (BenchError, ValueError, RuntimeError) as error:
            if strict:
                raise
            trial.set_user_attr(_ERROR, first_line(error))
            return float("-inf")
        trial.set_user_attr(_RESULT, result)
        return float(result.get("value", 0.0))

    def after(trial: FrozenTrial) -> None:
        if report and trial.state == TrialState.COMPLETE:
            report(_done(trial))

    over = False
    while True:
        over = over or bool(late and late())
        try:
            if not over and run_trial(phase, train, after=after, only_queued=True):
                continue
        except OutOfTime:
            over = True
        running = phase.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if any(_LABEL in trial.user_attrs for trial in running):
            time.sleep(poll_s)
            fail_stale_trials(phase)
        elif over or not take_up_the_left(phase):
            return finished_trainings(phase)


def _runs_elsewhere(phase: optuna.Study, label: str, number: int) -> bool:
    """Whether an older trial of the same piece, queued by another worker in the same moment, is at it."""
    running = phase.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return any(trial.number < number and trial.user_attrs.get(_LABEL) == label for trial in running)


def finished_trainings(phase: optuna.Study) -> list[TrainingResult]:
    """What is finished, each piece once, in the order in which they were queued."""
    by_label: dict[str, TrainingResult] = {}
    for trial in phase.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        by_label.setdefault(trial.user_attrs[_LABEL], _done(trial))
    return list(by_label.values())


def _done(trial: FrozenTrial) -> TrainingResult:
    attributes = trial.user_attrs
    return TrainingResult(
        label=attributes[_LABEL],
        what=attributes[_WORK],
        result=attributes.get(_RESULT, {}),
        error=attributes.get(_ERROR),
    )
