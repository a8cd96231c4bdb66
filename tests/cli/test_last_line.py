"""Whatever goes wrong ends in one line and a code that means nothing else."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from benchbench.cli import main as cli_main
from benchbench.cli.commands import info


def _raise(error):
    def command(options):
        raise error

    return command


@pytest.mark.parametrize("error", [KeyError("channels"), MemoryError(), RecursionError("deep"), OSError(5, "I/O")])
def test_a_defect_is_one_line_and_code_70(error, monkeypatch, capsys):
    monkeypatch.setattr(info, "run", _raise(error))
    assert cli_main.main(["info"]) == 70
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert type(error).__name__ in told


def test_a_name_that_is_too_long_is_wrong_use(capsys):
    assert cli_main.main(["data", "list", "x" * 5000]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_as_ctrl_c_does(number, monkeypatch, capsys):
    outside = signal.signal(number, signal.SIG_DFL)  # a test run under nohup ignores SIGHUP
    before = signal.getsignal(number)
    monkeypatch.setattr(info, "run", lambda options: os.kill(os.getpid(), number))
    try:
        assert cli_main.main(["info"]) == 130
        assert signal.getsignal(number) is before
    finally:
        signal.signal(number, outside)


def test_a_run_that_is_terminated_with_all_its_processes_says_so_in_one_line(tmp_path):
    words = ["--models", "tests.tiny_nets:Sleeps", "--spatial", "8", "8", "8", "--data", "none", "--no-noise"]
    start = [sys.executable, "-m", "benchbench", "run", "-q", *words, "--out", str(tmp_path / "r")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "BENCHBENCH_CACHE": str(tmp_path / "cache")}
    run = subprocess.Popen(start, stderr=subprocess.PIPE, text=True, start_new_session=True, env=env)
    try:
        deadline = time.monotonic() + 120
        while not any(
            "benchbench.runner.worker" in " ".join(_words(one)) for one in psutil.Process(run.pid).children(True)
        ):
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(3)  # by then it is in its forward, most likely; the end is the same if not
        os.killpg(run.pid, signal.SIGTERM)
        told = run.communicate(timeout=60)[1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
    assert (run.returncode, told.count("\n")) == (130, 1), told
    assert told.startswith("bench: interrupted; ")


def _words(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_code_that_exits_ends_no_command_as_if_it_had_succeeded(monkeypatch, capsys):
    monkeypatch.setattr(info, "run", _raise(SystemExit(0)))
    assert cli_main.main(["info"]) == 70
    assert capsys.readouterr().err.count("\n") == 1


def test_a_nul_character_is_wrong_use_wherever_it_stands(tmp_path, capsys):
    config = tmp_path / "flags.toml"
    config.write_text('out = "a\\u0000b"\n')
    assert cli_main.main(["run", "--models", "slim_unetr", "--config", str(config)]) == 2
    assert cli_main.main(["report", "a\0b"]) == 2
    assert capsys.readouterr().err.count("\n") == 2


@pytest.mark.parametrize(
    "words",
    [
        "report {}",
        "compare {} {}",
        "data check {}",
        "data list {}",
        "data split {}",
        "data prepare {}",
        "search --resume {}",
        "run --models slim_unetr --device rtx-4090 --out {}",
        "run --models slim_unetr --config {}",
        "run --models slim_unetr --data {}",
        "audit --models slim_unetr --input 32 32 32 --out {}",
        "train slim_unetr --data {}",
        "calibrate --out {}/c.toml",
        "compress slim_unetr --checkpoint {} --prune 0.5",
        "predict slim_unetr --checkpoint {} --input {} --output {}",
    ],
)
@pytest.mark.parametrize("kind", ["long", "loop"])
def test_a_path_that_cannot_be_is_wrong_use_for_each_command(words, kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    path = "x" * 300 if kind == "long" else "loop"
    assert cli_main.main(words.format(*[path] * 3).split()) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1, told
