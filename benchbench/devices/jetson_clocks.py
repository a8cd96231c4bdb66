"""Clocks of a Jetson (`--set-clocks`): the highest of the power mode, and the former ones restored.

NVIDIA's own `jetson_clocks` does both; it stores the former settings in a file of ours. Nothing else here
ever changes a clock. Without the flag a run only records whether clocks are locked.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchbench.core.errors import DeviceError
from benchbench.devices import jetson
from benchbench.devices.cpu import ROOT

log = logging.getLogger(__name__)

_BY_HAND = "or run 'sudo jetson_clocks' yourself and leave --set-clocks out"
_LIMIT_S = 60.0


def _call(command: Sequence[str]) -> tuple[int, str]:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT_S, check=False
    )
    return done.returncode, (done.stdout + done.stderr).strip()


@contextlib.contextmanager
def clocks_set(root: Path = ROOT, *, call: Callable[[Sequence[str]], tuple[int, str]] = _call) -> Iterator[None]:
    """Lock the clocks of this Jetson while the block runs.

    Args:
        root: where the device tree is looked for.
        call: runs a command, gives its exit code and output.

    Raises:
        DeviceError: this is no Jetson, there is no jetson_clocks, or it may not set clocks.
    """
    if jetson.detect(root) is None:
        raise DeviceError(
            "--set-clocks runs jetson_clocks, and this machine is no Jetson: "
            "leave it out, or run bench on the board itself"
        )
    kept = Path(tempfile.mkdtemp(prefix="benchbench-")) / "clocks"
    try:
        _do(["jetson_clocks", "--store", str(kept)], call)
        try:
            _do(["jetson_clocks"], call)
            yield
        finally:
            _restore(kept, call)
    finally:
        kept.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            kept.parent.rmdir()


def _restore(kept: Path, call: Callable[[Sequence[str]], tuple[int, str]]) -> None:
    try:
        _do(["jetson_clocks", "--restore", str(kept)], call)
    except DeviceError as error:
        log.warning("clocks stay locked, since they could not be restored (%s); a reboot restores them", error)


def _do(command: Sequence[str], call: Callable[[Sequence[str]], tuple[int, str]]) -> None:
    text = " ".join(command)
    try:
        code, output = call(command)
    except FileNotFoundError as error:
        raise DeviceError(f"--set-clocks needs jetson_clocks, which is not installed; {_BY_HAND}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"'{text}' could not be run: {error}; {_BY_HAND}") from error
    if code:
        if "root" in output:
            raise DeviceError(f"--set-clocks needs root, since '{text}' does: run bench with sudo, {_BY_HAND}")
        last = output.splitlines()[-1] if output else "no output"
        raise DeviceError(f"'{text}' ended with exit code {code}: {last}; {_BY_HAND}")
