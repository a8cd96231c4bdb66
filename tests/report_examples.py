"""Records such as a run leaves, for the tests of the report: built, never measured."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchbench.core import records as rec
from benchbench.core import results as core_results
from benchbench.core import statistics

ENVIRONMENT = {
    "python": "3.11.2",
    "torch": "2.13.0+cpu",
    "monai": "1.6.1",
    "numpy": "2.3.5",
    "benchbench": "0.1.0",
    "commit": "0123abc0123abc0123abc0123abc0123abc01234",
    "system": "Linux",
    "kernel": "6.1.0",
    "machine": "x86_64",
    "cpu": "Example CPU 9000",
    "cores": 2,
    "memory_bytes": 16_000_000_000,
    "governor": None,
    "load_average": [0.21, 0.06, 0.07],
}
WORKLOAD = rec.Workload(threads=2, data="phantom", split="test")
CPU = rec.Device(kind="cpu", name="Example CPU 9000", basis="probed", asked="cpu")
ORIN = rec.Device(kind="jetson", name="jetson-orin-nano-8gb-super", basis="profile", asked="jetson")

#: name -> (params, MACs, latency in s, peak bytes, Dice WT/TC/ET or None, published params and "GFLOPs").
NETWORKS: Mapping[str, tuple[int, int, float, int, tuple[float, float, float] | None, tuple[float, float] | None]] = {
    "slim_unetr": (1_783_425, 2_516_379_648, 0.171, 94_000_000, (0.861, 0.792, 0.701), (1.79e6, 12.42e9)),
    "unetr": (102_468_147, 183_643_406_336, 4.61, 1_610_000_000, (0.842, 0.751, 0.688), (102.37e6, 203.21e9)),
    "nnunet": (31_192_035, 482_734_505_984, 8.52, 2_380_000_000, (0.902, 0.843, 0.771), None),
    "swin_unetr": (62_191_941, 771_643_486_848, 27.2, 9_400_000_000, None, (61.99e6, 793.92e9)),
}


def spec(name: str, **changes: Any) -> rec.ModelSpec:
    return dataclasses.replace(
        rec.ModelSpec(
            name=name,
            arch=f"benchbench.models.{name}:Net",
            kwargs={"feature_size": 16},
            in_channels=4,
            out_channels=3,
        ),
        **changes,
    )


def number(metric: str, value: float | None, origin: rec.Origin = "measured", **more: Any) -> rec.Measurement:
    unit = rec.METRIC_UNITS.get(metric, "1")
    return rec.Measurement(
        metric=metric, unit=unit, value=value, origin=origin, method=more.pop("method", "as the test says"), **more
    )


def counted(name: str) -> list[rec.Measurement]:
    params, macs, _, peak, _, published = NETWORKS[name]
    found = [
        number("params", params, "analytic", method="sum over parameters"),
        number("macs", macs, "analytic", method="FlopCounterMode on meta, halved"),
        number("flops", 2 * macs, "analytic", method="2 x MACs"),
        number("tensor_memory_bytes", round(peak * 0.6), "analytic", bound="at_least", method="live fake tensors"),
    ]
    if published:
        found.append(number("params", published[0], "published", method="Table III", source="Pang et al. 2023"))
        found.append(number("macs", published[1], "published", method="Table III", source="Pang et al. 2023"))
    return found


def finished(name: str, artifacts: tuple[rec.Artifact, ...] = (), **changes: Any) -> rec.Record:
    _, _, latency, peak, dice, _ = NETWORKS[name]
    samples = tuple(latency * f for f in (0.99, 1.0, 1.004, 1.02, 1.05)) if latency < 10 else (27.1, 27.2, 27.6)
    found = counted(name)
    found.append(
        number("latency_s", latency, values=samples, ci95=(latency * 0.985, latency * 1.02) if latency < 10 else None)
    )
    found.append(number("throughput_patches_per_s", 1 / latency))
    found.append(number("peak_memory_bytes", peak, method="VmHWM of a fresh process"))
    found.append(number("base_memory_bytes", 410_000_000, method="VmHWM before the network"))
    if dice:
        found.append(number("dice", sum(dice) / 3, method="mean of WT, TC, ET; semi-synthetic phantom", values=dice))
        found += [number(f"dice_{k}", v) for k, v in zip(("wt", "tc", "et"), dice, strict=True)]
    else:
        found.append(
            number("dice", None, reason=f"no checkpoint; 'bench train --model {name} --data phantom' makes one")
        )
    return record(name, measurements=tuple(found), artifacts=artifacts, **changes)


def record(name: str, **changes: Any) -> rec.Record:
    fields: dict[str, Any] = {
        "model": spec(name),
        "workload": WORKLOAD,
        "device": CPU,
        "environment": ENVIRONMENT,
        "status": "ok",
        "started_at": "2026-11-24T04:00:00Z",
        "duration_s": 12.5,
    }
    return rec.Record(**fields | changes)


def failed(name: str, status: rec.Status = "oom", error: str | None = None, **changes: Any) -> rec.Record:
    text = error or "killed by the system at 15.2 GB of 16 GB; try a smaller --spatial, or a device with more memory"
    found = tuple(counted(name)) if name in NETWORKS else ()
    return record(name, status=status, error=text, measurements=found, **changes)


def predicted(name: str) -> rec.Record:
    macs, peak = NETWORKS[name][1], NETWORKS[name][3]
    low = 2 * macs / 2.09e12
    found = counted(name)
    method = "per operator the larger of compute and bandwidth"
    found.append(number("latency_s", low, "predicted", bound="at_least", interval=(low, 4 * low), method=method))
    rates = (0.25 / low, 1 / low)
    found.append(
        number("throughput_patches_per_s", rates[1], "predicted", bound="at_most", interval=rates, method=method)
    )
    fits = int(peak < 7e9)
    bound = "at_most" if fits else None
    found.append(number("fits_in_memory", fits, "predicted", bound=bound, method="tensor bytes against memory"))
    workload = dataclasses.replace(WORKLOAD, threads=None, data=None, split=None)
    return record(name, device=ORIN, workload=workload, measurements=tuple(found))


def png(width: int = 96, height: int = 32) -> bytes:
    """A grey ramp, small and valid."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + bytes((x * 255 // width + y) % 256 for x in range(width)) for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def layer_table(name: str, n: int = 30) -> bytes:
    params, macs = NETWORKS[name][:2]
    kinds = ("conv", "matmul", "transposed_conv", "norm")
    weights = [i + 1 for i in range(n)]
    parts = [(params * w // sum(weights), macs * (n + 1 - w) // sum(weights)) for w in weights]
    parts[0] = (parts[0][0] + params - sum(p for p, _ in parts), parts[0][1] + macs - sum(m for _, m in parts))
    rows = [
        {"module": f"encoder.block{i}.conv", "kind": kinds[i % 4], "params": p, "macs": m}
        for i, (p, m) in enumerate(parts)
    ]
    return json.dumps({"modules": rows}).encode()


def artifact(folder: Path, kind: str, name: str, content: bytes, title: str = "") -> rec.Artifact:
    (folder / "artifacts").mkdir(parents=True, exist_ok=True)
    (folder / "artifacts" / name).write_bytes(content)
    return rec.Artifact(kind=kind, path=f"artifacts/{name}", sha256=hashlib.sha256(content).hexdigest(), title=title)


def write(folder: Path, records: list[rec.Record]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [rec.canonical_json(rec.record_to_json(r)) + "\n" for r in records]
    (folder / core_results.RECORDS).write_text("".join(lines), encoding="utf-8")
    return folder


def whole_run(folder: Path) -> Path:
    """Four networks with layer tables and a picture, one failure."""
    records = []
    for name in NETWORKS:
        kept = [artifact(folder, "layers", f"{name}.json", layer_table(name))]
        if name == "slim_unetr":
            title = "Phantom case 3, middle slice: T1ce, label, prediction of slim_unetr"
            kept.append(artifact(folder, "picture", "slice.png", png(), title))
        records.append(finished(name, tuple(kept)))
    records.append(failed("unet3d"))
    return write(folder, records)


def prediction(folder: Path) -> Path:
    """The same networks on a device that was not there."""
    return write(folder, [predicted(name) for name in NETWORKS])


#: name -> (params, MACs, published params in M, published compute in G, factor of thop's count, counter that gave it).
#: True counts and published figures of the paper's Table III; what thop says is made up to be plausible.
AUDITS: Mapping[str, tuple[int, int, float, float, float, str | None]] = {
    "slim_unetr": (1_783_425, 2_516_379_648, 1.79, 12.42, 4.9237, "thop"),
    "swin_unetr": (62_191_941, 771_643_486_848, 61.99, 793.92, 1.02886, "thop"),
    "unetr": (102_468_147, 183_643_406_336, 102.37, 203.21, 1.1066, "thop"),
    "nnunet_v1": (13_835_040, 444_612_476_928, 13.82, 446.27, 1.0037, "thop"),
    "segresnet": (10_576_155, 330_225_942_528, 10.64, 330.23, 1.0000126, "torch"),
    "vnet": (45_607_906, 752_510_566_400, 45.66, 780.1, 1.0367, "thop"),
    "attention_unet": (2_722_950, 114_021_629_952, 2.74, 166.52, 1.4604, "thop"),
    "unet3d": (19_076_387, 1_959_444_611_072, 19.24, 2382.1, 1.2157, "thop"),
    "transvw": (19_076_387, 1_959_444_611_072, 19.13, 2381.3, 1.2157, None),
    "e1d3": (34_937_961, 870_397_378_560, 34.91, 946.23, 1.0871, "thop"),
    "transbts": (32_987_588, 325_410_881_536, 30.61, 263.82, 0.8107, "thop"),
    "transunet": (187_513_395, 231_961_788_416, 187.3, 246.41, 1.0623, "thop"),
    "unetr_pp": (42_647_195, 72_754_397_184, 20.12, 139.44, 1.9166, "thop"),
    "vit_autoenc": (183_858_451, 103_582_531_584, 183.41, 125.66, 1.2131, "thop"),
    "vit3d": (183_071_234, 103_286_871_552, 183.01, 93.78, 0.908, "thop"),
}
AUDIT_WORKLOAD = rec.Workload(protocol="audit")


def audit_text(name: str) -> dict[str, Any]:
    """An audit as `bench audit` keeps it: counters, what they get wrong, why the published figures differ."""
    params, macs, published_params, published_macs, factor, by = AUDITS[name]
    thop, bare = round(macs * factor), max(0, params - round(published_params * 1e6))
    differences = [
        difference(
            "normalisations",
            "LayerNorm",
            macs // 200,
            0,
            14,
            "1 per output element counted; multiplies and accumulates nothing",
        ),
        difference(
            "matrix products",
            "bmm",
            0,
            macs // 250,
            8,
            "not counted: computed in a forward, not by a layer that there is a rule for",
        ),
    ]
    left = thop - macs - sum(d["counted"] - d["true"] for d in differences)
    true = max(1, left // 63) if left > 0 else -left
    counted = true + left
    why = "counted over the output volume, which has 64x the input's voxels" if left > 0 else "no rule for attention"
    kind = ("transposed convolutions", "ConvTranspose3d") if left > 0 else ("attention", "scaled_dot_product_attention")
    differences.append(difference(*kind, counted, true, 4, why))
    return {
        "model": name,
        "input": [1, 4, 128, 128, 128],
        "params": {"all": params, "buffers": 3_968, "bare": bare, "shared_modules": [], "unused": 0},
        "counters": [
            counter("torch", macs, params, "2.13.0", "FlopCounterMode / 2 on meta tensors"),
            counter("fvcore", round(macs * 0.997), params, "0.1.5", "on meta tensors"),
            counter("thop", thop, params - bare, "0.1.1", "hooks on layers, at the smallest size, scaled"),
            counter("thop_fixed", macs, params, "0.1.1", "with our rules for what it gets wrong"),
            counter("torch_pruning", None, None, "1.6.0", "needs values", "the forward cannot run without values"),
        ],
        "differences": differences,
        "published": {
            "macs": published_macs * 1e9,
            "params": published_params * 1e6,
            "macs_counter": by,
            "params_counter": by,
            "macs_why": f"the count of {by or 'an older thop'}; {kind[0]}, {why}",
            "params_why": f"the count of thop: {bare:,} bare parameters left out" if bare > 1e5 else "the true count",
        },
        "verdict": f"published compute is {published_macs * 1e9 / macs:.2f} x the truth",
    }


def difference(kind: str, operator: str, counted: int, true: int, modules: int, why: str) -> dict[str, Any]:
    found = {"counter": "thop", "kind": kind, "operator": operator, "counted": counted, "true": true}
    return found | {"modules": modules, "why": why}


def counter(
    name: str, macs: int | None, params: int | None, version: str, how: str, reason: str | None = None
) -> dict[str, Any]:
    fields = {"counter": name, "version": version, "macs": macs, "params": params, "how": how, "reason": reason}
    return fields | {"factor": None}


def audited(folder: Path, name: str, text: dict[str, Any] | None = None, **changes: Any) -> rec.Record:
    """A finished audit with its artifact in `folder`; `text` replaces what the artifact says."""
    params, macs, published_params, published_macs, _, _ = AUDITS[name]
    kept = artifact(
        folder,
        "audit",
        f"{changes.get('started_at', '')}{name}.json".replace(":", ""),
        json.dumps(text or audit_text(name)).encode(),
    )
    found = (
        number("params", params, "analytic", method="every nn.Parameter once"),
        number("macs", macs, "analytic", method="FlopCounterMode / 2 on meta tensors"),
        number("flops", 2 * macs, "analytic", method="2 x macs"),
        number("params", published_params * 1e6, "published", method="Table III", source="Slim UNETR paper, Table III"),
        number("macs", published_macs * 1e9, "published", method="Table III", source="Slim UNETR paper, Table III"),
    )
    return record(name, **({"workload": AUDIT_WORKLOAD, "measurements": found, "artifacts": (kept,)} | changes))


def whole_audit(folder: Path) -> Path:
    """The fifteen networks of Table III."""
    return write(folder, [audited(folder, name) for name in AUDITS])


#: Name -> (params, MACs, median latency in s, peak bytes, MACs for each byte moved); sizes as those of a zoo.
ZOO: Mapping[str, tuple[int, int, float, int, float]] = {
    "slim_unetr": (1_783_425, 2_516_379_648, 0.209, 425_000_000, 5.1),
    "slim_unetr_fixed": (1_790_000, 2_520_000_000, 0.213, 431_000_000, 5.0),
    "unet_small": (5_749_000, 61_000_000_000, 0.93, 720_000_000, 31.0),
    "segformer3d": (4_500_000, 17_500_000_000, 1.04, 640_000_000, 12.4),
    "unetr": (102_468_147, 183_643_406_336, 4.61, 1_610_000_000, 61.0),
    "unetr_pp": (42_647_195, 72_754_397_184, 4.67, 1_720_000_000, 22.0),
    "vit3d": (183_071_234, 103_286_871_552, 1.71, 1_310_000_000, 140.0),
    "vit_autoenc": (183_858_451, 103_582_531_584, 1.74, 1_330_000_000, 138.0),
    "attention_unet": (2_722_950, 114_021_629_952, 5.2, 2_240_000_000, 18.0),
    "mednext_s": (5_500_000, 120_000_000_000, 7.4, 3_100_000_000, 16.0),
    "mednext_b": (10_500_000, 210_000_000_000, 11.2, 4_300_000_000, 17.0),
    "transunet": (187_513_395, 231_961_788_416, 5.6, 2_900_000_000, 58.0),
    "transbts": (32_987_588, 325_410_881_536, 7.9, 2_400_000_000, 66.0),
    "segresnet": (10_576_155, 330_225_942_528, 7.1, 2_100_000_000, 74.0),
    "nnunet_v1": (13_835_040, 444_612_476_928, 8.0, 2_200_000_000, 83.0),
    "nnunet": (31_192_035, 482_734_505_984, 8.52, 2_380_000_000, 86.0),
    "nnunet_resenc_m": (40_000_000, 900_000_000_000, 15.3, 3_000_000_000, 95.0),
    "vnet": (45_607_906, 752_510_566_400, 16.2, 3_900_000_000, 71.0),
    "e1d3": (34_937_961, 870_397_378_560, 15.4, 4_100_000_000, 88.0),
    "swin_unetr": (62_191_941, 771_643_486_848, 22.9, 9_400_000_000, 38.0),
    "transvw": (19_076_387, 1_959_444_611_072, 26.9, 3_700_000_000, 130.0),
    "unet3d": (19_076_387, 1_959_444_611_072, 27.0, 3_690_000_000, 131.0),
}
STANDARD = dataclasses.replace(WORKLOAD, protocol="standard", data=None, split=None)


def timing(metric: str, median: float, per_process: int, seed: int, processes: int = 5) -> rec.Measurement:
    """Samples of several processes, skewed to the slow side, with the interval over their medians."""
    draw = random.Random(seed)
    runs = []
    for _ in range(processes):
        middle = median * draw.gauss(1, 0.008)
        runs.append(
            [middle * (1 + abs(draw.gauss(0, 0.02)) + 0.3 * (draw.random() < 0.01)) for _ in range(per_process)]
        )
    found = statistics.summarise(runs)
    pair = found.interval
    return number(
        metric,
        found.median,
        method=f"median of processes' medians, {found.samples} samples, {processes} processes",
        values=tuple(v for run in runs for v in run),
        runs=tuple(map(len, runs)),
        ci95=(pair.low, pair.high) if pair and pair.confident else None,
    )


def trusted(name: str, *more: rec.Measurement, batch: int = 1, speed: float = 1.0, **changes: Any) -> rec.Record:
    """A row of `standard`: five processes, the peak split, the roof measured; `speed` divides its latency."""
    params, macs, latency, peak, per_byte = ZOO[name]
    seed = list(ZOO).index(name) + 100 * batch
    latency, base, weights = latency * batch / speed, 233_000_000, 4 * params
    given, out = 4 * 4 * 128**3 * batch, 4 * 3 * 128**3 * batch
    timed = timing("latency_s", latency, 10 if latency < 3 else 2, seed)
    peak = base + weights + (peak - base - weights) * batch
    forwards = (2.1, 1.3, 1.08, 1.02, 1.0, 1.01, 0.99) if latency < 3 else (1.22,)
    warmup = [latency * f * (1 + 0.03 * p) for p in range(5) for f in forwards]
    found = [
        number("params", params, "analytic", method="sum over parameters"),
        number("macs", macs * batch, "analytic", method="FlopCounterMode on meta, halved"),
        number("flops", 2 * macs * batch, "analytic", method="2 x macs"),
        number("moved_bytes", round(macs * batch / per_byte), "analytic", method="read and written, over operators"),
        number(
            "tensor_memory_bytes",
            weights + given + out + round(0.6 * (peak - base - weights - given - out)),
            "analytic",
            bound="at_least",
            method="peak of live tensors on fake tensors, at convolution in decoder.block1",
        ),
        timed,
        number("throughput_patches_per_s", batch / (timed.value or 1), method="batch / latency_s"),
        number(
            "warmup_s",
            sum(warmup) / 5,
            values=tuple(warmup),
            runs=(len(forwards),) * 5,
            method=f"{len(forwards)} forwards, until two windows of 3 agreed within 5 %",
        ),
        number(
            "peak_memory_bytes", peak, values=(peak,) * 5, runs=(1,) * 5, method="VmHWM; the largest of 5 processes"
        ),
        number("base_memory_bytes", base, method="resident before the network was built"),
        number("weights_memory_bytes", weights, "analytic"),
        number("input_memory_bytes", given, "analytic"),
        number("output_memory_bytes", out, "analytic"),
        number("activation_memory_bytes", peak - base - weights - given - out, method="what remains of the peak"),
        number("contended_processes", 0, method="steal time and other programs' processor time"),
        number("peak_macs_per_s", 92e9, method="the best of matrix products"),
        number("memory_bandwidth_bytes_per_s", 14.5e9, method="the best of copies"),
    ]
    kept = [m for m in found if m.metric not in {one.metric for one in more}]
    workload = changes.pop("workload", dataclasses.replace(STANDARD, batch=batch))
    return record(name, measurements=(*kept, *more), workload=workload, **changes)


def against_itself(ratio: float = 1.012) -> rec.Measurement:
    method = "latency_s of this network measured a second time in the same run, over its own (A/A)"
    return number("noise_ratio", ratio, ci95=(ratio - 0.01, ratio + 0.01), method=method)


def whole_zoo(folder: Path) -> Path:
    """Twenty-two networks under `standard`: a noise floor, ties, one disturbed, one unstable, one out of memory."""
    records = []
    for name in ZOO:
        kept = (artifact(folder, "layers", f"{name}.json", zoo_layers(name)),)
        extra: tuple[rec.Measurement, ...] = ()
        more: dict[str, Any] = {"artifacts": kept}
        if name == "slim_unetr":
            extra = (against_itself(),)
        if name == "unetr":
            extra = (number("contended_processes", 2, values=(0, 1, 0, 1, 0), runs=(1,) * 5, method="steal time"),)
        if name == "vnet":
            more |= {"status": "unstable", "error": "the median is known to ±9 % only: close other programs"}
        records.append(trusted(name, *extra, **more))
    fits = (
        number("largest_patch_voxels", 96**3, method="96x96x96, by bisection on the forecast, confirmed by one run"),
        number("largest_batch", None, reason="not even one patch fits"),
    )
    records.append(
        record("huge_net", status="oom", error="at least 31 GB needed", measurements=fits, workload=STANDARD)
    )
    return write(folder, records)


def zoo_layers(name: str) -> bytes:
    params, macs = ZOO[name][:2]
    rows = [
        {"module": f"encoder.stage{i // 4}.block{i}.conv", "kind": "conv", "params": params // 40, "macs": macs // 40}
        for i in range(40)
    ]
    return json.dumps({"modules": rows}).encode()


def sweep(folder: Path) -> Path:
    """Three networks by batch, threads and dtype; of the largest one the batch of eight does not fit."""
    records = []
    for name in ("slim_unetr", "unet_small", "swin_unetr"):
        for batch in (1, 2, 4, 8):
            workload = dataclasses.replace(STANDARD, batch=batch)
            if name == "swin_unetr" and batch > 2:
                records.append(record(name, status="oom", error="38 GB needed, 24 GB free", workload=workload))
                continue
            extra = (against_itself(),) if (name, batch) == ("slim_unetr", 1) else ()
            records.append(trusted(name, *extra, batch=batch, speed=1 + 0.1 * (batch - 1) ** 0.5, workload=workload))
        records.append(trusted(name, speed=0.56, workload=dataclasses.replace(STANDARD, threads=1)))
        records.append(trusted(name, speed=2.1, workload=dataclasses.replace(STANDARD, dtype="bf16")))
    return write(folder, records)


def patients(folder: Path) -> Path:
    """Whole volumes by sliding windows, and training steps."""
    work = dataclasses.replace(STANDARD, volume=(240, 240, 155), overlap=0.5)
    records = []
    for i, name in enumerate(("slim_unetr", "slim_unetr_fixed", "unetr", "nnunet")):
        seconds = 18 * ZOO[name][2]
        outside = 2.0 / (seconds + 2.0)
        extra = (
            timing("volume_latency_s", seconds + 2.0, 1, 900 + i),
            number("volume_windows", 18, "analytic", method="of MONAI's inferer"),
            number("volume_outside_share", outside, method="1 - time in the network / time"),
            number("volume_peak_memory_bytes", ZOO[name][3] + 400_000_000, method="VmHWM"),
        )
        records.append(trusted(name, *extra, workload=work))
    for i, name in enumerate(("slim_unetr", "unetr", "nnunet")):
        steps = (
            number("params", ZOO[name][0], "analytic"),
            number("macs", ZOO[name][1], "analytic"),
            timing("train_step_s", 3.1 * ZOO[name][2], 10, 950 + i),
            number("train_peak_memory_bytes", 4 * ZOO[name][3], method="VmHWM"),
            number("train_tensor_memory_bytes", 3 * ZOO[name][3], "analytic", bound="at_least"),
            number("base_memory_bytes", 233_000_000),
        )
        records.append(record(name, measurements=steps, workload=dataclasses.replace(STANDARD, phase="train")))
    return write(folder, records)


#: Data set, and so the Dice, of `several_runtimes`.
CASES = 44


def in_runtime(
    name: str,
    runtime: str = "eager",
    dtype: str = "fp32",
    speed: float = 1.0,
    *,
    dice: float | None = 0.86,
    lost: tuple[float, float, float] | None = None,
    off: float | None = None,
    changed: float | None = None,
    more: tuple[rec.Measurement, ...] = (),
    data: str | None = "ward7",
    int8_accuracy: float | None = None,
    **changes: Any,
) -> rec.Record:
    """A network in one runtime and precision.

    Args:
        name: one of `ZOO`.
        speed: how many times as fast as eager PyTorch in fp32.
        dice: of its test cases; None: there is none.
        lost: mean lost Dice and its interval.
        off: `output_max_error`.
        changed: `mask_changed_share`.
        more: further measurements.
    """
    params, macs, latency, peak, _ = ZOO[name]
    seconds = latency / speed
    found = [
        number("params", params, "analytic"),
        number("macs", macs, "analytic"),
        timing("latency_s", seconds, 10, len(f"{name}{runtime}{dtype}")),
        number("throughput_patches_per_s", 1 / seconds),
        number("peak_memory_bytes", peak if runtime == "eager" else peak // 3),
        number("first_answer_s", 2 * seconds),
    ]
    if dice is not None:
        found.append(number("dice", dice, values=(dice - 0.02, dice + 0.02)))
    if lost:
        method = f"mean over {CASES} cases; worst case {10 * lost[0]:.4f}; 95 % interval of the mean"
        found.append(number("lost_dice", lost[0], ci95=lost[1:], method=method))
    if off is not None:
        found.append(number("output_max_error", off, method="on a patch of case_1"))
    if changed is not None:
        found.append(number("mask_changed_share", changed))
    if runtime not in ("eager", "eager-optimized", "compile"):
        found += [number("prepare_s", 12.2), number("artefact_bytes", 4 * params)]
    work = dataclasses.replace(
        STANDARD, runtime=runtime, dtype=dtype, data=data, split=data and "test", int8_accuracy=int8_accuracy
    )
    return record(name, measurements=(*found, *more), **({"workload": work} | changes))


def several_runtimes(folder: Path) -> Path:
    """Three networks in eager PyTorch, OpenVINO and ONNX Runtime: qualified, unqualified, failed and impossible."""
    exact: dict[str, Any] = {"off": 2e-6, "changed": 0.0, "lost": (0.0, 0.0, 0.0)}
    near: dict[str, Any] = {"off": 4e-3, "changed": 6e-4, "lost": (0.0002, -0.0001, 0.0005)}
    rewritten = number("rewritten_for_inference", 1, "analytic", method="its class's own form")
    no_bf16 = "ONNX Runtime has no bf16 on cpu, only fp32, int8"
    other = (
        "not the same network any more: its output differs by 2.1e-01 of its range (limit 0.001); it loses 0.0412 Dice"
    )
    records = []
    for name, dice in (("slim_unetr", 0.84), ("unet_small", 0.87), ("swin_unetr", 0.88)):
        noise = (against_itself(1.012),) if name == "slim_unetr" else ()
        kept = (artifact(folder, "layers", f"{name}.json", zoo_layers(name)),)
        records += [
            in_runtime(name, dice=dice, more=noise, artifacts=kept),
            in_runtime(name, "eager", "bf16", 1.6, dice=dice, **near, artifacts=kept),
            in_runtime(name, "openvino", "fp32", 2.4, dice=dice, **exact, more=(rewritten,) if noise else ()),
            in_runtime(name, "openvino", "bf16", 4.2, dice=dice - 0.0002, **near),
            in_runtime(name, "onnxruntime", "fp32", 1.3, dice=dice, **exact),
        ]
        work = dataclasses.replace(records[-1].workload, dtype="bf16")
        records.append(record(name, status="unsupported", error=no_bf16, workload=work))
    records.append(in_runtime("unet_small", "openvino", "int8", 7.1, dice=0.869, **near, int8_accuracy=0.005))
    records.append(in_runtime("slim_unetr", "openvino", "int8", 4.0, status="failed", error=other, dice=0.8))
    records.append(in_runtime("swin_unetr", "openvino", "int8", 6.0, dice=0.879, off=6e-3, changed=2e-3))
    return write(folder, records)
