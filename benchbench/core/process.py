"""End of a child process with its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # of Linux' prctl


def exit_with_parent(starter: int | None = None) -> None:
    """The child's side: the system kills this process when the one that started it ends, however that ends.

    Args:
        starter: its process; where it has ended already, so does this one.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if starter is not None and os.getppid() != starter:
        sys.exit("the process that this one was to help has ended")
