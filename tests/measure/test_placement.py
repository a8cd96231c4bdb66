"""Tensors get other places in memory and stay what they are."""

import random

import torch

from benchbench.measure import placement
from benchbench.measure.placement import Places


def places(module):
    return tuple(tensor.data_ptr() for tensor in module.parameters())


def test_weights_and_buffers_are_elsewhere_and_the_output_is_the_same():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv3d(2, 4, 3), torch.nn.BatchNorm3d(4), torch.nn.Conv3d(4, 1, 1)).eval()
    x = torch.randn(1, 2, 40, 30, 30).to(memory_format=torch.channels_last_3d)  # more than is copied in one piece
    strides, parameters = x.stride(), [id(p) for p in net.parameters()]
    moved = Places([*net.parameters(), *net.buffers(), x], random.Random(0))
    assert len(moved.tensors) == 10
    with torch.inference_mode():
        out, seen, inputs = net(x), {places(net)}, {x.data_ptr()}
        for _ in range(6):
            moved.move()
            seen.add(places(net))
            inputs.add(x.data_ptr())
            assert torch.equal(net(x), out)
    assert len(seen) > 2
    assert len(inputs) > 1
    assert x.stride() == strides
    assert [id(p) for p in net.parameters()] == parameters


def test_tied_weights_views_and_empty_tensors_stay_where_they_are():
    whole = torch.arange(10.0)
    net = torch.nn.Module()
    net.first = net.second = torch.nn.Parameter(torch.ones(8))
    net.also = torch.nn.Parameter(net.first.data)  # another object on the same memory
    spread = torch.ones(1).expand(4)
    assert not Places([net.first, net.second, net.also, whole[:5], torch.empty(0), spread], random.Random(0)).tensors
    (only,) = Places([net.first, net.second], random.Random(0)).tensors
    assert only is net.first


def test_no_more_is_copied_at_a_time_than_a_bound(monkeypatch):
    monkeypatch.setattr(placement, "_MOST_BYTES", 100)
    tensors = [torch.ones(10) for _ in range(4)]  # of 40 bytes
    before = [tensor.data_ptr() for tensor in tensors]
    Places(tensors, random.Random(0)).move()
    assert sum(now.data_ptr() != then for now, then in zip(tensors, before, strict=True)) == 2


def test_an_allocator_that_is_not_glibcs_is_left_alone(monkeypatch):
    class Other:
        pass

    monkeypatch.setattr(placement.ctypes, "CDLL", lambda name: Other())
    assert not placement.keep_freed_memory()
