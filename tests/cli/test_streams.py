"""Whatever stdout and stderr are, a command ends with its own code and without a traceback."""

import os
import subprocess
import sys

import pytest

from benchbench.cli import main as cli_main

BENCH = f"{sys.executable} -m benchbench"


def shell(line: str, **around: str) -> tuple[int, str]:
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        capture_output=True,
        text=True,
        env={**os.environ, **around},
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr
    assert "Exception ignored" not in done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("what", ["models", "models --format json"])
def test_a_full_device_is_one_line(what: str) -> None:
    assert shell(f"{BENCH} list {what} > /dev/full") == (2, "bench: cannot write to stdout: No space left on device\n")


def test_a_reader_that_leaves_is_no_fault() -> None:
    assert shell(f"{BENCH} list models | true") == (0, "")
    code, text = shell(f"{BENCH} list models --format csv | head -1")
    assert code == 0
    assert text.startswith("name,")


@pytest.mark.parametrize("ends", ["2>&-", "2>/dev/full", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_changes_no_code(ends: str) -> None:
    assert shell(f"{BENCH} list models --format json {ends}")[0] == 0
    assert shell(f"{BENCH} list nonsense {ends}")[0] == 2


def test_an_ascii_terminal_gets_what_looks_alike() -> None:
    code, text = shell(f"{BENCH} list models", PYTHONIOENCODING="ascii")
    assert code == 0
    assert text.isascii()
    assert "slim_unetr" in text
    assert shell(f"{BENCH} run --models ünetr", PYTHONIOENCODING="ascii")[0] == 2


def test_the_streams_of_the_caller_are_as_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    assert cli_main.main(["list", "models"]) == 0
    assert (sys.stdout, sys.stderr) == before
    assert "slim_unetr" in capsys.readouterr().out
