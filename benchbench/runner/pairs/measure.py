"""Loop of a paired measurement: sets of fresh processes, blocks of forwards in each, until it is decided or time is up.

When to stop is fixed beforehand: after `paired_times.FIRST_LOOK` sets, and when the time is up, whatever the numbers
are then. Looking more often would call equal things different sooner or later.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import random
import time
from collections.abc import Callable, Iterator, Sequence

from benchbench.core import records as rec
from benchbench.core.paired_result import Spent
from benchbench.core.paired_times import FIRST_LOOK, Block, Mode, ProcessSet, Times, judge
from benchbench.runner.pairs import order
from benchbench.runner.pairs.order import ROLES, Role
from benchbench.runner.pairs.priority import REALTIME_S
from benchbench.runner.pairs.process import PairProcess, SideFailed

_SEED = 11  # of the order of forwards
_SETS = 8  # for which the time is meant: of more, too much would be starts, and of fewer, the sets' differences count
_FORKED_SETS = 10  # where a start takes a tenth of a set
_MOST_SETS = 60
_MOST_BLOCKS = 60  # of a set: beyond, its processes' own differences are all that is left
_MOST_SET_S = 20.0  # of forwards in a set
_LEAST_SHARE = 0.3  # of a set's time that is forwards, however long its processes take to start and to warm up
_WARM_SHARE = 0.025  # of a set's time for the warm-up of each process
_AHEAD_S = 0.003  # from the order to both of a duet until they begin
_FEWEST_BLOCKS = 3  # of a set that is cut short by Ctrl-C
_ROLE_NAMES: dict[Role, str] = {"a": "A", "control": "A (second process)", "b": "B"}

#: Called with the share of the time that is used, 0 to 1, and what is being done.
Progress = Callable[[float, str], None]
#: Called with each set and what its processes measured besides, as soon as it has ended, and the times spent so far.
Keep = Callable[[ProcessSet, dict[Role, list[rec.Measurement]], Spent], None]
Start = Callable[[Role, int], PairProcess]  # role, and how many sets there are before its own


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PairSettings:
    """How a pair is measured."""

    mode: Mode
    margin: float
    time_limit_s: float
    cores: tuple[int, ...] = ()  # two, of a duet
    ahead: bool = True  # whether processes go before other programs, where the system allows it
    at_once: bool = True  # whether the processes of the first set may start at the same time
    forked: bool = False  # whether those of later sets are forked, which takes no time


@dataclasses.dataclass(slots=True, kw_only=True)
class PairTimes:
    """What was measured."""

    sets: list[ProcessSet] = dataclasses.field(default_factory=list)
    repeated: list[str] = dataclasses.field(default_factory=list)  # why sets were begun again
    failure: SideFailed | None = None
    interrupted: bool = False
    measurements: dict[Role, list[list[rec.Measurement]]] = dataclasses.field(
        default_factory=lambda: {role: [] for role in ROLES}
    )  # of each set's process, beside its times
    total_s: float = 0.0
    forward_s: float = 0.0  # inside forwards, warm-up and timed
    start_s: float = 0.0  # until all processes of a set were built

    @property
    def spent(self) -> Spent:
        """For the record."""
        seconds = {"total_s": self.total_s, "forward_s": self.forward_s, "start_s": self.start_s}
        return Spent(**{name: round(value, 3) for name, value in seconds.items()})

    @property
    def error(self) -> str | None:
        """Why there is no result."""
        return None if self.failure is None else f"{_ROLE_NAMES[self.failure.role]}: {self.failure.error}"


class PairMeasurement:
    """One comparison."""

    def __init__(
        self,
        settings: PairSettings,
        start: Start,
        *,
        clock: Callable[[], float] = time.monotonic,
        tell: Progress | None = None,
        keep: Keep | None = None,
    ) -> None:
        """Nothing starts yet.

        Args:
            settings: how to measure.
            start: starts the process of a role.
            clock: seconds.
            tell: hears how far it is.
            keep: gets each set as soon as it has ended.
        """
        self.settings, self.start, self.clock, self.tell, self.keep = settings, start, clock, tell, keep
        self.chance = random.Random(_SEED)
        self.times = PairTimes()
        self._started_at_s = 0.0
        self._began: float | None = None  # of the time limit: preparing a network for its runtime is no part of it
        self._apart_s = 0.0  # of the last set, beside its blocks
        self._closing_s = 0.0  # of that after them
        self._block_s = 0.0  # the last one

    def run(self) -> PairTimes:
        """Measure until it is decided, or the time is up; Ctrl-C ends it with what there is."""
        began, failures = self.clock(), 0
        self._started_at_s = began
        if self.settings.at_once:
            self._began = began
        try:
            while not self._is_over():
                try:
                    self._one_set()
                    failures = 0
                    self._hand_on()
                except SideFailed as failed:
                    failures += 1
                    if failed.lasting or failures > 1:
                        self.times.failure = failed
                        break
                    self.times.repeated.append(f"{_ROLE_NAMES[failed.role]}: {failed.error}")
        except KeyboardInterrupt:
            self.times.interrupted = True
        self.times.total_s = self.clock() - began
        return self.times

    def _hand_on(self) -> None:
        """The set that has just ended."""
        if self.keep:
            self.times.total_s = self.clock() - self._started_at_s
            found = {role: self.times.measurements[role][-1] for role in ROLES}
            self.keep(self.times.sets[-1], found, self.times.spent)

    @property
    def _used_s(self) -> float:
        return 0.0 if self._began is None else self.clock() - self._began

    @property
    def _sets(self) -> int:
        return _FORKED_SETS if self.settings.forked else _SETS

    @property
    def _usual_set_s(self) -> float:
        return self.settings.time_limit_s / self._sets

    def _is_over(self) -> bool:
        n = len(self.times.sets)
        if n == FIRST_LOOK and judge(self.times.sets, self.settings.mode, self.settings.margin).verdict != "ambiguous":
            return True
        least_s = self._apart_s + max(_LEAST_SHARE * self._usual_set_s, self._block_s)
        return n >= _MOST_SETS or (n > 0 and self._used_s + least_s > self.settings.time_limit_s)

    def _one_set(self) -> None:
        first, began, used_s = not self.times.sets, self.clock(), self._used_s
        share_s = (self.settings.time_limit_s - used_s) / max(self._sets - len(self.times.sets), 1)
        blocks: list[Block] = []
        with contextlib.ExitStack() as stack:
            processes = self._started(stack, first=first)
            start_s = self.clock() - began
            self.times.start_s += start_s
            if self._began is None:
                self._began = self.clock()
            forwards = self._warmed(processes, _WARM_SHARE * self._usual_set_s)
            self.times.forward_s += sum(process.warm_s for process in processes.values())
            apart_s = self._used_s - used_s
            moved = all(process.moves for process in processes.values())
            ahead = all(process.ahead for process in processes.values())
            forked = all(process.forked for process in processes.values())
            as_set = functools.partial(ProcessSet, moved=moved, ahead=ahead, forked=forked)
            if self.settings.forked and not forked:  # as many forwards as in a set that starts in no time
                share_s = min(share_s + start_s, self.settings.time_limit_s - used_s)
            room_s = max(share_s - apart_s - self._closing_s, _LEAST_SHARE * self._usual_set_s)
            try:
                for block in self._blocks(processes, forwards, min(room_s, _MOST_SET_S)):
                    blocks.append(block)
            except KeyboardInterrupt:
                if len(blocks) >= _FEWEST_BLOCKS:
                    self.times.sets.append(as_set(blocks=tuple(blocks)))
                raise
            self.times.sets.append(as_set(blocks=tuple(blocks)))
            ended = self.clock()
            self._finish(processes, first=first)
        if not first:  # which measures energy and accuracy, too
            self._closing_s = self.clock() - ended
        self._apart_s = apart_s + self._closing_s

    def _started(self, stack: contextlib.ExitStack, *, first: bool) -> dict[Role, PairProcess]:
        """A process of each role, its network built, started in random order."""
        self._say("starting processes")
        roles, processes = list(ROLES), dict[Role, PairProcess]()
        self.chance.shuffle(roles)
        one_by_one = first and not self.settings.at_once
        if one_by_one:
            roles.sort(key=ROLES.index)
        for role in roles:
            process = self.start(role, len(self.times.sets))
            stack.callback(process.close)
            processes[role] = process
            process.build(ahead=self.settings.ahead)
            if one_by_one:
                process.wait("built")
        if not one_by_one:
            for role in roles:
                processes[role].wait("built")
        return processes

    def _warmed(self, processes: dict[Role, PairProcess], limit_s: float) -> float:
        """Warm all up; seconds of one forward of each together."""
        self._say("warm-up")
        if self.settings.mode == "duet":
            self._bind(processes, swapped=self._begins_swapped)
        roles = list(ROLES)
        self.chance.shuffle(roles)
        forwards = [processes[role].warm(limit_s) for role in roles]
        short = max(forwards) < REALTIME_S
        for process in processes.values():
            process.realtime = short and all(one.ahead for one in processes.values())  # one alone would be no pair
        return sum(forwards)

    @property
    def _begins_swapped(self) -> bool:
        """Whether a set of duets begins on swapped cores: every second one does."""
        return len(self.times.sets) % 2 == 1

    def _bind(self, processes: dict[Role, PairProcess], *, swapped: bool) -> None:
        """A has one core, and what it is compared with the other."""
        one, other = reversed(self.settings.cores) if swapped else self.settings.cores
        processes["a"].bind(one)
        processes["control"].bind(other)
        processes["b"].bind(other)

    def _blocks(self, processes: dict[Role, PairProcess], forwards_s: float, room_s: float) -> Iterator[Block]:
        """As many blocks as fit into the room, at least one.

        Args:
            processes: warm.
            forwards_s: of one forward of each.
            room_s: for all blocks.
        """
        self._block_s = 2 * forwards_s
        until_s = min(self._used_s + room_s, self.settings.time_limit_s)
        short = (
            self._used_s + self._block_s > self.settings.time_limit_s and not self.times.sets
        )  # slower than all the time
        orders = order.interleaved(self.chance)
        swapped_before = self._begins_swapped
        duets = order.duets(self.chance, swapped=swapped_before)
        at_s = self._used_s
        for number in range(_MOST_BLOCKS):
            began_s, at_s = at_s, self._used_s
            if number:
                self._block_s = at_s - began_s
                if at_s + self._block_s > until_s:
                    return
            self._say(f"set {len(self.times.sets) + 1}, block {number + 1}")
            if self.settings.mode == "interleaved":
                roles = next(orders)
                yield self._interleaved(processes, roles[:3] if short else roles, at_s)
                continue
            pairs, swapped = next(duets)
            if swapped != swapped_before:
                self._bind(processes, swapped=swapped)
                swapped_before = swapped
            yield self._duets(processes, pairs, at_s)

    def _interleaved(self, processes: dict[Role, PairProcess], roles: Sequence[Role], at_s: float) -> Block:
        seen: dict[Role, list[tuple[float, float | None]]] = {role: [] for role in ROLES}
        for role in roles:
            seen[role].append(processes[role].forward())
        return self._block(seen, at_s)

    def _duets(self, processes: dict[Role, PairProcess], pairs: Sequence[order.Duet], at_s: float) -> Block:
        seen: dict[Role, dict[Role, tuple[float, float | None]]] = {role: {} for role in ROLES}  # by the one beside it
        for one, other in pairs:
            start_s = time.monotonic() + _AHEAD_S
            for role in (one, other):
                processes[role].start_forward(start_s)
            seen[one][other], seen[other][one] = processes[one].end_forward(), processes[other].end_forward()
        together = {role: [by[beside] for beside in ("b", "control", "a") if beside in by] for role, by in seen.items()}
        return self._block(together, at_s)

    def _block(self, seen: dict[Role, list[tuple[float, float | None]]], at_s: float) -> Block:
        self.times.forward_s += sum(wall for pairs in seen.values() for wall, _ in pairs)
        has_cpu = all(cpu for pairs in seen.values() for _, cpu in pairs)  # 0: too short for the system's counter
        wall = {role: tuple(wall for wall, _ in pairs) for role, pairs in seen.items()}
        cpu = {role: tuple(cpu for _, cpu in pairs if cpu) for role, pairs in seen.items()}
        return Block(at_s=round(at_s, 3), wall_s=Times(**wall), cpu_s=Times(**cpu) if has_cpu else None)

    def _finish(self, processes: dict[Role, PairProcess], *, first: bool) -> None:
        """Memory and energy of processes that were not forked; in the first set also accuracy, of A and B."""
        self._say("memory" + (" and accuracy" if first else ""))
        for role, process in processes.items():
            once = role != "control"
            if not process.forked:
                process.finish(energy=once, accuracy=first and once)
            self.times.measurements[role].append(process.measurements)

    def _say(self, text: str) -> None:
        if self.tell:
            sets = len(self.times.sets)
            now = f"{text}, {sets} set{'s' * (sets != 1)} done"
            self.tell(min(self._used_s / self.settings.time_limit_s, 0.99), now)


def samples(times: PairTimes, role: Role) -> list[list[float]]:
    """Wall seconds of a role's process in each set."""
    return [[s for block in one.blocks for s in getattr(block.wall_s, role)] for one in times.sets]
