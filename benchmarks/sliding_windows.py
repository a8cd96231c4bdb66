"""Whole volumes on a CPU: the windows in NumPy against MONAI's inferer, both around one network in eager PyTorch.

`python benchmarks/sliding_windows.py [MODEL|none] [ROUNDS] [THREADS]`, MODEL (`none`) being a network of the zoo;
`none` is one 1x1x1 convolution, so that what is around the network shows. Rounds alternate between the two, and what is
told is the ratio of their medians, of wall time and of the process's CPU time, with quartiles. Labels have to be equal
up to one voxel in a million; the exit code is 1 where they are not, or where the median CPU time is above MONAI's by
2 %.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from monai.inferers import sliding_window_inference  # noqa: E402

from benchbench.measure.sliding_windows import SlidingWindows  # noqa: E402
from benchbench.measure.volume_torch import forward_of_arrays  # noqa: E402
from benchbench.zoo import build as zoo_build  # noqa: E402
from benchbench.zoo import cards as zoo_cards  # noqa: E402

#: Volume, patch, and whether labels exclude each other.
CASES = (
    ((155, 240, 240), (128, 128, 128), False),
    ((96, 112, 88), (64, 64, 64), False),
    ((96, 112, 88), (64, 64, 64), True),
)
SLACK, CHANGED = 1.02, 1e-6


def main() -> int:
    name, rounds, threads = (sys.argv[1:] + ["none", "9", "1"][len(sys.argv) - 1 :])[:3]
    torch.set_num_threads(int(threads))
    cases = CASES if name == "none" else CASES[1:]
    return 1 if any([is_worse(name, int(rounds), int(threads), *case) for case in cases]) else 0


def is_worse(name: str, rounds: int, threads: int, sides: tuple, patch: tuple, exclusive: bool) -> bool:
    torch.manual_seed(0)
    if name == "none":
        network, channels = torch.nn.Conv3d(4, 3, 1).eval(), 4
    else:
        spec = zoo_cards.get_card(name).spec()
        network, channels = zoo_build.build(spec, patch).eval(), spec.in_channels
    image = np.random.default_rng(0).standard_normal((channels, *sides), np.float32)
    windows, forward = SlidingWindows(patch, exclusive=exclusive), forward_of_arrays(network)

    def of_monai() -> np.ndarray:
        with torch.inference_mode():
            x = torch.from_numpy(image)[None]
            logits = sliding_window_inference(x, patch, 1, network, overlap=0.5, mode="gaussian")
            return (logits.argmax(1) if exclusive else torch.gt(logits, 0))[0].numpy()

    ways = {"MONAI": of_monai, "NumPy": lambda: windows.label(forward, image)}
    first, second = (way() for way in ways.values())
    changed = float((first != second).mean())
    wall, spent = ({way: [] for way in ways} for _ in range(2))
    for _ in range(rounds):
        for way, run in ways.items():
            start, before = time.perf_counter(), time.process_time()
            run()
            wall[way].append(time.perf_counter() - start)
            spent[way].append(time.process_time() - before)
    size, kind = "x".join(map(str, sides)), "largest logit" if exclusive else "sign"
    print(f"{name}, {size}, {kind}, {threads} thread(s):", end=" ")
    print(f"wall {told(wall)}; CPU {told(spent)}; changed {changed:.1e}", flush=True)
    medians = {way: statistics.median(values) for way, values in spent.items()}
    return changed > CHANGED or medians["NumPy"] > SLACK * medians["MONAI"]


def told(values: dict[str, list[float]]) -> str:
    """`1.234 s / 1.100 s = 1.12 (1.05 to 1.20)`: MONAI's median over ours, and the quartiles of the rounds' ratios."""
    theirs, ours = (statistics.median(values[way]) for way in ("MONAI", "NumPy"))
    low, _, high = statistics.quantiles([a / b for a, b in zip(values["MONAI"], values["NumPy"], strict=True)], n=4)
    return f"{theirs:.3f} s / {ours:.3f} s = {theirs / ours:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    sys.exit(main())
