"""Several workers: one is killed, the database is started again, and nothing is lost or counted twice."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import event

from benchbench.core.errors import StoreError
from benchbench.search import proposals, storage, training_queue
from benchbench.search.storage import open_storage, run_trial
from tests.search_worker import PIECES

TRIALS = 14


class Server:
    """A PostgreSQL of its own on loopback."""

    def __init__(self, folder: Path) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
        path = str(found[-1]) if found else shutil.which("pg_ctl")
        if path is None:
            pytest.skip("no PostgreSQL here (Debian's package postgresql)")
        pytest.importorskip("psycopg", reason="no driver for PostgreSQL: pip install 'benchbench[postgres]'")
        self.bin, self.folder = Path(path).parent, folder
        self.user = []  # it refuses to run as root
        if os.getuid() == 0:
            if shutil.which("runuser") is None:
                pytest.skip("PostgreSQL does not run as root, and there is no runuser")
            self.user = ["runuser", "-u", "postgres", "--"]
            shutil.chown(folder, "postgres")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._run("initdb", "-D", str(folder / "data"), "-A", "trust", "-U", "me", "-E", "UTF8")
        self.start()
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "me", "search")

    @property
    def url(self) -> str:
        return f"postgresql://me@127.0.0.1:{self.port}/search"

    def _run(self, tool: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self.user, str(self.bin / tool), *arguments],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -c fsync=off"
        self._run(
            "pg_ctl", "-D", str(self.folder / "data"), "-w", "-l", str(self.folder / "log"), "-o", options, "start"
        )

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="benchbench-pg-") as folder:  # pytest's own are for one user alone
        running = Server(Path(folder))
        yield running
        running.stop()


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of a file; with `needs_postgres` of a server."""
    if request.node.get_closest_marker("postgres") is None:
        yield f"sqlite:///{tmp_path}/study.db"
        return
    running = request.getfixturevalue("server")
    yield running.url
    there = open_storage(running.url)
    for one in optuna.get_all_study_summaries(there, include_best_trial=False):
        optuna.delete_study(study_name=one.study_name, storage=there)


Worker = subprocess.Popen[bytes]


@pytest.fixture
def start(url: str, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    running: list[Worker] = []

    def start(index: int, *, stop: int | None = None) -> Worker:
        command = [sys.executable, "-m", "tests.search_worker", url, str(index), str(TRIALS), str(tmp_path / "log")]
        command += [] if stop is None else [str(stop)]
        folder = Path(__file__).parents[2]
        running.append(subprocess.Popen(command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}))
        return running[-1]

    yield start
    for worker in running:
        worker.kill()
        worker.wait()


def wait_for_stop(worker: Worker, log: Path) -> None:
    def is_stopped() -> bool:
        pid, status = os.waitpid(worker.pid, os.WUNTRACED | os.WNOHANG)
        assert pid == 0 or os.WIFSTOPPED(status)
        return pid != 0

    wait_until(is_stopped, log)


def said(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def wait_until(there: Callable[[], bool], log: Path) -> None:
    end = time.monotonic() + 90
    while not there():
        assert time.monotonic() < end, f"only {said(log)}"
        time.sleep(0.05)


def check(url: str, log: Path) -> list[optuna.trial.FrozenTrial]:
    """Every configuration and piece that was begun is finished, once."""
    there = open_storage(url)
    known = optuna.load_study(study_name="s", storage=there)
    begun = Counter(line[2] for line in said(log) if line[1] == "trial")
    finished = [one.config.key for one in proposals.distinct(proposals.tried(known))]
    assert sorted(finished) == sorted(begun)  # each once, whatever happened
    assert len(finished) >= TRIALS
    lost = Counter(trial.user_attrs.get("key") for trial in known.get_trials(states=(TrialState.FAIL,)))
    assert all(times <= 1 + lost[key] for key, times in begun.items())  # and trained again only where one was lost
    assert not known.get_trials(states=(TrialState.RUNNING,))
    done = training_queue.finished_trainings(storage.open_phase(there, "s/finals"))
    assert sorted(one.label for one in done) == [f"piece {i}" for i in range(PIECES)]
    return known.get_trials()


def needs_postgres(test):  # type: ignore[no-untyped-def]
    return pytest.mark.postgres(pytest.mark.slow(test))


@needs_postgres
def test_a_killed_workers_trial_is_taken_up_again(url: str, start: Callable[..., Worker], tmp_path: Path) -> None:
    log = tmp_path / "log"
    workers = [start(0), start(1, stop=2)]
    wait_for_stop(workers[1], log)
    own = [line for line in said(log) if line[0] == "1"]
    workers[1].send_signal(signal.SIGKILL)
    assert workers[0].wait(timeout=120) == 0
    trials = check(url, log)
    lost = [trial for trial in trials if trial.state == TrialState.FAIL and trial.user_attrs["key"] == own[-1][2]]
    assert lost
    again = [trial for trial in trials if lost[0].number in trial.system_attrs.get("retry_history", ())]
    assert [trial.state for trial in again] == [TrialState.COMPLETE]


@needs_postgres
def test_the_database_is_started_again_in_the_middle(
    url: str, server: Server, start: Callable[..., Worker], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    workers = [start(0), start(1)]
    wait_until(lambda: len(said(log)) >= 4, log)
    server.stop()
    time.sleep(2.0)
    server.start()
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    check(url, log)


@needs_postgres
def test_a_database_that_stays_away_ends_a_search_clearly(server: Server, url: str) -> None:
    part = storage.open_phase(open_storage(url, patience_s=1.5), "away")
    server.stop()
    try:
        with pytest.raises(StoreError, match=r"has been unreachable for 2 s .*what it holds is kept: run the same"):
            training_queue.queue_trainings(part, [training_queue.QueuedTraining(label="x", what={})])
    finally:
        server.start()
    part = storage.open_phase(open_storage(url), "away")
    training_queue.queue_trainings(part, [training_queue.QueuedTraining(label="x", what={})])
    assert [one.label for one in training_queue.run_queue(part, lambda work: {"value": 1.0})] == ["x"]


@needs_postgres
def test_who_wants_to_leave_waits_for_no_database(url: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    part = storage.open_phase(open_storage(url), "left")
    training_queue.queue_trainings(part, [training_queue.QueuedTraining(label="x", what={})])

    waits: list[str] = []

    def sleep(seconds: float) -> None:
        waits.append(threading.current_thread().name)
        time.sleep(seconds)

    def leave(trial: optuna.Trial) -> float:
        server.stop()
        monkeypatch.setattr(storage, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
        thread = threading.Thread(target=part._storage.record_heartbeat, args=(trial._trial_id,), name="heartbeat")
        thread.start()
        beating.append(thread)
        raise KeyboardInterrupt

    beating: list[threading.Thread] = []
    try:
        with pytest.raises(KeyboardInterrupt):
            run_trial(part, leave, after=lambda trial: None)
        beating[0].join(30)
        assert not beating[0].is_alive()  # though it may be away for two minutes
        assert threading.main_thread().name not in waits
    finally:
        server.start()


@pytest.mark.slow
def test_two_workers_share_a_file_on_one_machine(url: str, start: Callable[..., Worker], tmp_path: Path) -> None:
    workers = [start(0), start(1)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    check(url, tmp_path / "log")
    assert {line[0] for line in said(tmp_path / "log")} == {"0", "1"}


@pytest.mark.slow
def test_a_worker_that_slept_and_lost_its_trial_goes_on(url: str, start: Callable[..., Worker], tmp_path: Path) -> None:
    log = tmp_path / "log"
    workers = [start(0), start(1, stop=2)]
    wait_for_stop(workers[1], log)
    key = [line for line in said(log) if line[0] == "1"][-1][2]
    wait_until(lambda: ["0", "trial", key] in said(log), log)
    workers[1].send_signal(signal.SIGCONT)
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    assert key in [trial.user_attrs["key"] for trial in check(url, log) if trial.state == TrialState.FAIL]


@pytest.mark.slow
def test_what_a_worker_leaves_that_is_told_to_stop_is_taken_up(
    url: str, start: Callable[..., Worker], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    workers = [start(0), start(1, stop=2)]
    wait_for_stop(workers[1], log)
    key = [line for line in said(log) if line[0] == "1"][-1][2]
    workers[1].send_signal(signal.SIGTERM)
    workers[1].send_signal(signal.SIGCONT)
    assert workers[1].wait(timeout=60) != 0
    assert workers[0].wait(timeout=120) == 0
    check(url, log)
    assert ["0", "trial", key] in said(log)


def take(url: str, ready: Barrier, taken: Queue[list[int]]) -> None:
    own = optuna.load_study(study_name="s", storage=open_storage(url))
    ready.wait(60)
    taken.put(list(iter(own._pop_waiting_trial_id, None)))


def test_two_workers_of_one_file_never_take_the_same_trial(url: str) -> None:
    waiting = optuna.create_study(study_name="s", storage=open_storage(url))
    for index in range(30):
        waiting.enqueue_trial({"x": index})
    numbers = [trial._trial_id for trial in waiting.get_trials()]
    fresh = multiprocessing.get_context("spawn")
    ready, taken = fresh.Barrier(2), fresh.Queue()
    workers = [fresh.Process(target=take, args=(url, ready, taken), daemon=True) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert sorted(number for _ in workers for number in taken.get(timeout=60)) == numbers


def test_a_trial_that_another_worker_has_finished_is_not_taken_after_a_lock(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was locked for a moment is asked again; the trial may have come and gone in between."""
    mine, theirs = (open_storage(url) for _ in range(2))
    study = optuna.create_study(study_name="s", storage=mine)
    study.enqueue_trial({})
    trial_id = study.get_trials()[0]._trial_id
    event.listen(mine.engine, "checkout", lambda db, *_: db.execute("PRAGMA busy_timeout = 10"))  # 5 s else
    lock = sqlite3.connect(tmp_path / "study.db")
    lock.execute("BEGIN IMMEDIATE")

    def meanwhile(seconds: float) -> None:
        lock.rollback()
        for state in (TrialState.RUNNING, TrialState.PRUNED):
            assert theirs.set_trial_state_values(trial_id, state)

    monkeypatch.setattr(storage, "time", SimpleNamespace(monotonic=time.monotonic, sleep=meanwhile))
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        mine.set_trial_state_values(trial_id, TrialState.RUNNING)
