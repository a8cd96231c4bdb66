"""Several processes of one cell, as one set of measurements."""

import pytest

from benchbench.core.records import Measurement
from benchbench.runner.aggregate import merge, noise, runs_of


def m(metric, unit, value, values=(), origin="measured", **more):
    return Measurement(metric=metric, unit=unit, value=value, values=values, origin=origin, method="how", **more)


def turn(seconds, peak=100, warm=(0.5, 0.2), disturbed=0, **more):
    return [
        m("latency_s", "s", sorted(seconds)[len(seconds) // 2], tuple(seconds)),
        m("throughput_patches_per_s", "1/s", 1.0),
        m("warmup_s", "s", sum(warm), warm),
        m("peak_memory_bytes", "B", peak),
        m("temperature_end_c", "°C", 50.0 + peak / 100),
        m("contended_processes", "processes", disturbed),
        *more.get("also", ()),
    ]


def by_metric(found):
    assert len({x.metric for x in found}) == len(found)
    return {x.metric: x for x in found}


def test_a_single_process_stays_as_it_is():
    only = turn([1.0, 1.1])
    assert merge([only]) == only


def test_times_keep_every_sample_and_whose_it_is():
    turns = [turn([1.0, 1.1, 1.2]), turn([1.3, 1.3]), *[turn([1.2, 1.2])] * 3]
    found = by_metric(merge(turns, batch=2))
    latency = found["latency_s"]
    assert latency.values == (1.0, 1.1, 1.2, 1.3, 1.3, *[1.2] * 6)
    assert latency.runs == (3, 2, 2, 2, 2)
    assert latency.value == 1.2
    assert latency.ci95 == (1.1, 1.3)
    assert found["throughput_patches_per_s"].value == pytest.approx(2 / 1.2)
    assert found["warmup_s"].runs == (2,) * 5
    assert found["warmup_s"].value == pytest.approx(0.7)


def test_of_memory_the_largest_counts_and_of_the_rest_the_median():
    found = by_metric(merge([turn([1.0], peak=100), turn([1.0], peak=300), turn([1.0], peak=200)]))
    assert found["peak_memory_bytes"].value == 300
    assert found["peak_memory_bytes"].values == (100, 300, 200)
    assert "largest of 3" in found["peak_memory_bytes"].method
    assert found["temperature_end_c"].value == 52.0


def test_disturbed_processes_are_counted():
    assert by_metric(merge([turn([1.0]), turn([1.0], disturbed=1), turn([1.0])]))["contended_processes"].value == 1


def test_what_one_process_alone_found_is_kept():
    dice = m("dice", "1", 0.7, (0.6, 0.8))
    found = by_metric(merge([turn([1.0], also=[dice]), turn([1.0])]))
    assert found["dice"] == dice


def test_a_value_that_no_process_has_keeps_its_reason():
    absent = m("energy_j", "J", None, reason="no sensor")
    found = by_metric(merge([turn([1.0], also=[absent]), turn([1.0], also=[absent])]))
    assert found["energy_j"].reason == "no sensor"
    one = m("energy_j", "J", 3.0)
    found = by_metric(merge([turn([1.0], also=[absent]), turn([1.0], also=[one])]))
    assert found["energy_j"].value == 3.0


def test_a_network_against_itself_is_a_ratio_near_one():
    own, twin = [[1.0, 1.0]] * 5, [[1.02, 1.02]] * 5
    found = noise(own, twin, "latency_s")
    assert found.value == pytest.approx(1.02)
    assert found.ci95 == pytest.approx((1.02, 1.02))
    assert found.runs == (2,) * 5
    assert noise(own[:1], twin[:1], "latency_s").ci95 is None


def test_a_turn_without_samples_gives_no_run():
    assert runs_of([turn([1.0]), []], "latency_s") == [[1.0]]
