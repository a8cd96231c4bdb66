"""A whole patient is forecast as so many forwards as windows cover it, and never as one number."""

from __future__ import annotations

import dataclasses

import pytest

from benchbench.core import records as rec
from benchbench.runner.record import _patient_forecast
from tests import report_examples as examples

WORK = dataclasses.replace(examples.WORKLOAD, volume=(240, 240, 155), overlap=0.5, batch=2)
PATCH = examples.number("latency_s", 0.01, "predicted", bound="at_least", interval=(0.01, 0.18), method="datasheet: x")


def test_a_patients_forecast_is_that_of_a_batch_times_the_batches_of_windows():
    windows, seconds = _patient_forecast(WORK, [PATCH])
    assert (windows.metric, windows.value, windows.origin) == ("volume_windows", 18, "analytic")
    assert (seconds.metric, seconds.origin, seconds.bound) == ("volume_latency_s", "predicted", "at_least")
    assert seconds.value == pytest.approx(0.09)
    assert seconds.interval == pytest.approx((0.09, 1.62))
    assert seconds.method.startswith("datasheet: x; 9 forwards of 18 windows of 128x128x128, overlap 0.5")
    assert "cutting and stitching are not in it" in seconds.method


@pytest.mark.parametrize(
    ("work", "found", "says"),
    [
        (dataclasses.replace(WORK, crop_foreground=True), [PATCH], "without the case"),
        (WORK, [rec.Measurement.missing("latency_s", "no fp16 units", "predicted")], "no fp16 units"),
        (WORK, [], "no forward is forecast"),
    ],
)
def test_without_a_forecast_of_a_forward_or_the_box_there_is_a_reason_in_its_place(work, found, says):
    seconds = _patient_forecast(work, found)[-1]
    assert (seconds.metric, seconds.value) == ("volume_latency_s", None)
    assert says in seconds.reason


def test_without_a_volume_nothing_is_added():
    assert _patient_forecast(dataclasses.replace(WORK, volume=None), [PATCH]) == []
