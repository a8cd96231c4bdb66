"""From `--device` to a target: a device that is here and can be measured, or a profile to forecast for.

`jetson` has three steps: this machine is one; a configured host of that name; a prediction. Every other
name is looked for among the hosts before the profiles. What is never done is to measure one device and
file the result under another's name: `jetson:agx-orin-64gb` asked on an Orin Nano is a prediction too.
A host is only named here; what is behind it is asked when the cells are planned (`benchbench.runner.remote.queue`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from benchbench.core.errors import DeviceError, NotMeasuredError, unknown
from benchbench.core.records import Device
from benchbench.devices import cpu, cuda, jetson
from benchbench.devices.cpu import ROOT
from benchbench.devices.hosts import Host, load_hosts
from benchbench.devices.jetson import TegraBoard
from benchbench.devices.profile import SEE_ALL, Profile, find_profile, profile_name, profile_names


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a cell is measured, or what it is predicted for."""

    device: Device
    backend: Literal["cpu", "cuda"] | None  # what computes here; None: nothing does, it is a prediction
    index: int = 0  # of the CUDA device
    profile: Profile | None = None  # what is predicted for
    banner: str | None = None  # to be shown above every number of a prediction
    host: Host | None = None  # it is another machine, where `backend` computes
    environment: Mapping[str, Any] | None = None  # of that machine, as probed over there
    lost: str | None = None  # why nothing can be measured on that machine

    @property
    def measured(self) -> bool:
        """Whether a network can be run there."""
        return self.backend is not None or self.host is not None


def resolve(
    asked: str,
    *,
    root: Path = ROOT,
    require_measured: bool = False,
    probe_cuda: Callable[[int], Device] = cuda.probe,
) -> Target:
    """What `--device` means on this machine.

    Args:
        asked: `cpu`, `cuda`, `cuda:1`, `jetson`, a configured host's name, `jetson:<module>`, a profile's name,
            or a TOML file.
        probe_cuda: CUDA index -> Device or DeviceError.

    Raises:
        DeviceError: an unknown name (with the nearest one), or CUDA asked for and absent.
        NotMeasuredError: only a prediction can be had, and `require_measured`.
    """
    if asked == "cpu":
        return Target(device=cpu.probe(root), backend="cpu")
    match = re.fullmatch(r"cuda(?::(.*))?", asked)
    if match:
        if match[1] is not None and not re.fullmatch(r"\d{1,3}", match[1]):
            raise DeviceError(f"{asked!r} is no CUDA device: write 'cuda' or 'cuda:1', counted from 0")
        index = int(match[1] or 0)
        return Target(device=dataclasses.replace(probe_cuda(index), asked=asked), backend="cuda", index=index)
    board = jetson.detect(root)
    if board and asked == "jetson":
        return _on_board(board, asked, probe_cuda)
    hosts = load_hosts()
    if host := hosts.get(asked):
        unseen = Device(kind="none", name=host.place, basis="probed", asked=asked)
        return Target(device=unseen, backend=None, host=host)
    if board and board.profile == profile_name(asked):
        return _on_board(board, asked, probe_cuda)
    profile = _profile(asked, hosts)
    if require_measured:
        raise NotMeasuredError(
            f"{asked!r} cannot be measured here: {_where(board, profile)}; name the device's address with "
            f"'bench devices add', run bench on it, or leave --require-measured out for a prediction"
        )
    return Target(
        device=Device(kind=profile.kind, name=profile.name, basis="profile", asked=asked),
        backend=None,
        profile=profile,
        banner=(
            f"Nothing was measured: {_where(board, profile)}. What follows is a prediction for the "
            f"{profile.title} ({profile.name}) from {_basis(profile)}."
        ),
    )


def _basis(profile: Profile) -> str:
    if profile.calibration:
        return "operators that were timed on that device"
    if profile.timed:
        return (
            f"operators that were timed on another device in {profile.timed.dtype}, scaled by both devices' peaks and "
            "bandwidths; other types are from data-sheet figures"
        )
    return "data-sheet figures"


def _on_board(board: TegraBoard, asked: str, probe: Callable[[int], Device]) -> Target:
    try:
        probe(0)
    except DeviceError as error:
        raise DeviceError(
            f"this machine is a Jetson ({board.model}), but its GPU cannot be used: {error}; "
            "a Jetson needs the torch that NVIDIA builds for its JetPack"
        ) from error
    device = Device(kind="jetson", name=board.profile or board.model, basis="probed", asked=asked)
    return Target(device=device, backend="cuda")


def _profile(asked: str, hosts: Iterable[str]) -> Profile:
    if asked.startswith("jetson:") and profile_name(asked) not in profile_names():
        modules = [name.replace("jetson-", "jetson:", 1) for name in profile_names() if name.startswith("jetson-")]
        raise DeviceError(unknown("device", asked, modules, hint=SEE_ALL))
    return find_profile(asked, hosts=hosts)


def _where(board: TegraBoard | None, profile: Profile) -> str:
    if profile.calibration:
        return "a profile was asked for, and not 'cpu' or 'cuda'"
    if board:
        mode = f" in power mode {board.power_mode}" if board.power_mode else ""
        return f"this machine is another device ({board.model}{mode})"
    return (
        "this machine is no Jetson"
        if profile.kind == "jetson"
        else f"this machine is no {profile.title}, as far as 'cpu' and 'cuda' name it"
    )
