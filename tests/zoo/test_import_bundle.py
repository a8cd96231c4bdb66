"""`bench import` of MONAI bundles: MONAI's own predictions, and one line for what cannot be taken in exactly."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from benchbench.cli.main import main
from benchbench.core.errors import CheckpointError, DataError, UsageError
from benchbench.data import get_plan
from benchbench.data.plan import plan_from_json, plan_to_json
from benchbench.data.preprocessing import load_case, prepare
from benchbench.data.source import CaseFiles, ImageFile
from benchbench.data.volumes import load_volumes
from benchbench.training.evaluate import measure_dice
from benchbench.training.sliding_window import logits_of
from benchbench.zoo import checkpoint
from benchbench.zoo.build import build_model
from benchbench.zoo.import_network import Imported, ImportRequest, import_network
from tests import data_sets, monai_bundles
from tests.monai_bundles import bundle

KINDS = monai_bundles.KINDS


def imported(source: Path, out: Path, *settings: str, **more: Any) -> Imported:
    return import_network(ImportRequest(source=source, settings=settings, **more), out)


def refused(source: Path, out: Path, *settings: str, **more: Any) -> str:
    with pytest.raises((CheckpointError, UsageError)) as error:
        imported(source, out, *settings, **more)
    assert not list(out.glob("*")) if out.exists() else True
    assert "\n" not in str(error.value)
    return str(error.value)


def own_logits(info: checkpoint.CheckpointInfo, files: list[Path]) -> Any:
    images = tuple(ImageFile(path=path) for path in files)
    assert info.plan is not None
    assert info.plan.preparation is not None
    volumes = load_volumes(CaseFiles(id="case", subject="", images=images, label=None))
    prepared = prepare(volumes, info.plan.preparation)
    image = np.asarray(prepared.image.numpy(), np.float32)
    network = build_model(str(info.path)).eval()
    return logits_of(network, image, info.plan, info.spatial, overlap=info.plan.overlap).numpy()


def predicted(model: Path, files: list[Path], output: Path) -> Any:
    source = files[0] if len(files) == 1 else files[0].parent
    assert main(["predict", str(model), "--input", str(source), "--output", str(output)]) == 0
    image = nib.load(output)
    assert np.allclose(image.affine, nib.load(files[0]).affine, atol=1e-4)
    return np.asarray(image.dataobj)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_masks_are_monais_own(tmp_path: Path, kind: str) -> None:
    source, files = bundle(tmp_path / "bundle", kind), monai_bundles.case(tmp_path / "case", kind)
    assert main(["import", str(source), "--out", str(tmp_path / "out")]) == 0
    logits, label = monai_bundles.by_monai(source, files, monai_bundles.network(kind).state_dict())
    info = checkpoint.read_sidecar(tmp_path / "out")
    assert np.abs(own_logits(info, files) - logits).max() < 1e-4
    assert len(np.unique(label)) > 2
    assert np.array_equal(predicted(tmp_path / "out", files, tmp_path / "seg.nii.gz"), label)


def test_an_exported_bundle_is_the_same_network(tmp_path: Path) -> None:
    source, files = bundle(tmp_path / "bundle", "softmax"), monai_bundles.case(tmp_path / "case", "softmax")
    first = imported(source, tmp_path / "first").info
    assert main(["export", str(tmp_path / "first"), "--to", "monai-bundle", "--out", str(tmp_path / "again")]) == 0
    second = imported(tmp_path / "again", tmp_path / "second").info
    assert second.sha256 == first.sha256
    assert first.plan is not None
    assert second.plan is not None
    assert second.plan.preparation == first.plan.preparation
    _, label = monai_bundles.by_monai(tmp_path / "again", files, build_model(str(first.path)).state_dict())
    assert np.array_equal(predicted(tmp_path / "first", files, tmp_path / "seg.nii.gz"), label)


def test_what_the_sidecar_keeps_of_the_bundle(tmp_path: Path) -> None:
    info = imported(bundle(tmp_path / "brats", "regions"), tmp_path / "out").info
    plan = info.plan
    assert plan is not None
    assert (info.model.arch, info.spatial, info.data) == (
        "benchbench.models.monai_nets:SegResNet",
        (8, 16, 8),
        "brats:MONAI",
    )
    assert (plan.channels, plan.exclusive, plan.overlap) == (("T1c", "FLAIR"), False, 0.25)
    assert dict(plan.regions) == {"Tumor core": (1, 4), "Whole tumor": (1, 2, 4), "Enhancing tumor": (4,)}
    assert plan_from_json(json.loads(json.dumps(plan_to_json(plan)))) == plan
    assert info.train["imported"]["from"] == "MONAI bundle"


def test_a_data_set_is_seen_as_the_bundle_prepares_it(tmp_path: Path) -> None:
    folder = data_sets.decathlon(tmp_path / "Task99_Boxes", count=6, where=data_sets.TILTED, background=True)
    info = imported(bundle(tmp_path / "bundle", "softmax"), tmp_path / "out", data=str(folder)).info
    plan = get_plan(str(folder)).as_seen_by(info.plan)
    case = load_case(plan, "test", 0)
    assert 0 == case.image.min() < case.image.max() <= 1  # of ScaleIntensityRanged
    assert case.label.shape == case.image.shape[1:]
    assert np.unique(case.label).tolist() == [0, 1, 2]
    network = build_model(str(info.path)).eval()
    dice = measure_dice(network, data=plan.where, spatial=info.spatial, limit=1, surfaces=False).measurements[0]
    assert dice.value is not None
    assert "case_000" in info.train["cases"] or "case_001" in info.train["cases"]


def test_other_labels_than_the_data_sets_are_refused(tmp_path: Path) -> None:
    folder = data_sets.decathlon(tmp_path / "Task99_Boxes", count=6, channels=2)
    with pytest.raises(DataError, match="a Dice needs the same"):
        imported(bundle(tmp_path / "bundle", "regions"), tmp_path / "out", data=str(folder))


def test_channels_of_a_data_set_go_to_the_network_by_their_names(tmp_path: Path) -> None:
    folder = data_sets.decathlon(tmp_path / "Task99_Boxes", count=6, channels=2, modality={"0": "FLAIR", "1": "t1gd"})
    description = json.loads((folder / "dataset.json").read_text())
    description["labels"] = {"0": "background", "1": "a", "2": "b", "4": "c"}
    (folder / "dataset.json").write_text(json.dumps(description))
    source = bundle(
        tmp_path / "bundle", "regions", preprocessing__transforms__2={"_target_": "EnsureTyped", "keys": "image"}
    )
    network = imported(source, tmp_path / "out").info.plan
    assert network is not None
    network = dataclasses.replace(network, regions={"a": (1,), "b": (2,), "c": (4,)})  # the order of channels is meant
    plan = get_plan(str(folder))
    seen = plan.as_seen_by(network)
    assert (plan.channels, seen.channels) == (("FLAIR", "t1gd"), ("t1gd", "FLAIR"))
    here, there = load_case(dataclasses.replace(seen, channels=plan.channels), "test", 0), load_case(seen, "test", 0)
    assert np.array_equal(here.image[::-1], there.image)
    assert not np.array_equal(here.image, there.image)


def test_yaml_says_the_same(tmp_path: Path) -> None:
    import yaml

    source = bundle(tmp_path / "bundle", "labels")
    first = imported(source, tmp_path / "first").info
    path = source / "configs" / "inference.json"
    path.with_suffix(".yaml").write_text(yaml.safe_dump(json.loads(path.read_text())))
    path.unlink()
    second = imported(source, tmp_path / "second").info
    assert (second.plan, second.sha256) == (first.plan, first.sha256)
    path.with_suffix(".yaml").write_text("a: &x [1]\nb: *x\n")
    assert "alias" in refused(source, tmp_path / "out")
    path.with_suffix(".yaml").write_text("a: !!python/object/apply:os.system [touch /tmp/never]\n")
    assert "YAML" in refused(source, tmp_path / "out")


def test_an_expression_is_resolved_or_named_and_set_gives_its_value(tmp_path: Path) -> None:
    source = bundle(tmp_path / "bundle", "labels", pixdim="$[1.5, 1.2, 1.5] if @options#high else [3.0] * 3")
    message = refused(source, tmp_path / "out")
    assert "pixdim" in message
    assert "--set 'pixdim=VALUE'" in message
    info = imported(source, tmp_path / "out", "pixdim=[1.5, 1.2, 1.5]", "inferer#roi_size=[16,16,32]").info
    assert info.plan is not None
    assert (info.plan.spacing_mm, info.spatial) == ((1.5, 1.2, 1.5), (16, 16, 32))
    assert info.train["imported"]["settings"] == ["pixdim=[1.5, 1.2, 1.5]", "inferer#roi_size=[16,16,32]"]


def test_set_names_what_is_there(tmp_path: Path) -> None:
    source = bundle(tmp_path / "bundle")
    assert "is not like" in refused(source, tmp_path / "out", "roi_size")
    assert "has no table" in refused(source, tmp_path / "out", "inferrer::roi_size=1")
    (tmp_path / "my.pt").write_bytes(b"")
    assert "--set is of a MONAI bundle" in refused(tmp_path / "my.pt", tmp_path / "out", "a=1", arch="unet_small")


def touch(tmp_path: Path) -> str:
    return f"__import__('os').system('touch {tmp_path / 'ran'}')"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"network_def__channels": "${run}"}, "network_def::channels"),
        ({"network_def__channels": ["$({run}, 4)[1]", 8]}, "network_def::channels::0"),
        ({"network_def": "${run}"}, "network_def"),
        ({"network_def___target_": "os.system"}, "os.system"),
        ({"network_def___target_": "scripts.net.Net"}, "code of the bundle"),
        ({"network_def___target_": "${run}"}, "class"),
        ({"network_def___target_": "benchbench.core.results:set_aside"}, "class"),
        ({"network_def___mode_": "debug"}, "_mode_"),
        ({"preprocessing__transforms__2__axcodes": "${run}"}, "preprocessing::transforms::2::axcodes"),
        ({"preprocessing__transforms__2___target_": "scripts.mine.Mined"}, "code of the bundle"),
        ({"preprocessing__transforms__2___target_": "RandFlipd"}, "'RandFlipd', which is not known"),
        ({"preprocessing__transforms__5__select_fn": "$lambda x: {run}"}, "is code, which is not run"),
        ({"preprocessing__transforms__2": {"_target_": "Lambdad", "keys": "image", "func": "${run}"}}, "is code"),
        ({"postprocessing__transforms__2": {"_target_": "Lambdad", "keys": "pred", "func": "${run}"}}, "decision"),
        ({"inferer__roi_size": "${run}"}, "inferer::roi_size"),
        ({"inferer___target_": "SimpleInferer"}, "SlidingWindowInferer"),
        ({"inferer__roi_size": [-1, 16, 16]}, "each above 0"),
        ({"inferer__overlap": 1.5}, "overlap"),
        ({"network_def__channels": "@network_def::channels"}, "refers to itself"),
        ({"network_def": "@network_def"}, "refers to itself"),
        ({"network_def__strides": "@nowhere"}, "nowhere"),
        ({"network_def__strides": "%configs/other.json::a"}, "--set"),
        ({"network_def__spatial_dims": 2}, "only networks of volumes"),
        ({"network_def__out_channels": 10**9}, "out_channels"),
        ({"network_def__channels": [10**6, 10**6]}, "memory"),
        ({"network_def__channels": [4]}, "cannot be built"),
        ({"network_def__wrong": 1}, "cannot be built"),
        ({"network_def": None}, "--set network_def=@KEY"),
        ({"postprocessing__transforms__1": {"_target_": "EnsureTyped", "keys": "pred"}}, "does not undo"),
        ({"postprocessing__transforms__2": {"_target_": "KeepLargestConnectedComponentd", "keys": "pred"}}, "Keep"),
        ({"postprocessing__transforms__2__argmax": False}, "one decision"),
        ({"preprocessing__transforms__0__reader": "scripts.Reader"}, "reader"),
        ({"preprocessing__transforms__3__lazy": True}, "lazy"),
        ({"preprocessing__transforms__3__mode": "cubic"}, "mode"),
    ],
)
def test_what_would_have_to_be_run_or_is_not_known_is_one_line(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    source = bundle(tmp_path / "bundle")
    (source / "scripts").mkdir()
    (source / "scripts" / "net.py").write_text(f"import os\nos.system('touch {tmp_path / 'ran'}')\n")
    path = source / "configs" / "inference.json"
    monai_bundles.change(path, json.loads(json.dumps(changes).replace("{run}", touch(tmp_path))))
    message = refused(source, tmp_path / "out")
    assert why in message
    assert not (tmp_path / "ran").exists()


def test_references_that_grow_without_end_are_refused(tmp_path: Path) -> None:
    grown = {f"a{i}": [f"@a{i + 1}"] * 30 for i in range(30)} | {"a30": [1]}
    message = refused(bundle(tmp_path / "bundle", network_def__channels="@a0", **grown), tmp_path / "out")
    assert "nested too deeply" in message


def test_python_files_of_the_bundle_are_named_and_left_alone(tmp_path: Path) -> None:
    source = bundle(tmp_path / "bundle", imports=[f"${touch(tmp_path)}"], initialize=[f"${touch(tmp_path)}"])
    (source / "scripts").mkdir()
    (source / "scripts" / "__init__.py").write_text(f"import os\nos.system('touch {tmp_path / 'ran'}')\n")
    notes = imported(source, tmp_path / "out").notes
    assert any("scripts/__init__.py" in note for note in notes)
    assert not (tmp_path / "ran").exists()


def test_missing_files_are_told_with_those_that_are_there(tmp_path: Path) -> None:
    source = bundle(tmp_path / "bundle")
    weights = source / "models" / "model.pt"
    weights.rename(source / "models" / "best.pt")
    assert "has no model.pt; it has best.pt: name one of them with --checkpoint" in refused(source, tmp_path / "out")
    assert imported(source, tmp_path / "named", checkpoint="best.pt").info.path.exists()
    (source / "models" / "best.pt").rename(source / "models" / "model.ts")
    assert "TorchScript" in refused(source, tmp_path / "out")
    (source / "configs" / "metadata.json").unlink()
    assert "no metadata.json or metadata.yaml; it has inference.json" in refused(source, tmp_path / "out")
    (source / "configs" / "inference.json").rename(source / "configs" / "train.json")
    assert "no MONAI bundle" in refused(source, tmp_path / "out")


class Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_weights_with_code_in_them_and_torchscript_are_refused(tmp_path: Path) -> None:
    source = bundle(tmp_path / "bundle")
    weights = source / "models" / "model.pt"
    torch.save({"model": Runs(tmp_path / "ran")}, weights)
    assert "system" in refused(source, tmp_path / "out")
    weights.write_bytes(pickle.dumps(Runs(tmp_path / "ran")))
    assert "system" in refused(source, tmp_path / "out")
    torch.jit.save(torch.jit.script(torch.nn.Conv3d(1, 1, 1)), weights)
    assert "TorchScript" in refused(source, tmp_path / "out")
    torch.save(monai_bundles.network("labels").state_dict(), weights)
    assert "does not fit the network UNet" in refused(source, tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_a_sidecar_cannot_name_another_transform(tmp_path: Path) -> None:
    info = imported(bundle(tmp_path / "bundle"), tmp_path / "out").info
    assert info.plan is not None
    plain = json.loads(json.dumps(plan_to_json(info.plan)))
    plain["preparation"]["monai"]["steps"][0] = {"name": "Lambdad", "options": {"func": "$print(1)"}}
    with pytest.raises(ValueError, match="Lambdad with func"):
        plan_from_json(plain)


def test_channels_without_names_are_numbered(tmp_path: Path) -> None:
    source = bundle(tmp_path / "bundle")
    (source / "configs" / "metadata.json").write_text(json.dumps({"version": "1"}))
    result = imported(source, tmp_path / "out")
    assert result.info.plan is not None
    assert list(result.info.plan.regions) == ["label 1", "label 2"]
    assert sum("metadata.json names none" in note for note in result.notes) == 2


def test_a_step_that_is_disabled_is_left_out(tmp_path: Path) -> None:
    source = bundle(tmp_path / "bundle", "regions")
    setting = "postprocessing::transforms::3::_disabled_=true"
    plan = imported(source, tmp_path / "out", setting).info.plan
    assert plan is not None
    assert dict(plan.regions) == {"Tumor core": (1,), "Whole tumor": (2,), "Enhancing tumor": (3,)}
