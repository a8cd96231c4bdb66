"""Processes forked from a server that has loaded PyTorch and benchbench, so that most of their life is their work.

A fresh process takes two seconds of a core to load both, often more than what a test has it do.
"""

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

import pytest

from benchbench.core import launch
from benchbench.runner import child_process

_LOADED = [
    "benchbench.cli.main",
    "benchbench.compress.run",
    "benchbench.measure.flops.audit",
    "benchbench.measure.largest_fit",
    "benchbench.measure.timed",
    "benchbench.measure.volume",
    "benchbench.models.unet",  # loads MONAI
    "benchbench.runner.model_run",
    "benchbench.runtimes.onnx_file",
    "benchbench.runner.worker",
    "benchbench.search.run",
    "benchbench.training.run",
    "tests.forked",
]


def server() -> Any:
    """The server as a context of `multiprocessing`; its processes inherit nothing of this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LOADED)
    return context


def fork_workers(patch: pytest.MonkeyPatch):
    """Let runs of this process fork the processes that they measure and count in."""
    patch.setattr(child_process, "subprocess", SimpleNamespace(Popen=Forked, PIPE=subprocess.PIPE))
    patch.setattr("benchbench.runner.pairs.plan._may_fork", lambda cells, pythons: False)  # by a server of their own


class Forked:
    """What `runner.child_process` needs of a `subprocess.Popen`, for a module with a function `main`."""

    def __init__(self, command, *, stdin, stdout, stderr, env, start_new_session):
        module = command[-1]
        assert command == launch.command(module)
        assert (stdin, stdout, start_new_session) == (subprocess.PIPE, subprocess.PIPE, True)
        (its_in, our_out), (our_in, its_out) = os.pipe(), os.pipe()
        ends = (Connection(its_in, writable=False), Connection(its_out), Connection(os.dup(stderr.fileno())))
        self._process = server().Process(target=_run, args=(module, ends, env, os.getcwd()))
        self._process.start()
        for end in ends:
            end.close()
        self.pid = self._process.pid
        self.stdin, self.stdout = open(our_out, "wb"), open(our_in, "rb")  # noqa: SIM115

    def poll(self):
        return self._process.exitcode

    def wait(self):
        self._process.join()
        return self._process.exitcode


def _run(module, ends, env, folder):
    _become(ends, env, folder)
    sys.exit(importlib.import_module(module).main())


def bench(words, *, env, folder):
    """`bench WORDS` with these variables in this folder: its exit code, and what it said on stdout and stderr."""
    with open(os.devnull) as nothing, tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as told:
        ends = [Connection(os.dup(file.fileno())) for file in (nothing, said, told)]
        process = server().Process(target=_bench, args=(words, ends, env, str(folder)))
        process.start()
        process.join()
        for end in ends:
            end.close()
        said.seek(0)
        told.seek(0)
        return process.exitcode, said.read().decode(), told.read().decode()


def _bench(words, ends, env, folder):
    _become(ends, env, folder)
    sys.exit(importlib.import_module("benchbench.cli.main").main(words))


def _become(ends, env, folder):
    """Have the streams, variables and folder of a process that was started for itself."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which the server ignores
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    for handle, end in enumerate(ends):
        os.dup2(end.fileno(), handle)
        end.close()
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    sys.path[:] = [*filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), *filter(None, sys.path)]
