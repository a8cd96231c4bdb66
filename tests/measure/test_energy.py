"""Energy with clocks and counters of our own: nothing here waits for a sensor, or depends on the machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchbench.core.records import METRIC_UNITS, Measurement
from benchbench.devices import rapl
from benchbench.measure import energy
from benchbench.measure.memory import PeakMemory
from benchbench.measure.monitor import Watch
from benchbench.measure.power_logger import PowerLog
from tests import tegra_trees as trees


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Log:
    """A power log whose samples are known beforehand."""

    def __init__(self, *samples: tuple[float, float]) -> None:
        self.samples, self.stopped = list(samples), 0

    def stop(self) -> list[tuple[float, float]]:
        self.stopped += 1
        return self.samples


def by_metric(found: list[Measurement]) -> dict[str, Measurement]:
    return {m.metric: m for m in found}


def test_constant_power_is_power_times_time_wherever_the_samples_lie() -> None:
    samples = [(t / 10, 12.0) for t in range(1, 60)]
    assert energy.integrate(samples, 1.234, 4.567) == pytest.approx(12 * (4.567 - 1.234))


def test_a_ramp_is_integrated_by_its_slope_also_at_the_edges() -> None:
    assert energy.integrate([(0.0, 0.0), (10.0, 10.0), (20.0, 0.0)], 5.0, 15.0) == pytest.approx(75.0)


def test_beyond_the_outermost_samples_their_power_goes_on() -> None:
    assert energy.integrate([(1.0, 10.0), (2.0, 20.0)], 0.0, 4.0) == pytest.approx(10 + 15 + 40)


def test_without_a_sample_inside_there_is_no_energy() -> None:
    assert energy.integrate([], 0.0, 1.0) is None
    assert energy.integrate([(5.0, 10.0)], 0.0, 1.0) is None


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1000)), min_size=1, max_size=30),
    st.floats(0, 100),
    st.floats(0, 100),
)
def test_energy_lies_between_the_lowest_and_the_highest_power(
    samples: list[tuple[float, float]], one: float, other: float
) -> None:
    start, end = sorted((one, other))
    found = energy.integrate(sorted(samples), start, end)
    if found is not None:
        powers = [watts for _, watts in samples]
        assert min(powers) * (end - start) - 1e-6 <= found <= max(powers) * (end - start) + 1e-6


def test_the_energy_of_a_forward_is_that_of_the_timed_ones_over_their_number() -> None:
    clock = Clock()
    log = Log(*((t / 10, 12.0) for t in range(200)))
    request = {"source": "rails", "period_s": 0.1}
    meter = energy.PowerMeter(request, "ina3221: VDD_IN; module rails, not wall", start=lambda _: log, clock=clock)
    clock.now = 2.0  # warm-up has passed and does not count
    meter.begin()
    clock.now = 7.0
    m = energy.measurement(meter.end(), 20)
    meter.close()
    assert log.stopped == 1
    assert m.value == pytest.approx(12 * 5 / 20)
    assert m.method == (
        "ina3221: VDD_IN; module rails, not wall; 51 samples, a new value every 100 ms, over 5.00 s with 20 forwards"
    )


def test_a_time_too_short_for_the_sensor_is_null_with_the_reason() -> None:
    clock, log = Clock(), Log((0.0, 12.0), (0.1, 12.0))
    meter = energy.PowerMeter({"period_s": 0.1}, "x", start=lambda _: log, clock=clock)
    meter.begin()
    clock.now = 0.2
    m = energy.measurement(meter.end(), 50)
    assert m.value is None
    assert m.reason is not None
    assert "too short" in m.reason


def test_a_log_that_died_is_null_with_the_reason() -> None:
    clock = Clock()
    meter = energy.PowerMeter({"period_s": 0.1}, "x", start=lambda _: Log(), clock=clock)
    meter.begin()
    clock.now = 5.0
    m = energy.measurement(meter.end(), 5)
    assert (m.value, m.reason) == (None, "the sensor gave no reading while the forwards were timed")


def powercap(root: Path, **domains: str) -> Path:
    """`intel_rapl_0="package-0 1000000"`: the name and the counter in microjoules."""
    files = {}
    for key, text in domains.items():
        folder = "sys/class/powercap/" + key.replace("intel_rapl", "intel-rapl").replace("_", ":")
        name, _, counter = text.partition(" ")
        files |= {f"{folder}/name": name, f"{folder}/max_energy_range_uj": 262_143_328_850}
        if counter:
            files[f"{folder}/energy_uj"] = counter
    return trees.lay_out(root, files)


def test_packages_are_counted_and_the_domains_within_them_are_not(tmp_path: Path) -> None:
    root = powercap(tmp_path, intel_rapl_0="package-0 7000000", intel_rapl_0_0="core 5000000", intel_rapl_1="psys 9")
    assert [(p.name, p.joules()) for p in rapl.packages(root)] == [("package-0", 7.0)]


def test_a_counter_that_only_root_may_read_is_no_sensor(tmp_path: Path) -> None:
    root = powercap(tmp_path, intel_rapl_0="package-0 7000000", intel_rapl_1="package-1")
    assert rapl.packages(root) == []
    assert energy.open_meter("cpu", None, root) is None


def test_a_counter_that_starts_again_loses_nothing(tmp_path: Path) -> None:
    root = powercap(tmp_path, intel_rapl_0="package-0 262143000000")
    meter = energy.open_meter("cpu", None, root)
    assert isinstance(meter, energy.CounterMeter)
    clock = meter.clock = Clock()
    meter.begin()
    clock.now = 5.0
    meter.between()  # too soon to read
    powercap(root, intel_rapl_0="package-0 99671150")  # past the end by 100 J
    clock.now = 11.0
    meter.between()
    powercap(root, intel_rapl_0="package-0 149671150")
    clock.now = 12.0
    m = energy.measurement(meter.end(), 5)
    assert m.value == pytest.approx((0.32885 + 99.67115 + 50) / 5)
    assert "package-0" in m.method
    assert "3 samples" in m.method
    assert "package, not wall" in m.method


def test_two_packages_are_summed(tmp_path: Path) -> None:
    root = powercap(tmp_path, intel_rapl_0="package-0 0", intel_rapl_1="package-1 0")
    meter = energy.open_meter("cpu", None, root)
    assert isinstance(meter, energy.CounterMeter)
    meter.begin()
    powercap(root, intel_rapl_0="package-0 3000000", intel_rapl_1="package-1 4000000")
    assert meter.end().joules == pytest.approx(7)


def test_a_counter_that_goes_away_gives_no_number(tmp_path: Path) -> None:
    root = powercap(tmp_path, intel_rapl_0="package-0 0")
    meter = energy.open_meter("cpu", None, root)
    assert isinstance(meter, energy.CounterMeter)
    meter.begin()
    (root / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()
    assert meter.end().joules is None


def test_a_machine_without_a_sensor_has_no_energy_at_all(tmp_path: Path) -> None:
    watch = Watch("cpu", root=tmp_path)
    watch.begin()
    watch.between()
    watch.end()
    assert watch.measurements(3) == []
    assert watch.unstable is None


def test_a_jetson_without_readable_rails_says_so(tmp_path: Path) -> None:
    root = trees.board(tmp_path, "NVIDIA Jetson X", "nvidia,p3767-0000|nvidia,tegra234", 7_800_000, "15W")
    for backend in ("cpu", "cuda"):
        watch = Watch(backend, root=root)
        watch.begin()
        watch.end()
        found = by_metric(watch.measurements(3))
        assert found["energy_j"].value is None
        assert "no power rail can be read" in str(found["energy_j"].reason)


def watched(root: Path, change: Callable[[], object] = lambda: None) -> Watch:
    clock = Clock()
    log = Log(*((t / 10, 12.0) for t in range(100)))
    meter = energy.PowerMeter({"period_s": 0.1}, "ina3221: VDD_IN", start=lambda _: log, clock=clock)
    watch = Watch("cuda", root=root, meter=meter)
    watch.begin()
    change()
    clock.now = 5.0
    watch.between()
    watch.end()
    watch.close()
    return watch


def test_a_board_tells_energy_heat_clocks_and_that_it_was_not_throttled(tmp_path: Path) -> None:
    watch = watched(trees.orin_nano(tmp_path))
    found = by_metric(watch.measurements(10))
    assert found["energy_j"].value == pytest.approx(6.0)
    assert found["temperature_start_c"].value == found["temperature_end_c"].value == 52.25
    assert "tj-thermal" in found["temperature_end_c"].method
    assert found["gpu_frequency_end_hz"].value == 1_020_000_000
    assert found["cpu_frequency_start_hz"].value == 1_728_000_000
    assert found["throttle_events"].value == 0
    assert all(m.unit == METRIC_UNITS[m.metric] for m in found.values())
    assert watch.unstable is None


def test_a_board_throttled_while_timed_is_unstable_and_says_by_what(tmp_path: Path) -> None:
    root = trees.orin_nano(tmp_path)
    watch = watched(root, lambda: trees.lay_out(root, trees.over_current(3, 0, 0, 27_400)))
    assert by_metric(watch.measurements(10))["throttle_events"].value == 10
    assert watch.unstable is not None
    assert "oc3_event_cnt +10" in watch.unstable
    assert "run again" in watch.unstable


def test_a_failed_forward_ends_the_log(tmp_path: Path) -> None:
    log = Log()
    meter = energy.PowerMeter({"period_s": 0.1}, "x", start=lambda _: log)
    watch = Watch("cuda", root=trees.orin_nano(tmp_path), meter=meter)
    watch.begin()
    watch.close()
    watch.close()
    assert log.stopped == 1


def test_the_log_is_a_process_that_reads_the_rails_until_it_is_stopped(tmp_path: Path) -> None:
    root = trees.agx_orin(tmp_path)
    log = PowerLog({"source": "rails", "root": str(root), "period_s": 0.005})
    _wait_for(lambda: os.fstat(log._file.fileno()).st_size > 100)
    samples = log.stop()
    assert len(samples) > 3
    assert {watts for _, watts in samples} == {21.0}
    assert samples == sorted(samples)
    assert log._process.returncode == 0


def test_a_board_watched_for_real_has_the_power_of_its_rails(tmp_path: Path) -> None:
    watch = Watch("cpu", root=trees.lay_out(trees.orin_nano(tmp_path), {"sys/class/hwmon/hwmon1/update_interval": 20}))
    meter = watch.meter
    assert isinstance(meter, energy.PowerMeter)
    watch.begin()
    size = os.fstat(meter._log._file.fileno()).st_size
    assert size > 0  # the log runs before anything is timed
    began, file = meter._began, meter._log._file
    _wait_for(lambda: os.fstat(file.fileno()).st_size > size + 200 and time.monotonic() > began + 0.1)
    watch.end()
    watch.close()
    reading = watch._reading
    assert isinstance(reading, energy.Reading)
    (m,) = (m for m in watch.measurements(4) if m.metric == "energy_j")
    assert m.value == pytest.approx(12.0 * reading.window_s / 4)
    assert m.method.startswith("ina3221: VDD_IN; module rails, not wall; ")


def test_the_log_ends_with_the_process_that_began_it(tmp_path: Path) -> None:
    program = (
        "import os, sys\nfrom benchbench.measure.power_logger import PowerLog\n"
        f"log = PowerLog({{'source': 'rails', 'root': {str(trees.orin_nx(tmp_path))!r}, 'period_s': 0.005}})\n"
        "print(log._process.pid, flush=True)\nsys.stdin.read()\nos._exit(1)"
    )
    root = Path(__file__).resolve().parents[2]
    worker = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
    )
    assert worker.stdout
    assert worker.stdin
    log = psutil.Process(int(worker.stdout.readline()))
    assert log.is_running()
    worker.stdin.close()
    worker.wait()
    _wait_for(lambda: not log.is_running() or log.status() == psutil.STATUS_ZOMBIE)


def test_a_log_that_cannot_read_anything_ends_and_has_no_samples(tmp_path: Path) -> None:
    log = PowerLog({"source": "rails", "root": str(tmp_path), "period_s": 0.01})
    log._process.wait(timeout=60)
    assert log.stop() == []


def test_tegrastats_is_logged_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "tegrastats"
    line = "RAM 5338/7607MB CPU [1%@729] VDD_IN 5348mW/5300mW VDD_SOC 1384mW/1380mW"
    script.write_text(f"#!/bin/sh\nwhile true; do echo '{line}'; sleep 0.01; done\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = energy._first_line_of_tegrastats()
    assert found is not None
    assert found[1] == ("VDD_IN",)
    log = PowerLog({"source": "tegrastats", "period_s": 0.01})
    _wait_for(lambda: os.fstat(log._file.fileno()).st_size > 100)
    samples = log.stop()
    assert {watts for _, watts in samples} == {5.348}
    assert log._process.returncode == 0


def _wait_for(condition: Callable[[], bool], limit_s: float = 60) -> None:
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.01)


def test_shared_memory_is_told_in_three_views_and_a_rise_of_free_memory_is_no_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchbench.measure import memory

    monkeypatch.setattr(memory.cpu, "ROOT", trees.lay_out(tmp_path, {"proc/meminfo": "MemAvailable: 3000000 kB"}))
    before = memory.system_available_bytes()
    assert before == 3_000_000 * 1024
    peak = PeakMemory("cpu", available_before=before)
    trees.lay_out(tmp_path, {"proc/meminfo": "MemAvailable: 2000000 kB"})
    found = by_metric(peak.measurements())
    assert found["available_memory_drop_bytes"].value == 1_000_000 * 1024
    assert found["process_memory_bytes"].value == pytest.approx(found["peak_memory_bytes"].value, rel=0.1)
    trees.lay_out(tmp_path, {"proc/meminfo": "MemAvailable: 9000000 kB"})
    drop = by_metric(peak.measurements())["available_memory_drop_bytes"]
    assert drop.value is None
    assert drop.reason
