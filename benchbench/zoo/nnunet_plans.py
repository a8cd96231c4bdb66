"""Plans of nnU-Net v2, read as data: the network, the preparation of images and the labels that they stand for.

Classes are told by their names, which are compared with those that are known here; none is imported. Whatever cannot be
expressed exactly is refused by name, since a network that sees other images than it was trained on is another network.

Source: nnunetv2 2.8.1, `utilities/plans_handling/plans_handler.py` and `utilities/label_handling/label_handling.py`;
dynamic-network-architectures 0.4.4 for the names of weights.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbench.core import records as rec
from benchbench.core.errors import CheckpointError, told, unknown
from benchbench.data.nnunet import described_regions
from benchbench.data.plan import ChannelScheme, DataPlan, NnunetPreparation, Preparation, Resampling
from benchbench.data.source import by_number, whole

if TYPE_CHECKING:
    from torch import Tensor

ARCH = "benchbench.models.nnunet_planned:NNUNetPlanned"

_PLACE = "dynamic_network_architectures.architectures."
#: Name of a network's class -> whether its encoder is residual.
_NETWORKS = {
    f"{_PLACE}unet.PlainConvUNet": False,
    f"{_PLACE}unet.ResidualEncoderUNet": True,
    f"{_PLACE}residual_unet.ResidualEncoderUNet": True,
}
_NORMS = {"InstanceNorm3d": "instance", "BatchNorm3d": "batch"}
_ACTIVATIONS = {"LeakyReLU": "leakyrelu", "ReLU": "relu"}
_SCHEMES = {
    "ZScoreNormalization": "z-score",
    "CTNormalization": "ct",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "to 0-1",
    "RGBTo01Normalization": "rgb to 0-1",
}
_READERS = {"SimpleITKIO": False, "NibabelIO": False, "NibabelIOWithReorient": True}  # whether it turns into RAS
_MOST = 100  # stages, and blocks of a stage: far beyond what nnU-Net plans
_LONGEST = 100  # letters of a data set's name
_SAME_SPACING = 5e-4  # relative difference up to which no image gets another side
_RESAMPLING = "resample_data_or_seg_to_shape"
#: Keywords of a network that are read, or have no effect on its answers.
_KEYWORDS = (
    *("n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "n_conv_per_stage", "n_blocks_per_stage"),
    *("n_conv_per_stage_decoder", "conv_bias", "norm_op", "norm_op_kwargs", "dropout_op", "dropout_op_kwargs"),
    *("nonlin", "nonlin_kwargs", "deep_supervision"),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plans:
    """The files of a model's folder."""

    where: Path  # of `plans.json`, for messages
    plans: Mapping[str, Any]
    dataset: Mapping[str, Any]  # `dataset.json`
    configuration: str  # such as `3d_fullres`
    fingerprint: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # `dataset_fingerprint.json`, if there

    def settings(self) -> Mapping[str, Any]:
        """The configuration, with what it inherits.

        Raises:
            CheckpointError: there is no such one, it inherits from itself, or is 2-D or of a cascade.
        """
        all_of_them = _table(self.plans, "configurations", self.where)
        name, chain = self.configuration, []
        while True:
            if name not in all_of_them:
                raise CheckpointError(f"{self.where}: {unknown('configuration', name, all_of_them)}")
            if name in chain:
                raise CheckpointError(f"{self.where}: the configuration {name!r} inherits from itself")
            chain.append(name)
            parent = _table(all_of_them, name, self.where).get("inherits_from")
            if parent is None:
                break
            name = str(parent)
        found: dict[str, Any] = {}
        for name in reversed(chain):
            found |= all_of_them[name]
        if found.get("previous_stage") is not None:
            raise CheckpointError(
                f"{self.where}: {self.configuration} is the second stage of a cascade, whose input has the labels of "
                "the first: import that one, or a 3d_fullres model"
            )
        if len(found.get("patch_size") or ()) == 2:
            raise CheckpointError(
                f"{self.where}: {self.configuration} is a 2-D configuration, and only networks of volumes are taken: "
                "import a 3d_fullres model"
            )
        return found


def _table(plain: Mapping[str, Any], key: str, where: Path) -> Mapping[str, Any]:
    value = plain.get(key)
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{where}: {key!r} must be a table, not {told(value)}")
    return value


def network_of(plans: Plans, name: str) -> tuple[rec.ModelSpec, list[str]]:
    """The network of a configuration, and notes on what of it is left out.

    Raises:
        CheckpointError: its class, or a class or keyword in it, is not one that is known here.
    """
    settings, where = plans.settings(), plans.where
    architecture = _architecture(settings, where)
    named = str(architecture.get("network_class_name"))
    if named not in _NETWORKS:
        raise CheckpointError(
            f"{where}: its network is of the class {named!r}, and known are PlainConvUNet and ResidualEncoderUNet of "
            "nnU-Net: measure another by its class, and take its weights in with --arch"
        )
    keywords = _table(architecture, "arch_kwargs", where)
    residual = _NETWORKS[named]
    _check_keywords(keywords, residual, where)
    notes = []
    if (dropout := keywords.get("dropout_op")) is not None:
        notes.append(f"its {dropout} is left out, which has no effect on predictions")
    try:
        count = whole(keywords["n_stages"])
        if not 2 <= count <= _MOST:
            raise ValueError(f"n_stages must be from 2 to {_MOST}, not {count}")
        blocks = keywords["n_blocks_per_stage" if residual else "n_conv_per_stage"]
        of_norm = dict(keywords.get("norm_op_kwargs") or {})
        of_activation = dict(keywords.get("nonlin_kwargs") or {})
        norm, activation = _class(keywords, "norm_op", _NORMS, where), _class(keywords, "nonlin", _ACTIVATIONS, where)
        _no_others(of_norm, ("eps", "affine", "momentum"), "norm_op_kwargs", where)
        _no_others(of_activation, ("inplace", "negative_slope"), "nonlin_kwargs", where)
        described: dict[str, Any] = {
            "filters": _numbers(keywords["features_per_stage"], count),
            "strides": [_axes(stride) for stride in _each(keywords["strides"], count)],
            "kernels": [_axes(kernel) for kernel in _each(keywords["kernel_sizes"], count)],
            "residual": residual,
            "blocks": _numbers(blocks, count, _MOST),
            "decoder_convs": _numbers(keywords["n_conv_per_stage_decoder"], count - 1, _MOST),
            "bias": bool(keywords.get("conv_bias", False)),
            "norm": norm or "none",
            "norm_eps": float(of_norm.get("eps", 1e-5)),
            "norm_affine": bool(of_norm.get("affine", norm == "batch")),
            "activation": activation,
            "slope": float(of_activation.get("negative_slope", 0.01)),
        }
        if activation is None:
            raise ValueError("it has no nonlin")
    except (KeyError, TypeError, ValueError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{where}: arch_kwargs cannot be read: {what}") from error
    labels = data_plan_of(plans)
    spec = rec.ModelSpec(
        name=name, arch=ARCH, kwargs=described, in_channels=labels.in_channels, out_channels=labels.out_channels
    )
    return spec, notes


def _architecture(settings: Mapping[str, Any], where: Path) -> Mapping[str, Any]:
    """The `architecture` of a configuration; of older plans, what they have in its place."""
    if "architecture" in settings:
        return _table(settings, "architecture", where)
    try:
        kind = str(settings["UNet_class_name"])
        convs = list(settings["n_conv_per_stage_encoder"])
        base, most = whole(settings["UNet_base_num_features"]), whole(settings["unet_max_num_features"])
        keywords = {
            "n_stages": len(convs),
            "features_per_stage": [min(base * 2**i, most) for i in range(len(convs))],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": settings["conv_kernel_sizes"],
            "strides": settings["pool_op_kernel_sizes"],
            "n_blocks_per_stage" if kind == "ResidualEncoderUNet" else "n_conv_per_stage": convs,
            "n_conv_per_stage_decoder": settings["n_conv_per_stage_decoder"],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        }
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{where}: its configuration names no network: {type(error).__name__} {error}") from error
    return {"network_class_name": f"{_PLACE}unet.{kind}", "arch_kwargs": keywords}


def _check_keywords(keywords: Mapping[str, Any], residual: bool, where: Path) -> None:
    """Refuse keywords that would make another network than the one that is built here."""
    neutral: dict[str, tuple[Any, ...]] = {
        "nonlin_first": (False,),
        "bottleneck_channels": (None,),
        "block": (None, "dynamic_network_architectures.building_blocks.residual.BasicBlockD"),
        "stem_channels": (None, (_each(keywords.get("features_per_stage", 0), 1) or [0])[0]),
        "pool": ("conv",),
        "pool_type": ("conv",),
        "squeeze_excitation": (False,),
    }
    for key, value in keywords.items():
        if key in neutral and value not in neutral[key]:
            raise CheckpointError(f"{where}: a network with {key} = {told(value)} is not known here")
        if key not in neutral and key not in _KEYWORDS:
            raise CheckpointError(f"{where}: arch_kwargs has {key!r}, which is not known here")
    conv = str(keywords.get("conv_op")).rpartition(".")[2]
    if conv != "Conv3d":
        raise CheckpointError(f"{where}: its convolutions are {told(keywords.get('conv_op'))}, and Conv3d is needed")
    dropout = keywords.get("dropout_op")
    if dropout is not None and not re.fullmatch(r"torch\.nn\.(modules\.dropout\.)?Dropout(3d)?", str(dropout)):
        raise CheckpointError(f"{where}: its dropout_op {told(dropout)} is not known here")


def _class(keywords: Mapping[str, Any], key: str, known: Mapping[str, str], where: Path) -> str | None:
    """What a class of PyTorch is called here; None: there is none."""
    value = keywords.get(key)
    if value is None:
        return None
    package, _, name = str(value).rpartition(".")
    if name not in known or not re.fullmatch(r"torch\.nn(\.modules\.\w+)?", package):
        raise CheckpointError(f"{where}: its {key} {told(value)} is not known here; known: {', '.join(known)}")
    return known[name]


def _no_others(keywords: Mapping[str, Any], known: Sequence[str], what: str, where: Path) -> None:
    for key in keywords:
        if key not in known:
            raise CheckpointError(f"{where}: {what} has {key!r}, which is not known here")


def _each(value: Any, count: int) -> list[Any]:
    """One entry for each stage."""
    return list(value) if isinstance(value, (list, tuple)) else [value] * count


def _numbers(value: Any, count: int, most: int | None = None) -> list[int]:
    """One whole number for each stage, refused above the most."""
    numbers = [whole(number) for number in _each(value, count)]
    if most is not None and max(numbers, default=0) > most:
        raise ValueError(f"a stage has {max(numbers)} blocks or convolutions, and at most {most} are taken")
    return numbers


def _axes(value: Any) -> int | list[int]:
    return [whole(side) for side in value] if isinstance(value, (list, tuple)) else whole(value)


def data_plan_of(plans: Plans) -> DataPlan:
    """What images, labels and patches of a configuration are.

    Raises:
        CheckpointError: they are prepared in a way that is not known here, or the files contradict each other.
    """
    settings, dataset, where = plans.settings(), plans.dataset, plans.where
    try:
        names = dataset["channel_names"] if "channel_names" in dataset else dataset["modality"]
        channels = tuple(str(name) for _, name in by_number(names))
        patch = tuple(whole(side) for side in settings["patch_size"])
        labels, regions = described_regions(dataset["labels"])
        exclusive = not any(isinstance(v, list) and len(v) > 1 for v in dataset["labels"].values())
        if exclusive:
            regions = dict(sorted(regions.items(), key=lambda item: item[1]))
            if [values[0] for values in regions.values()] != list(range(1, len(regions) + 1)):
                raise ValueError(f"its labels are not 0, 1, 2 and so on, but {dict(dataset['labels'])}")
        paint = () if exclusive else tuple(whole(value) for value in dataset.get("regions_class_order") or ())
        if not exclusive and len(paint) != len(regions):
            raise ValueError(f"regions_class_order has {len(paint)} values for {len(regions)} regions")
        preparation = _preparation(settings, plans, len(channels))
        spacing = preparation.spacing_mm
        return DataPlan(
            name=re.sub(r"[^\w.+=-]+", "-", str(plans.plans.get("dataset_name") or where.parent.name))[:_LONGEST],
            title=f"trained by nnU-Net, {plans.configuration}",
            channels=channels,
            regions=regions,
            labels=labels,
            patch=(patch[0], patch[1], patch[2]),
            spacing_mm=spacing,
            splits={},
            semi_synthetic=False,
            licence=str(dataset.get("licence") or dataset.get("license") or "not stated"),
            exclusive=exclusive,
            paint=paint,
            preparation=Preparation(spacing_mm=spacing, resample=True, foreground=False, clip=None, nnunet=preparation),
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, CheckpointError):
            raise
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{where} and its dataset.json cannot be read: {what}") from error


def _preparation(settings: Mapping[str, Any], plans: Plans, channels: int) -> NnunetPreparation:
    reader = str(plans.plans.get("image_reader_writer"))
    _known(reader, _READERS, "image_reader_writer", plans.where)
    _known(
        settings.get("preprocessor_name", "DefaultPreprocessor"), ("DefaultPreprocessor",), "preprocessor", plans.where
    )
    _known(plans.plans.get("label_manager", "LabelManager"), ("LabelManager",), "label_manager", plans.where)
    schemes, masks = list(settings["normalization_schemes"]), list(settings["use_mask_for_norm"])
    if len(schemes) != channels or len(masks) != channels:
        raise ValueError(f"{len(schemes)} normalization_schemes, {len(masks)} use_mask_for_norm, {channels} channels")
    x, y, z = (float(side) for side in settings["spacing"])
    d, h, w = (whole(axis) for axis in plans.plans["transpose_forward"])
    return NnunetPreparation(
        spacing_mm=(x, y, z),
        transpose=(d, h, w),
        reorient=_READERS[reader],
        channels=tuple(_scheme(i, str(schemes[i]), bool(masks[i]), plans) for i in range(channels)),
        images=_resampling(settings, "resampling_fn_data", plans.where),
        logits=_resampling(settings, "resampling_fn_probabilities", plans.where),
        within=_within(plans, (x, y, z), (d, h, w)),
    )


def _within(plans: Plans, spacing: Sequence[float], transpose: Sequence[int]) -> rec.Sides | None:
    """Sides that no case exceeds; None where one had another spacing, or nothing is known of that."""
    try:
        spacings, shapes = (
            [[float(case[axis]) for axis in transpose] for case in plans.fingerprint[key]]
            for key in ("spacings", "shapes_after_crop")
        )
        sides = [(side, wanted) for case in spacings for side, wanted in zip(case, spacing, strict=True)]
        same = all(abs(side / wanted - 1) <= _SAME_SPACING for side, wanted in sides)
        d, h, w = (max(1, round(max(of_axis))) for of_axis in zip(*shapes, strict=True))
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        return None
    return (d, h, w) if same and len(shapes) == len(spacings) else None


def _scheme(index: int, named: str, masked: bool, plans: Plans) -> ChannelScheme:
    _known(named, _SCHEMES, "normalization scheme", plans.where)
    name: Any = _SCHEMES[named]
    if name != "ct":
        return ChannelScheme(name=name, masked=masked and name == "z-score")
    properties = plans.plans.get("foreground_intensity_properties_per_channel")
    if properties is None:
        properties = plans.plans["foreground_intensity_properties_by_modality"]
    of_channel = properties[str(index)]
    low, high, mean, deviation = (
        float(of_channel[key]) for key in ("percentile_00_5", "percentile_99_5", "mean", "std")
    )
    return ChannelScheme(name=name, clip=(low, high, mean, deviation))


def _resampling(settings: Mapping[str, Any], key: str, where: Path) -> Resampling:
    _known(settings.get(key), (_RESAMPLING,), key, where)
    given = dict(settings.get(f"{key}_kwargs") or {})
    known = ("is_seg", "order", "order_z", "force_separate_z", "separate_z_anisotropy_threshold")
    _no_others(given, known, f"{key}_kwargs", where)
    if given.get("is_seg"):
        raise CheckpointError(f"{where}: {key} resamples as if it were a label map, which is not known here")
    separate = given.get("force_separate_z", False)
    return Resampling(
        order=whole(given.get("order", 3)),
        order_z=whole(given.get("order_z", 0)),
        separate_z=None if separate is None else bool(separate),
        anisotropy=float(given.get("separate_z_anisotropy_threshold", 3)),
    )


def _known(value: Any, known: Sequence[str] | Mapping[str, Any], what: str, where: Path) -> None:
    if value not in known:
        raise CheckpointError(f"{where}: the {what} {told(value)} is not known here; known: {', '.join(known)}")


_PREFIX = re.compile(r"(module\.|_orig_mod\.)+")
_TWICE = re.compile(r"decoder\.encoder\.|.*\.all_modules\.")  # names under which weights stand a second time


def renamed(state: Mapping[str, Tensor], spec: rec.ModelSpec) -> tuple[dict[str, Tensor], list[str]]:
    """nnU-Net's weights under the names of `NNUNetPlanned`, and notes on what is left out."""
    last = len(spec.kwargs["decoder_convs"]) - 1
    second = 2 if spec.kwargs["norm"] == "none" else 3  # place of a block's second convolution
    part = r"(?P<part>conv|norm)\.(?P<what>\w+)"
    rules: list[tuple[str, Any]] = [
        (rf"encoder\.stem\.convs\.0\.{part}", lambda m: f"stem.{_at(m)}.{m['what']}"),
        (rf"encoder\.stages\.(\d+)\.0\.convs\.(\d+)\.{part}", lambda m: f"encoder.{m[1]}.{m[2]}.{_at(m)}.{m['what']}"),
        (
            rf"encoder\.stages\.(\d+)\.blocks\.(\d+)\.conv([12])\.{part}",
            lambda m: f"encoder.{m[1]}.{m[2]}.layers.{_at(m) + (second if m[3] == '2' else 0)}.{m['what']}",
        ),
        (
            rf"encoder\.stages\.(\d+)\.blocks\.(\d+)\.skip\.([01])\.{part}",
            lambda m: f"encoder.{m[1]}.{m[2]}.residual.{int(m[3]) + _at(m)}.{m['what']}",
        ),
        (rf"decoder\.stages\.(\d+)\.convs\.(\d+)\.{part}", lambda m: f"decoder.{m[1]}.{m[2]}.{_at(m)}.{m['what']}"),
        (r"decoder\.transpconvs\.(\d+)\.(\w+)", lambda m: f"ups.{m[1]}.{m[2]}"),
        (rf"decoder\.seg_layers\.{last}\.(\w+)", lambda m: f"head.{m[1]}"),
    ]
    found: dict[str, Tensor] = {}
    heads = 0
    for full, value in state.items():
        name = _PREFIX.sub("", full, count=1) if _PREFIX.match(full) else full
        if _TWICE.match(name):
            continue
        if re.fullmatch(r"decoder\.seg_layers\.\d+\.\w+", name) and not name.startswith(f"decoder.seg_layers.{last}."):
            heads += name.endswith(".weight")
            continue
        match = next(((m, make) for rule, make in rules if (m := re.fullmatch(rule, name))), None)
        found[match[1](match[0]) if match else name] = value
    return found, [f"{heads} heads of deep supervision, which inference does not use, are left out"] if heads else []


def _at(match: re.Match[str]) -> int:
    """Place of a convolution, and of its norm behind it."""
    return int(match["part"] == "norm")
