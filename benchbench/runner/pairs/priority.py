"""Priority of a process that is measured, before other programs: a forward then does not wait for one of them.

A team of threads beside one busy process on each core is slowed several times, not by half, since all wait for the one
that has no core. Real-time priority ends that; but what has it for more than 19 twentieths of a second is made to wait
for the rest (`sched_rt_runtime_us`). So a process has it for forwards that are shorter than that, with a rest after
each, and otherwise niceness -20, which the group as well has in which Linux puts a session (autogroup).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

#: Seconds of the longest forward that has real-time priority.
REALTIME_S = 0.4
_REST = 0.08  # of a forward's time, at ordinary priority
_FIRST = -20  # niceness
_GROUP = Path("/proc/self/autogroup")


class Priority:
    """Of all threads of this process."""

    def __init__(self, threads: Callable[[], Iterable[int]], *, session: bool = True) -> None:
        """As all others.

        Args:
            threads: finds the numbers of those that run now; none where the system does not tell.
            session: whether this process has a session of its own, which is raised with it; what started such a one may
                have been raised itself, and that is not what it goes back to.
        """
        self._threads, self._groups = threads, [_GROUP] if session else []
        self._niceness: int | None = None  # before it was raised
        self._ended_at_s = self._rest_s = 0.0

    @property
    def raised(self) -> bool:
        """Whether this process goes before others."""
        return self._niceness is not None

    def raise_it(self) -> bool:
        """Go before others from now on; False where the system does not allow it to this user."""
        try:
            before = os.getpriority(os.PRIO_PROCESS, 0)
            _schedule([0], os.SCHED_RR)
            _schedule([0], os.SCHED_OTHER)
            self._be_nice(_FIRST)
        except (AttributeError, OSError):
            return False
        self._niceness = max(before, 0) if self._groups else before
        return True

    def lower(self) -> None:
        """Be as before."""
        if self._niceness is not None:
            _schedule(self._threads(), os.SCHED_OTHER)
            self._be_nice(self._niceness)
            self._niceness = None

    @contextlib.contextmanager
    def in_forward(self, expected_s: float) -> Iterator[None]:
        """Real-time priority meanwhile, if it was raised.

        Args:
            expected_s: seconds that it will probably take; with `REALTIME_S` and more it keeps its niceness alone.
        """
        if not self.raised or expected_s >= REALTIME_S:
            yield
            return
        _schedule(self._threads(), os.SCHED_RR)
        began_s = time.monotonic()
        try:
            yield
        finally:
            self._ended_at_s = time.monotonic()
            self._rest_s = _REST * (self._ended_at_s - began_s)
            _schedule(self._threads(), os.SCHED_OTHER)

    def rest(self) -> None:
        """Wait until the next forward may begin; what was done since the last one counts."""
        time.sleep(max(0.0, self._ended_at_s + self._rest_s - time.monotonic()))

    def _be_nice(self, niceness: int) -> None:
        for thread in list(self._threads()):
            with contextlib.suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, thread, niceness)
        for group in self._groups:
            with contextlib.suppress(OSError):  # a kernel without such groups
                group.write_text(str(niceness))


def _schedule(threads: Iterable[int], policy: int) -> None:
    priority = os.sched_param(os.sched_get_priority_min(policy))
    for thread in threads:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.sched_setscheduler(thread, policy, priority)
