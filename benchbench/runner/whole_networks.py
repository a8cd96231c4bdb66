"""Latency of a whole network for a calibration, in a process of its own, as `bench run` measures it.

A process of its own is necessary: in a process that had timed two thousand operators before, one network took a third
less than in a fresh one, twice over.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import Any

from benchbench.core import launch
from benchbench.core import records as rec
from benchbench.zoo import classes

_FORWARDS = 7  # that are timed, or as many as fit into
_TIMED_S = 3.0


def time_network(
    spec: rec.ModelSpec, spatial: tuple[int, ...], *, device: str, dtype: str, threads: int | None, folder: str | None
) -> float:
    """Seconds of a forward of one patch, in a fresh process.

    Args:
        spec: of the network.
        spatial: (D, H, W).
        device: `cpu` or `cuda`.
        dtype: `fp32`, or autocast to `bf16` / `fp16`.
        threads: of the processor; None: as many as there are.
        folder: of a card of one's own, put on the import path.

    Raises:
        MemoryError: the system ended the process.
        RuntimeError: it ended otherwise; its last words.
    """
    plain = {"spec": rec.to_json(spec), "spatial": list(spatial), "device": device, "dtype": dtype, "threads": threads}
    around = {}
    if threads:
        around = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run(
        launch.command("benchbench.runner.whole_networks"),
        input=json.dumps({**plain, "folder": folder, "trusted": classes.may_import(spec.arch)}),
        capture_output=True,
        text=True,
        env=launch.environment(around),
        check=False,
    )
    if done.returncode == -9:
        raise MemoryError(f"{spec.name}: its process was killed, most likely for want of memory")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise (MemoryError if last.startswith("MemoryError") else RuntimeError)(last)
    return float(done.stdout.splitlines()[-1])


def main() -> int:
    """Read one network from stdin, and print its seconds."""
    asked: dict[str, Any] = json.loads(sys.stdin.read())
    spec = rec.from_json(rec.ModelSpec, asked["spec"])
    if asked["trusted"]:
        classes.vouch(spec.arch, asked["folder"])
    print(_seconds(spec, tuple(asked["spatial"]), asked))  # noqa: T201
    return 0


def _seconds(spec: rec.ModelSpec, spatial: tuple[int, ...], asked: dict[str, Any]) -> float:
    """The median; of a network that takes longer than all is to take, the first forward on a CPU."""
    import torch

    from benchbench.measure.latency import forward_function
    from benchbench.zoo import build as zoo_build

    device = asked["device"]
    if device == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    if asked["threads"]:
        torch.set_num_threads(asked["threads"])
    torch.manual_seed(0)
    module = zoo_build.build(spec, spatial).eval().to(device)
    x = torch.randn(1, spec.in_channels, *spatial, generator=torch.Generator().manual_seed(0)).to(device)
    forward = forward_function(module, x, backend=device, dtype=asked["dtype"])
    start = time.perf_counter()
    forward()
    first = time.perf_counter() - start
    if first > _TIMED_S and device == "cpu":
        return first
    times: list[float] = []
    while not times or (len(times) < _FORWARDS and sum(times) < _TIMED_S):
        start = time.perf_counter()
        forward()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    sys.exit(main())
