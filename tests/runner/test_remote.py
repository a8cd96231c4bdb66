"""Measuring on another host, over a real sshd: rows, resume, weights by hash, and whatever can go wrong."""

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import stat
import subprocess
import sys
import time

import psutil
import pytest

from benchbench import report
from benchbench.core import records as rec
from benchbench.core.errors import CheckpointError, DeviceError
from benchbench.core.results import latest, read_records
from benchbench.devices.hosts import Host, add_host
from benchbench.runner import run as runner_run
from benchbench.runner.remote import queue as remote_queue
from benchbench.runner.remote import ssh as remote_ssh
from benchbench.runner.remote import weights as remote_weights
from benchbench.runner.request import RunRequest
from benchbench.zoo import checkpoint
from tests.loopback import ROOT, SSHD
from tests.runner.test_run import CALM, nets
from tests.runner.test_run import Heard as Silent
from tests.tiny_nets import Tiny

pytestmark = pytest.mark.usefixtures("forked_workers")
needs_sshd = [
    pytest.mark.ssh,
    pytest.mark.skipif(SSHD is None, reason="no sshd here; Debian has it in openssh-server"),
]
SIDES = (8, 8, 8)


class Heard(Silent):
    """A progress that remembers, from several hosts at once, and may act."""

    def __init__(self, at_end=None, at_phase=None):
        super().__init__()
        self.phases, self.at_end, self.at_phase = [], at_end, at_phase

    def begin(self, label, remaining_s, host=""):
        self.began.append(label)

    def phase(self, text, host=""):
        self.phases.append((host, text))
        if self.at_phase:
            self.at_phase(text, host)

    def end(self, record):
        super().end(record)
        if self.at_end:
            self.at_end(record)


def ask(models, *devices, **more):
    settings = {"protocol": CALM, "noise": False, "threads": (1,)} | more
    return RunRequest(models=models, devices=devices or ("board",), spatial=SIDES, **settings)


def far_sides(board, word="--from-stdin"):
    """Runs that this host's sshd has started and that have not ended; or comparisons, by the word `pairs`."""
    with contextlib.suppress(psutil.NoSuchProcess):  # one ended while they were counted
        processes = psutil.Process(board.sshd.pid).children(recursive=True)
        return [p for p in processes if word in p.cmdline() and p.status() != psutil.STATUS_ZOMBIE]
    return [board]


def cut(board):
    """Every connection to it breaks; it can be reached again."""
    for process in psutil.Process(board.sshd.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself meanwhile
            if process.name().startswith("sshd"):
                process.kill()


def wait_for(condition, limit_s=30):
    until = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.05)
    return found


class TestOverSsh:
    pytestmark = needs_sshd

    def test_a_host_and_this_machine_measure_side_by_side_and_the_same_folder_again_reuses_both(self, board, tmp_path):
        add_host(board.host("second"))
        heard = Heard()
        request = ask(nets("Tiny", "Crashes"), "board", "second", "cpu")
        outcome = runner_run.run(request, tmp_path, progress=heard)
        rows = {(r.device.asked, r.model.name.partition(":")[2]): r for r in outcome.records}
        assert {key: r.status for key, r in rows.items()} == {
            (device, net): status
            for device in ("board", "second", "cpu")
            for net, status in (("Tiny", "ok"), ("Crashes", "failed"))
        }
        far, near = rows["board", "Tiny"], rows["cpu", "Tiny"]
        assert far.environment["host"] == f"127.0.0.1:{board.port}"
        assert {k: v for k, v in far.environment.items() if k not in ("host", *rec.VOLATILE)} == {
            k: v for k, v in near.environment.items() if k not in rec.VOLATILE
        }
        assert (far.device.kind, far.device.basis, far.device.name) == ("cpu", "probed", near.device.name)
        assert far.get("latency_s").origin == "measured"
        assert far.value("macs") == near.value("macs")
        assert "a bug of its own" in rows["board", "Crashes"].error
        layers = json.loads((tmp_path / far.artifacts[0].path).read_text())
        assert layers == json.loads((tmp_path / near.artifacts[0].path).read_text())
        assert sorted(v.host for v in outcome.hosts) == ["board", "second"]
        assert all(0 < v.connect_s < v.total_s and v.measured_s > 0 for v in outcome.hosts)
        assert any(v.waited_s for v in outcome.hosts)  # two names of one board: one waited for the other
        page = report.write_report([tmp_path]).read_text()
        assert f"127.0.0.1:{board.port}" in page
        again = runner_run.run(request, tmp_path, progress=Heard())
        assert again.reused == 3  # the rows that failed are tried again
        wait_for(lambda: not far_sides(board))

    def test_weights_go_over_once_and_are_kept_there_by_their_hash(self, board, tmp_path):
        spec = rec.ModelSpec(name="t", arch="tests.tiny_nets:Tiny", kwargs={}, in_channels=4, out_channels=3)
        weights = tmp_path / "t.safetensors"
        info = checkpoint.save(weights, Tiny().state_dict(), model=spec, data="phantom", spatial=SIDES, train={})
        request = ask(nets("Tiny"), checkpoint=weights, data="none")
        first = runner_run.run(request, tmp_path / "1", progress=Heard())
        assert [r.status for r in first.records] == ["ok"], first.records[0].error
        assert first.records[0].model.checkpoint == info.sha256
        assert (board.cache / "benchbench" / "checkpoints" / f"{info.sha256}.safetensors").exists()
        second = runner_run.run(request, tmp_path / "2", progress=Heard())
        assert [r.status for r in second.records] == ["ok"]
        assert second.hosts[0].sent_bytes < first.hosts[0].sent_bytes - weights.stat().st_size

    def test_a_connection_cut_in_the_middle_keeps_what_is_finished(self, board, tmp_path):
        heard = Heard(at_end=lambda record: record.status == "ok" and cut(board))
        outcome = runner_run.run(ask(nets("Tiny", "Sleeps")), tmp_path, progress=heard)
        done, lost = outcome.records
        assert done.status == "ok"
        assert lost.status == "not_run"
        assert "the connection to ssh://" in lost.error
        assert "--out" in lost.error
        assert lost.value("macs") == done.value("macs")  # what was known is kept
        assert [r.status for r in read_records(tmp_path)] == ["ok", "not_run"]
        wait_for(lambda: not far_sides(board))

    def test_a_connection_cut_between_processes_starts_that_network_again(self, board, tmp_path):
        class Cuts(Heard):
            def begin(self, label, remaining_s, host=""):
                super().begin(label, remaining_s, host)
                if "process 2 of 2" in label:
                    cut(board)

        request = ask(nets("Tiny"), protocol="standard,processes=2,max_processes=2,half_width=1000")
        (lost,) = runner_run.run(request, tmp_path, progress=Cuts()).records
        assert lost.status == "not_run"
        heard = Heard()
        (record,) = runner_run.run(request, tmp_path, progress=heard).records
        assert record.status == "ok"
        assert [label.partition(", ")[2] for label in heard.began] == ["process 1 of 2", "process 2 of 2"]
        assert len(record.get("latency_s").runs) == 2
        assert [a.kind for a in record.artifacts] == ["layers"]

    def test_an_interrupt_ends_the_far_side_and_its_child(self, board, tmp_path, monkeypatch):
        heard = Heard()

        def interrupted(_):
            wait_for(lambda: heard.began and far_sides(board))
            raise KeyboardInterrupt

        monkeypatch.setattr(remote_queue.HostQueues, "join", interrupted)
        with pytest.raises(KeyboardInterrupt):
            runner_run.run(ask(nets("Sleeps")), tmp_path, progress=heard)
        wait_for(lambda: not far_sides(board))
        assert not (tmp_path / "records.jsonl").exists()

    def test_two_runs_queue_and_the_second_is_told(self, board, tmp_path):
        lock = os.open(board.tmp / "benchbench.lock", os.O_RDONLY | os.O_CREAT, 0o644)
        fcntl.flock(lock, fcntl.LOCK_EX)
        heard = Heard(at_phase=lambda text, host: "waiting" in text and fcntl.flock(lock, fcntl.LOCK_UN))
        outcome = runner_run.run(ask(nets("Tiny")), tmp_path, progress=heard)
        os.close(lock)
        assert ("board", "another run has this board: waiting for its end") in heard.phases
        assert outcome.records[0].status == "ok"

    def test_a_class_that_is_not_on_the_host_is_not_run_there(self, board, tmp_path):
        (tmp_path / "mine.py").write_text("from torch import nn\nclass Net(nn.Identity):\n    pass\n")
        (tmp_path / "mine.toml").write_text('name = "mine"\ntitle = "M"\narch = "mine:Net"\n')
        outcome = runner_run.run(ask(f"{tmp_path}/mine.toml,{nets('Tiny')}"), tmp_path / "out", progress=Heard())
        mine, tiny = outcome.records
        assert (mine.status, tiny.status) == ("not_run", "ok")
        assert "installed on the host" in mine.error

    @pytest.mark.parametrize(
        ("known", "more", "message"),
        [
            ("", {}, r"host key of ssh://.* is not known: 'ssh -p .*' once, and compare"),
            ("stranger.pub", {}, r"another host key than the one that is known"),
            ("host_key.pub", {"user": "nobody-here"}, r"refuses our key"),
            ("host_key.pub", {"port": 1}, r"cannot be reached: .*Connection refused"),
            ("host_key.pub", {"python": "python9"}, r"'python9' cannot be run on board"),
            ("host_key.pub", {"folder": "/no/such"}, r"/no/such"),
            ("host_key.pub", {"python": "/usr/bin/python3", "folder": "/"}, r"not installed for /usr/bin/python3"),
        ],
    )
    def test_what_stands_in_the_way_is_one_line_that_says_what_to_do(self, board, tmp_path, known, more, message):
        board.know(known)
        add_host(board.host("board", **more))
        with pytest.raises(DeviceError, match=message) as caught:
            runner_run.run(ask(nets("Tiny")), tmp_path / "out", progress=Heard())
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()
        assert (board.known_hosts.read_text() == "") == (known == "")  # no key was taken

    def test_a_host_called_jetson_that_is_none_is_refused(self, board, tmp_path):
        add_host(board.host("jetson"))
        with pytest.raises(DeviceError, match="is no Jetson but"):
            runner_run.run(ask(nets("Tiny"), "jetson"), tmp_path, progress=Heard())

    def test_a_host_that_is_down_is_rows_beside_the_others_until_it_is_up(self, board, tmp_path):
        add_host(board.host("down", port=1))
        request = ask(nets("Tiny"), "down", "cpu")
        down, here = runner_run.run(request, tmp_path, progress=Heard()).records
        assert (down.status, here.status) == ("not_run", "ok")
        assert "Connection refused" in down.error
        add_host(board.host("down"))
        up, _ = runner_run.run(request, tmp_path, progress=Heard()).records
        assert up.status == "ok"
        assert sorted(r.status for r in latest(read_records(tmp_path))) == ["ok", "ok"]


class TestWithAStandIn:
    """The far side's last word of ssh, run by a shell here: what a hostile or odd board may say."""

    @pytest.fixture
    def board(self, tmp_path, monkeypatch):
        monkeypatch.chdir(ROOT)
        folder = tmp_path / "bin"
        folder.mkdir()
        ssh = folder / "ssh"
        ssh.write_text('#!/bin/sh\nfor word; do last=$word; done\nexec sh -c "$last"\n')
        ssh.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

        def says(text, code=0):
            python = tmp_path / "python"
            python.write_text(f"#!/bin/sh\nprintf '{text}'\nexit {code}\n")
            python.chmod(python.stat().st_mode | stat.S_IXUSR)
            host = Host("board", "orin", python=str(python))
            add_host(host)
            return host

        return says

    def hello(self, **more):
        said = {"event": "hello", "protocol": remote_ssh.PROTOCOL, "schema": rec.SCHEMA, "version": "9", **more}
        return "login banner " + json.dumps(said) + "\\n"

    @pytest.mark.parametrize(
        ("schema", "message"),
        [(rec.SCHEMA + 1, "is newer than .* upgrade the one here"), (0, "is older than .* upgrade the one on board")],
    )
    def test_another_schema_is_refused_with_which_side_to_upgrade(self, board, tmp_path, schema, message):
        board(self.hello(schema=schema))
        with pytest.raises(DeviceError, match=message):
            runner_run.run(ask(nets("Tiny")), tmp_path / "out", progress=Heard())

    def test_an_older_far_side_is_refused_before_weights_are_sent_that_it_would_not_know(self, board, tmp_path):
        """Up to 2, the sha256 of weights was that of the whole file, so that it would refuse them one by one."""
        board(self.hello(protocol=2))
        with pytest.raises(DeviceError, match=r"is older than .* upgrade the one on board"):
            runner_run.run(ask(nets("Tiny")), tmp_path / "out", progress=Heard())

    @pytest.mark.parametrize(
        ("said", "code", "message"),
        [
            ("welcome\\n", 0, "not as benchbench does: it said 'welcome'"),
            ("", 137, "was killed .* for want of memory"),
            ('[1]\\n{"event": "]\\n', 3, "exit code 3"),
            ('{"event": "end"}\\n', 0, "of an unknown version"),
        ],
    )
    def test_garbage_is_told_from_an_answer(self, board, tmp_path, said, code, message):
        board(said, code)
        with pytest.raises(DeviceError, match=message):
            runner_run.run(ask(nets("Tiny")), tmp_path / "out", progress=Heard())

    def test_a_hello_without_a_device_is_refused(self, board, tmp_path):
        board(self.hello(device=3))
        with pytest.raises(DeviceError, match="does not say what it runs on"):
            runner_run.run(ask(nets("Tiny")), tmp_path / "out", progress=Heard())

    def test_a_board_without_torch_says_so(self, board, tmp_path):
        device = {"kind": "none", "name": "unknown"}
        board(self.hello(device=device, backend="cpu", environment={}, problem="torch is not installed"))
        with pytest.raises(DeviceError, match="torch is not installed"):
            runner_run.run(ask(nets("Tiny")), tmp_path / "out", progress=Heard())

    def test_a_terminal_is_not_given_orders(self, board):
        host = board('{"event": "error", "error": "\\\\u001b[2J"}\\n')
        (lost,) = remote_ssh.ask(host, ["devices", "probe"], limit_s=20.0)
        assert lost == remote_ssh.ConnectionLost("?[2J")

    def test_a_silent_board_is_given_up(self, tmp_path, board):
        python = tmp_path / "slow"
        python.write_text("#!/bin/sh\nread more\n")
        python.chmod(0o755)
        (lost,) = remote_ssh.ask(Host("b", "orin", python=str(python)), ["devices", "probe"], limit_s=0.5)
        assert "did not answer within" in lost.error

    def test_hostile_paths_stay_one_word_of_the_far_shell(self, board, tmp_path):
        spot = tmp_path / "owned"
        for path in (
            f"x; touch {spot}",
            f"$(touch {spot})",
            f"`touch {spot}`",
            f"'; touch {spot}; '",
            f"~/$(touch {spot})",
        ):
            for host in (Host("b", "orin", python=path), Host("b", "orin", folder=path)):
                (lost,) = remote_ssh.ask(host, ["devices", "probe"], limit_s=20.0)
                assert lost.error
        assert not spot.exists()

    @pytest.mark.parametrize(
        ("words", "message"),
        [(["devices", "fly"], "is older than this one"), (["run", "--fly"], "is older than this one")],
    )
    def test_a_benchbench_without_such_a_command_is_to_be_upgraded(self, board, words, message):
        host = Host("b", "orin", python=sys.executable)
        (lost,) = remote_ssh.ask(host, words, limit_s=60.0)
        assert message in lost.error

    def test_cells_that_are_none_are_said(self, board):
        host = Host("b", "orin", python=sys.executable)
        with remote_ssh.Connection(host, ["run", "--from-stdin", "--events", "json"]) as connection:
            connection.send({"asked": "b"})
            *_, lost = connection.events(60.0)
        assert "no cells come in" in lost.error

    def test_an_empty_stdin_is_refused(self, board, tmp_path):
        (tmp_path / "in").touch()
        with open(tmp_path / "in") as stdin:
            command = [sys.executable, "-m", "benchbench", "run", "--from-stdin", "--events", "json"]
            done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 2
        assert "no cells come in" in done.stderr
        assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == ["locked", "error"]


def test_ssh_asks_nothing_and_takes_no_unknown_key():
    words = remote_ssh.command(Host("b", "orin", user="me", port=2222), ["run", "a b"])
    assert words[0] == "ssh"
    assert {"BatchMode=yes", "StrictHostKeyChecking=yes"} <= set(words)
    assert words[words.index("--") + 1 :] == ["orin", "exec python3 -m benchbench run 'a b'"]


def test_no_ssh_here_is_said(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    (lost,) = remote_ssh.ask(Host("b", "orin"), ["devices", "probe"], limit_s=5.0)
    assert "install OpenSSH" in lost.error


class Sent:
    """Messages as `receive` takes them."""

    def __init__(self, *contents):
        self.messages = [{"content": base64.b64encode(c).decode()} for c in contents] + [{"content": None}]

    def __call__(self):
        return self.messages.pop(0)


def test_weights_that_differ_from_their_hash_or_find_no_room_are_refused(tmp_path, monkeypatch):
    digest = hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="not the one that its"):
        remote_weights.receive(digest, Sent(b"other"))
    with pytest.raises(CheckpointError, match="no sha256"):
        remote_weights.receive("../../x", Sent(b"other"))
    full = tmp_path / "checkpoints" / f"{digest}.{os.getpid()}.partial"
    full.symlink_to("/dev/full")
    sent = Sent(b"wei", b"ghts")
    with pytest.raises(CheckpointError, match=r"No space left.*make room"):
        remote_weights.receive(digest, sent)
    assert sent.messages == []  # nothing of it is left on the line
    assert remote_weights.receive(digest, Sent(b"wei", b"ghts")).read_bytes() == b"weights"
    assert remote_weights.find(digest)
