"""Entry point of `bench`: signals, logging and exit codes.

Nothing heavy is imported before a command needs it, so that `bench --help` answers at once. Results
go to stdout; progress, advice and logs go to stderr, unless with -q.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import signal
import sys
from collections.abc import Sequence
from typing import Any

from benchbench.cli.parser import START, parse
from benchbench.core import streams
from benchbench.core.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_SOFTWARE,
    EXIT_USAGE,
    BenchError,
    named_line,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    with streams.usable():
        return _main(list(sys.argv[1:] if argv is None else argv))


def _main(arguments: list[str]) -> int:
    if not arguments:
        print(START)
        return EXIT_OK
    verbose = any(a in ("-v", "--verbose") for a in arguments)
    previous = _terminate_like_ctrl_c()
    try:
        options = parse(arguments)
        _set_up_logging(options)
        try:
            code = int(options.handler(options))
        except SystemExit as error:  # of code that a command ran; its code means nothing here
            raise RuntimeError(f"something in 'bench {options.command}' called exit({error.code!r})") from error
        sys.stdout.flush()
        return code
    except BenchError as error:
        if verbose:
            _traceback()
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as error:  # a command may say how it goes on
        print("; ".join(["bench: interrupted", *map(str, error.args)]), file=sys.stderr)
        return EXIT_INTERRUPTED
    except streams.ReaderGone:
        return EXIT_OK
    except Exception as error:  # whatever is left is one line, too, and no code that means something else
        if verbose:
            _traceback()
        if isinstance(error, OSError) and error.filename is not None and error.errno in _UNUSABLE:
            print(f"bench: cannot use {error.filename}: {error.strerror}; choose another place", file=sys.stderr)
            return EXIT_USAGE
        more = "" if verbose else "; -v shows where"
        print(f"bench: a defect of benchbench: {named_line(error)}{more}", file=sys.stderr)
        return EXIT_SOFTWARE
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


#: Of a file or folder that cannot be used, whatever the command wanted of it.
_UNUSABLE = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS, errno.ENOTDIR, errno.ENOSPC)


def _terminate_like_ctrl_c() -> dict[int, Any]:
    """SIGTERM and SIGHUP end a run as Ctrl-C does, the first one of them; returns the former handlers."""
    numbers = [n for n in (signal.SIGTERM, getattr(signal, "SIGHUP", None)) if n is not None]

    def interrupt(*_: object) -> None:
        for number in previous:
            signal.signal(number, signal.SIG_IGN)  # once is enough: what follows tidies up
        raise KeyboardInterrupt

    previous: dict[int, Any] = {}
    with contextlib.suppress(ValueError):  # not in the main thread, where nobody may set handlers
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                previous[number] = signal.signal(number, interrupt)
    return previous


def _traceback() -> None:
    import traceback

    traceback.print_exc()


def _set_up_logging(options: argparse.Namespace) -> None:
    import logging

    level = logging.DEBUG if options.verbose else logging.ERROR if options.quiet else logging.WARNING
    logging.basicConfig(level=logging.WARNING, format="bench: %(message)s", stream=sys.stderr)
    logging.getLogger("benchbench").setLevel(level)


if __name__ == "__main__":
    sys.exit(main())
