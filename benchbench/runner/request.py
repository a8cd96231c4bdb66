"""Request of a run: what `bench run` is asked for, each field a flag of the command."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from benchbench.core.arguments import dtypes, flag, fold, memory, names, positives, seconds
from benchbench.data.plan import ALL


def _fold_or_all(text: str) -> int:
    return ALL if text == "all" else fold(text)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What `bench run` was asked for; each field is a flag of the command."""

    models: str = flag("--models", "all")
    in_channels: int | None = flag("--in-channels")
    out_channels: int | None = flag("--out-channels")
    trust: bool = flag("--trust", False)
    devices: tuple[str, ...] = flag(
        "--device",
        ("cpu",),
        type=names,
        choices=None,
        metavar="D[,D]",
        help="devices to measure on, or to predict for: cpu | cuda | jetson | a host of 'bench devices' | "
        "jetson:agx-orin-64gb | a profile's name or file (default: cpu)",
    )
    spatial: tuple[int, ...] | None = flag(
        "--spatial", help="input size in voxels (default: the data set's patch, or the card's size)"
    )
    batch: tuple[int, ...] = flag(
        "--batch-size", (1,), type=positives, metavar="N[,N]", help="patches per forward (default: 1)"
    )
    dtype: tuple[str, ...] = flag(
        "--dtype",
        ("fp32",),
        type=dtypes,
        choices=None,
        metavar="T[,T]",
        help="precision: fp32, or autocast to bf16 or fp16 (default: fp32)",
    )
    threads: tuple[int | None, ...] = flag(
        "--threads", (None,), type=positives, metavar="N[,N]", help="CPU threads (default: all usable cores)"
    )
    protocol: str = flag("--protocol", "quick")
    phase: str = flag(
        "--phase",
        "infer",
        choices=("infer", "train"),
        help="what is timed: a forward, or a whole training step with its memory (default: infer)",
    )
    volume: tuple[int, ...] | None = flag(
        "--volume",
        help="also measure a whole patient of this many voxels, by sliding windows of the network's patch (default: "
        "the median one of a data set's folder)",
    )
    overlap: float = flag("--overlap", 0.5)
    crop_foreground: bool = flag(
        "--crop-foreground",
        False,
        action="store_true",
        help="place windows over the patient's bounding box alone, on a phantom case (of --volume, or its own size)",
    )
    memory_limit_bytes: int | None = flag(
        "--memory-limit",
        type=memory,
        metavar="SIZE",
        help="memory that each network's process may take, such as 2GB; enforced",
    )
    data: str | None = flag(
        "--data",
        help="data set for Dice, or its folder; 'none' for no Dice (default: phantom, where the network fits it)",
    )
    fold: int | None = flag(
        "--fold",
        type=_fold_or_all,
        metavar="N|all",
        help="which of the five folds of a folder the Dice is reported on; 'all': on every case, of a folder that no "
        "network has seen (default: 0)",
    )
    empty_rule: str | None = flag(
        "--empty-rule",
        choices=("brats", "exclude"),
        help="Dice of a region that both label and answer lack: 1, or left out (default: brats for the regions of "
        "BraTS)",
    )
    checkpoints: tuple[Path, ...] = flag(
        "--checkpoints",
        (),
        default=[Path("results/local")],
        type=Path,
        nargs="+",
        metavar="DIR",
        help="folders with trained weights, beside those that come with benchbench (default: results/local)",
    )
    checkpoint: Path | None = flag("--checkpoint", help="weights (.safetensors) of the one network in --models")
    require_measured: bool = flag(
        "--require-measured", False, action="store_true", help="exit with code 3 rather than predict"
    )
    time_limit_s: float = flag(
        "--time-limit",
        1200.0,
        type=seconds,
        metavar="TIME",
        help="longest time for one network, such as 20min (default: 20min)",
    )
    set_clocks: bool = flag(
        "--set-clocks",
        False,
        action="store_true",
        help="on a Jetson: run at jetson_clocks, and restore the clocks afterwards",
    )
    noise: bool = flag(
        "--no-noise",
        True,
        action="store_false",
        help="do not measure one network twice for the run's noise floor, nor the machine's peak for the roofline",
    )
