"""A memory limit on real processes: what is above it fails, and the peak stays below it."""

import subprocess
import sys

import pytest

from benchbench.core import errors
from benchbench.core import records as rec
from benchbench.core.errors import UnsupportedError
from benchbench.measure import memory, memory_limit
from benchbench.runner.child_process import run_worker
from benchbench.runner.job import Job

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA bounds all memory on Linux")

FILL = """
import torch
from benchbench.core import errors
from benchbench.measure import memory, memory_limit as limit
torch.set_num_threads(2)
top = memory.resident_bytes() + 300_000_000
kept = limit.MemoryLimit(top)
blocks = []
try:
    while True:
        blocks.append({block})
except BaseException as error:
    caught = error
held = len(blocks) * 4_000_000
kept.lift()
more = torch.ones(100_000_000)
del blocks
print(held, top - {peak}, errors.is_out_of_memory(caught), type(caught).__name__)
"""


@pytest.mark.parametrize("block", ["torch.ones(1_000_000)", "bytearray(4_000_000)"])
def test_an_allocation_beyond_the_limit_fails_and_the_peak_stays_below_it(block):
    script = FILL.replace("kept.lift()", "peak = memory.peak_bytes()\nkept.lift()")
    script = script.format(block=block, peak="peak")
    out = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    held, spare, is_memory, kind = out.split()
    assert int(spare) > 0
    assert 300e6 - int(held) < 80e6  # room for code that is still to be read in, and no more
    assert (is_memory, kind) in (("True", "RuntimeError"), ("True", "MemoryError"))


def spec(name):
    return rec.ModelSpec(name=name, arch=f"tests.tiny_nets:{name}", kwargs={}, in_channels=4, out_channels=3)


def job(name, limit_bytes):
    work = rec.Workload(spatial=(8, 8, 8), threads=1, memory_limit_bytes=limit_bytes)
    return Job(model=spec(name), workload=work)


def ending(job, task="measure"):
    return list(run_worker({"task": task, "jobs": [rec.to_json(job)]}, limit_s=120, threads=1))[-1]


@pytest.mark.parametrize("task", ["measure", "confirm"])
def test_a_network_that_needs_more_is_out_of_memory_and_says_what_it_needs(task):
    end = ending(job("Hungry", 1_000_000_000), task)
    assert end["status"] == "oom"
    assert end["error"].startswith("out of memory in a forward: needs at least 1.60 GB for weights, input and act")
    assert end["error"].endswith("; limit 1 GB")
    assert "beside the framework's" in end["error"]


def test_a_limit_below_the_framework_says_so():
    end = ending(job("Tiny", 50_000_000))
    assert end["status"] == "oom"
    assert "the limit of 50 MB is below the" in end["error"]


def test_a_network_that_fits_runs_under_its_limit():
    assert ending(job("Tiny", 2 * 10**9), "confirm")["status"] == "ok"


def test_errors_of_an_allocation_are_told_from_others():
    assert errors.is_out_of_memory(MemoryError())
    assert errors.is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate"))
    assert errors.is_out_of_memory(RuntimeError("std::bad_alloc"))
    assert not errors.is_out_of_memory(RuntimeError("could not create a primitive"))
    assert errors.is_out_of_memory(RuntimeError("could not create a primitive"), limited=True)
    assert not errors.is_out_of_memory(RuntimeError("shapes do not match"), limited=True)


def test_a_system_that_enforces_nothing_is_unsupported(monkeypatch):
    monkeypatch.setattr(memory, "status_bytes", lambda key: None)
    with pytest.raises(UnsupportedError, match="leave --memory-limit out"):
        memory_limit.MemoryLimit(10**9)


def test_on_a_gpu_the_allocator_gets_the_share(monkeypatch):
    import types

    import torch

    shares = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu: types.SimpleNamespace(total_memory=8 * 10**9))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, gpu: shares.append((share, gpu)))
    kept = memory_limit.MemoryLimit(2 * 10**9, backend="cuda", gpu=1)
    kept.settle()
    kept.lift()
    memory_limit.MemoryLimit(9 * 10**9, backend="cuda")
    assert shares == [(0.25, 1), (1.0, 0)]
