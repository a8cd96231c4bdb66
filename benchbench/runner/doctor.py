"""Doctor: whether this machine can measure, what is missing, and what to do about it.

Versions and files say little: a torch that imports may still lack the board's architecture, and shows
it only when a kernel is launched. So one of each kind is launched, in a child process (see
`kernel_trials`), and the findings about them count more than those about versions.

Nothing here changes the machine.
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
from collections.abc import Iterator
from pathlib import Path

from benchbench.core.records import SCHEMA
from benchbench.core.units import format_value
from benchbench.core.version import __version__
from benchbench.devices import cpu, environment, jetson, jetson_sensors, rapl
from benchbench.devices.cpu import ROOT
from benchbench.runner import kernel_check
from benchbench.runner.findings import INSTALL, Backend, Finding, ready

__all__ = ["Finding", "examine", "ready"]

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
    "rich": "13.7",
}
_LEAST_PYTHON = (3, 10)
_LOAD_PER_CORE = 0.3  # above it, somebody else's work is in the timings
_DISK_LOW_BYTES = 1_000_000_000  # the phantom's cases and a run's report take less
_DISK_FULL_BYTES = 50_000_000


def examine(
    root: Path = ROOT,
    *,
    kernels: bool = True,
    backend: Backend | None = None,
    results: Path | None = None,
) -> Iterator[Finding]:
    """Look at this machine.

    Args:
        root: where /proc, /sys and /etc are looked for.
        kernels: launch them, which takes a second process and the time to import torch.
        backend: only what `--device cpu` or `cuda` needs; None: both, and no GPU is then no fault on a machine
            that is no Jetson.
        results: folder that results will go to; None where they go elsewhere.

    Yields:
        Findings as they are made, the quick ones first.
    """
    board = jetson.detect(root)
    yield from _software()
    yield from _machine(root, board)
    yield from _surroundings(results)
    if kernels:
        yield from kernel_check.examine(root, board, backend)


# -- software ----------------------------------------------------------------------------------------


def _software() -> Iterator[Finding]:
    version = platform.python_version()
    if sys.version_info[:2] < _LEAST_PYTHON:
        yield Finding("python", "fail", f"{version} at {sys.executable}", "benchbench needs Python 3.10 or newer")
    else:
        yield Finding("python", "ok", f"{version} at {sys.executable}")
    commit = environment.commit(Path(__file__).resolve().parents[2])
    yield Finding("benchbench", "ok", f"{__version__}{f', commit {commit[:10]}' if commit else ''}, schema {SCHEMA}")
    for name in ("torch", "monai"):
        yield _package(name, NEEDED[name])
    others = [_package(name, least) for name, least in NEEDED.items() if name not in ("torch", "monai")]
    more = [dataclasses.replace(f, status="warn") for f in _wanted() if f.status == "fail"]
    wrong = [f for f in others if f.status == "fail"] + more
    if wrong:
        yield from wrong
    else:
        yield Finding("other packages", "ok", f"all {len(others) + len(WANTED)} are there")


def _wanted() -> list[Finding]:
    return [_package(name, least) for name, least in WANTED.items()]


def _package(name: str, least: str) -> Finding:
    advice = f"install it where this Python looks; {_BOARD}" if name == "torch" else f"'pip install .'; {_BOARD}"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "fail", "not installed", advice)
    if _numbers(version) < _numbers(least):
        if name == "torch":
            advice = "install a newer build for this JetPack or CUDA first; pip alone may bring one that sees no GPU"
        return Finding(name, "fail", f"{version}, and {least} or newer is needed", advice)
    return Finding(name, "ok", version)


def _numbers(version: str) -> tuple[int, ...]:
    """The release of a version as numbers, padded: `2.8.0a0+5228986c39.nv25.6` is (2, 8, 0, 0)."""
    release = re.match(r"\d+(\.\d+)*", version)
    numbers = tuple(int(part) for part in release[0].split(".")) if release else ()
    return (*numbers, 0, 0, 0, 0)[:4]


# -- machine -----------------------------------------------------------------------------------------


def _machine(root: Path, board: jetson.TegraBoard | None) -> Iterator[Finding]:
    cores = cpu.usable_cores(root)
    yield Finding("processor", "ok", f"{cpu.name(root)}, {cores} core(s) usable")
    free, total = cpu.available_memory_bytes(root), cpu.total_memory_bytes(root)
    text = f"{format_value(free, 'B')} of {format_value(total, 'B')} free"
    if board:
        text += ", which CPU and GPU share"
    if free < total / 2:
        yield Finding("memory", "warn", text, "close other programs; a board measures best without its desktop")
    else:
        yield Finding("memory", "ok", text)
    if board:
        release = f", Linux for Tegra {board.l4t}" if board.l4t else ""
        yield Finding("board", "ok", f"{board.model}{release}; profile {board.profile or 'not known for sure'}")
        yield _power_mode(board)
    yield _clocks(root) if board else _governor(root)
    yield _energy(root, board)
    yield from _load(root, cores)


def _power_mode(board: jetson.TegraBoard) -> Finding:
    if board.power_mode is None:
        return Finding(
            "power mode", "warn", "not known: /var/lib/nvpmodel/status cannot be read", "see 'sudo nvpmodel -q'"
        )
    return Finding("power mode", "ok", f"{board.power_mode} (another is another device: each has its own clocks)")


def _governor(root: Path) -> Finding:
    found = cpu.governor(root)
    if found in (None, "performance"):
        return Finding("cpu clocks", "ok", f"governor {found}" if found else "the system tells no governor")
    advice = "for steady timings: 'sudo cpupower frequency-set -g performance'"
    return Finding("cpu clocks", "warn", f"governor {found}: clocks follow the load", advice)


def _clocks(root: Path) -> Finding:
    locked = jetson_sensors.clocks_locked(root)
    if locked is None:
        return Finding(
            "clocks", "warn", "not known: the kernel does not tell their range", "'sudo jetson_clocks --show'"
        )
    if locked:
        return Finding("clocks", "ok", "locked: CPU and GPU run at one frequency")
    advice = "for steady timings: 'bench run --set-clocks', or 'sudo jetson_clocks' until the next boot"
    return Finding("clocks", "warn", "not locked: they follow the load", advice)


def _energy(root: Path, board: jetson.TegraBoard | None) -> Finding:
    """Where `energy_j` will come from; a discrete GPU's is told with the GPU."""
    if board:
        supply = jetson_sensors.supply(root)
        if supply is None:
            advice = "rows have no energy, unless tegrastats tells it"
            return Finding("energy", "warn", "no power rail under /sys/class/hwmon can be read", advice)
        return Finding("energy", "ok", f"{' + '.join(rail.name for rail in supply.rails)}: {supply.scope}")
    packages = rapl.packages(root)
    if packages:
        return Finding("energy", "ok", f"RAPL {' + '.join(p.name for p in packages)}: processor package, not wall")
    if any(root.glob("sys/class/powercap/intel-rapl:*")):
        text = "the processor's counter (RAPL) cannot be read"
        return Finding("energy", "warn", text, "root may: 'sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj'")
    return Finding("energy", "ok", "the processor has no sensor that can be read: its rows have no energy")


def _load(root: Path, cores: int) -> Iterator[Finding]:
    load = cpu.load_average(root)
    if load is None:
        return
    text = f"{load:.2f} processes in the last minute, {cores} core(s)"
    if load > _LOAD_PER_CORE * cores:
        yield Finding("load", "warn", text, "close other programs, or wait: they are in the timings")
    else:
        yield Finding("load", "ok", text)


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
        yield Finding("clock", "warn", f"{when} UTC, before benchbench was installed", "set it: 'sudo timedatectl'")
    encoding = locale.getpreferredencoding(False)
    if encoding.lower().replace("-", "") not in ("utf8", "cp65001"):
        yield Finding("locale", "warn", f"text is {encoding}", "set LANG=C.UTF-8, or names may come out garbled")


def _disk(name: str, folder: Path, advice: str) -> Finding:
    """Free space where `folder` is, or would be made."""
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        free = shutil.disk_usage(there).free
    except OSError as error:
        return Finding(name, "fail", f"{folder.absolute()}: {error.strerror or error}", advice)
    text = f"{folder.absolute()}: {format_value(free, 'B')} free"
    cache = name == "cache folder"  # without it, each use makes its cases again
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding(name, "warn" if cache else "fail", f"{folder.absolute()} cannot be written", advice)
    if free < _DISK_FULL_BYTES:
        return Finding(name, "warn" if cache else "fail", text, "make room")
    return Finding(name, "warn" if free < _DISK_LOW_BYTES else "ok", text, "make room" * (free < _DISK_LOW_BYTES))
