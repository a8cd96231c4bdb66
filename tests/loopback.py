"""A real sshd on loopback that serves whoever runs it, with keys, host key and known_hosts of its own."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/sbin")


class Loopback:
    """`ssh` in `bin` reaches it when that folder is first on the path."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.user = folder, getpass.getuser()
        self.bin, self.cache, self.tmp = folder / "bin", folder / "cache", folder / "tmp"
        self.known_hosts, self.key = folder / "known_hosts", folder / "key"
        for path in (self.bin, self.cache, self.tmp):
            path.mkdir()
        for name in ("key", "host_key", "stranger"):
            make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(make, check=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        shutil.copy(folder / "key.pub", folder / "authorized")
        self.know("host_key.pub")
        there = f"XDG_CACHE_HOME={self.cache} TMPDIR={self.tmp} OMP_NUM_THREADS=1"
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {folder}/host_key\n"
            f"AuthorizedKeysFile {folder}/authorized\nPidFile none\nUsePAM no\nStrictModes no\n"
            f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nSetEnv {there}\n"
        )
        (folder / "ssh_config").write_text(
            f"IdentityFile {self.key}\nIdentitiesOnly yes\nIdentityAgent none\n"
            f"UserKnownHostsFile {self.known_hosts}\nGlobalKnownHostsFile /dev/null\n"
        )
        wrapper = self.bin / "ssh"
        wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
        wrapper.chmod(0o755)
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where sshd of a whole system confines itself
        self.log = open(folder / "log", "wb")  # noqa: SIM115
        self.sshd = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=self.log)
        self._wait()

    def know(self, public_key: str) -> None:
        """The host is known by this key from now on; by none if the name is empty."""
        words = (self.folder / public_key).read_text().split()[:2] if public_key else []
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {' '.join(words)}\n" if words else "")

    def _wait(self) -> None:
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self.sshd.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)
        raise AssertionError("sshd does not listen")

    def host(self, name: str, **more):
        from benchbench.devices.hosts import Host

        settings = {"user": self.user, "port": self.port, "python": sys.executable, "folder": str(ROOT)} | more
        return Host(name, "127.0.0.1", **settings)

    def close(self) -> None:
        self.sshd.terminate()
        self.sshd.wait()
        self.log.close()
