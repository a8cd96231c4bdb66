"""Other load and steal time, from counters that the test writes."""

import pytest

from benchbench.devices.contention import between, look


def machine(tmp_path, user, idle, steal=0):
    (tmp_path / "proc").mkdir(exist_ok=True)
    (tmp_path / "proc/stat").write_text(f"cpu  {user} 0 0 {idle} 0 0 0 {steal} 0 0\ncpu0 1 2 3\n")
    return tmp_path


def over(tmp_path, *, busy, own, idle, steal=0.0, span=10.0):
    """What is seen over a span in which so many seconds passed in each way."""
    before = look(machine(tmp_path, 1000, 5000), own_s=3.0, at_s=100.0)
    root = machine(tmp_path, 1000 + round(busy * 100), 5000 + round(idle * 100), round(steal * 100))
    return between(before, look(root, own_s=3.0 + own, at_s=100.0 + span))


def test_a_quiet_machine_is_not_disturbed(tmp_path):
    found = over(tmp_path, busy=20.0, own=19.8, idle=0.1)
    assert found.reason is None
    assert found.foreign_cores == pytest.approx(0.02)


def test_other_programs_disturb_where_no_core_is_left(tmp_path):
    assert "other programs took 0.50 cores" in over(tmp_path, busy=20.0, own=15.0, idle=0.0).reason
    assert over(tmp_path, busy=15.0, own=10.0, idle=5.0).reason is None  # one thread of ours, a core for them


def test_steal_time_disturbs(tmp_path):
    assert "hypervisor" in over(tmp_path, busy=19.0, own=19.0, idle=0.0, steal=1.0).reason


def test_a_moment_is_too_short_to_say_anything(tmp_path):
    assert over(tmp_path, busy=0.1, own=0.0, idle=0.0, span=0.1) is None


def test_without_counters_nothing_is_said(tmp_path):
    assert look(tmp_path) is None
    assert between(None, None) is None
