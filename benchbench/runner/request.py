"""Request of a run: what `bench run` is asked for, each field a flag of the command."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from benchbench.core.arguments import dtypes, flag, fold, memory, names, positives, seconds, share
from benchbench.core.errors import UsageError, unknown
from benchbench.data.plan import ALL
from benchbench.runtimes.catalogue import EAGER, MEASURED
from benchbench.zoo.cards import USUAL


def _fold_or_all(text: str) -> int:
    return ALL if text == "all" else fold(text)


def _runtimes(text: str) -> tuple[str, ...]:
    """`eager,openvino`, each once; `all` of them."""
    chosen = tuple(MEASURED if text == "all" else dict.fromkeys(names(text)))
    for name in chosen:
        if name not in MEASURED:
            raise UsageError(unknown("runtime", name, MEASURED))
    return chosen


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What `bench run` was asked for; each field is a flag of the command."""

    models: str = flag(
        "--models",
        ",".join(USUAL),
        help="networks: 'all', or names, globs, card.toml, weights.safetensors, folders of 'bench import' and "
        f"pkg.module:Class, separated by commas (default: {','.join(USUAL)})",
    )
    in_channels: int | None = flag("--in-channels")
    out_channels: int | None = flag("--out-channels")
    trust: bool = flag("--trust", False)
    devices: tuple[str, ...] = flag(
        "--device",
        ("cpu",),
        type=names,
        choices=None,
        metavar="D[,D]",
        help="devices to measure on, or to predict for: cpu, cuda, jetson, a host of 'bench devices', "
        "jetson:agx-orin-64gb, or the name or file of a profile (default: cpu)",
    )
    spatial: tuple[int, ...] | None = flag(
        "--spatial", help="size of the input in voxels (default: the data set's patch, else the size in the card)"
    )
    batch: tuple[int, ...] = flag(
        "--batch-size", (1,), type=positives, metavar="N[,N]", help="patches per forward (default: 1)"
    )
    dtype: tuple[str, ...] = flag(
        "--dtype",
        ("fp32",),
        type=dtypes,
        metavar="T[,T]",
        help="precision: fp32; bf16 or fp16 (in PyTorch by autocast); int8, by post-training quantization on training "
        "cases of --data, of a runtime that has it (default: fp32)",
    )
    runtime: tuple[str, ...] = flag(
        "--runtime",
        (EAGER,),
        type=_runtimes,
        metavar="R[,R]",
        help=f"what runs the network: {', '.join(MEASURED)}, or all (default: {EAGER})",
    )
    int8_accuracy: float | None = flag(
        "--int8-accuracy",
        type=share,
        metavar="LOSS",
        help="leave layers in fp32 until int8 loses less than this mean Dice on the validation cases, such as 0.005 "
        "(openvino)",
    )
    threads: tuple[int | None, ...] = flag(
        "--threads", (None,), type=positives, metavar="N[,N]", help="CPU threads (default: all usable cores)"
    )
    protocol: str = flag("--protocol", "quick")
    phase: str = flag(
        "--phase",
        "infer",
        choices=("infer", "train"),
        help="what is timed: a forward (infer), or a whole training step with its memory (train) (default: infer)",
    )
    volume: tuple[int, ...] | None = flag(
        "--volume",
        help="also measure a whole patient volume of this many voxels, by sliding windows (default: the median volume, "
        "if --data is a folder)",
    )
    overlap: float = flag("--overlap", 0.5)
    crop_foreground: bool = flag(
        "--crop-foreground",
        False,
        help="place sliding windows over the patient's bounding box alone, for Dice as well; what is timed is the "
        "first test case of --data (default: of the phantom), of the size of --volume or of its own, whose background "
        "has to be 0",
    )
    test_time_mirroring: bool = flag("--test-time-mirroring", False)
    memory_limit_bytes: int | None = flag(
        "--memory-limit",
        type=memory,
        metavar="SIZE",
        help="memory that the process of each network may take at most, such as 2GB",
    )
    data: str | None = flag(
        "--data",
        help="data set for Dice, by its name or its folder, or 'none' (default: phantom, where the network fits it)",
    )
    fold: int | None = flag(
        "--fold",
        type=_fold_or_all,
        metavar="N|all",
        help="which of the five folds of a folder Dice is reported on; 'all': every case, of a folder that no network "
        "was trained on (default: 0)",
    )
    empty_rule: str | None = flag("--empty-rule")
    checkpoints: tuple[Path, ...] = flag(
        "--checkpoints",
        (),
        default=[Path("results/local")],
        type=Path,
        nargs="+",
        metavar="DIR",
        help="folders to look for trained weights in, besides those that come with benchbench (default: results/local)",
    )
    checkpoint: Path | None = flag("--checkpoint", help="weights (.safetensors) of the only network in --models")
    require_measured: bool = flag("--require-measured", False, help="exit with code 3 rather than predict")
    time_limit_s: float = flag(
        "--time-limit",
        1200.0,
        type=seconds,
        metavar="TIME",
        help="longest time for one network, such as 20min (default: 20min)",
    )
    set_clocks: bool = flag(
        "--set-clocks", False, help="on a Jetson: run at the clocks of jetson_clocks, and restore them afterwards"
    )
    noise: bool = flag(
        "--no-noise",
        True,
        action="store_false",
        help="skip the repeated measurement that gives the noise floor, and that of the machine's peak for the "
        "roofline",
    )
