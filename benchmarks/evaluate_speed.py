"""What `bench evaluate` adds to forwards and metrics, and how fast it judges large label maps.

`python benchmarks/evaluate_speed.py networks DATA [ROUNDS]`: two networks with weights on the test cases of DATA, such
as Task04_Hippocampus: processor time of the evaluation over that of their forwards and metrics alone; bound 1.2. The
cases are prepared first. The page is written afterwards, and told apart.

`python benchmarks/evaluate_speed.py maps [COUNT] [WORKERS]`: COUNT (100) label maps of 240x240x155 with four labels, by
WORKERS (2) processes; bounds 300 s and 2 GB for all processes together. The maps are made here, ten different ones:
nested blobs with a rough surface. As another program may have the cores, the processor time over the number of
processes is told beside the seconds, and is what the bound is of.

The exit code is 1 where a bound is missed.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchbench import data, report  # noqa: E402
from benchbench.core.units import format_value  # noqa: E402
from benchbench.data import preprocessing  # noqa: E402
from benchbench.runner.evaluation.request import EvaluateRequest  # noqa: E402
from benchbench.runner.evaluation.run import evaluate  # noqa: E402
from benchbench.training.metrics import score  # noqa: E402
from benchbench.training.sliding_window import logits_of, regions_of  # noqa: E402
from benchbench.zoo import build as zoo_build  # noqa: E402
from benchbench.zoo import checkpoint  # noqa: E402

NETWORKS = ("slim_unetr_s2", "slim_unetr_fixed")
MOST_SHARE, MOST_S, MOST_BYTES = 1.2, 300.0, 2e9
SIDES, DIFFERENT = (240, 240, 155), 10


def main() -> int:
    if len(sys.argv) > 2 and sys.argv[1] == "networks":
        return networks(sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 3)
    if len(sys.argv) > 1 and sys.argv[1] == "maps":
        return maps(*[int(word) for word in sys.argv[2:4]])
    print(__doc__)
    return 2


# -- networks


def networks(where: str, rounds: int) -> int:
    plan = data.get_plan(where)
    preprocessing.prepare_all(plan)
    shares, alone, whole, pages = [], [], [], []
    for _ in range(rounds):  # in turn, so that a busy minute affects both alike
        alone.append(forwards_and_metrics(plan))
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            start = time.process_time()
            evaluate(EvaluateRequest(data=where, networks=NETWORKS), out)
            whole.append(time.process_time() - start)
            start = time.process_time()
            report.write_report([out])
            pages.append(time.process_time() - start)
        shares.append(whole[-1] / alone[-1])
    share = statistics.median(shares)
    print(
        f"{' and '.join(NETWORKS)}, {plan.splits['test']} cases: forwards and metrics {statistics.median(alone):.1f} s "
        f"of a processor, evaluated {statistics.median(whole):.1f} s, {share:.2f} times ({min(shares):.2f} to "
        f"{max(shares):.2f}, {rounds} rounds), bound {MOST_SHARE:g}; its page {statistics.median(pages):.1f} s"
    )
    return 0 if share <= MOST_SHARE else 1


def forwards_and_metrics(plan: data.DataPlan) -> float:
    """Seconds of a processor in the forwards and metrics of both networks, and in nothing else."""
    spent = 0.0
    for name in NETWORKS:
        shipped = ROOT / "models/checkpoints" / f"{name}-hippocampus.safetensors"
        info = checkpoint.read_sidecar(shipped)
        network = zoo_build.build(info.model, info.spatial)
        checkpoint.load_weights(network, info.path)
        network.eval()
        for index in range(plan.splits["test"]):
            case = data.load_case(plan.where, "test", index)
            start = time.process_time()
            regions = regions_of(logits_of(network, case.image, plan, info.spatial), plan)
            spacing = np.linalg.norm(case.affine[:3, :3], axis=0)
            score(regions, plan.to_regions(case.label), spacing_mm=spacing, rule=plan.empty_rule)
            spent += time.process_time() - start
    return spent


# -- label maps


def maps(count: int = 100, workers: int = 2) -> int:
    with tempfile.TemporaryDirectory() as folder:
        cohort(Path(folder), count)
        words = ["evaluate", "--predictions", "predicted", "--data", "Task99_Blobs", "--split", "all", "--out", "out"]
        command = [sys.executable, "-m", "benchbench", *words, "--workers", str(workers), "-q"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "BENCHBENCH_CACHE": f"{folder}/cache"}
        start = time.monotonic()
        process = psutil.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE)
        most_bytes, spent = 0, {}
        while process.poll() is None:
            taken = list(usage(process))
            most_bytes = max(most_bytes, sum(size for _, size, _ in taken))
            spent |= {pid: seconds for pid, _, seconds in taken}
            time.sleep(0.2)
        seconds, processor_s = time.monotonic() - start, sum(spent.values())
        print(process.stdout.read().decode().splitlines()[3])
    each = processor_s / workers
    print(
        f"{count} label maps of {'x'.join(map(str, SIDES))}, {workers} processes: {seconds:.0f} s; {processor_s:.0f} s "
        f"of processors, {each:.0f} s for each of {workers} (bound {MOST_S:g}); memory {format_value(most_bytes, 'B')} "
        f"(bound {format_value(MOST_BYTES, 'B')})"
    )
    return 0 if process.returncode == 0 and each <= MOST_S * count / 100 and most_bytes <= MOST_BYTES else 1


def usage(process: psutil.Process) -> Iterator[tuple[int, int, float]]:
    """Process id, bytes (shared ones in parts) and seconds of a processor, of a process and its children."""
    with contextlib.suppress(psutil.Error):
        for one in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                times = one.cpu_times()
                yield one.pid, one.memory_full_info().pss, times.user + times.system


def cohort(folder: Path, count: int) -> None:
    """A data set in the layout of the Decathlon, and label maps that another program might have made of it."""
    import nibabel as nib

    described = folder / "Task99_Blobs"
    for part in ("imagesTr", "labelsTr"):
        (described / part).mkdir(parents=True)
    (folder / "predicted").mkdir()
    names = [f"blob_{i:03d}.nii.gz" for i in range(count)]
    for i, name in enumerate(names):
        image, label, predicted = (
            described / "imagesTr" / name,
            described / "labelsTr" / name,
            folder / "predicted" / name,
        )
        if i >= DIFFERENT:  # the metrics of equal voxels take as long
            for path in (image, label, predicted):
                os.link(path.with_name(names[i % DIFFERENT]), path)
            continue
        own, others = blobs(np.random.default_rng(i))
        nib.save(nib.Nifti1Image((own > 0).astype(np.int16) * 100, np.eye(4)), image)
        nib.save(nib.Nifti1Image(own, np.eye(4)), label)
        nib.save(nib.Nifti1Image(others, np.eye(4)), predicted)
    (described / "dataset.json").write_text(
        json.dumps(
            {
                "name": "Blobs",
                "modality": {"0": "MRI"},
                "labels": {"0": "background", "1": "edema", "2": "rim", "3": "core", "4": "necrosis"},
                "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
            }
        )
    )


def blobs(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two maps of the same nested blobs whose surfaces differ by a voxel or two."""
    from scipy import ndimage

    def noise(size: float, parts: tuple[int, ...]) -> np.ndarray:
        small = rng.normal(0, size, parts).astype(np.float32)
        return ndimage.zoom(small, [s / n for s, n in zip(SIDES, parts, strict=True)], order=1)

    axes = np.ogrid[tuple(slice(0, side) for side in SIDES)]
    centre, radius = rng.uniform(70, 90, 3) * (1.5, 1.4, 1.0), rng.uniform(38, 58, 3)
    far = sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radius, strict=True)).astype(np.float32)
    depth = -(far + noise(0.35, (8, 8, 6)))
    levels = [-1.0, -0.7, -0.4, -0.15]
    other = depth + noise(0.08, (20, 20, 15))
    return tuple(np.digitize(each, levels).astype(np.uint8) for each in (depth, other))


if __name__ == "__main__":
    sys.exit(main())
