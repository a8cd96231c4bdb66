"""Journal of a calibration on disk: what was timed, and which network makes which call.

One JSON object a line, each on disk before the next time is taken. A calibration that was interrupted goes on from it,
and how far forecasts are off can be computed again from it, without a network.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from benchbench.core import records as rec
from benchbench.core.config import parse_json
from benchbench.core.errors import DeviceError, StoreError, first_line, is_out_of_memory, os_error_as, told
from benchbench.core.results import JsonLines

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A line but the first: a time, why there is none, a call, a network, or the calls that are no network's."""

    key: str | None = None  # of a time or a network
    seconds: Annotated[float, rec.AtLeast(0)] | None = None
    failed: str | None = None
    call: str | None = None
    cost: Mapping[str, Any] | None = None
    network: str | None = None
    calls: Mapping[str, rec.Size] = dataclasses.field(default_factory=dict)
    basics: tuple[str, ...] | None = None


class CalibrationJournal:
    """Times by the key of a call or of a network, and what these are."""

    def __init__(self, path: Path, identity: str | None = None) -> None:
        """Open, or go on with, a calibration's journal.

        Args:
            identity: of setting and versions; what is there of another one is set aside. None: it is only read.

        Raises:
            StoreError: it cannot be read or written.
        """
        self.path, self.known, self.failed = path, dict[str, list[float]](), dict[str, str]()
        self.costs: dict[str, rec.OperatorCost] = {}  # of calls
        self.networks: dict[str, dict[str, int]] = {}  # name -> call -> how often a forward makes it
        self.network_keys: dict[str, str] = {}  # name -> what its own times are kept under
        self.basics: set[str] = set()  # calls that are no network's
        self.no_room: set[str] = set()  # what was not tried, since too little memory was free
        hint = "choose another --out" if identity is not None else "take one of 'bench calibrate'"
        try:
            self._lines = JsonLines(path) if identity is not None else None
            lines = path.read_bytes().split(b"\n")[:-1]
            if self._lines:
                if lines and _parsed(lines[0], 1).get("identity") != identity:
                    path.replace(path.with_suffix(".old"))
                    log.warning("%s is of another setting or of other versions: set aside as .old", path)
                    lines = []
                if not lines:
                    self._lines.append({"identity": identity})
            for number, line in enumerate(lines[1:], 2):
                self._take(rec.from_json(_Row, _parsed(line, number)))
            for key in self.network_keys.values():  # its code may be another by now
                self.failed.pop(key, None)
        except OSError as error:
            raise StoreError(f"cannot use the journal {path}: {error.strerror or error}; {hint}") from error
        except (ValueError, KeyError, TypeError) as error:
            what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            raise StoreError(f"cannot use the journal {path}: {what}; {hint}") from error

    def _take(self, row: _Row) -> None:
        match row:
            case _Row(call=str(call), cost=dict(cost)):
                self.costs[call] = rec.from_json(rec.OperatorCost, {"module": "", **cost}, "cost")
            case _Row(network=str(network), key=str(key)):
                self.networks[network], self.network_keys[network] = dict(row.calls), key
            case _Row(key=str(key), failed=str(why)):
                self.failed[key] = why
            case _Row(key=str(key), seconds=float() | int() as seconds):
                self.known.setdefault(key, []).append(float(seconds))
                self.no_room.discard(key)
            case _Row(basics=tuple(basics)):
                self.basics = set(basics)
            case _:
                raise TypeError("a line holds no time, call or network")

    def calls(self) -> dict[str, list[float]]:
        """Times of the calls that networks make, as they are now, and of the basics."""
        those = self.basics.union(*self.networks.values())
        return {key: times for key, times in self.known.items() if key in those}

    def measured(self) -> dict[str, float]:
        """Network -> seconds of its forward."""
        return {name: min(self.known[key]) for name, key in self.network_keys.items() if key in self.known}

    def costs_of(self, network: str) -> list[tuple[str, rec.OperatorCost]]:
        """Key and cost of every call of a network's forward."""
        return [(key, self.costs[key]) for key, n in self.networks[network].items() for _ in range(n)]

    def note_no_room(self, key: str) -> None:
        """That this was not tried; another sitting tries again."""
        if key not in self.known:
            self.no_room.add(key)

    def add(self, key: str, time_it: Callable[[], float]) -> None:
        """Take a time and keep it; what cannot be timed is kept as that, and never tried again.

        Raises:
            DeviceError: the GPU failed, so that nothing can be timed on it by this process any more.
            StoreError: it cannot be written.
        """
        try:
            row: dict[str, Any] = {"key": key, "seconds": time_it()}
        except Exception as error:  # a network's or an operator's own
            if is_out_of_memory(error):
                self.note_no_room(key)
                return
            if str(error).startswith("CUDA error"):
                raise DeviceError(
                    f"the GPU failed while {key} was timed: {first_line(error)}; what was timed is kept: run the same "
                    "command again"
                ) from error
            row = {"key": key, "failed": first_line(error)}
            log.warning("not timed: %s: %s", key, row["failed"])
        self._write([row])

    def describe(
        self,
        costs: Mapping[str, rec.OperatorCost],
        networks: Iterable[tuple[str, str, Iterable[str]]],
        basics: Sequence[str],
    ) -> None:
        """Keep what the keys are of, each once.

        Args:
            costs: key -> a call.
            networks: name, key, and the keys of its calls in their order.
            basics: keys of calls that are no network's.
        """
        rows: list[dict[str, Any]] = []
        for key, cost in costs.items():
            if self.costs.get(key) != dataclasses.replace(cost, module=""):
                plain = rec.to_json(cost)
                rows.append({"call": key, "cost": {name: value for name, value in plain.items() if name != "module"}})
        for name, key, calls in networks:
            if self.network_keys.get(name) != key:
                rows.append({"network": name, "key": key, "calls": dict(Counter(calls))})
        if self.basics != set(basics):
            rows.append({"basics": list(basics)})
        self._write(rows)

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        assert self._lines is not None
        with os_error_as(StoreError, f"cannot write to {self.path}", "make room, and the same command goes on"):
            self._lines.append(*rows)
        for row in rows:
            self._take(rec.from_json(_Row, row))


def _parsed(line: bytes, number: int) -> dict[str, Any]:
    content = parse_json(line, f"line {number}", StoreError)
    if not isinstance(content, dict):
        raise TypeError(f"line {number} must be an object, not {told(content)}")
    return content
