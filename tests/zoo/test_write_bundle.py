"""`bench export --to monai-bundle`: MONAI runs what was written, and gives the label maps of `bench predict`."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

import benchbench
from benchbench.cli.main import main
from benchbench.core.errors import CheckpointError, StoreError, UnsupportedError, UsageError
from benchbench.core.records import ModelSpec
from benchbench.data.folder import plan_folder
from benchbench.data.plan import ChannelScheme, NnunetPreparation, Resampling
from benchbench.data.preprocessing import prepare
from benchbench.data.source import CaseFiles, ImageFile
from benchbench.data.volumes import load_volumes
from benchbench.runner.export import ExportRequest, export_bundle
from benchbench.zoo import build, checkpoint, nnunet_in_monai
from benchbench.zoo.import_network import ImportRequest, import_network
from benchbench.zoo.pruned import differing_shapes
from tests import data_sets, monai_bundles, nnunet_models
from tests.tiny_nets import Reads

SIDES = (16, 16, 16)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))  # to which MONAI adds each bundle


def weights(folder: Path, path: Path, spec: ModelSpec | None = None, state: Any = None) -> Path:
    """Weights of a network that reads the labels off the intensities, with a data set's plan."""
    plan = plan_folder(folder)
    spec = spec or ModelSpec(
        name="reads",
        arch="tests.tiny_nets:Reads",
        kwargs={},
        in_channels=plan.in_channels,
        out_channels=plan.out_channels,
    )
    state = state or Reads(plan.in_channels, plan.out_channels).state_dict()
    checkpoint.save(path, state, model=spec, data=plan.key, spatial=SIDES, train={}, plan=plan)
    return path


def run_by_monai(bundle: Path, images: Path, out: Path) -> list[Any]:
    """The label maps that `python -m monai.bundle run` writes: its command line calls this function."""
    from monai.bundle import run

    run(
        config_file=str(bundle / "configs" / "inference.json"),
        bundle_root=str(bundle),
        dataset_dir=str(images),
        output_dir=str(out),
    )
    return [nib.load(path) for path in sorted(out.glob("*.nii.gz"))]


def same_as_predicted(
    network: Path, bundle: Path, cases: list[list[Path]], tmp_path: Path, *, most: float = 0.0
) -> None:
    """Each case by MONAI and by `bench predict`; `most`: the share of voxels that may differ."""
    images = tmp_path / "images"
    images.mkdir()
    for i, files in enumerate(cases):
        for c, file in enumerate(files):
            shutil.copy(file, images / (f"case{i}_{c:04d}.nii.gz" if len(files) > 1 else f"case{i}.nii.gz"))
    written = run_by_monai(bundle, images, tmp_path / "eval")
    assert len(written) == len(cases)
    for i, (files, image) in enumerate(zip(cases, written, strict=True)):
        case = tmp_path / f"case{i}"
        case.mkdir()
        for file in files:
            shutil.copy(file, case)
        output = tmp_path / f"seg{i}.nii.gz"
        words = ["predict", str(network), "--trust", "--input", str(case), "--output", str(output)]
        assert main(words) == 0
        label = np.asarray(nib.load(output).dataobj)
        assert len(np.unique(label)) > 2
        assert (np.asarray(image.dataobj) != label).mean() <= most
        assert np.allclose(image.affine, nib.load(output).affine, atol=1e-4)


def exported(network: Path, out: Path, *more: str) -> int:
    return main(["export", str(network), "--trust", "--to", "monai-bundle", "--out", str(out), *more])


def test_monai_gives_the_label_maps_of_predict(tmp_path: Path) -> None:
    folder = data_sets.decathlon(
        tmp_path / "Task99_Tilted", sides=(20, 22, 12), where=data_sets.TILTED, background=True
    )
    network = weights(folder, tmp_path / "w" / "reads.safetensors")
    assert exported(network, tmp_path / "bundle") == 0
    cases = [[folder / f"imagesTr/case_00{i}.nii.gz"] for i in (1, 3)]
    same_as_predicted(network, tmp_path / "bundle", cases, tmp_path)


def test_regions_of_several_channels_are_painted_alike(tmp_path: Path) -> None:
    folder = data_sets.nnunet(tmp_path / "Dataset001_Boxes", channels=2, regions=True)
    network = weights(folder, tmp_path / "w" / "reads.safetensors")
    assert exported(network, tmp_path / "bundle") == 0
    cases = [[folder / f"imagesTr/pat2_{c:04d}.nii.gz" for c in range(2)]]
    same_as_predicted(network, tmp_path / "bundle", cases, tmp_path)


@pytest.mark.parametrize("kind", monai_bundles.KINDS)
def test_an_imported_bundle_goes_out_again(tmp_path: Path, kind: str) -> None:
    request = ImportRequest(source=monai_bundles.bundle(tmp_path / "first", kind))
    import_network(request, tmp_path / "net")
    assert exported(tmp_path / "net", tmp_path / "bundle") == 0
    files = monai_bundles.case(tmp_path / "files", kind)
    same_as_predicted(tmp_path / "net", tmp_path / "bundle", [files], tmp_path)


#: Changes of the plans of `nnunet_models`, and the affine of files that have their spacing.
NNUNET: dict[str, tuple[str, dict[str, Any], dict[str, Any], Any]] = {
    "labels of files as they lie": (
        "residual",
        {},
        {},
        np.array([[0.0, -1.1, 0.0, 3.0], [-1.0, 0.0, 0.0, 20.0], [0.0, 0.0, 1.5, -4.0], [0.0, 0.0, 0.0, 1.0]])[
            :, [1, 0, 2, 3]
        ],
    ),
    "regions of files that are turned": (
        "plain",
        {},
        {"normalization_schemes": ["CTNormalization"] * 2, "use_mask_for_norm": [False] * 2},
        np.array([[0.0, -1.2, 0.0, 3.0], [-0.9, 0.0, 0.0, 20.0], [0.0, 0.0, 4.0, -4.0], [0.0, 0.0, 0.0, 1.0]]),
    ),
}


#: Sides of the case in nnU-Net's axes, before they are transposed, once what is 0 is cropped away.
SEEN = {"labels of files as they lie": (17, 17, 16), "regions of files that are turned": (6, 20, 24)}


def of_nnunet(tmp_path: Path, name: str) -> tuple[Path, list[Path]]:
    """A network of nnU-Net all of whose cases had its spacing, and a case of that spacing."""
    kind, more, settings, where = NNUNET[name]
    # Logits as large as those of a training: nnU-Net's sums in half precision round them to whole numbers in corners.
    large = {name: value * (8 if "seg_layers" in name else 1) for name, value in nnunet_models.state(kind).items()}
    source = nnunet_models.model(tmp_path / "model", kind, network_weights=large)
    plans = json.loads((source / "plans.json").read_text()) | more
    configuration = plans["configurations"]["3d_fullres"]
    configuration |= settings
    (source / "plans.json").write_text(json.dumps(plans))
    spacing = [0.0, 0.0, 0.0]
    for side, axis in zip(configuration["spacing"], plans["transpose_forward"], strict=True):
        spacing[axis] = side * 1.0001
    (source / "dataset_fingerprint.json").write_text(
        json.dumps({"spacings": [spacing] * 2, "shapes_after_crop": [SEEN[name]] * 2})
    )
    import_network(ImportRequest(source=source), tmp_path / "net")
    files = nnunet_models.case(tmp_path / "files", kind)
    for file in files:
        slices = np.asarray(nib.load(file).dataobj)[..., : SEEN[name][0]]
        voxels = np.pad(slices, ((0, 8), (4, 0), (0, 2)))
        nib.save(nib.Nifti1Image(voxels, where), file)
    return tmp_path / "net", files


@pytest.mark.parametrize("name", NNUNET)
def test_a_network_of_nnunet_goes_out_where_nothing_is_resampled(tmp_path: Path, name: str) -> None:
    network, files = of_nnunet(tmp_path, name)
    assert exported(network, tmp_path / "bundle") == 0
    same_as_predicted(network, tmp_path / "bundle", [files], tmp_path, most=1e-3)
    again = import_network(ImportRequest(source=tmp_path / "bundle"), tmp_path / "again").info
    first = checkpoint.read_sidecar(checkpoint.located(network))
    assert (again.sha256, again.model.kwargs) == (first.sha256, first.model.kwargs)
    images = tuple(ImageFile(path=path) for path in files)
    volumes = load_volumes(CaseFiles(id="case", subject="", images=images, label=None))
    prepared = []
    for info in (first, again):
        assert info.plan is not None
        assert info.plan.preparation is not None
        if how := info.plan.preparation.nnunet:
            assert how.within == prepare(volumes, info.plan.preparation).image.shape[1:]
        prepared.append(torch.as_tensor(prepare(volumes, info.plan.preparation).image))
    assert torch.allclose(*prepared, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"within": (19, 16, 12)}, "19x16x12 voxels, more than two windows of 12x16x12"),
        ({"within": None}, "it resamples to 1.5x1x1.1 mm by splines"),
        ({"channels": (ChannelScheme(name="z-score", masked=True),)}, "with the holes filled"),
        ({"channels": (ChannelScheme(name="none"), ChannelScheme(name="z-score"))}, r"\(none, z-score\)"),
    ],
)
def test_what_transforms_of_monai_do_otherwise_is_named(changes: dict[str, Any], why: str) -> None:
    order = Resampling(order=3)
    how = NnunetPreparation(
        spacing_mm=(1.5, 1.0, 1.1),
        transpose=(0, 1, 2),
        reorient=False,
        channels=(ChannelScheme(name="z-score"),),
        images=order,
        logits=order,
        within=(18, 24, 18),
    )
    assert [step.name for step in nnunet_in_monai.steps(how, (12, 16, 12), Path("w"))][-2:] == [
        "Spacingd",
        "Transposed",
    ]
    with pytest.raises(UnsupportedError, match=f"^w prepares images as nnU-Net does.*{why}"):
        nnunet_in_monai.steps(dataclasses.replace(how, **changes), (12, 16, 12), Path("w"))


def test_a_pruned_network_goes_out_and_comes_back(tmp_path: Path) -> None:
    folder = data_sets.decathlon(tmp_path / "Task99_Boxes", where=data_sets.TILTED, background=True)
    narrow, wide = (
        ModelSpec(
            name="small",
            arch="benchbench.models.unet:UNet",
            kwargs={"channels": [width, 2 * width], "strides": [2]},
            in_channels=1,
            out_channels=3,
        )
        for width in (2, 4)
    )
    module = build.build(narrow, SIDES)
    shapes = differing_shapes(module, build.build(wide, SIDES))
    assert shapes
    spec = dataclasses.replace(wide, kwargs={**wide.kwargs, build.PRUNED_SHAPES: shapes})
    network = weights(folder, tmp_path / "w" / "small.safetensors", spec, module.state_dict())
    assert exported(network, tmp_path / "bundle") == 0
    config = json.loads((tmp_path / "bundle/configs/inference.json").read_text())
    assert config["network_def"]["_target_"] == "benchbench.zoo.pruned.resized"
    again = import_network(ImportRequest(source=tmp_path / "bundle"), tmp_path / "again").info
    first = checkpoint.read_sidecar(network)
    assert again.sha256 == first.sha256
    images = [ImageFile(path=folder / "imagesTr/case_003.nii.gz")]
    volumes = load_volumes(CaseFiles(id="case", subject="", images=tuple(images), label=None))
    prepared = []
    for info in (first, again):
        assert info.plan is not None
        assert info.plan.preparation is not None
        prepared.append(prepare(volumes, info.plan.preparation).image)
    assert torch.equal(*map(torch.as_tensor, prepared))


def test_the_metadata_have_what_the_schema_asks_for(tmp_path: Path) -> None:
    folder = data_sets.decathlon(tmp_path / "Task99_Boxes")
    exported(weights(folder, tmp_path / "w" / "reads.safetensors"), tmp_path / "bundle")
    meta = json.loads((tmp_path / "bundle/configs/metadata.json").read_text())
    needed = {"schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description"}
    assert {*needed, "authors", "copyright", "network_data_format"} <= set(meta)
    output = meta["network_data_format"]["outputs"]["pred"]
    assert output["channel_def"] == {"0": "background", "1": "shell", "2": "kernel"}
    assert (output["num_channels"], output["spatial_shape"]) == (3, list(SIDES))
    readme = (tmp_path / "bundle/docs/README.md").read_text()
    assert "package `tests`" in readme
    assert torch.load(tmp_path / "bundle/models/model.pt", weights_only=True).keys() == Reads(1, 3).state_dict().keys()


def test_what_cannot_be_a_bundle_is_one_line(tmp_path: Path) -> None:
    source = nnunet_models.model(tmp_path / "model", "residual")
    import_network(ImportRequest(source=source), tmp_path / "nnunet")
    with pytest.raises(UnsupportedError, match="as nnU-Net does"):
        export_bundle(ExportRequest(network=str(tmp_path / "nnunet"), to="monai-bundle"), tmp_path / "bundle")
    with pytest.raises(UsageError, match="random weights"):
        export_bundle(ExportRequest(network="unet_small", to="monai-bundle"), tmp_path / "bundle")
    folder = data_sets.decathlon(tmp_path / "Task99_Boxes")
    network = weights(folder, tmp_path / "w" / "reads.safetensors")
    with pytest.raises(UsageError, match="--dtype is of files for a device"):
        export_bundle(ExportRequest(network=str(network), trust=True, dtype="int8"), tmp_path / "bundle")
    info = checkpoint.read_sidecar(network)
    state = Reads(1, 3).state_dict()
    bare = checkpoint.save(tmp_path / "x.safetensors", state, model=info.model, data="x", spatial=SIDES, train={})
    with pytest.raises(CheckpointError, match="does not say how its images were prepared"):
        export_bundle(ExportRequest(network=str(bare.path), trust=True), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_python_writes_the_bundle_of_the_command(tmp_path: Path) -> None:
    folder = data_sets.decathlon(tmp_path / "Task99_Boxes")
    network = weights(folder, tmp_path / "w" / "reads.safetensors")
    assert exported(network, tmp_path / "bundle") == 0  # which trusts the network's class from here on
    again = benchbench.export(network, "monai-bundle", out=tmp_path / "again")
    assert again == tmp_path / "again"
    for name in ("configs/metadata.json", "configs/inference.json", "docs/README.md"):
        assert (again / name).read_text() == (tmp_path / "bundle" / name).read_text()
    with pytest.raises(StoreError, match="--force replaces it"):
        benchbench.export(str(network), "monai-bundle", out=again)
    assert benchbench.export(network, "monai-bundle", out=again, force=True) == again
    with pytest.raises(UsageError, match="--data is of files for a device"):
        benchbench.export(network, "monai-bundle", out=tmp_path / "other", data=str(folder))
    with pytest.raises(UsageError, match="a module does not say how its images are prepared"):
        benchbench.export(Reads(1, 3), "monai-bundle", out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_bundle_is_not_replaced_unasked(tmp_path: Path) -> None:
    folder = data_sets.decathlon(tmp_path / "Task99_Boxes")
    network = weights(folder, tmp_path / "w" / "reads.safetensors")
    assert exported(network, tmp_path / "bundle") == 0
    with pytest.raises(StoreError, match="--force replaces it"):
        export_bundle(ExportRequest(network=str(network), trust=True), tmp_path / "bundle")
    assert exported(network, tmp_path / "bundle", "--force") == 0
