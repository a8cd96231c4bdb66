"""Request of a paired measurement: flags of `bench compare --measure`; of two values, one is of A and one of B."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from benchbench.core.arguments import DTYPES, flag, positive, seconds, share
from benchbench.core.errors import UsageError, unknown
from benchbench.core.paired_times import MARGIN
from benchbench.runtimes.catalogue import EAGER, MEASURED

TIME_LIMIT_S = 120.0


def _runtime(text: str) -> str:
    if text not in MEASURED:
        raise UsageError(unknown("runtime", text, MEASURED))
    return text


def _dtype(text: str) -> str:
    if text not in (*DTYPES, "int8"):
        raise UsageError(unknown("dtype", text, (*DTYPES, "int8")))
    return text


def _margin(text: str) -> float:
    if not (value := share(text)):
        raise UsageError(f"{text!r}: no two times are the same within a margin of 0; write such as 0.02")
    return value


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PairRequest:
    """How two sides are to be measured in pairs."""

    runtime: tuple[str, ...] = flag(
        "--runtime",
        (EAGER,),
        type=_runtime,
        nargs="+",
        metavar="R",
        help=f"what runs the networks, of both sides or of A and of B: {', '.join(MEASURED)} (default: {EAGER})",
    )
    dtype: tuple[str, ...] = flag(
        "--dtype",
        ("fp32",),
        type=_dtype,
        nargs="+",
        metavar="T",
        help="precision of both sides, or of A and of B (default: fp32)",
    )
    threads: tuple[int, ...] = flag(
        "--threads",
        (),
        type=positive,
        nargs="+",
        metavar="N",
        help="CPU threads of both sides, or of A and of B (default: all usable cores; in duets 1)",
    )
    python: tuple[str, ...] = flag(
        "--python",
        (),
        type=str,
        nargs="+",
        metavar="PATH",
        help="the Python that runs both sides, or A and B, each with a benchbench of its "
        "own: two installs of torch, two branches (default: this one)",
    )
    mode: Literal["interleaved", "duet"] = flag(
        "--mode",
        "interleaved",
        help="one side at a time, on all threads (interleaved), or both at once on a core each, which "
        "swap (duet) (default: interleaved)",
    )
    priority: Literal["high", "normal"] = flag(
        "--priority",
        "high",
        help="other programs wait for a forward that is timed, on a processor and where the system allows it to this "
        "user (high), or share the cores with it (normal) (default: high)",
    )
    margin: float = flag(
        "--margin",
        MARGIN,
        type=_margin,
        metavar="SHARE",
        help="share within which two times are the same (default: 0.02)",
    )
    time_limit_s: float = flag(
        "--time-limit",
        TIME_LIMIT_S,
        type=seconds,
        metavar="TIME",
        help="longest time for one comparison, such as 5min, without that of preparing networks for their runtime "
        "(default: 2min)",
    )
    spatial: tuple[int, ...] | None = flag("--spatial", help="size of the input in voxels (default: as in 'bench run')")
    batch: int = flag("--batch-size", 1, help="patches per forward (default: 1)")
    device: str = flag("--device", "cpu", choices=None, help="device to measure on, as in 'bench run' (default: cpu)")
    data: str | None = flag("--data", help="data set for Dice, of networks with weights (default: no Dice)")
    fold: int | None = flag("--fold", help="which of the five folds of --data (default: 0)")
    checkpoints: tuple[Path, ...] = flag(
        "--checkpoints",
        (Path("results/local"),),
        type=Path,
        nargs="+",
        metavar="DIR",
        help="with --data: folders to look for trained weights in (default: results/local)",
    )
    trust: bool = flag("--trust", False)

    def side(self, name: Literal["runtime", "dtype", "threads", "python"], place: int) -> str | int | None:
        """The value of a flag for side 0 (A) or 1 (B); None where it was not given."""
        values: tuple[str | int, ...] = getattr(self, name)
        return values[min(place, len(values) - 1)] if values else None
