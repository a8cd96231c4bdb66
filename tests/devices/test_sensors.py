"""Heat, clocks and throttling of a processor, from files that the test writes."""

from benchbench.devices.sensors import cpu_snapshot
from benchbench.measure.monitor import Watch
from tests.tegra_trees import lay_out


def machine(root, *, throttled=3):
    return lay_out(
        root,
        {
            "sys/class/thermal/thermal_zone0/type": "x86_pkg_temp",
            "sys/class/thermal/thermal_zone0/temp": 61500,
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": 3100000,
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": 2400000,
            "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": throttled,
            "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": 1,
            "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": 0,
        },
    )


def test_a_look_has_the_zone_the_fastest_core_and_the_counters(tmp_path):
    look = cpu_snapshot(machine(tmp_path))
    assert look.temperatures_c == {"x86_pkg_temp": 61.5}
    assert look.cpu_hz == 3.1e9
    assert look.throttle_counts == {"core_throttle_count": 4, "package_throttle_count": 0}


def test_a_machine_that_tells_nothing_gives_nothing(tmp_path):
    assert cpu_snapshot(tmp_path) is None


def test_a_row_during_which_the_processor_was_throttled_is_unstable(tmp_path):
    watch = Watch("cpu", root=machine(tmp_path))
    watch.begin()
    machine(tmp_path, throttled=5)
    watch.end()
    assert "core_throttle_count +2" in watch.unstable
    assert "let the processor cool" in watch.unstable
    found = {m.metric: m for m in watch.measurements(10)}
    assert found["temperature_end_c"].value == 61.5
    assert "x86_pkg_temp" in found["temperature_end_c"].method
    assert found["cpu_frequency_start_hz"].value == 3.1e9
    assert found["throttle_events"].value == 2
    assert "thermal throttle counters" in found["throttle_events"].method


def test_one_that_was_not_throttled_says_so(tmp_path):
    watch = Watch("cpu", root=machine(tmp_path))
    watch.begin()
    watch.end()
    assert watch.unstable is None
    assert {m.metric: m.value for m in watch.measurements(10)}["throttle_events"] == 0
