"""Pace of this machine while a network is timed: two small fixed tasks, read between the forwards.

A virtual machine's counters do not show what its host does: the host moves the machine's cores about, and its
neighbours fill caches and memory. Both are felt. Where two cores have no cache in common, handing work from one to
the other takes half as long again, and a network that hands on every activation a fifth longer. So the hand-over and
a matrix product are timed four times a second, and stand beside the latency: two figures whose paces differ are of two
machines, whatever their names.

All operands together are 2 MB, made before the process's base memory is read, so that no peak of a network holds
them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from benchbench.core.records import METRIC_UNITS, Measurement

_EVERY_S = 0.25  # between two readings
_BYTES = 40_000  # of a hand-over's operand: just enough that PyTorch gives a half to each of two threads
_ADDITIONS = 10
_SIDE = 384  # of the product: about a millisecond on two cores


class Pace:
    """Readings of one process; made before the network is built."""

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter) -> None:
        """Take the operands' memory; the number of threads must be set.

        Args:
            clock: seconds, monotonic.
        """
        self.clock = clock
        self.threads = torch.get_num_threads()
        self._bytes, self._sums = (torch.ones(_BYTES, dtype=torch.uint8) for _ in range(2))
        draw = torch.Generator().manual_seed(0)
        self._square = torch.randn(_SIDE, _SIDE, generator=draw)
        self._product = torch.empty(_SIDE, _SIDE)
        self._read_at = -_EVERY_S
        self.handovers_s: list[float] = []
        self.products_s: list[float] = []
        with torch.inference_mode():  # the first call of a kernel chooses and compiles
            self._add()
            self._multiply()

    def read(self) -> None:
        """Take a reading, unless the last one was less than a quarter of a second ago."""
        now = self.clock()
        if now - self._read_at < _EVERY_S:
            return
        with torch.inference_mode():
            if self.threads > 1:
                self._add()  # brings the operands back, and wakes the threads
                self.handovers_s.append(self._took(self._add) / _ADDITIONS)
            self.products_s.append(self._took(self._multiply))
        self._read_at = self.clock()

    def _took(self, call: Callable[[], None]) -> float:
        start = self.clock()
        call()
        return self.clock() - start

    def _add(self) -> None:
        for _ in range(_ADDITIONS):
            torch.add(self._bytes, 1, out=self._sums)

    def _multiply(self) -> None:
        torch.mm(self._square, self._square, out=self._product)

    def measurements(self) -> list[Measurement]:
        """`pace_product_s`, and with several threads `pace_handover_s`; nothing where nothing was read."""
        found = [("pace_product_s", self.products_s, f"a matrix product of {_SIDE}^3 in fp32")]
        if self.handovers_s:
            what = f"an addition of {_BYTES // 1000} kB that {self.threads} threads share"
            found.insert(0, ("pace_handover_s", self.handovers_s, what))
        return [
            Measurement(
                metric=metric,
                unit=METRIC_UNITS[metric],
                value=statistics.median(values),
                values=tuple(values),
                origin="measured",
                method=f"{what}, between the timed forwards; median of {len(values)} readings",
            )
            for metric, values, what in found
            if values
        ]
