"""`bench audit` as it is typed: tables, formats, records, and networks that misbehave."""

import csv
import io
import json
from pathlib import Path

import pytest

from benchbench.core.results import read_records
from benchbench.runner import audit as runner_audit
from benchbench.runner.child_process import WorkerFailure
from tests.cli.said import command

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("forked_workers")
SIZE = ["--input", "1", "4", "8", "8", "8"]
NETS = """
import os, torch
from torch import nn
class Tiny(nn.Module):
    def __init__(self, in_channels=4):
        super().__init__()
        self.conv = nn.Conv3d(in_channels, 3, 1)
    def forward(self, x):
        return self.conv(x)
class Dies(nn.Module):
    def __init__(self):
        os._exit(7)
class Decides(Tiny):
    def forward(self, x):
        return self.conv(x) if x.sum() > 0 else x
class Two(Tiny):
    def forward(self, x, y):
        return x
class Refuses(Tiny):
    def __init__(self, spatial):
        raise ValueError("sides must be multiples of 32")
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    (tmp_path / "mynets.py").write_text(NETS)
    (tmp_path / "broken.py").write_text("def (:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


bench = command("audit")


def test_the_table_names_the_wrong_counter_and_the_published_figure(capsys):
    code, out, err = bench(capsys, "--models", "slim_unetr")
    assert code == 0
    assert err == ""
    assert "GMAC (2x = GFLOP)" in out
    assert "12.39 (4.92x)" in out
    assert "thop and torch-pruning 4.9x too high: transposed convolutions, +9.99 G" in out
    assert "published 12.42 G: the count of thop" in out


def test_by_operator_says_where_and_why(capsys):
    code, out, _ = bench(capsys, "--models", "slim_unetr", "--by-operator", "--format", "csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    left_out = [r for r in rows if r["counter"] == "thop" and r["why"].startswith("not counted")]
    assert [(r["kind"], r["operator"]) for r in left_out] == [("attention", "bmm")]


def test_golden_operators_are_printed_without_a_network(capsys):
    code, out, _ = bench(capsys, "--operators", "--format", "json")
    assert code == 0
    rows = {row["operator"]: row for row in json.loads(out)}
    assert {row["PyTorch"] for row in rows.values()} == {"1.00x", "0"}
    assert rows["transposed conv 3-D"]["thop"] == "8.00x"


@pytest.mark.parametrize(
    ("fmt", "sign"), [("markdown", "| --- |"), ("latex", r"\begin{tabular}"), ("csv", "network,input,counter")]
)
def test_formats(capsys, fmt, sign):
    code, out, _ = bench(capsys, "--models", "mynets:Tiny", *SIZE, "--format", fmt)
    assert code == 0
    assert sign in out


def test_networks_that_misbehave_are_rows_while_the_rest_of_the_table_stands(capsys, tmp_path):
    models = "mynets:Dies,mynets:Decides,mynets:Two,mynets:Refuses,mynets:Tiny"
    code, out, _ = bench(capsys, "--models", models, *SIZE, "--format", "json", "--out", "here")
    assert code == 3
    found = {one["model"]: one for one in json.loads(out)}
    assert found["mynets:Tiny"]["counters"][0]["macs"] == 8**3 * 4 * 3
    assert "exit code 7" in found["mynets:Dies"]["reason"]
    assert "random values" in found["mynets:Decides"]["counters"][0]["how"]
    assert "missing 1 required positional argument" in found["mynets:Two"]["counters"][0]["reason"]
    assert "multiples of 32" in found["mynets:Refuses"]["reason"]
    statuses = {r.model.name: r.status for r in read_records(tmp_path / "here")}
    assert statuses == {
        "mynets:Dies": "failed",
        "mynets:Decides": "ok",
        "mynets:Two": "unsupported",
        "mynets:Refuses": "unsupported",
        "mynets:Tiny": "ok",
    }


def test_a_record_holds_the_audit_and_its_cell_is_no_runs(capsys, tmp_path):
    code, out, _ = bench(capsys, "--models", "slim_unetr", "--out", "here")
    assert code == 0
    assert "here/records.jsonl" in out
    (record,) = read_records(tmp_path / "here")
    assert (record.workload.protocol, record.device.kind, record.device.asked) == ("audit", "none", "none")
    assert record.value("macs") == 2_516_379_648
    assert record.published("macs").value == 12.42e9
    (artifact,) = record.artifacts
    assert artifact.kind == "audit"
    assert json.loads((tmp_path / "here" / artifact.path).read_text())["model"] == "slim_unetr"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "broken:Net"], "broken.py line 1"),
        (["--models", "slim_unet"], "did you mean 'slim_unetr'?"),
        (["--models", "slim_unetr", "--input", "1", "4", "100", "100", "100"], "multiple of 32"),
        (["--models", "slim_unetr", "--input", "1", "4", "32"], "expected 5 arguments"),
        (["--operator"], "did you mean '--operators'?"),
        (["--format", "html"], "unknown --format 'html'"),
    ],
)
def test_wrong_use_is_one_line_with_exit_code_2(capsys, arguments, message):
    code, out, err = bench(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_a_network_that_hangs_is_a_row_and_the_next_ones_get_a_new_child(capsys, monkeypatch):
    real, asked = runner_audit.run_worker, []

    def talk(request, *, limit_s):
        asked.append([job["model"]["name"] for job in request["jobs"]])
        if len(asked) > 1:
            yield from real(request, limit_s=limit_s)
            return
        yield {"event": "begin", "index": 0}
        yield WorkerFailure(
            status="timeout", error="stopped after its time limit of 9 s; a longer one: --time-limit", stderr=""
        )

    monkeypatch.setattr(runner_audit, "run_worker", talk)
    code, out, _ = bench(capsys, "--models", "mynets:Tiny,slim_unetr", *SIZE[:3], "32", "32", "32")
    assert code == 3
    assert asked == [["mynets:Tiny", "slim_unetr"], ["slim_unetr"]]
    assert "mynets:Tiny: no headline: while it was counted, stopped after its time limit of 9 s\n" in out
    assert "slim_unetr: " in out


def test_what_is_counted_is_on_disk_before_the_next_network_is(capsys, tmp_path, monkeypatch):
    real, known = runner_audit.run_worker, []

    def talk(request, *, limit_s):
        for event in real(request, limit_s=limit_s):
            if event["event"] == "begin":
                known.append([r.model.name for r in read_records(tmp_path / "here")])
                if len(known) == 3:
                    raise KeyboardInterrupt
            yield event

    monkeypatch.setattr(runner_audit, "run_worker", talk)
    models = "mynets:Tiny,mynets:Two,mynets:Decides"
    assert bench(capsys, "--models", models, *SIZE, "--out", "here")[0] == 130
    assert known == [[], ["mynets:Tiny"], ["mynets:Tiny", "mynets:Two"]]
    records = list(read_records(tmp_path / "here"))
    assert [r.model.name for r in records] == known[-1]
    assert all((tmp_path / "here" / artifact.path).exists() for r in records for artifact in r.artifacts)


@pytest.mark.parametrize(
    ("models", "code", "kept"),
    [("mynets:Refuses,mynets:Tiny", 3, ["mynets:Refuses", "mynets:Tiny"]), ("mynets:Refuses", 2, [])],
)
def test_a_size_that_one_network_refuses_is_kept_unless_all_do(capsys, tmp_path, models, code, kept):
    assert bench(capsys, "--models", models, *SIZE, "--out", "here")[0] == code
    assert (tmp_path / "here").exists() == bool(kept)
    assert [r.model.name for r in (read_records(tmp_path / "here") if kept else [])] == kept
