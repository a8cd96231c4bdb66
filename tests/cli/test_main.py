"""What a person types, and what comes back: one line and the right exit code for whatever cannot be done."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from benchbench.cli import parser
from benchbench.core.records import SCHEMA
from benchbench.runner.request import RunRequest
from benchbench.search.budget import parse_budget
from benchbench.search.request import SearchRequest
from tests.cli.said import bench

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("forked_workers")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


GOOD_CARD = 'name = "m"\ntitle = "M"\narch = "torch.nn:Identity"\n'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--models", "slim_unet"], "unknown model 'slim_unet': did you mean 'slim_unetr'?"),
        (["run", "--device", "jetsn"], "did you mean 'jetson'?"),
        (["run", "--device", "jetson:orin-nano-8gb-supr"], "did you mean 'jetson:orin-nano-8gb-super'?"),
        (["run", "--modles", "all"], "unknown flag '--modles': did you mean '--models'?"),
        (["run", "--model", "all"], "unknown flag '--model': did you mean '--models'?"),
        (["rnu"], "unknown command 'rnu': did you mean 'run'?"),
        (["list", "modles"], "did you mean 'models'?"),
        (["run", "--data", "phantm"], "did you mean 'phantom'?"),
        (["run", "--dtype", "fp64"], "unknown dtype 'fp64'"),
        (["run", "--spatial", "1", "2"], "expected 3 arguments"),
        (["run", "--spatial", "0", "2", "2"], "'0' is not a positive whole number"),
        (["run", "--batch-size", "x"], "'x' is not a positive whole number"),
        (["run", "--time-limit", "5"], "'5' is not a time"),
        (["run", "--models", "no.toml"], "cannot read the card no.toml"),
        (["run", "--config", "no.toml"], "cannot read --config no.toml"),
        (["run", "--models", "slim_unetr", "--checkpoint", "no.safetensors"], "no.json beside the weights"),
        (["report", "nowhere"], "no records at nowhere"),
        (["train", "all"], "train one at a time"),
        (["train", "vit3d"], "vit3d is made for classification"),
        (["train", "slim_unetr", "--patch-schedule", "64:1"], "is not like 64x64x64:0.9"),
    ],
)
def test_bad_input_is_one_line_with_exit_code_2_and_leaves_nothing_behind(capsys, tmp_path, arguments, message):
    code, out, err = bench(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert err.startswith("bench: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_cuda_asked_for_and_absent_says_what_to_do_instead(capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    code, _, err = bench(capsys, "run", "--device", "cuda")
    assert code == 2
    assert "'--device cpu'" in err


def test_require_measured_exits_3_rather_than_predict(capsys):
    code, _, err = bench(capsys, "run", "--device", "jetson", "--require-measured")
    assert code == 3
    assert "cannot be measured here" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD_CARD + "x = 1\n", "unknown key 'x'"),
        ("name =", "not valid TOML"),
        ('name = "m"\n', "is missing"),
        (GOOD_CARD.replace("Identity", "Idenity"), "did you mean 'Identity'?"),
    ],
)
def test_a_bad_card_is_one_line(capsys, tmp_path, text, message):
    (tmp_path / "card.toml").write_text(text)
    code, _, err = bench(capsys, "run", "--models", "card.toml", "--device", "jetson")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not ours\n", "no JSON"),
        (b'{"a": 1}\n', "no 'schema'"),
        (b'{"schema": %d}\n' % (SCHEMA + 1), "upgrade"),
        (b'{"schema": 1}\n', "is missing"),
        (b"\xff\xfe\n", "not a benchbench record"),
    ],
)
def test_a_records_file_that_is_not_ours_is_refused_and_left_as_it_is(capsys, tmp_path, content, message):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "records.jsonl").write_bytes(content)
    for arguments in (["report", "r"], ["run", "--out", "r", "--device", "jetson"]):
        code, _, err = bench(capsys, *arguments)
        assert code == 2
        assert message in err
        assert err.count("\n") == 1
    assert (tmp_path / "r" / "records.jsonl").read_bytes() == content


def test_an_output_folder_that_cannot_be_written_is_refused_before_anything_is_measured(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = bench(capsys, "run", "--out", "file/inside")
    assert code == 2
    assert "cannot write results to file/inside" in err
    assert "--out" in err


def test_a_truncated_records_file_is_continued_with_a_warning(capsys, tmp_path, caplog):
    code, _, _ = bench(capsys, "run", "--models", "slim_unetr,unetr", "--device", "jetson", "--out", "r")
    assert code == 0
    path = tmp_path / "r" / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-100])
    code, out, _ = bench(capsys, "run", "--models", "slim_unetr,unetr", "--device", "jetson", "--out", "r")
    assert code == 0
    assert "half written" in caplog.text
    assert "1 of 2 rows were measured before" in out
    assert (tmp_path / "r" / "records.jsonl.torn").exists()


def test_a_disk_that_fills_up_keeps_what_is_finished(tmp_path):
    """A limit on file size stands for the full disk: the write fails in the same way, in the middle."""

    def run(models, limit=None):
        asked = ["--models", models, "--device", "jetson", "--out", "r", "-q"]
        command = [sys.executable, "-m", "benchbench", "run", *asked]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None,
            capture_output=True,
            text=True,
            check=False,
        )

    assert run("tests.tiny_nets:Tiny").returncode == 0
    path = tmp_path / "r" / "records.jsonl"
    before = path.read_bytes()
    full = run("tests.tiny_nets:Tiny,tests.tiny_nets:Wider", limit=len(before) + 700)
    assert full.returncode == 2
    assert full.stderr.startswith(f"bench: cannot write to {Path('r') / 'records.jsonl'}")
    assert "1 finished record(s) are kept" in full.stderr
    assert full.stderr.count("\n") == 1
    assert path.read_bytes() == before
    assert "1 of 2 rows were measured before" in run("tests.tiny_nets:Tiny,tests.tiny_nets:Wider").stdout


def test_verbose_shows_the_traceback_and_nothing_else_does(capsys):
    _, _, quiet = bench(capsys, "report", "nowhere")
    _, _, verbose = bench(capsys, "report", "nowhere", "-v")
    assert "Traceback" not in quiet
    assert "Traceback" in verbose


def test_a_prediction_prints_its_banner_the_table_and_where_the_report_is(capsys, tmp_path):
    code, out, err = bench(capsys, "run", "--models", "slim_unetr", "--device", "jetson", "--out", "r")
    assert code == 0
    assert "No --models" not in err
    assert "[1/1] slim_unetr 128x128x128 on jetson: at least" in err  # also without a terminal
    assert out.startswith("Nothing was measured")
    assert "at least" in out
    assert "[P]" in out
    assert "[A]" in out
    assert (tmp_path / "r" / "report.html").exists()
    page = (tmp_path / "r" / "report.html").read_bytes()
    code, out, _ = bench(capsys, "report", "r")
    assert (code, out.strip()) == (0, "r/report.html")
    assert (tmp_path / "r" / "report.html").read_bytes() == page


def test_a_row_without_dice_says_what_command_would_make_one(capsys):
    code, out, _ = bench(capsys, "run", "--models", "tests.tiny_nets:Tiny", "--device", "jetson", "--out", "r")
    assert code == 0
    assert "no Dice of tests.tiny_nets:Tiny: no checkpoint" in out
    assert "'bench train tests.tiny_nets:Tiny --data phantom --spatial " in out


def test_rows_without_dice_for_one_reason_share_a_line(capsys):
    nets = "tests.tiny_nets:Tiny,tests.tiny_nets:Wider"
    _, out, _ = bench(capsys, "run", "--models", nets, "--device", "jetson", "--out", "r")
    assert "no Dice of tests.tiny_nets:Tiny, tests.tiny_nets:Wider: no checkpoint" in out
    assert "'bench train MODEL --data phantom --spatial " in out


@pytest.mark.parametrize("fmt", ["csv", "markdown", "latex", "json"])
def test_a_report_in_another_format_goes_to_stdout_or_to_a_file(capsys, tmp_path, fmt):
    bench(capsys, "run", "--models", "slim_unetr", "--device", "jetson", "--out", "r")
    code, out, _ = bench(capsys, "report", "r", "--format", fmt)
    assert code == 0
    assert "slim" in out.lower()
    code, _, _ = bench(capsys, "report", "r", "--format", fmt, "--out", "file")
    assert (tmp_path / "file").read_text().strip() == out.strip()


def test_a_config_file_gives_defaults_that_flags_override(capsys, tmp_path):
    (tmp_path / "c.toml").write_text('models = "unetr"\ndevice = "jetson"\nspatial = [64, 64, 64]\nout = "r"\n')
    code, out, _ = bench(capsys, "run", "--config", "c.toml", "--models", "slim_unetr")
    assert code == 0
    assert "64x64x64" in out
    assert "slim_unetr" in out
    assert "\nunetr" not in out
    (tmp_path / "c.toml").write_text('modles = "unetr"\n')
    code, _, err = bench(capsys, "run", "--config", "c.toml")
    assert code == 2
    assert "unknown key 'modles': did you mean 'models'?" in err


@pytest.mark.parametrize("what", ["models", "devices", "datasets"])
@pytest.mark.parametrize("fmt", ["table", "json", "csv", "markdown"])
def test_lists_come_in_every_format(capsys, what, fmt):
    code, out, _ = bench(capsys, "list", what, "--format", fmt)
    assert code == 0
    expected = {"models": "slim_unetr", "devices": "jetson-orin-nano-8gb-super", "datasets": "phantom"}[what]
    assert expected in out
    if fmt == "json":
        assert expected in {row["name"] for row in json.loads(out)}


def test_info_shows_this_machine(capsys):
    code, out, _ = bench(capsys, "info", "--format", "json")
    assert code == 0
    facts = json.loads(out)
    assert facts["cpu"]
    assert facts["cores"] >= 1


@pytest.mark.parametrize("arguments", [["--help"], ["list", "models"], ["list", "devices"], ["info"], ["--version"]])
def test_answers_that_need_no_network_load_no_torch(arguments):
    script = (
        "import sys\nfrom benchbench.cli import main as cli\n"
        f"try: cli.main({arguments!r})\nexcept SystemExit: pass\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('torch', 'monai')), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stderr.strip() == "[]"


def test_the_help_of_every_command_loads_no_torch():
    script = (
        "import sys\nfrom benchbench.cli import main, parser\n"
        "for command in parser.COMMANDS:\n"
        "    try: main.main([command, '--help'])\n"
        "    except SystemExit as end: assert not end.code\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('torch', 'monai')), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stderr.strip() == "[]"
    assert run.stdout.count("usage: bench ") == len(parser.COMMANDS)


def test_flags_that_are_not_given_are_the_defaults_of_the_request():
    request = RunRequest(**parser.values_of(RunRequest, parser.parse(["run"])))
    assert request == RunRequest(checkpoints=(Path("results/local"),))
    options = parser.parse(["search"])
    values = parser.values_of(SearchRequest, options) | {"budget": parse_budget(options.budget)}
    assert SearchRequest(**values) == SearchRequest(budget=parse_budget([]))


def test_flags_become_the_fields_of_the_request():
    words = "run --device cpu,jetson --spatial 1 2 3 --batch-size 1,2 --memory-limit 2GB --time-limit 1min --no-noise"
    request = RunRequest(**parser.values_of(RunRequest, parser.parse(words.split())))
    assert (request.devices, request.spatial, request.batch) == (("cpu", "jetson"), (1, 2, 3), (1, 2))
    assert (request.memory_limit_bytes, request.time_limit_s, request.noise) == (2_000_000_000, 60.0, False)
