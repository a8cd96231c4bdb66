"""Doctor of another host: whether it can be reached and understood, then its own findings.

The connection is a finding like the rest. The clocks are compared by a bound, not by a guess of how
long the way took: what the far clock said has to lie between the asking and the answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from benchbench.core.errors import DeviceError, unknown
from benchbench.core.units import format_duration
from benchbench.devices import jetson
from benchbench.devices.cpu import ROOT
from benchbench.devices.hosts import Host, load_hosts
from benchbench.devices.profile import profile_name, profile_names
from benchbench.runner import doctor
from benchbench.runner.doctor import INSTALL, Finding
from benchbench.runner.remote import ssh

_HELLO_LIMIT_S = 90.0  # a board that was just switched on reads Python from a slow card
_DOCTOR_LIMIT_S = 900.0
_SKEW_S = 2.0  # above it, the times of a record are not those of the notes beside it


def find_patient(name: str | None, *, results: Path, root: Path = ROOT) -> Iterator[Finding]:
    """The findings about whatever a person names.

    Args:
        name: `cpu`, `cuda`, `jetson`, a configured host; None: this machine.
        results: folder that results will go to.
        root: where /proc, /sys and /etc are looked for.

    Raises:
        DeviceError: nothing has that name, or nothing of it is here to look at.
    """
    if name is None or name in ("cpu", "cuda"):
        return doctor.examine(root, backend=cast(Any, name), results=results)
    if name == "jetson" and jetson.detect(root):
        return doctor.examine(root, backend="cuda", results=results)
    hosts = load_hosts()
    if name in hosts:
        return examine(hosts[name])
    if name == "jetson":
        raise DeviceError(
            "this machine is no Jetson, and no host is called 'jetson': add one, 'bench devices add jetson ssh://user@address'"
        )
    if profile_name(name) in profile_names():
        raise DeviceError(f"{name!r} is a profile, so there is nothing to examine; give cpu, cuda, jetson or a host")
    raise DeviceError(unknown("device", name, ["cpu", "cuda", "jetson", *hosts], hint="'bench devices list' shows all"))


def examine(host: Host, *, clock: Callable[[], float] = time.time) -> Iterator[Finding]:
    """Look at a host: the way to it, then what its own doctor finds there.

    Args:
        host: a configured one.
        clock: seconds since 1970 here.
    """
    sent = clock()
    hello: Mapping[str, Any] = {}
    with ssh.Connection(host, ["devices", "probe"]) as connection:
        for event in connection.events(_HELLO_LIMIT_S):
            if isinstance(event, ssh.ConnectionLost):
                yield _lost(event)
                return
            if event["event"] == "hello":
                hello, received = event, clock()
        noise = connection.noise
    if not hello:
        yield Finding("connection", "fail", f"{host.url} answers, and says nothing", "upgrade benchbench there")
        return
    yield Finding("connection", "ok", f"{host.url} answered in {received - sent:.1f} s")
    if noise:
        said = ssh.printable(noise.decode(errors="replace"))
        advice = "it is passed over; a start-up file of the shell there prints it also when nobody is looking"
        yield Finding("banner", "warn", f"its shell prints before we do: {said!r}", advice)
    if wrong := ssh.disagreement(host, hello):
        text, _, advice = wrong.rpartition(": ")
        yield Finding("versions", "fail", ssh.printable(text), ssh.printable(advice))
        return
    yield device(host, hello)
    yield skew(hello.get("clock_s"), sent, received)
    for event in ssh.ask(host, ["devices", "doctor", "--events", "json"], limit_s=_DOCTOR_LIMIT_S):
        if isinstance(event, ssh.ConnectionLost):
            yield _lost(event)
        elif event["event"] == "finding":
            yield from_event(event)


def device(host: Host, hello: Mapping[str, Any]) -> Finding:
    """What `--device` with this host's name measures on."""
    probed = hello.get("device")
    kind, name = (str(probed.get("kind")), str(probed.get("name"))) if isinstance(probed, Mapping) else ("?", "?")
    if hello.get("problem"):
        return Finding("device", "fail", ssh.printable(str(hello["problem"])), "see the findings below")
    if host.name == "jetson" and kind != "jetson":
        advice = "give it another name with 'bench devices add', or runs will refuse it"
        return Finding("device", "fail", f"this host is called 'jetson' and is none, but {ssh.printable(name)}", advice)
    unit = "GPU" if hello.get("backend") == "cuda" else "processor"
    return Finding("device", "ok", f"--device {host.name} measures on the {unit} of it: {ssh.printable(name)}")


def skew(far: Any, sent: float, received: float) -> Finding:
    """How far the other clock is off, at least.

    Args:
        far: what it said, seconds since 1970.
        sent: when it was asked, by the clock here.
        received: when the answer was here.
    """
    if isinstance(far, bool) or not isinstance(far, (int, float)):
        return Finding("clocks", "warn", "the other side does not tell the time", "upgrade benchbench there")
    off = max(0.0, sent - far, far - received)
    if off <= _SKEW_S:
        return Finding("clocks", "ok", "here and there agree")
    which = "behind" if far < sent else "ahead"
    text = f"the one there is {format_duration(off)} {which}, so is 'started_at' in its records"
    return Finding("clocks", "warn", text, "there: 'sudo timedatectl set-ntp true', or set the time")


def from_event(event: Mapping[str, Any]) -> Finding:
    """A finding from the far side, with nothing in it that a terminal would obey."""
    status = event.get("status")
    return Finding(
        ssh.printable(str(event.get("name", "?"))),
        status if status in ("ok", "warn") else "fail",
        ssh.printable(str(event.get("text", ""))),
        ssh.printable(str(event.get("advice", ""))),
    )


def _lost(event: ssh.ConnectionLost) -> Finding:
    """The line that `remote.ssh` has for it, which says what to do; and how to install, where that is it."""
    advice = ""
    if "is not installed" in event.error or "No module named" in event.error:
        advice = f"there, leaving its maker's torch in place: {INSTALL}"
    elif "cannot be reached" in event.error:
        advice = "is it switched on, and on this network?"
    return Finding("connection", "fail", ssh.printable(event.error), advice)
