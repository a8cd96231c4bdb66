"""No test looks at the hosts of whoever runs it."""

import pytest


@pytest.fixture(autouse=True)
def no_hosts_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHBENCH_CONFIG", str(tmp_path / "hosts.toml"))
