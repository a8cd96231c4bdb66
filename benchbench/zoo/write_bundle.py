"""A network as a MONAI bundle: what `python -m monai.bundle run` and the programs built on it take.

The bundle prepares images, lays windows and decides on labels as `bench predict` does, by transforms of MONAI, and is
refused where that cannot be. Its `run` needs MONAI alone; `evaluator` is for programs that bring Ignite.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchbench.core import version
from benchbench.core.errors import CheckpointError, StoreError, UnsupportedError, os_error_as
from benchbench.core.results import write_whole
from benchbench.core.units import format_shape
from benchbench.data.monai_preparation import BACKGROUND, SELECTIONS
from benchbench.data.plan import DataPlan, MonaiPreparation, MonaiWindows, Preparation
from benchbench.zoo import build, checkpoint, nnunet_in_monai
from benchbench.zoo.monai_bundle import ARCH, RESIZED

_SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
_ABOVE_ZERO = 1e-30  # the least logit that counts as above 0, which is a probability above a half
FILES = ("configs/metadata.json", "configs/inference.json", "models/model.pt", "docs/README.md")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WrittenBundle:
    """A bundle on disk."""

    folder: Path
    files: tuple[Path, ...]
    needs: str | None  # the package, beside MONAI, that the network's class is of; None: nothing


def write_bundle(info: checkpoint.CheckpointInfo, folder: Path, *, force: bool = False) -> WrittenBundle:
    """Write a checkpoint as a MONAI bundle.

    Args:
        folder: of the bundle, made if it is not there.
        force: replace the files of a bundle in it.

    Raises:
        CheckpointError: the weights do not say how images are prepared.
        UnsupportedError: images are prepared, or the network answers, in a way that no transform of MONAI has.
        StoreError: there is a bundle already, or it cannot be written.
    """
    plan = info.plan
    if plan is None or plan.preparation is None:
        raise CheckpointError(
            f"{info.path} does not say how its images were prepared, so no bundle can prepare them: train it on a "
            "folder of images, or import it with --data"
        )
    files = [folder / name for name in FILES]
    there = [path for path in files if path.exists()]
    if there and not force:
        raise StoreError(f"{there[0]} is there already: --force replaces it, another --out keeps it")
    before, after = _preprocessing(plan.preparation, info), _postprocessing(plan)
    module = build.build_here(info.model, info.spatial)
    checkpoint.load_weights(module, info.path)
    _check_answer(module, info)
    network, needs = _network(info)
    config = _inference(info, plan, network, before, after)
    with os_error_as(StoreError, f"cannot write {folder}", "choose another --out"):
        for path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(files[0], _json(_metadata(info, plan)))
        write_whole(files[1], _json(config))
        write_whole(files[2], _pickled(module))
        write_whole(files[3], _readme(info, plan, needs).encode())
    return WrittenBundle(folder=folder, files=tuple(files), needs=needs)


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=4, allow_nan=False) + "\n").encode()


def _pickled(module: Any) -> bytes:
    """The weights as `torch.save` writes a state dict."""
    import io

    import torch

    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    return buffer.getvalue()


def _check_answer(module: Any, info: checkpoint.CheckpointInfo) -> None:
    """Refuse a network whose answer is not the logits themselves, which MONAI's inferer needs."""
    import torch

    x = torch.zeros(1, info.model.in_channels, *info.spatial)
    with torch.inference_mode():
        output = module.eval()(x)
    wanted = (1, info.model.out_channels, *info.spatial)
    if not isinstance(output, torch.Tensor) or tuple(output.shape) != wanted:
        shape = format_shape(tuple(output.shape)) if isinstance(output, torch.Tensor) else type(output).__name__
        raise UnsupportedError(
            f"{info.model.name} answers {shape} to a patch, and a bundle needs the logits alone, {format_shape(wanted)}"
        )


def _network(info: checkpoint.CheckpointInfo) -> tuple[dict[str, Any], str | None]:
    """`network_def`, and the package that its class is of, beside MONAI."""
    import inspect

    spec = info.model
    module, _, name = spec.arch.partition(":")
    needs = None if spec.arch.startswith(ARCH) else module.partition(".")[0]
    target = f"monai.networks.nets.{name}" if needs is None else f"{module}.{name}"
    offered = {"in_channels": spec.in_channels, "out_channels": spec.out_channels, "spatial": list(info.spatial)}
    names = inspect.signature(build.find_class(spec.arch)).parameters
    keywords = {key: value for key, value in spec.kwargs.items() if key != build.PRUNED_SHAPES}
    table = {"_target_": target, **{key: value for key, value in offered.items() if key in names}, **keywords}
    if shapes := spec.kwargs.get(build.PRUNED_SHAPES):
        return {"_target_": RESIZED, "module": table, "shapes": shapes}, "benchbench"
    return table, needs


def _preprocessing(preparation: Preparation, info: checkpoint.CheckpointInfo) -> list[dict[str, Any]]:
    """What `data.preprocessing.prepare` does to an image, as transforms of MONAI."""
    own = nnunet_in_monai.steps(preparation.nnunet, info.spatial, info.path) if preparation.nnunet else None
    if preparation.monai:
        own = list(preparation.monai.steps)
    if own is not None:
        return [_step(step.name, step.options) for step in own]
    steps: list[dict[str, Any]] = []
    if preparation.foreground:
        steps.append(_step("Lambdad", {"func": BACKGROUND}))
    steps.append(_step("Orientationd", {"axcodes": "RAS"}))
    if preparation.foreground:
        steps.append(_step("CropForegroundd", {"select_fn": "not zero", "allow_smaller": False}))
    if preparation.resample:
        steps.append(_step("Spacingd", {"pixdim": list(preparation.spacing_mm), "mode": "bilinear"}))
    if preparation.clip:
        low, high, mean, deviation = preparation.clip
        scale = {"b_min": (low - mean) / deviation, "b_max": (high - mean) / deviation, "clip": True}
        steps.append(_step("ScaleIntensityRanged", {"a_min": low, "a_max": high, **scale}))
    else:
        steps.append(_step("NormalizeIntensityd", {"nonzero": preparation.foreground, "channel_wise": True}))
    return steps


def _step(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    table: dict[str, Any] = {"_target_": name, "keys": "image", **options}
    if name == "Orientationd":
        table["labels"] = None
    if name == "CropForegroundd":
        table["source_key"] = "image"
    if "select_fn" in options:
        table["select_fn"] = SELECTIONS[options["select_fn"]]
    if name == "Spacingd" and "dtype" in options:
        table["dtype"] = f"$torch.{options['dtype']}"
    return table


def _postprocessing(plan: DataPlan) -> list[dict[str, Any]]:
    """Logits to a label map in the voxels of the file, as `bench predict` writes it."""
    assert plan.preparation is not None
    how = plan.preparation.monai or _usual(plan)
    invert = {
        "_target_": "Invertd",
        "keys": "pred",
        "transform": "@preprocessing",
        "orig_keys": "image",
        "nearest_interp": how.nearest,
        "to_tensor": True,
    }
    decide = {"argmax": True} if how.decided == "argmax" else {"threshold": how.threshold}
    steps: dict[str, list[dict[str, Any]]] = {
        "logits": [],
        "activated": [{"_target_": "Activationsd", "keys": "pred", how.activation: True}],
        "labels": [{"_target_": "AsDiscreted", "keys": "pred", **decide}],
    }
    if how.activation == "none":
        steps["activated"] = []
    steps[how.inverted].append(invert)
    values = [values[0] for values in plan.regions.values()]
    paint = list(plan.paint) or values
    named: list[dict[str, Any]] = []
    if plan.exclusive and paint != list(range(1, len(paint) + 1)):
        labels = {"orig_labels": list(range(len(paint) + 1)), "target_labels": [0, *paint]}
        named.append({"_target_": "MapLabelValued", "keys": "pred", **labels})
    elif not plan.exclusive:
        covered = list(plan.regions.values())
        as_listed = plan.preparation.nnunet is not None  # else the largest first: both as `DataPlan.to_label` paints
        lowest_first = sorted(range(len(covered)), key=lambda i: 0 if as_listed else -len(covered[i]))
        text = "0"
        for i in lowest_first:
            text = f"torch.where(x[[{i}]] > 0, {paint[i]}, {text})"
        named.append({"_target_": "Lambdad", "keys": "pred", "func": f"$lambda x: {text}"})
    return [*steps["logits"], *steps["activated"], *steps["labels"], *named]


def _usual(plan: DataPlan) -> MonaiPreparation:
    """How benchbench lays windows and decides on labels, in MONAI's words."""
    return MonaiPreparation(
        steps=(),
        windows=MonaiWindows(overlap=plan.overlap, mode="gaussian"),
        activation="none",
        decided="argmax" if plan.exclusive else "threshold",
        threshold=_ABOVE_ZERO,
        inverted="logits",
        nearest=False,
    )


def _inference(
    info: checkpoint.CheckpointInfo,
    plan: DataPlan,
    network: dict[str, Any],
    before: list[dict[str, Any]],
    after: list[dict[str, Any]],
) -> dict[str, Any]:
    """`inference.json`."""
    assert plan.preparation is not None
    windows = (plan.preparation.monai or _usual(plan)).windows
    one = "$[{'image': name} for name in sorted(glob.glob(@dataset_dir + '/*.nii.gz'))]"
    several = (
        "$[{'image': [name[:-11] + '%04d.nii.gz' % channel for channel in range("
        f"{plan.in_channels})]}} for name in sorted(glob.glob(@dataset_dir + '/*_0000.nii.gz'))]"
    )
    save = {
        "_target_": "SaveImaged",
        "keys": "pred",
        "output_dir": "@output_dir",
        "output_postfix": "seg",
        "output_dtype": "$np.int16",
        "separate_folder": False,
        "resample": False,
    }
    weighed = [nnunet_in_monai.weight_map(info.spatial)] if plan.preparation.nnunet else []
    answer = "{**item, 'pred': @inferer(item['image'][None].to(@device), @network)[0].cpu()}"
    return {
        "imports": ["$import glob"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/eval'",
        "datalist": one if plan.in_channels == 1 else several,
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": network,
        "network": "$@network_def.to(@device).eval().requires_grad_(False)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                *before,
                {"_target_": "EnsureTyped", "keys": "image"},
            ],
        },
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(info.spatial),
            "sw_batch_size": 1,
            **dataclasses.asdict(windows),
        },
        "postprocessing": {"_target_": "Compose", "transforms": [*after, save]},
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "initialize": [
            *weighed,
            "$@network.load_state_dict(torch.load(@bundle_root + '/models/model.pt', map_location=@device, "
            "weights_only=True))",
        ],
        "run": [f"$[@postprocessing({answer}) for item in @dataset]"],
    }


def _metadata(info: checkpoint.CheckpointInfo, plan: DataPlan) -> dict[str, Any]:
    """`metadata.json`, with the fields that MONAI's schema asks for."""
    spec = info.model
    named = ["background", *plan.regions] if plan.exclusive else list(plan.regions)

    def image(kind: str, channels: list[str]) -> dict[str, Any]:
        return {
            "type": "image",
            "format": kind,
            "num_channels": len(channels),
            "spatial_shape": list(info.spatial),
            "dtype": "float32",
            "value_range": [],
            "is_patch_data": True,
            "channel_def": {str(i): name for i, name in enumerate(channels)},
        }

    is_ct = tuple(name.upper() for name in plan.channels) == ("CT",)
    return {
        "schema": _SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": "written by benchbench"},
        "monai_version": version.installed("monai"),
        "pytorch_version": (version.installed("torch") or "").partition("+")[0],
        "numpy_version": version.installed("numpy"),
        "required_packages_version": {"nibabel": version.installed("nibabel")},
        "name": spec.name,
        "task": f"segmentation of {', '.join(plan.regions)}",
        "description": f"{spec.name}, trained on {info.data}: {plan.title}",
        "authors": "not stated",
        "copyright": plan.licence,
        "data_source": info.data,
        "data_type": "nibabel",
        "intended_use": "research; not a medical device",
        "network_data_format": {
            "inputs": {"image": image("hounsfield" if is_ct else "magnitude", list(plan.channels))},
            "outputs": {"pred": image("segmentation", named)},
        },
    }


def _readme(info: checkpoint.CheckpointInfo, plan: DataPlan, needs: str | None) -> str:
    """`docs/README.md`."""
    files = "one `.nii.gz` a case"
    if plan.in_channels > 1:
        names = ", ".join(f"`CASE_{i:04d}.nii.gz` ({name})" for i, name in enumerate(plan.channels))
        files = f"of each case {names}"
    more = (
        f"The class of the network is of the Python package `{needs}`, which has to be installed beside MONAI.\n"
        if needs
        else "Nothing but MONAI is needed.\n"
    )
    if plan.preparation and (nnunet := plan.preparation.nnunet):
        spacing = "x".join(f"{side:g}" for side in nnunet_in_monai.file_spacing(nnunet))
        files += f", with voxels of {spacing} mm (others are resampled, linearly, where nnU-Net takes splines)"
    paint = plan.paint or tuple(values[0] for values in plan.regions.values())
    labels = ", ".join(f"{label} {name}" for label, name in zip(paint, plan.regions, strict=True))
    return (
        f"# {info.model.name}\n\n"
        f"Trained on {info.data}. Written by benchbench {version.__version__} from weights with the sha256 "
        f"{info.sha256}.\n\n"
        f"{more}\n"
        "```\n"
        "python -m monai.bundle run --config_file configs/inference.json --dataset_dir /data/images\n"
        "```\n\n"
        f"The folder of images has {files}. Label maps are written to `eval` (`--output_dir`): {labels}. "
        "The command line of `monai.bundle` needs the package `fire`; programs that use the `evaluator` of the "
        "configuration need `pytorch-ignite`.\n"
    )
