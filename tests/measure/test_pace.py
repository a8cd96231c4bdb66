"""The pace of the machine: when it is read, and what it says."""

import pytest
import torch

from benchbench.measure.pace import Pace


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


class Clock:
    """Each look takes a millisecond."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1e-3
        return self.now


def test_it_is_read_no_more_than_four_times_a_second(threads):
    threads(2)
    clock = Clock()
    pace = Pace(clock=clock)
    for _ in range(100):
        pace.read()
        clock.now += 0.05
    assert 18 <= len(pace.products_s) <= 22
    by = {m.metric: m for m in pace.measurements()}
    assert by["pace_handover_s"].value == pytest.approx(1e-4)  # a millisecond for ten
    assert by["pace_product_s"].value == pytest.approx(1e-3)
    assert len(by["pace_product_s"].values) == len(pace.products_s)
    assert "2 threads share" in by["pace_handover_s"].method


def test_one_thread_hands_nothing_over(threads):
    threads(1)
    pace = Pace()
    pace.read()
    assert [m.metric for m in pace.measurements()] == ["pace_product_s"]


def test_what_was_never_read_is_not_measured():
    assert Pace().measurements() == []


def test_real_readings_are_of_the_size_that_such_work_takes(threads):
    threads(2)
    pace = Pace()
    pace.read()
    by = {m.metric: m.value for m in pace.measurements()}
    assert 1e-7 < by["pace_handover_s"] < 1
    assert 1e-5 < by["pace_product_s"] < 10
