"""`bench import` of nnU-Net's folders: the same predictions, and one line for what cannot be taken in exactly."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import safetensors.torch
import torch

from benchbench.cli.main import main
from benchbench.core.errors import CheckpointError, DataError, UsageError
from benchbench.data import get_plan
from benchbench.data.plan import plan_from_json, plan_to_json
from benchbench.data.preprocessing import load_case, prepare
from benchbench.data.source import CaseFiles, ImageFile
from benchbench.data.volumes import load_volumes
from benchbench.runner.evaluation.request import EvaluateRequest
from benchbench.runner.evaluation.run import evaluate
from benchbench.training.evaluate import measure_dice
from benchbench.training.nnunet_windows import starts
from benchbench.training.sliding_window import logits_of
from benchbench.zoo import checkpoint
from benchbench.zoo.build import build, build_model
from benchbench.zoo.import_network import Imported, ImportRequest, import_network
from tests import data_sets, nnunet_models

STORED = json.loads(nnunet_models.REFERENCE.read_text())
KINDS = nnunet_models.MODELS
NNUNET = importlib.util.find_spec("nnunetv2") is not None


def imported(source: Path, out: Path, **more: Any) -> Imported:
    return import_network(ImportRequest(source=source, **more), out)


def changed(folder: Path, name: str = "plans.json", **changes: Any) -> None:
    """Keys of a description set to other values: `a__b` for b in a; None removes one."""
    path = folder / name
    content = json.loads(path.read_text())
    for key, value in changes.items():
        *above, last = key.split("__")
        table = content
        for part in above:
            table = table[part]
        if value is None:
            del table[last]
        else:
            table[last] = value
    path.write_text(json.dumps(content))


IN = "configurations__3d_fullres__"


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_answers_as_nnunets_own_does(tmp_path: Path, kind: str) -> None:
    result = imported(nnunet_models.model(tmp_path / "model", kind), tmp_path / "out")
    network = build_model(str(tmp_path / "out")).eval()
    with torch.no_grad():
        logits = network(nnunet_models.patch(kind)).flatten()[::97]
    assert logits.tolist() == pytest.approx(STORED[kind]["patch_logits"], abs=2e-5)
    weights = nnunet_models.state(kind)
    seen = {value.data_ptr(): value.numel() for name, value in weights.items() if "seg_layers.0" not in name}
    assert result.params == sum(seen.values())


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_prepared_as_nnunet_does(tmp_path: Path, kind: str) -> None:
    info = imported(nnunet_models.model(tmp_path / "model", kind), tmp_path / "out").info
    prepared = prepared_case(nnunet_models.case(tmp_path / "case", kind), info)
    assert list(prepared.image.shape) == STORED[kind]["image_sides"]
    assert prepared.image.flatten()[::211].tolist() == pytest.approx(STORED[kind]["image"], abs=2e-5)


def prepared_case(files: list[Path], info: checkpoint.CheckpointInfo) -> Any:
    images = tuple(ImageFile(path=path) for path in files)
    volumes = load_volumes(CaseFiles(id="case", subject="", images=images, label=None))
    assert info.plan is not None
    assert info.plan.preparation is not None
    return prepare(volumes, info.plan.preparation)


def predicted(model: Path, files: list[Path], output: Path) -> Any:
    source = files[0] if len(files) == 1 else files[0].parent
    words = ["predict", str(model), "--input", str(source), "--output", str(output), "--test-time-mirroring"]
    assert main(words) == 0
    image = nib.load(output)
    assert np.allclose(image.affine, nib.load(files[0]).affine, atol=1e-4)
    return np.asarray(image.dataobj)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_nnunets_own(tmp_path: Path, kind: str) -> None:
    source, files = nnunet_models.model(tmp_path / "model", kind), nnunet_models.case(tmp_path / "case", kind)
    assert main(["import", str(source), "--fold", "0", "--out", str(tmp_path / "out")]) == 0
    label = predicted(tmp_path / "out", files, tmp_path / "seg.nii.gz")
    own = nnunet_models.unpacked(STORED[kind]["label"], label.shape)
    assert len(np.unique(own)) > 2
    assert (label != own).mean() <= 1e-3


@pytest.mark.skipif(not NNUNET, reason="nnunetv2 is not installed (pip install --no-deps nnunetv2, and what it needs)")
@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_masks_agree_with_nnunets_predictor(tmp_path: Path, kind: str) -> None:
    source, files = nnunet_models.model(tmp_path / "model", kind), nnunet_models.case(tmp_path / "case", kind)
    info = imported(source, tmp_path / "out").info
    own = nnunet_models.by_nnunet(source, files, mirror=True)
    prepared = prepared_case(files, info)
    assert np.abs(prepared.image.numpy() - own["image"]).max() < 1e-5
    network = build_model(str(info.path)).eval()
    assert info.plan is not None
    image = np.asarray(prepared.image.numpy(), np.float32)
    logits = logits_of(network, image, info.plan, info.spatial, mirror=info.mirror or ())
    assert (logits - own["logits"]).abs().max() < 1e-3
    assert (predicted(tmp_path / "out", files, tmp_path / "seg.nii.gz") != own["label"]).mean() <= 1e-3
    assert np.array_equal(own["label"], nnunet_models.unpacked(STORED[kind]["label"], own["label"].shape))


def test_older_plans_are_the_same_network(tmp_path: Path) -> None:
    new = nnunet_models.model(tmp_path / "new", "residual")
    old = nnunet_models.model(tmp_path / "old", "residual")
    (old / "plans.json").write_text(json.dumps(nnunet_models.older(nnunet_models.plans("residual"))))
    first, other = (imported(source, tmp_path / f"{source.name}-out").info for source in (new, old))
    assert first.sha256 == other.sha256
    assert first.model.kwargs == other.model.kwargs


def test_a_configuration_inherits(tmp_path: Path) -> None:
    arguments = {**nnunet_models.checkpoint("plain")["init_args"], "configuration": "3d_fullres_bs4"}
    info = imported(nnunet_models.model(tmp_path / "model", init_args=arguments), tmp_path / "out").info
    assert info.spatial == (4, 16, 16)
    assert info.train["imported"]["configuration"] == "3d_fullres_bs4"


def test_what_the_sidecar_keeps_of_the_plans(tmp_path: Path) -> None:
    info = imported(nnunet_models.model(tmp_path / "model"), tmp_path / "hippo").info
    plan = info.plan
    assert plan is not None
    assert (info.model.name, info.data, info.mirror) == ("hippo", "Dataset099_Boxes:nnU-Net", (0, 1, 2))
    assert (plan.channels, plan.patch, plan.out_channels, plan.exclusive) == (("FLAIR", "CT"), (4, 16, 16), 3, False)
    assert (dict(plan.regions), plan.paint) == ({"whole": (1, 2, 3), "core": (2, 3), "kernel": (3,)}, (1, 2, 3))
    assert plan_from_json(json.loads(json.dumps(plan_to_json(plan)))) == plan
    assert info.train["imported"]["trainer"] == "nnUNetTrainer"


def test_labels_are_in_the_order_of_their_values(tmp_path: Path) -> None:
    plan = imported(nnunet_models.model(tmp_path / "model", "residual"), tmp_path / "out").info.plan
    assert plan is not None
    assert (list(plan.regions.items()), plan.exclusive) == ([("shell", (1,)), ("kernel", (2,))], True)


def test_the_best_checkpoint_stands_in_for_the_final_one(tmp_path: Path) -> None:
    source = nnunet_models.model(tmp_path / "model", name="checkpoint_best.pth")
    result = imported(source / "fold_0", tmp_path / "out")
    assert "checkpoint_best.pth is taken" in result.notes[0]
    assert imported(source, tmp_path / "b", checkpoint="checkpoint_best").info.sha256 == result.info.sha256
    with pytest.raises(CheckpointError, match=r"no checkpoint_latest\.pth; it has checkpoint_best\.pth"):
        imported(source, tmp_path / "c", checkpoint="checkpoint_latest")


def test_missing_files_are_named_and_what_is_there_is_listed(tmp_path: Path) -> None:
    source = nnunet_models.model(tmp_path / "Dataset099_Boxes" / "nnUNetTrainer__nnUNetPlans__3d_fullres")
    with pytest.raises(CheckpointError, match=r"no fold 3; it has 0$"):
        imported(source, tmp_path / "out", fold="3")
    (source / "fold_all").mkdir()
    with pytest.raises(CheckpointError, match=r"has the folds 0, all: name one"):
        imported(source, tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"no checkpoint_final\.pth or checkpoint_best\.pth; it has none"):
        imported(source, tmp_path / "out", fold="all")
    with pytest.raises(CheckpointError, match=r"several models of nnU-Net: name one of them, such as .*3d_fullres"):
        imported(source.parent, tmp_path / "out")
    (source / "dataset.json").rename(source / "other.json")
    with pytest.raises(CheckpointError, match=r"no dataset\.json"):
        imported(source, tmp_path / "out", fold="0")
    (source / "plans.json").unlink()
    with pytest.raises(CheckpointError, match="no folder of nnU-Net v2"):
        imported(source, tmp_path / "out", fold="0")


def test_a_trainer_of_ones_own_is_named_in_a_note(tmp_path: Path) -> None:
    source = nnunet_models.model(tmp_path / "model", trainer_name="nnUNetTrainerDiceFocal")
    assert any("trained by nnUNetTrainerDiceFocal" in note for note in imported(source, tmp_path / "out").notes)


ARCHITECTURE = f"{IN}architecture__"
REFUSED = {
    "a network of another kind": ({f"{ARCHITECTURE}network_class_name": "os.system"}, "os.system"),
    "a class of another package": ({f"{ARCHITECTURE}arch_kwargs__nonlin": "evil.LeakyReLU"}, r"evil\.LeakyReLU"),
    "another norm": ({f"{ARCHITECTURE}arch_kwargs__norm_op": "torch.nn.GroupNorm"}, "GroupNorm"),
    "a keyword that is not known": ({f"{ARCHITECTURE}arch_kwargs__attention": True}, "attention"),
    "norm last": ({f"{ARCHITECTURE}arch_kwargs__nonlin_first": True}, "nonlin_first"),
    "2-D convolutions": ({f"{ARCHITECTURE}arch_kwargs__conv_op": "torch.nn.modules.conv.Conv2d"}, "Conv3d is needed"),
    "2-D patches": ({f"{IN}patch_size": [64, 64]}, "2-D configuration"),
    "a cascade": ({f"{IN}previous_stage": "3d_lowres"}, "second stage of a cascade"),
    "another preprocessor": ({f"{IN}preprocessor_name": "MyPreprocessor"}, "MyPreprocessor"),
    "another resampling": ({f"{IN}resampling_fn_data": "resample_torch_fornnunet"}, "resample_torch_fornnunet"),
    "another scheme": ({f"{IN}normalization_schemes": ["Own", "CTNormalization"]}, "'Own'"),
    "files of another kind": ({"image_reader_writer": "Tiff3DIO"}, "Tiff3DIO"),
    "a circle": ({f"{IN}inherits_from": "3d_fullres"}, "inherits from itself"),
    "too few stages": ({f"{ARCHITECTURE}arch_kwargs__strides": [[1, 1, 1]]}, "one filters, strides"),
    "too many blocks": ({f"{ARCHITECTURE}arch_kwargs__n_conv_per_stage": 10**9}, "at most 100"),
    "stages without end": ({f"{ARCHITECTURE}arch_kwargs__n_stages": 10**12}, "n_stages must be"),
    "weights beyond all memory": ({f"{ARCHITECTURE}arch_kwargs__features_per_stage": 10**6}, "too large a network"),
    "no spacing": ({f"{IN}spacing": None}, "'spacing' is missing"),
    "a patch that does not fit": ({f"{IN}patch_size": [4, 16, 18]}, "multiple of"),
    "no configuration": ({"configurations": {"2d": {}}}, "unknown configuration '3d_fullres'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_taken_in_exactly_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    changes, match = REFUSED[case]
    source = nnunet_models.model(tmp_path / "model")
    changed(source, **changes)
    with pytest.raises(CheckpointError, match=match) as caught:
        imported(source, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"labels__gap": 7, "labels__core": 1, "labels__whole": 2}, "not 0, 1, 2 and so on"),
        ({"regions_class_order": [1, 2]}, "2 values for 3 regions"),
        ({"channel_names__2": "T2"}, "3 channels"),
        ({"labels": None}, "'labels' is missing"),
    ],
)
def test_descriptions_that_contradict_the_plans_are_refused(tmp_path: Path, changes: Any, match: str) -> None:
    source = nnunet_models.model(tmp_path / "model")
    changed(source, "dataset.json", **changes)
    with pytest.raises(CheckpointError, match=match):
        imported(source, tmp_path / "out")


def test_weights_that_do_not_fit_the_plans_are_listed(tmp_path: Path) -> None:
    source = nnunet_models.model(tmp_path / "model")
    changed(source, **{f"{ARCHITECTURE}arch_kwargs__features_per_stage": [4, 8, 10]})
    with pytest.raises(CheckpointError, match="does not fit the network NNUNetPlanned: 9 have another shape"):
        imported(source, tmp_path / "out")
    other = nnunet_models.model(tmp_path / "other", network_weights=nnunet_models.state("residual"))
    with pytest.raises(CheckpointError, match=r"are missing .* are not of it"):
        imported(other, tmp_path / "out")


class _Touches:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_a_checkpoint_with_code_is_refused_and_nothing_of_it_runs(tmp_path: Path) -> None:
    mark = tmp_path / "run"
    source = nnunet_models.model(tmp_path / "model", logging=_Touches(mark))
    with pytest.raises(CheckpointError, match="holds more than weights"):
        imported(source, tmp_path / "out")
    assert not mark.exists()


def test_flags_of_a_file_of_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--arch: the plans of nnU-Net say it"):
        imported(nnunet_models.model(tmp_path / "model"), tmp_path / "out", arch="nnunet")


def test_windows_are_spread_evenly() -> None:
    assert starts(110, 64, 0.5) == [0, 23, 46]  # the example of nnU-Net's own comment
    assert starts(64, 64, 0.5) == [0]


def test_a_data_set_is_seen_as_the_network_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))
    folder = data_sets.decathlon(tmp_path / "Task99_Boxes", count=12)
    source = nnunet_models.model(tmp_path / "model", "residual")
    (source / "fold_0/validation").mkdir()
    held_out = get_plan(str(folder)).ids["test"]
    for case in held_out:
        (source / "fold_0/validation" / f"{case}.nii.gz").touch()
    info = imported(source, tmp_path / "out", data=str(folder)).info
    plain = get_plan(str(folder))
    assert set(info.train["cases"]) == {*plain.ids["train"], *plain.ids["val"]}
    assert checkpoint.leaks(info, plain) == []

    seen = plain.as_seen_by(info.plan)
    again = get_plan(seen.where)
    assert again == seen
    assert (again.key, again.preparation, again.patch) == (plain.key, info.plan and info.plan.preparation, (12, 16, 12))
    case = load_case(again, "train", 0)
    assert case.image.shape[1:] == case.label.shape
    assert set(np.unique(case.label)) == {0, 1, 2}
    assert plain.as_seen_by(plain) is plain

    other = copy.deepcopy(json.loads((folder / "dataset.json").read_text()))
    other["labels"] = {"0": "background", "1": "shell", "3": "kernel"}
    (folder / "dataset.json").write_text(json.dumps(other))
    with pytest.raises(DataError, match="a Dice needs the same"):
        get_plan(str(folder)).as_seen_by(info.plan)


def test_an_evaluation_shows_a_network_the_images_that_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))
    folder = data_sets.decathlon(tmp_path / "Task99_Boxes", count=12)
    info = imported(nnunet_models.model(tmp_path / "model", "residual"), tmp_path / "out" / "hippo").info
    request = EvaluateRequest(networks=(str(tmp_path / "out" / "hippo"),), data=str(folder), threads=1)
    (record,) = evaluate(request, tmp_path / "evaluated").records
    net = build(info.model, info.spatial).eval()
    checkpoint.load_weights(net, info.path)
    seen = get_plan(str(folder)).as_seen_by(info.plan)
    dice, *_ = measure_dice(net, data=seen.where, split="test", spatial=info.spatial).measurements
    assert record.get("dice").values == pytest.approx(dice.values, abs=1e-9)
    plain = weights_prepared_here(tmp_path / "plain.safetensors", info)
    with pytest.raises(UsageError, match="prepared in different ways"):
        evaluate(dataclasses.replace(request, networks=(f"{info.path}+{plain}",)), tmp_path / "both")


def weights_prepared_here(path: Path, info: checkpoint.CheckpointInfo) -> Path:
    """The same weights, said to have seen images as data sets are prepared here."""
    state = safetensors.torch.load_file(info.path)
    train = dict(info.train) | {"cases": []}
    checkpoint.save(path, state, model=info.model, data=info.data, spatial=info.spatial, train=train, plan=None)
    return path


def test_without_its_data_nobody_knows_what_it_has_seen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = data_sets.decathlon(tmp_path / "Task99_Boxes", count=12)
    info = imported(nnunet_models.model(tmp_path / "model", "residual"), tmp_path / "net").info
    assert not info.knows_its_cases
    assert checkpoint.leaks(info, get_plan(str(folder))) == []
    assert "does not say which cases it was trained on" in caplog.text


def test_pruned_and_trained_on_it_sees_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))
    folder = data_sets.decathlon(tmp_path / "Task99_Boxes", count=12)
    info = imported(nnunet_models.model(tmp_path / "model", "residual"), tmp_path / "net").info
    out = tmp_path / "small"
    words = ["--prune", "0.4", "--finetune", "1step", "--dtype", "fp32", "--data", str(folder), "--out", str(out)]
    assert main(["compress", str(tmp_path / "net"), *words]) == 0
    small = checkpoint.read_sidecar(out)
    assert small.plan is not None
    assert info.plan is not None
    assert small.plan.preparation == info.plan.preparation
    assert small.compression is not None
    assert main(["compress", str(tmp_path / "net"), "--prune", "0.4", "--out", str(tmp_path / "pruned")]) == 0
    pruned = checkpoint.read_sidecar(tmp_path / "pruned")
    assert (pruned.mirror, pruned.imported) == ((0, 1, 2), info.imported)
    trained = tmp_path / "trained"
    words = ["--data", str(folder), "--budget", "1step", "--validations", "1", "--dtype", "fp32", "--out", str(trained)]
    assert main(["train", "--init", str(tmp_path / "net"), *words]) == 0
    after = checkpoint.read_sidecar(trained)
    assert after.plan is not None
    assert after.plan.preparation == info.plan.preparation
    assert after.train["start"] == info.sha256
    assert not any(known.knows_its_cases for known in (small, pruned, after))


def test_validation_cases_that_nnunet_trained_on_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))
    folder = data_sets.decathlon(tmp_path / "Task99_Boxes", count=12)
    source = nnunet_models.model(tmp_path / "model", "residual")
    held_out = source / "fold_0" / "validation"
    held_out.mkdir()
    parts = get_plan(str(folder)).ids
    for case in parts["test"]:
        (held_out / f"{case}.nii.gz").touch()
    assert imported(source, tmp_path / "net", data=str(folder)).info.knows_its_cases
    words = ["--prune", "0.4", "--data", str(folder), "--out", str(tmp_path / "small")]
    assert main(["compress", str(tmp_path / "net"), *words]) == 0
    watched = len(parts["val"])
    assert watched
    assert f"nnU-Net trained on {watched} of these {watched}" in capsys.readouterr().out
