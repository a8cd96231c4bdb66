"""No test sees the hosts of whoever runs it, earlier counts, or the log level that another test has set.

Tests that run side by side have a core each, and the long ones begin first.
"""

import collections
import logging
import os

import pytest

_ALLOWED = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def pytest_configure():
    """Keep each of several processes with tests to a core of its own, and with it all that it starts.

    A measurement takes every core that it may use, or is bound to the first ones. Two at once would share the first
    core, or wait for each other's threads at every operator, which takes many times as long.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if worker.isdecimal() and os.environ.get("OMP_NUM_THREADS") == "1" and len(_ALLOWED) > 1:
        os.sched_setaffinity(0, {sorted(_ALLOWED)[int(worker) % len(_ALLOWED)]})


def pytest_collection_modifyitems(items):
    """Files with slow tests first, then those with many: at the end no worker is left with a long file alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    count = collections.Counter(item.path for item in items)
    files = {path: place for place, path in enumerate(count)}
    items.sort(key=lambda item: (item.path not in slow, -count[item.path], files[item.path]))


@pytest.fixture
def all_cores():
    """All cores of the machine, for a test that measures on several."""
    if not _ALLOWED:
        yield
        return
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _ALLOWED)
    yield
    os.sched_setaffinity(0, own)


@pytest.fixture
def forked_workers(monkeypatch):
    """Networks are measured and counted in processes that are forked from one that has loaded PyTorch.

    Without it they are started as by a user: where `bench` runs in a process of its own or on another host, in
    `tests/measure`, and where a process of its own is what a test is about.
    """
    from tests.forked import fork_workers

    fork_workers(monkeypatch)


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
