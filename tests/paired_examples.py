"""Paired comparisons whose times the test chooses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchbench.core import records as rec
from benchbench.core.paired_result import PairedResult, Spent
from benchbench.core.paired_times import Block, ProcessSet, Times
from tests import compare_examples as examples


def around(centre: float, count: int = 8, noise: float = 0.002) -> list[float]:
    """Ratios close to one, the same every time."""
    return [centre * (1 + noise * (-1) ** i * (1 + i % 3) / 2) for i in range(count)]


def process_set(ratio: float, *, at_s: float, blocks: int = 4, cpu: float | None = None) -> ProcessSet:
    """Blocks in which B takes so many times as long as A; of CPU time `cpu` times, if that is another."""

    def block(number: int) -> Block:
        wall = Times(a=(0.1, 0.1), control=(0.1, 0.1), b=(0.1 * ratio, 0.1 * ratio))
        used = 0.1 * (ratio if cpu is None else cpu)
        times = Times(a=(0.1, 0.1), control=(0.1, 0.1), b=(used, used))
        return Block(at_s=at_s + number, wall_s=wall, cpu_s=times)

    return ProcessSet(blocks=tuple(block(number) for number in range(blocks)))


def side(seconds: float, *, peaks: Sequence[int] = (100, 101, 99, 100), **more: Any) -> rec.Record:
    peak = tuple(float(p * 1_000_000) for p in peaks)
    return examples.cell(
        examples.latency(*[seconds] * 4),
        examples.examples.number("peak_memory_bytes", max(peak), values=peak, runs=(1,) * len(peak)),
        **more,
    )


def result(
    ratios: Sequence[float] | None = None, *, cpu: float | None = None, a: Any = None, b: Any = None, **more: Any
) -> PairedResult:
    """A comparison with a ratio of each set."""
    ratios = around(1.0) if ratios is None else ratios
    sets = tuple(process_set(ratio, at_s=10.0 * i, cpu=cpu) for i, ratio in enumerate(ratios))
    settings: dict[str, Any] = {
        "labels": ("slim_unetr", "slim_unetr_fixed"),
        "mode": "interleaved",
        "margin": 0.02,
        "time_limit_s": 120.0,
        "spent": Spent(total_s=80.0, forward_s=50.0, start_s=25.0),
    }
    return PairedResult(a=a or side(0.1), b=b or side(0.1), sets=sets, **settings | more)
