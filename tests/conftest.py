"""No test sees the hosts of whoever runs it, earlier counts, or the log level that another test has set."""

import logging

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


@pytest.fixture(autouse=True)
def own_log_level():
    logger = logging.getLogger("benchbench")
    level = logger.level
    yield
    logger.setLevel(level)
