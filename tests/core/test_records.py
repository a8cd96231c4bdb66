"""Records: the same text back, and hashes that change exactly when what they name does."""

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchbench.core import records as rec

MODEL = rec.ModelSpec(
    name="slim_unetr",
    arch="benchbench.models.slim_unetr:SlimUNETR",
    kwargs={"channels": [24, 48, 60]},
    in_channels=4,
    out_channels=3,
)
DEVICE = rec.Device(kind="cpu", name="AMD EPYC", basis="probed", asked="cpu")
RECORD = rec.Record(
    model=MODEL,
    workload=rec.Workload(threads=2),
    device=DEVICE,
    environment={"torch": "2.13.0", "load_average": 0.1},
    status="ok",
    started_at="2026-01-02T03:04:05Z",
    duration_s=1.5,
    measurements=(
        rec.Measurement(metric="params", unit="parameters", value=7, origin="analytic", method="sum"),
        rec.Measurement(
            metric="params", unit="parameters", value=8, origin="published", method="as printed", source="Table III"
        ),
        rec.Measurement(metric="dice", unit="1", value=None, origin="measured", method="-", reason="no data set"),
    ),
)

texts = st.text(max_size=12)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(texts, plain, max_size=3)
numbers = st.integers(0, 10**15) | st.floats(allow_nan=False, allow_infinity=False)
pairs = st.none() | st.tuples(st.floats(0, 1), st.floats(1, 2))
sides = st.lists(st.integers(1, 512), min_size=3, max_size=3).map(tuple)

models = st.builds(
    rec.ModelSpec,
    name=texts,
    arch=texts,
    kwargs=objects,
    in_channels=st.integers(1, 8),
    out_channels=st.integers(1, 8),
    checkpoint=st.none() | texts,
)
workloads = st.builds(
    rec.Workload,
    phase=st.sampled_from(["infer", "train"]),
    batch=st.integers(1, 64),
    spatial=sides,
    dtype=st.sampled_from(["fp32", "bf16", "fp16"]),
    threads=st.none() | st.integers(1, 256),
    volume=st.none() | sides,
    overlap=st.none() | st.floats(0, 0.9),
    data=st.none() | texts,
    memory_limit_bytes=st.none() | st.integers(1, 2**40),
)
measurements = st.builds(
    rec.Measurement,
    metric=st.sampled_from(sorted(rec.METRIC_UNITS)),
    unit=texts,
    value=st.none() | numbers,
    origin=st.sampled_from(rec.ORIGINS),
    method=texts,
    values=st.lists(st.floats(0, 1e6), max_size=4).map(tuple),
    ci95=pairs,
    interval=pairs,
    bound=st.sampled_from([None, "at_least", "at_most"]),
    source=st.none() | texts,
    reason=st.none() | texts,
)
artifacts = st.builds(rec.Artifact, kind=texts, path=texts, sha256=texts, title=texts)
any_record = st.builds(
    rec.Record,
    model=models,
    workload=workloads,
    device=st.builds(rec.Device, kind=texts, name=texts, basis=st.sampled_from(["probed", "profile"]), asked=texts),
    environment=objects,
    status=st.sampled_from(rec.STATUSES),
    started_at=texts,
    duration_s=st.floats(0, 1e6),
    measurements=st.lists(measurements, max_size=3).map(tuple),
    artifacts=st.lists(artifacts, max_size=2).map(tuple),
    error=st.none() | texts,
    traceback=st.none() | texts,
    recipe=st.none() | objects,
)


@settings(deadline=None)
@given(any_record)
def test_a_record_comes_back_from_its_line_with_the_same_hashes(record: rec.Record) -> None:
    line = rec.canonical_json(rec.record_to_json(record))
    assert "\n" not in line
    back = rec.record_from_json(json.loads(line))
    assert back == record
    assert (back.cell, back.id) == (record.cell, record.id)
    assert rec.canonical_json(rec.record_to_json(back)) == line


@given(objects)
def test_the_order_of_keys_does_not_change_a_hash(value: dict[str, Any]) -> None:
    assert rec.content_hash(dict(reversed(value.items()))) == rec.content_hash(value)


def test_there_is_no_text_for_a_number_that_is_none() -> None:
    with pytest.raises(ValueError, match="JSON"):
        rec.canonical_json(float("nan"))


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(RECORD, model=dataclasses.replace(MODEL, kwargs={"channels": [24, 48, 61]})),
        dataclasses.replace(RECORD, model=dataclasses.replace(MODEL, checkpoint="ab" * 32)),
        dataclasses.replace(RECORD, workload=rec.Workload(threads=2, spatial=(96, 96, 96))),
        dataclasses.replace(RECORD, workload=rec.Workload(threads=1)),
        dataclasses.replace(RECORD, device=dataclasses.replace(DEVICE, asked="cuda")),
        dataclasses.replace(RECORD, recipe={"prune": 0.5}),
    ],
    ids=["keywords", "checkpoint", "size", "threads", "device", "recipe"],
)
def test_asking_for_something_else_is_another_cell(other: rec.Record) -> None:
    assert other.cell != RECORD.cell


def test_the_same_question_elsewhere_or_later_is_the_same_cell_and_another_id() -> None:
    elsewhere = dataclasses.replace(RECORD, environment={"torch": "2.14.0"})
    later = dataclasses.replace(RECORD, started_at="2026-01-02T04:00:00Z")
    assert elsewhere.cell == later.cell == RECORD.cell
    assert len({RECORD.id, elsewhere.id, later.id}) == 3


def test_what_was_found_does_not_name_the_record() -> None:
    assert dataclasses.replace(RECORD, status="failed", measurements=(), error="boom").id == RECORD.id


def test_load_and_free_memory_do_not_change_the_fingerprint_but_versions_do() -> None:
    base = {"torch": "2.13.0"}
    for key in rec.VOLATILE:
        assert rec.fingerprint(base | {key: 1}) == rec.fingerprint(base | {key: 2}) == rec.fingerprint(base)
    assert rec.fingerprint({"torch": "2.14.0"}) != rec.fingerprint(base)


def test_our_own_number_and_the_published_one_are_never_confused() -> None:
    assert RECORD.value("params") == 7
    published = RECORD.published("params")
    assert published is not None
    assert published.value == 8
    assert RECORD.published("dice") is None
    only_published = dataclasses.replace(RECORD, measurements=RECORD.measurements[1:2])
    assert only_published.get("params") is None


def test_no_value_is_none_and_has_a_reason() -> None:
    dice = RECORD.get("dice")
    assert dice is not None
    assert (dice.value, dice.reason) == (None, "no data set")
    assert RECORD.value("latency_s") is None


def test_the_hashes_in_a_line_are_computed_again_not_believed() -> None:
    data = rec.record_to_json(RECORD) | {"id": "0" * 16, "cell": "0" * 16}
    assert rec.record_from_json(data).id == RECORD.id


def test_keys_that_this_version_does_not_know_are_passed_over() -> None:
    data = rec.record_to_json(RECORD) | {"mood": "good"}
    assert rec.record_from_json(data) == RECORD


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "fine"}, "status is 'fine', not one of 'ok'"),
        ({"duration_s": "long"}, "duration_s must be float"),
        ({"duration_s": True}, "duration_s must be float"),
        ({"model": []}, "ModelSpec must be an object"),
        ({"environment": None}, "environment must be an object"),
        ({"measurements": {}}, "measurements must be a list"),
        ({"error": 5}, "error must be str"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        rec.record_from_json(rec.record_to_json(RECORD) | change)


def test_a_missing_field_is_named() -> None:
    data = rec.record_to_json(RECORD)
    del data["device"]
    with pytest.raises(KeyError, match="device"):
        rec.record_from_json(data)


def test_a_record_cannot_be_changed_once_made() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECORD.status = "failed"  # type: ignore[misc]


#: A line as the first schema wrote it, shortened.
STORED = (
    '{"schema":1,"model":{"name":"unetr","arch":"monai.networks.nets:UNETR","kwargs":{},"in_channels":1,'
    '"out_channels":2,"checkpoint":null},"workload":{"phase":"infer","batch":1,"spatial":[96,96,96],"dtype":"fp32",'
    '"threads":2,"protocol":"standard"},"device":{"kind":"cpu","name":"AMD EPYC","basis":"probed","asked":"cpu"},'
    '"environment":{"cpu":"AMD EPYC"},"status":"ok","started_at":"2026-01-02T03:04:05Z","duration_s":1.5,'
    '"measurements":[{"metric":"disturbed_processes","unit":"processes","value":1,"origin":"measured",'
    '"method":"/proc/stat","values":[0,1]},{"metric":"latency_s","unit":"s","value":0.5,"origin":"measured",'
    '"method":"median"}]}'
)
#: What the later ones changed in it.
CHANGES = {
    2: [
        ('"schema":1', '"schema":2'),
        ("[0,1]", '[0,1],"runs":[1,1]'),
        ('"threads":2', '"threads":2,"crop_foreground":true'),
    ],
    3: [('"schema":2', '"schema":3'), ("disturbed_processes", "contended_processes")],
    4: [('"schema":3', '"schema":4'), ('"dtype":"fp32"', '"dtype":"int8","int8_accuracy":0.005,"runtime":"openvino"')],
    5: [
        ('"schema":4', '"schema":5'),
        ('"crop_foreground":true', '"crop_foreground":true,"test_time_mirroring":[0,2],"patient":[35,50,36]'),
    ],
    6: [('"schema":5', '"schema":6,"rounds":["2026-01-02T03:04:05.000+00:00"]')],
}


def test_what_was_asked_before_a_field_came_keeps_its_hash() -> None:
    record = rec.record_from_json(json.loads(STORED))
    assert record.cell == "86d057a9e731ae5d"
    accurate = dataclasses.replace(record.workload, int8_accuracy=0.005)
    mirrored = [dataclasses.replace(record.workload, test_time_mirroring=axes) for axes in ((0,), (0, 1))]
    prepared = dataclasses.replace(record.workload, patient=(35, 50, 36))
    works = (record.workload, accurate, prepared, *mirrored)
    assert len({dataclasses.replace(record, workload=work).cell for work in works}) == 5
    assert [work.forwards for work in (record.workload, *mirrored)] == [1, 2, 4]


@pytest.mark.parametrize("schema", range(1, rec.SCHEMA + 1))
def test_a_stored_line_of_each_schema_is_read_in_the_present_form(schema: int) -> None:
    line = STORED
    for later in range(2, schema + 1):
        for old, new in CHANGES[later]:
            line = line.replace(old, new)
    record = rec.record_from_json(json.loads(line))
    work = record.workload
    assert (record.schema, work.crop_foreground) == (rec.SCHEMA, schema > 1)
    later_fields = ("int8", 0.005, "openvino") if schema > 3 else ("fp32", None, "eager")
    assert (work.dtype, work.int8_accuracy, work.runtime) == later_fields
    assert (work.test_time_mirroring, work.patient) == (((0, 2), (35, 50, 36)) if schema > 4 else (None, None))
    assert record.rounds == (("2026-01-02T03:04:05.000+00:00",) if schema > 5 else ())
    assert [m.metric for m in record.measurements] == ["contended_processes", "latency_s"]
    contended = record.get("contended_processes")
    assert contended is not None
    assert (contended.value, contended.values, contended.runs) == (1, (0, 1), (1, 1) if schema > 1 else ())
    assert rec.record_from_json(rec.record_to_json(record)) == record


def test_a_changed_copy_of_a_record_has_hashes_of_its_own() -> None:
    record = RECORD
    before = record.id, record.cell  # computed, and kept
    later = dataclasses.replace(record, started_at="2027-01-01T00:00:00Z")
    other = dataclasses.replace(record, recipe={"prune": 0.3})
    assert (record.id, record.cell) == before
    assert later.id != record.id
    assert later.cell == record.cell
    assert other.cell != record.cell
    assert dataclasses.replace(record) == record
    assert "id" not in rec.to_json(record)


@pytest.mark.parametrize("value", [math.inf, math.nan, "1.0", True, None])
def test_samples_that_are_no_numbers_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"values\[1\]"):
        rec.value_from_json(tuple[float, ...], [1.0, value], "values")
    assert rec.value_from_json(tuple[float, ...], [1.0, 2], "values") == (1.0, 2)
