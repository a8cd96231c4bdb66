"""`bench export`, and `bench predict` with what it wrote."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from benchbench import data
from benchbench.core.records import ModelSpec
from benchbench.runtimes.prepared import description_of, read_prepared
from benchbench.zoo import checkpoint
from tests import data_sets as sets
from tests.cli.said import bench
from tests.shared_files import shared_file
from tests.tiny_nets import Reads

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
pytestmark = pytest.mark.usefixtures("forked_workers")

REFERENCE = Path(__file__).parents[2] / "results" / "reference" / "hippocampus"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return sets.decathlon(tmp_path_factory.mktemp("data") / "Task99_Boxes", count=10, sides=(16, 16, 12))


@pytest.fixture(scope="module")
def weights(folder, tmp_path_factory):
    """Of a network that reads the label off the intensities."""
    plan = data.get_plan(str(folder))
    spec = ModelSpec(name="reads", arch="tests.tiny_nets:Reads", kwargs={}, in_channels=1, out_channels=3)
    path = tmp_path_factory.mktemp("weights") / "reads.safetensors"
    checkpoint.save(
        path,
        Reads(1, 3).state_dict(),
        model=spec,
        data=plan.key,
        spatial=(16, 16, 16),
        train={"cases": [], "fold": plan.fold, "recipe": {"mirror": [0, 2]}},
        plan=plan,
    )
    return path


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _cache(kept, monkeypatch):
    monkeypatch.setenv("BENCHBENCH_CACHE", str(kept))


@pytest.mark.parametrize(("to", "ending"), [("onnx", ".onnx"), ("openvino", ".xml"), ("torch-export", ".pt2")])
def test_what_was_exported_segments_as_the_weights_do(capsys, folder, weights, tmp_path, to, ending):
    code, out, err = bench(
        capsys, "export", weights, "--trust", "--to", to, "--data", folder, "--out", tmp_path / "nets"
    )
    assert (code, err) == (0, "")
    path = tmp_path / "nets" / f"reads-fp32{ending}"
    assert f"{path}: " in out
    assert "differs from eager PyTorch in fp32 by" in out
    assert f"bench predict --model {path} --input CASE --output seg.nii.gz" in out
    case = folder / "imagesTr" / "case_003.nii.gz"
    code, out, err = bench(capsys, "predict", "--model", path, "--input", case, "--output", tmp_path / "a.nii.gz")
    assert (code, out.strip(), err) == (0, str(tmp_path / "a.nii.gz"), "")
    flags = ("--trust", "--checkpoint", weights, "--input", case, "--output", tmp_path / "b.nii.gz")
    assert bench(capsys, "predict", weights, *flags)[0] == 0
    exported, plain = (np.asarray(nib.load(tmp_path / name).dataobj) for name in ("a.nii.gz", "b.nii.gz"))
    assert len(np.unique(plain)) > 1
    assert np.array_equal(exported, plain)
    assert read_prepared(path).mirror == (0, 2)
    again = ("predict", "--model", path, "--input", case, "--output", tmp_path / "a.nii.gz", "--test-time-mirroring")
    assert bench(capsys, *again)[0] == 0
    assert np.array_equal(np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj), plain)  # of a network that sees no side


def test_bad_input_is_one_line(capsys, folder, weights, tmp_path):
    net = tmp_path / "reads-fp32.onnx"
    assert bench(capsys, "export", weights, "--trust", "--to", "onnx", "--out", tmp_path)[0] == 0
    case = folder / "imagesTr" / "case_000.nii.gz"
    to = ("--input", case, "--output", tmp_path / "seg.nii.gz")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(net.read_bytes()[:-9])
    description_of(broken).write_text(description_of(net).read_text().replace(net.name, broken.name))
    other = tmp_path / "other.onnx"
    other.write_bytes(net.read_bytes())
    told = json.loads(description_of(net).read_text())
    older = tmp_path / "older.onnx"
    older.write_bytes(net.read_bytes())
    kept = {key: value for key, value in told.items() if key != "mirror"}
    description_of(older).write_text(json.dumps(kept | {"files": {older.name: told["files"][net.name]}}))
    told["plan"]["channels"] = ["MR0", "MR1"]
    told["files"] = {other.name: told["files"][net.name]}
    description_of(other).write_text(json.dumps(told))
    for arguments, code, why in (
        (("export", weights, "--trust", "--to", "onnx", "--out", tmp_path), 2, "--force replaces it"),
        (("export", weights, "--trust", "--dtype", "int8", "--out", tmp_path), 2, "add --data"),
        (("export", weights, "--trust", "--to", "onnx", "--dtype", "bf16", "--out", tmp_path), 3, "no bf16"),
        (("export", "slim_unetr,unetr", "--out", tmp_path), 2, "names 2 networks: export one at a time"),
        (("predict", "reads", "--model", net, *to), 2, "leave MODEL and --checkpoint out"),
        (("predict", *to), 2, "name a MODEL and its --checkpoint"),
        (("predict", "--model", tmp_path / "none.onnx", *to), 2, "'bench export' writes a network"),
        (("predict", "--model", weights, *to), 2, "no runtime reads .safetensors"),
        (("predict", "--model", broken, *to), 2, "damaged or not the file"),
        (("predict", "--model", other, *to), 2, "takes 1 channels and its plan has 2"),
        (("predict", "--model", older, *to, "--test-time-mirroring"), 2, "does not say along which axes"),
        (("predict", "--model", net, *to[:3], net), 2, "must end in .nii.gz"),
    ):
        got, out, err = bench(capsys, *arguments)
        assert (got, out) == (code, ""), err
        assert why in err
        assert err.count("\n") == 1


def test_calibration_on_the_weights_own_test_cases_is_refused(capsys, folder, weights, tmp_path):
    pytest.importorskip("nncf")
    flags = ("--trust", "--dtype", "int8", "--data", folder, "--out", tmp_path)
    code, _, err = bench(capsys, "export", weights, *flags, "--fold", "1")
    assert code == 2
    assert "int8 would be calibrated on test cases; take --fold 0" in err


def test_a_network_by_its_name_is_exported_with_a_word_on_its_weights(capsys, tmp_path):
    flags = ("--spatial", "16", "16", "16", "--in-channels", "1", "--out-channels", "2", "--to", "torch-export")
    code, out, _ = bench(capsys, "export", "unet3d", *flags, "--out", tmp_path)
    assert code == 0
    assert "its weights are random: nobody has trained it" in out
    assert read_prepared(tmp_path / "unet3d-fp32.pt2").input_shape == (1, 1, 16, 16, 16)


@pytest.mark.slow
@pytest.mark.shared
def test_nnunet_small_in_int8_segments_a_case_with_the_recorded_dice_of_fp32(capsys, tmp_path):
    pytest.importorskip("nncf")
    shared = shared_file("data/Task04_Hippocampus/dataset.json").parent
    (trained,) = Path(__file__).parents[2].glob("models/checkpoints/nnunet_small-hippocampus.safetensors")
    code, _, err = bench(
        capsys, "export", trained, "--to", "openvino", "--dtype", "int8", "--data", shared, "--out", tmp_path
    )
    assert (code, err) == (0, ""), err
    records = [json.loads(line) for line in (REFERENCE / "records.jsonl").read_text().splitlines()]
    (record,) = [r for r in records if r["model"]["name"] == "nnunet_small"]
    (place,) = [a["path"] for a in record["artifacts"] if a["kind"] == "cases"]
    recorded = json.loads((REFERENCE / place).read_text())
    case, dice = recorded["ids"][0], recorded["values"]["dice"][0]
    image, seg = shared / "imagesTr" / f"{case}.nii.gz", tmp_path / "seg.nii.gz"
    flags = ("--model", tmp_path / "nnunet_small-int8.xml", "--input", image, "--output", seg)
    assert bench(capsys, "predict", *flags)[0] == 0
    now, label = (np.asarray(nib.load(path).dataobj) for path in (seg, shared / "labelsTr" / f"{case}.nii.gz"))
    each = [2 * ((now == k) & (label == k)).sum() / ((now == k).sum() + (label == k).sum()) for k in (1, 2)]
    assert np.mean(each) == pytest.approx(dice, abs=5e-3)  # int8, and other processors round otherwise
