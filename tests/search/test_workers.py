"""Several workers: one is killed, the database is started again, and nothing is lost or counted twice."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState

from benchbench.core.errors import StoreError
from benchbench.search import phases as search_phases
from benchbench.search import proposals, storage
from benchbench.search.storage import open_storage, optimize, requeue_interrupted, storage_errors
from benchbench.search.weight_store import WeightStore
from benchbench.zoo import checkpoint
from tests.search.simulated import PROBLEM, make_job
from tests.toy import SPEC, Tiny

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
    """Every configuration that was begun is finished, once."""
    known = optuna.load_study(study_name="s", storage=open_storage(url))
    begun = Counter(line[2] for line in said(log) if line[1] == "trial")
    finished = [one.config.key for one in proposals.distinct(proposals.tried(known, PROBLEM.space))]
    assert sorted(finished) == sorted(begun)  # each once, whatever happened
    assert len(finished) >= TRIALS
    lost = Counter(trial.user_attrs.get("key") for trial in known.get_trials(states=(TrialState.FAIL,)))
    assert all(times <= 1 + lost[key] for key, times in begun.items())  # and trained again only where one was lost
    assert not known.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))
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
    again = [trial for trial in trials if lost[0].number in RetryHeartbeatStaleTrialCallback.retry_history(trial)]
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
def test_a_database_that_stays_away_ends_a_worker_with_a_line_and_the_same_command_goes_on(
    server: Server, url: str
) -> None:
    study = optuna.create_study(study_name="s", storage=open_storage(url))

    def leave(trial: optuna.Trial) -> float:
        value = trial.suggest_float("x", 0, 1)
        server.stop()
        return float(value)

    try:
        told = r"cannot be reached any more .* the same command goes on"
        with pytest.raises(StoreError, match=told) as caught, storage_errors(url):
            optimize(study, leave, lambda trial: True, patience_s=0.5)
        assert "\n" not in str(caught.value)
    finally:
        server.start()
    again = optuna.load_study(study_name="s", storage=open_storage(url))
    requeue_interrupted(again, alone=True)
    optimize(again, lambda trial: float(trial.suggest_float("x", 0, 1)), lambda trial: True)
    assert [trial.state.name for trial in again.get_trials()] == ["FAIL", "COMPLETE"]
    assert again.get_trials()[0].params == again.get_trials()[1].params


@needs_postgres
def test_who_wants_to_leave_waits_for_no_database(
    url: str, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = optuna.create_study(study_name="s", storage=open_storage(url, heartbeat_s=1))

    def leave(trial: optuna.Trial) -> float:
        trial.suggest_float("x", 0, 1)
        server.stop()
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "time", SimpleNamespace(sleep=lambda seconds: pytest.fail("it waits")))
    try:
        with pytest.raises(KeyboardInterrupt):
            optimize(study, leave, lambda trial: True)
        assert "Traceback" not in capsys.readouterr().err  # of the heartbeat
    finally:
        server.start()


@needs_postgres
def test_two_machines_share_weights(url: str, tmp_path: Path) -> None:
    mine, theirs = (WeightStore(tmp_path / name, open_storage(url), "s", shared=True) for name in ("mine", "theirs"))
    checkpoint.save(mine.path("a"), Tiny().state_dict(), model=SPEC, data="x", spatial=(16, 16, 16), train={})
    mine.path("a").with_suffix(".state").write_bytes(b"a state")
    assert theirs.get("a") is None
    mine.put("a")
    found = theirs.state("a")
    assert found is not None
    assert checkpoint.read_sidecar(found).sha256 == checkpoint.sha256_of(mine.path("a"))
    assert found.with_suffix(".state").read_bytes() == b"a state"
    mine.forget_state("a")
    assert mine.state("a") is None
    assert WeightStore(tmp_path / "third", open_storage(url), "s", shared=True).get("a") is None


@needs_postgres
def test_a_worker_that_joins_takes_over_what_the_first_has_said(url: str, tmp_path: Path) -> None:
    def join(folder: str, steps: int) -> search_phases.Worker:
        job = make_job(low_steps=steps)
        return search_phases.Worker(
            job, tmp_path / folder, open_storage(url), index=0, shared=True, tell=lambda text: None
        )

    first, second = join("first", 20), join("second", 30)
    assert (first.is_first, second.is_first) == (True, False)
    assert second.agreed == first.agreed
    assert join("first", 40).is_first  # as after a kill
    assert second.agreed.low_steps == 20


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
