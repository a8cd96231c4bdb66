"""Processes of an evaluation: the command's own, or several that share the cases; either way one stream of events."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchbench.core import records as rec
from benchbench.devices import cpu
from benchbench.runner import child_process, worker
from benchbench.runner.evaluation.plan import Subject

Event = dict[str, Any]


def judge(
    subject: Subject,
    cases: Sequence[int],
    emit: Callable[[Event], None],
    *,
    slices: str,
    workers: int = 1,
    threads: int | None = None,
) -> None:
    """Judge cases, and tell each as it is done.

    Args:
        subject: what is judged.
        cases: their numbers.
        emit: gets the events of `cases.evaluate_cases`, and of a worker that fails `refused` or `end`.
        slices: folder for what pictures need.
        workers: processes; 1: this one, which saves the start of another.
        threads: of each; None: the usable cores, shared.
    """
    workers = max(1, min(workers, len(cases)))
    share = threads or (max(1, cpu.usable_cores() // workers) if workers > 1 else None)
    requests = [_request(subject, cases[i::workers], slices, share) for i in range(workers)]
    if workers == 1:
        worker.answer(requests[0], emit)
    else:
        _judge_apart(requests, emit, share)


def _request(subject: Subject, cases: Sequence[int], slices: str, threads: int | None) -> dict[str, Any]:
    names = [subject.plan.ids[subject.split][i] for i in cases] if subject.maps else []
    return {
        "task": "evaluate",
        "jobs": [rec.to_json(subject.job)],
        "members": rec.to_json(subject.members),
        "maps": {name: subject.maps[name] for name in names},
        "cases": list(cases),
        "slices": slices,
        "threads": threads,
    }


def _judge_apart(requests: Sequence[Mapping[str, Any]], emit: Callable[[Event], None], threads: int | None) -> None:
    """In processes of their own, each of which a thread listens to."""
    events: queue.Queue[Event | None] = queue.Queue()
    running: set[int] = set()

    def listen(request: Mapping[str, Any]) -> None:
        mine: list[int] = []

        def started(pid: int) -> None:
            mine.append(pid)
            running.add(pid)

        for event in child_process.run_worker(request, limit_s=math.inf, threads=threads, on_start=started):
            if isinstance(event, child_process.WorkerFailure):
                failed = {"status": event.status, "error": event.error, "traceback": event.stderr or None}
                events.put({"event": "end", **failed})
            else:
                events.put(event)
        running.difference_update(mine)
        events.put(None)

    listeners = [threading.Thread(target=listen, args=(request,), daemon=True) for request in requests]
    for listener in listeners:
        listener.start()
    left = len(listeners)
    try:
        while left:
            event = events.get()
            if event is None:
                left -= 1
            else:
                emit(event)
    finally:  # where this was interrupted, nobody listens any more
        for pid in list(running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        for listener in listeners:
            listener.join()
