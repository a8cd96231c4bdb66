"""Models as nnU-Net v2 leaves them, tiny and made by hand: plans, description, a checkpoint with its kinds of numbers.

Weights and voxels follow from formulas, so `nnunet_reference.json` can hold what nnU-Net itself makes of them. It is
written by `python -m tests.nnunet_models`, with a Python that has nnunetv2.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

REFERENCE = Path(__file__).with_name("nnunet_reference.json")
MODELS = ("plain", "residual")
_DNA = "dynamic_network_architectures.architectures.unet."
_CHANNELS = {"plain": 2, "residual": 1}


def dataset(kind: str) -> dict[str, Any]:
    """`dataset.json`: overlapping regions of two contrasts, or two labels of one."""
    if kind == "plain":
        labels: dict[str, Any] = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "kernel": 3}
        return {
            "channel_names": {"0": "FLAIR", "1": "CT"},
            "labels": labels,
            "regions_class_order": [1, 2, 3],
            "numTraining": 4,
            "file_ending": ".nii.gz",
        }
    labels = {"background": 0, "kernel": 2, "shell": 1}
    return {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 4, "file_ending": ".nii.gz"}


def plans(kind: str) -> dict[str, Any]:
    """`plans.json`: strides and kernels that differ between axes, and a coarse axis; or cubes."""
    plain = kind == "plain"
    resampling = {"is_seg": False, "order_z": 0, "force_separate_z": None}
    architecture = {
        "n_stages": 3,
        "features_per_stage": [4, 8, 8],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]] if plain else [[3, 3, 3]] * 3,
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]] if plain else [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        "n_conv_per_stage" if plain else "n_blocks_per_stage": [2, 1, 2],
        "n_conv_per_stage_decoder": [2, 1] if plain else [1, 1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-3 if plain else 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [4, 16, 16] if plain else [12, 16, 12],
        "median_image_size_in_voxels": [9.0, 18.0, 20.0],
        "spacing": [4.0, 1.2, 0.9] if plain else [1.5, 1.0, 1.1],
        "normalization_schemes": ["ZScoreNormalization", "CTNormalization"][: _CHANNELS[kind]],
        "use_mask_for_norm": [plain, False][: _CHANNELS[kind]],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {**resampling, "order": 3},
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
        "batch_dice": False,
        "architecture": {
            "network_class_name": f"{_DNA}{'PlainConvUNet' if plain else 'ResidualEncoderUNet'}",
            "arch_kwargs": architecture,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    of_ct = {"mean": 110.0, "std": 35.0, "percentile_00_5": 30.0, "percentile_99_5": 180.0, "median": 1.0}
    return {
        "dataset_name": "Dataset099_Boxes",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "NibabelIOWithReorient" if plain else "SimpleITKIO",
        "transpose_forward": [0, 2, 1] if plain else [0, 1, 2],
        "transpose_backward": [0, 2, 1] if plain else [0, 1, 2],
        "label_manager": "LabelManager",
        "experiment_planner_used": "ExperimentPlanner",
        "configurations": {"3d_fullres": configuration, "3d_fullres_bs4": {"inherits_from": "3d_fullres"}},
        "foreground_intensity_properties_per_channel": {str(i): of_ct for i in range(_CHANNELS[kind])},
    }


def older(new: dict[str, Any]) -> dict[str, Any]:
    """Plans as nnU-Net wrote them before they named the network's keywords."""
    configuration = dict(new["configurations"]["3d_fullres"])
    keywords = configuration.pop("architecture")["arch_kwargs"]
    blocks = "n_conv_per_stage" if "n_conv_per_stage" in keywords else "n_blocks_per_stage"
    configuration |= {
        "UNet_class_name": "PlainConvUNet" if blocks == "n_conv_per_stage" else "ResidualEncoderUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 8,
        "n_conv_per_stage_encoder": keywords[blocks],
        "n_conv_per_stage_decoder": keywords["n_conv_per_stage_decoder"],
        "num_pool_per_axis": [1, 2, 2],
        "pool_op_kernel_sizes": keywords["strides"],
        "conv_kernel_sizes": keywords["kernel_sizes"],
    }
    return {**new, "configurations": {"3d_fullres": configuration}}


def _values(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Weights by a formula, about as large as those of a training."""
    phase = zlib.crc32(name.encode()) % 1000
    wave = torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 1.7 + phase).reshape(shape)
    if "seg_layers" in name and len(shape) > 1:  # so that no class is the largest everywhere
        wave = 3 * (wave - wave.mean(1, keepdim=True))
    if len(shape) > 1:
        return (wave * math.sqrt(4 / math.prod(shape[1:]))).float()
    if "seg_layers" in name:
        return torch.zeros(shape)
    return (0.3 * wave + (1 if name.endswith("norm.weight") else 0)).float()


def state(kind: str, plan: dict[str, Any] | None = None) -> dict[str, torch.Tensor]:
    """Weights under nnU-Net's names, of which many stand for one tensor twice."""
    keywords = (plan or plans(kind))["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    width, kernel, stride = (keywords[key] for key in ("features_per_stage", "kernel_sizes", "strides"))
    outputs = 3
    found: dict[str, torch.Tensor] = {}

    def conv(name: str, before: int, after: int, sides: Any, *, bias: bool = True, norm: bool = True) -> None:
        for part, number in (("conv", 0), ("norm", 1)) if norm else (("", 0),):
            shapes = {"weight": (after,), "bias": (after,)}
            if part != "norm":
                shapes = {"weight": (after, before, *sides)} | ({"bias": (after,)} if bias else {})
            for what, shape in shapes.items():
                full = f"{name}.{part}.{what}" if part else f"{name}.{what}"
                found[full] = _values(full, shape)
                if part:
                    found[f"{name}.all_modules.{number}.{what}"] = found[full]

    before = _CHANNELS[kind]
    if kind == "residual":
        conv("encoder.stem.convs.0", before, width[0], kernel[0])
        before = width[0]
    for stage, after in enumerate(width):
        for i in range(keywords["n_conv_per_stage" if kind == "plain" else "n_blocks_per_stage"][stage]):
            if kind == "plain":
                conv(f"encoder.stages.{stage}.0.convs.{i}", before, after, kernel[stage])
            else:
                block = f"encoder.stages.{stage}.blocks.{i}"
                conv(f"{block}.conv1", before, after, kernel[stage])
                conv(f"{block}.conv2", after, after, kernel[stage])
                if before != after:
                    place = int(i == 0 and stride[stage] != [1, 1, 1])
                    conv(f"{block}.skip.{place}", before, after, (1, 1, 1), bias=False)
            before = after
    found |= {f"decoder.{name}": value for name, value in found.items()}
    for stage in range(len(width) - 1):
        below, after = width[-(stage + 1)], width[-(stage + 2)]
        for i in range(keywords["n_conv_per_stage_decoder"][stage]):
            conv(f"decoder.stages.{stage}.convs.{i}", after if i else 2 * after, after, kernel[-(stage + 2)])
        for what, shape in {"weight": (below, after, *stride[-(stage + 1)]), "bias": (after,)}.items():
            found[f"decoder.transpconvs.{stage}.{what}"] = _values(f"decoder.transpconvs.{stage}.{what}", shape)
        conv(f"decoder.seg_layers.{stage}", after, outputs, (1, 1, 1), norm=False)
    return found


def checkpoint(kind: str, **changes: Any) -> dict[str, Any]:
    """What `nnUNetTrainer.save_checkpoint` puts into its file."""
    return {
        "network_weights": state(kind),
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.7)], "ema_fg_dice": [np.float32(0.6)], "ok": [np.bool_(True)]},
        "_best_ema": np.float64(0.8),
        "current_epoch": 1000,
        "init_args": {
            "plans": plans(kind),
            "configuration": "3d_fullres",
            "fold": 0,
            "dataset_json": dataset(kind),
            "device": torch.device("cpu"),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
        **changes,
    }


def model(folder: Path, kind: str = "plain", name: str = "checkpoint_final.pth", **changes: Any) -> Path:
    """A model's folder with one fold; `changes` are of its checkpoint."""
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans(kind)))
    (folder / "dataset.json").write_text(json.dumps(dataset(kind)))
    torch.save(checkpoint(kind, **changes), folder / "fold_0" / name)
    return folder


def case(folder: Path, kind: str = "plain") -> list[Path]:
    """An image on tilted axes, with nothing at its rim, one file a channel."""
    affine = np.array([[0.05, -1.1, 0.0, 10], [0.9, 0.05, 0.3, -30], [0.0, 0.1, 4.6, 12], [0, 0, 0, 1.0]])
    if kind == "residual":
        affine = np.diag([1.0, 1.3, 1.4, 1.0])
    sides = (22, 27, 8) if kind == "plain" else (18, 20, 17)
    x, y, z = np.meshgrid(*(np.arange(side) for side in sides), indexing="ij")
    files = []
    folder.mkdir(parents=True, exist_ok=True)
    for channel in range(_CHANNELS[kind]):
        voxels = 100 + 45 * np.sin(0.5 * x + channel) * np.cos(0.4 * y) + 20 * np.sin(0.9 * z + 0.2 * x)
        voxels = np.round(voxels).astype(np.int16)
        voxels[:2], voxels[:, -3:], voxels[9:11, 9:11, 3] = 0, 0, 0
        files.append(folder / f"case_{channel:04d}.nii.gz")
        image = nib.Nifti1Image(voxels, affine)
        image.set_qform(affine, 1)  # which SimpleITK reads
        image.set_sform(affine, 1)
        nib.save(image, files[-1])
    return files


def patch(kind: str) -> torch.Tensor:
    """(1, C, D, H, W) of the patch's size."""
    shape = (1, _CHANNELS[kind], *plans(kind)["configurations"]["3d_fullres"]["patch_size"])
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 0.37).reshape(shape).float()


def packed(label: Any) -> str:
    """A label map as text."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(label, np.uint8).tobytes(), 9)).decode()


def unpacked(text: str, sides: tuple[int, ...]) -> Any:
    """The reverse of `packed`."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(sides)


def predictor(folder: Path, *, mirror: bool) -> Any:
    """nnU-Net's own predictor of a model."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    found = nnUNetPredictor(use_mirroring=mirror, device=torch.device("cpu"), allow_tqdm=False)
    found.initialize_from_trained_model_folder(str(folder), ("0",), "checkpoint_final.pth")
    found.network.load_state_dict(found.list_of_parameters[0])
    found.network.eval()
    return found


def by_nnunet(folder: Path, files: list[Path], *, mirror: bool) -> dict[str, Any]:
    """What nnU-Net makes of a case: the prepared image, its logits, and the label map in the voxels of the file."""
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape

    own = predictor(folder, mirror=mirror)
    preprocessor = own.configuration_manager.preprocessor_class(verbose=False)
    managers = (own.plans_manager, own.configuration_manager)
    image, _, properties = preprocessor.run_case([str(file) for file in files], None, *managers, own.dataset_json)
    logits = own.predict_logits_from_preprocessed_data(torch.from_numpy(image))
    label = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, *managers, own.label_manager, properties, num_threads_torch=1
    )
    out = files[0].parent.with_suffix(".nnunet.nii.gz")
    own.plans_manager.image_reader_writer_class().write_seg(label, str(out), properties)
    return {"image": image, "logits": logits.float(), "label": np.asarray(nib.load(out).dataobj).astype(np.uint8)}


def _write_reference(folder: Path) -> None:
    import importlib.metadata

    packages = ("nnunetv2", "dynamic-network-architectures", "torch", "scikit-image")
    written: dict[str, Any] = {"versions": {name: importlib.metadata.version(name) for name in packages}}
    for kind in MODELS:
        source, files = model(folder / kind, kind), case(folder / f"{kind}-case", kind)
        with torch.no_grad():
            logits = predictor(source, mirror=False).network(patch(kind))[0]
        own = by_nnunet(source, files, mirror=True)
        written[kind] = {
            "patch_logits": [round(float(v), 5) for v in logits.flatten()[::97]],
            "image_sides": list(own["image"].shape),
            "image": [round(float(v), 5) for v in own["image"].flatten()[::211]],
            "label": packed(own["label"]),
        }
    REFERENCE.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        _write_reference(Path(temporary))
