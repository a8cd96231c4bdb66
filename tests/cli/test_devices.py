"""`bench devices`: what a person types, and what comes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchbench.cli import main as cli_main
from benchbench.core import records as rec
from benchbench.runner.doctor import Finding
from benchbench.runner.remote import doctor as remote_doctor
from tests.cli.said import command


@pytest.fixture(autouse=True)
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config" / "hosts.toml"
    monkeypatch.setenv("BENCHBENCH_CONFIG", str(path))
    return path


bench = command("devices")


def test_a_host_is_added_listed_replaced_and_removed(capsys, config):
    code, out, _ = bench(capsys, "add", "jetson", "ssh://user@orin:2222", "--python", "/opt/my venv/bin/python")
    assert code == 0
    assert out.startswith("jetson: ssh://user@orin:2222\n")
    assert "bench devices doctor jetson" in out
    code, out, _ = bench(capsys, "list", "--format", "json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows["jetson"] == {
        "name": "jetson",
        "what": "host: ssh://user@orin:2222",
        "memory": "-",
        "basis": "measured there",
    }
    assert "/opt/my venv/bin/python" in config.read_text()
    _, out, _ = bench(capsys, "add", "jetson", "ssh://user@nano")
    assert "which was ssh://user@orin:2222" in out
    assert "starts /opt/my venv/bin/python there" in out  # kept from before
    code, out, _ = bench(capsys, "remove", "jetson")
    assert (code, out) == (0, "jetson is forgotten\n")
    _, out, _ = bench(capsys)
    assert "ssh://" not in out
    assert "jetson-orin-nano-8gb-super" in out


@pytest.mark.parametrize("fmt", ["table", "json", "csv", "markdown"])
def test_the_list_is_that_of_bench_list_devices(capsys, fmt, monkeypatch):
    from benchbench.devices import cpu

    monkeypatch.setattr(cpu, "available_memory_bytes", lambda *_: 10**9)
    bench(capsys, "add", "board", "ssh://orin")
    _, out, _ = bench(capsys, "list", "--format", fmt)
    cli_main.main(["list", "devices", "--format", fmt])
    assert capsys.readouterr().out == out
    assert "ssh://orin" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lst"], "unknown action 'lst': did you mean 'list'?"),
        (["add", "x"], "required: URL"),
        (["add", "jetson", "ssh://orin", "--pyton", "x"], "unknown flag '--pyton': did you mean '--python'?"),
        (["add", "cpu", "ssh://orin"], "'cpu'"),
        (["add", "cuda", "ssh://orin"], "'cuda'"),
        (["add", "rtx-4090", "ssh://orin"], "a host cannot be called 'rtx-4090': that is a profile"),
        (["add", "jetson-agx-orin-64gb", "ssh://orin"], "that is a profile"),
        (["add", "jetson:nano", "ssh://orin"], "cannot name a host"),
        (["add", "a b", "ssh://orin"], "cannot name a host"),
        (["add", "a;reboot", "ssh://orin"], "cannot name a host"),
        (["add", "../x", "ssh://orin"], "cannot name a host"),
        (["add", "", "ssh://orin"], "cannot name a host"),
        (["add", "a\nb", "ssh://orin"], "cannot name a host"),
        (["add", "x.toml", "ssh://orin"], "another meaning"),
        (["add", "x", "http://orin"], "is no address of a host"),
        (["add", "x", "ssh://"], "is no address of a host"),
        (["add", "x", "ssh://-oProxyCommand=reboot"], "is no address"),
        (["add", "x", "ssh://a;reboot"], "is no address"),
        (["add", "x", "ssh://$(reboot)"], "is no address"),
        (["add", "x", "ssh://user:secret@orin"], "password"),
        (["add", "x", "ssh://-l@orin"], "no user's name"),
        (["add", "x", "ssh://orin:99999"], "is no address"),
        (["add", "x", "ssh://orin:ssh"], "is no address"),
        (["add", "x", "ssh://orin/path"], "is no address"),
        (["add", "x", "ssh://orin", "--python", ""], "no path for python"),
        (["add", "x", "ssh://orin", "--python=-c"], "no path for python"),
        (["add", "x", "ssh://orin", "--folder", "a\nb"], "no path for folder"),
        (["remove", "jetson"], "unknown host 'jetson'"),
        (["remove"], "required: NAME"),
        (["doctor", "cudaa"], "unknown device 'cudaa': did you mean 'cuda'?"),
        (["doctor", "rtx-4090"], "is a profile"),
        (["list", "--format", "xml"], "unknown --format 'xml'"),
    ],
)
def test_bad_input_is_one_line_with_exit_code_2_and_writes_nothing(capsys, config, arguments, message):
    code, out, err = bench(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert err.startswith("bench: ")
    assert err.count("\n") == 1
    assert not config.exists()


def test_an_unknown_host_is_answered_with_the_nearest(capsys):
    bench(capsys, "add", "orin-lab", "ssh://orin")
    for action in ("remove", "doctor"):
        code, _, err = bench(capsys, action, "orin-lap")
        assert code == 2
        assert "did you mean 'orin-lab'?" in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[jetson\n", "not valid TOML"),
        (b"\xff\xfe", "not valid TOML"),
        (b"jetson = 1\n", "needs an address"),
        (b'[jetson]\naddres = "orin"\n', "needs an address"),
        (b'[jetson]\naddress = "orin"\nuesr = "me"\n', "did you mean 'user'?"),
        (b'[jetson]\naddress = "-oProxyCommand=x"\n', "is no address"),
        (b'[jetson]\naddress = "orin"\nport = "22"\n', "is no port"),
        (b"[jetson]\naddress = 5\n", "must be text"),
    ],
)
def test_a_broken_file_of_hosts_is_one_line_and_left_as_it_is(capsys, config, content, message):
    config.parent.mkdir()
    config.write_bytes(content)
    for arguments in (["list"], ["add", "x", "ssh://orin"], ["remove", "x"], ["doctor", "x"]):
        code, _, err = bench(capsys, *arguments)
        assert code == 2
        assert message in err
        assert str(config) in err
        assert err.count("\n") == 1
    assert config.read_bytes() == content


def test_a_file_of_hosts_that_cannot_be_written_is_one_line(capsys, config):
    config.parent.write_text("")  # a file where the folder should be
    code, _, err = bench(capsys, "add", "jetson", "ssh://orin")
    assert code == 2
    assert str(config) in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("warn", 0), ("fail", 3)])
def test_the_doctor_ends_with_one_line_and_its_exit_code(capsys, monkeypatch, status, code):
    found = [Finding("torch", "ok", "2.13.0"), Finding("load", status, "9.5", "wait")]
    monkeypatch.setattr(remote_doctor, "find_patient", lambda name, *, results: iter(found))
    assert cli_main.main(["devices", "doctor"]) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ok", "torch", "2.13.0"]
    assert lines[2].strip() == "-> wait"
    assert f"ready to measure: {'no' if code else 'yes'}" in lines[-2:]
    assert cli_main.main(["devices", "doctor", "--format", "json"]) == code
    assert [row["status"] for row in json.loads(capsys.readouterr().out)] == ["ok", status]


@pytest.mark.parametrize("arguments", [["list"], ["add", "jetson", "ssh://orin"], ["remove", "x"], ["--help"]])
def test_devices_load_no_torch_unless_examined(arguments):
    script = (
        "import sys\nfrom benchbench.cli import main as cli\n"
        f"try: cli.main(['devices', *{arguments!r}])\nexcept SystemExit: pass\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('torch', 'monai')))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.splitlines()[-1] == "[]"


def test_the_probe_of_a_host_is_one_line_of_json(capfd):
    assert cli_main.main(["devices", "probe", "--threads", "1"]) == 0
    (hello,) = map(json.loads, capfd.readouterr().out.splitlines())
    assert (hello["event"], hello["schema"], hello["problem"]) == ("hello", rec.SCHEMA, None)
    assert hello["environment"]["threads"] == 1
    assert abs(hello["clock_s"] - time.time()) < 3600


def test_findings_are_events_for_another_program(capfd, monkeypatch):
    monkeypatch.setattr(remote_doctor, "find_patient", lambda name, *, results: iter([Finding("a", "fail", "x")]))
    assert cli_main.main(["devices", "doctor", "--events", "json"]) == 3
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert events == [
        {"event": "finding", "name": "a", "status": "fail", "text": "x", "advice": ""},
        {"event": "end"},
    ]
