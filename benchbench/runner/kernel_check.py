"""Kernel checks of the doctor: torch, the GPU and its kernels, from the parent's side.

The child launches one kernel after the other. Where it dies, the kernel that it had announced is the
finding, and a new child goes on behind it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchbench.core import records as rec
from benchbench.core.units import format_value
from benchbench.devices import cpu, jetson
from benchbench.runner import child_process
from benchbench.runner.findings import Backend, Finding
from benchbench.runner.job import Job
from benchbench.runner.kernel_trials import MAKERS, TOLERANCE, Trial
from benchbench.zoo import cards as zoo_cards

_LIMIT_S = 240.0  # of one child; a small board takes half a minute to import torch, and cuDNN starts slowly
_GIVE_UP = 3  # children lost before the trials that are left are not tried
COUNT_LIMIT_S = 30.0  # of counting the zoo; a board gets through a part of it


@dataclasses.dataclass(slots=True)
class _TriedKernels:
    """What the children have said."""

    torch: Mapping[str, Any] | None = None
    gpu: Mapping[str, Any] | None = None
    errors: dict[Trial, float | None] = dataclasses.field(default_factory=dict)  # launched
    broken: dict[Trial, str] = dataclasses.field(default_factory=dict)  # raised, or took its process along
    end: str | None = None  # why nothing could be tried at all


def examine(root: Path, board: jetson.TegraBoard | None, backend: Backend | None) -> Iterator[Finding]:
    """Launch the kernels, and say what of torch, GPU and memory this shows.

    Args:
        root: where /proc is looked for.
        board: the Jetson that this machine is.
        backend: the one that must work; None: the CPU, and the GPU where there is one.
    """
    backends = [backend] if backend else ["cpu", "cuda"]
    trials = [(b, kind, dtype) for b in backends for dtype in TOLERANCE for kind in MAKERS]
    seen = try_kernels(trials)
    if seen.torch is None:
        yield Finding(
            "torch starts", "fail", f"it does not: {seen.end}", "install a torch that is built for this processor"
        )
        return
    if seen.end:
        yield Finding("gpu", "fail", f"looking for it, {seen.end}", "check the driver: 'nvidia-smi', or 'dmesg'")
    if seen.gpu is not None:
        yield from _gpu(seen, board, needed=backend == "cuda" or board is not None)
    for b in backends:
        if b == "cpu" or (seen.gpu and seen.gpu["why"] is None):
            for dtype in TOLERANCE:
                yield from _kernels(seen, b, dtype)
    yield from _fits(root, seen, board, backend)


def try_kernels(trials: Sequence[Trial], *, limit_s: float = _LIMIT_S) -> _TriedKernels:
    """Launch each in a child process, in a new one after each that dies.

    Args:
        trials: (backend, kind, dtype) each.
        limit_s: for one child; what it was at then counts as broken.
    """
    seen = _TriedKernels()
    left = list(trials)
    lost = 0
    while left:
        begun: Trial | str | None = None
        death: child_process.WorkerFailure | None = None
        for event in child_process.run_worker({"task": "kernels", "trials": left}, limit_s=limit_s):
            if isinstance(event, child_process.WorkerFailure):
                death = event
            elif event["event"] == "begin":
                begun = tuple(event["trial"]) if "trial" in event else event["what"]
            elif event["event"] == "torch":
                seen.torch = event
            elif event["event"] == "gpu":
                seen.gpu, begun = event, None
            elif event["event"] == "result":
                seen.errors[tuple(event["trial"])], begun = event["error"], None
            elif event["event"] == "raised":
                seen.broken[tuple(event["trial"])], begun = event["error"], None
        why = _why(death, limit_s) if death else "its process ended without a word"
        if isinstance(begun, tuple):
            seen.broken[begun] = why
        elif begun == "gpu":  # whoever asks for it again loses that process, too
            seen.end = why
            left = [t for t in left if t[0] != "cuda"]
        elif death and seen.torch is None:
            seen.end = why
            break
        gone = not seen.gpu or seen.gpu["why"] is not None
        left = [t for t in left if t not in seen.errors and t not in seen.broken and not (t[0] == "cuda" and gone)]
        lost += 1
        if lost > _GIVE_UP:
            seen.broken |= dict.fromkeys(left, f"not tried after {lost} processes were lost")
            break
    return seen


def _why(death: child_process.WorkerFailure, limit_s: float) -> str:
    return f"it was not done after {limit_s:.0f} s" if death.status == "timeout" else death.error


def _gpu(seen: _TriedKernels, board: jetson.TegraBoard | None, *, needed: bool) -> Iterator[Finding]:
    assert seen.gpu is not None
    assert seen.torch is not None
    gpu, build = seen.gpu, seen.torch["cuda"]
    if gpu["why"]:
        why, _, remedy = gpu["why"].removeprefix("cuda asked for and absent: ").partition("; ")
        if needed:
            yield Finding("gpu", "fail", why, "install the torch that is built for this JetPack" if board else remedy)
        else:
            yield Finding("gpu", "ok", f"none, so --device cpu alone is measured here: {why}")
        return
    major, minor = gpu["capability"]
    yield Finding("gpu", "ok", f"{gpu['name']}, compute capability {major}.{minor}, torch built for CUDA {build}")
    yield architecture((major, minor), gpu["arches"], tegra=board is not None)
    free, total = gpu["free_bytes"], gpu["total_bytes"]
    text = f"{format_value(free, 'B')} of {format_value(total, 'B')} free"
    if free < total * 0.8 and board is None:
        yield Finding("gpu memory", "warn", text, "see 'nvidia-smi' for who has it; other work is in the timings")
    else:
        yield Finding("gpu memory", "ok", text)
    energy = gpu.get("energy") or {}
    if energy.get("why"):
        yield Finding("gpu energy", "warn", f"its rows have none: {energy['why']}")
    elif energy:
        yield Finding("gpu energy", "ok", energy["what"])


def architecture(capability: tuple[int, int], arches: Sequence[str], *, tegra: bool) -> Finding:
    """Whether torch's build has code for a GPU.

    Args:
        capability: of the GPU, (8, 7).
        arches: `torch.cuda.get_arch_list()`, such as sm_80, sm_90a, compute_90.
        tegra: a Tegra runs no code for a desktop GPU of its family.
            Source: CUDA C++ Programming Guide, "Binary Compatibility".
    """
    major, minor = capability
    own = f"sm_{major}{minor}"
    listed = ", ".join(arches) or "none"
    if own in arches or f"{own}a" in arches:
        return Finding("gpu architecture", "ok", f"{own} is in torch's build ({listed})")
    numbers = {a: int(a.split("_")[1]) for a in arches if a.split("_")[-1].isdigit()}
    related = [a for a, n in numbers.items() if a.startswith("sm_") and n // 10 == major and n % 10 <= minor]
    portable = [a for a, n in numbers.items() if a.startswith("compute_") and n <= major * 10 + minor]
    if related and not tegra:
        return Finding("gpu architecture", "ok", f"{own} runs the code for {max(related, key=numbers.__getitem__)}")
    advice = "install a torch that is built for it" + (", as NVIDIA's for this JetPack is" if tegra else "")
    if portable:
        newest = max(portable, key=numbers.__getitem__)
        text = f"{own} is not in torch's build; the driver compiles {newest} for it, so the first forward is slow"
        return Finding("gpu architecture", "warn", text, advice)
    return Finding("gpu architecture", "warn", f"{own} is not in torch's build ({listed}); see the kernels", advice)


def _kernels(seen: _TriedKernels, backend: str, dtype: str) -> Iterator[Finding]:
    """One finding for the sound ones, one for each that is not."""
    # fp32 is what is measured unless another type is asked for, so only there a fault stands in the way.
    bad = "fail" if dtype == "fp32" else "warn"
    name = f"{backend} {dtype} kernels"
    sound, worst = [], 0.0
    for (b, kind, d), error in seen.errors.items():
        if (b, d) != (backend, dtype):
            continue
        if error is not None and error <= TOLERANCE[dtype]:
            sound.append(kind)
            worst = max(worst, error)
            continue
        text = f"{kind}: its result is not finite"
        if error is not None:
            text = f"{kind}: its result is off the float64 one by {error:.1e} (limit {TOLERANCE[dtype]:.0e})"
        yield Finding(name, bad, text, _advice(backend, dtype, wrong=True))  # type: ignore[arg-type]
    grouped: dict[str, list[str]] = {}
    for (b, kind, d), why in seen.broken.items():
        if (b, d) == (backend, dtype):
            grouped.setdefault(why, []).append(kind)
    for why, kinds in grouped.items():
        yield Finding(name, bad, f"{', '.join(kinds)}: {why}", _advice(backend, dtype, wrong=False))  # type: ignore[arg-type]
    if sound:
        which = f"all {len(sound)}" if len(sound) == len(MAKERS) else f"{', '.join(sound)}:"
        yield Finding(name, "ok", f"{which} launched and right, at most {worst:.0e} off float64")


def _advice(backend: str, dtype: str, *, wrong: bool) -> str:
    if dtype != "fp32":
        return f"on this {backend}, measure without --dtype {dtype}"
    if wrong:
        return f"nothing that this torch computes on {backend} can be trusted: install another build"
    return f"install a torch that is built for this {'GPU' if backend == 'cuda' else 'processor'}"


def _fits(
    root: Path, seen: _TriedKernels, board: jetson.TegraBoard | None, backend: Backend | None
) -> Iterator[Finding]:
    """Which networks of the zoo fit into what is free now, as far as they can be counted in a moment."""
    counted: dict[str, int] = {}
    why = None
    cards = [zoo_cards.get_card(name) for name in zoo_cards.list_models()]
    jobs = [rec.to_json(Job(model=c.spec(), workload=rec.Workload(spatial=c.spatial))) for c in cards]
    for event in child_process.run_worker({"task": "plan", "jobs": jobs}, limit_s=COUNT_LIMIT_S):
        if isinstance(event, child_process.WorkerFailure):
            why = _why(event, COUNT_LIMIT_S)
        elif event["event"] == "refused":
            why = event["error"]
        elif event["event"] == "cost":
            found = [rec.from_json(rec.Measurement, m) for m in event["measurements"]]
            needed = next((m.value for m in found if m.metric == "tensor_memory_bytes"), None)
            if needed:
                counted[cards[event["index"]].name] = int(needed)
    if not counted:
        yield Finding("counting", "fail", f"no network can be counted: {why}", "see the findings above")
        return
    places = {"memory": cpu.available_memory_bytes(root)}
    if seen.gpu and seen.gpu["why"] is None and backend != "cpu" and board is None:
        places["gpu memory"] = seen.gpu["free_bytes"]
    for place, free in places.items():
        yield fits(place, free, counted, len(cards))


def fits(place: str, free_bytes: int, needed_bytes: Mapping[str, int], zoo_size: int) -> Finding:
    """Which networks fit.

    Args:
        place: `memory` or `gpu memory`.
        free_bytes: there.
        needed_bytes: network -> the least that its tensors take, at its card's own size.
        zoo_size: networks that there are; the others were not counted in time.
    """
    largest = sorted(needed_bytes, key=lambda name: -needed_bytes[name])
    too_large = [name for name in largest if needed_bytes[name] > free_bytes]
    which = f"all {zoo_size} networks" if len(largest) == zoo_size else f"the {len(largest)} networks counted so far"
    room = f"{format_value(free_bytes, 'B')} free; tensors alone, each at its card's size"
    if not too_large:
        most = f"{largest[0]} takes most, {format_value(needed_bytes[largest[0]], 'B')}"
        return Finding(f"fits {place}", "ok", f"{which}: {most} of {room}")
    names = ", ".join(f"{name} ({format_value(needed_bytes[name], 'B')})" for name in too_large)
    text = f"{len(largest) - len(too_large)} of {which}, not {names}: {room}"
    return Finding(f"fits {place}", "warn", text, "close other programs, or take a smaller --spatial for these")
