"""How far single voxels get on the phantom, beside a network.

A gradient-boosted classifier sees the four intensities of one voxel and nothing else. If it came
near a network, the phantom would not need a network, and its Dice would rank nothing. Prints both
figures per region and the gap; exits 1 where the gap in mean Dice is below the least that is wanted.

    python benchmarks/phantom_floor.py                                 # the classifier alone
    python benchmarks/phantom_floor.py --checkpoint nnunet-phantom-128.safetensors
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier

from benchbench.data import DataPlan, get_plan, load_case

LEAST_GAP = 0.15


def voxels_per_class(plan: DataPlan, per_case: int, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Intensities and labels of random brain voxels of the training cases, at their true frequency."""
    rng = np.random.default_rng(seed)
    intensities, labels = [], []
    for index in range(plan.splits["train"]):
        case = load_case(plan.name, "train", index)
        brain = np.flatnonzero(case.image.any(0))
        chosen = rng.choice(brain, size=min(per_case, len(brain)), replace=False)
        intensities.append(case.image.reshape(plan.in_channels, -1)[:, chosen].T)
        labels.append(case.label.ravel()[chosen])
    return np.concatenate(intensities), np.concatenate(labels)


def dice(predicted: npt.NDArray[np.bool_], reference: npt.NDArray[np.bool_]) -> float:
    both = int(predicted.sum()) + int(reference.sum())
    return 2 * int((predicted & reference).sum()) / both if both else 1.0


def classifier_dice(plan: DataPlan, split: str, limit: int | None, per_case: int, seed: int) -> npt.NDArray[np.float64]:
    """(cases, regions) Dice of a classifier of single voxels.

    A region's probability is the sum of its labels' probabilities. Its threshold is the one of
    highest Dice over training voxels, since 0.5 would be unfair to a classifier of rare labels.
    """
    features, labels = voxels_per_class(plan, per_case, seed)
    model = HistGradientBoostingClassifier(max_iter=150, random_state=seed).fit(features, labels)
    columns = {int(label): i for i, label in enumerate(model.classes_)}

    def region_probability(x: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float64]]:
        p = model.predict_proba(x)
        return [p[:, [columns[v] for v in values]].sum(1) for values in plan.regions.values()]

    thresholds = []
    for p, values in zip(region_probability(features), plan.regions.values(), strict=True):
        truth = np.isin(labels, values)
        tried = np.arange(0.1, 0.9, 0.05)
        thresholds.append(float(tried[np.argmax([dice(p > t, truth) for t in tried])]))

    rows = []
    for index in range(min(limit or plan.splits[split], plan.splits[split])):
        case = load_case(plan.name, split, index)
        brain = case.image.any(0)
        truth = plan.to_regions(case.label)[:, brain]
        found = region_probability(case.image[:, brain].T)
        rows.append([dice(p > t, r) for p, t, r in zip(found, thresholds, truth, strict=True)])
    return np.array(rows)


def network_dice(
    plan: DataPlan, split: str, limit: int | None, checkpoint: Path, dtype: str
) -> npt.NDArray[np.float64]:
    """(cases, regions) Dice of the network of a checkpoint, at the patch it was trained for."""
    from benchbench.training.evaluate import measure_dice
    from benchbench.zoo import build as zoo_build
    from benchbench.zoo.checkpoint import load_weights, read_sidecar

    info = read_sidecar(checkpoint)
    module = zoo_build.build(info.model, info.spatial)
    load_weights(module, checkpoint)
    result = measure_dice(module, data=plan.name, split=split, spatial=info.spatial, limit=limit, dtype=dtype)
    by_name = {m.metric: m.values for m in result.measurements}
    return np.array([by_name[f"dice_{region}"] for region in plan.regions]).T


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="a network's weights; its JSON lies beside it")
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "bf16"), help="of the network's arithmetic")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, help="only the first cases")
    parser.add_argument("--voxels", type=int, default=6000, help="training voxels per case")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    plan = get_plan("phantom")
    floor = classifier_dice(plan, args.split, args.limit, args.voxels, args.seed)
    print(f"{plan.title}; {len(floor)} {args.split} cases; mean Dice per region")
    print(f"{'':24}" + "".join(f"{region:>8}" for region in plan.regions) + f"{'mean':>8}")

    def row(name: str, values: npt.NDArray[np.float64]) -> None:
        print(f"{name:24}" + "".join(f"{v:8.3f}" for v in values.mean(0)) + f"{values.mean():8.3f}")

    row("one voxel at a time", floor)
    if args.checkpoint is None:
        return 0
    network = network_dice(plan, args.split, args.limit, args.checkpoint, args.dtype)
    row(args.checkpoint.stem, network)
    gap = network.mean() - floor.mean()
    print(f"gap {gap:.3f}; wanted at least {LEAST_GAP}")
    return 0 if gap >= LEAST_GAP else 1


if __name__ == "__main__":
    sys.exit(main())
