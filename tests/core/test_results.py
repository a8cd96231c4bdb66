"""The results folder: nothing finished is lost, whatever happens to the run that writes it."""

import dataclasses
import errno
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchbench.core import records as rec
from benchbench.core import results as core_results
from benchbench.core.errors import StoreError

ENVIRONMENT = {"torch": "2.13.0", "cpu": "AMD EPYC"}


def make(name: str = "unetr", *, minute: int = 0, status: rec.Status = "ok", error: str | None = None) -> rec.Record:
    return rec.Record(
        model=rec.ModelSpec(name=name, arch=f"nets:{name}", kwargs={}, in_channels=4, out_channels=3),
        workload=rec.Workload(threads=2),
        device=rec.Device(kind="cpu", name="AMD EPYC", basis="probed", asked="cpu"),
        environment=ENVIRONMENT,
        status=status,
        started_at=f"2026-01-02T03:{minute:02}:00Z",
        duration_s=1.0,
        error=error,
        measurements=(
            rec.Measurement(
                metric="latency_s",
                unit="s",
                value=0.5,
                origin="measured",
                method="median of 3",
                values=(0.4, 0.5, 0.6),
                ci95=(0.4, 0.6),
            ),
            rec.Measurement(metric="dice", unit="1", value=None, origin="measured", method="-", reason="no data set"),
        ),
    )


def write(folder: Path, *records: rec.Record) -> Path:
    with core_results.Store(folder) as opened:
        for record in records:
            opened.append(record)
    return folder / core_results.RECORDS


def python(code: str, *arguments: object, **options: object) -> "subprocess.Popen[str]":
    """A child that has this file's `make` and `write`."""
    setting = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path(core_results.__file__).parents[2])])}
    return subprocess.Popen(
        [sys.executable, "-c", f"from test_results import *\n{code}", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | setting,
        **options,  # type: ignore[call-overload]
    )


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


@settings(max_examples=30, deadline=None)  # every example waits for the disk
@given(st.lists(names, min_size=1, max_size=5))
def test_what_is_appended_is_read_back_in_order(wanted: list[str]) -> None:
    records = [make(name, minute=i, error=name) for i, name in enumerate(wanted)]
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), *records)
        assert core_results.read_records(path) == records
        assert path.read_bytes().count(b"\n") == len(records)


def test_a_folder_in_which_nothing_was_recorded_does_not_stay_behind(tmp_path: Path) -> None:
    with core_results.Store(tmp_path / "new"):
        pass
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "theirs.txt").write_text("kept")
    with core_results.Store(tmp_path / "old"):
        pass
    assert [f.name for f in (tmp_path / "old").iterdir()] == ["theirs.txt"]


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_file_cut_anywhere_gives_every_record_that_was_whole(data: st.DataObject) -> None:
    records = [make(minute=i) for i in range(3)]
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), *records)
        raw = path.read_bytes()
        cut = data.draw(st.integers(0, len(raw)))
        path.write_bytes(raw[:cut])
        whole = raw[:cut].count(b"\n")
        assert core_results.read_records(path) == records[:whole]
        with core_results.Store(Path(folder)) as opened:
            assert opened.records == records[:whole]
            opened.append(records[whole % 3])
        assert core_results.read_records(path) == [*records[:whole], records[whole % 3]]


def test_a_half_written_last_line_is_kept_aside_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, make())
    with path.open("ab") as file:
        file.write(b'{"schema":1,"mod')
    with caplog.at_level(logging.WARNING), core_results.Store(tmp_path) as opened:
        assert opened.records == [make()]
    assert "half written" in caplog.text
    assert (tmp_path / "records.jsonl.torn").read_bytes() == b'{"schema":1,"mod\n'
    assert path.read_bytes().endswith(b"\n")


def test_a_reader_passes_over_the_half_line_and_leaves_the_file_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, make())
    torn = path.read_bytes() + b'{"sch'
    path.write_bytes(torn)
    assert core_results.read_records(path) == [make()]
    assert "half written" in caplog.text
    assert path.read_bytes() == torn


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("hello", "no JSON"),
        ("[1, 2]", "no 'schema'"),
        ('{"a": 1}', "no 'schema'"),
        ('{"schema": "1"}', "schema '1'"),
        ('{"schema": true}', "schema True"),
        ('{"schema": 0}', "schema 0"),
        ('{"schema": 1}', "'model' is missing"),
        (json.dumps(rec.record_to_json(make()) | {"status": "fine"}), "status is 'fine'"),
    ],
)
def test_a_file_that_is_not_ours_is_refused_with_its_line_and_left_alone(
    tmp_path: Path, line: str, message: str
) -> None:
    path = write(tmp_path, make())
    path.write_text(path.read_text() + line + "\n")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"records\.jsonl line 2 ") as reading:
        core_results.read_records(path)
    assert message in str(reading.value)
    with pytest.raises(StoreError, match=r"line 2 "):
        core_results.Store(tmp_path)
    assert path.read_bytes() == before
    assert "\n" not in str(reading.value)


def test_bytes_that_are_no_text_are_not_ours(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_bytes(b"\x89PNG\xff\xfe\n\x00\n")
    with pytest.raises(StoreError, match="line 1 is not a benchbench record"):
        core_results.read_records(tmp_path)


def test_a_newer_schema_is_refused_with_advice(tmp_path: Path) -> None:
    data = rec.record_to_json(make()) | {"schema": rec.SCHEMA + 1}
    (tmp_path / "records.jsonl").write_text(json.dumps(data) + "\n")
    with pytest.raises(StoreError, match=rf"schema {rec.SCHEMA + 1} .* reads up to {rec.SCHEMA}: .*upgrade"):
        core_results.Store(tmp_path)


def test_a_folder_is_held_by_one_run_and_free_again_when_that_run_is_killed(tmp_path: Path) -> None:
    child = python("s = core_results.Store(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()", tmp_path)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match="in use by another run"):
            core_results.Store(tmp_path)
        assert core_results.Store(tmp_path / "other").records == []
    finally:
        child.kill()
        child.communicate()
    with core_results.Store(tmp_path) as opened:
        assert opened.records == []


def test_a_refused_or_closed_folder_can_be_opened_in_the_same_process(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text("not ours\n")
    with pytest.raises(StoreError, match="line 1"):
        core_results.Store(tmp_path)
    path.unlink()
    write(tmp_path, make())
    write(tmp_path, make(minute=1))
    assert len(list(core_results.read_records(path))) == 2


def test_a_run_killed_in_the_middle_of_a_write_loses_only_that_record(tmp_path: Path) -> None:
    child = python(
        """
opened = core_results.Store(Path(sys.argv[1]))
opened.append(make())
opened.append(make(minute=1))
class Half:
    def __init__(self, file): self.file = file
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def write(self, line):
        self.file.write(line[: len(line) // 2])
        self.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
core_results.open = lambda *arguments: Half(open(*arguments))
opened.append(make(minute=2))
""",
        tmp_path,
    )
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert not (tmp_path / "records.jsonl").read_bytes().endswith(b"\n")
    with core_results.Store(tmp_path) as opened:
        assert opened.records == [make(), make(minute=1)]
        opened.append(make(minute=2))
    assert core_results.read_records(tmp_path) == [make(), make(minute=1), make(minute=2)]


def test_a_run_killed_at_any_moment_leaves_whole_records(tmp_path: Path) -> None:
    child = python(
        "s = core_results.Store(Path(sys.argv[1]))\n"
        "for i in range(10**6): s.append(make(minute=i % 60)); print(i, flush=True)",
        tmp_path,
    )
    assert child.stdout is not None
    while child.stdout.readline() != "20\n":
        assert child.poll() is None
    child.kill()
    said, _ = child.communicate()
    with core_results.Store(tmp_path) as opened:
        assert len(opened.records) >= 21 + said.count("\n")
        assert opened.records == [make(minute=i % 60) for i in range(len(opened.records))]


def test_a_disk_that_fills_up_keeps_every_finished_record(tmp_path: Path) -> None:
    line = len(write(tmp_path / "one", make()).read_bytes())

    def small_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (line * 5 // 2, line * 5 // 2))

    child = python(
        """
opened = core_results.Store(Path(sys.argv[1]))
try:
    for i in range(9): opened.append(make(minute=i))
except core_results.StoreError as error:
    print(error)
""",
        tmp_path / "full",
        preexec_fn=small_disk,
    )
    said, _ = child.communicate()
    assert child.returncode == 0
    assert "2 finished record(s) are kept: make room and run the same command again" in said
    raw = (tmp_path / "full" / "records.jsonl").read_bytes()
    assert raw.endswith(b"\n")
    assert core_results.read_records(tmp_path / "full") == [make(), make(minute=1)]


def test_a_record_that_the_disk_did_not_confirm_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = core_results.Store(tmp_path)
    opened.append(make())

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match=r"No space left on device; 1 finished record\(s\) are kept"):
        opened.append(make(minute=1))
    assert opened.records == [make()]
    opened.close()
    assert core_results.read_records(tmp_path) == [make()]


def test_a_folder_that_cannot_be_made_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write results to .*file/sub: Not a directory; .*--out"):
        core_results.Store(tmp_path / "file" / "sub")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_leave_to_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="Permission denied"):
        core_results.Store(tmp_path)


def test_fresh_starts_over_and_keeps_what_was_there(tmp_path: Path) -> None:
    write(tmp_path, make())
    with core_results.Store(tmp_path, fresh=True) as opened:
        assert opened.records == []
        opened.append(make(minute=5))
    assert core_results.read_records(tmp_path) == [make(minute=5)]
    assert core_results.read_records(tmp_path / "records.jsonl.old") == [make()]


@pytest.mark.parametrize("status", ["ok", "unstable", "unsupported"])
def test_a_finished_cell_is_reused_in_an_equal_environment_only(tmp_path: Path, status: rec.Status) -> None:
    record = make(status=status)
    with core_results.Store(tmp_path) as opened:
        opened.append(record)
        assert opened.finished(record.cell, ENVIRONMENT | {"load_average": 3.0}) == record
        assert opened.finished(record.cell, ENVIRONMENT | {"torch": "2.14.0"}) is None
        assert opened.finished(make("nnunet").cell, ENVIRONMENT) is None


@pytest.mark.parametrize("status", ["failed", "oom", "timeout", "not_run"])
def test_what_failed_last_is_tried_again(tmp_path: Path, status: rec.Status) -> None:
    with core_results.Store(tmp_path) as opened:
        opened.append(make())
        opened.append(make(minute=1, status=status))
        assert opened.finished(make().cell, ENVIRONMENT) is None


def test_artifacts_of_equal_content_are_kept_once(tmp_path: Path) -> None:
    with core_results.Store(tmp_path) as opened:
        first = opened.add_artifact("layers", "unetr.json", b"{}", title="Layers")
        again = opened.add_artifact("layers", "unetr.json", b"{}")
        other = opened.add_artifact("layers", "unetr.json", b"[]")
    assert (first.path, first.sha256) == (again.path, again.sha256)
    assert other.path != first.path
    assert sorted(p.name for p in (tmp_path / "artifacts").iterdir()) == sorted(
        Path(a.path).name for a in (first, other)
    )
    assert (tmp_path / first.path).read_bytes() == b"{}"


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    core_results.write_whole(path, b"old")

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        core_results.write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_nothing_there_is_said_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no records in .*: bench run --out"):
        core_results.read_records(tmp_path)
    with pytest.raises(StoreError, match="no such file or folder"):
        core_results.read_records(tmp_path / "nowhere")


def test_a_folder_of_several_files_is_read_as_one(tmp_path: Path) -> None:
    for name in ("b", "a"):
        os.replace(write(tmp_path / name, make(name)), tmp_path / f"{name}.jsonl")
    assert [r.model.name for r in core_results.read_records(tmp_path)] == ["a", "b"]


def test_latest_keeps_the_newest_of_each_cell_and_environment() -> None:
    elsewhere = dataclasses.replace(make(minute=2), environment={"torch": "2.14.0"})
    kept = core_results.latest([make(), make("nnunet"), make(minute=1), elsewhere])
    assert kept == [make(minute=1), make("nnunet"), elsewhere]


def test_the_table_has_a_column_for_each_metric_and_its_origin(tmp_path: Path) -> None:
    write(tmp_path, make(), make("nnunet", minute=1, status="oom", error="needs 9 GB"))
    table = core_results.load_records(tmp_path)
    assert list(table["model"]) == ["unetr", "nnunet"]
    assert list(table["status"]) == ["ok", "oom"]
    assert table["latency_s"][0] == 0.5
    assert table["latency_s_origin"][0] == "measured"
    assert table["dice"].isna().all()
    assert table["dice_reason"][0] == "no data set"
    assert table["id"].is_unique


def test_a_published_figure_does_not_take_the_place_of_our_own() -> None:
    ours = rec.Measurement(metric="params", unit="parameters", value=7, origin="analytic", method="sum")
    theirs = dataclasses.replace(ours, value=8, origin="published", source="Table III")
    for order in ((ours, theirs), (theirs, ours)):
        row = core_results.to_frame([dataclasses.replace(make(), measurements=order)]).iloc[0]
        assert (row["params"], row["params_origin"]) == (7, "analytic")


def test_equal_environments_of_a_file_are_one_object_and_other_ones_stay_apart(tmp_path: Path) -> None:
    records = [make(minute=i) for i in range(3)]
    other = dataclasses.replace(make(minute=3), environment=ENVIRONMENT | {"torch": "2.14.0"})
    with core_results.Store(tmp_path) as store:
        for record in [*records, other]:
            store.append(record)
    found = list(core_results.read_records(tmp_path))
    assert found == [*records, other]
    assert len({id(record.environment) for record in found}) == 2
    assert found[0].measurements[0].method is found[1].measurements[0].method


def test_what_is_equal_in_the_records_of_a_file_is_one_object_unless_it_looks_different(tmp_path: Path) -> None:
    def counted(minute: int, params: float) -> rec.Record:
        more = (rec.Measurement.of("params", params, "counted", "analytic"),)
        return dataclasses.replace(make(minute=minute), measurements=(*make().measurements, *more))

    records = [counted(0, 7), counted(1, 7), counted(2, 7.0), counted(3, 8)]
    write(tmp_path, *records)
    found = list(core_results.read_records(tmp_path))
    assert found == records
    counts = [record.measurements[-1] for record in found]
    assert counts[0] is counts[1]
    assert [repr(count.value) for count in counts] == ["7", "7", "7.0", "8"]
    for part in ("workload", "device", "environment"):
        assert len({id(getattr(record, part)) for record in found}) == 1
    assert found[0].model.kwargs is found[1].model.kwargs
    assert found[0].measurements[0].values == found[1].measurements[0].values
