"""Whatever stands in a description or a header: a data set is read, or one line says why it is not."""

import gzip
import json
import math
import struct

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from benchbench import data
from benchbench.core.errors import BenchError
from benchbench.data.validate import check_folder
from tests import data_sets as sets

SETTINGS = settings(
    deadline=None, max_examples=120, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SIDES = (8, 9, 7)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))


def used(folder):
    """Everything that reads a data set, up to a plan and a case; returns the errors' lines."""
    lines = []
    for use in (
        lambda: (found := check_folder(folder)).fault_lines and found.summary(),
        lambda: data.load_case(f"{folder}#all", "test", 0),
    ):
        try:
            use()
        except BenchError as error:
            lines.append(str(error))
    return lines


# Descriptions

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["imagesTr/a.nii.gz", "../x.nii.gz", "/etc/passwd", "a\0b.nii.gz", "x" * 300 + ".nii", "0", "1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["image", "label", "images", "0", "1", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)
PLAIN = {
    "modality": {"0": "MR"},
    "channel_names": {"0": "MR"},
    "labels": {"0": "background", "1": "shell", "2": "kernel"},
    "training": [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}],
    "dataset": {"a": {"images": ["imagesTr/a.nii.gz"], "label": "labelsTr/a.nii.gz"}},
    "numTraining": 1,
    "regions_class_order": [],
    "file_ending": ".nii.gz",
    "name": "x",
    "licence": "none",
}


@pytest.fixture
def described(tmp_path):
    image, label = sets.make(sides=SIDES)
    sets.save(tmp_path / "d/imagesTr/a.nii.gz", image)
    sets.save(tmp_path / "d/labelsTr/a.nii.gz", label)
    return tmp_path / "d"


@SETTINGS
@given(
    changes=st.dictionaries(st.sampled_from(sorted(PLAIN)), VALUES, min_size=1, max_size=3),
    without=st.sets(st.sampled_from(["modality", "dataset", "training"])),
)
@example(changes={"dataset": {"a": {"images": [], "label": "labelsTr/a.nii.gz"}}}, without={"modality"})
@example(changes={"labels": {"0": "background", "1": "x", "01": "y"}}, without=set())
@example(changes={"labels": {"background": 0, "a": [], "b": 1}}, without={"modality"})
@example(changes={"labels": {"background": 0, "a": 10**12}}, without={"modality"})
@example(changes={"regions_class_order": [7, 8], "labels": {"a": [1, 2], "b": 2}}, without={"modality", "dataset"})
def test_any_description_is_read_or_refused_in_a_line(described, changes, without):
    content = {key: value for key, value in (PLAIN | changes).items() if key not in without - set(changes)}
    (described / "dataset.json").write_text(json.dumps(content))
    assert all("\n" not in line for line in used(described))


@pytest.mark.parametrize(
    "content",
    ["[" * 5000, '{"modality":' * 3000, '{"a": NaN}', '{"labels": {"a": 1, "a": 2}}', '"\\ud800"', "1e999", "\xff", ""],
)
def test_a_description_that_is_no_strict_json_is_one_line(described, content):
    (described / "dataset.json").write_text(content, encoding="latin-1")
    with pytest.raises(BenchError) as caught:
        check_folder(described)
    assert "\n" not in str(caught.value)


# Headers

FIELDS = {  # name -> where in the header, how it is packed
    "dim": (40, "<8h"),
    "intent": (56, "<3f"),
    "datatype": (70, "<h"),
    "bitpix": (72, "<h"),
    "pixdim": (76, "<8f"),
    "vox_offset": (108, "<f"),
    "slope": (112, "<2f"),
    "units": (123, "<B"),
    "codes": (252, "<2h"),
    "qform": (256, "<6f"),
    "sform": (280, "<12f"),
    "magic": (344, "<4s"),
    "extension": (348, "<4s"),
}
SHORTS = st.sampled_from([0, 1, 2, 3, 4, 5, 7, 8, 9, 32767, -1, -32768]) | st.integers(-32768, 32767)
FLOATS = st.sampled_from([0.0, 1.0, -1.0, 1e-30, 1e30, 3e38, math.inf, -math.inf, math.nan, 352.0]) | st.floats(
    width=32
)
KINDS = {"h": SHORTS, "f": FLOATS, "B": st.integers(0, 255), "s": st.binary(min_size=4, max_size=4)}


def contents(name):
    layout = FIELDS[name][1]
    count = int(layout[1:-1] or 1) if layout[-1] != "s" else 1
    return st.tuples(st.just(name), st.lists(KINDS[layout[-1]], min_size=count, max_size=count))


@pytest.fixture
def two(tmp_path):
    """Two cases, of which one stays whole: what is wrong with the other is never the end of it."""
    folder = sets.decathlon(tmp_path / "d", count=2, sides=SIDES)
    plain = nib.Nifti1Image(sets.make(0, sides=SIDES)[0], np.eye(4))
    return folder, plain.to_bytes(), nib.Nifti1Image(sets.make(0, sides=SIDES)[1], np.eye(4)).to_bytes()


@SETTINGS
@given(
    changes=st.lists(st.sampled_from(sorted(FIELDS)).flatmap(contents), min_size=1, max_size=3),
    of_label=st.booleans(),
    packed=st.booleans(),
)
@example(changes=[("dim", [3, 32767, 32767, 32767, 1, 1, 1, 1])], of_label=False, packed=True)
@example(changes=[("dim", [4, 8, 9, 7, 1, 1, 1, 1])], of_label=True, packed=True)
@example(changes=[("vox_offset", [math.inf])], of_label=False, packed=True)
@example(changes=[("slope", [3e38, 3e38])], of_label=False, packed=True)
@example(changes=[("units", [1])], of_label=False, packed=True)
@example(changes=[("pixdim", [1.0, 1e30, 1e30, 1e30, 1, 1, 1, 1]), ("codes", [0, 0])], of_label=False, packed=True)
def test_any_header_is_read_or_is_a_fault_of_its_case(two, changes, of_label, packed):
    folder, image, label = two
    content = bytearray(label if of_label else image)
    for name, values in changes:
        where, layout = FIELDS[name]
        struct.pack_into(layout, content, where, *values)
    part = "labelsTr" if of_label else "imagesTr"
    for ending in (".nii.gz", ".nii"):
        (folder / part / f"case_000{ending}").unlink(missing_ok=True)
    if packed:
        (folder / part / "case_000.nii.gz").write_bytes(gzip.compress(bytes(content), 1))
    else:
        (folder / part / "case_000.nii").write_bytes(content)
    found = check_folder(folder)
    assert "case_001" in {one.id for one in found.facts}
    assert all("\n" not in line for line in found.fault_lines)
    assert all("\n" not in line for line in used(folder))
