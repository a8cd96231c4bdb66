"""Dice of eager PyTorch in fp32, case by case: what a faster path is held against; kept, since many are."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchbench.core import records as rec
from benchbench.core.cache import cache_base, keep
from benchbench.core.config import read_json
from benchbench.core.errors import StoreError
from benchbench.core.statistics import mean_interval
from benchbench.core.version import installed
from benchbench.data import get_plan
from benchbench.runner.job import Job


def eager_cases(job: Job, progress: Callable[[int, int], None] | None = None) -> Mapping[str, Any]:
    """Names of a job's cases, and their Dice by eager PyTorch in fp32, from the cache or evaluated now.

    Args:
        job: with weights and a data set.
        progress: called after each case with the number of finished ones, and of all.

    Returns:
        `ids`, and `values` with `dice`: one value per case, None where it does not count.
    """
    w = job.workload
    cropped: list[object] = ["cropped"] if w.crop_foreground else []
    mirrored = ["mirrored", *w.test_time_mirroring] if w.test_time_mirroring else []
    key = rec.content_hash(
        [
            *cropped,
            *mirrored,
            *(rec.to_json(job.model), get_plan(str(job.data_where)).key, w.split, list(w.spatial), job.overlap),
            *(installed(package) for package in ("torch", "monai")),
        ]
    )
    path = cache_base() / "eager-dice" / f"{key}.json"
    try:
        cases = read_json(path, "the Dice of eager PyTorch", StoreError)
        if isinstance(cases, dict) and isinstance(cases.get("values"), dict):
            return cases
    except StoreError:
        pass
    cases = _evaluated(job, progress)
    keep(path, json.dumps(cases).encode(), "the Dice of eager PyTorch is evaluated again for each runtime")
    return cases


def _evaluated(job: Job, progress: Callable[[int, int], None] | None) -> Mapping[str, Any]:
    import torch

    from benchbench.training.evaluate import measure_dice
    from benchbench.zoo import build as zoo_build
    from benchbench.zoo import checkpoint

    device = f"cuda:{job.gpu}" if job.backend == "cuda" else "cpu"
    if job.workload.threads:
        torch.set_num_threads(job.workload.threads)
    module = zoo_build.build(job.model, job.workload.spatial)
    checkpoint.load_weights(module, Path(str(job.checkpoint_path)))
    result = measure_dice(
        module.eval().to(device),
        data=str(job.data_where),
        split=job.workload.split or "test",
        spatial=job.workload.spatial,
        overlap=job.overlap,
        crop_foreground=job.workload.crop_foreground,
        mirror=job.workload.test_time_mirroring or (),
        device=device,
        surfaces=False,
        progress=progress,
    )
    return result.cases


def lost_dice(eager: Mapping[str, Any], cases: Mapping[str, Any]) -> rec.Measurement:
    """What a faster path loses: `lost_dice`, the mean over cases of the Dice in fp32 less its own, with every case.

    Args:
        eager: cases as of `eager_cases`.
        cases: likewise, of the faster path.
    """
    before = dict(zip(eager["ids"], eager["values"]["dice"], strict=True))
    after = dict(zip(cases["ids"], cases["values"]["dice"], strict=True))
    pairs = [(before[c], after[c]) for c in before if before[c] is not None and after.get(c) is not None]
    if len(pairs) < 2:
        return rec.Measurement.missing("lost_dice", "fewer than two cases have a Dice in both", "measured")
    lost = np.array([b - a for b, a in pairs])
    worst = float(lost.max())
    return rec.Measurement.of(
        "lost_dice",
        float(lost.mean()),
        f"Dice of eager PyTorch in fp32 less this one's, mean over {len(lost)} cases; worst case {worst:.4f}; "
        "95 % interval of the mean",
        values=tuple(round(float(v), 6) for v in lost),
        ci95=mean_interval(lost.tolist()),
    )
