"""Results folders: `records.jsonl`, one record a line, on disk before the next measurement starts.

A process killed while writing leaves half a line; it is moved to `records.jsonl.torn` with a warning when the folder
is next opened for writing, and passed over by readers. A broken line anywhere else means that the file is not ours,
and it is left alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from benchbench.core import records as rec
from benchbench.core.config import parse_json
from benchbench.core.errors import StoreError, command, os_error_as, told

if TYPE_CHECKING:
    import pandas

log = logging.getLogger(__name__)
T = TypeVar("T")

RECORDS = "records.jsonl"
SEARCH, SEARCH_BEGUN = "search.json", "job.json"  # in the folder of a search: its result, and what it was asked for
PAIRS = "pairs.json"  # in the folder of a paired comparison
LOCK = ".lock"
_PARTIAL = re.compile(r".+\.(\d+)\.partial")  # as `write_whole` names them


class JsonLines:
    """A file of JSON lines that is added to; half a line, of a process that was killed, is set aside in `.torn`."""

    def __init__(self, path: Path) -> None:
        """Make it ready to be added to.

        Raises:
            OSError: it cannot be written.
        """
        self.path = path
        with open(path, "ab+") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(0)
            data = file.read(size)
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            torn = path.with_name(f"{path.name}.torn")
            with open(torn, "ab") as file:
                file.write(data[whole:] + b"\n")
            os.truncate(path, whole)
            log.warning("the last line of %s was half written; set aside in %s", path, torn.name)

    def append(self, *items: Any) -> None:
        """Add a line for each item and wait until the disk has them.

        Raises:
            OSError: the disk is full or gone; what was there before stays whole.
        """
        content = b"".join(rec.canonical_json(item).encode() + b"\n" for item in items)
        start = self.path.stat().st_size if self.path.exists() else 0
        try:
            with open(self.path, "ab") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(self.path, start)
            raise


def _mark(digest: str) -> str:
    """What an artifact's name carries of its hash."""
    return f"-{digest[:12]}"


def plain_name(artifact: rec.Artifact) -> str:
    """The name that an artifact was given to `Store.add_artifact` under."""
    return Path(artifact.path).name.replace(_mark(artifact.sha256), "")


class Store:
    """The records of one folder, opened for adding to it."""

    def __init__(self, folder: Path, *, fresh: bool = False) -> None:
        """Open, or make, a results folder.

        Args:
            folder: made if it is not there.
            fresh: start over: set what is there aside as `records.jsonl.old`, `.old.2`, ...

        Raises:
            StoreError: the folder cannot be written, is in use by another run, holds a file that is
                not ours, or one from a newer schema.
        """
        self.folder = folder
        self.path = folder / RECORDS
        self._lock: int | None = None
        try:
            with os_error_as(StoreError, f"cannot write results to {folder}", "choose another folder with --out"):
                folder.mkdir(parents=True, exist_ok=True)
                self._lock = lock(folder)
                remove_torn(folder)
                remove_torn(folder / "artifacts")
                if fresh:
                    set_aside([self.path])
                self.records = list(read_records(self.path)) if self.path.exists() else []
                self._lines = JsonLines(self.path)
        except StoreError:
            self._unlock()
            raise

    def append(self, record: rec.Record) -> None:
        """Add a record and wait until the disk has it.

        Raises:
            StoreError: the disk is full or gone; what was there before stays whole.
        """
        advice = f"{len(self.records)} finished record(s) are kept: make room and run the same command again"
        with os_error_as(StoreError, f"cannot write to {self.path}", advice):
            self._lines.append(rec.record_to_json(record))
        self.records.append(record)

    def add_artifact(self, kind: str, name: str, content: bytes, *, title: str = "") -> rec.Artifact:
        """Keep a file beside the records.

        The name carries the hash of the content, so equal content is kept once.
        """
        digest = hashlib.sha256(content).hexdigest()
        stem, dot, ending = name.rpartition(".")
        relative = f"artifacts/{stem}{_mark(digest)}{dot}{ending}"
        target = self.folder / relative
        with os_error_as(StoreError, f"cannot write {target}", "make room and run again"):
            target.parent.mkdir(exist_ok=True)
            write_whole(target, content)
        return rec.Artifact(kind=kind, path=relative, sha256=digest, title=title)

    def finished(self, cell: str, environment: dict[str, Any]) -> rec.Record | None:
        """The newest record of this cell that need not be measured again.

        A row that failed for a reason that may pass (`failed`, `oom`, `timeout`, `not_run`) is tried again.
        """
        here = rec.fingerprint(environment)
        for record in reversed(self.records):
            if record.cell == cell and rec.fingerprint(record.environment) == here:
                return record if record.ok or record.status == "unsupported" else None
        return None

    def close(self) -> None:
        """Let another run have the folder; one in which nothing was ever recorded does not stay behind."""
        if not self.records and self.path.exists() and not self.path.stat().st_size:
            self.path.unlink()
            (self.folder / LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # somebody else's files are in it
                self.folder.rmdir()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            _let_go(self._lock)
            self._lock = None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def lock(folder: Path) -> int | None:
    """Hold the folder for this process; the system lets go when the process ends, however it ends.

    Raises:
        StoreError: another process has it.
        OSError: it cannot be written, or its file system has no locks.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no flock; there two runs in one folder are the user's to avoid
        return None
    path = folder / LOCK
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise StoreError(f"{folder} is in use by another run; wait for it or choose another --out") from error
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                _held_here.add(handle)
                return handle
        os.close(handle)  # of a run that took the file away when it ended: whoever comes next would not see it


_held_here: set[int] = set()  # handles of the locks of this process


def _let_go(*handles: int) -> None:
    for handle in _held_here.intersection(handles):  # others are of the process which this one was forked from
        _held_here.remove(handle)
        os.close(handle)


if hasattr(os, "register_at_fork"):  # a fork shares the lock, and would keep it beyond the end of who took it
    os.register_at_fork(after_in_child=lambda: _let_go(*_held_here))


@contextlib.contextmanager
def held(folder: Path, *, prefix: str = "") -> Iterator[None]:
    """A folder, made if need be, that is this process's alone meanwhile; one in which nothing was made goes again.

    Args:
        prefix: of the files in it that are this command's; those that a killed process left half written are removed.

    Raises:
        StoreError: another process has it, or it cannot be written.
    """
    is_new = not folder.exists()
    with os_error_as(StoreError, f"cannot write to {folder}", "choose another --out"):
        folder.mkdir(parents=True, exist_ok=True)
        handle = lock(folder)
    try:
        remove_torn(folder, prefix=prefix)
        yield
    finally:
        with contextlib.suppress(OSError):
            if is_new and os.listdir(folder) == [LOCK]:
                (folder / LOCK).unlink()
                folder.rmdir()
        if handle is not None:
            _let_go(handle)


def set_aside(paths: Sequence[Path]) -> list[Path]:
    """Give files other names, `.old`, `.old.2`, ..., so that what is made next replaces nothing.

    Args:
        paths: of files that belong together: they get one number. One that is not there, or is empty, is left.

    Returns:
        Where they are now.

    Raises:
        OSError: one cannot be renamed.
    """
    full = [path for path in paths if path.exists() and (path.is_dir() or path.stat().st_size)]
    number = 1
    while any(os.path.lexists(_aside(path, number)) for path in full):
        number += 1
    for path in full:
        path.rename(_aside(path, number))
    return [_aside(path, number) for path in full]


def _aside(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.old" + (f".{number}" if number > 1 else ""))


def remove_torn(folder: Path, *, prefix: str = "", older_s: float = 0.0) -> None:
    """Remove what processes that were killed while they wrote a file have left of it.

    Args:
        folder: nothing in it is touched while the process that writes it is there, if it is of this machine.
        prefix: of the names.
        older_s: seconds since it was last written to; for a folder that this process does not hold, which processes
            of other machines may write to.
    """
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            partial = _PARTIAL.fullmatch(path.name)
            if not partial or not path.name.startswith(prefix) or _is_running(int(partial[1])):
                continue
            if time.time() - path.lstat().st_mtime >= older_s:
                path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        pass
    return True


def file_sha256(path: Path) -> str:
    """Hash of a file's content, read in blocks; an `OSError` if it cannot be read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is either the old or the new one, never half."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _no_records(folder: Path) -> str:
    """Why a folder has no records, and what makes some."""
    if (folder / SEARCH).exists():
        return (
            f"{folder} holds a search, whose finalists have their records in {folder / 'measured'} and a row each in "
            f"{folder / 'front.csv'}; its page is made by: {command('report', folder)}"
        )
    if (folder / SEARCH_BEGUN).exists():
        return (
            f"the search in {folder} has no result yet; this goes on with it: {command('search', '--resume', folder)}"
        )
    if (folder / PAIRS).exists():
        return f"{folder} holds a paired comparison; its page and tables are made by: {command('report', folder)}"
    return f"no records in {folder}: expected {RECORDS}, which this makes: {command('run', '--out', folder)}"


def read_records(path: Path) -> Iterable[rec.Record]:
    """The records of one file, oldest first.

    Args:
        path: a `records.jsonl`, or a folder that holds one or several `*.jsonl`.

    Raises:
        StoreError: nothing there, not ours, or from a newer schema.
    """
    with os_error_as(StoreError, f"cannot read {path}"):
        if path.is_dir():
            files = sorted(path / name for name in os.listdir(path) if name.endswith(".jsonl"))
            if not files:
                raise StoreError(_no_records(path))
            return [record for file in files for record in read_records(file)]
        if not path.exists():
            raise StoreError(f"no records at {path}: no such file or folder")
        with open(path, "rb") as file:  # line by line: the text of many records takes more room than they do
            return list(_read_lines(file, path))


def _read_lines(file: Iterable[bytes], path: Path) -> Iterator[rec.Record]:
    """The records of a file's lines; records share what is equal in them."""
    shared = _Shared()
    for number, line in enumerate(file, 1):
        if not line.endswith(b"\n"):
            log.warning("the last record of %s is half written and was passed over", path)
        elif line.strip():
            yield shared.record(_read_line(line, path, number))


class _Shared:
    """One object of all that is equal in records; by what they look like, since 1 and 1.0 are equal, too."""

    def __init__(self) -> None:
        self._known: dict[bytes, Any] = {}  # by a hash, which takes less room than the text

    def record(self, record: rec.Record) -> rec.Record:
        """The record, made of objects that others have, too: its samples alone are its own."""
        return dataclasses.replace(
            record,
            model=dataclasses.replace(record.model, kwargs=self._one(record.model.kwargs)),
            workload=self._one(record.workload),
            device=self._one(record.device),
            environment=self._one(record.environment),
            recipe=self._one(record.recipe),
            measurements=tuple(m if m.values else self._one(m) for m in record.measurements),
        )

    def _one(self, value: T) -> T:
        text = repr(value).encode("utf-8", "surrogatepass")
        known: T = self._known.setdefault(hashlib.blake2b(text, digest_size=16).digest(), value)
        return known


def _read_line(line: bytes, path: Path, number: int) -> rec.Record:
    where = f"{path} line {number}"
    try:
        data = parse_json(line, "it", StoreError)
    except StoreError as error:
        raise StoreError(f"{where} is not a benchbench record (no JSON: {error}); is this the right file?") from error
    if not isinstance(data, dict) or "schema" not in data:
        raise StoreError(f"{where} is not a benchbench record (no 'schema'); is this the right file?")
    schema = data["schema"]
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise StoreError(f"{where} is not a benchbench record (schema {told(schema)}); is this the right file?")
    if schema > rec.SCHEMA:
        raise StoreError(
            f"{where} has schema {schema} and this benchbench reads up to {rec.SCHEMA}: "
            "a newer benchbench wrote it; upgrade with 'pip install --upgrade benchbench'"
        )
    try:
        return rec.record_from_json(data)
    except (KeyError, TypeError) as error:
        detail = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise StoreError(f"{where} is not a whole benchbench record: {detail}") from error


def latest(records: Iterable[rec.Record]) -> list[rec.Record]:
    """Of each cell and environment the newest record, in the order in which the cells first came.

    A row of a host that could not be reached is replaced by any row that the host itself made.
    """
    newest: dict[tuple[str, str], rec.Record] = {}
    for record in records:
        newest[record.cell, rec.fingerprint(record.environment)] = record
    seen = {_wish(r) for r in newest.values() if not _unseen(r)}
    return [r for r in newest.values() if not _unseen(r) or _wish(r) not in seen]


def _unseen(record: rec.Record) -> bool:
    return record.status == "not_run" and record.device.kind == "none"


def _wish(record: rec.Record) -> str:
    """What was asked, without the threads, which follow from the device that is found."""
    work = dataclasses.replace(record.workload, threads=None)
    return rec.cell_id(record.model, work, record.device.asked, record.recipe)


def to_frame(records: Sequence[rec.Record]) -> pandas.DataFrame:
    """One row a record; for each metric the columns `<metric>` and `<metric>_origin`.

    A paper's figure stands apart, in `<metric>_published`.
    A value that could not be had is NaN; its reason is in `<metric>_reason`.
    """
    import pandas

    rows = []
    for record in records:
        row: dict[str, Any] = {
            "id": record.id,
            "cell": record.cell,
            "model": record.model.name,
            "status": record.status,
            "error": record.error,
            "device": record.device.asked,
            "device_name": record.device.name,
            "basis": record.device.basis,
            "started_at": record.started_at,
            "in_channels": record.model.in_channels,
            "out_channels": record.model.out_channels,
            "checkpoint": record.model.checkpoint,
        }
        row |= rec.to_json(record.workload)
        for m in record.measurements:
            if m.origin == "published":
                row[f"{m.metric}_published"] = m.value
                continue
            row |= {m.metric: m.value, f"{m.metric}_origin": m.origin}
            if m.interval:
                row |= {f"{m.metric}_low": m.interval[0], f"{m.metric}_high": m.interval[1]}
            if m.reason:
                row[f"{m.metric}_reason"] = m.reason
        rows.append(row)
    return pandas.DataFrame(rows)


def load_records(path: str | Path) -> pandas.DataFrame:
    """Every record of a folder or a `.jsonl` file as a table; see `to_frame` for its columns.

    Raises:
        StoreError: nothing there, not ours, or from a newer schema.
    """
    return to_frame(list(read_records(Path(path))))
