"""Jetson boards, from the device tree: module, memory, power mode; and their clocks (`--set-clocks`).

The device tree names the *family* reliably and the variant not: Linux for Tegra on a 64 GB AGX Orin
calls itself `p3701-0000` as the 32 GB one does. So the family comes from the part number and the
variant from the memory that the kernel counts. A "Super" module is the same board in another power
mode, so that comes from nvpmodel. Where no rule is sure, `profile` is None.

NVIDIA's own `jetson_clocks` sets the highest clocks of the power mode and restores the former ones, which it stores in
a file of ours. Nothing else here ever changes a clock; without the flag a run only records whether clocks are locked.

Source of the part numbers: NVIDIA Jetson Linux Developer Guide, "Jetson EEPROM Layout"; the Linux
kernel's Documentation/devicetree/bindings/arm/tegra.yaml.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchbench.core.errors import DeviceError
from benchbench.devices.cpu import ROOT, meminfo_bytes, read_text

log = logging.getLogger(__name__)

_BY_HAND = "or run 'sudo jetson_clocks' yourself and leave --set-clocks out"
_LIMIT_S = 60.0

_GIB = 2**30
_SOCS = ("tegra210", "tegra186", "tegra194", "tegra234", "tegra264")
_PART = re.compile(r"p(\d{4})-(\d{4})")

#: Module of the part number -> {memory in GiB: profile}.
_MODULES: dict[str, dict[int, str]] = {
    "3448": {4: "jetson-nano-4gb"},
    "3310": {8: "jetson-tx2"},
    "3668": {8: "jetson-xavier-nx-8gb", 16: "jetson-xavier-nx-16gb"},
    "2888": {32: "jetson-agx-xavier-32gb", 64: "jetson-agx-xavier-64gb"},
    "3701": {64: "jetson-agx-orin-64gb"},
    "3834": {64: "jetson-thor-t4000", 128: "jetson-thor-t5000"},
}
_ORIN_NANO = {4: "jetson-orin-nano-4gb", 8: "jetson-orin-nano-8gb"}
_ORIN_NX = {8: "jetson-orin-nx-8gb", 16: "jetson-orin-nx-16gb"}
#: Industrial modules: other clocks than the profiles have.
_OTHER_CLOCKS = {("2888", "0008"), ("3701", "0008")}
_SUPER = {"jetson-orin-nano-4gb", "jetson-orin-nano-8gb", "jetson-orin-nx-16gb"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TegraBoard:
    """A Jetson as its device tree tells."""

    model: str  # `NVIDIA Jetson Orin Nano Developer Kit`
    soc: str  # `tegra234`
    compatible: tuple[str, ...]
    part_number: str | None  # `p3767-0005`; the tree's, which on some boards names only the family
    memory_bytes: int | None  # as the kernel counts: what it keeps for itself is missing
    profile: str | None  # the profile of this very module in this power mode; None: not sure
    l4t: str | None  # Linux for Tegra release, `36.4.3`
    power_mode: str | None  # `MAXN_SUPER`, or the mode's number where its name is not known


def detect(root: Path = ROOT) -> TegraBoard | None:
    """The Jetson that this machine is, or None."""
    raw = read_text(root / "proc/device-tree/compatible")
    compatible = tuple(part for part in (raw or "").split("\0") if part)
    soc = next((soc for soc in _SOCS if f"nvidia,{soc}" in compatible), None)
    if soc is None:
        return None
    model = read_text(root / "proc/device-tree/model") or f"Jetson with {soc}"
    memory = meminfo_bytes(root, "MemTotal")
    mode = power_mode(root)
    part = _part_number(root, compatible)
    return TegraBoard(
        model=model,
        soc=soc,
        compatible=compatible,
        part_number=part,
        memory_bytes=memory,
        profile=_profile(part, model, memory, mode),
        l4t=_l4t_release(root),
        power_mode=mode,
    )


def _l4t_release(root: Path) -> str | None:
    """The Linux for Tegra release, `36.4.3`, of a line `# R36 (release), REVISION: 4.3, ...`."""
    match = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", read_text(root / "etc/nv_tegra_release") or "")
    return f"{match[1]}.{match[2]}" if match else None


def power_mode(root: Path = ROOT) -> str | None:
    """The power mode that nvpmodel set: its name by /etc/nvpmodel.conf, else its number."""
    status = re.search(r"pmode:\s*(\d+)", read_text(root / "var/lib/nvpmodel/status") or "")
    if status is None:
        return None
    number = int(status[1])
    for entry in re.finditer(r"POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", read_text(root / "etc/nvpmodel.conf") or ""):
        if int(entry[1]) == number:
            return entry[2].rstrip(">")
    return str(number)


def _part_number(root: Path, compatible: tuple[str, ...]) -> str | None:
    """The module's part number; the carrier board's stands in the same strings and is passed over."""
    modules = {*_MODULES, "3767", "3636", "3489"}
    texts = (*compatible, read_text(root / "proc/device-tree/nvidia,dtsfilename") or "")
    for text in texts:
        for board, sku in _PART.findall(text):
            if board in modules:
                return f"p{board}-{sku}"
    return None


def _profile(part: str | None, model: str, memory: int | None, mode: str | None) -> str | None:
    if part is None or memory is None:
        return None
    board, sku = part[1:].split("-")
    nominal = next((size for size in (1, 2, 4, 8, 16, 32, 64, 128) if memory <= size * _GIB), None)
    if nominal is None or (board, sku) in _OTHER_CLOCKS or "industrial" in model.lower():
        return None
    if board == "3767":
        nano = sku in ("0003", "0004", "0005") or "orin nano" in model.lower()
        profile = (_ORIN_NANO if nano else _ORIN_NX).get(nominal)
    elif (board, sku, nominal) == ("3701", "0004", 32):
        profile = "jetson-agx-orin-32gb"  # p3701-0000 with 32 GB is the developer kit: the 64 GB module's GPU
    else:
        profile = _MODULES.get(board, {}).get(nominal)
    if profile in _SUPER and "SUPER" in (mode or "").upper():
        return f"{profile}-super"
    return profile


def _call(command: Sequence[str]) -> tuple[int, str]:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT_S, check=False
    )
    return done.returncode, (done.stdout + done.stderr).strip()


@contextlib.contextmanager
def clocks_set(root: Path = ROOT, *, call: Callable[[Sequence[str]], tuple[int, str]] = _call) -> Iterator[None]:
    """Lock the clocks of this Jetson while the block runs.

    Raises:
        DeviceError: this is no Jetson, there is no jetson_clocks, or it may not set clocks.
    """
    if detect(root) is None:
        raise DeviceError(
            "--set-clocks runs jetson_clocks, and this machine is no Jetson: "
            "leave it out, or run bench on the board itself"
        )
    with tempfile.TemporaryDirectory(prefix="benchbench-") as folder:
        former = f"{folder}/clocks"
        _do(["jetson_clocks", "--store", former], call)
        try:
            _do(["jetson_clocks"], call)
            yield
        finally:
            try:
                _do(["jetson_clocks", "--restore", former], call)
            except DeviceError as error:
                log.warning("clocks stay locked, since they could not be restored (%s); a reboot restores them", error)


def _do(command: Sequence[str], call: Callable[[Sequence[str]], tuple[int, str]]) -> None:
    text = " ".join(command)
    try:
        code, output = call(command)
    except FileNotFoundError as error:
        raise DeviceError(f"--set-clocks needs jetson_clocks, which is not installed; {_BY_HAND}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"'{text}' could not be run: {error}; {_BY_HAND}") from error
    if code:
        if "root" in output:
            raise DeviceError(f"--set-clocks needs root, since '{text}' does: run bench with sudo, {_BY_HAND}")
        last = output.splitlines()[-1] if output else "no output"
        raise DeviceError(f"'{text}' ended with exit code {code}: {last}; {_BY_HAND}")
