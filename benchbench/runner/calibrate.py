"""`bench calibrate`: calibration of this device from the operator calls that the zoo makes.

Every different call of every network is timed, and others of every common kind, in an order in which every kind and
every size comes early, so that a calibration that ends early is coarse and not lopsided. Then whole networks are timed,
then both again, since a machine's pace wanders. Each network is forecast from the calls of the others alone: how far
that is off is what the profile says of itself. Each time is on disk before the next is taken, so an interrupted
calibration goes on. A call that took much longer in one round than in another was disturbed, and is counted.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from benchbench.core import records as rec
from benchbench.core.errors import UsageError, first_line
from benchbench.core.records import utc_now
from benchbench.core.results import held
from benchbench.devices import cpu, latency_model
from benchbench.devices.environment import environment
from benchbench.devices.profile import CALIBRATION_SCHEMA, Calibration, Profile, write_profile
from benchbench.measure.flops.meta_device import build_without_memory
from benchbench.measure.machine_peak import measure_peak
from benchbench.measure.memory import weights_bytes
from benchbench.measure.operators import microbenchmarks, replay
from benchbench.measure.operators.replay import Call
from benchbench.runner.calibration_journal import CalibrationJournal
from benchbench.runner.child_process import WorkerFailure, run_worker
from benchbench.runner.job import Job
from benchbench.training.torch_runtime import threads
from benchbench.zoo import build as zoo_build
from benchbench.zoo import cards as zoo_cards
from benchbench.zoo import classes

log = logging.getLogger(__name__)

_FEWEST = 3  # networks
_PASSING = ("commit", "gpu_processes", "python", "numpy")  # of an environment: decides no time of an operator
_ROOM = 0.8  # of the free memory that a call's tensors, or a network, may take
_SCRATCH = 2  # times its tensors are what a call or a network takes at most
_LONGEST_BASIC_S = 0.5  # of a microbenchmark at the measured peak; slow devices have the zoo's own long ones to time
_DISTURBED = 1.3  # times as long in another round
_CALLS_SHARE = 0.6  # of the time; the rest is for networks that were never timed
_CALL_ROUNDS, _NETWORK_ROUNDS = 3, 2  # that are taken while there is time
_NETWORK_PROTOCOL = "quick,warmup_s=0,min_samples=7,max_samples=7,timed_s=3,slow_samples=1"
_PEAK, _BANDWIDTH = "peak_macs_per_s", "memory_bandwidth_bytes_per_s"
_DIGITS = 4  # of logarithms
_SITTING = "sitting"  # what the time of a whole sitting is kept under

Progress = Callable[[float, str], None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a calibration holds for; all of it is part of its identity."""

    device: str = "cpu"  # `cpu`, `cuda`
    threads: int | None = None
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    runtime: str = "eager"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One of those that a calibration takes its calls from."""

    spec: rec.ModelSpec
    spatial: tuple[int, ...]
    calls: tuple[Call, ...]
    peak_bytes: int = 0  # weights, and the most that activations take at once
    folder: str | None = None  # of a card of one's own

    @property
    def key(self) -> str:
        """What its time is kept under."""
        calls = [call.key for call in self.calls]
        return f"{self.spec.name} {rec.content_hash([rec.to_json(self.spec), self.spatial, calls])}"

    @property
    def macs(self) -> int:
        """Of a forward."""
        return sum(call.cost.macs for call in self.calls)


def networks_of(cards: Sequence[zoo_cards.Card], dtype: str, *, progress: Progress | None = None) -> list[Network]:
    """The calls of networks at their cards' sizes; one that cannot be traced is left out with a warning.

    Raises:
        UsageError: fewer than three can be traced.
    """
    networks = []
    for i, card in enumerate(cards):
        if progress:
            progress(0.0, f"tracing {card.name}, {i + 1} of {len(cards)}")
        try:
            module, _ = build_without_memory(functools.partial(zoo_build.build, card.spec(), card.spatial))
            calls, peak = replay.calls_of(module, (1, card.in_channels, *card.spatial), dtype)
        except Exception as error:  # a network may raise anything
            log.warning("%s is left out: %s", card.name, first_line(error))
            continue
        networks.append(
            Network(
                spec=card.spec(),
                spatial=tuple(card.spatial),
                calls=tuple(calls),
                peak_bytes=peak + weights_bytes(module),
                folder=card.folder,
            )
        )
    if len(networks) < _FEWEST:
        raise UsageError(
            f"{len(networks)} networks are too few to tell how far forecasts are off: name {_FEWEST} or more with "
            "--models"
        )
    return networks


def in_order(calls: Iterable[Call]) -> list[Call]:
    """Different calls so that every kind, and of each kind every size, comes early."""
    strata: dict[tuple[str, int, int], list[Call]] = {}
    for call in replay.different(calls):
        macs, moved, *_ = latency_model.place(call.cost)
        strata.setdefault((call.cost.kind, round(moved), round(macs - moved)), []).append(call)
    rows = [strata[key] for key in sorted(strata)]
    return [row[rank] for rank in range(max(map(len, rows), default=0)) for row in rows if rank < len(row)]


def calibrate(
    networks: Sequence[Network],
    setting: Setting,
    out: Path,
    *,
    time_s: float = 600.0,
    progress: Progress | None = None,
) -> Profile:
    """Time calls and networks, and write the profile.

    Args:
        out: the profile's TOML file; times are kept beside it, and an equal calibration goes on from there.
        time_s: of this sitting.

    Raises:
        UsageError: too little was timed to say anything, or a profile is there that is not of this calibration.
        StoreError: nothing can be written there.
    """
    around = environment(setting.device, setting.threads)  # type: ignore[arg-type]
    lasting = {key: value for key, value in around.items() if key not in _PASSING}
    identity = rec.content_hash([rec.to_json(setting), rec.fingerprint(lasting), CALIBRATION_SCHEMA])
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder: give the name of a file that ends in .toml")
    with held(out.parent, prefix=f"{out.stem}."):  # two calibrations at once would spoil each other's times
        times = out.with_suffix(".ndjson")
        if out.exists() and not times.exists():
            raise UsageError(f"{out} is there already and its times, {times.name}, are not: choose another --out")
        journal = CalibrationJournal(times, identity)
        torch.backends.cudnn.allow_tf32 = False  # PyTorch has TF32 in convolutions by default, and none in products
        with threads(setting.threads):
            _time(networks, setting, journal, time_s, progress)
        profile = fit(journal, setting, around, out.stem)
        write_profile(profile, out)
    return profile


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """A call or a network that is to be timed."""

    key: str
    text: str
    rounds: int  # how often at most
    needs_bytes: int
    take: Callable[[], float]


def _time(
    networks: Sequence[Network], setting: Setting, journal: CalibrationJournal, time_s: float, progress: Progress | None
) -> None:
    """Calls, then networks, then both again; those left out that have their times already."""
    for measured in _peaks(setting):
        if measured.value:
            journal.add(measured.metric, functools.partial(float, measured.value))
    peak = max(journal.known.get(_PEAK, [math.inf]))
    basics = [call for call in microbenchmarks.calls(setting.dtype) if call.cost.macs / peak <= _LONGEST_BASIC_S]
    calls = {call.key: call for call in in_order([*basics, *(call for net in networks for call in net.calls)])}
    named = [(net.spec.name, net.key, [call.key for call in net.calls]) for net in networks]
    journal.describe({key: call.cost for key, call in calls.items()}, named, [call.key for call in basics])
    items = [
        _Item(
            key=key,
            text=call.cost.kind,
            rounds=_CALL_ROUNDS,
            needs_bytes=_SCRATCH * call.cost.moved_bytes,
            take=functools.partial(replay.time_call, call, device=setting.device),
        )
        for key, call in calls.items()
    ]
    items += [
        _Item(
            key=net.key,
            text=f"timing {net.spec.name} whole",
            rounds=_NETWORK_ROUNDS,
            needs_bytes=_SCRATCH * net.peak_bytes,
            take=functools.partial(time_network, net, setting),
        )
        for net in sorted(networks, key=lambda net: net.macs)
    ]
    start = time.monotonic()
    try:
        for number in range(1, max(_CALL_ROUNDS, _NETWORK_ROUNDS) + 1):
            for item in items:
                times = journal.known.get(item.key, ())
                if number > item.rounds or len(times) >= number or item.key in journal.failed:
                    continue
                share = (time.monotonic() - start) / time_s
                if progress:
                    timed = sum(key in journal.known for key in calls)
                    progress(min(share, 1.0), f"{timed} of {len(calls)} calls timed; {item.text}")
                if share > 1:
                    return
                if share > _CALLS_SHARE and number == 1 and item.key in calls:
                    continue
                if item.needs_bytes < _ROOM * _free_bytes(setting):
                    journal.add(item.key, item.take)
                else:
                    journal.note_no_room(item.key)
    finally:
        journal.add(_SITTING, lambda: time.monotonic() - start)


def _free_bytes(setting: Setting) -> float:
    free = cpu.available_memory_bytes()
    if setting.device != "cuda":
        return free
    torch.cuda.empty_cache()  # else what it keeps counts as taken
    return min(free, torch.cuda.mem_get_info()[0])


def _peaks(setting: Setting) -> list[rec.Measurement]:
    try:
        return measure_peak(setting.dtype, threads=setting.threads, backend=setting.device)
    except RuntimeError as error:
        log.warning("peak and bandwidth could not be measured, so the best calls stand in: %s", first_line(error))
        return []


def time_network(network: Network, setting: Setting) -> float:
    """Seconds of a forward of one patch, in a fresh process, as `bench run` measures it.

    A process of its own is necessary: in a process that had timed two thousand operators before, one network took a
    third less than in a fresh one, twice over.

    Raises:
        MemoryError: the system ended the process, or it had too little memory.
        RuntimeError: it failed otherwise.
    """
    job = Job(
        model=network.spec,
        workload=rec.Workload(
            spatial=network.spatial, dtype=setting.dtype, threads=setting.threads, protocol=_NETWORK_PROTOCOL
        ),
        backend=setting.device,
        folder=network.folder,
        trusted=classes.may_import(network.spec.arch),
    )
    request = {"task": "measure", "jobs": [rec.to_json(job)]}
    seconds = math.nan
    for event in run_worker(request, limit_s=math.inf, threads=setting.threads):
        if isinstance(event, WorkerFailure):
            raise (MemoryError if event.status == "oom" else RuntimeError)(event.error)
        if event["event"] == "measurement" and event["measurement"]["metric"] == "latency_s":
            seconds = event["measurement"]["value"]
        elif event["event"] in ("end", "refused") and event["status"] not in ("ok", "unstable"):
            raise (MemoryError if event["status"] == "oom" else RuntimeError)(event["error"])
    return seconds


def checked(journal: CalibrationJournal) -> tuple[latency_model.Efficiency, latency_model.CrossValidation]:
    """What a journal's times say of the device, and how far forecasts from them are off.

    Raises:
        UsageError: too little was timed.
    """
    timed = {key: (journal.costs[key], min(times)) for key, times in journal.calls().items()}
    networks = {name: journal.costs_of(name) for name in journal.networks}
    peak, bandwidth = (max(journal.known.get(metric, [0.0])) for metric in (_PEAK, _BANDWIDTH))
    try:
        roofs = latency_model.roofs_of(list(timed.values()), peak, bandwidth)
        model = latency_model.Efficiency.learn(list(timed.values()), roofs)
        return model, latency_model.check(networks, timed, journal.measured(), roofs)
    except ValueError as error:
        room = f", and free memory ({len(journal.no_room)} did not fit)" if journal.no_room else ""
        failed = [journal.failed[key] for key in journal.network_keys.values() if key in journal.failed]
        why = f"; {len(failed)} could not be timed, the first since: {failed[0]}" if failed else ""
        raise UsageError(f"{error}: give more --time{room}, the same command goes on{why}") from error


def fit(journal: CalibrationJournal, setting: Setting, around: Mapping[str, Any], name: str) -> Profile:
    """The profile of a journal's times.

    Raises:
        UsageError: too little was timed.
    """
    learned, check = checked(journal)
    times = journal.calls().values()
    repeated = [seconds for seconds in times if len(seconds) > 1]
    count = setting.threads or torch.get_num_threads()
    processor = str(around["gpu"] if setting.device == "cuda" else around["cpu"])
    core = f"{count} thread{'s' * (count != 1)}" if setting.device == "cpu" else "CUDA"
    triad = "triad on arrays larger than caches" if _BANDWIDTH in journal.known else "the best call, caches count"
    exact = ", TF32 off" if setting.device == "cuda" else ""
    source = f"bench calibrate: the best product, convolution or call, {core}, {setting.dtype}{exact}"
    memory = around["gpu_memory_bytes"] if setting.device == "cuda" else around["memory_bytes"]
    return Profile(
        name=name,
        title=f"{processor}, {core}, {setting.dtype}",
        kind="cpu" if setting.device == "cpu" else "gpu",
        core=core,
        memory_bytes=memory,
        bandwidth_bytes_per_s=learned.roofs.bytes_per_s,
        peaks={setting.dtype: 2 * learned.roofs.macs_per_s},
        reserve_bytes=0,
        sources={
            setting.dtype: source,
            "bandwidth_bytes_per_s": f"bench calibrate: {triad}, {core}, {setting.dtype}",
            "reserve_bytes": "nothing: what else runs there is not known",
            **({"memory_bytes": "of that machine"} if memory else {}),
        },
        calibration=Calibration(
            dtype=setting.dtype,
            runtime=setting.runtime,
            threads=count,
            processor=processor,
            versions={package: str(around[package]) for package in ("torch", "monai", "benchbench")},
            when=utc_now("seconds"),
            seconds=round(sum(journal.known[_SITTING]), 1),
            calls=len(times),
            failed=len(journal.failed),
            without_room=len(journal.no_room),
            disturbed=sum(max(times) > _DISTURBED * min(times) for times in repeated),
            repeated=len(repeated),
            scale=check.scale,
            interval=check.interval,
            held=check.held,
            error=check.error,
            ratios=check.ratios,
            measured=journal.measured(),
            launch_s=learned.roofs.launch_s,
            points={
                work: tuple(tuple(round(number, _DIGITS) for number in (*where, factor)) for where, factor in calls)
                for work, calls in learned.points.items()
            },
        ),
    )
