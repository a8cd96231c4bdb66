"""Hosts that a user has named for `--device`, in one small TOML file.

A host is a name for an ssh address. What is behind it is not written here but asked of it each time, so the file
cannot be out of date about a board. Words are strict: an address beginning with a dash would be an option to ssh, and
the far side hands what it gets to a shell.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchbench.core.config import read_toml
from benchbench.core.errors import DeviceError, os_error_as, unknown
from benchbench.core.results import write_whole

#: Words that `--device` takes for this machine; a host may not take them.
RESERVED = ("cpu", "cuda")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ADDRESS = re.compile(
    r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}"  # a name, IPv4, or an alias
    r"|[0-9A-Fa-f]{0,4}(:[0-9A-Fa-f.]{0,15}){2,8}(%[A-Za-z0-9._-]+)?"  # IPv6
)
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_HEAD = """\
# The hosts of 'bench run --device NAME', written by 'bench devices add'.
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Host:
    """A machine reached by ssh.

    Raises:
        DeviceError: a word of it could be taken for something else by ssh or by a shell.
    """

    name: str  # the word after --device
    address: str  # a name, an IP address, or an alias of ~/.ssh/config
    user: str | None = None  # None: as ssh decides
    port: int | None = None  # None: as ssh decides
    python: str = "python3"  # the one over there that has benchbench
    folder: str | None = None  # over there: where to start, such as the clone; None: where ssh starts

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise DeviceError(
                f"{self.name!r} cannot name a host: use letters, digits, '.', '_' and '-', and begin with no sign"
            )
        if self.name in RESERVED or self.name.endswith(".toml"):
            raise DeviceError(f"a host cannot be called {self.name!r}: --device has another meaning for it")
        if not _ADDRESS.fullmatch(self.address):
            raise DeviceError(f"host {self.name}: {self.address!r} is no address; write ssh://user@address:port")
        if self.user is not None and not _USER.fullmatch(self.user):
            raise DeviceError(f"host {self.name}: {self.user!r} is no user's name; write ssh://user@address:port")
        if self.port is not None and not (type(self.port) is int and 0 < self.port < 65536):
            raise DeviceError(f"host {self.name}: {self.port!r} is no port; one is a number from 1 to 65535")
        for key, path in (("python", self.python), ("folder", self.folder)):
            if path is not None and (not path.strip() or path.startswith("-") or not path.isprintable()):
                raise DeviceError(f"host {self.name}: {path!r} is no path for {key}: it begins with '-' or is not text")

    @property
    def url(self) -> str:
        """`ssh://user@address:port`, with what is set."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"ssh://{f'{self.user}@' if self.user else ''}{address}{f':{self.port}' if self.port else ''}"

    @property
    def place(self) -> str:
        """The address, with a port that is not ssh's own: what a record says of where it was made."""
        return self.address if self.port in (None, 22) else f"{self.address}:{self.port}"


def far_path(path: str) -> str:
    """A path for the shell of the other side, as one word; a leading `~/` is its user's home."""
    return f'"$HOME"/{shlex.quote(path[2:])}' if path.startswith("~/") and path != "~/" else shlex.quote(path)


def parse_url(url: str, *, name: str, python: str = "python3", folder: str | None = None) -> Host:
    """A host from `ssh://user@address:port`; `user@address` will do.

    Raises:
        DeviceError: another scheme, a password, a path, or a word that cannot be one.
    """
    rest = url.removeprefix("ssh://")
    wrong = f"{url!r} is no address of a host: write ssh://user@address or ssh://user@address:port"
    if "://" in rest or not rest or not rest.isprintable():  # urlsplit would drop a line's end in silence
        raise DeviceError(wrong)
    try:
        parts = urllib.parse.urlsplit(f"ssh://{rest}")
        port = parts.port
    except ValueError as error:
        raise DeviceError(wrong) from error
    if parts.password is not None:
        raise DeviceError(f"host {name}: a password cannot be kept here; use a key ('ssh-copy-id')")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise DeviceError(wrong)
    user, at, address = parts.netloc.rpartition("@")
    address = address[1:].partition("]")[0] if address.startswith("[") else address.partition(":")[0]
    return Host(name, address, user=user if at else None, port=port, python=python, folder=folder)


def config_path() -> Path:
    """Where the hosts are kept: `$BENCHBENCH_CONFIG`, else below the user's configuration folder."""
    if path := os.environ.get("BENCHBENCH_CONFIG"):
        return Path(path)
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "benchbench" / "hosts.toml"


def load_hosts() -> dict[str, Host]:
    """Every configured host by its name; none where nothing was ever added.

    Raises:
        DeviceError: the file cannot be read, or a host in it cannot be one.
    """
    path = config_path()
    data = read_toml(path, "the list of hosts", DeviceError, may_be_missing=True)
    return {name: _host(name, entry, path) for name, entry in data.items()}


def _host(name: str, entry: Any, path: Path) -> Host:
    if not isinstance(entry, Mapping) or "address" not in entry:
        raise DeviceError(f"{path}: [{name}] needs an address; 'bench devices add {name} ssh://user@address' writes it")
    keys = {f.name for f in dataclasses.fields(Host)} - {"name"}
    for key, value in entry.items():
        if key not in keys:
            raise DeviceError(f"{path}: [{name}] {unknown('key', key, keys)}")
        if key != "port" and not isinstance(value, str):
            raise DeviceError(f"{path}: [{name}] {key} must be text, not {value!r}")
    try:
        return Host(name, **entry)
    except DeviceError as error:
        raise DeviceError(f"{path}: {error}") from error


def add_host(host: Host) -> None:
    """Keep a host; one of the same name is replaced.

    Raises:
        DeviceError: the file cannot be read or written.
    """
    _save(load_hosts() | {host.name: host})


def remove_host(name: str) -> None:
    """Forget a host.

    Raises:
        DeviceError: there is none of that name, or the file cannot be read or written.
    """
    hosts = load_hosts()
    if name not in hosts:
        raise DeviceError(unknown("host", name, hosts, hint="'bench devices' shows all"))
    _save({key: host for key, host in hosts.items() if key != name})


def _save(hosts: Mapping[str, Host]) -> None:
    path = config_path()
    parts = [_HEAD]
    for host in hosts.values():
        parts.append(f"\n[{_text(host.name)}]\n")
        for field in dataclasses.fields(Host):
            value = getattr(host, field.name)
            if field.name != "name" and value not in (None, field.default):
                parts.append(f"{field.name} = {value if isinstance(value, int) else _text(value)}\n")
    with os_error_as(DeviceError, f"cannot write the hosts to {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, "".join(parts).encode())


def _text(value: str) -> str:
    """A TOML basic string: JSON's escapes are a subset of TOML's for text that can be printed."""
    return json.dumps(value, ensure_ascii=False)
