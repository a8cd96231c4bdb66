"""Probing, on machines laid out in folders: boards, containers, a PC."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from benchbench.core import records
from benchbench.core.errors import DeviceError
from benchbench.devices import cpu, cuda
from benchbench.devices import jetson as devices_jetson
from benchbench.devices.environment import commit, driver, environment

GIB = 2**30


def lay_out(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return root


def jetson(root: Path, model: str, compatible: str, kib: int, mode: str = "") -> Path:
    files = {
        "proc/device-tree/model": model + "\0",
        "proc/device-tree/compatible": compatible.replace("|", "\0") + "\0",
        "proc/meminfo": f"MemTotal:       {kib} kB\nMemAvailable:   {kib // 2} kB\n",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
    }
    if mode:
        files["var/lib/nvpmodel/status"] = "pmode:0002\n"
        files["etc/nvpmodel.conf"] = f"< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME={mode} >\n"
    return lay_out(root, files)


ORIN_NANO = "nvidia,p3768-0000+p3767-0005|nvidia,p3767-0005|nvidia,tegra234"


@pytest.mark.parametrize(
    ("model", "compatible", "kib", "mode", "profile"),
    [
        ("NVIDIA Jetson Orin Nano Developer Kit", ORIN_NANO, 7_800_000, "", "jetson-orin-nano-8gb"),
        ("NVIDIA Jetson Orin Nano Developer Kit", ORIN_NANO, 7_800_000, "MAXN_SUPER", "jetson-orin-nano-8gb-super"),
        ("NVIDIA Jetson Orin Nano Developer Kit", ORIN_NANO, 7_800_000, "25W", "jetson-orin-nano-8gb"),
        ("Orin NX", "nvidia,p3509-0000+p3767-0000|nvidia,tegra234", 15_900_000, "", "jetson-orin-nx-16gb"),
        ("AGX Orin", "nvidia,p3737-0000+p3701-0000|nvidia,tegra234", 64_300_000, "", "jetson-agx-orin-64gb"),
        ("AGX Orin", "nvidia,p3737-0000+p3701-0004|nvidia,tegra234", 31_300_000, "", "jetson-agx-orin-32gb"),
        ("AGX Orin, 32 GB kit", "nvidia,p3737-0000+p3701-0000|nvidia,tegra234", 31_300_000, "", None),
        ("AGX Orin Industrial", "nvidia,p3737-0000+p3701-0008|nvidia,tegra234", 62_300_000, "", None),
        ("AGX Xavier", "nvidia,p2972-0000|nvidia,p2888-0004|nvidia,tegra194", 31_900_000, "", "jetson-agx-xavier-32gb"),
        ("Xavier NX", "nvidia,p3509-0000+p3668-0001|nvidia,tegra194", 7_900_000, "", "jetson-xavier-nx-8gb"),
        ("TX2 NX", "nvidia,p3509-0000+p3636-0001|nvidia,tegra186", 3_900_000, "", None),
        ("Jetson AGX Thor", "nvidia,p4071-0000+p3834-0008|nvidia,tegra264", 128_800_000, "", "jetson-thor-t5000"),
    ],
)
def test_a_board_is_known_by_module_memory_and_power_mode(
    tmp_path: Path, model: str, compatible: str, kib: int, mode: str, profile: str | None
) -> None:
    board = devices_jetson.detect(jetson(tmp_path, model, compatible, kib, mode))
    assert board is not None
    assert board.profile == profile
    assert board.model == model
    assert board.l4t == "36.4.3"
    assert board.power_mode == (mode or None)


def test_a_pc_and_a_raspberry_pi_are_no_jetson(tmp_path: Path) -> None:
    assert devices_jetson.detect(tmp_path) is None
    lay_out(tmp_path, {"proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0"})
    assert devices_jetson.detect(tmp_path) is None


def test_a_power_mode_without_its_name_is_its_number(tmp_path: Path) -> None:
    assert devices_jetson.power_mode(lay_out(tmp_path, {"var/lib/nvpmodel/status": "pmode:0003"})) == "3"


def test_the_cpu_has_its_model_name(tmp_path: Path) -> None:
    lay_out(tmp_path, {"proc/cpuinfo": "processor\t: 0\nmodel name\t: AMD EPYC 9654\n"})
    device = cpu.probe(tmp_path)
    assert (device.kind, device.name, device.basis, device.asked) == ("cpu", "AMD EPYC 9654", "probed", "cpu")


def test_an_arm_board_without_model_name_is_named_by_board_and_cores(tmp_path: Path) -> None:
    core = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n\n"
    lay_out(tmp_path, {"proc/cpuinfo": core * 4 + "Model\t\t: Raspberry Pi 5 Model B Rev 1.0\n"})
    assert cpu.name(tmp_path) == "Raspberry Pi 5 Model B Rev 1.0 (Cortex-A76)"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "300000 100000",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000",
            },
            3,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/x\n0::/\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            4,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            8,
        ),
    ],
)
def test_usable_cores_keep_to_the_quota(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    assert cpu.usable_cores(lay_out(tmp_path, files), affinity=8) == cores


MEMINFO = {"proc/meminfo": f"MemTotal: {64 * 2**20} kB\nMemAvailable: {48 * 2**20} kB\n"}


def test_available_memory_is_the_kernels_without_a_limit(tmp_path: Path) -> None:
    lay_out(tmp_path, MEMINFO)
    assert cpu.available_memory_bytes(tmp_path) == 48 * GIB
    assert cpu.total_memory_bytes(tmp_path) == 64 * GIB


def test_available_memory_keeps_to_the_limit_of_cgroup_2_and_counts_file_cache_as_free(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/box/"
    lay_out(tmp_path, MEMINFO | {"proc/self/cgroup": "0::/box\n", group + "memory.max": str(8 * GIB)})
    lay_out(tmp_path, {group + "memory.current": str(3 * GIB), group + "memory.stat": f"anon 5\ninactive_file {GIB}\n"})
    assert cpu.available_memory_bytes(tmp_path) == 6 * GIB
    assert cpu.total_memory_bytes(tmp_path) == 8 * GIB


def test_available_memory_keeps_to_the_limit_of_cgroup_1(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory/"
    lay_out(tmp_path, MEMINFO | {"proc/self/cgroup": "4:memory:/not/visible/here\n"})
    lay_out(tmp_path, {group + "memory.limit_in_bytes": str(4 * GIB), group + "memory.usage_in_bytes": str(GIB)})
    assert cpu.available_memory_bytes(tmp_path) == 3 * GIB
    lay_out(tmp_path, {group + "memory.limit_in_bytes": "9223372036854771712"})
    assert cpu.available_memory_bytes(tmp_path) == 48 * GIB


def test_governor_and_load_are_none_where_the_system_does_not_tell(tmp_path: Path) -> None:
    assert cpu.governor(tmp_path) is None
    assert cpu.load_average(tmp_path) is None
    lay_out(tmp_path, {f"sys/devices/system/cpu/cpu{i}/cpufreq/scaling_governor": "schedutil\n" for i in range(2)})
    lay_out(tmp_path, {"proc/loadavg": "0.52 0.58 0.59 1/389 1234\n"})
    assert cpu.governor(tmp_path) == "schedutil"
    assert cpu.load_average(tmp_path) == 0.52


def fake_torch(*, built: bool, devices: int, available: bool) -> types.SimpleNamespace:
    return types.SimpleNamespace(
        __version__="2.13.0",
        version=types.SimpleNamespace(cuda="12.8"),
        backends=types.SimpleNamespace(cuda=types.SimpleNamespace(is_built=lambda: built)),
        cuda=types.SimpleNamespace(
            is_available=lambda: available,
            device_count=lambda: devices,
            get_device_name=lambda i: f"GPU {i}",
            mem_get_info=lambda i: (5 * GIB, 8 * GIB),
        ),
    )


@pytest.mark.parametrize(
    ("torch", "index", "says"),
    [
        (fake_torch(built=False, devices=0, available=False), 0, "built without CUDA"),
        (fake_torch(built=True, devices=0, available=False), 0, "no driver or no device"),
        (fake_torch(built=True, devices=1, available=False), 0, "cannot start the driver"),
        (fake_torch(built=True, devices=1, available=True), 3, "torch sees 1 device"),
    ],
)
def test_absent_cuda_is_one_line_that_says_why_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, torch: types.SimpleNamespace, index: int, says: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "torch", torch)  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="asked for and absent") as caught:
        cuda.probe(index)
    text = str(caught.value)
    assert says in text
    assert "--device cpu" in text
    assert "\n" not in text


def test_cuda_has_name_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch(built=True, devices=2, available=True))  # type: ignore[arg-type]
    device = cuda.probe(1)
    assert (device.kind, device.name, device.asked) == ("cuda", "GPU 1", "cuda:1")
    assert cuda.memory_bytes(1) == (5 * GIB, 8 * GIB)


def test_the_environment_of_a_board_tells_its_release_and_mode(tmp_path: Path) -> None:
    jetson(tmp_path, "NVIDIA Jetson Orin Nano Developer Kit", ORIN_NANO, 7_800_000, "MAXN_SUPER")
    found = environment(None, None, tmp_path)
    assert found["jetson"] == "NVIDIA Jetson Orin Nano Developer Kit"
    assert (found["l4t"], found["power_mode"]) == ("36.4.3", "MAXN_SUPER")
    assert found["memory_bytes"] == 7_800_000 * 1024
    assert found["gpu"] is None


def test_the_fingerprint_stays_while_load_and_free_memory_change(tmp_path: Path) -> None:
    lay_out(tmp_path, MEMINFO | {"proc/loadavg": "0.1 0 0 1/1 1"})
    before = environment("cpu", 2, tmp_path)
    lay_out(tmp_path, {"proc/loadavg": "7.9 0 0 1/1 1", "proc/meminfo": MEMINFO["proc/meminfo"].replace("48", "3")})
    after = environment("cpu", 2, tmp_path)
    assert before["load_average"] != after["load_average"]
    assert records.fingerprint(before) == records.fingerprint(after)
    assert records.fingerprint(after) != records.fingerprint(environment("cpu", 4, tmp_path))


def test_the_commit_is_read_from_loose_packed_and_detached_heads(tmp_path: Path) -> None:
    sha = "0123456789abcdef0123456789abcdef01234567"
    assert commit(tmp_path) is None
    lay_out(tmp_path, {".git/HEAD": f"{sha}\n"})
    assert commit(tmp_path) == sha
    lay_out(
        tmp_path, {".git/HEAD": "ref: refs/heads/main\n", ".git/packed-refs": f"# pack-refs\n{sha} refs/heads/main\n"}
    )
    assert commit(tmp_path) == sha
    lay_out(tmp_path, {".git/refs/heads/main": sha[::-1] + "\n"})
    assert commit(tmp_path) == sha[::-1]


@pytest.mark.parametrize(
    "kind", ["NVIDIA UNIX x86_64 Kernel Module  570.86.15", "NVIDIA UNIX Open Kernel Module for x86_64  570.86.15"]
)
def test_the_driver_version_is_read_from_the_kernel(tmp_path: Path, kind: str) -> None:
    assert driver(tmp_path) is None
    assert (
        driver(lay_out(tmp_path, {"proc/driver/nvidia/version": f"NVRM version: {kind}  Thu Jan 23\n"})) == "570.86.15"
    )
