"""Operators counted by hand: the headline is right on each, and what the others make of them stays what we say."""

import pytest

from benchbench.measure.flops import counters, reference_operators

#: Factor on the count by hand: fvcore, thop, thop corrected, torch-pruning. For norms and the like, whose
#: count is 0: what is added for each output element.
PINNED = {
    "conv 1-D": (1, 1, 1, 1.041667),
    "conv 2-D": (1, 1, 1, 1.013889),
    "conv 3-D": (1, 1, 1, 1.00463),
    "conv, no bias": (1, 1, 1, 1),
    "conv, strided": (1, 1, 1, 1.015625),
    "conv, grouped": (1, 1, 1, 1.018519),
    "conv, depthwise": (1, 1, 1, 1.037037),
    "conv, dilated": (1, 1, 1, 1.00463),
    "transposed conv 1-D": (1, 2, 1, 2.125),
    "transposed conv 2-D": (1, 4, 1, 4.125),
    "transposed conv 3-D": (1, 8, 1, 8.125),
    "transposed conv, no bias": (1, 8, 1, 8),
    "transposed conv, stride 4": (1, 64, 1, 64.125),
    "transposed conv, grouped": (1, 8, 1, 8.5),
    "linear on a sequence": (1, 1, 1, 1.003125),
    "linear, no bias": (1, 1, 1, 1),
    "bmm": (1, 0, 0, 0),
    "x @ y": (1, 0, 0, 0),
    "einsum": (1, 0, 0, 0),
    "einsum of two heads": (1, 0, 0, 0),
    "scaled_dot_product_attention": (0, 0, 0, 0),
    "MultiheadAttention in eval": (1, 0, 0, 1.072115),
    "interpolate": (0, 0, 0, 0),
    "Upsample": (0, 1, 1, 1),
    "BatchNorm3d": (2, 4, 4, 2),
    "InstanceNorm3d": (5, 4, 4, 2),
    "GroupNorm": (5, 0, 0, 2),
    "LayerNorm": (5, 4, 4, 2),
}


def test_every_operator_is_pinned():
    assert [o.name for o in reference_operators.OPERATORS] == list(PINNED)


@pytest.mark.parametrize("operator", reference_operators.OPERATORS, ids=lambda o: o.name)
def test_the_headline_is_exact_and_the_others_are_as_pinned(operator):
    found = reference_operators.check(operator)
    assert found["torch"].macs == operator.macs
    assert {name: v.reason for name, v in found.items() if v.reason} == {}
    others = [found[name].factor for name in counters.COUNTERS[1:]]
    assert others == pytest.approx(PINNED[operator.name], rel=1e-5)


@pytest.mark.parametrize("operator", reference_operators.OPERATORS, ids=lambda o: o.name)
def test_tensors_without_memory_give_what_real_ones_give(operator):
    ghosts, real = (reference_operators.check(operator, real=real) for real in (False, True))
    assert {name: (c.macs, c.params, c.factor) for name, c in ghosts.items()} == {
        name: (c.macs, c.params, c.factor) for name, c in real.items()
    }
