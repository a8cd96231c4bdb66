"""Several workers: one is killed, the database is started again, and nothing is lost or counted twice."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from benchbench.errors import StoreError
from benchbench.search import stage, study
from benchbench.search.storage import open_storage
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
            for parent in [folder, *folder.parents][:4]:
                if parent != Path("/tmp"):
                    parent.chmod(parent.stat().st_mode | 0o011)
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
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("pg"))
    yield running
    running.stop()


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    yield server.url
    storage = open_storage(server.url)
    for one in optuna.get_all_study_summaries(storage, include_best_trial=False):
        optuna.delete_study(study_name=one.study_name, storage=storage)


def start(url: str, index: int, log: Path, trials: int = TRIALS) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.search_worker", url, str(index), str(trials), str(log)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[1], env={**os.environ, "OMP_NUM_THREADS": "1"})


def said(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def wait_for(log: Path, count: int, index: int | None = None) -> None:
    end = time.monotonic() + 90
    while sum(index is None or line[0] == str(index) for line in said(log)) < count:
        assert time.monotonic() < end, f"only {said(log)}"
        time.sleep(0.05)


def check(url: str, log: Path) -> list[optuna.trial.FrozenTrial]:
    """Every configuration and piece that was begun is finished, once."""
    storage = open_storage(url)
    known = optuna.load_study(study_name="s", storage=storage)
    begun = Counter(line[2] for line in said(log) if line[1] == "trial")
    finished = [one.config.key for one in study.distinct(study.tried(known))]
    assert sorted(finished) == sorted(begun)  # each once, whatever happened
    assert len(finished) >= TRIALS
    lost = Counter(trial.user_attrs.get("key") for trial in known.get_trials(states=(TrialState.FAIL,)))
    assert all(times <= 1 + lost[key] for key, times in begun.items())  # and trained again only where one was lost
    assert not known.get_trials(states=(TrialState.RUNNING,))
    done = stage.done(stage.open_stage(storage, "s/finals"))
    assert sorted(one.label for one in done) == [f"piece {i}" for i in range(PIECES)]
    return known.get_trials()


def needs_postgres(test):  # type: ignore[no-untyped-def]
    return pytest.mark.postgres(pytest.mark.slow(test))


@needs_postgres
def test_a_killed_workers_trial_is_taken_up_again(url: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    workers = [start(url, 0, log), start(url, 1, log)]
    wait_for(log, 2, index=1)
    workers[1].send_signal(signal.SIGKILL)
    workers[1].wait()
    own = [line for line in said(log) if line[0] == "1"]
    assert workers[0].wait(timeout=120) == 0
    trials = check(url, log)
    lost = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert [trial.user_attrs["key"] for trial in lost] == [own[-1][2]]
    again = [trial for trial in trials if lost[0].number in trial.system_attrs.get("retry_history", ())]
    assert [trial.state for trial in again] == [TrialState.COMPLETE]


@needs_postgres
def test_the_database_is_started_again_in_the_middle(url: str, server: Server, tmp_path: Path) -> None:
    log = tmp_path / "log"
    workers = [start(url, 0, log), start(url, 1, log)]
    wait_for(log, 4)
    server.stop()
    time.sleep(2.0)
    server.start()
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    check(url, log)


@needs_postgres
def test_a_database_that_stays_away_ends_a_search_clearly(server: Server, url: str) -> None:
    storage = open_storage(url, patience_s=1.5)
    part = stage.open_stage(storage, "away")
    server.stop()
    try:
        with pytest.raises(StoreError, match=r"has been away for 2 s .*everything told to it is kept: run the same"):
            stage.queue(part, [stage.Work(label="x", what={})])
    finally:
        server.start()
    part = stage.open_stage(open_storage(url), "away")
    stage.queue(part, [stage.Work(label="x", what={})])
    assert [one.label for one in stage.work_off(part, lambda work: {"value": 1.0})] == ["x"]


@pytest.mark.slow
def test_two_workers_share_a_file_on_one_machine(tmp_path: Path) -> None:
    log, url = tmp_path / "log", f"sqlite:///{tmp_path}/study.db"
    open_storage(url)
    workers = [start(url, 0, log), start(url, 1, log)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    check(url, log)
    assert {line[0] for line in said(log)} == {"0", "1"}
