"""Layer table of one network: where its MACs and parameters are.

The file (artifact kind `layers`) lists every module that owns an operator or a parameter. The page
shows the heaviest, and folds the rest into one line, so that the shares always add up to one.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from benchbench.core.config import parse_json
from benchbench.core.errors import StoreError

TOP = 12


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LayerShare:
    """One module, or the rest of them."""

    module: str
    kind: str
    params: int
    macs: int
    params_share: float
    macs_share: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Breakdown:
    """The heaviest modules, and the MACs by kind of operator."""

    layers: tuple[LayerShare, ...]
    kinds: tuple[tuple[str, float], ...]  # (kind, share of the MACs), largest first
    parts: tuple[tuple[str, float, float], ...]  # (part of the network, share of the MACs, of the params)
    params: int
    macs: int


def breakdown(content: bytes, *, top: int = TOP) -> Breakdown:
    """Read a layer table.

    Args:
        content: JSON, `{"modules": [{"module", "kind", "params", "macs"}, ...]}`.
        top: how many modules by MACs, and as many by parameters, have a line of their own.

    Raises:
        StoreError: the file is not such a table.
    """
    try:
        data = parse_json(content, "the layer table", StoreError)
        modules = [(str(m["module"]), str(m["kind"]), _count(m["params"]), _count(m["macs"])) for m in data["modules"]]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"the layer table cannot be read ({type(error).__name__}: {error})") from error
    params, macs = sum(m[2] for m in modules), sum(m[3] for m in modules)

    def layer(name: str, kind: str, own_params: int, own_macs: int) -> LayerShare:
        return LayerShare(
            module=name,
            kind=kind,
            params=own_params,
            macs=own_macs,
            params_share=own_params / params if params else 0.0,
            macs_share=own_macs / macs if macs else 0.0,
        )

    heavy = _heaviest(modules, 3, top) | _heaviest(modules, 2, top // 2)
    shown = sorted((m for i, m in enumerate(modules) if i in heavy), key=lambda m: (-m[3], -m[2], m[0]))
    rest = [m for i, m in enumerate(modules) if i not in heavy]
    layers = [layer(*m) for m in shown]
    if rest:
        layers.append(layer(f"{len(rest)} others", "", sum(m[2] for m in rest), sum(m[3] for m in rest)))
    kinds: dict[str, int] = {}
    for _, kind, _, own in modules:
        kinds[kind] = kinds.get(kind, 0) + own
    by_kind = sorted(((k, v / macs) for k, v in kinds.items() if v), key=lambda p: (-p[1], p[0])) if macs else []
    parts = _parts(modules, params, macs)
    return Breakdown(layers=tuple(layers), kinds=tuple(by_kind), parts=parts, params=params, macs=macs)


def _parts(modules: list[tuple[str, str, int, int]], params: int, macs: int) -> tuple[tuple[str, float, float], ...]:
    """The modules summed by the first name that tells them apart: `encoder`, `decoder`, heaviest first."""
    names = [name.split(".") for name, *_ in modules]
    while names and all(len(n) > 1 and n[0] == names[0][0] for n in names):  # a wrapper around all of it
        names = [n[1:] for n in names]
    sums: dict[str, tuple[int, int]] = {}
    for (first, *_), (_, _, own_params, own_macs) in zip(names, modules, strict=True):
        before = sums.get(first, (0, 0))
        sums[first] = (before[0] + own_macs, before[1] + own_params)
    ordered = sorted(sums.items(), key=lambda item: (-item[1][0], -item[1][1], item[0]))
    return tuple((part, m / macs if macs else 0.0, p / params if params else 0.0) for part, (m, p) in ordered)


def _heaviest(modules: list[tuple[str, str, int, int]], field: Literal[2, 3], top: int) -> set[int]:
    """Indices of the `top` modules by one field of theirs, those with nothing left out."""
    weights = {i: m[field] for i, m in enumerate(modules)}
    return {i for i in sorted(weights, key=lambda i: (-weights[i], i))[:top] if weights[i]}


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"{value!r} is not a count")
    return value
