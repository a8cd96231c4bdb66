"""The precision of a training: by its own first steps, alternating."""

from __future__ import annotations

import pytest

from benchbench.training.precision import PrecisionChoice


def timed(fp32_s: float, bf16_s: float) -> tuple[PrecisionChoice, list[bool]]:
    """A choice after as many steps as it needs, and the precision of each."""
    choice, order = PrecisionChoice(None), []
    enough = False
    while not enough:
        order.append(choice.next())
        first = 10.0 if len(order) <= 2 else 0.0  # the first in each precision chooses kernels
        enough = choice.add(first + (bf16_s if order[-1] else fp32_s))
    return choice, order


def test_steps_alternate_and_the_first_of_each_does_not_count() -> None:
    choice, order = timed(0.4, 0.2)
    assert order == [False, True] * 4
    assert choice.shortest_s() == {"fp32": 0.4, "bf16": 0.2}


@pytest.mark.parametrize(("fp32_s", "bf16_s", "faster"), [(0.4, 0.2, True), (0.2, 0.4, False), (0.4, 0.39, False)])
def test_bf16_has_to_be_clearly_faster(fp32_s: float, bf16_s: float, faster: bool) -> None:
    choice, _ = timed(fp32_s, bf16_s)
    assert choice.is_bf16_faster() is faster


@pytest.mark.parametrize("asked", [True, False])
def test_a_given_precision_is_not_timed(asked: bool) -> None:
    choice = PrecisionChoice(asked)
    assert choice.is_decided
    assert choice.next() is asked
    assert choice.shortest_s() == {}


def test_one_step_that_other_work_held_up_decides_nothing() -> None:
    choice = PrecisionChoice(None)
    for fp32_s, bf16_s in ((1.0, 1.0), (0.4, 0.2), (0.4, 1.5), (0.5, 0.9)):
        choice.add(fp32_s)
        choice.add(bf16_s)
    assert choice.is_bf16_faster()
    assert choice.shortest_s() == {"fp32": 0.4, "bf16": 0.2}
