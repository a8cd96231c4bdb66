"""The peak is a true peak: an allocation of known size that is gone again when we look."""

import subprocess
import sys

import pytest

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
    (m,) = memory.PeakMemory("cuda").measurements()
    assert calls == ["synchronize", "reset"]
    assert (m.metric, m.value) == ("peak_memory_bytes", 123_456)
    assert "CUDA" in m.method
