"""Standard output and error that are full, closed, hung up or in ASCII: no traceback, and codes that are true."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchbench import cli

BENCH = f"{sys.executable} -m benchbench"
ASCII = {"PYTHONIOENCODING": "ascii"}
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")


def _sh(command, **env):
    found = subprocess.run(["bash", "-c", command], capture_output=True, env={**os.environ, **env}, check=False)
    return found.returncode, found.stdout, found.stderr.decode()


@FULL
@pytest.mark.parametrize("words", ["list models", "--help"])
def test_a_result_on_a_full_device_is_code_2_and_one_line(words):
    code, _, told = _sh(f"{BENCH} {words} > /dev/full")
    assert (code, told) == (2, "bench: cannot write to stdout: No space left on device\n")


def test_a_result_without_a_stdout_is_code_2_and_one_line():
    code, _, told = _sh(f"{BENCH} list models >&-")
    assert (code, told) == (2, "bench: cannot write to stdout: Bad file descriptor\n")


def test_a_reader_that_leaves_early_is_no_fault():
    code, _, told = _sh(f"{BENCH} list models | head -n 0; exit ${{PIPESTATUS[0]}}")
    assert (code, told) == (0, "")


@FULL
@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full"])
@pytest.mark.parametrize(("words", "code"), [("list models", 0), ("list modelz", 2)])
def test_messages_that_cannot_be_told_change_no_code(words, code, where):
    assert _sh(f"{BENCH} {words} {where}")[0] == code


def test_an_ascii_terminal_gets_what_looks_alike(monkeypatch, tmp_path):
    script = "import sys; from benchbench import cli; cli.COMMANDS['info'] = lambda o: print('2×3 µm ü') or 0;"
    code, out, told = _sh(f"{sys.executable} -c \"{script} sys.exit(cli.main(['info']))\"", **ASCII)
    assert (code, out, told) == (0, b"2x3 um ?\n", "")


def test_json_on_an_ascii_terminal_loses_nothing():
    script = (
        "import sys; from benchbench import cli; cli.COMMANDS['info'] = lambda o: print(chr(34)+'ü😀'+chr(34)) or 0;"
    )
    code, out, _ = _sh(f"{sys.executable} -c \"{script} sys.exit(cli.main(['info', '--format', 'json']))\"", **ASCII)
    assert code == 0
    assert json.loads(out.decode("ascii")) == "ü😀"


@FULL
def test_a_regression_that_could_not_be_told_is_not_taken_for_one():
    script = "import sys; from benchbench import cli; cli.COMMANDS['info'] = lambda o: print('slower') or 1;"
    assert _sh(f"{sys.executable} -c \"{script} sys.exit(cli.main(['info']))\" > /dev/full")[0] == 2


def test_the_streams_are_as_before_afterwards(capsys):
    before = sys.stdout, sys.stderr
    assert cli.main(["list", "models", "--format", "json"]) == 0
    assert (sys.stdout, sys.stderr) == before
