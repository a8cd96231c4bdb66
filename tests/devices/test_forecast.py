"""Profiles, the data-sheet forecast, and what `--device` resolves to."""

from __future__ import annotations

import csv
import dataclasses
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchbench.core.errors import DeviceError, NotMeasuredError
from benchbench.core.records import Device, Measurement, OperatorCost, Workload
from benchbench.devices import jetson
from benchbench.devices.forecast import INTERVAL_FACTOR, predict, roof_seconds
from benchbench.devices.profile import Profile, find_profile, list_profiles, load_profile
from benchbench.devices.resolve import resolve

SHARED = Path(os.environ.get("BENCHBENCH_SHARED", Path(__file__).parents[3] / "shared"))
GIB = 2**30

OWN = """
name = "mine"
title = "My board"
kind = "jetson"
core = "sm_87"
memory_bytes = 1_000_000
reserve_bytes = 400_000
bandwidth_bytes_per_s = 1e9
[peaks]
fp32 = 1e12
[sources]
fp32 = "test"
memory_bytes = "test"
reserve_bytes = "test"
bandwidth_bytes_per_s = "test"
"""


def operator(macs: int, read: int, written: int) -> OperatorCost:
    return OperatorCost(
        operator="convolution", kind="conv", module="a", macs=macs, read_bytes=read, written_bytes=written
    )


@pytest.fixture
def own(tmp_path: Path) -> Profile:
    path = tmp_path / "mine.toml"
    path.write_text(OWN)
    return load_profile(path)


def by_metric(measurements: tuple[Measurement, ...]) -> dict[str, Measurement]:
    return {m.metric: m for m in measurements}


def test_every_profile_loads_under_its_own_name() -> None:
    profiles = list_profiles()
    assert len(profiles) == 24
    assert all(find_profile(p.name) == p for p in profiles)


@pytest.mark.shared
@pytest.mark.skipif(not (SHARED / "facts/devices.csv").is_file(), reason="no facts/devices.csv in $BENCHBENCH_SHARED")
def test_every_profile_has_the_figures_of_the_table_of_devices() -> None:
    lines = [line for line in (SHARED / "facts/devices.csv").read_text().splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines))
    assert {row["device"] for row in rows} == {p.name for p in list_profiles()}
    for row in rows:
        profile = find_profile(row["device"])
        assert profile.core == row["core"]
        assert profile.bandwidth_bytes_per_s == pytest.approx(float(row["bandwidth_gbs"]) * 1e9)
        assert profile.memory_bytes == (int(row["memory_gb"]) * GIB if row["memory_gb"] else None)
        for key, column in (("fp32", "fp32_tflops"), ("fp16", "fp16_tflops"), ("int8", "int8_tops")):
            assert profile.peaks.get(key) == (pytest.approx(float(row[column]) * 1e12) if row[column] else None)
        assert (profile.watts or "", profile.jetpack or "") == (row["watts"], row["jetpack"])


def test_bf16_is_there_from_ampere_on_and_nowhere_else() -> None:
    for profile in list_profiles():
        new = profile.core.startswith("sm_") and int(profile.core[3:]) >= 80
        assert ("bf16" in profile.peaks) == new, profile.name


@pytest.mark.parametrize(
    "asked", ["jetson", "jetson:orin-nano-8gb-super", "jetson-orin-nano-8gb-super", "jetson:jetson-orin-nano-8gb-super"]
)
def test_a_module_has_a_short_and_a_full_name(asked: str) -> None:
    assert find_profile(asked).name == "jetson-orin-nano-8gb-super"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("core =", "cores ="), "did you mean 'core'"),
        (('title = "My board"', ""), "'title' is missing"),
        (("1e9", "-1e9"), "bandwidth_bytes_per_s must be above 0"),
        (("fp32 = 1e12", "fp32 = -1.0"), "peaks.'fp32' must be above 0"),
        (("fp32 = 1e12", "fp23 = 1e12"), "a key of peaks is 'fp23', not one of 'fp32'"),
        (("400_000", "'much'"), "reserve_bytes must be int"),
        (('fp32 = "test"', ""), r"\[sources\] lacks 'fp32'"),
        (('kind = "jetson"', 'kind = "jeston"'), "kind is 'jeston', not one of 'jetson'"),
        (("[peaks]", "[peaks"), "not valid TOML"),
    ],
)
def test_a_broken_profile_is_one_line_with_file_and_key(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(OWN.replace(*change))
    with pytest.raises(DeviceError, match=says) as caught:
        resolve(str(path), root=tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_profile_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="cannot read the device profile"):
        resolve(str(tmp_path / "none.toml"))


def test_the_roof_of_two_operators_by_hand(own: Profile) -> None:
    compute, memory = operator(10**12, 1000, 1000), operator(0, 3 * 10**8, 2 * 10**8)
    found = by_metric(predict([compute, memory], own, Workload(batch=2), 500_000))
    latency, throughput = found["latency_s"], found["throughput_patches_per_s"]
    assert latency.value == pytest.approx(2.0 + 0.5)  # 2e12 FLOP at 1e12/s, then 5e8 bytes at 1e9/s
    assert latency.interval == pytest.approx((2.5, 2.5 * INTERVAL_FACTOR))
    assert (latency.origin, latency.bound) == ("predicted", "at_least")
    assert throughput.value == pytest.approx(2 / 2.5)
    assert throughput.bound == "at_most"
    assert throughput.interval == pytest.approx((2 / 2.5 / INTERVAL_FACTOR, 2 / 2.5))


def test_a_time_without_the_macs_of_an_operator_is_a_lower_bound(own: Profile) -> None:
    found = by_metric(predict([operator(10**12, 1000, 1000)], own, Workload(), 500_000, is_complete=False))
    assert (found["latency_s"].bound, found["throughput_patches_per_s"].bound) == ("at_least", "at_most")
    assert "whose MACs are not known" in found["latency_s"].method


costs = st.lists(
    st.builds(operator, st.integers(0, 10**13), st.integers(1, 10**10), st.integers(1, 10**10)), min_size=1
)


@given(costs, st.floats(1e9, 1e15), st.floats(1e9, 1e13), st.floats(1.0, 100.0))
def test_more_bandwidth_or_more_peak_is_never_slower(
    operators: list[OperatorCost], peak: float, bandwidth: float, more: float
) -> None:
    base = roof_seconds(operators, peak, bandwidth)
    assert roof_seconds(operators, peak, bandwidth * more) <= base
    assert roof_seconds(operators, peak * more, bandwidth) <= base


def test_a_type_that_the_device_lacks_has_no_value_but_a_reason() -> None:
    found = by_metric(predict([operator(1, 1, 1)], find_profile("jetson-tx2"), Workload(dtype="bf16"), 1))
    assert found["latency_s"].value is None
    assert "no bf16 units" in (found["latency_s"].reason or "")
    assert found["throughput_patches_per_s"].value is None
    assert found["fits_in_memory"].value == 1


@pytest.mark.parametrize(("tensors", "value", "bound"), [(600_000, 1, "at_most"), (600_001, 0, None)])
def test_it_fits_while_tensors_and_reserve_stay_within_memory(
    own: Profile, tensors: int, value: int, bound: str | None
) -> None:
    found = by_metric(predict([operator(1, 1, 1)], own, Workload(), tensors))["fits_in_memory"]
    assert (found.value, found.bound) == (value, bound)
    assert "reserve" in found.method


def test_unknown_memory_or_tensor_bytes_is_a_reason_not_a_guess(own: Profile) -> None:
    unsized = dataclasses.replace(own, memory_bytes=None)
    assert "machine" in (by_metric(predict([], unsized, Workload(), 1))["fits_in_memory"].reason or "")
    found = by_metric(predict([], own, Workload(), None))
    assert "tensor bytes" in (found["fits_in_memory"].reason or "")
    assert "no operators" in (found["latency_s"].reason or "")


def present(index: int) -> Device:
    return Device(kind="cuda", name="Orin", basis="probed", asked=f"cuda:{index}")


def absent(index: int) -> Device:
    raise DeviceError("cuda asked for and absent: torch is built without CUDA")


@pytest.fixture
def orin_nano(tmp_path: Path) -> Path:
    tree = tmp_path / "proc/device-tree"
    tree.mkdir(parents=True)
    (tree / "compatible").write_bytes(b"nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0")
    (tree / "model").write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\0")
    (tmp_path / "proc/meminfo").write_text("MemTotal: 7800000 kB\n")
    assert jetson.detect(tmp_path) is not None
    return tmp_path


def test_jetson_elsewhere_is_a_prediction_under_a_banner(tmp_path: Path) -> None:
    target = resolve("jetson", root=tmp_path)
    assert not target.measured
    assert (target.device.kind, target.device.basis, target.device.asked) == ("jetson", "profile", "jetson")
    assert target.device.name == "jetson-orin-nano-8gb-super"
    assert (target.banner or "").startswith("Nothing was measured: this machine is no Jetson")


@pytest.mark.parametrize("asked", ["jetson", "jetson:orin-nano-8gb", "jetson-orin-nano-8gb"])
def test_jetson_on_that_very_module_is_measured(orin_nano: Path, asked: str) -> None:
    target = resolve(asked, root=orin_nano, require_measured=True, probe_cuda=present)
    assert (target.backend, target.banner, target.profile) == ("cuda", None, None)
    assert target.device == Device(kind="jetson", name="jetson-orin-nano-8gb", basis="probed", asked=asked)


@pytest.mark.parametrize("asked", ["jetson:agx-orin-64gb", "jetson:orin-nano-8gb-super", "rtx-4090"])
def test_another_module_than_this_one_is_predicted(orin_nano: Path, asked: str) -> None:
    target = resolve(asked, root=orin_nano, probe_cuda=present)
    assert target.backend is None
    assert "another device (NVIDIA Jetson Orin Nano Developer Kit)" in (target.banner or "")


def test_a_jetson_without_its_torch_says_so_and_does_not_predict(orin_nano: Path) -> None:
    with pytest.raises(DeviceError, match="NVIDIA builds for its JetPack"):
        resolve("jetson", root=orin_nano, probe_cuda=absent)


def test_require_measured_refuses_a_prediction_with_exit_code_3(tmp_path: Path) -> None:
    with pytest.raises(NotMeasuredError, match="cannot be measured here") as caught:
        resolve("jetson", root=tmp_path, require_measured=True)
    assert caught.value.exit_code == 3


def test_cpu_and_cuda_are_measured_here(tmp_path: Path) -> None:
    assert resolve("cpu", root=tmp_path).backend == "cpu"
    target = resolve("cuda:1", root=tmp_path, probe_cuda=present)
    assert (target.backend, target.index, target.device.asked) == ("cuda", 1, "cuda:1")
    with pytest.raises(DeviceError, match="absent"):
        resolve("cuda", root=tmp_path, probe_cuda=absent)
    with pytest.raises(DeviceError, match="counted from 0"):
        resolve("cuda:one", root=tmp_path, probe_cuda=present)


@pytest.mark.parametrize(
    ("asked", "near"),
    [("cuad", "cuda"), ("jetsn", "jetson"), ("rtx-490", "rtx-4090"), ("jetson:orin-nano", "jetson:orin-nano-")],
)
def test_an_unknown_device_is_told_the_nearest(tmp_path: Path, asked: str, near: str) -> None:
    with pytest.raises(DeviceError, match="bench list devices") as caught:
        resolve(asked, root=tmp_path)
    assert f"did you mean '{near}" in str(caught.value)
    assert "\n" not in str(caught.value)
