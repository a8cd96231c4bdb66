"""Doctor: whether this machine can measure, what is missing, and what to do about it.

Versions and files say little: a torch that imports may still lack the board's architecture, and shows
it only when a kernel is launched. So some are launched, in a child process (see `kernel_check`), and the
findings about them count more than those about versions.

`warn` is for what can be measured all the same, less well or not entirely. Only a `fail` stands in the way. Nothing
here changes the machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import locale
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from benchbench.core import records as rec
from benchbench.core.errors import UnsupportedError
from benchbench.core.units import format_value
from benchbench.core.version import __version__, installed
from benchbench.devices import cpu, environment, jetson, jetson_sensors, rapl
from benchbench.devices.cpu import ROOT
from benchbench.runner import child_process
from benchbench.runner.job import Job
from benchbench.runner.kernel_check import KERNELS, TOLERANCE, KernelCheck, check_kernels, failure_line
from benchbench.runtimes.catalogue import RUNTIMES
from benchbench.zoo import cards as zoo_cards

Backend = Literal["cpu", "cuda"]

INSTALL = "python3 -m venv --system-site-packages .venv && .venv/bin/pip install ."
_BOARD = f"on a board, leave its maker's torch in place: {INSTALL}"

#: Package -> least version, as in pyproject.toml; without these nothing can be measured.
NEEDED = {"torch": "2.8", "monai": "1.6", "numpy": "1.26", "einops": "0.8", "psutil": "5.9", "safetensors": "0.4.5"}
#: Without these a command or a counter is missing; networks can be measured.
WANTED = {
    "scipy": "1.11",
    "nibabel": "5.2",
    "nilearn": "0.11",
    "fvcore": "0.1.5",
    "thop": "0.1.1",
    "torch-pruning": "1.6",
    "optuna": "5",
    "pandas": "2.2",
    "matplotlib": "3.8",
    "jinja2": "3.1",
    "pyyaml": "6",
    "rich": "13.7",
}
_NVIDIA_DRIVER = Path("proc/driver/nvidia/version")  # below the root, where NVIDIA's driver is loaded
_SHOWN = ("torch", "monai")  # also where they are as they should be
_LEAST_PYTHON = (3, 10)
_LOAD_PER_CORE = 0.3  # above it, somebody else's work is in the timings
_DISK_LOW_BYTES = 1_000_000_000  # the phantom's cases and a run's report take less
_DISK_FULL_BYTES = 50_000_000
_COUNT_LIMIT_S = 30.0  # of counting the zoo; a board gets through a part of it


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str  # `torch`, `cpu fp32 kernels`
    status: Literal["ok", "warn", "fail"]
    text: str  # what was found
    advice: str = ""  # what to do about it; a sound finding has none


def _look(name: str, text: str, advice: str = "") -> Finding:
    """A finding that is a warning where there is something to do about it."""
    return Finding(name, "warn" if advice else "ok", text, advice)


def ready(findings: Sequence[Finding]) -> bool:
    """Whether nothing that was found stands in the way of a measurement."""
    return all(finding.status != "fail" for finding in findings)


def examine(
    root: Path = ROOT,
    *,
    kernels: bool = True,
    backend: Backend | None = None,
    results: Path | None = None,
) -> Iterator[Finding]:
    """Look at this machine.

    Args:
        kernels: launch them, which takes a second process and the time to import torch.
        backend: only what `--device cpu` or `cuda` needs; None: both, and no GPU is then no fault on a machine
            that is no Jetson.
        results: folder that results will go to; None where they go elsewhere.

    Yields:
        Findings as they are made, the quick ones first.
    """
    board = jetson.detect(root)
    yield from _software()
    yield from runtime_findings(gpu=board is not None or (root / _NVIDIA_DRIVER).exists())
    yield from _machine(root, board)
    yield from _surroundings(results)
    if kernels:
        yield from examine_kernels(root, board, backend)


# -- software ----------------------------------------------------------------------------------------


def _software() -> Iterator[Finding]:
    old = sys.version_info[:2] < _LEAST_PYTHON
    advice = "benchbench needs Python 3.10 or newer" if old else ""
    yield Finding("python", "fail" if old else "ok", f"{platform.python_version()} at {sys.executable}", advice)
    commit = environment.commit(Path(__file__).resolve().parents[2])
    at = f", commit {commit[:10]}" if commit else ""
    yield _look("benchbench", f"{__version__}{at}, schema {rec.SCHEMA}")
    packages = [_package(name, least) for name, least in NEEDED.items()]
    packages += [_package(name, least, lacking="warn") for name, least in WANTED.items()]
    yield from (package for package in packages if package.name in _SHOWN or package.status != "ok")
    others = [package for package in packages if package.name not in _SHOWN]
    if all(package.status == "ok" for package in others):
        yield _look("other packages", f"all {len(others)} are there")


def _package(name: str, least: str, *, lacking: Literal["warn", "fail"] = "fail") -> Finding:
    advice = f"install it where this Python looks; {_BOARD}" if name == "torch" else f"'pip install .'; {_BOARD}"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, lacking, "not installed", advice)
    if _numbers(version) < _numbers(least):
        if name == "torch":
            advice = "install a newer build for this JetPack or CUDA first; pip alone may bring one that sees no GPU"
        return Finding(name, lacking, f"{version}, and {least} or newer is needed", advice)
    return Finding(name, "ok", version)


def runtime_findings(*, gpu: bool) -> Iterator[Finding]:
    """One finding for each runtime that runs a file: its version, or what is missing for it.

    Args:
        gpu: this machine has an NVIDIA GPU; without, what runs on those alone is not missed.
    """
    for runtime in RUNTIMES.values():
        if runtime.in_pytorch or not runtime.is_measured or not (gpu or "cpu" in runtime.dtypes):
            continue
        if why := runtime.missing(*runtime.makes):
            what, _, advice = why.partition(": ")
            alone = what == f"{runtime.name} not installed"
            yield Finding(runtime.name, "warn", "not installed" if alone else what, advice)
            continue
        version = str(installed(runtime.name))
        if runtime.name == "tensorrt":
            try:
                runtime.load().check_version(version, "fp32")
            except UnsupportedError as error:
                yield Finding(runtime.name, "warn", str(error), "update JetPack, or the tensorrt package")
                continue
        elif why := runtime.missing("openvino", "nncf"):  # which quantize for all but TensorRT
            what, *_ = why.partition(": ")
            yield Finding(runtime.name, "ok", f"{version}; without int8: {what}")
            continue
        yield _look(runtime.name, version)


def _numbers(version: str) -> tuple[int, ...]:
    """The release of a version as numbers, padded: `2.8.0a0+5228986c39.nv25.6` is (2, 8, 0, 0)."""
    release = re.match(r"\d+(\.\d+)*", version)
    numbers = tuple(int(part) for part in release[0].split(".")) if release else ()
    return (*numbers, 0, 0, 0, 0)[:4]


# -- machine -----------------------------------------------------------------------------------------


def _machine(root: Path, board: jetson.TegraBoard | None) -> Iterator[Finding]:
    cores = cpu.usable_cores(root)
    yield _look("processor", f"{cpu.name(root)}, {cores} core(s) usable")
    free, total = cpu.available_memory_bytes(root), cpu.total_memory_bytes(root)
    text = f"{format_value(free, 'B')} of {format_value(total, 'B')} free"
    if board:
        text += ", which CPU and GPU share"
    advice = "close other programs; a board measures best without its desktop" if free < total / 2 else ""
    yield _look("memory", text, advice)
    if board:
        release = f", Linux for Tegra {board.l4t}" if board.l4t else ""
        yield _look("board", f"{board.model}{release}; profile {board.profile or 'not known for sure'}")
        yield _power_mode(board)
    yield _clocks(root) if board else _governor(root)
    yield _energy(root, board)
    load = cpu.load_average(root)
    if load is not None:
        advice = "close other programs, or wait: they are in the timings" if load > _LOAD_PER_CORE * cores else ""
        text = f"{load:.2f} processes in the last minute, {cores} core(s)"
        yield _look("load", text, advice)


def _power_mode(board: jetson.TegraBoard) -> Finding:
    if board.power_mode is None:
        return _look("power mode", "not known: /var/lib/nvpmodel/status cannot be read", "see 'sudo nvpmodel -q'")
    return _look("power mode", f"{board.power_mode} (another is another device: each has its own clocks)")


def _governor(root: Path) -> Finding:
    governor = cpu.governor(root)
    if governor in (None, "performance"):
        return _look("cpu clocks", f"governor {governor}" if governor else "the system tells no governor")
    advice = "for steady timings: 'sudo cpupower frequency-set -g performance'"
    return _look("cpu clocks", f"governor {governor}: clocks follow the load", advice)


def _clocks(root: Path) -> Finding:
    locked = jetson_sensors.clocks_locked(root)
    if locked is None:
        return _look("clocks", "not known: the kernel does not tell their range", "'sudo jetson_clocks --show'")
    if locked:
        return _look("clocks", "locked: CPU and GPU run at one frequency")
    advice = "for steady timings: 'bench run --set-clocks', or 'sudo jetson_clocks' until the next boot"
    return _look("clocks", "not locked: they follow the load", advice)


def _energy(root: Path, board: jetson.TegraBoard | None) -> Finding:
    """Where `energy_j` will come from; a discrete GPU's is told with the GPU."""
    if board:
        supply = jetson_sensors.supply(root)
        if supply is None:
            advice = "rows have no energy, unless tegrastats tells it"
            return _look("energy", "no power rail under /sys/class/hwmon can be read", advice)
        return _look("energy", f"{' + '.join(rail.name for rail in supply.rails)}: {supply.scope}")
    packages = rapl.packages(root)
    if packages:
        return _look("energy", f"RAPL {' + '.join(p.name for p in packages)}: processor package, not wall")
    if any(root.glob("sys/class/powercap/intel-rapl:*")):
        text = "the processor's counter (RAPL) cannot be read"
        return _look("energy", text, "root may: 'sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj'")
    return _look("energy", "the processor has no sensor that can be read: its rows have no energy")


# -- surroundings ------------------------------------------------------------------------------------


def _surroundings(results: Path | None) -> Iterator[Finding]:
    if results is not None:
        yield _disk("results folder", results, "run from a folder that can be written, or use --out")
    with contextlib.suppress(ImportError):  # without numpy, which is a finding of its own
        from benchbench.data.phantom import cache_folder

        yield _disk("cache folder", cache_folder().parent, "set BENCHBENCH_CACHE to a folder that can be written")
    built = Path(__file__).stat().st_mtime
    now = time.time()
    if now < built - 86_400:
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(now))
        yield _look("clock", f"{when} UTC, before benchbench was installed", "set it: 'sudo timedatectl'")
    encoding = locale.getpreferredencoding(False)
    if encoding.lower().replace("-", "") not in ("utf8", "cp65001"):
        yield _look("locale", f"text is {encoding}", "set LANG=C.UTF-8, or names may come out garbled")


def _disk(name: str, folder: Path, advice: str) -> Finding:
    """Free space where `folder` is, or would be made."""
    folder = folder.absolute()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        free = shutil.disk_usage(there).free
    except OSError as error:
        return Finding(name, "fail", f"{folder}: {error.strerror or error}", advice)
    worst: Literal["warn", "fail"] = "warn" if name == "cache folder" else "fail"  # without it, cases are made again
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding(name, worst, f"{folder} cannot be written", advice)
    text = f"{folder}: {format_value(free, 'B')} free"
    if free < _DISK_LOW_BYTES:
        return Finding(name, worst if free < _DISK_FULL_BYTES else "warn", text, "make room")
    return Finding(name, "ok", text)


# -- kernels -----------------------------------------------------------------------------------------


def examine_kernels(root: Path, board: jetson.TegraBoard | None, backend: Backend | None) -> Iterator[Finding]:
    """Launch the kernels, and say what of torch, GPU and memory this shows.

    Args:
        backend: the one that must work; None: the CPU, and the GPU where there is one.
    """
    backends = [backend] if backend else ["cpu", "cuda"]
    check = check_kernels([(b, kernel, dtype) for b in backends for dtype in TOLERANCE for kernel in KERNELS])
    if check.torch is None:
        advice = "install a torch that is built for this processor"
        yield Finding("torch starts", "fail", f"it does not: {check.end}", advice)
        return
    if check.end:
        yield Finding("gpu", "fail", f"looking for it, {check.end}", "check the driver: 'nvidia-smi', or 'dmesg'")
    if check.has_gpu:
        yield from gpu_findings(check, board)
    elif check.gpu is not None:
        why, _, remedy = check.gpu["why"].removeprefix("cuda asked for and absent: ").partition("; ")
        if board:
            yield Finding("gpu", "fail", why, "install the torch that is built for this JetPack")
        elif backend == "cuda":
            yield Finding("gpu", "fail", why, remedy)
        else:
            yield _look("gpu", f"none, so --device cpu alone is measured here: {why}")
    for b in backends:
        if b == "cpu" or check.has_gpu:
            for dtype in TOLERANCE:
                yield from kernel_findings(check, b, dtype)
    yield from _networks_that_fit(root, check, board, backend)


def gpu_findings(check: KernelCheck, board: jetson.TegraBoard | None) -> Iterator[Finding]:
    """What torch sees of a GPU that can be used."""
    assert check.torch is not None
    assert check.gpu is not None
    gpu = check.gpu
    major, minor = gpu["capability"]
    text = f"{gpu['name']}, compute capability {major}.{minor}, torch built for CUDA {check.torch['cuda']}"
    yield _look("gpu", text)
    yield architecture((major, minor), gpu["arches"], tegra=board is not None)
    free, total = gpu["free_bytes"], gpu["total_bytes"]
    text = f"{format_value(free, 'B')} of {format_value(total, 'B')} free"
    taken = free < total * 0.8 and board is None
    advice = "see 'nvidia-smi' for who has it; other work is in the timings" if taken else ""
    yield _look("gpu memory", text, advice)
    energy = gpu.get("energy") or {}
    if energy.get("why"):
        yield Finding("gpu energy", "warn", f"its rows have none: {energy['why']}")
    elif energy:
        yield _look("gpu energy", energy["what"])


def architecture(capability: tuple[int, int], arches: Sequence[str], *, tegra: bool) -> Finding:
    """Whether torch's build has code for a GPU.

    Args:
        capability: of the GPU, (8, 7).
        arches: `torch.cuda.get_arch_list()`, such as sm_80, sm_90a, compute_90.
        tegra: a Tegra runs no code for a desktop GPU of its family.
            Source: CUDA C++ Programming Guide, "Binary Compatibility".
    """
    major, minor = capability
    name = f"sm_{major}{minor}"
    listed = ", ".join(arches) or "none"
    if name in arches or f"{name}a" in arches:
        return _look("gpu architecture", f"{name} is in torch's build ({listed})")
    numbers = {a: int(a.split("_")[1]) for a in arches if a.split("_")[-1].isdigit()}
    related = [a for a, n in numbers.items() if a.startswith("sm_") and n // 10 == major and n % 10 <= minor]
    portable = [a for a, n in numbers.items() if a.startswith("compute_") and n <= major * 10 + minor]
    if related and not tegra:
        return _look("gpu architecture", f"{name} runs the code for {max(related, key=numbers.__getitem__)}")
    advice = "install a torch that is built for it" + (", as NVIDIA's for this JetPack is" if tegra else "")
    if portable:
        newest = max(portable, key=numbers.__getitem__)
        text = f"{name} is not in torch's build; the driver compiles {newest} for it, so the first forward is slow"
        return _look("gpu architecture", text, advice)
    return _look("gpu architecture", f"{name} is not in torch's build ({listed}); see the kernels", advice)


def kernel_findings(check: KernelCheck, backend: str, dtype: str) -> Iterator[Finding]:
    """One finding for each fault, and one for the kernels that are sound."""
    name = f"{backend} {dtype} kernels"
    kernels: dict[str, list[str]] = {}
    for (b, kernel, d), why in check.faults.items():
        if (b, d) == (backend, dtype):
            kernels.setdefault(why, []).append(kernel)
    for why, broken in kernels.items():
        text = f"{', '.join(broken)}: {why}"
        if dtype == "fp32":
            processor = "GPU" if backend == "cuda" else "processor"
            yield Finding(name, "fail", text, f"install another build of torch, one that is built for this {processor}")
        else:  # fp32 is what is measured unless another type is asked for
            yield Finding(name, "warn", text, f"on this {backend}, measure without --dtype {dtype}")
    sound = {kernel: error for (b, kernel, d), error in check.sound.items() if (b, d) == (backend, dtype)}
    if sound:
        text = f"{', '.join(sound)}: launched and right, at most {max(sound.values()):.0e} off float64"
        yield Finding(name, "ok", text)


def _networks_that_fit(
    root: Path, check: KernelCheck, board: jetson.TegraBoard | None, backend: Backend | None
) -> Iterator[Finding]:
    """Which networks of the zoo fit into what is free now, as far as they can be counted in a moment."""
    needed_bytes: dict[str, int] = {}
    why = None
    cards = [zoo_cards.get_card(name) for name in zoo_cards.list_models()]
    jobs = [rec.to_json(Job(model=c.spec(), workload=rec.Workload(spatial=c.spatial))) for c in cards]
    for event in child_process.run_worker({"task": "count", "jobs": jobs}, limit_s=_COUNT_LIMIT_S):
        if isinstance(event, child_process.WorkerFailure):
            why = failure_line(event, _COUNT_LIMIT_S)
        elif event["event"] == "refused":
            why = event["error"]
        elif event["event"] == "cost":
            memory = next((m["value"] for m in event["measurements"] if m["metric"] == "tensor_memory_bytes"), None)
            if memory:
                needed_bytes[cards[event["index"]].name] = memory
    if not needed_bytes:
        yield Finding("counting", "fail", f"no network can be counted: {why}", "see the findings above")
        return
    yield fits("memory", cpu.available_memory_bytes(root), needed_bytes, len(cards))
    if check.gpu and check.has_gpu and backend != "cpu" and board is None:
        yield fits("gpu memory", check.gpu["free_bytes"], needed_bytes, len(cards))


def fits(place: str, free_bytes: int, needed_bytes: Mapping[str, int], zoo_size: int) -> Finding:
    """Which networks fit.

    Args:
        needed_bytes: network -> the least that its tensors take, at its card's own size.
        zoo_size: networks that there are; the others were not counted in time.
    """
    largest = sorted(needed_bytes, key=lambda name: -needed_bytes[name])
    too_large = [name for name in largest if needed_bytes[name] > free_bytes]
    which = f"all {zoo_size} networks" if len(largest) == zoo_size else f"the {len(largest)} networks counted so far"
    room = f"{format_value(free_bytes, 'B')} free; tensors alone, each at its card's size"
    if not too_large:
        most = f"{largest[0]} takes most, {format_value(needed_bytes[largest[0]], 'B')}"
        return _look(f"fits {place}", f"{which}: {most} of {room}")
    names = ", ".join(f"{name} ({format_value(needed_bytes[name], 'B')})" for name in too_large)
    text = f"{len(largest) - len(too_large)} of {which}, not {names}: {room}"
    return _look(f"fits {place}", text, "close other programs, or take a smaller --spatial for these")
