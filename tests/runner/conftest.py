"""A host that can be reached over ssh: this machine, by an sshd of its own."""

import os

import pytest

from benchbench.devices.hosts import add_host
from tests.loopback import ROOT, SSHD, Loopback


@pytest.fixture(scope="module")
def loopback(tmp_path_factory):
    if SSHD is None:
        pytest.skip("no sshd here")
    server = Loopback(tmp_path_factory.mktemp("sshd"))
    yield server
    server.close()


@pytest.fixture
def board(loopback, monkeypatch):
    """Configured as `board`, reachable, known."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PATH", f"{loopback.bin}:{os.environ['PATH']}")
    add_host(loopback.host("board"))
    yield loopback
    loopback.know("host_key.pub")
