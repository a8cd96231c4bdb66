"""Environment of a record: versions, processor, memory, board.

A plain dict of JSON values, None where something is not known. `records.fingerprint` hashes it
without the keys of `records.VOLATILE`, so nothing that changes from minute to minute may have a key
of its own here without standing there.
"""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Any, Literal

from benchbench.core.errors import DeviceError
from benchbench.core.version import __version__, installed
from benchbench.devices import cpu, cuda, jetson, jetson_sensors, nvml
from benchbench.devices.cpu import ROOT, read_text


def environment(
    backend: Literal["cpu", "cuda"] | None = "cpu",
    threads: int | None = None,
    root: Path = ROOT,
    *,
    cuda_index: int = 0,
    checkout: Path | None = None,
) -> dict[str, Any]:
    """The conditions of a run; imports torch only for `cuda`.

    Args:
        backend: what computes; None where nothing is run.
        checkout: the git clone whose commit is meant; None: the one that benchbench is imported from.

    Raises:
        DeviceError: `cuda` asked for and absent.
    """
    board = jetson.detect(root)
    gpu = cuda.probe(cuda_index).name if backend == "cuda" else None
    return {
        "python": platform.python_version(),
        "torch": installed("torch"),
        "monai": installed("monai"),
        "numpy": installed("numpy"),
        "benchbench": __version__,  # of this copy, installed or not
        "commit": commit(checkout or Path(__file__).resolve().parents[2]),
        "system": platform.system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": cpu.name(root),
        "cores": cpu.usable_cores(root),
        "threads": threads,
        "affinity": cpu.ranges(cpu.allowed_cores()),
        "memory_bytes": cpu.total_memory_bytes(root),
        "governor": cpu.governor(root),
        "gpu": gpu,
        "gpu_memory_bytes": cuda.memory_bytes(cuda_index)[1] if backend == "cuda" else None,
        "cuda": cuda.torch_with(cuda_index).version.cuda if backend == "cuda" else None,
        "driver": driver(root),
        "jetson": board.model if board else None,
        "l4t": board.l4t if board else None,
        "power_mode": board.power_mode if board else None,
        "clocks_locked": jetson_sensors.clocks_locked(root) if board else None,
        **(_gpu_facts(cuda_index) if backend == "cuda" and not board else _NO_GPU),
        "load_average": cpu.load_average(root),
        "available_memory_bytes": cpu.available_memory_bytes(root),
    }


_NO_GPU: dict[str, Any] = {"power_limit_w": None, "mig": None, "gpu_processes": None}


def _gpu_facts(index: int) -> dict[str, Any]:
    """What NVML tells of a GPU; nothing without nvidia-ml-py or a driver."""
    try:
        gpu = nvml.of_torch(index)
    except DeviceError:
        return _NO_GPU
    return {"power_limit_w": gpu.power_limit_w(), "mig": gpu.mig, "gpu_processes": gpu.other_processes()}


def driver(root: Path = ROOT) -> str | None:
    """The version of NVIDIA's kernel driver, `570.86.15`; None where it is not loaded."""
    text = read_text(root / "proc/driver/nvidia/version") or ""
    match = re.search(r"Kernel Module\s+(?:for \S+\s+)?(\d+(?:\.\d+)+)", text)
    return match[1] if match else None


def commit(checkout: Path) -> str | None:
    """The commit of a git clone, read without running git; None where the folder is none."""
    git = checkout / ".git"
    if git.is_file():  # a work tree of its own: the file says where its HEAD is
        git = checkout / (read_text(git) or "").removeprefix("gitdir:").strip()
    head = read_text(git / "HEAD") or ""
    if not head.startswith("ref:"):
        return head if re.fullmatch(r"[0-9a-f]{40,64}", head) else None
    ref = head.removeprefix("ref:").strip()
    shared = read_text(git / "commondir")
    for folder in (git, git / shared) if shared else (git,):
        if sha := read_text(folder / ref):
            return sha
        for line in (read_text(folder / "packed-refs") or "").splitlines():
            if line.endswith(f" {ref}"):
                return line.partition(" ")[0]
    return None
