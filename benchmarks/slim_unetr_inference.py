"""How much faster Slim UNETR's forms for inference are than the network itself, on this CPU.

`python benchmarks/slim_unetr_inference.py [--spatial D H W] [--in-channels N] [--checkpoint FILE] [--fixed]
[--threads N] [--rounds N]`. Rounds go over all forms in turn, so that a busy minute meets each of them. The table has
the medians of CPU and wall time of a forward, the ratio of the network's median to each (above 1: faster) with the
quartiles of the rounds' own ratios, and the largest difference of the logits as a share of their range.

The runtime OpenVINO is needed (`pip install openvino onnx onnxscript`). `--only` names forms to leave the others out;
`--profile FORM` prints where an OpenVINO form spends its time instead.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from benchbench.models.slim_unetr import SlimUNETR  # noqa: E402
from benchbench.models.slim_unetr_fixed import SlimUNETRFixed  # noqa: E402
from benchbench.zoo import build as zoo_build  # noqa: E402

FORMS = ("eager", "eager form", "openvino", "openvino form", "openvino form bf16")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spatial", type=int, nargs=3, default=(128, 128, 128), metavar=("D", "H", "W"))
    parser.add_argument("--in-channels", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--stem", type=int, default=4)
    parser.add_argument("--checkpoint", help="weights to load; its own size and channels are taken")
    parser.add_argument("--fixed", action="store_true", help="the corrected network")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--forwards", type=int, default=2, help="of each form in a round; the median counts")
    parser.add_argument("--only", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--profile", choices=FORMS[2:])
    return parser.parse_args()


def network(args: argparse.Namespace) -> SlimUNETR:
    if args.checkpoint:
        return zoo_build.build_model(args.checkpoint).eval()
    torch.manual_seed(0)
    kind = SlimUNETRFixed if args.fixed else SlimUNETR
    model = kind(args.in_channels, 3, tuple(args.spatial), stem=args.stem)
    for module in model.modules():  # as if trained, so that no fold is the identity
        if isinstance(module, (nn.BatchNorm3d, nn.GroupNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def write_onnx(model: nn.Module, x: torch.Tensor, path: Path) -> None:
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), dynamo=True, opset_version=20, verbose=False).save(str(path))


def compiled(path: Path, *, precision: str, threads: int, profile: bool = False):
    import openvino

    core = openvino.Core()
    return core.compile_model(
        core.read_model(path),
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "PERF_COUNT": profile,
        },
    )


def openvino_runner(path: Path, x: np.ndarray, **how) -> Callable[[], np.ndarray]:
    request = compiled(path, **how).create_infer_request()

    def run() -> np.ndarray:
        return request.infer([x], share_inputs=True, share_outputs=True)[0]

    return run


def print_profile(
    path: Path, x: np.ndarray, *, precision: str, threads: int, runs: int = 20, slowest: int = 40
) -> None:
    """Time of each node of the compiled graph, the least of some runs."""
    request = compiled(path, precision=precision, threads=threads, profile=True).create_infer_request()
    times: dict[str, list[float]] = {}
    kinds: dict[str, str] = {}
    for _ in range(runs):
        request.infer([x])
        for node in request.get_profiling_info():
            times.setdefault(node.node_name, []).append(node.real_time.total_seconds() * 1e3)
            kinds[node.node_name] = f"{node.node_type} {node.exec_type}"
    least = {name: min(values) for name, values in times.items()}
    by_kind: dict[str, list[float]] = {}
    for name, shortest in least.items():
        by_kind.setdefault(kinds[name], []).append(shortest)
    print(f"total {sum(least.values()):.2f} ms")
    for kind, values in sorted(by_kind.items(), key=lambda item: -sum(item[1])):
        if sum(values) > 0:
            print(f"{sum(values):8.2f} ms {len(values):4} x {kind}")
    print("the slowest nodes")
    for name, shortest in sorted(least.items(), key=lambda item: -item[1])[:slowest]:
        print(f"{shortest:8.3f} ms {kinds[name]:50} {name}")


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    model = network(args)
    x = torch.randn(args.batch_size, model.in_channels, *model.spatial, generator=torch.Generator().manual_seed(0))
    array = x.numpy()
    forms: dict[str, Callable[[], object]] = {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        plain, export = Path(folder, "plain.onnx"), Path(folder, "export.onnx")
        wanted = {args.profile} if args.profile else set(args.only) | {"eager"}
        with torch.no_grad():
            if "openvino" in wanted:
                write_onnx(model, x.clone(), plain)
            if wanted & {"openvino form", "openvino form bf16"}:
                write_onnx(model.for_inference("export"), x.clone(), export)
        files = {
            "openvino": (plain, "f32"),
            "openvino form": (export, "f32"),
            "openvino form bf16": (export, "bf16"),
        }
        if args.profile:
            path, precision = files[args.profile]
            print_profile(path, array, precision=precision, threads=args.threads)
            return
        fast = model.for_inference()
        forms["eager"] = lambda: model(x)
        forms["eager form"] = lambda: fast(x)
        for name, (path, precision) in files.items():
            if name in wanted:
                forms[name] = openvino_runner(path, array, precision=precision, threads=args.threads)
        forms = {name: run for name, run in forms.items() if name in wanted}
        print(table(forms, args))


def table(forms: dict[str, Callable[[], object]], args: argparse.Namespace) -> str:
    outputs = {name: np.asarray(run()).copy() for name, run in forms.items()}
    expected = outputs["eager"]
    cpu: dict[str, list[float]] = {name: [] for name in forms}
    wall: dict[str, list[float]] = {name: [] for name in forms}
    for number in range(args.rounds + 1):
        for name, run in forms.items():
            samples = []
            for _ in range(args.forwards):
                start, start_cpu = time.perf_counter(), time.process_time()
                run()
                samples.append((time.process_time() - start_cpu, time.perf_counter() - start))
            if number:  # the first round warms up
                for times, values in zip((cpu, wall), zip(*samples, strict=True), strict=True):
                    times[name].append(float(np.median(values)))
    titles = "   ".join(f"{name:>8} {'ratio':>6} {'quartiles':>13}" for name in ("CPU ms", "wall ms"))
    lines = [f"{'form':20} {titles}   error"]
    for name in forms:
        cells = []
        for times in (cpu, wall):
            ratios = np.array(times["eager"]) / np.array(times[name])
            low, high = np.percentile(ratios, [25, 75])
            median = float(np.median(times[name]))
            ratio = float(np.median(times["eager"])) / median
            cells.append(f"{median * 1e3:8.2f} {ratio:6.2f} {low:6.2f}-{high:6.2f}")
        error = float(np.abs(outputs[name] - expected).max() / np.ptp(expected))
        lines.append(f"{name:20} {'   '.join(cells)}   {error:.1e}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
