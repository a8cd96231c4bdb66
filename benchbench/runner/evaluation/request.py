"""Request of an evaluation: what `bench evaluate` is asked for, each field a flag of the command."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from benchbench.core.arguments import DTYPES, REQUIRED, flag


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateRequest:
    """What `bench evaluate` was asked for."""

    data: str = flag("--data", REQUIRED, help="data set, by its name or its folder")
    networks: tuple[str, ...] = flag(
        "networks",
        (),
        nargs="*",
        metavar="NETWORK",
        help="weights (.safetensors), a folder with one such file, or a network of the zoo whose weights are found as "
        "'bench run' finds them; A+B is an ensemble of both, by the mean of their probabilities",
    )
    predictions: tuple[Path, ...] = flag(
        "--predictions",
        (),
        type=Path,
        nargs="+",
        metavar="DIR",
        help="folders of label maps that any tool wrote, in any format that nibabel reads, named as the cases",
    )
    split: Literal["test", "val", "train", "all"] = flag(
        "--split", "test", help="which cases of the data set (default: test)"
    )
    allow_missing: bool = flag(
        "--allow-missing", False, help="go on without the cases that have no label map, and say over how many"
    )
    workers: int = flag(
        "--workers",
        1,
        help="processes that share the cases; on two cores, two take about half the time of one (default: 1)",
    )
    fold: int | None = flag("--fold")
    empty_rule: str | None = flag("--empty-rule")
    checkpoints: tuple[Path, ...] = flag(
        "--checkpoints",
        (Path("results/local"),),
        type=Path,
        nargs="+",
        metavar="DIR",
        help="folders to look for trained weights in, besides those that come with benchbench (default: results/local)",
    )
    overlap: float | None = flag(
        "--overlap",
        help="overlap of neighbouring windows, as a share of their sides (default: 0.5, or that of its MONAI bundle)",
    )
    test_time_mirroring: bool = flag("--test-time-mirroring", False)
    dtype: Literal["fp32", "bf16", "fp16"] = flag(
        "--dtype", "fp32", choices=DTYPES, help="precision of the networks, by autocast (default: fp32)"
    )
    device: str = flag("--device", "cpu")
    threads: int | None = flag("--threads", help="CPU threads of each process (default: all usable cores, shared)")
    trust: bool = flag("--trust", False)
