"""NVML by a module that answers as pynvml does; there is no GPU here."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchbench.core.errors import DeviceError
from benchbench.core.records import VOLATILE
from benchbench.devices import nvml
from benchbench.devices.environment import environment
from benchbench.measure import energy
from benchbench.measure.monitor import Watch

UUID = "0f1e2d3c-0000-1111-2222-333344445555"


class NVMLError(Exception):
    pass


class FakeNvml(types.ModuleType):
    """One GPU. An answer that is an exception is raised; a function that is not answered does not exist."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0
    NVML_CLOCK_SM = 1

    def __init__(self, answers: Mapping[str, Any], *, uuid: str = f"GPU-{UUID}", init: Exception | None = None) -> None:
        super().__init__("pynvml")
        self.answers, self.uuid, self.init = dict(answers), uuid, init

    def nvmlInit(self) -> None:
        if self.init:
            raise self.init

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid != self.uuid:
            raise NVMLError("Not Found")
        return f"handle of {uuid}"

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"handle {index}"

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: str) -> str:
        return f"parent of {handle}"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self.answers:
            raise AttributeError(name)

        def answer(handle: Any, *arguments: Any) -> Any:
            found = self.answers[name]
            if isinstance(found, Exception):
                raise found
            return found

        return answer


ANSWERS: dict[str, Any] = {
    "nvmlDeviceGetUUID": f"GPU-{UUID}",
    "nvmlDeviceGetTotalEnergyConsumption": 5_000_000,
    "nvmlDeviceGetPowerUsage": 250_000,
    "nvmlDeviceGetEnforcedPowerLimit": 450_000,
    "nvmlDeviceGetCurrentClocksEventReasons": 0,
    "nvmlDeviceGetTemperature": 61,
    "nvmlDeviceGetClockInfo": 1980,
    "nvmlDeviceGetComputeRunningProcesses": [],
    "nvmlDeviceGetMigMode": NVMLError("Not Supported"),
}


def fake(monkeypatch: pytest.MonkeyPatch, **changed: Any) -> FakeNvml:
    module = FakeNvml(ANSWERS | changed)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


def processes(*pids: int) -> list[types.SimpleNamespace]:
    return [types.SimpleNamespace(pid=pid, usedGpuMemory=1) for pid in pids]


@pytest.mark.parametrize(
    ("pids", "used"),
    [((), None), ((77,), 1), ((5, 77, 6), 1), ((5,), 1), ((5, 6), None)],  # a container knows us by another number
)
def test_the_memory_of_a_process_is_told_where_it_is_sure_which_one_is_ours(
    monkeypatch: pytest.MonkeyPatch, pids: tuple[int, ...], used: int | None
) -> None:
    fake(monkeypatch, nvmlDeviceGetComputeRunningProcesses=processes(*pids))
    assert nvml.connect(UUID).process_memory_bytes(pid=77) == used


def test_a_gpu_has_power_energy_limit_and_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch)
    gpu = nvml.connect(UUID)
    assert (gpu.energy_j(), gpu.power_w(), gpu.power_limit_w()) == (5000.0, 250.0, 450.0)
    look = gpu.snapshot()
    assert (look.temperatures_c, look.gpu_hz) == ({"GPU": 61.0}, 1.98e9)
    assert (look.throttle_counts, look.slowed_by) == ({}, ())
    assert gpu.mig is None


def test_without_the_package_or_a_driver_one_line_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(DeviceError, match=r"pip install 'benchbench\[nvidia\]'"):
        nvml.connect(UUID)
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml({}, init=NVMLError("NVML Shared Library Not Found")))
    with pytest.raises(DeviceError, match="Shared Library Not Found"):
        nvml.connect(UUID)


def test_an_old_driver_and_a_gpu_that_answers_nothing_give_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml({"nvmlDeviceGetCurrentClocksThrottleReasons": 0x20}))
    gpu = nvml.connect(UUID)
    assert gpu.slowdowns() == ("software thermal slowdown",)
    assert gpu.energy_j() is gpu.power_w() is gpu.power_limit_w() is gpu.other_processes() is None
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml({}))
    assert nvml.connect(UUID).snapshot().throttle_counts is None


@pytest.mark.parametrize(
    ("bits", "says"), [(0x01, ()), (0x04, ()), (0x08 | 0x40, ("hardware slowdown", "hardware thermal slowdown"))]
)
def test_idle_and_a_power_cap_are_no_throttling_and_slowdowns_are(
    monkeypatch: pytest.MonkeyPatch, bits: int, says: tuple[str, ...]
) -> None:
    fake(monkeypatch, nvmlDeviceGetCurrentClocksEventReasons=bits)
    assert nvml.connect(UUID).slowdowns() == says


@pytest.mark.parametrize(
    ("pids", "others"),
    [((), 0), ((77,), 0), ((77, 5, 6), 2), ((5, 6), 1)],  # the last: a container, where our own id is another
)
def test_other_programs_are_counted_without_ourselves(
    monkeypatch: pytest.MonkeyPatch, pids: tuple[int, ...], others: int
) -> None:
    fake(monkeypatch, nvmlDeviceGetComputeRunningProcesses=processes(*pids))
    assert nvml.connect(UUID).other_processes(pid=77) == others


def test_the_energy_of_a_forward_is_the_counters_rise(monkeypatch: pytest.MonkeyPatch) -> None:
    module = fake(monkeypatch)
    meter = energy.open_meter("cuda", nvml.connect(UUID))
    assert isinstance(meter, energy.CounterMeter)
    now = [0.0]
    meter.clock = lambda: now[0]
    meter.begin()
    module.answers["nvmlDeviceGetTotalEnergyConsumption"] += 60_000
    now[0] = 5.0
    m = energy.measurement(meter.end(), 20)
    assert m.value == pytest.approx(3.0)
    assert m.method.startswith("NVML energy counter; GPU board, not wall")


def test_a_gpu_without_a_counter_has_its_power_integrated(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, nvmlDeviceGetTotalEnergyConsumption=NVMLError("Not Supported"))
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("benchbench.measure.power_logger.PowerLog", asked.append)
    meter = energy.open_meter("cuda", nvml.connect(UUID))
    assert isinstance(meter, energy.PowerMeter)
    assert asked == [{"source": "nvml", "uuid": f"GPU-{UUID}", "period_s": nvml.PERIOD_S}]


def test_a_gpu_without_either_and_nvml_without_access_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = NVMLError("Not Supported")
    fake(monkeypatch, nvmlDeviceGetTotalEnergyConsumption=unknown, nvmlDeviceGetPowerUsage=unknown)
    assert energy.open_meter("cuda", nvml.connect(UUID)) == "NVML tells neither energy nor power of this GPU"
    watch = Watch("cuda", gpu="nvidia-ml-py is not installed")
    watch.begin()
    watch.end()
    (m,) = watch.measurements(3)
    assert (m.metric, m.value, m.reason) == ("energy_j", None, "nvidia-ml-py is not installed")


def test_a_mig_slice_is_named_and_has_no_energy_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, nvmlDeviceGetMigMode=[1, 1])
    gpu = nvml.connect(UUID, name="NVIDIA A100-SXM4-40GB MIG 1g.5gb")
    assert gpu.mig == "1g.5gb"
    assert "whole GPU" in str(energy.open_meter("cuda", gpu))
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(ANSWERS, uuid=f"MIG-{UUID}"))
    part = nvml.connect(UUID)
    assert (part.handle, part.mig) == (f"parent of handle of MIG-{UUID}", "enabled")


def test_a_slowdown_seen_between_forwards_makes_the_row_unstable(monkeypatch: pytest.MonkeyPatch) -> None:
    module = fake(monkeypatch)
    now = [0.0]
    watch = Watch("cuda", gpu=nvml.connect(UUID), clock=lambda: now[0])
    watch.begin()
    watch.between()
    module.answers["nvmlDeviceGetCurrentClocksEventReasons"] = 0x20
    watch.between()  # too soon to ask
    assert not watch._seen
    now[0] = 1.0
    watch.between()
    module.answers["nvmlDeviceGetCurrentClocksEventReasons"] = 0
    watch.end()
    found = {m.metric: m.value for m in watch.measurements(2)}
    assert found["throttle_events"] == 1
    assert (found["temperature_end_c"], found["gpu_frequency_end_hz"]) == (61.0, 1.98e9)
    assert watch.unstable is not None
    assert "software thermal slowdown" in watch.unstable


def fake_torch() -> types.SimpleNamespace:
    return types.SimpleNamespace(
        __version__="2.13.0",
        version=types.SimpleNamespace(cuda="12.8"),
        backends=types.SimpleNamespace(cuda=types.SimpleNamespace(is_built=lambda: True)),
        cuda=types.SimpleNamespace(
            is_available=lambda: True,
            device_count=lambda: 1,
            get_device_name=lambda i: "NVIDIA GPU",
            get_device_properties=lambda i: types.SimpleNamespace(uuid=UUID),
            mem_get_info=lambda i: (5, 8),
        ),
    )


def test_the_environment_has_the_power_limit_and_who_else_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, nvmlDeviceGetComputeRunningProcesses=processes(1, 2, 3))
    monkeypatch.setitem(sys.modules, "torch", fake_torch())  # type: ignore[arg-type]
    found = environment("cuda", None, tmp_path)
    assert (found["power_limit_w"], found["mig"], found["gpu_processes"]) == (450.0, None, 2)
    assert "gpu_processes" in VOLATILE
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert environment("cuda", None, tmp_path)["power_limit_w"] is None
    assert environment("cpu", 2, tmp_path).keys() == found.keys()
