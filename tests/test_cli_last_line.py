"""Whatever goes wrong ends in one line and a code that means nothing else."""

import os
import signal

import pytest

from benchbench import cli


def _raise(error):
    def command(options):
        raise error

    return command


@pytest.mark.parametrize("error", [KeyError("channels"), MemoryError(), RecursionError("deep"), OSError(5, "I/O")])
def test_a_defect_is_one_line_and_code_70(error, monkeypatch, capsys):
    monkeypatch.setitem(cli.COMMANDS, "info", _raise(error))
    assert cli.main(["info"]) == 70
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert type(error).__name__ in told


def test_a_name_that_is_too_long_is_wrong_use(capsys):
    assert cli.main(["data", "list", "x" * 5000]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_as_ctrl_c_does(number, monkeypatch, capsys):
    outside = signal.signal(number, signal.SIG_DFL)  # a test run under nohup ignores SIGHUP
    before = signal.getsignal(number)
    monkeypatch.setitem(cli.COMMANDS, "info", lambda options: os.kill(os.getpid(), number))
    try:
        assert cli.main(["info"]) == 130
        assert signal.getsignal(number) is before
    finally:
        signal.signal(number, outside)
