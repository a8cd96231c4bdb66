"""MONAI bundles, tiny and made by hand, and what MONAI itself makes of a case with them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests import data_sets

#: `softmax` inverts probabilities, `regions` paints thresholded regions, `labels` inverts label maps.
KINDS = ("softmax", "regions", "labels")
CHANNELS = {"softmax": 1, "regions": 2, "labels": 1}

_NETWORKS: dict[str, dict[str, Any]] = {
    "softmax": {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 3,
        "channels": [4, 8],
        "strides": [2],
        "norm": "batch",
    },
    "regions": {
        "_target_": "monai.networks.nets.SegResNet",
        "in_channels": 2,
        "out_channels": 3,
        "init_filters": 8,
        "blocks_down": "$[1, 1]",
        "blocks_up": [1],
        "dropout_prob": 0.2,
    },
    "labels": {
        "_target_": "BasicUNet",
        "in_channels": 1,
        "out_channels": "@classes",
        "features": [4, 4, 4, 4, 4, 4],
        "norm": ["batch", {"eps": 1e-4}],
    },
}

_BEFORE: dict[str, list[dict[str, Any]]] = {
    "softmax": [
        {"_target_": "Orientationd", "axcodes": "RAS"},
        {"_target_": "Spacingd", "pixdim": [1.3, 1.0, 1.6], "mode": "bilinear"},
        {"_target_": "ScaleIntensityRanged", "a_min": 60, "a_max": 240, "b_min": 0, "b_max": 1, "clip": True},
        {"_target_": "CropForegroundd", "source_key": "image", "margin": 1},
    ],
    "regions": [{"_target_": "NormalizeIntensityd", "nonzero": True, "channel_wise": True}],
    "labels": [
        {"_target_": "Orientationd", "axcodes": "RAS"},
        {"_target_": "Spacingd", "pixdim": "@pixdim", "mode": ["bilinear"]},
        {"_target_": "NormalizeIntensityd", "nonzero": True},
        {"_target_": "ScaleIntensityd", "minv": -1.0, "maxv": 1.0},
    ],
}

_INFERERS: dict[str, dict[str, Any]] = {
    "softmax": {"roi_size": [16, 16, 8], "sw_batch_size": 4, "overlap": 0.5},
    "regions": {"roi_size": [8, 16, 8], "mode": "gaussian", "sw_batch_size": 1, "overlap": 0.25},
    "labels": {"roi_size": "$(@side, @side, 16)", "overlap": "@options#overlap", "padding_mode": "replicate"},
}

_INVERT = {
    "_target_": "Invertd",
    "keys": "pred",
    "transform": "@preprocessing",
    "orig_keys": "image",
    "nearest_interp": False,
    "to_tensor": True,
}
PAINTED = "$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, torch.where(x[[1]] > 0, 2, 0)))"
_AFTER: dict[str, list[dict[str, Any]]] = {
    "softmax": [
        {"_target_": "Activationsd", "keys": "pred", "softmax": True},
        _INVERT,
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
    ],
    "regions": [
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
        _INVERT,
        {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
        {"_target_": "Lambdad", "keys": "pred", "func": PAINTED},
    ],
    "labels": [
        {"_target_": "AsDiscreted", "keys": ["pred"], "argmax": [True]},
        {**_INVERT, "nearest_interp": True},
    ],
}

_OUTPUTS = {
    "softmax": ["background", "shell", "kernel"],
    "regions": ["Tumor core", "Whole tumor", "Enhancing tumor"],
    "labels": ["background", "shell", "kernel"],
}


def inference(kind: str) -> dict[str, Any]:
    """`inference.json`, with expressions in all that inference by MONAI alone needs."""
    key = "@image_key" if kind == "labels" else "image"
    reading = [{"_target_": "LoadImaged", "keys": key}, {"_target_": "EnsureChannelFirstd", "keys": key}]
    steps = [{"keys": key, **step} for step in _BEFORE[kind]]
    return copy.deepcopy(
        {
            "imports": ["$import glob", "$import os"],
            "bundle_root": ".",
            "image_key": "image",
            "classes": 3,
            "side": 16,
            "options": {"overlap": 0.25, "high": True},
            "pixdim": "$[1.5, 1.2, 1.5]",
            "output_dir": "$@bundle_root + '/eval'",
            "datalist": "$list(sorted(glob.glob(@bundle_root + '/*.nii.gz')))",
            "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
            "network_def": _NETWORKS[kind],
            "network": "$@network_def.to(@device)",
            "preprocessing": {
                "_target_": "Compose",
                "transforms": [*reading, *steps, {"_target_": "EnsureTyped", "keys": key, "device": "@device"}],
            },
            "inferer": {"_target_": "SlidingWindowInferer", **_INFERERS[kind]},
            "postprocessing": {
                "_target_": "Compose",
                "transforms": [
                    *_AFTER[kind],
                    {
                        "_target_": "SaveImaged",
                        "keys": "pred",
                        "output_dir": "@output_dir",
                        "output_dtype": "$np.uint8",
                    },
                ],
            },
            "evaluator": {"_target_": "SupervisedEvaluator", "network": "@network", "amp": True},
            "run": ["$@evaluator.run()"],
        }
    )


def metadata(kind: str) -> dict[str, Any]:
    """`metadata.json`."""
    inputs = {"type": "image", "num_channels": CHANNELS[kind], "channel_def": {"0": "T1c", "1": "FLAIR"}}
    if CHANNELS[kind] == 1:
        inputs["channel_def"] = {"0": "image"}
    outputs = {"type": "image", "num_channels": 3, "channel_def": dict(zip("012", _OUTPUTS[kind], strict=True))}
    return {
        "version": "0.1.0",
        "monai_version": "1.6.0",
        "task": "boxes in boxes",
        "copyright": "nobody's",
        "network_data_format": {"inputs": {"image": inputs}, "outputs": {"pred": outputs}},
    }


def network(kind: str) -> Any:
    """The network with its weights, by MONAI alone."""
    from monai.bundle import ConfigParser

    torch.manual_seed(3)
    parser = ConfigParser(inference(kind))
    module = parser.get_parsed_content("network_def")
    with torch.no_grad():
        for value in module.parameters():
            value.mul_(1.7)  # so that its answers differ between voxels
    return module.eval()


def bundle(folder: Path, kind: str = "softmax", **changes: Any) -> Path:
    """A bundle on disk; `changes` are keys of its configuration, `a__b` for b in a, and None removes one."""
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "inference.json").write_text(json.dumps(inference(kind)))
    change(folder / "configs" / "inference.json", changes)
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata(kind)))
    torch.save({"model": network(kind).state_dict()}, folder / "models" / "model.pt")
    return folder


def change(path: Path, changes: dict[str, Any]) -> None:
    """Set keys of a configuration to other values; see `bundle`."""
    config = json.loads(path.read_text())
    for key, value in changes.items():
        place, under, private = key.partition("___")  # of a key such as _target_
        above = place.split("__")
        last = f"_{private}" if under else above.pop()
        table: Any = config
        for part in above:
            table = table[int(part) if isinstance(table, list) else part]
        at = int(last) if isinstance(table, list) else last
        if value is None:
            del table[at]
        else:
            table[at] = value
    path.write_text(json.dumps(config))


def case(folder: Path, kind: str) -> list[Path]:
    """A case's files, one a channel, tilted and with voxels of unequal sides."""
    image, _ = data_sets.make(5, sides=(17, 21, 15), channels=CHANNELS[kind], background=True)
    channels = [image] if image.ndim == 3 else list(np.moveaxis(image, -1, 0))
    where = data_sets.TILTED
    return [data_sets.save(folder / f"case_{i:04d}.nii.gz", voxels, where) for i, voxels in enumerate(channels)]


def by_monai(folder: Path, files: list[Path], weights: Any) -> tuple[Any, Any]:
    """Logits (K, D, H, W) of the prepared voxels, and label map (D, H, W) in the file's, by the bundle's own means."""
    from monai.bundle import ConfigParser

    config = json.loads((folder / "configs" / "inference.json").read_text())
    post = config["postprocessing"]["transforms"]
    config["postprocessing"]["transforms"] = [step for step in post if step["_target_"] != "SaveImaged"]
    parser = ConfigParser(config)
    parser.read_meta(folder / "configs" / "metadata.json")
    module = parser.get_parsed_content("network_def")
    module.load_state_dict(weights)
    item = parser.get_parsed_content("preprocessing")({"image": list(map(str, files))})
    with torch.no_grad():
        logits = parser.get_parsed_content("inferer")(item["image"][None], module.eval())[0]
    label = parser.get_parsed_content("postprocessing")({**item, "pred": logits})["pred"]
    return np.asarray(logits), np.asarray(label)[0].round().astype(int)
