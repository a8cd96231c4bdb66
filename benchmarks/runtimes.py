"""Speed of every runtime as a multiple of eager PyTorch in fp32: `python benchmarks/runtimes.py`.

One process for each runtime and precision stays alive; each round asks every one of them for a forward, in random
order, so that a busy moment strikes all. Printed are the ratios of medians to eager fp32, of wall time and of the
process's own CPU time, with the interquartile range of the ratios of the rounds, and the memory that the process holds.

    python benchmarks/runtimes.py                                      # the networks of docs/runtimes.md
    python benchmarks/runtimes.py --models slim_unetr --spatial 128 128 128 --in-channels 4 --threads 1 2
    python benchmarks/runtimes.py --models nnunet_small --data .../Task04_Hippocampus     # with int8
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchbench import data
from benchbench.core import records as rec
from benchbench.core.errors import BenchError
from benchbench.measure import memory
from benchbench.runner.job import Job
from benchbench.runtimes import catalogue
from benchbench.zoo import checkpoint
from benchbench.zoo.cards import find_cards

PATHS = (
    ("eager", "fp32"),
    ("eager", "bf16"),
    ("eager-optimized", "fp32"),
    ("onnxruntime", "fp32"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)
#: Networks and inputs (C, D, H, W) of docs/runtimes.md.
CASES = (
    ("slim_unetr", (1, 64, 64, 64)),
    ("slim_unetr", (4, 128, 128, 128)),
    ("nnunet_small", (1, 64, 64, 64)),
    ("nnunet", (1, 64, 64, 64)),
    ("unetr", (1, 64, 64, 64)),
    ("swin_unetr", (1, 64, 64, 64)),
)


def forward_of(job: Job) -> Callable[[], object]:
    """A job's network in its runtime, in this process."""
    work = job.workload
    if not catalogue.get_runtime(work.runtime).in_pytorch:
        import numpy as np

        from benchbench.runner.prepare import prepared_for

        run = prepared_for(job).load(threads=work.threads)
        array = np.random.default_rng(0).standard_normal(job.input_shape, np.float32)
        return lambda: run(array)
    import torch

    from benchbench.measure.latency import forward_function
    from benchbench.runtimes.pytorch import in_runtime
    from benchbench.zoo import build

    torch.set_num_threads(work.threads or 1)
    torch.manual_seed(0)
    module = build.build(job.model, work.spatial).eval()
    if job.checkpoint_path:
        checkpoint.load_weights(module, Path(job.checkpoint_path))
    return forward_function(in_runtime(module, work.runtime), torch.randn(job.input_shape), dtype=work.dtype)


def serve(connection: Any, plain: Any) -> None:
    """A process that answers each word with the seconds of a forward: wall, CPU, and the memory that it holds."""
    try:
        job = rec.from_json(Job, plain)
        catalogue.check(job.workload.runtime, job.workload.dtype, "cpu")
        forward = forward_of(job)
        for _ in range(3):
            forward()
    except BenchError as error:
        connection.send(str(error))
        return
    connection.send(None)
    while connection.recv():
        cpu, wall = time.process_time(), time.perf_counter()
        forward()
        connection.send(
            (time.perf_counter() - wall, time.process_time() - cpu, memory.resident_bytes(), memory.peak_bytes())
        )


def jobs_of(name: str, shape: tuple[int, ...] | None, threads: int, source: str | None) -> list[Job]:
    """A job for each runtime and precision."""
    (card,) = find_cards(name)
    where, path, info = None, None, None
    if source:
        plan = data.get_plan(source)
        where = str(plan.where)
        for folder in (Path("models/checkpoints"),):
            for file in folder.glob(f"{name}-*.safetensors"):
                found = checkpoint.read_sidecar(file)
                if plan.is_named_by(found.data):
                    path, info = file, found
    channels, *sides = shape or (info.model.in_channels, *info.spatial) if info else shape or (4, *card.spatial)
    spec = info.spec if info else card.spec(in_channels=channels)
    spatial = tuple(info.spatial) if info else tuple(sides)
    return [
        Job(
            model=spec,
            workload=rec.Workload(spatial=spatial, dtype=dtype, runtime=runtime, threads=threads),  # type: ignore[arg-type]
            checkpoint_path=str(path) if path else None,
            data_where=where,
        )
        for runtime, dtype in PATHS
        if dtype != "int8" or where
    ]


def measure(jobs: list[Job], rounds: int) -> dict[str, Any]:
    """Samples of each runtime, or why it has none."""
    spawn = multiprocessing.get_context("spawn")
    servers: dict[str, tuple[Any, Any]] = {}
    results: dict[str, Any] = {}
    for job in jobs:
        name = f"{job.workload.runtime} {job.workload.dtype}"
        os.environ["OMP_NUM_THREADS"] = str(job.workload.threads)
        here, there = spawn.Pipe()
        process = spawn.Process(target=serve, args=(there, rec.to_json(job)), daemon=True)
        process.start()
        there.close()
        try:
            refused = here.recv()
        except EOFError:
            refused = "its process ended"
        if refused:
            results[name] = refused
        else:
            servers[name] = (process, here)
            results[name] = []
    chance = random.Random(0)
    for _ in range(rounds):
        for name in chance.sample(list(servers), len(servers)):
            connection = servers[name][1]
            connection.send(True)
            results[name].append(connection.recv())
    for process, connection in servers.values():
        connection.send(False)
        process.join()
    return results


def table(results: dict[str, Any]) -> list[str]:
    """Lines with the ratios to eager fp32."""
    base = results["eager fp32"]
    lines = []
    for name, samples in results.items():
        if isinstance(samples, str):
            lines.append(f"  {name:24s} -  {samples}")
            continue
        wall, cpu = (statistics.median(s[i] for s in samples) for i in (0, 1))
        texts = []
        for i, median in ((0, wall), (1, cpu)):
            ratio = statistics.median(s[i] for s in base) / median
            each = sorted(b[i] / s[i] for b, s in zip(base, samples, strict=True))
            low, _, high = statistics.quantiles(each, n=4, method="inclusive")
            texts.append(f"{ratio:5.2f} ({low:.2f} to {high:.2f})")
        held, peak = samples[-1][2] / 1e6, samples[-1][3] / 1e6
        lines.append(
            f"  {name:24s} {wall * 1e3:9.1f} ms   wall {texts[0]:24s} CPU {texts[1]:24s} "
            f"resident {held:5.0f} MB, peak {peak:5.0f} MB"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", help="networks, separated by commas (default: those of docs/runtimes.md)")
    parser.add_argument("--spatial", nargs=3, type=int, default=(64, 64, 64))
    parser.add_argument("--in-channels", type=int, default=1)
    parser.add_argument("--data", help="data set with weights in models/checkpoints: its patch, and int8")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    shape = (options.in_channels, *options.spatial)
    cases: Any = (
        [(name, None if options.data else shape) for name in options.models.split(",")] if options.models else CASES
    )
    for name, of in cases:
        for threads in options.threads:
            jobs = jobs_of(name, of, threads, options.data)
            text = "x".join(map(str, jobs[0].input_shape))
            print(f"{name} {text}, {threads} thread{'s' * (threads > 1)}, {options.rounds} rounds", flush=True)
            print("\n".join(table(measure(jobs, options.rounds))), flush=True)


if __name__ == "__main__":
    main()
