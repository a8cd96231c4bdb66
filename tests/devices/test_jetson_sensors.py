"""Sensors of Jetson boards, on trees of files; `tests/tegra_trees.py` says where these come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from benchbench.cli import main as cli_main
from benchbench.core.errors import DeviceError
from benchbench.core.records import Device, Measurement, ModelSpec, Record, Workload, to_json
from benchbench.devices import jetson, jetson_sensors
from benchbench.devices.environment import environment
from benchbench.devices.sensors import Snapshot, throttled
from benchbench.report import conditions
from benchbench.runner import worker
from benchbench.runner.job import Job
from benchbench.runner.model_run import ModelRun
from tests import tegra_trees as trees


@pytest.mark.parametrize(
    ("tree", "names", "watts", "scope"),
    [
        (trees.orin_nano, ["VDD_IN"], 12.0, "module rails, not wall"),
        (trees.orin_nx, ["VDD_IN"], 12.0, "module rails, not wall"),
        (trees.xavier_nx, ["VDD_IN"], 12.0, "module rails, not wall"),
        (trees.agx_orin, ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"], 21.0, "VDDQ_VDD2_1V8AO is within VIN_SYS_5V0"),
        (trees.thor, ["ina238"], 31.5, "input of the developer kit"),
    ],
)
def test_the_boards_power_is_its_input_rail_or_the_sum_of_rails_each_watt_once(
    tmp_path: Path, tree: Callable[[Path], Path], names: list[str], watts: float, scope: str
) -> None:
    supply = jetson_sensors.supply(tree(tmp_path))
    assert supply is not None
    assert [rail.name for rail in supply.rails] == names
    assert supply.watts() == pytest.approx(watts)
    assert scope in supply.scope
    assert "not wall" in supply.scope


def test_rails_keep_their_labels_and_channels_that_are_off_are_none(tmp_path: Path) -> None:
    names = [rail.name for rail in jetson_sensors.rails(trees.agx_orin(tmp_path))]
    assert names == ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"]


def test_a_thor_whose_input_monitor_is_missing_is_summed(tmp_path: Path) -> None:
    (trees.thor(tmp_path) / "sys/class/hwmon/hwmon4/power1_input").unlink()
    supply = jetson_sensors.supply(tmp_path)
    assert supply is not None
    assert supply.watts() == pytest.approx(10 + 8 + 6.5)
    assert "summed" in supply.scope


def test_the_period_is_the_chips_own(tmp_path: Path) -> None:
    trees.orin_nano(tmp_path)
    trees.lay_out(tmp_path, {"sys/class/hwmon/hwmon1/update_interval": 430})
    assert jetson_sensors.supply(tmp_path).period_s == pytest.approx(0.43)  # type: ignore[union-attr]


def test_a_chip_that_stops_answering_gives_no_power_rather_than_a_part_of_it(tmp_path: Path) -> None:
    supply = jetson_sensors.supply(trees.agx_orin(tmp_path))
    assert supply is not None
    (tmp_path / "sys/class/hwmon/hwmon3/curr1_input").unlink()
    assert supply.watts() is None


def test_a_pc_has_no_rails_no_zones_and_no_counters(tmp_path: Path) -> None:
    assert jetson_sensors.supply(tmp_path) is None
    assert jetson_sensors.snapshot(tmp_path) == Snapshot()
    assert jetson_sensors.clocks_locked(tmp_path) is None


@pytest.mark.parametrize("locked", [False, True])
def test_clocks_are_locked_when_cpu_and_gpu_have_one_frequency_each(tmp_path: Path, locked: bool) -> None:
    root = trees.orin_nano(tmp_path, locked=locked)
    assert jetson_sensors.clocks_locked(root) is locked
    found = environment(None, None, root)
    assert found["clocks_locked"] is locked
    assert (found["power_mode"], found["l4t"]) == ("MAXN_SUPER", "36.4.3")


def test_a_gpu_that_is_free_while_the_cpu_is_locked_is_not_locked(tmp_path: Path) -> None:
    root = trees.orin_nano(tmp_path, locked=True)
    trees.lay_out(root, {"sys/class/devfreq/17000000.gpu/min_freq": 306_000_000})
    assert jetson_sensors.clocks_locked(root) is False


def test_a_look_has_zones_that_answer_clocks_and_counters(tmp_path: Path) -> None:
    look = jetson_sensors.snapshot(trees.orin_nano(tmp_path))
    assert look.temperatures_c == {
        "cpu-thermal": 51.0,
        "gpu-thermal": 50.5,
        "soc0-thermal": 51.031,
        "tj-thermal": 52.25,
    }
    assert look.hottest == ("tj-thermal", 52.25)
    assert (look.cpu_hz, look.gpu_hz) == (1_728_000_000, 1_020_000_000)
    assert look.throttle_counts == {"oc1_event_cnt": 0, "oc2_event_cnt": 0, "oc3_event_cnt": 27_390}
    assert look.slowed_by == ()  # the fan turns, which slows nothing


def test_a_zone_at_absolute_nonsense_is_powered_off(tmp_path: Path) -> None:
    trees.lay_out(tmp_path, trees.zones(cpu=40_000, cv0=-256_000))
    assert jetson_sensors.snapshot(tmp_path).temperatures_c == {"cpu-thermal": 40.0}


def test_only_the_rise_of_a_counter_is_throttling(tmp_path: Path) -> None:
    before = jetson_sensors.snapshot(trees.orin_nano(tmp_path))
    assert throttled(before, before) == {}
    trees.lay_out(tmp_path, trees.over_current(3, 0, 2, 27_402))
    assert throttled(before, jetson_sensors.snapshot(tmp_path)) == {"oc2_event_cnt": 2, "oc3_event_cnt": 12}


def test_a_board_without_counters_tells_by_its_cooling_devices(tmp_path: Path) -> None:
    before = jetson_sensors.snapshot(trees.xavier_nx(tmp_path))
    assert before.throttle_counts == {}
    trees.lay_out(tmp_path, trees.cooling(pwm_fan=4, thermal_cpufreq_0=2))
    assert throttled(before, jetson_sensors.snapshot(tmp_path)) == {"thermal-cpufreq-0": 1}


ORIN_NANO_LINE = (
    "07-25-2026 17:56:56 RAM 5338/7607MB (lfb 2x4MB) SWAP 11/3804MB (cached 0MB) CPU [1%@729,off,3%@729] "
    "EMC_FREQ 2%@2133 GR3D_FREQ 7%@[306] cpu@51C tj@51C VDD_IN 5348mW/5300mW VDD_CPU_GPU_CV 1067mW/1060mW "
    "VDD_SOC 1384mW/1380mW"
)
AGX_ORIN_LINE = (
    "RAM 1206/30623MB (lfb 6429x4MB) CPU [0%@729] GR3D_FREQ 0%@[114,114] CV0@-256C Tdiode@32.5C "
    "VDD_GPU_SOC 4788mW/4788mW VDD_CPU_CV 798mW/798mW VIN_SYS_5V0 3842mW/3842mW NC 0mW/0mW "
    "VDDQ_VDD2_1V8AO 707mW/707mW NC 0mW/0mW"
)
AGX_XAVIER_LINE = (
    "RAM 2000/31918MB CPU [2%@1190] GPU 1552/1500 CPU 1086/1000 SOC 2639/2600 CV 0/0 VDDRQ 620/600 SYS5V 2480/2400"
)
THOR_LINE = (
    "RAM 7000/125771MB CPU [1%@972] VDD_GPU 2400mW/2400mW VDD_CPU_SOC_MSS 6510mW/6500mW "
    "VIN_SYS_5V0 6520mW/6500mW VIN 23000mW/23000mW"
)


@pytest.mark.parametrize(
    ("line", "watts", "rails"),
    [
        (ORIN_NANO_LINE, 5.348, ("VDD_IN",)),
        (AGX_ORIN_LINE, 4.788 + 0.798 + 3.842, ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")),
        (AGX_XAVIER_LINE, 8.377, ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V")),
        (THOR_LINE, 23.0, ("VIN",)),
    ],
)
def test_a_line_of_tegrastats_gives_the_power_now_and_its_rails(line: str, watts: float, rails: Sequence[str]) -> None:
    found = jetson_sensors.tegrastats_watts(line)
    assert found is not None
    assert found[0] == pytest.approx(watts)
    assert found[1] == rails


def test_a_line_of_tegrastats_without_power_gives_none() -> None:
    assert jetson_sensors.tegrastats_watts("RAM 100/200MB CPU [1%@729]") is None


class Calls:
    def __init__(self, *answers: tuple[int, str] | Exception) -> None:
        self.answers, self.made = list(answers), list[list[str]]()

    def __call__(self, command: Sequence[str]) -> tuple[int, str]:
        self.made.append([part if "/" not in part else "FILE" for part in command])
        answer = self.answers.pop(0) if self.answers else (0, "")
        if isinstance(answer, Exception):
            raise answer
        return answer


def _interrupted(calls: Calls) -> None:
    assert len(calls.made) == 2
    raise KeyboardInterrupt


def test_clocks_are_stored_set_and_restored_even_after_an_interrupt(tmp_path: Path) -> None:
    calls = Calls()
    root = trees.orin_nano(tmp_path)
    with pytest.raises(KeyboardInterrupt), jetson.clocks_set(root, call=calls):
        _interrupted(calls)
    store, restore = ["jetson_clocks", "--store", "FILE"], ["jetson_clocks", "--restore", "FILE"]
    assert calls.made == [store, ["jetson_clocks"], restore]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((1, "Error: Run this script(/usr/bin/jetson_clocks) as a root user"), "run bench with sudo"),
        (FileNotFoundError(), "not installed"),
        ((3, "something else"), "exit code 3: something else"),
    ],
)
def test_clocks_that_may_not_be_set_are_one_clear_line(
    tmp_path: Path, answer: tuple[int, str] | Exception, says: str
) -> None:
    calls = Calls(answer)
    with (
        pytest.raises(DeviceError, match=says) as caught,
        jetson.clocks_set(trees.orin_nx(tmp_path), call=calls),
    ):
        raise AssertionError("it must not begin")
    assert "\n" not in str(caught.value)
    assert len(calls.made) == 1  # nothing was changed, so there is nothing to restore


def test_half_set_clocks_are_restored_and_clocks_that_stay_locked_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls = Calls((0, ""), (1, "failed"), (1, "failed too"))
    with pytest.raises(DeviceError), jetson.clocks_set(trees.orin_nx(tmp_path), call=calls):
        raise AssertionError("it must not begin")
    assert [call[1:2] for call in calls.made] == [["--store"], [], ["--restore"]]
    assert "stay locked" in caplog.text


def test_clocks_are_refused_off_a_jetson(tmp_path: Path) -> None:
    calls = Calls()
    with pytest.raises(DeviceError, match="no Jetson"), jetson.clocks_set(tmp_path, call=calls):
        pass
    assert calls.made == []


@pytest.mark.parametrize(
    ("tree", "profile"),
    [
        (trees.orin_nano, "jetson-orin-nano-8gb-super"),
        (trees.orin_nx, "jetson-orin-nx-16gb"),
        (trees.agx_orin, "jetson-agx-orin-64gb"),
        (trees.xavier_nx, "jetson-xavier-nx-8gb"),
        (trees.thor, "jetson-thor-t5000"),
    ],
)
def test_every_tree_is_the_board_that_it_says(tmp_path: Path, tree: Callable[[Path], Path], profile: str) -> None:
    board = jetson.detect(tree(tmp_path))
    assert board is not None
    assert board.profile == profile


def test_a_boards_out_of_memory_that_comes_as_an_assertion_of_nvml_is_oom(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(
            'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/opt/pytorch/c10/cuda/CUDACachingAllocator.cpp"'
        )

    monkeypatch.setattr(ModelRun, "run", fail)
    said: list[dict[str, object]] = []
    spec = ModelSpec(name="x", arch="x:X", kwargs={}, in_channels=4, out_channels=3)
    job = Job(model=spec, workload=Workload(spatial=(8, 8, 8)))
    worker.answer({"task": "measure", "jobs": [to_json(job)]}, said.append)
    assert said[-1]["status"] == "oom"


def test_set_clocks_off_a_jetson_ends_with_a_line_before_anything_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetson, "detect", lambda root: None)
    out = tmp_path / "out"
    code = cli_main.main(["run", "--models", "slim_unetr", "--device", "cpu", "--set-clocks", "--out", str(out)])
    assert code == 2
    assert "no Jetson" in capsys.readouterr().err
    assert not out.exists()


def record(throttled_by: int, **more: object) -> Record:
    env = {"jetson": "NVIDIA Jetson Orin Nano", "l4t": "36.4.3", "power_mode": "25W", "clocks_locked": True} | more
    return Record(
        model=ModelSpec(name="x", arch="x:X", kwargs={}, in_channels=4, out_channels=3),
        workload=Workload(),
        device=Device(kind="jetson", name="jetson-orin-nano-8gb", basis="probed", asked="jetson"),
        environment=env,
        status="unstable" if throttled_by else "ok",
        started_at=f"2026-01-02T03:00:{throttled_by:02}Z",
        duration_s=1.0,
        measurements=(
            Measurement(
                metric="throttle_events", unit="events", value=throttled_by, origin="measured", method="counters"
            ),
        ),
    )


def test_the_report_tells_mode_clocks_and_throttling() -> None:
    (group,) = conditions.group([record(0), record(3)])
    facts = dict(conditions.facts(group))
    assert facts["Power mode"] == "25W"
    assert facts["Clocks"].startswith("locked")
    assert facts["Throttling"].startswith("in 1 of 2 rows")
    (calm,) = conditions.group([record(0, clocks_locked=False)])
    assert dict(conditions.facts(calm))["Throttling"] == "none"
    assert dict(conditions.facts(calm))["Clocks"].startswith("not locked")


def test_the_report_tells_of_a_gpu_who_else_was_there() -> None:
    env = {"power_limit_w": 450.0, "mig": "1g.5gb", "gpu_processes": 2, "clocks_locked": None}
    facts = dict(conditions.facts(conditions.group([record(0, **env)])[0]))
    assert facts["Power limit of the GPU"] == "450 W"
    assert facts["MIG slice"] == "1g.5gb"
    assert facts["Other programs on the GPU"].startswith("2 at the start")
    assert "Clocks" not in facts
