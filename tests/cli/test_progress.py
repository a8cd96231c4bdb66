"""Progress: what is said on stderr, for a person and for a program, and what a folder shows meanwhile."""

import argparse
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchbench.cli import progress, progress_file
from benchbench.cli.commands import report as report_command
from benchbench.cli.commands import watch
from benchbench.core.results import Store, held
from tests import report_examples as examples
from tests.cli.said import bench

pytestmark = pytest.mark.usefixtures("forked_workers")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def recorded(folder, *records):
    with Store(folder) as store:
        for record in records:
            store.append(record)
    return folder


def running(folder, **changes):
    """What a run that goes on has left."""
    state = {
        "command": "run",
        "process": os.getpid(),
        "host": socket.gethostname(),
        "began": time.time(),
        "written": time.time(),
        "rows": [],
        "now": {},
    }
    (folder / progress_file.NAME).write_text(json.dumps(state | changes))


# Of a run


def test_without_a_terminal_the_plan_and_each_row_are_a_line_on_stderr(capsys):
    _, out, err = bench(capsys, "run", "--models", "slim_unetr,unetr", "--device", "jetson", "--out", "r")
    lines = err.splitlines()
    assert "2 to do, the cheapest first" in lines[0]
    assert [line.partition(" on ")[0] for line in lines[1:]] == [
        "[1/2] slim_unetr 128x128x128",
        "[2/2] unetr 128x128x128",
    ]
    assert "to do" not in out


def test_a_log_of_a_long_run_says_every_half_minute_what_goes_on(monkeypatch):
    stream, now = io.StringIO(), [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.TerminalProgress(stream, shown=True) as listener:
        for at, nth in ((5.0, 1), (31.0, 2), (40.0, 3), (62.0, 4)):
            now[0] = at
            listener.begin(f"unetr 128x128x128 on cpu, process {nth} of 5", 100.0 - at)
            now[0] = at + 0.5
            listener.phase("timing")
    assert stream.getvalue().splitlines() == [
        "[1/0] unetr 128x128x128 on cpu, process 2 of 5: starting, about 1 min 9 s left",
        "[1/0] unetr 128x128x128 on cpu, process 4 of 5: starting, about 38 s left",
    ]


def test_quiet_says_nothing_but_the_result(capsys):
    _, out, err = bench(capsys, "run", "--models", "slim_unetr", "--device", "jetson", "--out", "r", "-q")
    assert err == ""
    assert "slim_unetr" in out


def test_progress_as_json_is_an_object_a_line(capsys):
    words = ["run", "--models", "slim_unetr,unetr", "--device", "jetson", "--out", "r", "--progress", "json"]
    _, out, err = bench(capsys, *words)
    events = [json.loads(line) for line in err.splitlines()]
    assert events[0]["event"] == "plan"
    assert [row["label"].split()[0] for row in events[0]["rows"]] == ["slim_unetr", "unetr"]
    rows = [event for event in events if event["event"] == "row"]
    assert [(row["done"], row["total"], row["status"]) for row in rows] == [(1, 2, "ok"), (2, 2, "ok")]
    assert rows[0]["values"]["latency_s"] > 0
    assert "slim_unetr" in out  # the table is as ever


def test_without_models_the_four_usual_ones_are_taken_and_named(capsys):
    _, out, err = bench(capsys, "run", "--device", "jetson", "--out", "r")
    assert err.startswith("No --models: measures slim_unetr, slim_unetr_s2, nnunet_small, unetr.")
    assert "4 to do" in err
    assert all(f"\n{name} " in out for name in ("slim_unetr", "slim_unetr_s2", "nnunet_small", "unetr"))


def test_a_bare_run_also_says_what_else_is_usual():
    from benchbench.cli.commands import run
    from benchbench.cli.parser import parse

    told = run._intro(parse(["run"]))
    assert "this machine's processor" in told
    commands = [line.split("   ")[0].strip() for line in told.splitlines() if line.startswith("  bench ")]
    assert len(commands) == 3
    for command in commands:
        parse(command.split()[1:])
    assert run._intro(parse(["run", "--models", "unetr"])) == ""


def test_a_run_leaves_no_file_of_its_progress_behind(capsys, tmp_path):
    bench(capsys, "run", "--models", "slim_unetr", "--device", "jetson", "--out", "r")
    assert not (tmp_path / "r" / progress_file.NAME).exists()


def test_a_run_that_cannot_have_the_folder_leaves_the_progress_of_the_one_that_has_it(tmp_path, capsys):
    with Store(tmp_path / "r") as store:
        store.append(examples.finished("slim_unetr"))
        running(tmp_path / "r")
        code, _, err = bench(capsys, "run", "--models", "unetr", "--device", "jetson", "--out", "r")
    assert (code, err.count("\n")) == (2, 1)
    assert (tmp_path / "r" / progress_file.NAME).exists()


def test_a_single_row_is_followed_by_the_same_command_with_others_and_several_by_a_choice(capsys):
    import shlex

    from benchbench.cli.parser import parse

    words = ["run", "--models", "slim_unetr", "--device=jetson", "--spatial", "64", "64", "64", "--out", "r s", "-q"]
    _, out, _ = bench(capsys, *words)
    line = out.splitlines()[-1]
    assert line.startswith("Next, to set it beside others: bench run ")
    step = shlex.split(line.partition(": bench ")[2])
    assert parse(step).out == Path("r s")
    assert (parse(step).devices, parse(step).spatial) == (("jetson",), [64, 64, 64])
    _, out, _ = bench(capsys, *step)
    assert out.splitlines()[-1] == "Next, to see which to take and how sure that is: bench choose 'r s'"
    assert "1 of 4 rows were measured before" in out


def test_rows_of_several_devices_are_followed_by_a_table(capsys):
    words = ["run", "--models", "slim_unetr,unetr", "--device", "jetson,rtx-4090", "--out", "r"]
    _, out, _ = bench(capsys, *words)
    assert out.splitlines()[-1] == "Next, for a table to paste: bench report r --format markdown"


# Of steps


def steps(now, monkeypatch, listener, *shares):
    clock = iter(now)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    for share in shares:
        listener.step(share, f"step {share}")


def test_a_log_of_a_training_has_its_plan_and_a_line_every_half_minute(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: 0.0)
    listener = progress.TrainingProgress(stream, shown=True, intro="a network on a data set")
    steps([1, 31, 40, 50], monkeypatch, listener, 0.1, 0.2, 0.3, 1.0)
    assert stream.getvalue().splitlines() == [
        "a network on a data set",
        "20%: step 0.2, about 2 min 4 s left",
        "100%: step 1.0",
    ]


def test_steps_as_json_say_what_is_left_at_most_once_a_second(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: 0.0)
    listener = progress.JsonProgress(stream)
    steps([10, 10, 10.5, 11.5, 11.5], monkeypatch, listener, 0.25, 0.26, 0.5)
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(one["used"], one["remaining_s"]) for one in found] == [(0.25, 30.0), (0.5, 11.5)]


@pytest.mark.parametrize("command", ["run", "train", "search", "compress", "evaluate", "calibrate", "compare"])
def test_long_commands_take_progress_as_json(command):
    from benchbench.cli.parser import parse

    words = {"compress": "slim_unetr --prune 0.5", "train": "slim_unetr", "evaluate": "slim_unetr --data DIR"}
    words["compare"] = "--measure slim_unetr unetr"
    assert parse([command, *words.get(command, "").split(), "--progress", "json"]).progress == "json"


# Watching


def test_a_finished_run_is_watched_as_its_table_and_its_front(tmp_path, capsys):
    work = examples.WORKLOAD.__class__(threads=2, data="Task04_Hippocampus:0123abcd", split="test")
    rows = [examples.finished(name, workload=work) for name in ("slim_unetr", "unetr", "nnunet")]
    recorded(tmp_path / "r", *rows)
    code, out, _ = bench(capsys, "watch", "r")
    assert code == 0
    assert out.startswith("run in r is finished: 3 rows finished")
    (front,) = [line for line in out.splitlines() if line.startswith("front so far")]
    assert "slim_unetr (171 ms, Dice 0.785), nnunet (8.52 s, Dice 0.839)" in front  # unetr is slower and worse
    assert "bench choose r" in out


def test_a_run_that_goes_on_shows_what_is_left(tmp_path, capsys):
    done = examples.finished("slim_unetr")
    recorded(tmp_path / "r", done)
    rows = [{"cell": done.cell, "label": "slim_unetr"}, {"cell": "other", "label": "unetr 128x128x128 on cpu"}]
    running(tmp_path / "r", rows=rows, now={"": "unetr 128x128x128 on cpu"}, ends=time.time() + 125)
    _, out, _ = bench(capsys, "watch", "r")
    assert "run in r runs: 1 row finished, 1 to come, now unetr 128x128x128 on cpu, about 2 min" in out
    assert "to come: unetr 128x128x128 on cpu" in out
    assert "bench report r --live" in out
    _, out, _ = bench(capsys, "watch", "r", "--format", "json")
    seen = json.loads(out)
    assert (seen["running"], seen["to_come"], len(seen["rows"])) == (True, ["unetr 128x128x128 on cpu"], 1)


def test_a_run_whose_process_is_gone_is_said_to_have_stopped(tmp_path, capsys):
    recorded(tmp_path / "r", examples.finished("slim_unetr"))
    running(tmp_path / "r", process=2**22 + 1)
    _, out, _ = bench(capsys, "watch", "r")
    assert "stopped before its end" in out
    assert "the same command with --out r" in out


def test_a_process_that_began_after_the_file_was_written_is_another_one(tmp_path):
    state = {"host": socket.gethostname(), "process": os.getpid(), "began": 1.0}
    assert not progress_file.is_running(state)


def test_a_file_of_progress_that_is_no_such_file_is_passed_over(tmp_path, capsys):
    recorded(tmp_path / "r", examples.finished("slim_unetr"))
    for content in ("[]", "{", '{"rows": 3}', '{"rows": [], "now": [], "ends": "x"}'):
        (tmp_path / "r" / progress_file.NAME).write_text(content)
        assert bench(capsys, "watch", "r")[0] == 0


def test_a_finished_search_is_watched_as_its_finalists(capsys):
    code, out, _ = bench(capsys, "watch", ROOT / "results" / "reference" / "search-hippocampus")
    assert code == 0
    assert "is finished" in out
    assert "dice_test" in out


def test_a_search_that_goes_on_shows_the_front_of_its_proposals(tmp_path, capsys):
    (tmp_path / "s").mkdir()
    shutil.copy(ROOT / "results/reference/search-hippocampus/study.db", tmp_path / "s" / "study.db")
    before = (tmp_path / "s" / "study.db").read_bytes()
    running(tmp_path / "s", command="search", text="proposal 12", used=0.4, ends=time.time() + 600)
    seen = watch.look(tmp_path / "s")
    assert seen.running
    front = [row for row in seen.proposals if row["front"]]
    assert front
    assert front == sorted(front, key=lambda row: row["cost"]) == sorted(front, key=lambda row: row["dice_val"])
    assert (tmp_path / "s" / "study.db").read_bytes() == before
    _, out, _ = bench(capsys, "watch", "s")
    assert "proposal 12" in out


def test_a_search_killed_while_it_wrote_shows_what_it_had_finished(tmp_path):
    """The journal of what was being written lies beside the database, which cannot be read before that is undone."""
    (tmp_path / "s").mkdir()
    database = tmp_path / "s" / "study.db"
    shutil.copy(ROOT / "results/reference/search-hippocampus/study.db", database)
    running(tmp_path / "s", command="search", text="proposal 12", used=0.4, ends=time.time() + 600)
    whole = watch.look(tmp_path / "s").proposals
    kill_in_a_transaction = (
        "import os, signal, sqlite3, sys\n"
        "file = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "file.execute('pragma cache_size = 1')\n"
        "file.execute('begin immediate')\n"
        "file.execute('delete from trial_values')\n"
        "file.execute('delete from trials')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", kill_in_a_transaction, str(database)]).returncode == -signal.SIGKILL
    left = {path.name: path.read_bytes() for path in database.parent.iterdir()}
    assert left["study.db-journal"]
    assert whole
    assert watch.look(tmp_path / "s").proposals == whole
    assert {path.name: path.read_bytes() for path in database.parent.iterdir()} == left


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="where locks can be looked up: on Linux")
def test_a_run_that_has_just_begun_runs_though_it_has_left_nothing_yet(tmp_path, monkeypatch, capsys):
    """It counts, and times the machine, before its first row begins."""
    monkeypatch.chdir(tmp_path)
    with held(Path("r")):
        code, out, _ = bench(capsys, "watch", "r")
        assert progress_file.runs_in(Path("r"))
    assert code == 0
    assert "run in r runs (it has just begun: it counts and times the machine first): 0 rows finished" in out
    assert not progress_file.runs_in(Path("r"))


def test_nothing_to_watch_is_one_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for folder in ("nowhere", "empty"):
        code, out, err = bench(capsys, "watch", folder)
        assert (code, out, err.count("\n")) == (2, "", 1)


# A page that renews itself


def test_a_live_page_renews_itself_until_the_run_has_ended(tmp_path, monkeypatch, capsys):
    folder = recorded(tmp_path / "r", examples.finished("slim_unetr"))
    running(folder)
    seen = []

    def sleep(seconds):
        seen.append((folder / "report.html").read_text())
        (folder / progress_file.NAME).unlink()

    monkeypatch.setattr(report_command.time, "sleep", sleep)
    code, out, _ = bench(capsys, "report", "r", "--live")
    assert (code, set(out.split())) == (0, {"r/report.html"})
    assert '<meta http-equiv="refresh" content="30">' in seen[0]
    assert 'http-equiv="refresh"' not in (folder / "report.html").read_text()


def test_a_live_page_waits_for_the_first_row(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "r"
    folder.mkdir()
    running(folder)

    def sleep(seconds):
        recorded(folder, examples.finished("slim_unetr"))
        (folder / progress_file.NAME).unlink()

    monkeypatch.setattr(report_command.time, "sleep", sleep)
    assert bench(capsys, "report", "r", "--live")[0] == 0
    assert (folder / "report.html").exists()


def test_progress_is_shown_unless_quiet():
    assert progress.is_shown(argparse.Namespace(quiet=False, verbose=False))
    assert not progress.is_shown(argparse.Namespace(quiet=True, verbose=False))


# The first minute


def test_bench_alone_says_what_can_be_done_and_starts_nothing(capsys, tmp_path):
    from benchbench.cli.parser import parse

    code, out, err = bench(capsys)
    assert (code, err) == (0, "")
    commands = [line.split("   ")[0].strip() for line in out.splitlines() if line.startswith("  bench ")]
    assert [parse(command.split()[1:]).command for command in commands] == ["run", "run", "search"]
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_progress_is_not_a_records_file(tmp_path):
    folder = recorded(tmp_path / "r", examples.finished("slim_unetr"))
    running(folder)
    assert len(list(report_command.read_records(folder))) == 1
