"""Transforms of a MONAI bundle: what they do to an image, how windows lie, and how logits become labels.

Keywords that decide on the result are read; those that do not, such as where a file is saved, are passed over by name;
any other is refused.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from benchbench.core import records as rec
from benchbench.core.errors import CheckpointError, told
from benchbench.data.monai_preparation import BACKGROUND, SELECTIONS, SPATIAL, STEPS, check_step
from benchbench.data.plan import MonaiStep, MonaiWindows
from benchbench.data.source import whole
from benchbench.zoo.bundle_config import BundleConfig, refuse_code

_PLACE = re.compile(r"(monai\.transforms\.([\w.]+\.)?)?(?P<name>\w+)", re.ASCII)
_ENDINGS = ("Dict", "D")  # other names of `LoadImaged`: `LoadImageDict`, `LoadImageD`
#: Reading of files, which is done as for every case: transform -> its keywords.
_READING: Mapping[str, tuple[str, ...]] = {
    "LoadImaged": (
        *(
            "reader",
            "image_only",
            "ensure_channel_first",
            "simple_keys",
            "meta_keys",
            "meta_key_postfix",
            "overwriting",
        ),
        *("dtype", "prune_meta_pattern", "prune_meta_sep", "expanduser"),
    ),
    "EnsureChannelFirstd": ("strict_check", "channel_dim"),
    "EnsureTyped": ("data_type", "dtype", "device", "wrap_sequence", "track_meta"),
}
_READERS = (None, "NibabelReader", "ITKReader", "nibabelreader", "itkreader", "monai.data.NibabelReader")
#: Keywords that have no effect on an image.
_NEUTRAL = ("_desc_", "_requires_", "_mode_", "_disabled_", "_target_", "keys", "allow_missing_keys", "meta_keys")
_NEUTRAL_OF: Mapping[str, tuple[str, ...]] = {
    "Orientationd": ("labels", "lazy"),
    "Spacingd": ("ensure_same_shape", "lazy", "meta_key_postfix"),
    "CropForegroundd": ("source_key", "start_coord_key", "end_coord_key", "channel_indices", "lazy"),
    "Lambdad": ("track_meta", "overwrite"),
}
_SINGLE = re.compile(r"\$?(torch\.|np\.|numpy\.)?(?P<name>float32|float64)", re.ASCII)
#: Regions painted over each other, as `$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, 0))`.
_PAINTED = re.compile(r"\$lambda x: (?P<parts>(torch\.where\(x\[\[\d+\]\] > 0, \d+, )+)0(?P<ends>\)+)", re.ASCII)
_PART = re.compile(r"x\[\[(\d+)\]\] > 0, (\d+)", re.ASCII)

Inverted = Literal["logits", "activated", "labels"]


def windows_of(config: BundleConfig) -> tuple[tuple[int, int, int], MonaiWindows]:
    """The windows of a bundle's inferer: their sides (voxels), and how they lie.

    Raises:
        CheckpointError: it has no sliding windows, or they are not known here.
    """
    table, key = _table(config, "inferer")
    name = str(table.get("_target_")).rpartition(".")[2]
    if name not in ("SlidingWindowInferer", "SlidingWindowInfererAdapt"):
        raise CheckpointError(
            f"{config.where}: its {key} is {told(table.get('_target_'))}, and only SlidingWindowInferer is known here"
        )
    neutral = ("sw_batch_size", "sw_device", "device", "progress", "cache_roi_weight_map", "cpu_thresh")
    known = ("roi_size", "overlap", "mode", "sigma_scale", "padding_mode", "cval")
    given: dict[str, Any] = {}
    for word in table:
        if word in known:
            given[word] = config.value(f"{key}::{word}")
        elif word not in neutral and word not in _NEUTRAL and word not in ("buffer_steps", "buffer_dim"):
            raise CheckpointError(f"{config.where}: {key} has {word!r}, which is not known here")
    patch = _sides(given.pop("roi_size", None))
    if patch is None:
        raise CheckpointError(
            f"{config.where}: {key}::roi_size must be the sides of a patch, each above 0: give them with "
            f"--set {key}::roi_size=[96,96,96]"
        )
    for word in ("overlap", "sigma_scale"):
        if isinstance(given.get(word), list):
            if len(set(given[word])) != 1:
                raise CheckpointError(f"{config.where}: {key}::{word} differs between axes, which is not known here")
            given[word] = given[word][0]
    try:
        windows = rec.from_json(MonaiWindows, given, key)
        if not windows.overlap < 1:
            raise ValueError(f"{key}.overlap must be below 1, not {windows.overlap}")
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{config.where}: {error}") from error
    return patch, windows


def steps_of(config: BundleConfig) -> tuple[str, list[MonaiStep]]:
    """The key of the image, and what is done to it, in order.

    Raises:
        CheckpointError: a transform or keyword is not known here.
    """
    image: str | None = None
    steps: list[MonaiStep] = []
    for name, table, key in _transforms(config, "preprocessing"):
        keys = _keys(config, table, key)
        if name == "LoadImaged" and image is None:
            image = keys[0]
        if image is not None and image not in keys:
            continue  # of a label alone
        index = keys.index(image) if image is not None else 0
        if name in _READING:
            _check_reading(config, name, table, key, index, len(keys))
            continue
        if name not in STEPS:
            raise _unknown(config, name, key, (*_READING, *STEPS))
        steps.append(_step(config, name, table, key, index, len(keys)))
    return image or "image", steps


def _step(config: BundleConfig, name: str, table: Mapping[str, Any], key: str, index: int, count: int) -> MonaiStep:
    options: dict[str, Any] = {}
    for word in table:
        at = f"{key}::{word}"
        if word in _NEUTRAL or word in _NEUTRAL_OF.get(name, ()):
            _check_neutral(config, name, table, word, at)
            continue
        if word in ("select_fn", "func"):
            options[word] = _function(config, table[word], at, word)
            continue
        if word == "dtype":
            found = _SINGLE.fullmatch(str(table[word]))
            if not found:
                raise CheckpointError(f"{config.where}: {at} = {told(table[word])} is not known here")
            if name == "Spacingd":
                options[word] = found["name"]
            continue
        if word not in STEPS[name]:
            raise CheckpointError(f"{config.where}: {key} ({name}) has {word!r}, which is not known here")
        value = config.value(at)
        if name in SPATIAL and word in ("mode", "padding_mode", "align_corners", "scale_extent"):
            value = _of_key(value, index, count)
        options[word] = value.lower() if word in ("mode", "padding_mode") and isinstance(value, str) else value
    step = MonaiStep(name=name, options=options)
    try:
        check_step(step)
    except ValueError as error:
        raise CheckpointError(f"{config.where}: {key}: {error}") from error
    return step


def _check_neutral(config: BundleConfig, name: str, table: Mapping[str, Any], word: str, at: str) -> None:
    """Refuse values by which a keyword that is usually passed over would have an effect."""
    value = table[word]
    usual: dict[str, tuple[Any, ...]] = {
        "lazy": (False, None),
        "channel_indices": (None,),
        "labels": (None, [["L", "R"], ["P", "A"], ["I", "S"]]),
        "_mode_": ("default",),
    }
    if word in usual and value not in usual[word]:
        raise CheckpointError(f"{config.where}: {at} = {told(value)} is not known here")
    if word == "source_key" and config.value(at) not in _keys(config, table, at.rpartition("::")[0]):
        raise CheckpointError(f"{config.where}: {at} = {told(value)} is another image than the one that is cropped")


def _function(config: BundleConfig, value: Any, at: str, word: str) -> str:
    """The name of a function that is known by its text."""
    text = " ".join(value.split()) if isinstance(value, str) else ""
    if word == "func" and text == BACKGROUND:
        return BACKGROUND
    known = {" ".join(code.split()): name for name, code in SELECTIONS.items()}
    if word == "select_fn" and text in known:
        return known[text]
    raise CheckpointError(
        f"{config.where}: {at} = {told(value)} is code, which is not run; known are {', '.join(SELECTIONS.values())}"
        if word == "select_fn"
        else f"{config.where}: {at} = {told(value)} is code, which is not run"
    )


def _check_reading(config: BundleConfig, name: str, table: Mapping[str, Any], key: str, index: int, count: int) -> None:
    for word, value in table.items():
        if word not in (*_READING[name], *_NEUTRAL):
            raise CheckpointError(f"{config.where}: {key} ({name}) has {word!r}, which is not known here")
        if word == "reader" and value not in _READERS:
            raise CheckpointError(f"{config.where}: {key}::reader = {told(value)} is not known here")
        of_image = _of_key(value, index, count)
        if word == "dtype" and of_image is not None and not _SINGLE.fullmatch(str(of_image)):
            raise CheckpointError(f"{config.where}: {key}::dtype = {told(value)} is not known here")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How logits become labels in the voxels of the file."""

    activation: Literal["none", "softmax", "sigmoid"]
    decided: Literal["argmax", "threshold"]
    threshold: float
    inverted: Inverted
    nearest: bool
    values: Mapping[int, int] | None  # channel -> label in the file, in the order of painting; None: as they come


def decision_of(config: BundleConfig, image: str, steps: Sequence[MonaiStep]) -> Decision:
    """What a bundle does to logits.

    Args:
        image: key of the image, and `steps` that were done to it.

    Raises:
        CheckpointError: a transform is not known here, or there is no decision on labels in the voxels of the file.
    """
    activation: Literal["none", "softmax", "sigmoid"] = "none"
    decided: Literal["argmax", "threshold"] | None = None
    threshold, values = 0.5, None
    inverted: Inverted | None = None
    nearest = True
    for name, table, key in _transforms(config, "postprocessing"):
        keys = _keys(config, table, key)
        if "pred" not in keys:
            continue
        index = keys.index("pred")

        def option(
            word: str, default: Any, table: Any = table, key: str = key, at: int = index, n: int = len(keys)
        ) -> Any:
            return _of_key(config.value(f"{key}::{word}"), at, n) if word in table else default

        if name == "Activationsd":
            _check_words(config, table, key, name, ("sigmoid", "softmax"))
            chosen = [word for word in ("sigmoid", "softmax") if option(word, False)]
            if decided or activation != "none" or len(chosen) > 1:
                raise CheckpointError(f"{config.where}: {key} ({name}) comes a second time, or after the decision")
            activation = "softmax" if chosen == ["softmax"] else "sigmoid" if chosen else "none"
        elif name == "AsDiscreted":
            _check_words(config, table, key, name, ("argmax", "threshold", "to_onehot", "rounding"))
            argmax, limit = bool(option("argmax", False)), option("threshold", None)
            if decided or option("to_onehot", None) or option("rounding", None) or argmax == (limit is not None):
                raise CheckpointError(
                    f"{config.where}: {key} (AsDiscreted) must be one decision on labels, by argmax or by threshold"
                )
            decided = "argmax" if argmax else "threshold"
            if limit is not None:
                if isinstance(limit, bool) or not isinstance(limit, (int, float)):
                    raise CheckpointError(f"{config.where}: {key}::threshold must be a number, not {told(limit)}")
                threshold = float(limit)
        elif name == "Invertd":
            _check_words(
                config,
                *(table, key, name),
                (
                    "transform",
                    "orig_keys",
                    "nearest_interp",
                    "to_tensor",
                    "device",
                    "orig_meta_keys",
                    "meta_key_postfix",
                ),
            )
            if inverted or values is not None:
                raise CheckpointError(
                    f"{config.where}: {key} (Invertd) comes a second time, or after labels were named"
                )
            if str(option("orig_keys", image)) != image:
                raise CheckpointError(f"{config.where}: {key}::orig_keys must be {image!r}, the image that is read")
            inverted = "labels" if decided else "activated" if activation != "none" else "logits"
            nearest = bool(option("nearest_interp", True))
        elif name in ("Lambdad", "MapLabelValued"):
            if not decided or values is not None:
                raise CheckpointError(f"{config.where}: {key} ({name}) before a decision on labels is not known here")
            values = (
                _painted(config, table, key, decided) if name == "Lambdad" else _mapped(config, table, key, decided)
            )
        elif name not in ("SaveImaged", "EnsureTyped"):
            raise _unknown(
                config, name, key, ("Activationsd", "Invertd", "AsDiscreted", "MapLabelValued", "SaveImaged")
            )
    if decided is None:
        raise CheckpointError(f"{config.where}: its postprocessing has no AsDiscreted, which decides on labels")
    moved = [step.name for step in steps if step.name in SPATIAL]
    if inverted is None and moved not in ([], ["Orientationd"]):
        raise CheckpointError(
            f"{config.where}: its postprocessing does not undo {', '.join(moved)} (Invertd), so predictions do not lie "
            "over their images"
        )
    if inverted == "labels" and not nearest and "Spacingd" in moved:
        raise CheckpointError(
            f"{config.where}: its label maps are interpolated between labels, by Invertd after AsDiscreted: take the "
            f"nearest voxel with --set '{_place_of(config, 'Invertd')}::nearest_interp=true'"
        )
    return Decision(
        activation=activation,
        decided=decided,
        threshold=threshold,
        inverted=inverted or "logits",
        nearest=nearest,
        values=values,
    )


def _painted(config: BundleConfig, table: Mapping[str, Any], key: str, decided: str) -> dict[int, int]:
    """Channel -> label of regions that are painted over each other, the lowest first."""
    text = table.get("func")
    found = _PAINTED.fullmatch(" ".join(text.split())) if isinstance(text, str) else None
    if found is None or decided != "threshold" or len(found["ends"]) != found["parts"].count("("):
        raise CheckpointError(
            f"{config.where}: {key} (Lambdad) is code, which is not run: {told(text)}; leave it out with "
            f"--set '{key}::_disabled_=true', if labels may be as the network gives them"
        )
    highest_first = [(int(channel), int(label)) for channel, label in _PART.findall(found["parts"])]
    return dict(reversed(highest_first))


def _mapped(config: BundleConfig, table: Mapping[str, Any], key: str, decided: str) -> dict[int, int]:
    """Label that the network gives -> the one in the file."""
    _check_words(config, table, key, "MapLabelValued", ("orig_labels", "target_labels", "dtype"))
    given = [config.value(f"{key}::{word}") for word in ("orig_labels", "target_labels")]
    try:
        if decided != "argmax" or any(not isinstance(values, list) for values in given):
            raise ValueError("lists of labels are needed, after argmax")
        before, after = ([whole(value) for value in values] for values in given)
        return {old: new for old, new in zip(before, after, strict=True) if old != 0}
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{config.where}: {key} (MapLabelValued) cannot be read: {error}") from error


def _table(config: BundleConfig, key: str) -> tuple[Mapping[str, Any], str]:
    """A table of the configuration, and its key once references are followed."""
    value, key = config.followed(key)
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{config.where}: {key} must be a table, not {told(value)}")
    return value, key


def _transforms(config: BundleConfig, place: str) -> list[tuple[str, Mapping[str, Any], str]]:
    """Name, table and key of each transform of a Compose, those of further ones in it in their place."""
    table, key = _table(config, place)
    name = str(table.get("_target_")).rpartition(".")[2]
    if name != "Compose":
        return [(_name_of(config, table, key), table, key)]
    _check_words(config, table, key, "Compose", ("transforms", "map_items", "log_stats", "unpack_items"))
    listed, at = config.followed(f"{key}::transforms")
    if not isinstance(listed, list):
        raise config.unresolved(at, listed, "is no list of transforms")
    transforms: list[tuple[str, Mapping[str, Any], str]] = []
    for i, each in enumerate(listed):
        inner = f"{at}::{i}"
        if isinstance(each, Mapping) and str(each.get("_disabled_", False)).strip().lower() == "true":
            continue
        if inner.count("::") > 40:
            raise CheckpointError(f"{config.where}: {place} is nested too deeply")
        transforms += _transforms(config, inner)
    return transforms


def _name_of(config: BundleConfig, table: Mapping[str, Any], key: str) -> str:
    """What a transform is called, of the names that MONAI has for it the one that ends in d."""
    target = table.get("_target_")
    found = _PLACE.fullmatch(target) if isinstance(target, str) else None
    if found is None:
        refuse_code(str(target), "transform", f"{key}::_target_", config)
        raise CheckpointError(f"{config.where}: {key} has the _target_ {told(target)}, which is no transform of MONAI")
    name = found["name"]
    for ending in _ENDINGS:
        if name.endswith(ending):
            return f"{name.removesuffix(ending)}d"
    return name


def _keys(config: BundleConfig, table: Mapping[str, Any], key: str) -> list[str]:
    value = config.value(f"{key}::keys") if "keys" in table else []
    keys = [value] if isinstance(value, str) else value
    if not isinstance(keys, list) or not keys or not all(isinstance(each, str) for each in keys):
        raise CheckpointError(f"{config.where}: {key}::keys must name what is transformed, not {told(value)}")
    return keys


def _of_key(value: Any, index: int, count: int) -> Any:
    """What a keyword is for one of the keys, where it may be a list of one each."""
    return value[index] if isinstance(value, list) and len(value) == count else value


def _check_words(config: BundleConfig, table: Mapping[str, Any], key: str, name: str, known: Sequence[str]) -> None:
    for word in table:
        if word not in known and word not in _NEUTRAL:
            raise CheckpointError(f"{config.where}: {key} ({name}) has {word!r}, which is not known here")


def _place_of(config: BundleConfig, name: str) -> str:
    return next(key for each, _, key in _transforms(config, "postprocessing") if each == name)


def _unknown(config: BundleConfig, name: str, key: str, known: Sequence[str]) -> CheckpointError:
    return CheckpointError(
        f"{config.where}: {key} is the transform {name!r}, which is not known here; known are {', '.join(known)}; if "
        f"it may be left out: --set '{key}::_disabled_=true'"
    )


def _sides(value: Any) -> tuple[int, int, int] | None:
    """Three sides from a number or a list of three; None: they are none, or one is not above 0."""
    each = value if isinstance(value, list) else [value] * 3
    try:
        sides = [whole(side) for side in each]
    except (TypeError, ValueError):
        return None
    return (sides[0], sides[1], sides[2]) if len(sides) == 3 and min(sides) > 0 else None
