"""No test looks at the hosts of whoever runs it, or at what was counted before."""

import pytest


@pytest.fixture(autouse=True)
def no_hosts_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHBENCH_CONFIG", str(tmp_path / "hosts.toml"))


@pytest.fixture(scope="session")
def counts(tmp_path_factory):
    return tmp_path_factory.mktemp("counts")


@pytest.fixture(autouse=True)
def no_counts_of_before(counts, monkeypatch):
    monkeypatch.setattr("benchbench.runner.estimate._folder", lambda: counts)
