"""The times of a calibration on disk, with all that a fit needs: what was timed, and which network makes which call.

One JSON object a line, each on disk before the next time is taken. A calibration that was interrupted goes on from it,
and how far forecasts are off can be computed again from it, without a network.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchbench import records as rec
from benchbench.errors import DeviceError, StoreError, first_line
from benchbench.measure.limit import is_out_of_memory
from benchbench.store import set_aside, write_whole

log = logging.getLogger(__name__)


class Journal:
    """Times by the key of a call or of a network, and what these are."""

    def __init__(self, path: Path, identity: str | None = None) -> None:
        """Open, or go on with, a calibration's journal.

        Args:
            path: of the file.
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
        try:
            lines = path.read_text().splitlines() if path.exists() or identity is None else []
            if identity is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                if lines and json.loads(lines[0]).get("identity") != identity:
                    ending = set_aside([path, path.with_suffix(".toml")])[0].name.removeprefix(path.name)
                    log.warning("%s is of another setting or of other versions: set aside as %s", path, ending)
                    lines = []
                if not lines:
                    write_whole(path, (rec.canonical_json({"identity": identity}) + "\n").encode())
            for number, line in enumerate(lines[1:]):
                try:
                    row = json.loads(line)
                except ValueError:
                    if number + 2 < len(lines):
                        raise
                    if identity is not None:  # cut off while it was written
                        write_whole(path, "".join(f"{whole}\n" for whole in lines[:-1]).encode())
                    break
                self._take(row)
            for key in self.network_keys.values():  # its code may be another by now
                self.failed.pop(key, None)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            hint = "choose another --out" if identity is not None else "take one of 'bench calibrate'"
            raise StoreError(f"cannot use the journal {path}: {error}; {hint}") from error

    def _take(self, row: Mapping[str, Any]) -> None:
        if "call" in row:
            self.costs[row["call"]] = rec.from_json(rec.OperatorCost, {"module": "", **row["cost"]})
        elif "network" in row:
            self.networks[row["network"]], self.network_keys[row["network"]] = row["calls"], row["key"]
        elif "basics" in row:
            self.basics = set(row["basics"])
        elif "failed" in row:
            self.failed[row["key"]] = row["failed"]
        else:
            self.known.setdefault(row["key"], []).append(float(row["seconds"]))
            self.no_room.discard(row["key"])

    def calls(self) -> dict[str, list[float]]:
        """Times of the calls that networks make, as they are now, and of the basics."""
        those = self.basics.union(*self.networks.values())
        return {key: times for key, times in self.known.items() if key in those}

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
                assert isinstance(plain, dict)
                rows.append({"call": key, "cost": {name: value for name, value in plain.items() if name != "module"}})
        for name, key, calls in networks:
            if self.network_keys.get(name) != key:
                rows.append({"network": name, "key": key, "calls": dict(Counter(calls))})
        if self.basics != set(basics):
            rows.append({"basics": list(basics)})
        self._write(rows)

    def _write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        try:
            with open(self.path, "a") as file:
                for row in rows:
                    file.write(rec.canonical_json(row) + "\n")
                    self._take(row)
        except OSError as error:
            raise StoreError(
                f"cannot write to {self.path}: {error.strerror or error}; make room, and the same command goes on"
            ) from error
