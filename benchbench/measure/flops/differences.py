"""Differences between a counter and the headline, explained module by module.

Each reason is a hypothesis that is tested on the numbers of every module which it is given for, such as
"counted over the output volume" (is the count the true one times output voxels over input voxels?).
Where none holds, the factor alone is given. The differences of a counter add up to its total minus
the headline; what they leave open is a row of its own.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from benchbench.core.audit_result import Difference
from benchbench.measure.flops.counters import CountedPart, Facts, Family, Tally


@dataclasses.dataclass(frozen=True, slots=True)
class _Unit:
    """One module and family in which a counter is off."""

    module: str
    family: Family
    operator: str
    counted: int
    true: int


def differences(truth: Tally, facts: Facts, tally: Tally) -> list[Difference]:
    """What makes up a counter's difference to the headline, the largest first."""
    groups: dict[tuple[str, str], list[_Unit]] = {}
    for unit in _units(truth.parts, tally.parts, tally, facts):
        groups.setdefault((_kind(unit, facts), unit.operator), []).append(unit)
    rows = [
        Difference(
            counter=tally.counter,
            kind=kind,
            operator=operator,
            counted=sum(u.counted for u in units),
            true=sum(u.true for u in units),
            modules=len({u.module for u in units}),
            why=_why(units, facts, tally),
        )
        for (kind, operator), units in groups.items()
    ]
    rows += _shared(tally)
    rows += _divided(tally)
    assert truth.macs is not None
    assert tally.macs is not None
    rest = tally.macs - truth.macs - sum(row.counted - row.true for row in rows)
    if abs(rest) > max(tally.batch, len(tally.parts)):  # rounding of single counts is not worth a row
        rows.append(
            Difference(
                counter=tally.counter, kind="unexplained", operator="-", counted=max(rest, 0), true=max(-rest, 0),
                modules=0, why="the differences above do not add up to the total",
            )
        )  # fmt: skip
    return sorted(rows, key=lambda row: -abs(row.counted - row.true))


def _units(true: Iterable[CountedPart], counted: Iterable[CountedPart], tally: Tally, facts: Facts) -> list[_Unit]:
    truth: dict[tuple[str, Family], list[CountedPart]] = {}
    for part in true:
        truth.setdefault((part.module, part.family), []).append(part)
    counts: dict[tuple[str, Family], list[CountedPart]] = {}
    for part in counted:
        family = part.family
        if family == "conv" and (part.module, family) not in truth and (part.module, "transposed_conv") in truth:
            family = "transposed_conv"  # fvcore has one name for both
        counts.setdefault((part.module, family), []).append(part)
    units = []
    for module, family in dict.fromkeys([*counts, *truth]):
        here, there = counts.get((module, family), []), truth.get((module, family), [])
        c, t = sum(p.macs for p in here), sum(p.macs for p in there)
        if family == "elementwise":  # each operator of it by itself: none of them multiplies and accumulates
            units += [_Unit(module, family, p.operator, p.macs, 0) for p in here if p.macs]
        elif c != t:
            missing = [o for o in tally.unknown.get(module, ()) if "attention" in o]
            names = missing or [p.operator for p in (here or there)]
            if not here and _is_layer(facts.classes.get(module)):
                names = [facts.classes[module].__name__]
            units.append(_Unit(module, family, "+".join(dict.fromkeys(names)), c, t))
    return units


def _is_layer(kind: type[nn.Module] | None) -> bool:
    return kind is not None and kind.__module__.startswith("torch.nn.")


_ELEMENTWISE = {
    "norm": "normalisations",
    "softmax": "softmax",
    "pool": "poolings",
    "upsampl": "interpolations",
    "elu": "activations",
    "sigmoid": "activations",
}
_LAYERS: Mapping[Family, str] = {"conv": "convolutions", "transposed_conv": "transposed convolutions"}


def _kind(unit: _Unit, facts: Facts) -> str:
    name = unit.operator.lower()
    if unit.family == "elementwise":
        return next((kind for sign, kind in _ELEMENTWISE.items() if sign in name), "other layers")
    if unit.family in _LAYERS:
        return _LAYERS[unit.family]
    if unit.module in facts.attending or "attention" in name:
        return "attention"
    return "linear layers" if "linear" in name else "matrix products"


def _why(units: list[_Unit], facts: Facts, tally: Tally) -> str:
    classes = {facts.classes[u.module] for u in units if u.module in facts.classes}
    if all(u.true == 0 for u in units):
        return _per_element(units, facts)
    if all(u.counted == 0 for u in units):
        if classes & {facts.classes.get(p.module) for p in tally.parts}:
            return "not counted: its result does not reach the output, so the trace drops it"
        if classes and all(map(_is_layer, classes)):
            return f"not counted: no rule for {', '.join(sorted(c.__name__ for c in classes))}"
        return "not counted: computed in a forward, not by a layer that there is a rule for"
    volumes = [facts.volumes.get(u.module) for u in units]
    if all(volumes):
        ratios = [v[1] / v[0] for v in volumes if v]
        over = [u.counted - u.true * r for u, r in zip(units, ratios, strict=True)]
        bias = [facts.elements.get(u.module, 0) for u in units]
        if all(abs(o) < 1 or abs(o - b) < 1 for o, b in zip(over, bias, strict=True)):
            span = _span(ratios)
            more = ", and one more for each output element (the bias)" if any(o >= 1 for o in over) else ""
            return f"counted over the output volume, which has {span} the input's voxels{more}"
    if all(u.counted - u.true == facts.elements.get(u.module) for u in units):
        return "one more for each output element (the bias)"
    if all(u.counted - u.true == facts.biases.get(u.module) for u in units):
        return "one more for each element of the bias, once a call"
    if any("attention" in o for u in units for o in tally.unknown.get(u.module, ())):
        return f"no rule for {units[0].operator}"
    factor = sum(u.counted for u in units) / sum(u.true for u in units)
    if all("einsum" in u.operator for u in units) and abs(factor - 1) < 1e-2:
        return "read from a printed report that is rounded to four digits"
    if all("Attention" in c.__name__ for c in classes) and factor > 1:
        return "also biases, scaling and softmax, counted as multiply-accumulates"
    return f"counted {factor:.3g}x"


def _per_element(units: list[_Unit], facts: Facts) -> str:
    shares = [u.counted / facts.elements[u.module] for u in units if facts.elements.get(u.module)]
    if shares and len(shares) == len(units):
        return f"{_span(shares, times='')} per output element counted; multiplies and accumulates nothing"
    return "operations counted that multiply and accumulate nothing"


def _span(values: Sequence[float], times: str = "x") -> str:
    low, high = f"{min(values):.3g}{times}", f"{max(values):.3g}{times}"
    return low if low == high else f"{low} to {high}"


def _shared(tally: Tally) -> list[Difference]:
    if not tally.repeats:
        return []
    why = f"reached by several paths and counted {_span([r.times for r in tally.repeats])}"
    if tally.counter.startswith("thop"):
        why += ": every path adds its hook, and every path adds the sum"
    tops = list(dict.fromkeys(r.module.partition(".")[0] for r in tally.repeats))
    return [
        Difference(
            counter=tally.counter,
            kind="shared modules",
            operator=", ".join(tops[:3]) + (f" and {len(tops) - 3} more" if len(tops) > 3 else ""),
            counted=sum(r.once * r.times for r in tally.repeats),
            true=sum(r.once for r in tally.repeats),
            modules=len(tally.repeats),
            why=why,
        )
    ]


def _divided(tally: Tally) -> list[Difference]:
    if tally.batch == 1 or tally.macs is None:
        return []
    whole = sum(p.macs for p in tally.parts) + sum(r.once * (r.times - 1) for r in tally.repeats)
    return [
        Difference(
            counter=tally.counter, kind="divided by the batch", operator="-", counted=tally.macs, true=whole, modules=0,
            why=f"reports one of the batch of {tally.batch}",
        )
    ]  # fmt: skip


def parameters(module: nn.Module, tally: Tally, facts: Facts | None) -> str:
    """Why a counter's number of parameters is not the true one; empty where it is."""
    true = sum(p.numel() for p in module.parameters())
    if tally.params is None or tally.params == true:
        return ""
    if tally.held is None:
        return f"{tally.params - true:+,}"
    counted = {id(p) for name in tally.held for p in module.get_submodule(name).parameters()}
    missing: collections.Counter[str] = collections.Counter()
    for name, part in module.named_modules():
        why = "without a rule" if facts is None or name in facts.elements else "that are never called"
        what = f"parameters of {type(part).__name__} layers {why}" if _is_layer(type(part)) else "bare parameters"
        for parameter in part.parameters(recurse=False):
            if id(parameter) not in counted:
                counted.add(id(parameter))  # a shared one once
                missing[what] += parameter.numel()
    reasons = [f"{n:,} {what} left out" for what, n in missing.most_common()]
    extra = tally.params - true + sum(missing.values())
    if extra:
        reasons.append(f"{extra:,} counted again in shared modules")
    return ", ".join(reasons)
