"""The peak is a true peak: an allocation of known size that is gone again when we look."""

import subprocess
import sys
import types

import pytest

from benchbench.core.errors import DeviceError
from benchbench.devices import nvml
from benchbench.measure import memory

SCRIPT = """
from benchbench.measure import memory
peak = memory.PeakMemory("cpu")
before = memory.resident_bytes()
block = bytearray(b"x") * 300_000_000
del block
found = {m.metric: m for m in peak.measurements(base_bytes=before)}
assert found["base_memory_bytes"].value == before
print(before, found["peak_memory_bytes"].value, memory.resident_bytes())
"""


def test_a_peak_is_seen_after_it_has_passed():
    out = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True).stdout
    before, peak, after = map(int, out.split())
    assert peak - before == pytest.approx(300e6, rel=0.02)
    assert after - before < 50e6


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux can reset the mark")
def test_the_mark_starts_again_where_the_system_can_reset_it():
    block = bytearray(b"x") * 200_000_000
    del block
    assert memory.reset_peak()
    assert memory.peak_bytes() - memory.resident_bytes() < 50e6


def test_without_proc_the_systems_own_figure_is_used(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none")
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "none" / "none")
    assert not memory.reset_peak()
    assert memory.peak_bytes() > 1e6
    assert memory.resident_bytes() > 1e6
    (m,) = memory.PeakMemory("cpu").measurements()
    assert m.method.startswith("ru_maxrss")


def test_on_a_gpu_the_allocators_own_peak_is_reset_and_read(monkeypatch):
    import torch

    calls = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: calls.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda *_: calls.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda *_: 123_456)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda *_: 100_000)
    monkeypatch.setattr(nvml, "of_torch", lambda index: types.SimpleNamespace(process_memory_bytes=lambda: 500_000))
    parts = memory.Parts(weights_bytes=10_000, input_bytes=1_000, output_bytes=2_000)
    found = {m.metric: m for m in memory.PeakMemory("cuda").measurements(parts=parts)}
    assert calls == ["synchronize", "reset"]
    assert found["peak_memory_bytes"].value == 123_456
    assert "CUDA" in found["peak_memory_bytes"].method
    assert found["allocated_memory_bytes"].value == 100_000
    assert found["process_memory_bytes"].value == 500_000
    assert found["activation_memory_bytes"].value == 100_000 - 13_000


def test_a_driver_that_does_not_tell_is_a_reason_and_no_number(monkeypatch):
    import torch

    def refuse(index):
        raise DeviceError("nvidia-ml-py is not installed")

    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    for name in ("max_memory_reserved", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: 1)
    monkeypatch.setattr(nvml, "of_torch", refuse)
    found = {m.metric: m for m in memory.PeakMemory("cuda").measurements()}
    assert found["process_memory_bytes"].value is None
    assert "not installed" in found["process_memory_bytes"].reason


SPLIT = """
import torch
from benchbench.measure import latency, memory

class Allocates(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(5_000_000))

    def forward(self, x):
        block = torch.ones(50_000_000)
        del block
        return x + 1

torch.set_num_threads(1)
torch.ones(1 << 20).add_(1)
base = memory.resident_bytes()
module, x = Allocates().eval(), torch.ones(10_000_000)
peak = memory.PeakMemory("cpu")
out = latency.forward_function(module, x)()
parts = memory.Parts(
    weights_bytes=memory.weights_bytes(module),
    input_bytes=memory.storage_bytes([x]),
    output_bytes=memory.storage_bytes([out, out]),
)
for m in peak.measurements(base, parts):
    print(m.metric, m.value)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux can reset the mark")
def test_the_split_finds_an_allocation_of_known_size_within_a_few_megabytes():
    out = subprocess.run([sys.executable, "-c", SPLIT], check=True, capture_output=True, text=True).stdout
    found = {name: int(value) for name, value in (line.split() for line in out.splitlines())}
    assert found["weights_memory_bytes"] == 20_000_000
    assert found["input_memory_bytes"] == found["output_memory_bytes"] == 40_000_000
    # The block of 200 MB was gone before the output of 40 MB came: the peak is without the output.
    assert found["activation_memory_bytes"] + 40_000_000 == pytest.approx(200e6, abs=5e6)
    parts = sum(value for name, value in found.items() if name != "peak_memory_bytes")
    assert parts == found["peak_memory_bytes"]


def test_parts_that_exceed_the_peak_give_a_reason_and_no_number():
    parts = memory.Parts(weights_bytes=10**15, input_bytes=0, output_bytes=0)
    found = {m.metric: m for m in memory.PeakMemory("cpu").measurements(10**6, parts)}
    assert found["activation_memory_bytes"].value is None
    assert "larger than the peak" in found["activation_memory_bytes"].reason


def test_what_tensors_share_is_counted_once():
    import torch
    from torch import nn

    a = torch.zeros(100)
    assert memory.storage_bytes([a, a[10:], a.view(10, 10), None, "text"]) == 400
    shared = nn.Linear(4, 4, bias=False)
    assert memory.weights_bytes(nn.Sequential(shared, shared, nn.BatchNorm1d(4))) == 64 + 4 * 16 + 8
