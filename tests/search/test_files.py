"""What stands in the files of a search: wrong content is one line, whichever command reads it."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from benchbench.cli import main as cli_main
from benchbench.core.errors import StoreError
from benchbench.report import read_search, render_search
from benchbench.search import clock, storage
from benchbench.search import export as search_export
from benchbench.search import run as search_run
from benchbench.search.budget import parse_budget
from benchbench.search.job import SearchJob
from benchbench.search.problem import SearchProblem
from benchbench.search.request import JOB, SearchRequest, read_job, resumed_request
from benchbench.search.storage import open_storage, storage_errors

ROOT = Path(__file__).parents[2]
SEARCHED = ROOT / "results" / "reference" / "search-hippocampus-parent"


def begun() -> dict[str, Any]:
    request = SearchRequest(budget=parse_budget(["2GB", "50ms"]), spatial=(32, 32, 32), parent="/a/b.safetensors")
    problem = SearchProblem(
        data="x", key="x", spatial=(32, 32, 32), in_channels=1, out_channels=3, budget=request.budget
    )
    job = SearchJob(name="search-x", problem=problem, time_s=60.0, low_steps=3)
    plain: dict[str, Any] = json.loads(json.dumps({"schema": 2, "asked": request.to_json(), "job": job.to_json()}))
    return plain


def changed(*keys: str, to: Any) -> str:
    plain = begun()
    where = plain
    for key in keys[:-1]:
        where = where[key]
    where[keys[-1]] = to
    return json.dumps(plain)


def without(*keys: str) -> str:
    plain = begun()
    where = plain
    for key in keys[:-1]:
        where = where[key]
    del where[keys[-1]]
    return json.dumps(plain)


WRONG = {
    "empty": "",
    "half": json.dumps(begun())[:100],
    "a list": "[]",
    "a number": "3",
    "null": "null",
    "nested": "[" * 100_000,
    "nan": '{"asked": NaN, "job": null}',
    "a long number": '{"asked": ' + "9" * 400 + ', "job": null}',
    "a lone surrogate": '{"asked": {"data": "\\ud800"}, "job": null}',
    "no text": "\x00\x01",
    "newer": changed("schema", to=99),
    "of an earlier version": changed("schema", to=1),
    "without a schema": without("schema"),
    "a schema of words": changed("schema", to="one"),
    "no asked": without("asked"),
    "no job": without("job"),
    "asked is a list": changed("asked", to=[]),
    "job is a text": changed("job", to="low"),
    "an unknown key": changed("asked", "colour", to="red"),
    "no budget": without("asked", "budget"),
    "a budget of numbers": changed("asked", "budget", to=[2, 3]),
    "a budget of words": changed("asked", "budget", to=["2 bananas"]),
    "a budget in one text": changed("asked", "budget", to="2GB"),
    "time is a text": changed("asked", "time_s", to="soon"),
    "time is true": changed("asked", "time_s", to=True),
    "no time": changed("asked", "time_s", to=0),
    "time before it began": changed("asked", "time_s", to=-1),
    "a patch of two": changed("asked", "spatial", to=[32, 32]),
    "a patch of words": changed("asked", "spatial", to=["a", "b", "c"]),
    "a patch of nothing": changed("asked", "spatial", to=[0, 0, 0]),
    "no finalists": changed("asked", "finalists", to=0),
    "seeds are half": changed("asked", "seeds", to=1.5),
    "a large seed": changed("asked", "seed", to=2**40),
    "an unknown objective": changed("asked", "objective", to="beauty"),
    "an unknown phase": changed("asked", "phase", to="sleep"),
    "an unknown protocol": changed("asked", "protocol", to="hasty"),
    "data is a table": changed("asked", "data", to={}),
    "a parent of numbers": changed("asked", "parent", to=3),
    "an unknown sampler": changed("asked", "sampler", to="luck"),
    "a storage of numbers": changed("asked", "storage", to=[1]),
    "steps are words": changed("job", "low_steps", to="few"),
    "no steps": changed("job", "low_steps", to=0),
    "a job without a task": without("job", "task"),
    "a task of words": changed("job", "task", to="all"),
    "a task of two sides": changed("job", "task", "spatial", to=[32, 32]),
    "a task with another budget": changed("job", "task", "budget", to=[None]),
}


@pytest.mark.parametrize("content", WRONG.values(), ids=WRONG)
def test_what_was_asked_for_is_read_strictly(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / JOB).write_text(content)
    assert cli_main.main(["search", "--resume", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert JOB in error


def test_what_was_asked_for_is_what_is_read(tmp_path: Path) -> None:
    plain = begun()
    (tmp_path / JOB).write_text(json.dumps(plain))
    found = read_job(tmp_path)
    assert found.request.to_json() == plain["asked"]
    assert found.job is not None
    assert found.job.to_json() == plain["job"]
    assert resumed_request(tmp_path, None, time_s=90.0).time_s == 90.0
    (tmp_path / JOB).write_text(json.dumps(plain | {"job": None}))
    assert read_job(tmp_path).job is None


NO_TIMES = ["", "[]", "3", "{}", '{"whole_s": "x"}', '{"whole_s": NaN}', '{"whole_s": 1e999}', "[" * 100_000, "\x00"]
NO_TIMES += ['{"whole_s": 1.0, "measured_s": null, "seen": 0}', '{"whole_s": [], "measured_s": 1, "seen": 1}']


@pytest.mark.parametrize("content", NO_TIMES, ids=map(str, range(len(NO_TIMES))))
def test_times_that_cannot_be_read_are_counted_anew_with_a_warning(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / ".sittings.json"
    path.write_text(content)
    found = clock.ElapsedTime(path)
    assert (found.before_s, found.measured_s, found.pause_s) == (0.0, 0.0, 0.0)
    assert "the search counts its time from now on" in caplog.text
    found.measured(3.0)
    assert math.isfinite(clock.ElapsedTime(path).whole_s)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weights_sha256": 3}', "[[", "\x00", "null"])
def test_an_unreadable_check_of_an_onnx_file_has_it_made_again(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (weights,) = (SEARCHED / "front" / "slim_unetr_fixed-060d9d").glob("*.safetensors")
    monkeypatch.setattr(search_export, "write_onnx", lambda weights, out: (None, 0.0))
    (tmp_path / "a.onnx").write_text("of another time")
    (tmp_path / "a.onnx.json").write_text(content)
    assert search_export.export_point(weights, tmp_path, "a")["onnx_error"] == 0.0
    (tmp_path / "a.onnx").write_text("now")
    monkeypatch.setattr(search_export, "write_onnx", lambda weights, out: pytest.fail("it is there"))
    assert search_export.export_point(weights, tmp_path, "a", onnx=False)["onnx"] == "a.onnx"
    (tmp_path / "a.onnx").unlink()
    assert search_export.export_point(weights, tmp_path, "a", onnx=False)["onnx_reason"] == search_export.NO_TIME


def searched(**changes: Any) -> str:
    return json.dumps(json.loads((SEARCHED / "search.json").read_text()) | changes)


NO_RESULT = ["", "[]", "3", "{}", "[" * 100_000, "\x00", '{"schema": NaN}', '{"schema": "1"}', '{"schema": true}']
NO_RESULT += ['{"schema": 1}', '{"schema": 2}', searched(points=None), searched(points=[{}]), searched(trials={"a": 1})]
NO_RESULT += [searched(metric="Dice"), searched(task=[]), searched(accounting={"whole_s": "x"}), searched(data={})]
NO_RESULT += [searched(hypervolume=None), searched(published_config={}), searched(importance={"shares": {"a": "x"}})]


@pytest.mark.parametrize("content", NO_RESULT, ids=map(str, range(len(NO_RESULT))))
def test_a_result_that_cannot_be_shown_is_a_line(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "search.json").write_text(content)
    assert cli_main.main(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert "search.json" in error
    assert not (tmp_path / "report.html").exists()


def test_a_result_has_a_page_with_each_finalist() -> None:
    page = render_search(read_search(SEARCHED))
    for point in json.loads((SEARCHED / "search.json").read_text())["points"]:
        assert point["name"] in page


# -- the database


@pytest.mark.parametrize("content", [b"no database", b"SQLite format 3\x00" + b"\xff" * 4096, b"\x00" * 100])
def test_a_file_that_is_no_database_is_a_line(content: bytes, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    (tmp_path / "study.db").write_bytes(content)
    with pytest.raises(StoreError, match=r"study\.db") as caught, storage_errors(url):
        open_storage(url).get_all_studies()
    assert "\n" not in str(caught.value)


def test_a_database_of_other_tables_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "study.db"
    open_storage(f"sqlite:///{path}")
    with sqlite3.connect(path) as known:
        known.execute("DROP TABLE studies")
        known.execute("CREATE TABLE studies (id INTEGER, colour TEXT)")
    monkeypatch.setattr(storage.time, "sleep", lambda seconds: pytest.fail("it waits"))
    known = open_storage(f"sqlite:///{path}")
    with pytest.raises(StoreError, match="is not a search's database, or damaged") as caught, storage_errors("x"):
        known.get_all_studies()
    assert "\n" not in str(caught.value)


def test_an_empty_database_is_begun(tmp_path: Path) -> None:
    (tmp_path / "study.db").touch()
    assert open_storage(f"sqlite:///{tmp_path / 'study.db'}").get_all_studies() == []


# -- advice


def test_a_search_without_a_result_says_how_it_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a search"
    folder.mkdir()
    shutil.copy(SEARCHED / "search.json", folder / "kept.json")
    (folder / JOB).write_text(json.dumps(begun()))
    assert cli_main.main(["report", str(folder)]) == 2
    error = capsys.readouterr().err
    assert f"has no result yet; this goes on with it: bench search --resume '{folder}'" in error
    assert "bench run" not in error
    (folder / "kept.json").rename(folder / "search.json")
    assert cli_main.main(["report", "--format", "csv", str(folder)]) == 2
    assert f"whose finalists have their records in {folder / 'measured'}" in capsys.readouterr().err


def test_what_stops_a_search_before_it_began_promises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(search_run, "check_objective", stop)
    flags = ["search", "--parent", "train", "--data", "phantom", "--out", str(tmp_path / "out")]
    assert cli_main.main(flags) == 130
    error = capsys.readouterr().err
    assert "nothing was begun yet" in error
    assert "--resume" not in error
