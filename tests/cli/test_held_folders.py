"""A command holds the folder that it writes into, tells of what is finished there, and replaces none of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchbench.cli import main as cli_main
from benchbench.core import results as core_results
from benchbench.core.errors import StoreError, UsageError
from benchbench.core.results import RECORDS, Store
from benchbench.runner import calibrate
from benchbench.runner.schedule import JOURNAL, RunJournal
from benchbench.zoo import checkpoint
from tests.data_sets import decathlon

NET = "tests.tiny_nets:Wider"
SAFE = "tests.tiny_nets-Wider"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return decathlon(tmp_path_factory.mktemp("data") / "Task99_Boxes", count=10)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def train(folder: Path, out: Path, *more: str, steps: int = 2) -> int:
    words = ["train", NET, "--data", str(folder), "--budget", f"{steps}steps", "--validations", "0", "--threads", "1"]
    return cli_main.main([*words, "--out", str(out), *more])


def compress(parent: Path, folder: Path, out: Path, *more: str) -> int:
    words = ["compress", NET, "--checkpoint", str(parent), "--prune", "0.5", "--threads", "1"]
    return cli_main.main([*words, "--data", str(folder), "--out", str(out), *more])


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != core_results.LOCK}


def test_a_finished_training_is_told_of_and_not_made_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(folder, tmp_path) == 0
    first, before = capsys.readouterr().out, content(tmp_path)
    assert set(before) == {f"{SAFE}.safetensors", f"{SAFE}.json"}
    assert "finished before" not in first
    assert train(folder, tmp_path, "--keep-every", "5s") == 0
    again = capsys.readouterr().out
    assert again.startswith("finished before")
    assert again.endswith(first)
    assert content(tmp_path) == before


def test_another_training_does_not_replace_it(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(folder, tmp_path) == 0
    before = content(tmp_path)
    capsys.readouterr()
    assert train(folder, tmp_path, "--seed", "7") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "is of another training: choose another --out, or --fresh" in said
    assert content(tmp_path) == before


def test_fresh_sets_a_training_aside_by_number(folder: Path, tmp_path: Path) -> None:
    made = []
    for seed in range(3):
        assert train(folder, tmp_path, "--fresh", "--seed", str(seed)) == 0
        made.append(content(tmp_path)[f"{SAFE}.safetensors"])
    kept = content(tmp_path)
    names = [f"{SAFE}.safetensors{ending}" for ending in (".old", ".old.2", "")]
    assert [kept[name] for name in names] == made
    assert len(set(made)) == 3
    assert {f"{SAFE}.json{ending}" for ending in (".old", ".old.2", "")} <= set(kept)


@pytest.mark.parametrize("name", [f"{SAFE}.safetensors", f"{SAFE}.json"])
def test_a_file_of_somebody_else_is_not_replaced(
    folder: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(b"mine")
    assert train(folder, tmp_path) == 2
    assert f"{name} is there already" in capsys.readouterr().err
    assert content(tmp_path) == {name: b"mine"}
    assert train(folder, tmp_path, "--fresh") == 0
    assert content(tmp_path)[f"{name}.old"] == b"mine"


def test_a_compression_is_told_of_and_replaces_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(folder, tmp_path / "whole") == 0
    parent = tmp_path / "whole" / f"{SAFE}.safetensors"
    for more in ([], ["--finetune", "2steps"]):
        out = tmp_path / f"small{len(more)}"
        assert compress(parent, folder, out, *more) == 0
        before = content(out)
        capsys.readouterr()
        assert compress(parent, folder, out, *more) == 0
        assert "finished before" in capsys.readouterr().out
        assert compress(parent, folder, out, "--finetune", "3steps") == 2
        assert compress(parent, folder, out, *more, "--multiple-of", "2") == 2
        assert capsys.readouterr().err.count("\n") == 2
        assert content(out) == before
    assert compress(parent, folder, out, *more, "--lr", "0.5") == 2
    assert "is of another training" in capsys.readouterr().err
    assert compress(parent, folder, out, *more, "--lr", "0.5", "--fresh") == 0
    kept = content(out)
    assert kept[f"{SAFE}-magnitude50.safetensors.old"] == before[f"{SAFE}-magnitude50.safetensors"]
    original = parent.read_bytes()
    assert compress(parent, folder, parent.parent, "--name", SAFE, "--fresh") == 2
    assert "is read by this command" in capsys.readouterr().err
    assert parent.read_bytes() == original


def test_a_folder_in_use_is_refused_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(folder, tmp_path / "whole") == 0
    parent = tmp_path / "whole" / f"{SAFE}.safetensors"
    capsys.readouterr()
    out = tmp_path / "out"
    search = ["search", "--budget", "2GB", "--data", str(folder), "--out", str(out)]
    audit = ["audit", "--models", "tests.tiny_nets:Tiny", "--out", str(out)]
    with core_results.held(out):
        codes = [train(folder, out), compress(parent, folder, out), cli_main.main(search), cli_main.main(audit)]
        lines = capsys.readouterr().err.splitlines()
    assert codes == [2, 2, 2, 2]
    assert len(lines) == 4
    assert all("is in use by another run" in line for line in lines)
    assert not out.exists()


def test_a_lock_whose_file_was_taken_away_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run before took its lock file along while this one was about to have it."""
    opened, real = [], os.open

    def slow(path: Path, *rest: int) -> int:
        handle = real(path, *rest)
        if not opened:
            (tmp_path / core_results.LOCK).unlink()
        opened.append(handle)
        return handle

    monkeypatch.setattr(os, "open", slow)
    handle = core_results.lock(tmp_path)
    monkeypatch.undo()
    assert handle is not None
    assert len(opened) == 2
    with pytest.raises(StoreError, match="in use"):
        core_results.lock(tmp_path)
    os.close(handle)


def test_fresh_twice_keeps_the_records_of_both(tmp_path: Path) -> None:
    line = b'{"schema": 1}\n'
    for number in range(3):
        (tmp_path / RECORDS).write_bytes(line * (number + 1))
        (tmp_path / JOURNAL).write_bytes(b"{}\n" * (number + 1))
        Store(tmp_path, fresh=True).close()
        assert RunJournal(tmp_path, fresh=True).results("cell", {}) == []
        tmp_path.mkdir(exist_ok=True)
    for ending, number in ((".old", 1), (".old.2", 2), (".old.3", 3)):
        assert (tmp_path / f"{RECORDS}{ending}").read_bytes() == line * number
        assert (tmp_path / f"{JOURNAL}{ending}").read_bytes() == b"{}\n" * number


def test_an_empty_file_is_not_set_aside(tmp_path: Path) -> None:
    (tmp_path / f"{RECORDS}.old").write_bytes(b"full")
    (tmp_path / RECORDS).touch()
    (tmp_path / JOURNAL).touch()
    RunJournal(tmp_path, fresh=True)
    Store(tmp_path, fresh=True).close()
    assert [path.name for path in tmp_path.glob("*.old*")] == [f"{RECORDS}.old"]
    assert (tmp_path / f"{RECORDS}.old").read_bytes() == b"full"


def test_what_a_killed_process_left_half_written_goes_when_a_folder_is_opened(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    (tmp_path / "artifacts").mkdir()
    gone = [tmp_path / f"report.html.{child.pid}.partial", tmp_path / "artifacts" / f"a.json.{child.pid}.partial"]
    stay = [tmp_path / f"x.json.{os.getpid()}.partial", tmp_path / "notes.partial", tmp_path / f"{child.pid}.txt"]
    for path in (*gone, *stay):
        path.write_bytes(b"half")
    with Store(tmp_path):
        assert not any(path.exists() for path in gone)
    gone[0].write_bytes(b"half")
    with core_results.held(tmp_path, prefix="other."):
        assert gone[0].exists()
    with core_results.held(tmp_path):
        assert not gone[0].exists()
    assert all(path.exists() for path in stay)
    gone[0].write_bytes(b"half")
    core_results.remove_torn(tmp_path, older_s=3600)  # another machine may be at it
    assert gone[0].exists()


def test_a_profile_without_its_times_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "pyproject.toml"
    out.write_text("[project]\n")
    with pytest.raises(UsageError, match="is there already and its times"):
        calibrate.calibrate([], calibrate.Setting(threads=1), out, time_s=0.0)
    assert out.read_text() == "[project]\n"


def test_names_of_files_have_no_colon() -> None:
    assert checkpoint.file_name("mynets:MyNet") == "mynets-MyNet"
    assert checkpoint.file_name("slim_unetr-taylor50") == "slim_unetr-taylor50"
    assert checkpoint.file_name("a/../b\\c d") == "a-..-b-c-d"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_does_not_hold_what_the_one_before_it_held(tmp_path: Path) -> None:
    (until, end), (ready, begun) = os.pipe(), os.pipe()
    for name in ("held", "records"):  # then they stay, with the file that is locked
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").touch()
    with core_results.held(tmp_path / "held"), Store(tmp_path / "records") as kept:
        kept.path.write_text("\n")
        child = os.fork()
        if not child:
            os.close(end)
            os.write(begun, b".")
            os.read(until, 1)  # the first process is done
            os._exit(0)
        os.read(ready, 1)
        with pytest.raises(StoreError, match="in use by another run"), core_results.held(tmp_path / "held"):
            pass
    try:
        with core_results.held(tmp_path / "held"), Store(tmp_path / "records"):
            pass
    finally:
        os.close(end)
        os.waitpid(child, 0)
        for handle in (until, ready, begun):
            os.close(handle)
