"""Worker process of a search: `python -m benchbench.search.worker FOLDER INDEX STARTER`."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from benchbench.core.errors import EXIT_INTERRUPTED, BenchError, StoreError
from benchbench.core.process import exit_with_parent


def main(folder: Path, index: int, starter: int) -> int:
    """Propose for the search in a folder until the time for that is over; returns the exit code.

    Args:
        starter: process id; this worker ends with that process.
    """
    logging.basicConfig(level=logging.WARNING, format=f"bench: worker {index}: %(message)s", stream=sys.stderr)
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, interrupt)
        exit_with_parent(starter)
        _work(folder, index)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BenchError as error:
        logging.getLogger(__name__).error("%s", error)
        return error.exit_code
    return 0


def _work(folder: Path, index: int) -> None:
    import torch  # after the handlers are set, since it takes seconds

    from benchbench.search.phases import Worker
    from benchbench.search.request import read_job
    from benchbench.search.run import STORAGE_ENV
    from benchbench.search.storage import DATABASE, open_storage, storage_errors

    own = f"sqlite:///{(folder / DATABASE).absolute()}"
    url = os.environ.get(STORAGE_ENV) or own
    job = read_job(folder).job
    if job is None:
        raise StoreError(f"the search in {folder} was not planned yet")
    if job.problem.threads:
        torch.set_num_threads(job.problem.threads)
    with storage_errors(url):
        shared = url != own
        Worker(job, folder, open_storage(url), index=index, shared=shared, tell=lambda text: None).propose()


def interrupt(*_: Any) -> None:
    """Signal handler: end as after Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # so that a second signal does not interrupt the cleanup
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
