"""Flags of `bench calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchbench.cli import types as to


def add_calibrate(command: Any) -> None:
    """`bench calibrate`."""
    sub = command("calibrate", "time this device's operators, so that any network can be forecast for it")
    sub.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="(default: cpu)")
    sub.add_argument("--threads", type=to.positive, metavar="N", help="that PyTorch computes with (default: all cores)")
    sub.add_argument("--dtype", default="fp32", choices=("fp32", "bf16", "fp16"), help="(default: fp32)")
    sub.add_argument(
        "--models", default="all", metavar="LIST", help="whose operators are timed: names, globs, cards (default: all)"
    )
    sub.add_argument(
        "--time",
        type=to.seconds,
        default="10min",
        metavar="TIME",
        help="for timing; tracing takes half a minute more (default: 10min)",
    )
    sub.add_argument(
        "--out",
        type=Path,
        metavar="FILE.toml",
        help="the profile; times are kept beside it: the same command goes on (default: results/local/<device>.toml)",
    )
