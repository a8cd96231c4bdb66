"""When a faster path counts: by its output, or by its Dice; and when nothing can be said."""

import dataclasses

import pytest

from benchbench.core import qualification
from benchbench.core import records as rec
from tests.core.test_records import RECORD


def m(metric, value, **more):
    return rec.Measurement.of(metric, value, "test", **more)


ERROR = m("output_max_error", 5e-4)
LARGE = m("output_max_error", 2e-2)
SAME, OTHER = m("mask_changed_share", 5e-5), m("mask_changed_share", 5e-4)
KEEPS = m("lost_dice", 0.001, ci95=(-0.001, 0.003))
LOSES = m("lost_dice", 0.004, ci95=(0.002, 0.006))


@pytest.mark.parametrize(
    ("dtype", "runtime", "measurements", "counts"),
    [
        ("fp32", "eager", (), True),  # what others are held against
        ("bf16", "eager", (), False),
        ("fp32", "openvino", (), False),
        ("fp32", "openvino", (ERROR,), True),  # random numbers say enough of fp32
        ("bf16", "openvino", (ERROR,), False),  # but not of less
        ("bf16", "openvino", (ERROR, SAME), True),
        ("fp32", "openvino", (ERROR, OTHER), False),
        ("int8", "openvino", (LARGE, OTHER, KEEPS), True),
        ("int8", "openvino", (LARGE, OTHER, LOSES), False),
        ("fp32", "openvino", (LARGE, OTHER, KEEPS), True),
    ],
)
def test_a_row_takes_a_rank_only_if_its_output_or_its_dice_holds(dtype, runtime, measurements, counts):
    work = dataclasses.replace(RECORD.workload, dtype=dtype, runtime=runtime)
    record = dataclasses.replace(RECORD, workload=work, measurements=measurements)
    assert qualification.is_qualified(record) is counts


def test_a_forecast_and_a_training_step_are_not_held_against_an_output():
    work = dataclasses.replace(RECORD.workload, dtype="bf16")
    forecast = dataclasses.replace(
        RECORD, workload=work, device=dataclasses.replace(RECORD.device, basis="profile"), measurements=()
    )
    assert qualification.is_qualified(forecast)
    assert qualification.is_qualified(dataclasses.replace(RECORD, workload=dataclasses.replace(work, phase="train")))


def test_another_network_fails_with_both_figures():
    why = qualification.failure(LARGE, OTHER, LOSES, exact=False)
    assert why == (
        "not the same network any more: its output differs by 2.0e-02 of its range (limit 0.001); 0.05% of the voxels "
        "change (limit 0.01%); it loses 0.0040 Dice (0.0020 to 0.0060; limit 0.005)"
    )
    assert qualification.failure(LARGE, OTHER, KEEPS, exact=False) is None


def test_a_lower_precision_without_dice_is_unqualified_and_fp32_fails():
    assert qualification.failure(LARGE, None, None, exact=False) is None
    assert "differs by 2.0e-02" in qualification.failure(LARGE, None, None, exact=True)
