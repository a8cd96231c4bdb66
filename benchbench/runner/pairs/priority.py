"""Priority of a process that is measured, before other programs: a forward then does not wait for one of them.

A team of threads beside one busy process on each core is slowed several times, not by half, since all wait for the one
that has no core. Real-time priority ends that; but what has it for more than 19 twentieths of a second is made to wait
for the rest (`sched_rt_runtime_us`), so a process has it for its forwards alone, with a rest after each.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence

_REST = 0.08  # of a forward's time, at ordinary priority


class Priority:
    """Of all threads of this process."""

    allowed = False  # whether the system lets this process go before others

    def __init__(self) -> None:
        """As all others."""
        self._threads: Sequence[int] = ()
        self._ended_at_s = self._rest_s = 0.0

    def raise_it(self, threads: Sequence[int]) -> None:
        """Go before others from now on, in forwards and between them, if the system allows it.

        It allows that to the administrator, and on Linux alone do threads have such a priority. Where new threads have
        started, it is to be called again.

        Args:
            threads: by their numbers.
        """
        try:
            for thread in threads:
                os.setpriority(os.PRIO_PROCESS, thread, -20)
            self._threads = threads
            with self.in_forward():
                pass
        except (AttributeError, OSError):
            self._threads = ()
            return
        self.allowed = True

    def lower(self, threads: Sequence[int]) -> None:
        """Be as all others again, with threads that have started since, too."""
        for thread in threads if self.allowed else ():
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
                os.setpriority(os.PRIO_PROCESS, thread, 0)
        self._threads, self.allowed = (), False

    @contextlib.contextmanager
    def in_forward(self) -> Iterator[None]:
        """Real-time priority, where it is allowed."""
        if not self._threads:
            yield
            return
        self._set(os.SCHED_RR, os.sched_get_priority_min(os.SCHED_RR))
        began_s = time.monotonic()
        try:
            yield
        finally:
            self._ended_at_s = time.monotonic()
            self._rest_s = _REST * (self._ended_at_s - began_s)
            self._set(os.SCHED_OTHER, 0)

    def rest(self) -> None:
        """Wait until the next forward may begin; what was done since the last one counts."""
        if self._threads:
            time.sleep(max(0.0, self._ended_at_s + self._rest_s - time.monotonic()))

    def _set(self, policy: int, priority: int) -> None:
        for thread in self._threads:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.sched_setscheduler(thread, policy, os.sched_param(priority))
